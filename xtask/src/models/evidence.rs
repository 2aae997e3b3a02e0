//! What was really run, and compared with its original, of a registry row.
//!
//! Only what is compared counts, by `cargo xtask verify` or, where there are no weights, by tests; and only for weights that
//! this version loads.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use candlewick::{Kind, ModelSpec, OnnxDialect, SparseMethod, State, WeightsFormat, WeightsSpec};
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
    /// All that there is of it, because it has no weights.
    NoWeights,
    /// Neither.
    Nothing,
}

/// All that was run.
#[derive(Debug)]
pub(super) struct Run {
    /// The ids of models whose own safetensors were compared, with the file's sha256.
    real: Vec<(String, Option<String>)>,
    /// Tiny random models.
    tiny: Vec<Tiny>,
}

/// What a tiny random model has in common with a row's weights that it is evidence for.
#[derive(Debug, PartialEq)]
struct Tiny {
    kind: Kind,
    method: Option<SparseMethod>,
    architecture: String,
    /// Of ONNX files; others are safetensors.
    dialect: Option<OnnxDialect>,
}

/// Fixtures below `heads`, and what they are.
const HEADS: &[(&str, Kind, Option<SparseMethod>)] = &[
    ("splade-bert", Kind::Sparse, Some(SparseMethod::Splade)),
    ("splade-distilbert", Kind::Sparse, Some(SparseMethod::Splade)),
    ("if-splade", Kind::Sparse, Some(SparseMethod::Splade)),
    ("colbert-v2", Kind::LateInteraction, None),
    ("colbert-jina", Kind::LateInteraction, None),
    ("pylate", Kind::LateInteraction, None),
    ("pylate-attend", Kind::LateInteraction, None),
    ("pylate-plain", Kind::LateInteraction, None),
    ("rerank-bert", Kind::CrossEncoder, None),
    ("rerank-bert-3", Kind::CrossEncoder, None),
    ("rerank-xlm-roberta", Kind::CrossEncoder, None),
    ("bm42", Kind::Sparse, Some(SparseMethod::Bm42)),
    ("minicoil", Kind::Sparse, Some(SparseMethod::Minicoil)),
    ("bge-m3", Kind::Hybrid, None),
];

/// The files that those may have.
const HEAD_FILES: &[(&str, Option<OnnxDialect>)] = &[
    ("model.safetensors", None),
    ("model.onnx", Some(OnnxDialect::Plain)),
    ("onnx/model.onnx", Some(OnnxDialect::Plain)),
    ("model_optimized.onnx", Some(OnnxDialect::Optimized)),
    ("model_quantized.onnx", Some(OnnxDialect::Int8)),
];

impl Run {
    /// Reads what is in a folder of fixtures.
    pub(super) fn read(fixtures: &Path) -> Result<Run> {
        let (checkpoints, real): (Vec<Reference>, Vec<Reference>) =
            read_all(fixtures)?.into_iter().partition(Reference::has_weights);
        let dense = |architecture, dialect| Tiny { kind: Kind::Dense, method: None, architecture, dialect };
        let mut tiny = heads(&fixtures.join("heads"))?;
        for fixture in &checkpoints {
            tiny.push(dense(architecture(&fixture.folder)?, None));
        }
        let graphs = graphs(&fixtures.join("onnx"))?.into_iter();
        tiny.extend(graphs.map(|(architecture, dialect)| dense(architecture, Some(dialect))));
        let real = real.into_iter().map(|real| (real.provenance.model, real.provenance.weights_sha256));
        let real = real.chain(real_heads(&fixtures.join("heads"))?);
        Ok(Run { real: real.collect(), tiny })
    }

