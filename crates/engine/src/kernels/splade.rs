//! SPLADE's pooling of vocabulary logits (Formal et al., arXiv:2109.10086): `max over tokens of ln(1 + relu(logit))`.
//!
//! ln(1 + relu) is monotonic, so it is taken of the maxima alone, and logits are folded into them block by block:
//! `[tokens, vocab_size]` is never held whole.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, bail};

use super::gemm::{MAX_IN_FEATURES, PackedWeight};
use super::{Disjoint, PackError, contiguous_f32, simd};
use crate::runtime::share;
use crate::{Batch, Precision};

simd! {
    /// Folds a block of logits, `[tokens, maxima.len()]`, into the running maxima of its vocabulary entries.
    /// Maxima start from zero, which is relu. NaN stays NaN.
    pub fn splade_max(maxima: &mut [f32], logits: &[f32]) = max_loop
}

#[inline(always)]
fn max_loop(maxima: &mut [f32], logits: &[f32]) {
    if maxima.is_empty() {
        return;
    }
    for row in logits.chunks_exact(maxima.len()) {
        for (max, logit) in maxima.iter_mut().zip(row) {
            *max = if *logit > *max || logit.is_nan() { *logit } else { *max };
        }
    }
}

/// Replaces maxima of logits, none negative, by `ln(1 + max)`: the weights of a sequence's vocabulary entries.
pub fn splade_weights(maxima: &mut [f32]) {
    // Most entries are zero, and stay so.
    for max in maxima.iter_mut().filter(|max| **max != 0.0) {
        *max = max.ln_1p();
    }
}

/// The last layer of a masked language model, `[hidden_size]` to `[vocab_size]`, of which only the largest logit of each
/// vocabulary entry over the tokens of a sequence is wanted.
#[derive(Debug)]
pub struct SpladeDecoder {
    /// [`BLOCK`] vocabulary entries each, the last one fewer.
    blocks: Vec<PackedWeight>,
    hidden_size: usize,
    vocab_size: usize,
}

/// Vocabulary entries whose logits, of [`ROWS`] tokens, stay in a second-level cache until they are folded.
const BLOCK: usize = 512;

/// Tokens that are decoded at a time.
const ROWS: usize = 256;

impl SpladeDecoder {
    /// Takes a weight `[vocab_size, hidden_size]` in row-major order and a bias `[vocab_size]`.
    ///
    /// # Errors
    ///
    /// When the precision cannot hold the weight.
    ///
    /// # Panics
    ///
    /// When `hidden_size` is 0 or the sizes disagree.
    pub fn new(
        weight: &[f32],
        bias: &[f32],
        hidden_size: usize,
        precision: Precision,
    ) -> std::result::Result<Self, PackError> {
        assert_eq!(weight.len(), bias.len() * hidden_size, "a weight is [vocab_size, hidden_size]");
        if precision == Precision::Int8 && hidden_size > MAX_IN_FEATURES {
            return Err(PackError::TooWide);
        }
        let parts = weight.chunks(BLOCK * hidden_size).zip(bias.chunks(BLOCK)).enumerate();
        let pack = |(index, (weight, bias)): (usize, (&[f32], &[f32]))| {
            PackedWeight::new(weight, bias.to_vec(), hidden_size, precision)
                .map_err(|place| PackError::OutOfRange(index * BLOCK * hidden_size + place))
        };
        let blocks = parts.map(pack).collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(Self { blocks, hidden_size, vocab_size: bias.len() })
    }

    /// Entries of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The largest logits of each of `sequences`, or zero where none is larger: `[total_tokens, hidden_size]` to
    /// `[batch_size, vocab_size]`. Sequences lie end to end.
    pub(crate) fn maxima(&self, x: &[f32], sequences: &[Range<usize>]) -> Result<Vec<f32>> {
        let tokens = sequences.last().map_or(0, |last| last.end);
        if x.len() != tokens * self.hidden_size {
            bail!("splade: {} values for {tokens} tokens of {}", x.len(), self.hidden_size);
        }
        let mut maxima = vec![0.0; sequences.len() * self.vocab_size];
        let out = Disjoint(maxima.as_mut_ptr());
        share(self.blocks.len(), |index| {
            let (block, first) = (&self.blocks[index], index * BLOCK);
            let width = block.out_features();
            let mut following = sequences.iter().enumerate().filter(|(_, rows)| !rows.is_empty()).peekable();
            for (chunk, x) in x.chunks(ROWS * self.hidden_size).enumerate() {
                let logits = block.multiply(x, None);
                let (start, end) = (chunk * ROWS, chunk * ROWS + logits.len() / width);
                while let Some((sequence, rows)) = following.peek() {
                    let here = rows.start.max(start)..rows.end.min(end);
                    // SAFETY: a block has these entries of every sequence to itself.
                    let maxima = unsafe {
                        std::slice::from_raw_parts_mut(out.add(sequence * self.vocab_size + first), width)
                    };
                    splade_max(maxima, &logits[(here.start - start) * width..(here.end - start) * width]);
                    if rows.end > end {
                        break;
                    }
                    following.next();
                    if following.peek().is_some_and(|(_, rows)| rows.start >= end) {
                        break;
                    }
                }
            }
        });
        Ok(maxima)
    }
}

