//! candlewick's worker: what `xtask/compare/worker.py` is for the rivals. The protocol is in `process`.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candlewick::{LoadOptions, TextEmbedding};
use serde_json::json;

use super::contestant::Job;
use super::read_json;

/// Runs a job, as standard input commands.
///
/// # Errors
///
/// When anything fails; whoever started the worker reads it from standard error.
pub(super) fn main(job: &Path) -> Result<()> {
    let job: Job = read_json(job)?;
    let mut options = LoadOptions::new().offline(true).threads(job.threads).max_length(job.max_length);
    options.batch_tokens = job.batch_tokens;
    let model = TextEmbedding::load_with(&job.model, options)?;
    say(&json!({ "loaded": [] }))?;

    let texts: Vec<String> = read_json(&job.texts_file)?;
    let mut embeddings = model.embed(&texts)?;
    say(&json!({ "warm": true }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("could not read standard input")?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("embed", "") => {
                let started = Instant::now();
                embeddings = model.embed(&texts)?;
                say(&json!({ "seconds": started.elapsed().as_secs_f64() }))?;
            }
            ("write", path) => {
                let bytes: Vec<u8> = embeddings.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
                std::fs::write(path, bytes).with_context(|| format!("could not write {path}"))?;
                say(&json!({ "dim": model.embedding_size() }))?;
            }
            _ => bail!("unknown command {line:?}"),
        }
    }
    Ok(())
}

fn say(message: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{message}").and_then(|()| out.flush()).context("could not write to standard output")
}
