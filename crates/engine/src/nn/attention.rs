//! Multi-head self-attention of an encoder (Vaswani et al., arXiv:1706.03762) over packed sequences.

use candle_core::{D, Device, Tensor};

use crate::kernels::{self, AttentionOptions, AttentionShape};
use crate::nn::{Linear, LinearConfig};
use crate::{Batch, Error, Precision, Result, View};

/// Projection to queries, keys and values, attention inside each sequence, and output projection.
#[derive(Debug)]
pub struct SelfAttention {
    qkv: Linear,
    output: Linear,
    shape: AttentionShape,
    precision: Precision,
}

impl SelfAttention {
    /// Reads the query, key and value layers side by side from `qkv`, and the output layer.
    ///
    /// # Errors
    ///
    /// When a tensor is missing or malformed, or `num_heads` does not divide `hidden_size`.
    pub fn load(
        qkv: &[View; 3],
        output: &View,
        hidden_size: usize,
        num_heads: usize,
        device: &Device,
    ) -> Result<Self> {
        if num_heads == 0 || !hidden_size.is_multiple_of(num_heads) {
            let problem = format!("hidden_size {hidden_size} is not a multiple of {num_heads} heads");
            return Err(Error::InvalidLayer { problem });
        }
        let head_dim = hidden_size / num_heads;
        let shape = AttentionShape { num_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() };
        Ok(Self {
            qkv: Linear::load_side_by_side(qkv, LinearConfig::new(hidden_size, hidden_size), device)?,
            output: Linear::load(output, LinearConfig::new(hidden_size, hidden_size), device)?,
            shape,
            precision: output.precision(),
        })
    }

    /// `[total_tokens, hidden_size]` to the same.
    ///
    /// # Errors
    ///
    /// When `x` does not fit `batch`, or the device fails.
    pub fn forward(&self, x: &Tensor, batch: &Batch) -> Result<Tensor> {
        let qkv = self.qkv.forward(x)?;
        let context = if qkv.device().is_cpu() {
            let (precision, attended) = (self.precision, batch.attended());
            let options = AttentionOptions { precision, attended, ..AttentionOptions::default() };
            kernels::attention_with(&qkv, batch, self.shape, &options)?
        } else {
            composed(&qkv, batch, self.shape)?
        };
        self.output.forward(&context)
    }
}

/// Attention composed of Candle's operations, one sequence after the other.
fn composed(qkv: &Tensor, batch: &Batch, shape: AttentionShape) -> Result<Tensor> {
    let AttentionShape { num_heads, head_dim, scale } = shape;
    let mut contexts = Vec::with_capacity(batch.batch_size());
    for (index, rows) in batch.sequences().enumerate().filter(|(_, rows)| !rows.is_empty()) {
        let keys = batch.attended().map_or(rows.len(), |attended| attended[index] as usize);
        let qkv = qkv.narrow(0, rows.start, rows.len())?.reshape((rows.len(), 3, num_heads, head_dim))?;
        // [num_heads, seq_len, head_dim]
        let part = |index| qkv.narrow(1, index, 1)?.squeeze(1)?.transpose(0, 1)?.contiguous();
        let (q, k, v) = (part(0)?, part(1)?.narrow(1, 0, keys)?, part(2)?.narrow(1, 0, keys)?.contiguous()?);
        let scores = (q.matmul(&k.transpose(D::Minus2, D::Minus1)?.contiguous()?)? * f64::from(scale))?;
        let context = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?;
        contexts.push(context.transpose(0, 1)?.reshape((rows.len(), num_heads * head_dim))?);
    }
    if contexts.is_empty() {
        return Ok(Tensor::zeros((0, num_heads * head_dim), qkv.dtype(), qkv.device())?);
    }
    Ok(Tensor::cat(&contexts, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_and_composition_agree() {
        let shape = AttentionShape { num_heads: 3, head_dim: 5, scale: 0.4 };
        let ids: [&[u32]; 4] = [&[0; 7], &[], &[0; 1], &[0; 90]];
        let batch = Batch::from_sequences(ids).unwrap();
        let values: Vec<f32> = (0..98 * 45).map(|i| (i as f32 * 0.61).sin() * 2.0).collect();
        let qkv = Tensor::from_vec(values, (98, 45), &Device::Cpu).unwrap();
        let rows = |context: Tensor| context.to_vec2::<f32>().unwrap().concat();
        let kernel = rows(kernels::attention(&qkv, &batch, shape).unwrap());
        let composed = rows(composed(&qkv, &batch, shape).unwrap());
        for (kernel, composed) in kernel.iter().zip(composed) {
            assert!((kernel - composed).abs() < 2e-6, "{kernel} {composed}");
        }
    }

    #[test]
    fn tokens_that_are_not_attended_to_change_nothing_for_others() {
        let shape = AttentionShape { num_heads: 2, head_dim: 4, scale: 0.5 };
        let batch = Batch::from_sequences([[0; 5].as_slice(), &[0; 3]]).unwrap();
        let batch = batch.with_attended(vec![2, 3]).unwrap();
        let values: Vec<f32> = (0..8 * 24).map(|i| (i as f32 * 0.61).sin() * 2.0).collect();
        let qkv = Tensor::from_vec(values, (8, 24), &Device::Cpu).unwrap();
        let options = AttentionOptions { attended: batch.attended(), ..AttentionOptions::default() };
        let kernel =
            kernels::attention_with(&qkv, &batch, shape, &options).unwrap().to_vec2::<f32>().unwrap();
        let composed = composed(&qkv, &batch, shape).unwrap().to_vec2::<f32>().unwrap();
        for (kernel, composed) in kernel.concat().iter().zip(composed.concat()) {
            assert!((kernel - composed).abs() < 2e-6, "{kernel} {composed}");
        }
        let two = Batch::from_sequences([[0; 2].as_slice()]).unwrap();
        let alone = kernels::attention(&qkv.narrow(0, 0, 2).unwrap(), &two, shape).unwrap();
        assert_eq!(alone.to_vec2::<f32>().unwrap(), kernel[..2]);
    }
}