    /// What was run of this row: of its weights that can be loaded, the first that any of it was run of.
    pub(super) fn of(&self, spec: &ModelSpec) -> Evidence {
        if spec.state() != State::Loadable {
            return Evidence::Nothing;
        }
        // candlewick-models' own tests compare its words and weights with the original's.
        if spec.method == Some(SparseMethod::Bm25) {
            return Evidence::NoWeights;
        }
        let loadable = spec.weights.iter().filter(|weights| weights.missing(spec).is_none());
        loadable
            .map(|weights| self.of_weights(spec, weights))
            .find(|evidence| *evidence != Evidence::Nothing)
            .unwrap_or(Evidence::Nothing)
    }

    fn of_weights(&self, spec: &ModelSpec, weights: &WeightsSpec) -> Evidence {
        let is_this = |(id, sha256): &(String, Option<String>)| {
            spec.names().any(|name| name == id) && *sha256 == weights.sha256
        };
        let (kind, method, dialect) = (spec.kind, spec.method, weights.dialect);
        let alike =
            Tiny { kind, method, architecture: spec.architecture.clone().unwrap_or_default(), dialect };
        match weights.format {
            WeightsFormat::Safetensors if self.real.iter().any(is_this) => Evidence::RealWeights,
            WeightsFormat::Safetensors if self.tiny.contains(&alike) => Evidence::Checkpoint,
            WeightsFormat::Onnx if dialect.is_some() && self.tiny.contains(&alike) => Evidence::Graph,
            _ => Evidence::Nothing,
        }
    }
}

/// What is in the folder of fixtures with other heads than a pooled embedding.
fn heads(folder: &Path) -> Result<Vec<Tiny>> {
    let mut tiny = Vec::new();
    for &(name, kind, method) in HEADS {
        let folder = folder.join(name);
        for &(_, dialect) in HEAD_FILES.iter().filter(|(file, _)| folder.join(file).is_file()) {
            tiny.push(Tiny { kind, method, architecture: architecture(&folder)?, dialect });
        }
    }
    Ok(tiny)
}

/// Names and checksums of the models whose weights are not among the fixtures of heads: real ones.
fn real_heads(folder: &Path) -> Result<Vec<(String, Option<String>)>> {
    #[derive(serde::Deserialize)]
    struct Provenance {
        weights_sha256: String,
    }
    let mut real = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let folder = entry?.path();
        if folder.join("reference").is_dir() && !folder.join("config.json").exists() {
            let json = std::fs::read(folder.join("reference/provenance.json"))?;
            let Provenance { weights_sha256 } = serde_json::from_slice(&json)?;
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            real.push((name, Some(weights_sha256)));
        }
    }
    Ok(real)
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
            Evidence::NoWeights => "the model, which has no weights",
            Evidence::Nothing => "nothing yet",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_of_the_rows_kind() {
        let run = Run::read(&crate::root().join("tests/fixtures")).unwrap();
        let of = |id: &str| run.of(candlewick::Registry::built_in().get(id).unwrap());
        assert_eq!(of("all-MiniLM-L6-v2"), Evidence::RealWeights);
        assert_eq!(of("bge-small-en"), Evidence::Checkpoint);
        assert_eq!(of("Qdrant/bm25"), Evidence::NoWeights);
        assert_eq!(of("Splade_PP_en_v1"), Evidence::Graph);
        assert_eq!(of("colbertv2.0"), Evidence::Checkpoint);
        assert_eq!(of("bge-reranker-base"), Evidence::Checkpoint);
        assert_eq!(of("ms-marco-MiniLM-L-6-v2"), Evidence::Graph);
        // Its encoder was run as a dense model only.
        assert_eq!(of("jina-embeddings-v2-small-en"), Evidence::Graph);
        assert_eq!(of("jina-embeddings-v2-small-en-tokens"), Evidence::Nothing);
        assert_eq!(of("Qdrant/resnet50-onnx"), Evidence::Nothing);
        for (name, ..) in HEADS {
            let folder = crate::root().join("tests/fixtures/heads").join(name);
            assert!(HEAD_FILES.iter().any(|(file, _)| folder.join(file).is_file()), "{name}");
        }
    }

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
