//! `cargo xtask multi-vector`: MaxSim against NumPy's, and MUVERA's encoding against fastembed's, on this machine.
//!
//! Both sides have the same vectors in memory and the same number of threads, and take turns, so that whatever else the
//! machine does hits both alike. What they computed is compared too: a ratio of speeds means nothing otherwise.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candlewick_engine::ThreadPool;
use candlewick_models::{MultiVectorEmbedding, Muvera, MuveraOptions, max_sim_scores};
use serde::Deserialize;

use crate::compare::{machine, stats};
use crate::{python, workload};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Documents that a query is scored with, in thousands.
    #[arg(long, value_name = "N", default_value_t = 10)]
    thousands: usize,
    /// Documents that are encoded.
    #[arg(long, value_name = "N", default_value_t = 100)]
    encoded: usize,
    /// Threads of both sides.
    #[arg(long, value_name = "N", default_value_t = 2)]
    threads: usize,
    /// Measured passes of each side.
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: usize,
    /// A Python that has the packages of xtask/fixtures/requirements.lock, instead of making one in target/.
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
}

/// ColBERT's query, and the length of a passage.
const QUERY_VECTORS: usize = 32;
const DOCUMENT_VECTORS: usize = 180;
const DIM: usize = 128;

/// Measures, and prints a table as Markdown.
///
/// # Errors
///
/// When Python or its packages cannot be had, or the results differ.
pub fn main(options: &Options) -> Result<()> {
    ensure!(
        options.thousands > 0 && options.threads > 0 && options.rounds > 0 && options.encoded > 0,
        "every number must be at least 1"
    );
    ensure!(options.encoded <= 1000, "--encoded must be at most 1000");
    let python = match &options.python {
        Some(python) => python.clone(),
        None => python::environment("fixtures", &crate::root().join("xtask/fixtures/requirements.lock"))?,
    };
    let query = workload::values(QUERY_VECTORS * DIM, 1);
    let block = workload::values(1000 * DOCUMENT_VECTORS * DIM, 2);
    let mut rival = Rival::start(&python, &query, &block, options)?;

    let query = MultiVectorEmbedding::new(DIM, query)?;
    let block = block.chunks_exact(DOCUMENT_VECTORS * DIM);
    let documents: Vec<MultiVectorEmbedding> = (0..options.thousands)
        .flat_map(|_| block.clone().map(|values| MultiVectorEmbedding::new(DIM, values.to_vec())))
        .collect::<candlewick_models::Result<_>>()?;
    let pool = ThreadPool::new(Some(options.threads))?;
    let one_thread = ThreadPool::new(Some(1))?;
    let muvera = Muvera::new(MuveraOptions::new(DIM))?;
    let encoded = &documents[..options.encoded];

    let scores = || Ok(max_sim_scores(&query, &documents, &pool)?);
    let first = |encodings: Vec<Vec<f32>>| encodings.into_iter().next().unwrap_or_default();
    let encodings = || Ok(first(muvera.documents(encoded, &pool)?));
    let encodings_alone = || Ok(first(muvera.documents(encoded, &one_thread)?));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n", machine::describe())?;
    writeln!(
        out,
        "| job | rival | ours, ms | rival's, ms | rival's time in ours |\n|---|---|---:|---:|---|"
    )?;
    let threads = options.threads;
    let scored = format!("max_sim with {} documents, {threads} threads", documents.len());
    for contestant in ["max_sim, one product", "max_sim, by document", "max_sim, by 32 documents"] {
        let race = race(&mut rival, contestant, options.rounds, scores)?;
        writeln!(out, "| {scored} | NumPy, {} | {race}", &contestant["max_sim, ".len()..])?;
    }
    let of_encoded = format!("MUVERA of {} documents", encoded.len());
    let race_alone = race(&mut rival, "muvera", options.rounds, encodings_alone)?;
    writeln!(out, "| {of_encoded}, 1 thread | fastembed | {race_alone}")?;
    let race = race(&mut rival, "muvera", options.rounds, encodings)?;
    writeln!(out, "| {of_encoded}, {threads} threads | fastembed | {race}")?;
    Ok(())
}

