//! Heads: from an encoder's rows to what the caller gets, one file each.

mod dense;
mod hybrid;
mod multi_vector;
mod projection;
mod score;
mod splade;
mod token_rows;
mod token_weights;

use crate::checkpoint::Checkpoint;
use crate::{Error, Result};

pub(crate) use dense::{DenseConfig, DenseHead};
pub(crate) use hybrid::{HybridConfig, HybridHead};
pub(crate) use multi_vector::{MultiVectorConfig, MultiVectorHead};
pub(crate) use score::{ScoreConfig, ScoreHead};
pub(crate) use splade::{SpladeActivation, SpladeConfig, SpladeHead};
pub(crate) use token_rows::{TokenRowsConfig, TokenRowsHead};
pub(crate) use token_weights::{TokenWeightsConfig, TokenWeightsHead};

/// That the encoder gives a row for each token.
fn check_has_tokens(checkpoint: &Checkpoint) -> Result<()> {
    if !checkpoint.backbone.is_pooled() {
        return Ok(());
    }
    Err(Error::UnsupportedConfig {
        path: checkpoint.backbone.file(&checkpoint.folder),
        key: "outputs".into(),
        problem: "no output has a row for each token".into(),
    })
}
