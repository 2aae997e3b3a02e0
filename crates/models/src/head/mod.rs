//! Heads: from an encoder's rows to what the caller gets, one file each.

mod dense;
mod hybrid;
mod multi_vector;
mod projection;
mod score;
mod splade;
mod token_rows;
mod token_weights;

use candle_core::Tensor;
use candlewick_engine::{Batch, Pooling};

use crate::checkpoint::Checkpoint;
use crate::{Error, Result};

pub(crate) use dense::{DenseConfig, DenseHead};
pub(crate) use hybrid::{HybridConfig, HybridHead};
pub(crate) use multi_vector::{MultiVectorConfig, MultiVectorHead};
pub(crate) use score::{ScoreConfig, ScoreHead};
pub(crate) use splade::{SpladeActivation, SpladeConfig, SpladeHead};
pub(crate) use token_rows::{TokenRowsConfig, TokenRowsHead};
pub(crate) use token_weights::{TokenWeightsConfig, TokenWeightsHead};

/// One row for each sequence: the encoder's own where there is no `pooling`.
fn pooled(
    pooling: Option<Pooling>,
    hidden_states: &Tensor,
    batch: &Batch,
) -> candlewick_engine::Result<Tensor> {
    match pooling {
        Some(pooling) => pooling.forward(hidden_states, batch),
        None => Ok(hidden_states.clone()),
    }
}

/// The rows of a matrix; `None` for one that is not finite.
fn finite_rows(rows: &Tensor) -> candlewick_engine::Result<Vec<Option<Vec<f32>>>> {
    let rows = rows.to_vec2::<f32>()?.into_iter();
    Ok(rows.map(|row| row.iter().all(|value| value.is_finite()).then_some(row)).collect())
}

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
