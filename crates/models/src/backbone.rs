//! The part of a model that turns tokens into hidden states, before its weights are read: an architecture that is
//! written here, or an imported graph.

use std::path::{Path, PathBuf};

use candlewick_engine::{ImportOptions, ImportPlan};

use crate::arch::{self, EncoderConfig};
use crate::checkpoint::engine_error;
use crate::registry::{ModelSpec, WeightsFormat};
use crate::{Error, LoadOptions, Result};

/// What a folder's encoder is.
#[derive(Debug)]
pub(crate) enum Backbone {
    /// An architecture with the sizes in config.json; its weights are safetensors.
    Native(Box<dyn EncoderConfig>),
    /// A graph.
    Imported {
        /// The ONNX file.
        path: PathBuf,
        plan: Box<ImportPlan>,
    },
}

/// Where exporters put graphs, the fastest first where there are several.
const ONNX_FILES: &[&str] =
    &["model_optimized.onnx", "model.onnx", "onnx/model_optimized.onnx", "onnx/model.onnx"];

impl Backbone {
    /// Reads config.json, or the graph, whichever the weights need.
    pub(crate) fn read(
        name: &str,
        folder: &Path,
        spec: Option<&ModelSpec>,
        options: &LoadOptions,
    ) -> Result<Self> {
        let Some(path) = onnx_file(folder, spec, options) else {
            if options.output.is_some() {
                return Err(Error::InvalidOption {
                    model: name.to_owned(),
                    option: "output",
                    requested: options.output.clone().unwrap_or_default(),
                    problem: "only ONNX files have named outputs".to_owned(),
                });
            }
            return Ok(Self::Native(arch::read_config(&folder.join("config.json"))?));
        };
        if !path.is_file() {
            return Err(crate::json::file_missing(&path));
        }
        let mut import = ImportOptions::default();
        import.output.clone_from(&options.output);
        import.precision = options.precision;
        import.int8 = options.int8;
        let plan = ImportPlan::read(&path, &import).map_err(|source| engine_error(name, source))?;
        Ok(Self::Imported { path, plan: Box::new(plan) })
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
    if ["model.safetensors", "model.safetensors.index.json"].iter().any(&has) {
        return None;
    }
    ONNX_FILES.iter().find(|name| has(name)).map(|name| folder.join(name))
}
