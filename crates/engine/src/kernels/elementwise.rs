//! Loops over one function of one number: in place, or gating other numbers.

use super::math::{erf as erf_of, exp as exp_of, sigmoid as sigmoid_of, tanh as tanh_of};
use super::{share_rows, simd};

/// A function of one number that vectorises: branch-free, `#[inline(always)]`, without fused multiply-add.
pub(super) trait Elementwise {
    fn of(x: f32) -> f32;
}

/// Applies the function to every element.
#[inline(always)]
pub(super) fn apply<F: Elementwise>(values: &mut [f32]) {
    for value in values {
        *value = F::of(*value);
    }
}

/// `out = F(gates) * values`.
#[inline(always)]
pub(super) fn gate<F: Elementwise>(out: &mut [f32], gates: &[f32], values: &[f32]) {
    for ((out, gate), value) in out.iter_mut().zip(gates).zip(values) {
        *out = F::of(*gate) * value;
    }
}

struct Exp;

impl Elementwise for Exp {
    #[inline(always)]
    fn of(x: f32) -> f32 {
        exp_of(x)
    }
}

struct Sigmoid;

impl Elementwise for Sigmoid {
    #[inline(always)]
    fn of(x: f32) -> f32 {
        sigmoid_of(x)
    }
}

struct Erf;

impl Elementwise for Erf {
    #[inline(always)]
    fn of(x: f32) -> f32 {
        erf_of(x)
    }
}

struct Tanh;

impl Elementwise for Tanh {
    /// Within 3e-7 relative, unlike [`math::tanh`](tanh_of) near zero.
    ///
    /// Method: Cephes' tanhf.
    #[inline(always)]
    fn of(x: f32) -> f32 {
        let square = x * x;
        let mut p = -5.704_988_7e-3;
        p = p * square + 2.063_908_8e-2;
        p = p * square - 5.373_971_5e-2;
        p = p * square + 1.333_144_2e-1;
        p = p * square - 3.333_328e-1;
        let near_zero = p * square * x + x;
        if x.abs() < 0.625 { near_zero } else { tanh_of(x) }
    }
}

macro_rules! in_place {
    ($($(#[$meta:meta])* $name:ident, $compiled:ident: $function:ident,)*) => {$(
        simd! {
            fn $compiled(values: &mut [f32]) = apply::<$function>
        }

        $(#[$meta])*
        pub(crate) fn $name(values: &mut [f32]) {
            let len = values.len();
            share_rows((values, 1), (&mut [(); 0], 0), len, |_, values, _| $compiled(values));
        }
    )*};
}

in_place! {
    /// e to the power of each element, in place; results below the smallest normal number are zero.
    exp, exp_compiled: Exp,
    /// The logistic function of each element, in place.
    sigmoid, sigmoid_compiled: Sigmoid,
    /// The hyperbolic tangent of each element, in place.
    tanh, tanh_compiled: Tanh,
    /// The error function of each element, in place.
    erf, erf_compiled: Erf,
}

#[cfg(test)]
mod tests {
    use super::super::math::erf_reference;
    use super::super::math::tests::floats;
    use super::*;

    #[test]
    fn agrees_with_references_over_all_floats() {
        let inputs: Vec<f32> = floats(1009).filter(|x| x.is_finite()).collect();
        let check = |function: fn(&mut [f32]), reference: fn(f64) -> f64, relative: f64| {
            let mut found = inputs.clone();
            function(&mut found);
            for (x, found) in inputs.iter().zip(found) {
                let expected = reference(f64::from(*x));
                if f64::from(expected as f32).is_infinite() {
                    continue;
                }
                let error = (f64::from(found) - expected).abs();
                assert!(error <= relative * expected.abs() + 1e-37, "{x}: {found}, expected {expected}");
            }
            let mut nan = [f32::NAN; 17];
            function(&mut nan);
            assert!(nan.iter().all(|value| value.is_nan()), "NaN is hidden");
        };
        check(tanh, f64::tanh, 5e-7);
        check(erf, erf_reference, 1e-6);
        check(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 5e-7);
    }
}
