//! Layer normalisation.

use candle_core::{Device, Tensor};

use crate::kernels::LayerNormOp;
use crate::{Result, View};

/// Layer normalisation with weight and bias.
#[derive(Debug)]
pub struct LayerNorm {
    parameters: Parameters,
    eps: f64,
}

#[derive(Debug)]
enum Parameters {
    Slices { weight: Vec<f32>, bias: Vec<f32> },
    Tensors { weight: Tensor, bias: Tensor },
}

impl LayerNorm {
    /// Reads `weight` and `bias`, both `[hidden_size]`; checkpoints converted from TensorFlow call them
    /// `gamma` and `beta`.
    ///
    /// # Errors
    ///
    /// When a tensor is missing or malformed.
    pub fn load(view: &View, hidden_size: usize, eps: f64, device: &Device) -> Result<Self> {
        let is_legacy = view.contains("gamma") && !view.contains("weight");
        let [weight, bias] = if is_legacy { ["gamma", "beta"] } else { ["weight", "bias"] };
        let weight = view.read_f32(weight, &[hidden_size])?;
        let bias = view.read_f32(bias, &[hidden_size])?;
        let parameters = if device.is_cpu() {
            Parameters::Slices { weight, bias }
        } else {
            Parameters::on_device(weight, bias, device)?
        };
        Ok(Self { parameters, eps })
    }

    /// Normalises each row of `[rows, hidden_size]`.
    ///
    /// # Errors
    ///
    /// When `x` has another width, or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.parameters {
            Parameters::Slices { weight, bias } => Ok(x.apply_op1_no_bwd(&self.op(weight, bias))?),
            Parameters::Tensors { weight, bias } => {
                Ok(candle_nn::ops::layer_norm(x, weight, bias, self.eps as f32)?)
            }
        }
    }

    /// Normalises each row of `x + residual`.
    ///
    /// # Errors
    ///
    /// When the tensors differ in shape, have another width, or the device fails.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match &self.parameters {
            Parameters::Slices { weight, bias } => Ok(x.apply_op2_no_bwd(residual, &self.op(weight, bias))?),
            Parameters::Tensors { .. } => self.forward(&(x + residual)?),
        }
    }

    fn op<'a>(&self, weight: &'a [f32], bias: &'a [f32]) -> LayerNormOp<'a> {
        LayerNormOp { weight, bias, eps: self.eps as f32 }
    }
}

impl Parameters {
    fn on_device(weight: Vec<f32>, bias: Vec<f32>, device: &Device) -> Result<Self> {
        let hidden_size = weight.len();
        let weight = Tensor::from_vec(weight, hidden_size, device)?;
        let bias = Tensor::from_vec(bias, hidden_size, device)?;
        Ok(Parameters::Tensors { weight, bias })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_and_composition_agree() {
        let (weight, bias) = (vec![1.5, -0.5, 2.0], vec![0.1, 0.2, 0.3]);
        let tensors = Parameters::on_device(weight.clone(), bias.clone(), &Device::Cpu).unwrap();
        let kernel = LayerNorm { parameters: Parameters::Slices { weight, bias }, eps: 1e-5 };
        let composed = LayerNorm { parameters: tensors, eps: 1e-5 };
        let x = Tensor::new(&[[1f32, 2., 4.], [-3., 0.5, 0.]], &Device::Cpu).unwrap();
        let residual = Tensor::new(&[[0.5f32, 0., 1.], [3., 0.25, 9.]], &Device::Cpu).unwrap();
        for run in [|norm: &LayerNorm, x: &Tensor, _: &Tensor| norm.forward(x), LayerNorm::forward_add] {
            let rows =
                |norm: &LayerNorm| run(norm, &x, &residual).unwrap().to_vec2::<f32>().unwrap().concat();
            for (kernel, composed) in rows(&kernel).iter().zip(rows(&composed)) {
                assert!((kernel - composed).abs() < 2e-6, "{kernel} {composed}");
            }
        }
    }
}
