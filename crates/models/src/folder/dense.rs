//! The modules of a model that makes one vector per text: pooling, projections, normalisation.
//!
//! Both the classic form and that of sentence-transformers 6 are read; they differ in type paths and in how pooling
//! is spelled.

use std::path::{Path, PathBuf};

use candlewick_engine::Pooling;
use candlewick_engine::nn::Activation;
use serde::Deserialize;
use serde_json::Value;

use super::{FolderConfig, unsupported};
use crate::json::{file_missing, read_json};
use crate::Result;

/// What follows the encoder.
#[derive(Debug, Default)]
pub(crate) struct DenseModules {
    pub(crate) pooling: Option<Pooling>,
    /// Known as soon as there is a modules.json: a list without `Normalize` means no.
    pub(crate) normalize: Option<bool>,
    pub(crate) projections: Vec<Projection>,
}

/// A `Dense` module: a linear layer on pooled vectors.
#[derive(Debug)]
pub(crate) struct Projection {
    pub(crate) in_features: usize,
    pub(crate) out_features: usize,
    pub(crate) bias: bool,
    pub(crate) activation: Option<Activation>,
    pub(crate) weights: PathBuf,
}

impl DenseModules {
    /// Reads the modules' own files.
    ///
    /// # Errors
    ///
    /// When a module has no place in such a model.
    pub(crate) fn read(folder: &Path, config: &FolderConfig) -> Result<Self> {
        let mut read = Self::default();
        let Some(modules) = &config.modules else {
            return Ok(read);
        };
        let mut normalize = false;
        for (index, module) in modules.iter().enumerate() {
            match module.name() {
                "Transformer" if index == 0 => {}
                "Pooling" if index == 1 => read.pooling = Some(read_pooling(&module.folder.join("config.json"))?),
                "Dense" if read.pooling.is_some() && !normalize => {
                    read.projections.push(read_projection(&module.folder)?);
                }
                "Normalize" if read.pooling.is_some() => normalize = true,
                _ => return Err(module.unsupported(folder, index)),
            }
        }
        read.normalize = Some(normalize);
        Ok(read)
    }
}

/// Either `pooling_mode`, a name or a list of names, or one boolean per mode.
fn read_pooling(path: &Path) -> Result<Pooling> {
    let config: serde_json::Map<String, Value> = read_json(path)?;
    if config.get("include_prompt") == Some(&Value::Bool(false)) {
        return Err(unsupported(
            path,
            "include_prompt",
            "pooling without the prompt is not supported".into(),
        ));
    }
    let modes: Vec<String> = match config.get("pooling_mode") {
        Some(Value::String(mode)) => vec![mode.clone()],
        Some(Value::Array(modes)) => modes.iter().map(|mode| mode.as_str().unwrap_or("?").into()).collect(),
        Some(other) => return Err(unsupported(path, "pooling_mode", format!("{other} is not a name"))),
        None => config
            .iter()
            .filter(|(_, value)| **value == Value::Bool(true))
            .filter_map(|(key, _)| Some(key.strip_prefix("pooling_mode_")?.to_owned()))
            .collect(),
    };
    match modes.as_slice() {
        [] => Ok(Pooling::Mean),
        [mode] => match mode.as_str() {
            "cls" | "cls_token" => Ok(Pooling::Cls),
            "mean" | "mean_tokens" => Ok(Pooling::Mean),
            "lasttoken" => Ok(Pooling::LastToken),
            other => Err(unsupported(path, "pooling_mode", format!("`{other}` is not supported"))),
        },
        several => {
            let problem = format!("a concatenation of {} is not supported", several.join(", "));
            Err(unsupported(path, "pooling_mode", problem))
        }
    }
}

fn read_projection(folder: &Path) -> Result<Projection> {
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
    if config.use_residual {
        return Err(unsupported(&path, "use_residual", "a residual around Dense is not supported".into()));
    }
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
    let Config { in_features, out_features, bias, .. } = config;
    Ok(Projection { in_features, out_features, bias, activation, weights })
}
