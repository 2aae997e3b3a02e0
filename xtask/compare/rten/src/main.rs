//! rten in a process of its own: `compare-rten JOB.json`. The job and the protocol are those of
//! xtask/src/compare. What is measured ends with the hidden states, as with the other runtimes of ONNX graphs.

use std::fs;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, ValueView};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;
use serde::Deserialize;
use serde_json::json;

/// Of the crate, as Cargo.toml pins it.
const VERSION: &str = "0.27.0";

#[derive(Deserialize)]
struct Job {
    graph: PathBuf,
    input_file: PathBuf,
    calls: usize,
    threads: usize,
    pooling: String,
    normalize: bool,
}

#[derive(Deserialize)]
struct Input {
    tokens: Vec<Vec<i32>>,
}

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: compare-rten JOB.json")?;
    let job: Job = serde_json::from_str(&fs::read_to_string(path)?)?;
    // Prepacked weights are rten's fastest.
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(&job.graph)?;
    let pool = Arc::new(ThreadPool::with_num_threads(job.threads));
    say(&json!({ "loaded": true }))?;

    let input: Input = serde_json::from_str(&fs::read_to_string(&job.input_file)?)?;
    let encoder = Encoder::new(&model, pool, &input.tokens)?;
    let mut states = encoder.run()?;
    say(&json!({ "warm": true }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("embed", "") => {
                let mut seconds = Vec::with_capacity(job.calls);
                for _ in 0..job.calls {
                    let started = Instant::now();
                    states = encoder.run()?;
                    seconds.push(started.elapsed().as_secs_f64());
                }
                say(&json!({ "seconds": seconds }))?;
            }
            ("write", path) => {
                let embeddings = embeddings(&states, &job)?;
                let dim = embeddings.first().map_or(0, Vec::len);
                let bytes: Vec<u8> = embeddings.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
                fs::write(path, bytes)?;
                say(&json!({ "dim": dim }))?;
            }
            ("versions", "") => say(&json!({ "versions": [["rten", VERSION]] }))?,
            _ => bail!("unknown command {line:?}"),
        }
    }
    Ok(())
}

/// A model with its inputs, `[batch_size, seq_len]` each.
struct Encoder<'a> {
    model: &'a Model,
    pool: Arc<ThreadPool>,
    inputs: Vec<(NodeId, NdTensor<i32, 2>)>,
    output: NodeId,
}

impl<'a> Encoder<'a> {
    fn new(model: &'a Model, pool: Arc<ThreadPool>, tokens: &[Vec<i32>]) -> Result<Self> {
        let shape = [tokens.len(), tokens.first().map_or(0, Vec::len)];
        let token_ids: Vec<i32> = tokens.iter().flatten().copied().collect();
        let mut inputs = Vec::new();
        for &id in model.input_ids() {
            let info = model.node_info(id).context("an input without a node")?;
            let values = match info.name().context("an input without a name")? {
                "input_ids" => token_ids.clone(),
                "attention_mask" => vec![1; token_ids.len()],
                "token_type_ids" => vec![0; token_ids.len()],
                name => bail!("unknown input {name}"),
            };
            inputs.push((id, NdTensor::from_data(shape, values)));
        }
        Ok(Self { model, pool, inputs, output: model.node_id("last_hidden_state")? })
    }

    /// Hidden states, `[batch_size, seq_len, hidden_size]`.
    fn run(&self) -> Result<NdTensor<f32, 3>> {
        let inputs = self.inputs.iter().map(|(id, tensor)| (*id, ValueView::from(tensor.view()).into()));
        let inputs = inputs.collect();
        let options = RunOptions::default().with_thread_pool(Some(self.pool.clone()));
        let [states] = self.model.run_n(inputs, [self.output], Some(options))?;
        Ok(states.try_into()?)
    }
}

fn embeddings(states: &NdTensor<f32, 3>, job: &Job) -> Result<Vec<Vec<f32>>> {
    let [batch_size, seq_len, dim] = states.shape();
    let embedding = |sequence: usize| {
        let row = |token: usize| (0..dim).map(move |i| states[[sequence, token, i]]);
        let mut embedding: Vec<f32> = match job.pooling.as_str() {
            "cls" => row(0).collect(),
            "last" => row(seq_len - 1).collect(),
            "mean" => {
                let mut sum = vec![0.0; dim];
                for token in 0..seq_len {
                    sum.iter_mut().zip(row(token)).for_each(|(sum, x)| *sum += x / seq_len as f32);
                }
                sum
            }
            other => bail!("unknown pooling {other}"),
        };
        if job.normalize {
            let norm = embedding.iter().map(|x| x * x).sum::<f32>().sqrt();
            embedding.iter_mut().for_each(|x| *x /= norm);
        }
        Ok(embedding)
    };
    (0..batch_size).map(embedding).collect()
}

fn say(message: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{message}").and_then(|()| out.flush()).context("could not write to standard output")
}
