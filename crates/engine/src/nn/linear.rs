//! Linear layers, alone or several side by side.
//!
//! Sizes come from configuration files, so nothing is allocated by them before a tensor has that shape.

use candle_core::{DType, Device, Tensor};

use crate::kernels::{PackError, PackedLinear};
use crate::nn::Activation;
use crate::{Error, Precision, Result, View};

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
        if in_features == 0 || out_features == 0 {
            let problem = format!("a linear layer from {in_features} to {out_features} features");
            return Err(Error::InvalidLayer { problem });
        }
        let precision = views.first().map_or(Precision::F32, View::precision);
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for view in views {
            view.append_f32(&mut weight, "weight", &[out_features, in_features])?;
            if config.bias {
                view.append_f32(&mut bias, "bias", &[out_features])?;
            } else {
                bias.resize(bias.len() + out_features, 0.0);
            }
        }
        if !device.is_cpu() {
            return Self::from_tensors(&weight, bias, in_features, config.activation, precision, device);
        }
        let packed = PackedLinear::new(&weight, bias, in_features, config.activation, precision);
        let packed = packed.map_err(|error| match error {
            PackError::OutOfRange(index) => {
                let (path, tensor) = views[index / (out_features * in_features)].place("weight");
                let value = weight[index];
                Error::WeightOutOfRange {
                    path,
                    tensor,
                    index: index % (out_features * in_features),
                    value,
                    precision,
                }
            }
            PackError::TooWide => {
                Error::InvalidLayer { problem: format!("{in_features} inputs are too many for {precision}") }
            }
        })?;
        Ok(Self { parameters: Parameters::Packed(packed) })
    }

    /// `weight` is `[out_features, in_features]` in row-major order.
    fn from_tensors(
        weight: &[f32],
        bias: Vec<f32>,
        in_features: usize,
        activation: Option<Activation>,
        precision: Precision,
        device: &Device,
    ) -> Result<Self> {
        let dtype = match precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::F16 => DType::F16,
            Precision::Int8 => {
                let problem = "int8 is for the CPU: on other devices, use bf16 or f16".into();
                return Err(Error::InvalidLayer { problem });
            }
        };
        let out_features = bias.len();
        let weight = Tensor::from_slice(weight, (out_features, in_features), device)?.t()?.contiguous()?;
        let weight = weight.to_dtype(dtype)?;
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
                let product = x.to_dtype(weight.dtype())?.matmul(weight)?.to_dtype(DType::F32)?;
                let y = product.broadcast_add(bias)?;
                composed_activation(&y, *activation)
            }
        }
    }

    /// The layer as the CPU's kernels take it, if it is on the CPU.
    pub(super) fn packed(&self) -> Option<&PackedLinear> {
        match &self.parameters {
            Parameters::Packed(packed) => Some(packed),
            Parameters::Tensors { .. } => None,
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
        for activation in Activation::ALL.map(Some).into_iter().chain([None]) {
            let packed = PackedLinear::new(&weight, bias.clone(), 4, activation, Precision::F32).unwrap();
            let packed = Linear { parameters: Parameters::Packed(packed) };
            let composed =
                Linear::from_tensors(&weight, bias.clone(), 4, activation, Precision::F32, &Device::Cpu)
                    .unwrap();
            let rows =
                |linear: &Linear| linear.forward(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let (packed, composed): (Vec<f32>, Vec<f32>) = (rows(&packed), rows(&composed));
            for (packed, composed) in packed.iter().zip(&composed) {
                assert!((packed - composed).abs() < 2e-6, "{activation:?}: {packed} {composed}");
            }
        }
    }
}
