//! Random graphs, with what ONNX Runtime computes from them: `cargo xtask conformance --random COUNT --seed SEED`.
//!
//! xtask/fixtures/random_graphs.py writes them. Each runs as it was written, as every session runs it, and fused; where one
//! of these is not ONNX Runtime's answer, the graph is made smaller while it still fails, and kept in target/random/failed.
//! `--bless` writes tests/fixtures/random.zip, which the tests run without Python.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::case::{self, Case, Outcome, Passes};
use super::read_all;
use crate::python;

/// Rounds of making a graph smaller.
const MAX_ROUNDS: usize = 12;

/// Makes random graphs and runs them.
pub(super) fn main(count: usize, seed: u64, is_blessed: bool) -> Result<()> {
    let graphs = RandomGraphs::new()?;
    let folder = graphs.folder.join("cases");
    python::run(graphs.command(&folder).args(["--count", &count.to_string(), "--seed", &seed.to_string()]))?;
    let cases = read_all(&folder)?;
    let failed = graphs.folder.join("failed");
    remove(&failed)?;
    let mut failures = 0;
    for case in &cases {
        let Some((passes, outcome)) = failure(case)? else {
            continue;
        };
        failures += 1;
        let whole = failed.join(&case.name);
        copy(&folder.join(&case.name), &whole)?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}: passes {passes:?}: {}", case.name, words(&outcome))?;
        let small = failed.join(format!("{}-small", case.name));
        if let Some((passes, outcome)) = graphs.shrink(&whole, &small, passes)? {
            writeln!(out, "  {}: passes {passes:?}: {}", small.display(), words(&outcome))?;
        }
    }
    if failures > 0 {
        bail!(
            "{failures} of {} graphs are not as ONNX Runtime computes them: {}",
            cases.len(),
            failed.display()
        );
    }
    if is_blessed {
        bless(&cases, &folder.with_extension("json"))?;
    }
    Ok(())
}

/// The committed random graphs, and small ones for each defect that some have found: tests/fixtures/random.
///
/// # Errors
///
/// When they cannot be read.
pub fn random() -> Result<Vec<Case>> {
    let path = archive_path();
    let archive = std::fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
    let mut cases = case::unpack(&archive)?;
    cases.extend(read_all(&path.with_extension(""))?);
    Ok(cases)
}

fn archive_path() -> PathBuf {
    crate::root().join("tests/fixtures/random.zip")
}

fn bless(cases: &[Case], manifest: &Path) -> Result<()> {
    let path = archive_path();
    let cases: Vec<&Case> = cases.iter().collect();
    std::fs::write(&path, case::pack(&cases)?)
        .with_context(|| format!("could not write {}", path.display()))?;
    let to = path.with_extension("json");
    std::fs::copy(manifest, &to).with_context(|| format!("could not write {}", to.display()))?;
    Ok(())
}

/// The first outcome of a case that is not ONNX Runtime's, and after which passes.
///
/// # Errors
///
/// When the case's files cannot be laid out.
pub fn failure(case: &Case) -> Result<Option<(Passes, Outcome)>> {
    let scratch = tempfile::tempdir().context("could not make a folder for a case")?;
    for passes in Passes::ALL {
        let outcome = case.run_after(passes, &scratch.path().join(&case.name))?;
        if outcome != Outcome::Passed {
            return Ok(Some((passes, outcome)));
        }
    }
    Ok(None)
}

fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Passed => "passed".to_owned(),
        Outcome::Unsupported(operators) => format!("unsupported: {}", operators.join(", ")),
        Outcome::Refused(why) => format!("refused: {why}"),
        Outcome::Wrong(why) => why.chars().take(300).collect(),
    }
}

/// Where graphs are made, and by what.
struct RandomGraphs {
    python: PathBuf,
    script: PathBuf,
    folder: PathBuf,
}

impl RandomGraphs {
    fn new() -> Result<Self> {
        let scripts = crate::root().join("xtask/fixtures");
        let python = python::environment("random", &scripts.join("requirements-random.lock"))?;
        let folder = crate::root().join("target/random");
        std::fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        Ok(Self { python, script: scripts.join("random_graphs.py"), folder })
    }

    fn command(&self, out: &Path) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(&self.script).arg("--out").arg(out);
        command
    }

    /// Writes the smallest graph at `small` that fails after the same passes and is a part of the graph at `whole`.
    fn shrink(&self, whole: &Path, small: &Path, passes: Passes) -> Result<Option<(Passes, Outcome)>> {
        let parts = self.folder.join("parts");
        let (mut from, mut best) = (whole.to_owned(), None);
        for _ in 0..MAX_ROUNDS {
            let made = python::run_quietly(self.command(&parts).arg("--shrink").arg(&from));
            if made.is_err() {
                break;
            }
            let mut failing = Vec::new();
            for case in read_all(&parts)? {
                match failure(&case)? {
                    Some((own, outcome)) if own == passes => failing.push((case, outcome)),
                    _ => {}
                }
            }
            let Some((case, outcome)) = failing.into_iter().min_by_key(|(case, _)| case.model().len()) else {
                break;
            };
            copy(&parts.join(&case.name), small)?;
            from = small.to_owned();
            best = Some((passes, outcome));
        }
        Ok(best)
    }
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("could not remove {}", folder.display()))?;
    }
    Ok(())
}

/// Copies a folder of files, in place of what is there.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("could not copy {} to {}", from.display(), to.display());
    remove(to)?;
    std::fs::create_dir_all(to).with_context(failed)?;
    for entry in from.read_dir().with_context(failed)? {
        let entry = entry.with_context(failed)?;
        std::fs::copy(entry.path(), to.join(entry.file_name())).with_context(failed)?;
    }
    Ok(())
}
