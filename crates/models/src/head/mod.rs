//! Heads: from an encoder's rows to what the caller gets, one file each.

mod dense;
mod multi_vector;
mod projection;
mod score;
mod splade;
mod token_rows;

pub(crate) use dense::{DenseConfig, DenseHead};
pub(crate) use multi_vector::{MultiVectorConfig, MultiVectorHead};
pub(crate) use score::{ScoreConfig, ScoreHead};
pub(crate) use splade::{SpladeActivation, SpladeConfig, SpladeHead};
pub(crate) use token_rows::{TokenRowsConfig, TokenRowsHead};
