//! `cargo xtask conformance`: ONNX's official test cases of every operator, run by the engine.
//!
//! The cases come from the package `onnx`, pinned in xtask/conformance/requirements.lock. What does not pass today is
//! listed in xtask/conformance/expected.toml, each case with its reason, and any difference from that list is an error:
//! a case that no longer passes, and one that now does. `--bless` writes the list anew, and with it
//! tests/fixtures/conformance.zip, all small cases that pass, which the tests run without Python. `--random` is about
//! combinations of operators instead.

mod case;
mod expected;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

pub use case::{Case, Outcome, Passes};
pub use expected::Expected;
pub use random::{failure, random};

use crate::python;

/// What to run.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// Only cases of these operators.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub operator: Vec<String>,
    /// Also print every case that fails, and why.
    #[arg(long)]
    pub failures: bool,
    /// Write down what passes today, and what does not.
    #[arg(long, conflicts_with = "operator")]
    pub bless: bool,
    /// Run this many random graphs instead, with ONNX Runtime's answers.
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["operator", "failures"])]
    pub random: Option<usize>,
    /// The seed of the first random graph.
    #[arg(long, default_value_t = 0, requires = "random")]
    pub seed: u64,
}

/// Bytes of a case that is committed; larger ones show the same with more elements.
const MAX_COMMITTED: usize = 4096;

/// Runs the cases and prints the table.
///
/// # Errors
///
/// When the cases cannot be had, or when other cases pass than those that are written down.
pub fn main(options: &Options) -> Result<()> {
    if let Some(count) = options.random {
        return random::main(count, options.seed, options.bless);
    }
    let mut cases = read_all(&folder()?)?;
    if !options.operator.is_empty() {
        cases.retain(|case| options.operator.iter().any(|name| case.is_of(name)));
        if cases.is_empty() {
            bail!("there is no case of {}", options.operator.join(", "));
        }
    }
    let outcomes = run_all(&cases)?;
    print_table(&cases, &outcomes, options.failures)?;
    if options.bless {
        return bless(&cases, &outcomes);
    }
    let expected = Expected::read(&expected_path())?;
    let differences = expected.differences(&outcomes);
    if !differences.is_empty() {
        bail!(
            "not as xtask/conformance/expected.toml says; if it should be, --bless\n{}",
            differences.join("\n")
        );
    }
    Ok(())
}

/// The committed cases, all of which pass.
///
/// # Errors
///
/// When the archive cannot be read.
pub fn committed() -> Result<Vec<Case>> {
    let path = archive_path();
    case::unpack(&std::fs::read(&path).with_context(|| format!("could not read {}", path.display()))?)
}

/// Cases whose outputs are ONNX Runtime's: its contrib operators and what ONNX has few cases of. They were made by
/// xtask/fixtures/contrib_cases.py.
///
/// # Errors
///
/// When a case cannot be read.
pub fn contrib() -> Result<Vec<Case>> {
    read_all(&crate::root().join("tests/fixtures/contrib"))
}

fn archive_path() -> PathBuf {
    crate::root().join("tests/fixtures/conformance.zip")
}

/// What is known not to pass.
pub fn expected_path() -> PathBuf {
    crate::root().join("xtask/conformance/expected.toml")
}

/// The folder with a folder per case, made on first use and again whenever what makes it has changed.
fn folder() -> Result<PathBuf> {
    let scripts = crate::root().join("xtask/conformance");
    let requirements = scripts.join("requirements.lock");
    let script = scripts.join("cases.py");
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
    };
    let wanted = read(&requirements)? + &read(&script)?;
    let folder = crate::root().join("target/conformance");
    let stamp = crate::root().join("target/conformance.made");
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) && folder.is_dir() {
        return Ok(folder);
    }
    let python = python::environment("conformance", &requirements)?;
    python::run(Command::new(python).arg(&script).arg("--out").arg(&folder))?;
    std::fs::write(&stamp, wanted).with_context(|| format!("could not write {}", stamp.display()))?;
    Ok(folder)
}

fn read_all(folder: &Path) -> Result<Vec<Case>> {
    let unreadable = || format!("could not read {}", folder.display());
    let entries = folder.read_dir().with_context(unreadable)?;
    let mut paths =
        entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>().with_context(unreadable)?;
    paths.sort();
    paths.iter().map(|path| Case::read(path)).collect()
}

/// What comes of each case, by its name.
///
/// # Errors
///
/// When the files of a case cannot be laid out. A case that fails is an outcome.
pub fn run_all(cases: &[Case]) -> Result<BTreeMap<String, Outcome>> {
    let scratch = tempfile::tempdir().context("could not make a folder for the cases")?;
    let run = |case: &Case| Ok((case.name.clone(), case.run(&scratch.path().join(&case.name))?));
    cases.iter().map(run).collect()
}

fn bless(cases: &[Case], outcomes: &BTreeMap<String, Outcome>) -> Result<()> {
    let is_committed = |case: &&Case| outcomes[&case.name] == Outcome::Passed && case.size() < MAX_COMMITTED;
    let committed: Vec<&Case> = cases.iter().filter(is_committed).collect();
    let path = archive_path();
    std::fs::write(&path, case::pack(&committed)?)
        .with_context(|| format!("could not write {}", path.display()))?;
    Expected::of(outcomes).write(&expected_path())
}

/// Cases of one operator, by outcome.
#[derive(Clone, Copy, Default)]
struct Counts {
    passed: usize,
    refused: usize,
    wrong: usize,
    unsupported: usize,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        *match outcome {
            Outcome::Passed => &mut self.passed,
            Outcome::Refused(_) => &mut self.refused,
            Outcome::Wrong(_) => &mut self.wrong,
            Outcome::Unsupported(_) => &mut self.unsupported,
        } += 1;
    }
}

fn print_table(cases: &[Case], outcomes: &BTreeMap<String, Outcome>, has_failures: bool) -> Result<()> {
    let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
    let mut total = Counts::default();
    for case in cases {
        counts.entry(&case.operator).or_default().add(&outcomes[&case.name]);
        total.add(&outcomes[&case.name]);
    }
    let mut out = std::io::stdout().lock();
    let mut unsupported = BTreeSet::new();
    writeln!(
        out,
        "{:<44} {:>7} {:>7} {:>7} {:>11}",
        "operator", "passed", "refused", "wrong", "unsupported"
    )?;
    for (operator, counts) in counts.into_iter().chain([("total", total)]) {
        let Counts { passed, refused, wrong, unsupported: others } = counts;
        if passed + refused + wrong == 0 && operator != "total" {
            unsupported.insert(operator);
            continue;
        }
        writeln!(out, "{operator:<44} {passed:>7} {refused:>7} {wrong:>7} {others:>11}")?;
    }
    if !unsupported.is_empty() {
        let names: Vec<&str> = unsupported.into_iter().filter(|name| !name.contains(' ')).collect();
        writeln!(out, "not supported at all: {}", names.join(", "))?;
    }
    for (case, outcome) in outcomes.iter().filter(|_| has_failures) {
        match outcome {
            Outcome::Refused(why) => writeln!(out, "{case}: refused: {why}")?,
            Outcome::Wrong(why) => writeln!(out, "{case}: wrong: {why}")?,
            Outcome::Passed | Outcome::Unsupported(_) => {}
        }
    }
    Ok(())
}
