//! Linear layers behind the encoder: `Dense` modules, as sentence-transformers and PyLate write them, and the layers that
//! FlagEmbedding keeps beside BGE-M3.

use std::path::{Path, PathBuf};

use candlewick_engine::Weights;
use candlewick_engine::nn::Activation;
use serde::Deserialize;

use super::unsupported;
use crate::Result;
use crate::checkpoint::engine_error;
use crate::json::{file_missing, read_json};

/// A linear layer on vectors of texts or of tokens.
#[derive(Debug)]
pub(crate) struct Projection {
    pub(crate) in_features: usize,
    pub(crate) out_features: usize,
    pub(crate) bias: bool,
    pub(crate) activation: Option<Activation>,
    /// Whether the input is added to the output; through a linear layer of its own where their widths differ.
    pub(crate) use_residual: bool,
    pub(crate) weights: PathBuf,
    /// What the names of its tensors begin with: `linear` in a module, nothing where the file is of the layer alone.
    pub(crate) prefix: Option<&'static str>,
}

/// Reads a `Dense` module's own files.
///
/// # Errors
///
/// When they are missing or ask for something that is not supported.
pub(crate) fn read_projection(folder: &Path) -> Result<Projection> {
    #[derive(Deserialize)]
    struct Config {
        in_features: usize,
        out_features: usize,
        #[serde(default = "yes")]
        bias: bool,
        #[serde(default = "tanh")]
        activation_function: String,
        #[serde(default)]
        use_residual: bool,
    }
    fn yes() -> bool {
        true
    }
    // The default of sentence-transformers' Dense.
    fn tanh() -> String {
        "torch.nn.modules.activation.Tanh".into()
    }
    let path = folder.join("config.json");
    let config: Config = read_json(&path)?;
    let activation = match config.activation_function.rsplit('.').next().unwrap_or_default() {
        "Identity" => None,
        "Tanh" => Some(Activation::Tanh),
        "ReLU" => Some(Activation::Relu),
        "GELU" => Some(Activation::GeluErf),
        other => {
            return Err(unsupported(&path, "activation_function", format!("`{other}` is not supported")));
        }
    };
    let weights = folder.join("model.safetensors");
    if !weights.is_file() {
        return Err(file_missing(&weights));
    }
    let Config { in_features, out_features, bias, use_residual, .. } = config;
    Ok(Projection {
        in_features,
        out_features,
        bias,
        activation,
        use_residual,
        weights,
        prefix: Some("linear"),
    })
}

/// Finds the file of a layer that FlagEmbedding keeps beside a model: `NAME.pt`, or what others made of it.
pub(crate) fn layer_file(folder: &Path, name: &str) -> Option<PathBuf> {
    let file = |extension: &str| folder.join(format!("{name}.{extension}"));
    ["safetensors", "pt"].map(file).into_iter().find(|path| path.is_file())
}

/// [`layer_file`] of a layer that must be there.
pub(crate) fn need_layer_file(folder: &Path, name: &str) -> Result<PathBuf> {
    layer_file(folder, name).ok_or_else(|| file_missing(&folder.join(format!("{name}.pt"))))
}

/// Reads the sizes of a layer that has a file of its own; `model` is who needs it.
///
/// # Errors
///
/// When the file is broken, or has no `weight` of two dimensions.
pub(crate) fn read_layer(path: &Path, model: &str) -> Result<Projection> {
    let engine_error = |source| engine_error(model, source);
    let weights = Weights::open([path]).map_err(engine_error)?;
    let (out_features, in_features) = match weights.shape("weight") {
        Some(&[out_features, in_features]) => (out_features, in_features),
        Some(shape) => {
            return Err(unsupported(path, "weight", format!("{shape:?} is the shape of no linear layer")));
        }
        None => {
            let (path, tensor) = (path.to_owned(), "weight".to_owned());
            return Err(engine_error(candlewick_engine::Error::MissingTensor { path, tensor }));
        }
    };
    Ok(Projection {
        in_features,
        out_features,
        bias: weights.contains("bias"),
        activation: None,
        use_residual: false,
        weights: path.to_owned(),
        prefix: None,
    })
}
