//! What the benchmarks share: the model, and batches of given lengths.

use candlewick_engine::Batch;
use candlewick_models::{DenseModel, LoadOptions, Result};

/// all-MiniLM-L6-v2 on one thread: a benchmark of one thread is the least noisy.
///
/// # Errors
///
/// When the weights cannot be had.
pub fn minilm() -> Result<DenseModel> {
    DenseModel::load("all-MiniLM-L6-v2", LoadOptions::new().threads(1))
}

/// A batch of sequences of these lengths; the tokens are ordinary words.
pub fn batch(lengths: &[usize]) -> Batch {
    let sequences: Vec<Vec<u32>> = lengths
        .iter()
        .map(|&length| (0..length as u32).map(|token| 2000 + token * 37 % 20_000).collect())
        .collect();
    Batch::from_sequences(sequences.iter().map(Vec::as_slice)).expect("far fewer than u32::MAX tokens")
}

/// Lengths as real documents have them: log-normal, with a mean of about 80 and a tail to `max_length`.
pub fn log_normal_lengths(count: usize, max_length: usize) -> Vec<usize> {
    // exp(4.1) = 60 tokens is the median; 1 % are beyond exp(4.1 + 2.33 * 0.7) = 308.
    const MU: f64 = 4.1;
    const SIGMA: f64 = 0.7;
    let mut uniform = uniform_numbers();
    (0..count)
        .map(|_| {
            // Box and Muller, 1958.
            let radius = (-2.0 * uniform().ln()).sqrt();
            let normal = radius * (std::f64::consts::TAU * uniform()).cos();
            ((MU + SIGMA * normal).exp() as usize).clamp(3, max_length)
        })
        .collect()
}

/// Numbers in (0, 1], the same on every run (Knuth's MMIX generator).
fn uniform_numbers() -> impl FnMut() -> f64 {
    let mut state = 2026u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_look_like_documents() {
        let lengths = log_normal_lengths(10_000, 512);
        let mean = lengths.iter().sum::<usize>() as f64 / 10_000.0;
        assert!((70.0..85.0).contains(&mean), "{mean}");
        assert!(lengths.iter().filter(|&&length| length > 300).count() > 50);
        assert_eq!(lengths, log_normal_lengths(10_000, 512));
    }
}
