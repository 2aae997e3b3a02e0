//! GELU (Hendrycks and Gimpel, arXiv:1606.08415), exact and in the tanh approximation.
//!
//! The two are different functions, up to 5e-4 apart: a model gets the one that it was trained with.

use super::math::{erf, erf_reference, tanh};
use super::simd;

simd! {
    /// x * Phi(x), in place; Phi is the standard normal distribution function.
    pub fn gelu_erf(values: &mut [f32]) = erf_loop
}

simd! {
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), in place.
    pub fn gelu_tanh(values: &mut [f32]) = tanh_loop
}

#[inline(always)]
fn erf_loop(values: &mut [f32]) {
    for value in values {
        *value = 0.5 * *value * (1.0 + erf(*value * std::f32::consts::FRAC_1_SQRT_2));
    }
}

#[inline(always)]
fn tanh_loop(values: &mut [f32]) {
    // sqrt(2 / pi)
    const SCALE: f32 = 0.797_884_6;
    for value in values {
        let x = *value;
        *value = 0.5 * x * (1.0 + tanh(SCALE * (x + 0.044715 * x * x * x)));
    }
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

#[cfg(test)]
mod tests {
    use super::super::math::tests::floats;
    use super::*;

    /// Compares over all floats. The absolute error of erf and tanh is scaled by x / 2 in GELU.
    #[track_caller]
    fn check(kernel: fn(&mut [f32]), reference: fn(f32) -> f64) {
        let inputs: Vec<f32> = floats(1009).filter(|x| x.is_finite()).collect();
        let mut found = inputs.clone();
        kernel(&mut found);
        for (x, found) in inputs.into_iter().zip(found) {
            let error = (f64::from(found) - reference(x)).abs();
            let allowed = 3e-7 * f64::from(x.abs()).max(1.0);
            assert!(error <= allowed, "{x}: {found}, expected {}", reference(x));
        }
    }

    #[test]
    fn agrees_with_reference_over_all_floats() {
        check(gelu_erf, gelu_erf_reference);
        check(gelu_tanh, gelu_tanh_reference);
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        type Kernel = fn(&mut [f32]);
        let pairs: [(Kernel, Kernel); 2] = [(gelu_erf, erf_loop), (gelu_tanh, tanh_loop)];
        for (dispatched, baseline) in pairs {
            let mut found: Vec<f32> = floats(10_007).filter(|x| x.is_finite()).collect();
            let mut expected = found.clone();
            dispatched(&mut found);
            baseline(&mut expected);
            assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }

    #[test]
    fn nan_is_not_hidden() {
        let mut values = [f32::NAN; 3];
        gelu_erf(&mut values);
        assert!(values.iter().all(|value| value.is_nan()));
        values = [f32::NAN; 3];
        gelu_tanh(&mut values);
        assert!(values.iter().all(|value| value.is_nan()));
    }
}
