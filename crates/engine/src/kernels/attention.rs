//! Bidirectional self-attention over packed sequences.
//!
//! Queries, keys and values of all heads are read in place from one `[total_tokens, 3 * hidden_size]` tensor.
//! Each sequence and head is computed in blocks of query rows, so that the scores, `block * seq_len`, stay in
//! cache however long the sequence is; the softmax is exact over each full row. What is computed for a
//! sequence depends on that sequence alone, down to the bits.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::math::exp;
use super::strided::{Matrix, gemm};
use super::{contiguous_f32, simd};
use crate::Batch;

/// Query rows of one block.
const BLOCK: usize = 64;

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
    qkv.apply_op1_no_bwd(&Attention { batch, shape })
}

struct Attention<'a> {
    batch: &'a Batch,
    shape: AttentionShape,
}

impl CustomOp1 for Attention<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = contiguous_f32(storage, layout, self.name())?;
        let hidden_size = self.shape.num_heads * self.shape.head_dim;
        let expected = (self.batch.total_tokens(), 3 * hidden_size);
        if layout.shape().dims2()? != expected {
            bail!("attention: expected {expected:?}, got {:?}", layout.shape());
        }
        let mut out = vec![0.0; expected.0 * hidden_size];
        let mut scores = vec![0.0; BLOCK.min(self.batch.max_seq_len()) * self.batch.max_seq_len()];
        for rows in self.batch.sequences().filter(|rows| !rows.is_empty()) {
            let qkv = &qkv[rows.start * 3 * hidden_size..rows.end * 3 * hidden_size];
            let out = &mut out[rows.start * hidden_size..rows.end * hidden_size];
            for head in 0..self.shape.num_heads {
                self.head(qkv, out, rows.len(), head, &mut scores);
            }
        }
        Ok((CpuStorage::F32(out), Shape::from((expected.0, hidden_size))))
    }
}

impl Attention<'_> {
    /// One head of one sequence; `qkv` and `out` are that sequence's rows.
    fn head(&self, qkv: &[f32], out: &mut [f32], seq_len: usize, head: usize, scores: &mut [f32]) {
        let AttentionShape { num_heads, head_dim, scale } = self.shape;
        let hidden_size = num_heads * head_dim;
        let stride = 3 * hidden_size;
        let part = |part: usize, first_row: usize, rows: usize| {
            let start = first_row * stride + part * hidden_size + head * head_dim;
            Matrix::new(&qkv[start..], rows, head_dim, stride)
        };
        let (keys, values) = (part(1, 0, seq_len).transposed(), part(2, 0, seq_len));
        for first_row in (0..seq_len).step_by(BLOCK) {
            let rows = BLOCK.min(seq_len - first_row);
            let scores = &mut scores[..rows * seq_len];
            gemm(scores, seq_len, part(0, first_row, rows), keys, false);
            softmax_rows(scores, seq_len, scale);
            let start = first_row * hidden_size + head * head_dim;
            gemm(&mut out[start..], hidden_size, Matrix::new(scores, rows, seq_len, seq_len), values, false);
        }
    }
}

simd! {
    /// Replaces each row of `row_len` scores by the softmax of `scale` times the row.
    fn softmax_rows(scores: &mut [f32], row_len: usize, scale: f32) = softmax_loop
}

#[inline(always)]
fn softmax_loop(scores: &mut [f32], row_len: usize, scale: f32) {
    for row in scores.chunks_exact_mut(row_len) {
        let max = max_of(row) * scale;
        // Sixteen running sums, a fixed order of additions that vectorises.
        let mut sums = [0.0f32; 16];
        let (chunks, rest) = row.as_chunks_mut::<16>();
        for chunk in chunks {
            for (sum, score) in sums.iter_mut().zip(chunk) {
                *score = exp(*score * scale - max);
                *sum += *score;
            }
        }
        for (sum, score) in sums.iter_mut().zip(rest) {
            *score = exp(*score * scale - max);
            *sum += *score;
        }
        let inverse = 1.0 / sums.iter().sum::<f32>();
        row.iter_mut().for_each(|score| *score *= inverse);
    }
}

