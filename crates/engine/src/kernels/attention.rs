//! Bidirectional self-attention over packed sequences.
//!
//! Queries, keys and values of all heads are read from one `[total_tokens, 3 * hidden_size]` tensor. What is computed
//! for a sequence depends on that sequence alone, down to the bits; they may differ between CPUs with different
//! instruction sets.

mod bias;
mod head;
mod options;
mod reference;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use self::head::Head;
pub use self::options::{AttentionOptions, PositionBias, Rotary};
pub use self::reference::attention_reference;
use super::contiguous_f32;
use super::lanes::dispatch;
use crate::Batch;

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

/// Results of the heads, who write disjoint columns.
struct Out(*mut f32);

// SAFETY: every element is written by one part alone.
unsafe impl Sync for Out {}

impl CustomOp1 for Attention<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = contiguous_f32(storage, layout, self.name())?;
        let AttentionShape { num_heads, head_dim, .. } = self.shape;
        let hidden_size = num_heads * head_dim;
        let expected = (self.batch.total_tokens(), 3 * hidden_size);
        if hidden_size == 0 || layout.shape().dims2()? != expected {
            bail!("attention: expected {expected:?}, got {:?}", layout.shape());
        }
        self.options.check(self.shape, self.batch.max_seq_len())?;
        let mut values = vec![0.0; expected.0 * hidden_size];
        let out = Out(values.as_mut_ptr());
        let sequences: Vec<_> = self.batch.sequences().filter(|rows| !rows.is_empty()).collect();
        let part = |part: usize| {
            let (rows, head) = (&sequences[part / num_heads], part % num_heads);
            let out = &out;
            dispatch(Head {
                shape: self.shape,
                options: self.options,
                qkv: &qkv[rows.start * 3 * hidden_size..rows.end * 3 * hidden_size],
                seq_len: rows.len(),
                head,
                // SAFETY: `values` has `hidden_size` columns for every token.
                out: unsafe { out.0.add(rows.start * hidden_size + head * head_dim) },
            });
        };
        run_parts(sequences.len() * num_heads, part);
        Ok((CpuStorage::F32(values), Shape::from((expected.0, hidden_size))))
    }
}
/// Parts are independent of each other and may run at once, in any order.
fn run_parts(parts: usize, part: impl Fn(usize) + Sync) {
    for index in 0..parts {
        part(index);
    }
}

#[cfg(test)]
mod tests;
