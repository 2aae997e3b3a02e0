//! The part of a model that turns tokens into hidden states, before its weights are read: an architecture that is
//! written here, or an imported graph.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use candlewick_engine::graph::Problem;
use candlewick_engine::{
    Batch, ImportOptions, ImportPlan, ImportedEncoder, OutputRows, TextEncoder, ThreadPool, Weights, onnx,
};

use crate::arch::{self, EncoderConfig};
use crate::checkpoint::engine_error;
use crate::hybrid::{self, WantedEmbeddings};
use crate::registry::{InputSpec, ModelSpec, WeightsFormat};
use crate::{Error, LoadOptions, Result, TextRole};

/// What a folder's encoder is.
#[derive(Debug)]
pub(crate) enum Backbone {
    /// An architecture with the sizes in config.json; its weights are safetensors or PyTorch's.
    Native(Box<dyn EncoderConfig>),
    /// A graph.
    Imported {
        /// The ONNX file.
        path: PathBuf,
        plan: Box<ImportPlan>,
        inputs: ByRole<BTreeMap<String, f64>>,
        /// Whether the outputs are a hybrid model's embeddings.
        gives_embeddings: bool,
    },
}

/// Something for each role of a text.
#[derive(Clone, Debug)]
pub(crate) struct ByRole<T> {
    plain: T,
    query: T,
    passage: T,
}

/// The encoder for each role; they share the weights.
pub(crate) type Encoders = ByRole<Arc<dyn TextEncoder>>;

impl<T> ByRole<T> {
    pub(crate) fn get(&self, role: TextRole) -> &T {
        match role {
            TextRole::Plain => &self.plain,
            TextRole::Query => &self.query,
            TextRole::Passage => &self.passage,
        }
    }
}

#[cfg(test)]
impl<T> ByRole<T> {
    pub(crate) fn map<U>(self, map: impl Fn(T) -> U) -> ByRole<U> {
        ByRole { plain: map(self.plain), query: map(self.query), passage: map(self.passage) }
    }
}

/// Where exporters put graphs, the fastest first where there are several.
const ONNX_FILES: &[&str] =
    &["model_optimized.onnx", "model.onnx", "onnx/model_optimized.onnx", "onnx/model.onnx"];

/// Where checkpoints are, the first that is there.
pub(crate) const CHECKPOINT_FILES: &[&str] = &[
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

impl Backbone {
    /// Reads config.json, or the graph, whichever the weights need. `wanted` is what is taken of a graph that gives a
    /// hybrid model's embeddings, if no output was named.
    pub(crate) fn read(
        name: &str,
        folder: &Path,
        spec: Option<&ModelSpec>,
        options: &LoadOptions,
        mut import: ImportOptions,
        wanted: Option<WantedEmbeddings>,
    ) -> Result<Self> {
        let Some(path) = onnx_file(folder, spec, options) else {
            let input = options.inputs.iter().next().map(|(input, value)| format!("{input}={value}"));
            for (option, requested) in [("output", options.output.clone()), ("input", input)] {
                if let Some(requested) = requested {
                    let (model, problem) = (name.to_owned(), format!("only ONNX files have named {option}s"));
                    return Err(Error::InvalidOption { model, option, requested, problem });
                }
            }
            return Ok(Self::Native(arch::read_config(&folder.join("config.json"))?));
        };
        if !path.is_file() {
            return Err(crate::json::file_missing(&path));
        }
        let of_row = || spec.and_then(|spec| spec.output.clone());
        import.output = options.output.clone().or_else(of_row);
        let inputs = inputs(spec.map_or(&[], |spec| &spec.inputs), &options.inputs);
        import.inputs.clone_from(&inputs.plain);
        import.precision = options.precision;
        import.int8 = options.int8;
        let engine_error = |source| engine_error(name, source);
        let model = onnx::read(&path).map_err(engine_error)?;
        if let Some(wanted) = wanted.filter(|_| import.output.is_none()) {
            let outputs = ImportPlan::outputs_of(&model).map_err(engine_error)?;
            import.outputs = hybrid::embeddings(&path, &outputs, wanted)?;
        }
        let plan = ImportPlan::new(model, &import).map_err(engine_error)?;
        for role in [TextRole::Query, TextRole::Passage] {
            plan.check_inputs(inputs.get(role)).map_err(engine_error)?;
        }
        let gives_embeddings = !import.outputs.is_empty();
        Ok(Self::Imported { path, plan: Box::new(plan), inputs, gives_embeddings })
    }

    /// Whether a folder without a row has a graph that gives all that is `wanted`, and no output is named.
    pub(crate) fn gives_embeddings(
        folder: &Path,
        options: &LoadOptions,
        wanted: WantedEmbeddings,
    ) -> Result<bool> {
        let path = onnx_file(folder, None, options).filter(|path| options.output.is_none() && path.is_file());
        let Some(path) = path else {
            return Ok(false);
        };
        // What is wrong with a file is said by the model that is then loaded.
        let Ok(outputs) = onnx::read(&path).and_then(|model| ImportPlan::outputs_of(&model)) else {
            return Ok(false);
        };
        Ok(!hybrid::embeddings(&path, &outputs, wanted)?.is_empty())
    }

    /// The architecture's name; a graph has none.
    pub(crate) fn architecture(&self) -> Option<&'static str> {
        match self {
            Self::Native(config) => Some(config.architecture()),
            Self::Imported { .. } => None,
        }
    }

    /// Length of one row of what the encoder gives.
    pub(crate) fn hidden_size(&self) -> usize {
        match self {
            Self::Native(config) => config.hidden_size(),
            Self::Imported { plan, .. } => plan.hidden_size(),
        }
    }

    /// The outputs of a graph that gives a hybrid model's embeddings: those that were wanted.
    pub(crate) fn embeddings(&self) -> Option<&[OutputRows]> {
        match self {
            Self::Imported { plan, gives_embeddings: true, .. } => Some(plan.outputs()),
            _ => None,
        }
    }

    /// Whether a row is of a whole text already.
    pub(crate) fn is_pooled(&self) -> bool {
        matches!(self, Self::Imported { plan, .. } if plan.is_pooled())
    }

    /// Rows of the token table, where they are known before the weights are read.
    pub(crate) fn vocab_size(&self) -> Option<usize> {
        match self {
            Self::Native(config) => Some(config.vocab_size()),
            Self::Imported { .. } => None,
        }
    }

    /// The longest sequence that has a position, in tokens.
    pub(crate) fn max_positions(&self) -> Option<usize> {
        match self {
            Self::Native(config) => config.max_positions(),
            Self::Imported { plan, .. } => plan.max_positions(),
        }
    }

    /// The file that says these sizes.
    pub(crate) fn file(&self, folder: &Path) -> PathBuf {
        match self {
            Self::Native(_) => folder.join("config.json"),
            Self::Imported { path, .. } => path.clone(),
        }
    }

    /// Reads the encoder's weights, from `weights` where they are not in the graph.
    pub(crate) fn load(
        &self,
        weights: Option<&Weights>,
        pool: &ThreadPool,
        device: &Device,
    ) -> candlewick_engine::Result<Encoders> {
        match self {
            Self::Native(config) => {
                let weights = weights.expect("an architecture's weights are in files of their own");
                let encoder: Arc<dyn TextEncoder> = config.load(weights, device)?.into();
                Ok(ByRole { plain: encoder.clone(), query: encoder.clone(), passage: encoder })
            }
            Self::Imported { path, plan, inputs, gives_embeddings } => {
                let encoder = plan.load(Some(pool))?;
                if *gives_embeddings {
                    check_finite(path, &encoder)?;
                }
                let plain: Arc<dyn TextEncoder> = Arc::new(encoder.clone());
                let with =
                    |given: &BTreeMap<String, f64>| -> candlewick_engine::Result<Arc<dyn TextEncoder>> {
                        if *given == inputs.plain {
                            return Ok(plain.clone());
                        }
                        Ok(Arc::new(encoder.with_inputs(given)?))
                    };
                Ok(ByRole {
                    query: with(&inputs.query)?,
                    passage: with(&inputs.passage)?,
                    plain: plain.clone(),
                })
            }
        }
    }
}

