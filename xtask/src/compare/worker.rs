//! candlewick's worker: what `xtask/compare/worker.py` is for the rivals. The protocol is in `process`.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candlewick::LoadOptions;
use serde_json::json;

use super::contestant::Job;
use super::embedder::Embedder;
use super::input::Sequences;
use super::read_json;

/// Runs a job, as standard input commands.
///
/// # Errors
///
/// When anything fails; whoever started the worker reads it from standard error.
pub(super) fn main(job: &Path) -> Result<()> {
    let job: Job = read_json(job)?;
    let model = load(&job)?;
    say(&json!({ "loaded": true }))?;

    let sequences: Sequences = read_json(&job.input_file)?;
    let mut embeddings = model.embed(&sequences.first(job.warm_up))?;
    say(&json!({ "warm": true }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("could not read standard input")?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("embed", "") => {
                let mut seconds = Vec::with_capacity(job.calls);
                for _ in 0..job.calls {
                    let started = Instant::now();
                    embeddings = model.embed(&sequences)?;
                    seconds.push(started.elapsed().as_secs_f64());
                }
                say(&json!({ "seconds": seconds }))?;
            }
            ("write", path) => {
                let rows = embeddings.rows(job.dim)?;
                let bytes: Vec<u8> = rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
                std::fs::write(path, bytes).with_context(|| format!("could not write {path}"))?;
                say(&json!({ "dim": job.dim }))?;
            }
            // It is this program, whose commit stands in the report.
            ("versions", "") => say(&json!({ "versions": [] }))?,
            _ => bail!("unknown command {line:?}"),
        }
    }
    Ok(())
}

fn load(job: &Job) -> Result<Embedder> {
    let options = LoadOptions::new().offline(true).threads(job.threads).max_length(job.max_length);
    let mut options = options.precision(job.precision.parse()?);
    options.batch_tokens = job.batch_tokens;
    options.weights.clone_from(&job.graph);
    let id = job.model.as_deref().filter(|_| job.graph.is_none());
    Embedder::load(job.kind, id, &job.model_folder, options)
}

fn say(message: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{message}").and_then(|()| out.flush()).context("could not write to standard output")
}
