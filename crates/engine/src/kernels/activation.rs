//! Activation functions by the names that config.json uses.

use std::str::FromStr;

use super::elementwise::{self, Elementwise};
use super::gelu::{GeluErf, GeluTanh, QuickGelu};
use super::math::sigmoid;
use super::{gelu_erf, gelu_tanh, quick_gelu, simd};
use crate::{Error, Result};

/// An elementwise function after a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// GELU with the exact error function: `gelu`.
    GeluErf,
    /// GELU in its tanh approximation: `gelu_new`, `gelu_pytorch_tanh`.
    GeluTanh,
    /// GELU in its sigmoid approximation: `quick_gelu`.
    QuickGelu,
    /// max(x, 0): `relu`.
    Relu,
    /// x sigmoid(x): `silu`, `swish`.
    Silu,
    /// The hyperbolic tangent: `tanh`.
    Tanh,
}

struct Relu;

impl Elementwise for Relu {
    // Not `max`, which would hide NaN.
    #[inline(always)]
    fn of(x: f32) -> f32 {
        if x < 0.0 { 0.0 } else { x }
    }
}

/// Elfwing, Uchibe and Doya, arXiv:1702.03118.
struct Silu;

impl Elementwise for Silu {
    #[inline(always)]
    fn of(x: f32) -> f32 {
        x * sigmoid(x)
    }
}

/// Of the standard library: few values ever take it, and near zero it is more exact than `math::tanh`.
struct Tanh;

impl Elementwise for Tanh {
    #[inline(always)]
    fn of(x: f32) -> f32 {
        x.tanh()
    }
}

simd! {
    /// max(x, 0), in place.
    pub fn relu(values: &mut [f32]) = elementwise::apply::<Relu>
}

simd! {
    /// x sigmoid(x), in place.
    pub fn silu(values: &mut [f32]) = elementwise::apply::<Silu>
}

simd! {
    fn gate_gelu_erf(out: &mut [f32], gates: &[f32], values: &[f32]) = elementwise::gate::<GeluErf>
}

simd! {
    fn gate_gelu_tanh(out: &mut [f32], gates: &[f32], values: &[f32]) = elementwise::gate::<GeluTanh>
}

simd! {
    fn gate_quick_gelu(out: &mut [f32], gates: &[f32], values: &[f32]) = elementwise::gate::<QuickGelu>
}

simd! {
    fn gate_relu(out: &mut [f32], gates: &[f32], values: &[f32]) = elementwise::gate::<Relu>
}

simd! {
    fn gate_silu(out: &mut [f32], gates: &[f32], values: &[f32]) = elementwise::gate::<Silu>
}

impl Activation {
    #[cfg(test)]
    pub(crate) const ALL: [Activation; 6] = [
        Activation::GeluErf,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::Relu,
        Activation::Silu,
        Activation::Tanh,
    ];

    /// Applies the function to every element.
    pub fn apply(self, values: &mut [f32]) {
        match self {
            Activation::GeluErf => gelu_erf(values),
            Activation::GeluTanh => gelu_tanh(values),
            Activation::QuickGelu => quick_gelu(values),
            Activation::Relu => relu(values),
            Activation::Silu => silu(values),
            Activation::Tanh => elementwise::apply::<Tanh>(values),
        }
    }

    /// `out = f(gates) * values`, as far as the shortest of them.
    pub fn gate(self, out: &mut [f32], gates: &[f32], values: &[f32]) {
        match self {
            Activation::GeluErf => gate_gelu_erf(out, gates, values),
            Activation::GeluTanh => gate_gelu_tanh(out, gates, values),
            Activation::QuickGelu => gate_quick_gelu(out, gates, values),
            Activation::Relu => gate_relu(out, gates, values),
            Activation::Silu => gate_silu(out, gates, values),
            Activation::Tanh => elementwise::gate::<Tanh>(out, gates, values),
        }
    }
}

impl FromStr for Activation {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "gelu" => Ok(Activation::GeluErf),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            "quick_gelu" => Ok(Activation::QuickGelu),
            "relu" => Ok(Activation::Relu),
            "silu" | "swish" => Ok(Activation::Silu),
            "tanh" => Ok(Activation::Tanh),
            _ => Err(Error::UnknownName {
                what: "activation",
                name: name.into(),
                expected: "gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, silu, swish or tanh",
            }),
        }
    }
}

/// What [`silu`] computes, in f64.
pub fn silu_reference(x: f32) -> f64 {
    let x = f64::from(x);
    x / (1.0 + (-x).exp())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::math::tests::floats;
    use super::*;

    /// Compares a function that is `x` times something in [0, 1] with its reference over all floats, and the
    /// dispatched loop with the baseline's bits.
    #[track_caller]
    pub(in crate::kernels) fn check(
        kernel: fn(&mut [f32]),
        baseline: fn(&mut [f32]),
        reference: fn(f32) -> f64,
    ) {
        let inputs: Vec<f32> = floats(1009).filter(|x| x.is_finite()).collect();
        let (mut found, mut expected) = (inputs.clone(), inputs.clone());
        kernel(&mut found);
        baseline(&mut expected);
        assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
        for (x, found) in inputs.into_iter().zip(found) {
            let error = (f64::from(found) - reference(x)).abs();
            let allowed = 3e-7 * f64::from(x.abs()).max(1.0);
            assert!(error <= allowed, "{x}: {found}, expected {}", reference(x));
        }
        let mut nan = [f32::NAN; 17];
        kernel(&mut nan);
        assert!(nan.iter().all(|value| value.is_nan()), "NaN is hidden");
    }

    #[test]
    fn agrees_with_reference_over_all_floats() {
        check(silu, elementwise::apply::<Silu>, silu_reference);
        check(relu, elementwise::apply::<Relu>, |x| f64::from(x).max(0.0));
    }

    #[test]
    fn gating_is_applying_and_multiplying() {
        let wave = |step: f32| (0..100).map(|i| (i as f32 * step).sin() * 5.0).collect::<Vec<f32>>();
        let (gates, values) = (wave(0.7), wave(0.3));
        for activation in Activation::ALL {
            let (mut expected, mut found) = (gates.clone(), vec![0.0; 100]);
            activation.apply(&mut expected);
            expected.iter_mut().zip(&values).for_each(|(gate, value)| *gate *= value);
            activation.gate(&mut found, &gates, &values);
            assert_eq!(found, expected, "{activation:?}");
        }
    }

    #[test]
    fn names_are_those_of_configurations() {
        let names = ["gelu", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "tanh"];
        for (activation, name) in Activation::ALL.into_iter().zip(names) {
            assert_eq!(name.parse::<Activation>().unwrap(), activation);
        }
        assert_eq!("swish".parse::<Activation>().unwrap(), Activation::Silu);
        assert!("gelu_fast".parse::<Activation>().is_err());
    }
}
