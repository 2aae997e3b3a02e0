//! Products on aarch64: NEON, and its 8-bit dot product where the CPU has it.
//!
//! A tile of 6 rows by 16 columns keeps 24 of 32 registers as sums.

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;
use std::ops::Range;

use super::arithmetic::{Arithmetic, Job, Kernel, run};
use super::format::Format;

/// The best first.
pub(super) const KERNELS: &[Kernel] = &[
    Kernel { name: "NEON", columns: 16, format: Format::F32, run: f32_neon, is_available: || true },
    Kernel { name: "NEON", columns: 16, format: Format::Bf16, run: bf16_neon, is_available: || true },
    Kernel { name: "NEON", columns: 16, format: Format::F16, run: f16_neon, is_available: || true },
    Kernel {
        name: "NEON dotprod",
        columns: 16,
        format: Format::SignedInt8,
        run: int8_dotprod,
        is_available: || is_aarch64_feature_detected!("dotprod"),
    },
    Kernel { name: "NEON", columns: 16, format: Format::SignedInt8, run: int8_neon, is_available: || true },
];

/// Compiles a kernel for its instruction set.
macro_rules! kernel {
    ($name:ident, $features:literal, $arithmetic:ty) => {
        #[target_feature(enable = $features)]
        fn $name(job: &Job, panels: Range<usize>) {
            // SAFETY: the instructions are those that this function is compiled for, and whoever calls it by
            // pointer promises the rest.
            unsafe { run::<$arithmetic, 6, 4, 96>(job, panels) }
        }
    };
}

kernel!(f32_neon, "neon", F32);
kernel!(bf16_neon, "neon", Bf16);
kernel!(f16_neon, "neon", F16);
kernel!(int8_dotprod, "neon,dotprod", Int8Dotprod);
kernel!(int8_neon, "neon", Int8);

/// Implements the methods that all kinds with one type of sum share.
macro_rules! sums {
    (f32) => {
        type Sum = f32;
        type Sums = float32x4_t;
        const LANES: usize = 4;
        #[inline(always)]
        unsafe fn zero() -> float32x4_t {
            // SAFETY: the caller's promise.
            unsafe { vdupq_n_f32(0.0) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, sums: float32x4_t) {
            // SAFETY: the caller's promise.
            unsafe { vst1q_f32(to, sums) }
        }
    };
    (i32) => {
        type Sum = i32;
        type Sums = int32x4_t;
        const LANES: usize = 4;
        #[inline(always)]
        unsafe fn zero() -> int32x4_t {
            // SAFETY: the caller's promise.
            unsafe { vdupq_n_s32(0) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut i32, sums: int32x4_t) {
            // SAFETY: the caller's promise.
            unsafe { vst1q_s32(to, sums) }
        }
    };
}

/// Defines a kind: its weights are loaded by `$load` and multiplied by `$add`.
macro_rules! arithmetic {
    (
        $(#[$meta:meta])* $name:ident, $sum:ident, $input:ty, $weight:ty => $weights:ty, $load:expr, $add:expr
    ) => {
        $(#[$meta])*
        struct $name;

        impl Arithmetic for $name {
            type Input = $input;
            type Weight = $weight;
            type Weights = $weights;
            sums!($sum);
            #[inline(always)]
            unsafe fn load(from: *const $weight) -> $weights {
                // SAFETY: the caller's promise.
                unsafe { $load(from) }
            }
            #[inline(always)]
            unsafe fn add_products(sums: Self::Sums, input: $input, weights: $weights) -> Self::Sums {
                // SAFETY: the caller's promise.
                unsafe { $add(sums, input, weights) }
            }
        }
    };
}

arithmetic!(
    F32, f32, f32, f32 => float32x4_t,
    |from| vld1q_f32(from),
    |sums, input, weights| vfmaq_n_f32(sums, weights, input)
);
arithmetic!(
    /// bf16 is the upper half of f32.
    Bf16, f32, f32, u16 => float32x4_t,
    |from| vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from))),
    |sums, input, weights| vfmaq_n_f32(sums, weights, input)
);
arithmetic!(
    /// As `f16_to_f32`, four at a time.
    F16, f32, f32, u16 => float32x4_t,
    |from| {
        let bits = vmovl_u16(vld1_u16(from));
        let magnitude = vshlq_n_u32::<13>(vandq_u32(bits, vdupq_n_u32(0x7fff)));
        let scaled = vmulq_f32(vreinterpretq_f32_u32(magnitude), vdupq_n_f32(super::format::TWO_TO_112));
        let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
        vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(scaled), sign))
    },
    |sums, input, weights| vfmaq_n_f32(sums, weights, input)
);
arithmetic!(
    Int8Dotprod, i32, i32, u32 => int8x16_t,
    |from: *const u32| vld1q_s8(from.cast()),
    |mut sums: int32x4_t, input, weights: int8x16_t| {
        let input = vreinterpretq_s8_s32(vdupq_n_s32(input));
        // The intrinsic is not stable yet.
        std::arch::asm!(
            "sdot {sums:v}.4s, {input:v}.16b, {weights:v}.16b",
            sums = inout(vreg) sums,
            input = in(vreg) input,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags),
        );
        sums
    }
);
arithmetic!(
    Int8, i32, i32, u32 => int8x16_t,
    |from: *const u32| vld1q_s8(from.cast()),
    |sums, input, weights| {
        let input = vreinterpretq_s8_s32(vdupq_n_s32(input));
        let low = vpaddlq_s16(vmull_s8(vget_low_s8(input), vget_low_s8(weights)));
        let high = vpaddlq_s16(vmull_high_s8(input, weights));
        vaddq_s32(sums, vpaddq_s32(low, high))
    }
);
