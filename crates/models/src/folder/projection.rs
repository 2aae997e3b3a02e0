//! `Dense` modules: linear layers behind the encoder, as sentence-transformers and PyLate write them.

use std::path::{Path, PathBuf};

use candlewick_engine::nn::Activation;
use serde::Deserialize;

use super::unsupported;
use crate::Result;
use crate::json::{file_missing, read_json};

/// A `Dense` module: a linear layer on vectors of texts or of tokens.
#[derive(Debug)]
pub(crate) struct Projection {
    pub(crate) in_features: usize,
    pub(crate) out_features: usize,
    pub(crate) bias: bool,
    pub(crate) activation: Option<Activation>,
    /// Whether the input is added to the output; through a linear layer of its own where their widths differ.
    pub(crate) use_residual: bool,
    pub(crate) weights: PathBuf,
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
    Ok(Projection { in_features, out_features, bias, activation, use_residual, weights })
}
