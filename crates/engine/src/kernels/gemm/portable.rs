//! Products in plain Rust, for CPUs that have no kernel of their own.

use std::ops::Range;

use super::arithmetic::{Arithmetic, Job, Kernel, run};
use super::format::{Format, f16_to_f32};

const LANES: usize = 4;

pub(super) const KERNELS: &[Kernel] = &[
    Kernel { name: "portable", columns: 16, format: Format::F32, run: f32_portable, is_available: || true },
    Kernel { name: "portable", columns: 16, format: Format::Bf16, run: bf16_portable, is_available: || true },
    Kernel { name: "portable", columns: 16, format: Format::F16, run: f16_portable, is_available: || true },
    Kernel { name: "portable", columns: 16, format: Format::Int8, run: int8_portable, is_available: || true },
];

macro_rules! kernel {
    ($name:ident, $arithmetic:ty) => {
        fn $name(job: &Job, panels: Range<usize>) {
            // SAFETY: any CPU will do; whoever calls this by pointer promises the rest.
            unsafe { run::<$arithmetic, 4, 4, 64>(job, panels) }
        }
    };
}

kernel!(f32_portable, F32);
kernel!(bf16_portable, Bf16);
kernel!(f16_portable, F16);
kernel!(int8_portable, Int8);

/// Defines a kind: a weight is widened by `$widen`, and `$add` adds a product to a sum.
macro_rules! arithmetic {
    ($name:ident, $sum:ty, $input:ty, $weight:ty => $wide:ty, $widen:expr, $add:expr) => {
        struct $name;

        impl Arithmetic for $name {
            type Input = $input;
            type Weight = $weight;
            type Sum = $sum;
            type Sums = [$sum; LANES];
            type Weights = [$wide; LANES];
            const LANES: usize = LANES;
            #[inline(always)]
            unsafe fn zero() -> Self::Sums {
                [Default::default(); LANES]
            }
            #[inline(always)]
            unsafe fn load(from: *const $weight) -> Self::Weights {
                // SAFETY: the caller promises `LANES` weights.
                std::array::from_fn(|lane| $widen(unsafe { from.add(lane).read() }))
            }
            #[inline(always)]
            unsafe fn add_products(sums: Self::Sums, input: $input, weights: Self::Weights) -> Self::Sums {
                std::array::from_fn(|lane| $add(sums[lane], input, weights[lane]))
            }
            #[inline(always)]
            unsafe fn store(to: *mut $sum, sums: Self::Sums) {
                // SAFETY: the caller promises room for `LANES` sums.
                unsafe { to.cast::<Self::Sums>().write_unaligned(sums) }
            }
        }
    };
}

arithmetic!(F32, f32, f32, f32 => f32, |weight| weight, |sum, input, weight| sum + input * weight);
arithmetic!(
    Bf16, f32, f32, u16 => f32,
    |weight| f32::from_bits(u32::from(weight) << 16),
    |sum, input, weight| sum + input * weight
);
arithmetic!(F16, f32, f32, u16 => f32, f16_to_f32, |sum, input, weight| sum + input * weight);
arithmetic!(
    Int8, i32, [u8; 4], [i8; 4] => [i8; 4],
    |weights| weights,
    |sum, inputs: [u8; 4], weights: [i8; 4]| {
        let product = |index: usize| i32::from(inputs[index]) * i32::from(weights[index]);
        sum + product(0) + product(1) + product(2) + product(3)
    }
);
