//! Heads: from an encoder's rows to what the caller gets, one file each.

mod dense;
mod multi_vector;
mod projection;
mod score;
mod splade;

pub(crate) use dense::{DenseConfig, DenseHead};
pub(crate) use multi_vector::{MultiVectorConfig, MultiVectorHead};
pub(crate) use score::{ScoreConfig, ScoreHead};
pub(crate) use splade::{SpladeActivation, SpladeConfig, SpladeHead};
