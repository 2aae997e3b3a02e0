//! Bidirectional self-attention over packed sequences.
//!
//! Queries, keys and values of all heads are read from one `[total_tokens, 3 * hidden_size]` tensor. What is computed
//! for a sequence depends on that sequence alone, down to the bits; they may differ between CPUs with different
//! instruction sets.

mod bias;
mod head;
mod options;
mod reference;

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use self::head::Head;
pub use self::options::{AttentionOptions, PositionBias, Rotary};
pub use self::reference::attention_reference;
use super::factors::dispatch_product;
use super::{Disjoint, MIN_SHARED_PRODUCTS, contiguous_f32};
use crate::runtime::share;
use crate::{Batch, Precision};

/// Sizes of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Number of heads.
    pub num_heads: usize,
    /// Length of one head's query, key or value.
    pub head_dim: usize,
    /// What scores are multiplied by, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
}

/// Attention of every token to all tokens of its own sequence.
///
/// `qkv` is `[total_tokens, 3 * num_heads * head_dim]`: all queries, then all keys, then all values of a
/// token. The result is `[total_tokens, num_heads * head_dim]`. CPU tensors only.
///
/// # Errors
///
/// When `qkv` is not a contiguous f32 tensor of that shape.
pub fn attention(qkv: &Tensor, batch: &Batch, shape: AttentionShape) -> Result<Tensor> {
    attention_with(qkv, batch, shape, &AttentionOptions::default())
}

/// [`attention`], with positions in the scores.
///
/// # Errors
///
/// As [`attention`], and when the options do not fit the shape or the longest sequence.
pub fn attention_with(
    qkv: &Tensor,
    batch: &Batch,
    shape: AttentionShape,
    options: &AttentionOptions,
) -> Result<Tensor> {
    qkv.apply_op1_no_bwd(&Attention { batch, shape, options })
}

struct Attention<'a> {
    batch: &'a Batch,
    shape: AttentionShape,
    options: &'a AttentionOptions<'a>,
}

impl CustomOp1 for Attention<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = contiguous_f32(storage, layout, self.name())?;
        let AttentionShape { num_heads, head_dim, .. } = self.shape;
        let (tokens, hidden_size) = (self.batch.total_tokens(), num_heads * head_dim);
        if layout.shape().dims2()? != (tokens, 3 * hidden_size) {
            bail!("attention: expected {:?}, got {:?}", (tokens, 3 * hidden_size), layout.shape());
        }
        let sequences: Vec<_> = self.batch.sequences().collect();
        let values = attention_of_rows(qkv, &sequences, self.shape, self.options)?;
        Ok((CpuStorage::F32(values), Shape::from((tokens, hidden_size))))
    }
}

/// [`attention_with`] of rows `[total_tokens, 3 * num_heads * head_dim]`, where `sequences` lie end to end.
pub(crate) fn attention_of_rows(
    qkv: &[f32],
    sequences: &[Range<usize>],
    shape: AttentionShape,
    options: &AttentionOptions,
) -> Result<Vec<f32>> {
    let AttentionShape { num_heads, head_dim, .. } = shape;
    let hidden_size = num_heads * head_dim;
    let total_tokens = sequences.iter().map(Range::len).sum::<usize>();
    if hidden_size == 0 || qkv.len() != total_tokens * 3 * hidden_size {
        bail!("attention: {} values for {total_tokens} tokens of {num_heads} heads of {head_dim}", qkv.len());
    }
    options.check(shape, sequences)?;
    let mut values = Vec::with_capacity(total_tokens * hidden_size);
    let out = Disjoint(values.as_mut_ptr());
    let attended = |(index, rows): (usize, &Range<usize>)| {
        let keys = options.attended.map_or(rows.len(), |attended| attended[index] as usize);
        (rows.clone(), keys)
    };
    let sequences: Vec<_> =
        sequences.iter().enumerate().map(attended).filter(|(rows, _)| !rows.is_empty()).collect();
    let may_round = matches!(options.precision, Precision::Bf16 | Precision::Int8);
    let run_head = |index: usize| {
        let ((rows, keys), head) = (&sequences[index / num_heads], index % num_heads);
        let head = Head {
            shape,
            options,
            qkv: &qkv[rows.start * 3 * hidden_size..rows.end * 3 * hidden_size],
            seq_len: rows.len(),
            keys: *keys,
            head,
            // SAFETY: `values` has room for `hidden_size` columns of every token.
            out: unsafe { out.add(rows.start * hidden_size + head * head_dim) },
        };
        dispatch_product(head, may_round);
    };
    let heads = sequences.len() * num_heads;
    let products: usize = sequences.iter().map(|(rows, keys)| 2 * rows.len() * keys * hidden_size).sum();
    let heads_of_part = (MIN_SHARED_PRODUCTS * heads).div_ceil(products.max(1));
    share(heads.div_ceil(heads_of_part.max(1)), |index| {
        let first = index * heads_of_part;
        (first..heads.min(first + heads_of_part)).for_each(run_head);
    });
    // SAFETY: every token is in a sequence, and the heads of a sequence write all columns of its tokens.
    unsafe { values.set_len(total_tokens * hidden_size) };
    Ok(values)
}

#[cfg(test)]
mod tests;
