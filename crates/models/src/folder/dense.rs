//! The modules of a model that makes one vector per text: pooling, projections, normalisation.
//!
//! Both the classic form and that of sentence-transformers 6 are read; they differ in type paths and in how pooling
//! is spelled.

use std::path::Path;

use candlewick_engine::Pooling;
use serde_json::Value;

use super::projection::{Projection, layer_file, read_projection};
use super::{FolderConfig, unsupported};
use crate::Result;
use crate::json::read_json;

/// What follows the encoder.
#[derive(Debug, Default)]
pub(crate) struct DenseModules {
    pub(crate) pooling: Option<Pooling>,
    /// Known as soon as there is a modules.json: a list without `Normalize` means no.
    pub(crate) normalize: Option<bool>,
    pub(crate) projections: Vec<Projection>,
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
            // FlagEmbedding's defaults for BGE-M3.
            if ["sparse_linear", "colbert_linear"].iter().all(|name| layer_file(folder, name).is_some()) {
                (read.pooling, read.normalize) = (Some(Pooling::Cls), Some(true));
            }
            return Ok(read);
        };
        let mut normalize = false;
        for (index, module) in modules.iter().enumerate() {
            match module.name() {
                "Transformer" if index == 0 => {}
                "Pooling" if index == 1 => {
                    read.pooling = Some(read_pooling(&module.folder.join("config.json"))?)
                }
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
