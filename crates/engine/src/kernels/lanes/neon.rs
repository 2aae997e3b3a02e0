//! NEON registers, in pairs: eight lanes make the same tiles as AVX2, and fill the 32 registers.

use std::arch::aarch64::*;

use super::Lanes;

/// Every aarch64 CPU has NEON.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Neon;

type Pair = (float32x4_t, float32x4_t);

impl Lanes for Neon {
    type V = Pair;

    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, value: f32) -> Pair {
        // SAFETY: NEON is part of aarch64; likewise below.
        unsafe { (vdupq_n_f32(value), vdupq_n_f32(value)) }
    }

    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: as in `splat`.
        unsafe { (vaddq_f32(a.0, b.0), vaddq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: as in `splat`.
        unsafe { (vsubq_f32(a.0, b.0), vsubq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: as in `splat`.
        unsafe { (vmulq_f32(a.0, b.0), vmulq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul_add(self, a: Pair, b: Pair, c: Pair) -> Pair {
        // SAFETY: as in `splat`.
        unsafe { (vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }

    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: as in `splat`. The instruction returns NaN where either is NaN.
        unsafe { (vmaxq_f32(a.0, b.0), vmaxq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn shift_to_exponent(self, a: Pair) -> Pair {
        // SAFETY: as in `splat`.
        let shift = |a| unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<23>(vreinterpretq_u32_f32(a))) };
        (shift(a.0), shift(a.1))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Pair {
        // SAFETY: as in `splat`, and the caller's promise.
        unsafe { (vld1q_f32(from), vld1q_f32(from.add(4))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: Pair) {
        // SAFETY: as in `splat`, and the caller's promise.
        unsafe {
            vst1q_f32(to, a.0);
            vst1q_f32(to.add(4), a.1);
        }
    }

    /// Transposes four 4x4 blocks.
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for (first_row, first_column) in [(0, 0), (0, 4), (4, 0), (4, 4)] {
            // SAFETY: as in `splat`, and the caller's promise.
            unsafe {
                let row = |i: usize| vld1q_f32(from.add((first_row + i) * from_stride + first_column));
                let (r0, r1, r2, r3) = (row(0), row(1), row(2), row(3));
                let even = |a, b| vreinterpretq_f64_f32(vtrn1q_f32(a, b));
                let odd = |a, b| vreinterpretq_f64_f32(vtrn2q_f32(a, b));
                let (a, b, c, d) = (even(r0, r1), odd(r0, r1), even(r2, r3), odd(r2, r3));
                let put = |i: usize, column| {
                    vst1q_f32(
                        to.add((first_column + i) * to_stride + first_row),
                        vreinterpretq_f32_f64(column),
                    );
                };
                put(0, vtrn1q_f64(a, c));
                put(1, vtrn1q_f64(b, d));
                put(2, vtrn2q_f64(a, c));
                put(3, vtrn2q_f64(b, d));
            }
        }
    }
}
