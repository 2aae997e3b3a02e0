//! `cargo xtask compare`: candlewick and the libraries that people use today, side by side.
//!
//! The same weights, the same texts or token ids, the same length limit, the same number of threads. Each
//! contestant is a process of its own, so that its memory is its own; all are loaded and warm before the first
//! measurement, and then take turns, one pass each per round, so that whatever else the machine does hits all
//! alike. A rival that cannot be set up is a row with the reason. A rival that computes something else in f32
//! is a failure: a ratio of speeds means nothing then. Models are dense, or sparse: SPLADE.

mod cell;
mod contestant;
mod embedder;
mod graphs;
mod input;
pub(crate) mod machine;
mod model;
mod process;
mod programs;
mod race;
mod report;
pub(crate) mod stats;
mod summary;
mod worker;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use cell::Cell;
use input::Input;
use programs::Programs;
use race::Race;

/// What to compare.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only these jobs, by the beginning of the name: query-8, query-16, query-32, 32x128, 8x512, 256x128, text,
    /// start.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    job: Vec<String>,
    /// Only these models, by the beginning of the name: minilm, base, large, splade.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    model: Vec<String>,
    /// Threads of each contestant; a measurement for each. Default: 1 and 2 for queries, else 2.
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = at_least_one)]
    threads: Vec<usize>,
    /// Only contestants whose names contain one of these, beside candlewick f32.
    #[arg(long, value_name = "TEXT,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Measured passes of each contestant.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one)]
    rounds: usize,
    /// Texts of the text job. Default: 1000, fewer for larger models.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    texts: Option<usize>,
    /// Also candlewick with these token budgets of a batch.
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    batch_tokens: Vec<usize>,
    /// A Python that has the packages of xtask/fixtures/requirements.lock, instead of making one in target/.
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Be candlewick's worker: run this job.
    #[arg(long, value_name = "FILE", hide = true)]
    worker: Option<PathBuf>,
}

/// Measures, and prints the tables as Markdown.
///
/// # Errors
///
/// When candlewick or an input cannot be had, or a rival's f32 embeddings are not candlewick's. All cells that
/// can be measured are, before that.
pub fn main(options: &Options) -> Result<()> {
    if let Some(job) = &options.worker {
        return worker::main(job);
    }
    let cells = cell::cells(options)?;
    ensure!(!cells.is_empty(), "no model is measured with this job");
    let programs = Programs::new(options.python.clone());
    let (mut races, mut failures) = (Vec::new(), Vec::new());
    for cell in cells {
        match measure(cell, &programs, options) {
            Ok(race) => {
                // At once, since the next cell may take an hour.
                report::print(&race)?;
                failures.extend(race.disagreeing());
                races.push(race);
            }
            Err(error) => failures.push(format!("{}: {error:#}", cell.title())),
        }
    }
    summary::print(&races)?;
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

fn measure(cell: Cell, programs: &Programs, options: &Options) -> Result<Race> {
    progress(&format!("== {}", cell.title()))?;
    let model = cell.model.prepare(programs)?;
    let input = Input::prepare(&cell, &model, options.texts)?;
    let contestants = contestant::all(&cell, &model, &input, programs, options);
    race::run(cell, &model.work, input, contestants, options.rounds)
}

/// Says on stderr what goes on; stdout is for the tables.
fn progress(message: &str) -> Result<()> {
    writeln!(std::io::stderr().lock(), "{message}").context("could not write to stderr")
}

/// A file of xtask/compare.
fn script(name: &str) -> PathBuf {
    crate::root().join("xtask/compare").join(name)
}

/// Makes something unless it was made from the same scripts and the same arguments, which `stamp` remembers.
fn made_once(
    stamp: &Path,
    scripts: &[&PathBuf],
    arguments: &[String],
    make: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mut made_from = arguments.join("\n");
    for path in scripts {
        let text = std::fs::read_to_string(path);
        made_from += &text.with_context(|| format!("could not read {}", path.display()))?;
    }
    if std::fs::read_to_string(stamp).is_ok_and(|stamp| stamp == made_from) {
        return Ok(());
    }
    make()?;
    std::fs::write(stamp, made_from).with_context(|| format!("could not write {}", stamp.display()))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("could not parse {}", path.display()))
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text =
        serde_json::to_string(value).with_context(|| format!("could not serialise {}", path.display()))?;
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}
