//! What was really run, and compared with its original, of a registry row.
//!
//! Only what `cargo xtask verify` compares counts, and only for weights that this version loads.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use candlewick::{ModelSpec, OnnxDialect, State, WeightsFormat, WeightsSpec};
use serde::Deserialize;

use crate::verify::evidence::{Reference, read_all};
use crate::verify::graphs;

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
    /// The architectures and dialects of ONNX graphs.
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
            graphs: graphs(&fixtures.join("onnx"))?,
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

/// The architectures, as the registry calls them, and dialects of the graphs that a folder's manifest lists.
fn graphs(folder: &Path) -> Result<Vec<(String, OnnxDialect)>> {
    let known = graphs::files(folder)?.into_iter().filter_map(|file| {
        let dialect = dialect(&file.dialect)?;
        Some((registry_name(file.architecture), dialect))
    });
    Ok(known.collect())
}

/// The manifest has names of transformers' modules, the registry has what config.json says.
fn registry_name(architecture: String) -> String {
    match architecture.as_str() {
        "xlm_roberta" => "xlm-roberta".to_owned(),
        "clip_text" | "clip_vision" | "siglip_text" | "siglip_vision" => architecture + "_model",
        _ => architecture,
    }
}

/// The registry's dialect for one of the fixtures', if it has one.
fn dialect(name: &str) -> Option<OnnxDialect> {
    let has = |words: &[&str]| name.split('-').any(|part| words.contains(&part));
    if has(&["4bit", "bf16", "basic"]) {
        return None;
    }
    if has(&["quantized", "qdq", "qoperator", "8bit", "int8"]) {
        return Some(OnnxDialect::Int8);
    }
    Some(match (has(&["optimized", "ort"]), has(&["fp16"])) {
        (true, true) => OnnxDialect::OptimizedF16,
        (true, false) => OnnxDialect::Optimized,
        (false, true) => OnnxDialect::F16,
        (false, false) => OnnxDialect::Plain,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialects_are_told_from_names() {
        let of = |names: &[&str]| names.iter().map(|name| dialect(name)).collect::<Vec<_>>();
        assert_eq!(
            of(&["plain-17", "legacy-14", "dynamo-sdpa-18", "external"]),
            [Some(OnnxDialect::Plain); 4]
        );
        assert_eq!(of(&["optimized", "ort-all", "legacy-optimized"]), [Some(OnnxDialect::Optimized); 3]);
        assert_eq!(of(&["optimized-fp16-f32-io"]), [Some(OnnxDialect::OptimizedF16)]);
        assert_eq!(of(&["fp16", "fp16-f32-io"]), [Some(OnnxDialect::F16); 2]);
        assert_eq!(of(&["optimized-quantized", "qdq", "matmul-8bit"]), [Some(OnnxDialect::Int8); 3]);
        assert_eq!(of(&["bf16", "matmul-4bit-qdq", "ort-basic"]), [None; 3]);
    }
}