/// Rounds in which both sides take a turn, as the rest of a row.
fn race(
    rival: &mut Rival,
    contestant: &str,
    rounds: usize,
    ours: impl Fn() -> Result<Vec<f32>>,
) -> Result<String> {
    let (mut our_times, mut times) = (Vec::new(), Vec::new());
    // The first round warms both up, and is where their results are compared.
    for round in 0..=rounds {
        let started = Instant::now();
        let found = ours()?;
        let seconds = started.elapsed().as_secs_f64();
        let answer = rival.run(contestant)?;
        if round == 0 {
            compare(contestant, &found, &answer.results)?;
            continue;
        }
        our_times.push(seconds);
        times.push(answer.seconds);
    }
    let milliseconds = |times: &[f64]| stats::median(times) * 1e3;
    let ratio = stats::Ratio::of(&times, &our_times);
    Ok(format!("{:.1} | {:.1} | {ratio} |", milliseconds(&our_times), milliseconds(&times)))
}

fn compare(contestant: &str, found: &[f32], expected: &[f64]) -> Result<()> {
    ensure!(
        found.len() == expected.len(),
        "{contestant}: {} results, ours are {}",
        expected.len(),
        found.len()
    );
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(*found) - expected).abs();
        if difference.is_nan() || difference > 1e-5 * expected.abs().max(1.0) {
            bail!("{contestant}: result {index} is {expected}, ours is {found}");
        }
    }
    Ok(())
}

/// The Python process.
struct Rival {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// Holds the vectors while the process reads them.
    _folder: tempfile::TempDir,
}

#[derive(Deserialize)]
struct Ready {
    #[serde(rename = "ready")]
    _ready: bool,
}

#[derive(Deserialize)]
struct Answer {
    seconds: f64,
    results: Vec<f64>,
}

impl Rival {
    fn start(python: &Path, query: &[f32], block: &[f32], options: &Options) -> Result<Self> {
        let folder = tempfile::tempdir().context("could not make a folder for the vectors")?;
        let [query_file, documents_file, job_file] =
            ["query.f32", "documents.f32", "job.json"].map(|name| folder.path().join(name));
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        std::fs::write(&query_file, bytes(query)).context("could not write the query")?;
        std::fs::write(&documents_file, bytes(block)).context("could not write the documents")?;
        let job = serde_json::json!({
            "dim": DIM,
            "document_vectors": DOCUMENT_VECTORS,
            "query_file": query_file,
            "documents_file": documents_file,
            "repeats": options.thousands,
            "encoded_documents": options.encoded,
        });
        std::fs::write(&job_file, job.to_string()).context("could not write the job")?;
        let mut command = Command::new(python);
        command.arg(crate::root().join("xtask/compare/multi_vector.py")).arg(&job_file);
        for variable in ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
            command.env(variable, options.threads.to_string());
        }
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {}", python.display()))?;
        let (input, output) = (process.stdin.take(), process.stdout.take().expect("its output is piped"));
        let mut rival = Self { process, input, output: BufReader::new(output), _folder: folder };
        rival.answer::<Ready>()?;
        Ok(rival)
    }

    fn run(&mut self, contestant: &str) -> Result<Answer> {
        let input = self.input.as_mut().context("the rival's input is closed")?;
        writeln!(input, "{contestant}").context("the rival has ended")?;
        self.answer()
    }

    fn answer<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("could not read the rival's answer")?;
        ensure!(!line.is_empty(), "the rival has ended");
        serde_json::from_str(&line).with_context(|| format!("the rival said {line:.200}"))
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        // It ends when its input does.
        self.input = None;
        let _ = self.process.wait();
    }
}
