//! Activation functions by the names that config.json uses.

use std::str::FromStr;

use super::{gelu_erf, gelu_tanh};
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
    /// Applies the function to every element.
    pub fn apply(self, values: &mut [f32]) {
        match self {
            Activation::GeluErf => gelu_erf(values),
            Activation::GeluTanh => gelu_tanh(values),
            // Not `max`, which would hide NaN.
            Activation::Relu => {
                values.iter_mut().filter(|value| **value < 0.0).for_each(|value| *value = 0.0);
            }
            Activation::Tanh => values.iter_mut().for_each(|value| *value = value.tanh()),
        }
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
