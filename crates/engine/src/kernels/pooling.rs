//! Mean of each sequence's token states.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::{contiguous_f32, simd};
use crate::Batch;

/// The mean over each sequence's rows: `[total_tokens, hidden_size]` to `[batch_size, hidden_size]`. An empty
/// sequence gives zeros. CPU tensors only.
///
/// # Errors
///
/// When `hidden_states` is not a contiguous f32 tensor with one row per token.
pub fn mean_pool(hidden_states: &Tensor, batch: &Batch) -> Result<Tensor> {
    hidden_states.apply_op1_no_bwd(&MeanPool { batch })
}

struct MeanPool<'a> {
    batch: &'a Batch,
}

impl CustomOp1 for MeanPool<'_> {
    fn name(&self) -> &'static str {
        "mean_pool"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let states = contiguous_f32(storage, layout, self.name())?;
        let (rows, hidden_size) = layout.shape().dims2()?;
        if rows != self.batch.total_tokens() {
            bail!("mean_pool: {rows} hidden states for {} tokens", self.batch.total_tokens());
        }
        let mut out = vec![0.0; self.batch.batch_size() * hidden_size];
        if hidden_size > 0 {
            for (mean, rows) in out.chunks_exact_mut(hidden_size).zip(self.batch.sequences()) {
                mean_of_rows(mean, &states[rows.start * hidden_size..rows.end * hidden_size]);
            }
        }
        Ok((CpuStorage::F32(out), Shape::from((self.batch.batch_size(), hidden_size))))
    }
}

simd! {
    fn mean_of_rows(mean: &mut [f32], states: &[f32]) = mean_loop
}

#[inline(always)]
fn mean_loop(mean: &mut [f32], states: &[f32]) {
    for row in states.chunks_exact(mean.len()) {
        for (mean, state) in mean.iter_mut().zip(row) {
            *mean += state;
        }
    }
    let count = (states.len() / mean.len()).max(1) as f32;
    mean.iter_mut().for_each(|mean| *mean /= count);
}

/// What [`mean_pool`] computes for one sequence, in f64.
pub fn mean_pool_reference(states: &[f32], hidden_size: usize) -> Vec<f64> {
    let rows = (states.len() / hidden_size).max(1) as f64;
    let column = |column| states.iter().skip(column).step_by(hidden_size).map(|state| f64::from(*state));
    (0..hidden_size).map(|index| column(index).sum::<f64>() / rows).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn agrees_with_reference_also_for_empty_and_long_sequences() {
        const HIDDEN_SIZE: usize = 5;
        let lengths = [3usize, 0, 1, 700];
        let ids: Vec<Vec<u32>> = lengths.iter().map(|length| vec![0; *length]).collect();
        let batch = Batch::from_sequences(ids.iter().map(Vec::as_slice)).unwrap();
        let states: Vec<f32> =
            (0..batch.total_tokens() * HIDDEN_SIZE).map(|i| (i as f32 * 0.7).sin()).collect();
        let tensor = Tensor::from_slice(&states, (batch.total_tokens(), HIDDEN_SIZE), &Device::Cpu).unwrap();
        let pooled = mean_pool(&tensor, &batch).unwrap().to_vec2::<f32>().unwrap();
        for (mean, rows) in pooled.iter().zip(batch.sequences()) {
            let states = &states[rows.start * HIDDEN_SIZE..rows.end * HIDDEN_SIZE];
            for (found, expected) in mean.iter().zip(mean_pool_reference(states, HIDDEN_SIZE)) {
                assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
        assert_eq!(pooled[1], [0.0; HIDDEN_SIZE]);
    }
}
