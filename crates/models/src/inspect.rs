//! What is in an ONNX file, and how it would run.

use std::collections::BTreeMap;
use std::path::Path;

use candlewick_engine::graph::{Graph, ValueId};
use candlewick_engine::onnx::{self, OnnxModel};
use candlewick_engine::{ImportOptions, ImportPlan};
use serde::Serialize;

use crate::checkpoint::engine_error;
use crate::{LoadOptions, Result};

/// What is in an ONNX file, and how it would run.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The file.
    pub file: String,
    /// The program that wrote it.
    pub producer: String,
    /// Versions of the operator sets by domain; the standard's is `ai.onnx`.
    pub opsets: BTreeMap<String, i64>,
    /// What it reads.
    pub inputs: Vec<ValueType>,
    /// What it gives.
    pub outputs: Vec<ValueType>,
    /// How many nodes have each operator.
    pub operators: BTreeMap<String, usize>,
    /// Weights by the type of their elements.
    pub weights: BTreeMap<String, WeightsSize>,
    /// As a text encoder; why it is none, if so.
    pub encoder: EncoderInspection,
}

/// The type of an input or output.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ValueType {
    /// Its name.
    pub name: String,
    /// The type of its elements, where it is known.
    pub dtype: Option<String>,
    /// Its sizes, numbers or names; `None` where not even their number is known.
    pub shape: Option<Vec<String>>,
}

/// Weights of one type.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct WeightsSize {
    /// How many there are.
    pub tensors: usize,
    /// Their elements' bytes.
    pub bytes: usize,
}

/// How a file would run as a text encoder.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EncoderInspection {
    /// Over packed sequences, or of equal length together.
    Runs {
        /// Why not over packed sequences, if so.
        unpacked_because: Option<String>,
        /// Numbers of a row of the output.
        hidden_size: usize,
        /// Whether there is one row for each text.
        is_pooled: bool,
        /// Tokens of a text that have positions, where the graph says so.
        max_positions: Option<usize>,
        /// How many nodes have each operator once nodes are fused.
        operators: BTreeMap<String, usize>,
    },
    /// It is no text encoder that can be run.
    Cannot {
        /// Why.
        reason: String,
    },
}

/// Looks into an ONNX file.
///
/// # Errors
///
/// When it cannot be read or is not supported: of operators that are not supported, all are named.
pub fn inspect(path: &Path, options: &LoadOptions) -> Result<Inspection> {
    let name = path.display().to_string();
    let model = onnx::read(path).map_err(|source| engine_error(&name, source))?;
    let infos = model.graph.infer(&[]).map_err(|source| engine_error(&name, source))?;
    let value_type = |id: &ValueId| {
        let info = infos.get(*id);
        ValueType {
            name: model.graph.value(*id).name.clone(),
            dtype: info.map(|info| info.dtype.to_string()),
            shape: info.and_then(|info| Some(info.shape.as_ref()?.iter().map(ToString::to_string).collect())),
        }
    };
    let mut weights: BTreeMap<String, WeightsSize> = BTreeMap::new();
    for constant in model.graph.constants() {
        let size = weights.entry(constant.dtype().to_string()).or_default();
        size.tensors += 1;
        size.bytes += constant.len() * constant.dtype().size();
    }
    let opset = |(domain, version): (String, i64)| {
        (if domain.is_empty() { "ai.onnx".to_owned() } else { domain }, version)
    };
    Ok(Inspection {
        file: name,
        inputs: model.graph.inputs.iter().map(value_type).collect(),
        outputs: model.graph.outputs.iter().map(value_type).collect(),
        operators: operators(&model.graph),
        weights,
        producer: model.producer.clone(),
        opsets: model.opsets.iter().cloned().map(opset).collect(),
        encoder: encoder(model, options),
    })
}

fn encoder(model: OnnxModel, options: &LoadOptions) -> EncoderInspection {
    let mut import = ImportOptions::default();
    import.output.clone_from(&options.output);
    import.inputs.clone_from(&options.inputs);
    import.precision = options.precision;
    import.int8 = options.int8;
    match ImportPlan::new(model, &import) {
        Ok(plan) => EncoderInspection::Runs {
            unpacked_because: plan.unpacked_because().map(str::to_owned),
            hidden_size: plan.hidden_size(),
            is_pooled: plan.is_pooled(),
            max_positions: plan.max_positions(),
            operators: operators(plan.graph()),
        },
        Err(error) => EncoderInspection::Cannot { reason: error.to_string() },
    }
}

fn operators(graph: &Graph) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for node in &graph.nodes {
        *counts.entry(node.operator.name().to_owned()).or_default() += 1;
    }
    counts
}
