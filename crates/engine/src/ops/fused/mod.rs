//! Operators that no file holds: what passes put in the place of several nodes.
//!
//! They run the kernels that native architectures run. Those under `packed` read sequences that lie end to end,
//! `[1, total_tokens, ...]`, with `cu_seqlens` as an input, where the file's own nodes read padded batches.

mod activate;
mod first_token;
mod layer_norm;
mod linear;
mod packed;
mod sizes;
mod splade;

pub(crate) use activate::Activate;
pub(crate) use first_token::{FirstTokenAttention, PackedFirstTokenAttention};
pub(crate) use layer_norm::LayerNorm;
pub(crate) use linear::{Linear, Mlp, WeightLayout};
pub(crate) use packed::{
    CumSumSequences, DistanceTable, FirstTokens, LastTokens, PackedAttention, ReduceSequences, Reduction,
    RotaryTable, RowsByPosition,
};
pub(crate) use sizes::{CountOnes, PositionIds};
pub(crate) use splade::VocabularyMax;
