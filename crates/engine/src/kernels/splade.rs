//! SPLADE's pooling of vocabulary logits (Formal et al., arXiv:2109.10086): `max over tokens of ln(1 + relu(logit))`.
//!
//! ln(1 + relu) is monotonic, so it is taken of the maxima alone, and logits are folded into them block by block:
//! `[tokens, vocab_size]` is never held whole.

use super::simd;

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
