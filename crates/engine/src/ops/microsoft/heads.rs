//! Scaled dot-product attention by head, with whatever the attention operators add to scores.

use crate::graph::{Array, Problem, checked_len, problem};
use crate::kernels::{product, softmax_or_zeros, transposed};

/// Queries, keys and values, one head after the other.
pub(super) struct Heads<'a> {
    pub(super) batch: usize,
    pub(super) num_heads: usize,
    /// A divisor of the heads: each serves as many of them.
    pub(super) num_kv_heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) head_dim: usize,
    pub(super) value_dim: usize,
    /// `[batch, num_heads, queries, head_dim]`
    pub(super) q: &'a [f32],
    /// `[batch, num_kv_heads, keys, head_dim]`
    pub(super) k: &'a [f32],
    /// `[batch, num_kv_heads, keys, value_dim]`
    pub(super) v: &'a [f32],
}

/// How scores become weights.
#[derive(Default)]
pub(super) struct Scores<'a> {
    pub(super) scale: f32,
    /// Scores are bounded by it, where it is not 0.
    pub(super) softcap: f32,
    /// Added: `[batch, queries, keys]`.
    pub(super) mask: Option<Vec<f32>>,
    /// Added, after the mask.
    pub(super) bias: Option<Bias<'a>>,
}

/// An addition to scores by head.
pub(super) struct Bias<'a> {
    /// `[batch or 1, num_heads or 1, queries, keys]`
    values: std::borrow::Cow<'a, [f32]>,
    batch_stride: usize,
    head_stride: usize,
}

impl<'a> Bias<'a> {
    /// Fails when the array has another shape.
    pub(super) fn new(
        array: &'a Array,
        batch: usize,
        num_heads: usize,
        [queries, keys]: [usize; 2],
    ) -> Result<Self, Problem> {
        let [b, h, q, k] = super::sizes(array, "attention_bias")?;
        if (b != 1 && b != batch) || (h != 1 && h != num_heads) || [q, k] != [queries, keys] {
            problem!(
                "attention_bias has shape {:?}, expected [{batch}, {num_heads}, {queries}, {keys}]",
                array.shape()
            );
        }
        let head_stride = if h == 1 { 0 } else { q * k };
        let batch_stride = if b == 1 { 0 } else { h * q * k };
        Ok(Self { values: array.to_floats()?, batch_stride, head_stride })
    }
}

impl Heads<'_> {
    /// `[batch, queries, num_heads * value_dim]`
    pub(super) fn attend(&self, scores: &Scores) -> Result<Vec<f32>, Problem> {
        let Self { batch, num_heads, queries, keys, head_dim, value_dim, .. } = *self;
        let width = num_heads * value_dim;
        checked_len(&[queries, keys], size_of::<f32>())?;
        let mut out = vec![0.0; checked_len(&[batch, queries, width], size_of::<f32>())?];
        if out.is_empty() || keys == 0 {
            return Ok(out);
        }
        let heads_of_kv = num_heads / self.num_kv_heads;
        for sequence in 0..batch {
            for head in 0..num_heads {
                let q_at = (sequence * num_heads + head) * queries * head_dim;
                let kv_at = (sequence * self.num_kv_heads + head / heads_of_kv) * keys;
                let q = &self.q[q_at..q_at + queries * head_dim];
                let k = &self.k[kv_at * head_dim..(kv_at + keys) * head_dim];
                let v = &self.v[kv_at * value_dim..(kv_at + keys) * value_dim];
                let mut weights = product(q, k, [queries, keys, head_dim]);
                scores.apply(&mut weights, sequence, head);
                softmax_or_zeros(&mut weights, keys);
                let v = transposed(v, keys, value_dim);
                let values = product(&weights, &v, [queries, value_dim, keys]);
                let to = &mut out[sequence * queries * width..(sequence + 1) * queries * width];
                for (to, from) in to.chunks_exact_mut(width).zip(values.chunks_exact(value_dim)) {
                    to[head * value_dim..(head + 1) * value_dim].copy_from_slice(from);
                }
            }
        }
        Ok(out)
    }
}

impl Scores<'_> {
    fn apply(&self, scores: &mut [f32], sequence: usize, head: usize) {
        let len = scores.len();
        scores.iter_mut().for_each(|score| *score *= self.scale);
        if self.softcap != 0.0 {
            scores.iter_mut().for_each(|score| *score = self.softcap * (*score / self.softcap).tanh());
        }
        let mut add = |values: &[f32]| {
            scores.iter_mut().zip(values).for_each(|(score, value)| *score += value);
        };
        if let Some(mask) = &self.mask {
            add(&mask[sequence * len..(sequence + 1) * len]);
        }
        if let Some(bias) = &self.bias {
            let at = sequence * bias.batch_stride + head * bias.head_stride;
            add(&bias.values[at..at + len]);
        }
    }
}

