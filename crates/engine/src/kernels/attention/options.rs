//! What attention depends on besides queries, keys and values.

use std::ops::Range;

use candle_core::{Result, bail};

use super::AttentionShape;
use crate::Precision;

/// What attention depends on besides queries, keys and values; by default nothing, computed in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AttentionOptions<'a> {
    /// Added to the scaled scores.
    pub bias: Option<PositionBias<'a>>,
    /// Tokens attend to those at most this far away, on either side; to all where `None`.
    pub window: Option<usize>,
    /// Rotates queries and keys by their positions.
    pub rotary: Option<Rotary<'a>>,
    /// How many of each sequence's first tokens are attended to, of all sequences; all where `None`. Not together with a
    /// window, which may leave a token nothing to attend to.
    pub attended: Option<&'a [u32]>,
    /// What the linear layers around have. In bf16 and int8, queries, keys, values and the powers of the
    /// softmax are rounded to bf16 if the CPU multiplies pairs of them; all else is computed in f32.
    pub precision: Precision,
}

/// An addition to scaled scores that depends on the distance of key and query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PositionBias<'a> {
    /// Minus the head's slope times the distance (Press et al., arXiv:2108.12409), which counts alike on both
    /// sides.
    Alibi {
        /// `[num_heads]`
        slopes: &'a [f32],
    },
    /// Learned for each distance, as in T5 and MPNet.
    Relative {
        /// `[num_heads, 2 * max_distance - 1]`, by key minus query plus `max_distance - 1`. Tokens further apart
        /// take the first or last entry: buckets of distances end in one without bound.
        table: &'a [f32],
        /// One more than the largest distance with an entry of its own.
        max_distance: usize,
    },
}

/// Rotary position embedding (Su et al., arXiv:2104.09864) in the layout of GPT-NeoX: column `i` is paired with
/// column `i + dim / 2`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary<'a> {
    /// `[max_positions, dim / 2]`
    pub cos: &'a [f32],
    /// `[max_positions, dim / 2]`
    pub sin: &'a [f32],
    /// How many of a head's first columns are rotated; even.
    pub dim: usize,
}

impl<'a> Rotary<'a> {
    /// The cosines and sines of a position.
    #[inline(always)]
    pub(super) fn at(&self, position: usize) -> (&'a [f32], &'a [f32]) {
        let row = position * self.dim / 2..(position + 1) * self.dim / 2;
        (&self.cos[row.clone()], &self.sin[row])
    }
}

impl AttentionOptions<'_> {
    /// Fails when tables do not fit the heads or the sequences.
    pub(super) fn check(&self, shape: AttentionShape, sequences: &[Range<usize>]) -> Result<()> {
        let max_seq_len = sequences.iter().map(Range::len).max().unwrap_or(0);
        if let Some(attended) = self.attended {
            let fits = |(rows, length): (&Range<usize>, &u32)| {
                *length as usize <= rows.len() && (*length > 0 || rows.is_empty())
            };
            if attended.len() != sequences.len() || !sequences.iter().zip(attended).all(fits) {
                bail!("attention: attended lengths {attended:?} for sequences {sequences:?}");
            }
            if self.window.is_some() {
                bail!("attention: a window of tokens of which some are not attended to");
            }
        }
        match self.bias {
            Some(PositionBias::Alibi { slopes }) if slopes.len() != shape.num_heads => {
                bail!("attention: {} slopes for {} heads", slopes.len(), shape.num_heads)
            }
            Some(PositionBias::Relative { table, max_distance })
                if max_distance == 0
                    || max_distance > table.len()
                    || table.len() != shape.num_heads * (2 * max_distance - 1) =>
            {
                bail!(
                    "attention: {} biases for {} heads and {max_distance} distances",
                    table.len(),
                    shape.num_heads
                )
            }
            _ => {}
        }
        if let Some(Rotary { cos, sin, dim }) = self.rotary {
            if dim % 2 != 0 || dim > shape.head_dim {
                bail!("attention: rotary dimension {dim} of heads of {}", shape.head_dim);
            }
            if cos.len() != sin.len() || cos.len() < max_seq_len * (dim / 2) {
                bail!("attention: {} cosines and {} sines for {max_seq_len} positions", cos.len(), sin.len());
            }
        }
        Ok(())
    }
}
