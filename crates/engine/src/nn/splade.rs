//! The decoder of a masked language model where only each sequence's largest logits are wanted: SPLADE (Formal et al.,
//! arXiv:2109.10086).

use candle_core::{Device, Tensor};

use crate::kernels::{PackError, SpladeDecoder, SpladeOp};
use crate::{Batch, Error, Precision, Result};

/// `max over tokens of relu(x W^T + b)`, computed without the logits, `[total_tokens, vocab_size]`, being held.
#[derive(Debug)]
pub struct VocabularyMax {
    parameters: Parameters,
}

#[derive(Debug)]
enum Parameters {
    Packed(SpladeDecoder),
    Tensors {
        /// `[hidden_size, vocab_size]`
        weight: Tensor,
        /// `[vocab_size]`
        bias: Tensor,
    },
}

impl VocabularyMax {
    /// Takes a weight `[vocab_size, hidden_size]` in row-major order and a bias `[vocab_size]`.
    ///
    /// # Errors
    ///
    /// When sizes are zero or disagree, or the precision cannot hold the weight.
    pub fn new(
        weight: &[f32],
        bias: Vec<f32>,
        hidden_size: usize,
        precision: Precision,
        device: &Device,
    ) -> Result<Self> {
        let invalid = |problem: String| Error::InvalidLayer { problem };
        let vocab_size = bias.len();
        if hidden_size == 0 || vocab_size.checked_mul(hidden_size) != Some(weight.len()) {
            let problem = format!("a decoder of {} weights from {hidden_size} to {vocab_size}", weight.len());
            return Err(invalid(problem));
        }
        if !device.is_cpu() {
            let weight = Tensor::from_slice(weight, (vocab_size, hidden_size), device)?.t()?.contiguous()?;
            let bias = Tensor::from_vec(bias, vocab_size, device)?;
            return Ok(Self { parameters: Parameters::Tensors { weight, bias } });
        }
        let packed =
            SpladeDecoder::new(weight, &bias, hidden_size, precision).map_err(|error| match error {
                PackError::OutOfRange(index) => {
                    invalid(format!("{precision} cannot hold the weight {}", weight[index]))
                }
                PackError::TooWide => invalid(format!("{hidden_size} inputs are too many for {precision}")),
            })?;
        Ok(Self { parameters: Parameters::Packed(packed) })
    }

    /// `[total_tokens, hidden_size]` to `[batch_size, vocab_size]`; no entry is negative.
    ///
    /// # Errors
    ///
    /// When `x` does not fit `batch`, or the device fails.
    pub fn forward(&self, x: &Tensor, batch: &Batch) -> Result<Tensor> {
        match &self.parameters {
            Parameters::Packed(decoder) => Ok(x.apply_op1_no_bwd(&SpladeOp { decoder, batch })?),
            Parameters::Tensors { weight, bias } => composed(x, batch, weight, bias),
        }
    }
}

/// One sequence after the other, composed of Candle's operations.
fn composed(x: &Tensor, batch: &Batch, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let mut maxima = Vec::with_capacity(batch.batch_size());
    for rows in batch.sequences() {
        maxima.push(match rows.len() {
            0 => bias.zeros_like()?,
            len => x.narrow(0, rows.start, len)?.matmul(weight)?.broadcast_add(bias)?.max(0)?.relu()?,
        });
    }
    match maxima.is_empty() {
        true => Ok(Tensor::zeros((0, bias.dim(0)?), bias.dtype(), bias.device())?),
        false => Ok(Tensor::stack(&maxima, 0)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_and_composition_agree() {
        let noise = |count: usize| (0..count).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<_>>();
        let (weight, bias) = (noise(7 * 4), noise(7));
        let batch = Batch::from_sequences([[0; 3].as_slice(), &[], &[0; 2]]).unwrap();
        let x = Tensor::from_vec(noise(20), (5, 4), &Device::Cpu).unwrap();
        let packed = VocabularyMax::new(&weight, bias.clone(), 4, Precision::F32, &Device::Cpu).unwrap();
        let weight =
            Tensor::from_vec(weight, (7, 4), &Device::Cpu).unwrap().t().unwrap().contiguous().unwrap();
        let bias = Tensor::from_vec(bias, 7, &Device::Cpu).unwrap();
        let composed = composed(&x, &batch, &weight, &bias).unwrap().to_vec2::<f32>().unwrap();
        let packed = packed.forward(&x, &batch).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(packed[1], [0.0; 7]);
        for (packed, composed) in packed.concat().iter().zip(composed.concat()) {
            assert!((packed - composed).abs() < 1e-6, "{packed} {composed}");
        }
    }

    #[test]
    fn sizes_must_agree() {
        for (weights, entries, hidden_size) in [(8, 2, 3), (0, 2, 0)] {
            let (weight, bias) = (vec![0.0; weights], vec![0.0; entries]);
            assert!(VocabularyMax::new(&weight, bias, hidden_size, Precision::F32, &Device::Cpu).is_err());
        }
    }
}