/// Which columns of a row belong to heads.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    /// Of a whole row.
    pub(super) width: usize,
    /// Before the first head's.
    pub(super) offset: usize,
    /// From one head's first to the next one's.
    pub(super) stride: usize,
}

/// `[batch, seq, columns.width]` to `[batch, num_heads, seq, dim]`, with a bias `[num_heads * dim]` added.
pub(super) fn by_head(
    values: &[f32],
    bias: Option<&[f32]>,
    [batch, num_heads, seq, dim]: [usize; 4],
    columns: Columns,
) -> Vec<f32> {
    if batch == 0 || seq == 0 || dim == 0 {
        return Vec::new();
    }
    let mut out = Vec::with_capacity(batch * num_heads * seq * dim);
    for sequence in 0..batch {
        for head in 0..num_heads {
            let bias = bias.map(|bias| &bias[head * dim..(head + 1) * dim]);
            for token in 0..seq {
                let at = (sequence * seq + token) * columns.width + columns.offset + head * columns.stride;
                let from = &values[at..at + dim];
                match bias {
                    Some(bias) => out.extend(from.iter().zip(bias).map(|(value, bias)| value + bias)),
                    None => out.extend_from_slice(from),
                }
            }
        }
    }
    out
}

/// `past`, `[heads, past_len, dim]`, and `new`, `[heads, new_len, dim]`, as `[heads, past_len + new_len, dim]`.
pub(super) fn after_past(past: &[f32], new: &[f32], heads: usize) -> Vec<f32> {
    if past.is_empty() || heads == 0 {
        return new.to_vec();
    }
    let mut out = Vec::with_capacity(past.len() + new.len());
    let (past_run, new_run) = (past.len() / heads, new.len() / heads);
    for head in 0..heads {
        out.extend_from_slice(&past[head * past_run..(head + 1) * past_run]);
        out.extend_from_slice(&new[head * new_run..(head + 1) * new_run]);
    }
    out
}

/// What is masked, as it is added to scores.
pub(super) struct Mask {
    pub(super) filter_value: f32,
    pub(super) is_causal: bool,
}

impl Mask {
    /// `[batch, queries, keys]` from what ONNX Runtime calls the mask index, in one of its forms: `[batch]`, how
    /// many keys there are; `[2 * batch]`, where they end and then where they start; `[batch, keys]` and
    /// `[batch, queries, keys]`, not 0 for a key that counts.
    pub(super) fn additions(
        &self,
        index: Option<&Array>,
        [batch, queries, keys]: [usize; 3],
    ) -> Result<Option<Vec<f32>>, Problem> {
        // The last of the queries is the last key, and sees all.
        let is_causal = self.is_causal && queries > 1;
        if index.is_none() && !is_causal {
            return Ok(None);
        }
        let mut mask = vec![0.0; checked_len(&[batch, queries, keys], size_of::<f32>())?];
        if mask.is_empty() {
            return Ok(Some(mask));
        }
        if let Some(index) = index {
            self.fill(&mut mask, index, [batch, queries, keys])?;
        }
        if is_causal {
            let past = keys.saturating_sub(queries);
            for (row, mask) in mask.chunks_exact_mut(keys).enumerate() {
                let visible = past + row % queries + 1;
                mask[visible.min(keys)..].fill(f32::MIN);
            }
        }
        Ok(Some(mask))
    }

    fn fill(
        &self,
        mask: &mut [f32],
        index: &Array,
        [batch, queries, keys]: [usize; 3],
    ) -> Result<(), Problem> {
        let values = index.to_ints()?;
        let size = |value: i64| usize::try_from(value.max(0)).unwrap_or(usize::MAX).min(keys);
        let fill = |mask: &mut [f32], values: &[i64]| {
            for (mask, value) in mask.iter_mut().zip(values) {
                if *value <= 0 {
                    *mask = self.filter_value;
                }
            }
        };
        let shape = index.shape();
        let sequences = mask.chunks_exact_mut(queries * keys).enumerate();
        if shape == [batch] || shape == [batch * 2] {
            for (sequence, mask) in sequences {
                let start = values.get(batch + sequence).map_or(0, |&start| size(start));
                for mask in mask.chunks_exact_mut(keys) {
                    mask[size(values[sequence])..].fill(self.filter_value);
                    mask[..start].fill(self.filter_value);
                }
            }
        } else if shape == [batch, keys] {
            for (sequence, mask) in sequences {
                let values = &values[sequence * keys..(sequence + 1) * keys];
                mask.chunks_exact_mut(keys).for_each(|mask| fill(mask, values));
            }
        } else if shape == [batch, queries, keys] {
            fill(mask, &values);
        } else if shape == [1, 1] || shape == [batch, 1] {
            // What exporters of GPT-2 wrote where there was nothing to mask.
        } else {
            problem!("a mask of shape {shape:?} is not supported for {queries} queries and {keys} keys");
        }
        Ok(())
    }
}
