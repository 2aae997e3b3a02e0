//! Architectures: one file each, read against its Python original line by line.
//!
//! A `Config` has the names of config.json, and loads itself into an encoder whose sub-views have the names of
//! the checkpoint. Adding an architecture is one file and one line in [`read_config`].

mod bert;

use std::path::Path;

use candle_core::Device;
use candlewick_engine::{TextEncoder, Weights};
use serde::Deserialize;

use crate::json::read_json;
use crate::{Error, Result};

/// A text encoder as its config.json describes it.
pub(crate) trait EncoderConfig: Send + Sync + std::fmt::Debug {
    /// The architecture's name: `model_type` in config.json, `architecture` in the registry.
    fn architecture(&self) -> &'static str;

    /// Length of one hidden state.
    fn hidden_size(&self) -> usize;

    /// Rows of the token table.
    fn vocab_size(&self) -> usize;

    /// The longest sequence that has a position, in tokens.
    fn max_positions(&self) -> Option<usize>;

    /// Reads the weights.
    fn load(&self, weights: &Weights, device: &Device) -> candlewick_engine::Result<Box<dyn TextEncoder>>;
}

/// The architectures that [`read_config`] reads.
const KNOWN: [&str; 1] = ["bert"];

/// Whether there is an encoder for this `model_type`.
pub(crate) fn is_known(architecture: &str) -> bool {
    KNOWN.contains(&architecture)
}

/// Reads config.json and dispatches on its `model_type`.
pub(crate) fn read_config(path: &Path) -> Result<Box<dyn EncoderConfig>> {
    #[derive(Deserialize)]
    struct Common {
        model_type: String,
    }
    let common: Common = read_json(path)?;
    match common.model_type.as_str() {
        "bert" => Ok(Box::new(bert::Config::read(path)?)),
        other => Err(Error::UnsupportedConfig {
            path: path.to_owned(),
            key: "model_type".into(),
            problem: format!("architecture `{other}` is not supported; known: {}", KNOWN.join(", ")),
        }),
    }
}