/// Layers behind the encoder that hold what is no number would be found by the first text, in all three embeddings at once:
/// two tokens tell which.
fn check_finite(path: &Path, encoder: &ImportedEncoder) -> candlewick_engine::Result<()> {
    let batch = Batch::from_sequences([[0, 0].as_slice()])?;
    for (values, rows) in encoder.forward_outputs(&batch)?.iter().zip(encoder.outputs()) {
        let values = values.flatten_all()?.to_vec1::<f32>()?;
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(candlewick_engine::Error::InvalidOnnx {
                path: path.to_owned(),
                place: format!("output `{}`", rows.name),
                problem: Problem::new(format!("it is {value} for a text of two tokens")),
            });
        }
    }
    Ok(())
}

/// What a graph is given for each role: what its row says and, for texts that are neither queries nor passages, the
/// caller; or only the caller says it.
fn inputs(row: &[InputSpec], given: &BTreeMap<String, f64>) -> ByRole<BTreeMap<String, f64>> {
    let of_role = |value: fn(&InputSpec) -> f64| {
        let mut inputs = given.clone();
        inputs.extend(row.iter().map(|input| (input.name.clone(), value(input))));
        inputs
    };
    let mut plain = of_role(|input| input.plain);
    plain.extend(given.iter().map(|(name, value)| (name.clone(), *value)));
    ByRole { plain, query: of_role(|input| input.query), passage: of_role(|input| input.passage) }
}

/// The ONNX file that the caller asks for, or the registry's row, or that is all that the folder has.
fn onnx_file(folder: &Path, spec: Option<&ModelSpec>, options: &LoadOptions) -> Option<PathBuf> {
    let is_onnx = |path: &Path| path.extension().is_some_and(|extension| extension == "onnx");
    if let Some(path) = &options.weights {
        return is_onnx(path).then(|| path.clone());
    }
    if let Some(weights) = spec.and_then(ModelSpec::chosen_weights) {
        return (weights.format == WeightsFormat::Onnx).then(|| folder.join(&weights.path));
    }
    let has = |name: &&str| folder.join(name).is_file();
    if CHECKPOINT_FILES.iter().any(&has) {
        return None;
    }
    ONNX_FILES.iter().find(|name| has(name)).map(|name| folder.join(name))
}
