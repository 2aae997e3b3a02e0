//! Loops over one function of one number: in place, or gating other numbers.

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