/// A [`SpladeDecoder`] applied to a batch.
#[derive(Debug)]
pub struct SpladeOp<'a> {
    /// The layer.
    pub decoder: &'a SpladeDecoder,
    /// Where sequences end.
    pub batch: &'a Batch,
}

impl CustomOp1 for SpladeOp<'_> {
    fn name(&self) -> &'static str {
        "splade"
    }

    /// `[total_tokens, hidden_size]` to `[batch_size, vocab_size]`.
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous_f32(storage, layout, self.name())?;
        let expected = (self.batch.total_tokens(), self.decoder.hidden_size);
        if layout.shape().dims2()? != expected {
            bail!("splade: expected {expected:?}, got {:?}", layout.shape());
        }
        let maxima = self.decoder.maxima(x, &self.batch.sequences().collect::<Vec<_>>())?;
        Ok((CpuStorage::F32(maxima), Shape::from((self.batch.batch_size(), self.decoder.vocab_size))))
    }
}

/// What [`splade_max`] and then [`splade_weights`] compute from zeros and all logits of a sequence,
/// `[tokens, vocab_size]`, in f64.
pub fn splade_reference(logits: &[f32], vocab_size: usize) -> Vec<f64> {
    let weight = |logit: &f32| f64::from(*logit).max(0.0).ln_1p();
    let column = |entry: usize| logits.iter().skip(entry).step_by(vocab_size).map(weight);
    (0..vocab_size).map(|entry| column(entry).fold(0.0, f64::max)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_reference_in_blocks(
            tokens in 0usize..6,
            vocab_size in 1usize..80,
            block in 1usize..30,
            step in 0.1f32..3.0,
        ) {
            let logits: Vec<f32> = (0..tokens * vocab_size).map(|i| (i as f32 * step).sin() * 20.0).collect();
            let mut weights = vec![0.0; vocab_size];
            for (index, maxima) in weights.chunks_mut(block).enumerate() {
                let columns = index * block..index * block + maxima.len();
                let rows = logits.chunks(vocab_size).flat_map(|row| row[columns.clone()].to_vec());
                splade_max(maxima, &rows.collect::<Vec<f32>>());
            }
            splade_weights(&mut weights);
            for (found, expected) in weights.iter().zip(splade_reference(&logits, vocab_size)) {
                prop_assert!((f64::from(*found) - expected).abs() <= 2e-7 * expected, "{} {}", found, expected);
            }
        }
    }

    proptest! {
        #[test]
        fn decoder_agrees_with_reference(
            lengths in prop::collection::vec(prop_oneof![0usize..5, 250usize..530], 0..5),
            vocab_size in prop_oneof![1usize..40, 500usize..530],
            seed in 0.1f32..3.0,
        ) {
            const HIDDEN: usize = 3;
            let noise = |count: usize, step: f32| -> Vec<f32> { (0..count).map(|i| (i as f32 * step).sin()).collect() };
            let (weight, bias) = (noise(vocab_size * HIDDEN, seed), noise(vocab_size, seed * 1.7));
            let tokens: usize = lengths.iter().sum();
            let x = noise(tokens * HIDDEN, seed * 0.3);
            let decoder = SpladeDecoder::new(&weight, &bias, HIDDEN, Precision::F32).unwrap();
            let mut sequences = Vec::new();
            for length in &lengths {
                let start = sequences.last().map_or(0, |rows: &Range<usize>| rows.end);
                sequences.push(start..start + length);
            }
            let mut found = decoder.maxima(&x, &sequences).unwrap();
            splade_weights(&mut found);
            for (rows, found) in sequences.iter().zip(found.chunks(vocab_size)) {
                let x = &x[rows.start * HIDDEN..rows.end * HIDDEN];
                let logits: Vec<f32> = super::super::linear_reference(x, &weight, &bias).iter().map(|y| *y as f32).collect();
                for (found, expected) in found.iter().zip(splade_reference(&logits, vocab_size)) {
                    prop_assert!((f64::from(*found) - expected).abs() <= 1e-6, "{} {}", found, expected);
                }
                let alone = decoder.maxima(x, std::slice::from_ref(&(0..rows.len()))).unwrap();
                let alone: Vec<f32> = { let mut alone = alone; splade_weights(&mut alone); alone };
                prop_assert_eq!(&alone, found, "bits do not depend on other sequences");
            }
        }
    }

    #[test]
    fn nan_is_not_hidden() {
        let mut maxima = vec![0.0; 20];
        let mut logits = vec![1.0; 60];
        logits[25] = f32::NAN;
        splade_max(&mut maxima, &logits);
        splade_weights(&mut maxima);
        let nan: Vec<usize> = (0..20).filter(|entry| maxima[*entry].is_nan()).collect();
        assert_eq!(nan, [5]);
    }
}
