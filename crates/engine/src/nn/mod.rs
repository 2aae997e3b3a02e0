//! The layers that architectures are built from.
//!
//! A layer loads itself from a [`View`](crate::View) whose names are the checkpoint's, and works on packed
//! `[total_tokens, ...]` tensors. On CPU it runs the fused kernel in [`kernels`](crate::kernels); on any
//! other device the same computation composed of Candle's operations, which the tests also run on CPU and
//! compare.

mod attention;
mod embedding;
mod linear;
mod mlp;
mod norm;
mod splade;

pub use crate::kernels::Activation;
pub use attention::SelfAttention;
pub use embedding::Embeddings;
pub use linear::{Linear, LinearConfig};
pub use mlp::Mlp;
pub use norm::LayerNorm;
pub use splade::VocabularyMax;
