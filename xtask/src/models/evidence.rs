//! What was really run, and compared with its original, of a registry row.
//!
//! Only what `cargo xtask verify` compares counts, and only for weights that this version loads: a graph in the
//! fixtures proves nothing as long as nothing reads it.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use candlewick::{ModelSpec, OnnxDialect, State, WeightsFormat, WeightsSpec};
use serde::Deserialize;

use crate::verify::evidence::{Reference, read_all};

/// What was really run of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The model's own weights.
    RealWeights,
    /// A tiny random checkpoint of its architecture.
    Checkpoint,
    /// A tiny random ONNX graph of its architecture and dialect.
    Graph,
    /// Neither.
    Nothing,
}

/// All that was run.
#[derive(Debug)]
pub(super) struct Run {
    /// The ids of models whose own safetensors were compared, with the file's sha256.
    real: Vec<(String, Option<String>)>,
    /// The architectures of checkpoints in safetensors.
    checkpoints: Vec<String>,
    graphs: Vec<(String, OnnxDialect)>,
}

impl Run {
    /// Reads what is in a folder of fixtures.
    pub(super) fn read(fixtures: &Path) -> Result<Run> {
        let (checkpoints, real): (Vec<Reference>, Vec<Reference>) =
            read_all(fixtures)?.into_iter().partition(Reference::has_weights);
        Ok(Run {
            real: real
                .into_iter()
                .map(|real| (real.provenance.model, real.provenance.weights_sha256))
                .collect(),
            checkpoints: checkpoints
                .iter()
                .map(|fixture| architecture(&fixture.folder))
                .collect::<Result<_>>()?,
            graphs: graphs(),
        })
    }

    /// What was run of this row: of its weights that can be loaded, the first that any of it was run of.
    pub(super) fn of(&self, spec: &ModelSpec) -> Evidence {
        if spec.state() != State::Loadable {
            return Evidence::Nothing;
        }
        let loadable = spec.weights.iter().filter(|weights| weights.missing(spec).is_none());
        loadable
            .map(|weights| self.of_weights(spec, weights))
            .find(|evidence| *evidence != Evidence::Nothing)
            .unwrap_or(Evidence::Nothing)
    }

    fn of_weights(&self, spec: &ModelSpec, weights: &WeightsSpec) -> Evidence {
        let is_this = |(id, sha256): &(String, Option<String>)| *id == spec.id && *sha256 == weights.sha256;
        let architecture = spec.architecture.clone().unwrap_or_default();
        match (weights.format, weights.dialect) {
            (WeightsFormat::Safetensors, _) if self.real.iter().any(is_this) => Evidence::RealWeights,
            (WeightsFormat::Safetensors, _) if self.checkpoints.contains(&architecture) => {
                Evidence::Checkpoint
            }
            (WeightsFormat::Onnx, Some(dialect)) if self.graphs.contains(&(architecture, dialect)) => {
                Evidence::Graph
            }
            _ => Evidence::Nothing,
        }
    }
}

/// The architectures and dialects of the ONNX graphs that `cargo xtask verify` runs: none yet. The graphs are to be
/// tests/fixtures/onnx/<model>/<dialect>.onnx, and what verify makes of their manifest is to be given back here.
fn graphs() -> Vec<(String, OnnxDialect)> {
    Vec::new()
}

fn architecture(folder: &Path) -> Result<String> {
    #[derive(Deserialize)]
    struct Config {
        model_type: String,
    }
    let path = folder.join("config.json");
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let config: Config = serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
    Ok(config.model_type)
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Evidence::RealWeights => "real weights",
            Evidence::Checkpoint => "fixture of its architecture",
            Evidence::Graph => "fixture of its architecture and dialect",
            Evidence::Nothing => "nothing yet",
        })
    }
}
