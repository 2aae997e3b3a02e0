//! Architectures: one file each, read against its Python original line by line.
//!
//! A `Config` has the names of config.json, and loads itself into an encoder whose sub-views have the names of
//! the checkpoint. Adding an architecture is one file and one line in [`read_config`].

mod bert;
mod roberta;

use std::path::Path;

use candle_core::Device;
use candlewick_engine::nn::Activation;
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

    /// Where checkpoints keep the head that predicts masked tokens.
    fn masked_lm(&self) -> Option<MaskedLmNames> {
        None
    }

    /// The linear layers that make labels of the first token's hidden state, in order: the name of each, and what
    /// follows it. The last one's width is the number of labels.
    fn classifier(&self) -> Option<Vec<(&'static str, Option<Activation>)>> {
        None
    }

    /// Reads the weights.
    fn load(&self, weights: &Weights, device: &Device) -> candlewick_engine::Result<Box<dyn TextEncoder>>;
}

/// Names of the tensors of a head that predicts masked tokens: a linear layer with activation, layer norm, and a
/// decoder to the vocabulary.
#[derive(Clone, Debug)]
pub(crate) struct MaskedLmNames {
    pub(crate) transform: &'static str,
    pub(crate) activation: Activation,
    pub(crate) norm: &'static str,
    pub(crate) norm_eps: f64,
    /// `[vocab_size, hidden_size]`; of several, the first that is there: the last is the token table that it is tied to.
    pub(crate) decoder: &'static [&'static str],
    /// `[vocab_size]`; of several, the first that is there.
    pub(crate) bias: &'static [&'static str],
}

/// The architectures that [`read_config`] reads.
const KNOWN: [&str; 3] = ["bert", "roberta", "xlm-roberta"];

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
        "roberta" => Ok(Box::new(roberta::Config::read(path, "roberta")?)),
        "xlm-roberta" => Ok(Box::new(roberta::Config::read(path, "xlm-roberta")?)),
        other => Err(Error::UnsupportedConfig {
            path: path.to_owned(),
            key: "model_type".into(),
            problem: format!("architecture `{other}` is not supported; known: {}", KNOWN.join(", ")),
        }),
    }
}
