//! What is added to scores by the distance of key and query, as a table of one head and one sequence.
//!
//! In a row of transposed scores the distance goes down by one from lane to lane, so the table is laid out by
//! query minus key, and a row's additions are one load from it.

use super::{AttentionOptions, PositionBias};

/// Whether anything is added to scores of sequences of `seq_len` tokens.
pub(super) fn is_needed(options: &AttentionOptions, seq_len: usize) -> bool {
    options.bias.is_some() || options.window.is_some_and(|window| window < seq_len - 1)
}

/// Length of the table for blocks of `block` queries, each loaded whole from entry `query - key + seq_len - 1`.
pub(super) fn len(seq_len: usize, block: usize) -> usize {
    2 * seq_len - 1 + block
}

/// Fills the table, in units of the logarithm to base two.
#[inline(always)]
pub(super) fn fill(table: &mut [f32], options: &AttentionOptions, head: usize, seq_len: usize) {
    let zero = seq_len - 1;
    match options.bias {
        None => table.fill(0.0),
        Some(PositionBias::Alibi { slopes }) => {
            let slope = -slopes[head] * std::f32::consts::LOG2_E;
            for (at, entry) in table.iter_mut().enumerate() {
                *entry = slope * at.abs_diff(zero) as f32;
            }
        }
        Some(PositionBias::Relative { table: biases, max_distance }) => {
            let count = 2 * max_distance - 1;
            let biases = &biases[head * count..(head + 1) * count];
            for (at, entry) in table.iter_mut().enumerate() {
                // Key minus query plus `max_distance - 1`.
                let index = (max_distance - 1 + zero).saturating_sub(at).min(count - 1);
                *entry = biases[index] * std::f32::consts::LOG2_E;
            }
        }
    }
    if let Some(window) = options.window {
        for (at, entry) in table.iter_mut().enumerate() {
            if at.abs_diff(zero) > window {
                *entry = f32::NEG_INFINITY;
            }
        }
    }
}
