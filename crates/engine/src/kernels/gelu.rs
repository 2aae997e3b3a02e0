//! GELU (Hendrycks and Gimpel, arXiv:1606.08415), exact and in two approximations.
//!
//! They are different functions, up to 5e-4 apart for tanh and 2e-2 for sigmoid: a model gets the one that it was
//! trained with.

use super::elementwise::{self, Elementwise};
use super::math::{erf, erf_reference, sigmoid};
use super::simd;

/// x * Phi(x); Phi is the standard normal distribution function.
pub(super) struct GeluErf;

impl Elementwise for GeluErf {
    #[inline(always)]
    fn of(x: f32) -> f32 {
        0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
    }
}

/// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), which is x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)).
pub(super) struct GeluTanh;

impl Elementwise for GeluTanh {
    #[inline(always)]
    fn of(x: f32) -> f32 {
        // 2 sqrt(2 / pi)
        const SCALE: f32 = 1.595_769;
        x * sigmoid(SCALE * (x + 0.044715 * x * x * x))
    }
}

/// x sigmoid(1.702 x).
pub(super) struct QuickGelu;

impl Elementwise for QuickGelu {
    #[inline(always)]
    fn of(x: f32) -> f32 {
        x * sigmoid(1.702 * x)
    }
}

simd! {
    /// x * Phi(x), in place; Phi is the standard normal distribution function.
    pub fn gelu_erf(values: &mut [f32]) = elementwise::apply::<GeluErf>
}

simd! {
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), in place.
    pub fn gelu_tanh(values: &mut [f32]) = elementwise::apply::<GeluTanh>
}

simd! {
    /// x sigmoid(1.702 x), in place.
    pub fn quick_gelu(values: &mut [f32]) = elementwise::apply::<QuickGelu>
}

/// What [`gelu_erf`] computes, in f64.
pub fn gelu_erf_reference(x: f32) -> f64 {
    let x = f64::from(x);
    0.5 * x * (1.0 + erf_reference(x / std::f64::consts::SQRT_2))
}

/// What [`gelu_tanh`] computes, in f64.
pub fn gelu_tanh_reference(x: f32) -> f64 {
    let x = f64::from(x);
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

/// What [`quick_gelu`] computes, in f64.
pub fn quick_gelu_reference(x: f32) -> f64 {
    let x = f64::from(x);
    x / (1.0 + (-1.702 * x).exp())
}

#[cfg(test)]
mod tests {
    use super::super::activation::tests::check;
    use super::*;

    #[test]
    fn agrees_with_reference_over_all_floats() {
        check(gelu_erf, elementwise::apply::<GeluErf>, gelu_erf_reference);
        check(gelu_tanh, elementwise::apply::<GeluTanh>, gelu_tanh_reference);
        check(quick_gelu, elementwise::apply::<QuickGelu>, quick_gelu_reference);
    }
}
