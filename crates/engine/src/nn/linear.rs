//! Linear layers, alone or several side by side.
//!
//! Sizes come from configuration files, so nothing is allocated by them before a tensor has that shape.

use candle_core::{Device, Tensor};

use crate::kernels::PackedLinear;
use crate::nn::Activation;
use crate::{Result, View};

/// `y = activation(x W^T + b)`.
pub struct Linear {
    parameters: Parameters,
}

enum Parameters {
    Packed(PackedLinear),
    Tensors {
        /// `[in_features, out_features]`
        weight: Tensor,
        /// `[out_features]`
        bias: Tensor,
        activation: Option<Activation>,
    },
}

/// What a linear layer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearConfig {
    /// Width of the input.
    pub in_features: usize,
    /// Width of the output.
    pub out_features: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// What is applied to the result.
    pub activation: Option<Activation>,
}

impl LinearConfig {
    /// A layer with bias and without activation.
    pub fn new(in_features: usize, out_features: usize) -> Self {
        Self { in_features, out_features, bias: true, activation: None }
    }
}

impl Linear {
    /// Reads `weight` (`[out_features, in_features]`) and, if there is one, `bias` (`[out_features]`).
    ///
    /// # Errors
    ///
    /// When a tensor is missing or malformed.
    pub fn load(view: &View, config: LinearConfig, device: &Device) -> Result<Self> {
        Self::load_side_by_side(std::slice::from_ref(view), config, device)
    }

    /// Reads several layers over one input as one layer, whose output is theirs side by side.
    ///
    /// # Errors
    ///
    /// When a tensor is missing or malformed.
    pub fn load_side_by_side(views: &[View], config: LinearConfig, device: &Device) -> Result<Self> {
        let LinearConfig { in_features, out_features, .. } = config;
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for view in views {
            weight.extend(view.read_f32("weight", &[out_features, in_features])?);
            if config.bias {
                bias.extend(view.read_f32("bias", &[out_features])?);
            } else {
                bias.resize(bias.len() + out_features, 0.0);
            }
        }
        Self::new(&weight, bias, in_features, config.activation, device)
    }

    /// `weight` is `[out_features, in_features]` in row-major order.
    fn new(
        weight: &[f32],
        bias: Vec<f32>,
        in_features: usize,
        activation: Option<Activation>,
        device: &Device,
    ) -> Result<Self> {
        if device.is_cpu() {
            let packed = PackedLinear::new(weight, bias, in_features, activation);
            return Ok(Self { parameters: Parameters::Packed(packed) });
        }
        Self::from_tensors(weight, bias, in_features, activation, device)
    }

    fn from_tensors(
        weight: &[f32],
        bias: Vec<f32>,
        in_features: usize,
        activation: Option<Activation>,
        device: &Device,
    ) -> Result<Self> {
        let out_features = bias.len();
        let weight = Tensor::from_slice(weight, (out_features, in_features), device)?.t()?.contiguous()?;
        let bias = Tensor::from_vec(bias, out_features, device)?;
        Ok(Self { parameters: Parameters::Tensors { weight, bias, activation } })
    }

    /// `[rows, in_features]` to `[rows, out_features]`.
    ///
    /// # Errors
    ///
    /// When `x` has another width, or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.parameters {
            Parameters::Packed(packed) => Ok(x.apply_op1_no_bwd(packed)?),
            Parameters::Tensors { weight, bias, activation } => {
                let y = x.matmul(weight)?.broadcast_add(bias)?;
                composed_activation(&y, *activation)
            }
        }
    }
}

fn composed_activation(x: &Tensor, activation: Option<Activation>) -> Result<Tensor> {
    Ok(match activation {
        None => x.clone(),
        Some(Activation::GeluErf) => x.gelu_erf()?,
        Some(Activation::GeluTanh) => x.gelu()?,
        Some(Activation::QuickGelu) => (x * candle_nn::ops::sigmoid(&(x * 1.702)?)?)?,
        Some(Activation::Relu) => x.relu()?,
        Some(Activation::Silu) => x.silu()?,
        Some(Activation::Tanh) => x.tanh()?,
    })
}

impl std::fmt::Debug for Linear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Linear").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_and_composition_agree() {
        let weight: Vec<f32> = (0..6 * 4).map(|i| (i as f32 * 0.37).sin()).collect();
        let bias: Vec<f32> = (0..6).map(|i| i as f32 * 0.1 - 0.2).collect();
        let x: Vec<f32> = (0..3 * 4).map(|i| (i as f32 * 0.73).cos() * 3.0).collect();
        let x = Tensor::from_vec(x, (3, 4), &Device::Cpu).unwrap();
        let activations = [
            Activation::GeluErf,
            Activation::GeluTanh,
            Activation::QuickGelu,
            Activation::Relu,
            Activation::Silu,
            Activation::Tanh,
        ];
        for activation in activations.map(Some).into_iter().chain([None]) {
            let packed = Linear::new(&weight, bias.clone(), 4, activation, &Device::Cpu).unwrap();
            let composed = Linear::from_tensors(&weight, bias.clone(), 4, activation, &Device::Cpu).unwrap();
            let rows =
                |linear: &Linear| linear.forward(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let (packed, composed): (Vec<f32>, Vec<f32>) = (rows(&packed), rows(&composed));
            for (packed, composed) in packed.iter().zip(&composed) {
                assert!((packed - composed).abs() < 2e-6, "{activation:?}: {packed} {composed}");
            }
        }
    }
}
