//! `cargo xtask compare`: candlewick and the libraries that people use today, side by side.
//!
//! The same f32 weights, the same texts, the same length limit, the same number of threads. Each contestant is
//! a process of its own, so that its memory is its own; all are loaded and warm before the first measurement,
//! and then take turns, one pass over the corpus each per round, so that whatever else the machine does hits
//! all alike. A rival that cannot be set up is a row with the reason. A rival that computes something else is
//! a failure: a ratio of speeds means nothing then.

mod contestant;
mod machine;
mod process;
mod report;
mod setting;
mod stats;
mod worker;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use candlewick::Embedding;

use crate::verify::{Agreement, agreement};
use contestant::Contestant;
use process::{Pass, Worker};
use setting::Setting;

/// Below this a rival's embeddings are not those of the same model.
const MIN_COSINE: f64 = 0.9999;

/// Between two passes, for the thread pool of the one before to fall asleep.
const PAUSE: Duration = Duration::from_millis(200);

/// What to compare.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Texts in the corpus.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = at_least_one)]
    texts: usize,
    /// Measured passes of each contestant over the corpus.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one)]
    rounds: usize,
    /// Threads of each contestant.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_least_one)]
    threads: usize,
    /// A BERT of the registry.
    #[arg(long, value_name = "ID", default_value = "all-MiniLM-L6-v2")]
    model: String,
    /// Tokens of a text that are read, instead of the model's own limit.
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Only contestants whose name contains this, beside candlewick.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
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

/// What was measured.
#[derive(Debug)]
struct Race {
    rows: Vec<Row>,
    /// From the first pass to the last.
    seconds: f64,
    /// CPU seconds that all programs on the machine used meanwhile, where the system tells.
    machine_cpu_seconds: Option<f64>,
}

/// One line of the table: a contestant, and what was measured or why it could not be.
#[derive(Debug)]
struct Row {
    name: String,
    outcome: Result<Figures, String>,
}

/// What was measured of one contestant.
#[derive(Debug)]
struct Figures {
    /// Of the rounds, in order.
    passes: Vec<Pass>,
    /// From the start of the process to a model in memory.
    load_seconds: f64,
    /// The largest amount of memory that was resident, in bytes, where the system tells.
    peak_memory: Option<u64>,
    /// CPU seconds that were used while others had their turn, where the system tells.
    idle_cpu_seconds: Option<f64>,
    /// With candlewick's embeddings.
    agreement: Agreement,
    /// Of the packages that did the work.
    versions: Vec<(String, String)>,
}

/// Measures, and prints the table.
///
/// # Errors
///
/// When candlewick or the corpus cannot be had, or a rival's embeddings are not candlewick's.
pub fn main(options: &Options) -> Result<()> {
    if let Some(job) = &options.worker {
        return worker::main(job);
    }
    let setting = Setting::prepare(options)?;
    let race = measure(contestant::all(&setting, options), &setting, options.rounds)?;
    report::print(&race, &setting)?;
    check(&race.rows)
}

/// A contestant during the race.
struct Runner {
    name: String,
    /// Or why it is not, or no longer, in the race.
    worker: Result<Worker, String>,
    passes: Vec<Pass>,
}

/// Runs all contestants. The first is candlewick, and must work.
fn measure(contestants: Vec<Contestant>, setting: &Setting, rounds: usize) -> Result<Race> {
    let start = |(index, contestant)| Runner::start(index, contestant, setting);
    let mut runners = contestants.into_iter().enumerate().map(start).collect::<Result<Vec<_>>>()?;
    let (started, cpu_before) = (Instant::now(), machine::cpu_seconds());
    for round in 0..rounds {
        for turn in 0..runners.len() {
            // Everybody gets to be first, and last.
            let index = (turn + round) % runners.len();
            let rate = runners[index].run().map(|pass| setting.texts() as f64 / pass.seconds);
            let result = rate.map_or_else(|| "not in the race".into(), |rate| format!("{rate:.1} docs/s"));
            progress(&format!("round {} of {rounds}: {}: {result}", round + 1, runners[index].name))?;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let machine_cpu_seconds = machine::cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
    let candlewick = runners.first_mut().context("there is always candlewick")?;
    let expected = match &mut candlewick.worker {
        Ok(worker) => worker.embeddings(&setting.folder.join("candlewick.f32"))?,
        Err(reason) => bail!("candlewick: {reason}"),
    };
    let finish =
        |runner: Runner| Row { name: runner.name.clone(), outcome: runner.finish(&expected, setting) };
    Ok(Race { rows: runners.into_iter().map(finish).collect(), seconds, machine_cpu_seconds })
}

impl Runner {
    fn start(index: usize, contestant: Contestant, setting: &Setting) -> Result<Self> {
        let Contestant { name, command } = contestant;
        progress(&format!("loading and warming up {name}"))?;
        let log = setting.folder.join(format!("worker-{index}.log"));
        let start = |command| Worker::start(command, &log).map_err(|error| format!("{error:#}"));
        Ok(Self { name, worker: command.and_then(start), passes: Vec::new() })
    }

    /// One pass. A worker that fails is out of the race, and its place is taken by the reason.
    fn run(&mut self) -> Option<Pass> {
        let worker = self.worker.as_mut().ok()?;
        std::thread::sleep(PAUSE);
        match worker.pass() {
            Ok(pass) => {
                self.passes.push(pass);
                Some(pass)
            }
            Err(error) => {
                self.worker = Err(format!("{error:#}"));
                None
            }
        }
    }

    fn finish(self, expected: &[Embedding], setting: &Setting) -> Result<Figures, String> {
        figures(self.worker?, self.passes, expected, setting).map_err(|error| format!("{error:#}"))
    }
}

fn figures(
    mut worker: Worker,
    passes: Vec<Pass>,
    expected: &[Embedding],
    setting: &Setting,
) -> Result<Figures> {
    let idle_cpu_seconds = worker.idle_cpu_seconds();
    // Before it makes one large array of its embeddings.
    let peak_memory = worker.peak_memory();
    let found = worker.embeddings(&setting.folder.join("rival.f32"))?;
    ensure!(found.len() == expected.len(), "{} embeddings of {} texts", found.len(), expected.len());
    Ok(Figures {
        passes,
        load_seconds: worker.load_seconds(),
        peak_memory,
        idle_cpu_seconds,
        agreement: agreement(&found, expected),
        versions: worker.versions().to_vec(),
    })
}

fn check(rows: &[Row]) -> Result<()> {
    let mut disagreeing = Vec::new();
    for row in rows {
        if let Ok(figures) = &row.outcome {
            // NaN is not enough either.
            let agrees = figures.agreement.min_cosine >= MIN_COSINE;
            if !agrees {
                disagreeing.push(row.name.as_str());
            }
        }
    }
    if !disagreeing.is_empty() {
        bail!("not candlewick's embeddings: {}", disagreeing.join("; "));
    }
    Ok(())
}

/// Says on stderr what goes on; stdout is for the table.
fn progress(message: &str) -> Result<()> {
    writeln!(std::io::stderr().lock(), "{message}").context("could not write to stderr")
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