/// NaN may or may not be seen here, but the exponentials carry it into the sum.
#[inline(always)]
fn max_of(row: &[f32]) -> f32 {
    let mut maxima = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = row.as_chunks::<16>();
    for chunk in chunks {
        for (max, score) in maxima.iter_mut().zip(chunk) {
            *max = if *score > *max { *score } else { *max };
        }
    }
    maxima.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, f32::max)
}

/// What [`attention`] computes for one sequence, in f64: `qkv` is `[seq_len, 3 * num_heads * head_dim]`.
pub fn attention_reference(qkv: &[f32], shape: AttentionShape) -> Vec<f64> {
    let hidden_size = shape.num_heads * shape.head_dim;
    let seq_len = qkv.len() / (3 * hidden_size);
    let at = |token: usize, part: usize, column: usize| {
        f64::from(qkv[token * 3 * hidden_size + part * hidden_size + column])
    };
    let mut out = vec![0.0; seq_len * hidden_size];
    for query in 0..seq_len {
        for head in 0..shape.num_heads {
            let columns = head * shape.head_dim..(head + 1) * shape.head_dim;
            let score = |key| columns.clone().map(|c| at(query, 0, c) * at(key, 1, c)).sum::<f64>();
            let scores: Vec<f64> = (0..seq_len).map(|key| score(key) * f64::from(shape.scale)).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for column in columns {
                let weighted = weights.iter().enumerate().map(|(key, weight)| weight * at(key, 2, column));
                out[query * hidden_size + column] = weighted.sum::<f64>() / sum;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    fn values(count: usize, seed: u32) -> Vec<f32> {
        let noise = |i: u32| ((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 4_194_304.0 - 2.0;
        (0..count as u32).map(noise).collect()
    }

    fn run(qkv: &[f32], lengths: &[usize], shape: AttentionShape) -> Vec<f32> {
        let ids: Vec<Vec<u32>> = lengths.iter().map(|length| vec![0; *length]).collect();
        let batch = Batch::from_sequences(ids.iter().map(Vec::as_slice)).unwrap();
        let width = 3 * shape.num_heads * shape.head_dim;
        let qkv = Tensor::from_slice(qkv, (batch.total_tokens(), width), &Device::Cpu).unwrap();
        attention(&qkv, &batch, shape).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    proptest! {
        #[test]
        fn agrees_with_reference_and_ignores_neighbours(
            lengths in prop::collection::vec(0usize..150, 0..4),
            num_heads in 1usize..4,
            head_dim in 1usize..20,
            seed in any::<u32>(),
        ) {
            let shape = AttentionShape { num_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() };
            let width = 3 * num_heads * head_dim;
            let qkv = values(lengths.iter().sum::<usize>() * width, seed);
            let packed = run(&qkv, &lengths, shape);
            let mut first = 0;
            for length in lengths {
                let rows = first..first + length;
                let own = &qkv[rows.start * width..rows.end * width];
                let found = &packed[rows.start * width / 3..rows.end * width / 3];
                prop_assert_eq!(found, run(own, &[length], shape), "bit-identical alone");
                for (found, expected) in found.iter().zip(attention_reference(own, shape)) {
                    prop_assert!((f64::from(*found) - expected).abs() < 1e-5, "{} {}", found, expected);
                }
                first += length;
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for row_len in [1, 15, 16, 17, 100] {
            let mut found = values(7 * row_len, 5);
            let mut expected = found.clone();
            softmax_rows(&mut found, row_len, 0.3);
            softmax_loop(&mut expected, row_len, 0.3);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let shape = AttentionShape { num_heads: 1, head_dim: 1, scale: 1.0 };
        // Scores of 1e8 and -1e8: the softmax is one-hot.
        let found = run(&[1e4, 1e4, 1.0, 1e4, -1e4, 2.0], &[2], shape);
        assert_eq!(found, [1.0, 1.0]);
    }
}
