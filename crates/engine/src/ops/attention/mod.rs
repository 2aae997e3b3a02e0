//! Attention, and what turns its queries and keys by their positions.

pub(super) mod rotary;
pub(crate) mod sdpa;
