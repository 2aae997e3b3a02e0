//! Activation functions by the names that config.json uses.

use std::str::FromStr;

use candle_core::Tensor;

use crate::{Error, Result};

/// An elementwise function after a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// GELU with the exact error function: `gelu`.
    GeluErf,
    /// GELU in its tanh approximation: `gelu_new`, `gelu_pytorch_tanh`.
    GeluTanh,
    /// max(x, 0): `relu`.
    Relu,
    /// The hyperbolic tangent: `tanh`.
    Tanh,
}

impl Activation {
    /// Composed of Candle's operations, for devices without kernels.
    pub(super) fn forward(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::GeluErf => x.gelu_erf(),
            Activation::GeluTanh => x.gelu(),
            Activation::Relu => x.relu(),
            Activation::Tanh => x.tanh(),
        }?)
    }
}

impl FromStr for Activation {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "gelu" => Ok(Activation::GeluErf),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            "tanh" => Ok(Activation::Tanh),
            _ => Err(Error::UnknownName {
                what: "activation",
                name: name.into(),
                expected: "gelu, gelu_new, gelu_pytorch_tanh, relu or tanh",
            }),
        }
    }
}
