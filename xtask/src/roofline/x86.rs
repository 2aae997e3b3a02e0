//! The arithmetic instructions of x86 that neural networks live on, each in a loop that does nothing else.
//!
//! Operands stay in registers. There are twelve chains of dependent instructions: enough for two units with a
//! latency of four to six cycles each, and few enough for the sixteen registers of AVX2.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::peak::{Arithmetic, Unit};

const CHAINS: usize = 12;

/// The instructions that this processor has.
pub(super) fn units() -> Vec<Unit> {
    let mut units = Vec::new();
    // A multiplication and an addition for each element that a register holds.
    let mut add = |name, arithmetic, elements: usize, run| {
        units.push(Unit { name, arithmetic, operations: (2 * elements * CHAINS) as f64, run });
    };
    if is_x86_feature_detected!("avx512f") {
        add("vfmadd, AVX-512", Arithmetic::F32, 16, fma_512 as unsafe fn(u64) -> f64);
    }
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        add("vfmadd, AVX2", Arithmetic::F32, 8, fma_256);
    }
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
        add("vdpbf16ps, AVX-512", Arithmetic::Bf16, 32, dot_bf16_512);
    }
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        add("vpdpbusd, AVX-512", Arithmetic::Int8, 64, dot_int8_512);
    }
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni") {
        add("vpdpbusd, AVX2", Arithmetic::Int8, 32, dot_int8_256);
    }
    units
}

/// Defines `$name`, which applies `$step` to every chain in each iteration and returns the sum of the chains'
/// first elements. The chains start at 0, 1, 2, ... so that they are not one computation, and what they
/// compute cannot be known in advance, since its operand passes through `black_box`.
macro_rules! chains {
    ($(#[$meta:meta])* $name:ident, $features:literal, $splat:ident($number:ty), $operand:expr, $step:expr, $first:expr) => {
        $(#[$meta])*
        #[target_feature(enable = $features)]
        fn $name(iterations: u64) -> f64 {
            let operand = black_box($operand);
            let mut chains = [$splat(0 as $number); CHAINS];
            for (index, chain) in chains.iter_mut().enumerate() {
                *chain = $splat(index as $number);
            }
            for _ in 0..iterations {
                for chain in &mut chains {
                    *chain = $step(*chain, operand);
                }
            }
            // All elements are wanted, for all that anybody can tell.
            let chains = black_box(chains);
            let mut sum = 0.0;
            for chain in chains {
                sum += f64::from($first(chain));
            }
            sum
        }
    };
}

chains! {
    /// x = 0.5 x + 0.5, which stays a normal number for ever.
    fma_512, "avx512f", _mm512_set1_ps(f32), _mm512_set1_ps(0.5),
    |x, half| _mm512_fmadd_ps(x, half, half), |x| _mm512_cvtss_f32(x)
}

chains! {
    /// x = 0.5 x + 0.5, which stays a normal number for ever.
    fma_256, "avx2,fma", _mm256_set1_ps(f32), _mm256_set1_ps(0.5),
    |x, half| _mm256_fmadd_ps(x, half, half), |x| _mm256_cvtss_f32(x)
}

chains! {
    /// x = x + 1 * 1 + 1 * 1.
    dot_bf16_512, "avx512f,avx512bf16", _mm512_set1_ps(f32),
    _mm512_cvtne2ps_pbh(_mm512_set1_ps(1.0), _mm512_set1_ps(1.0)),
    |x, ones| _mm512_dpbf16_ps(x, ones, ones), |x| _mm512_cvtss_f32(x)
}

chains! {
    /// x = x + 1 * 1 + 1 * 1 + 1 * 1 + 1 * 1, modulo 2^32.
    dot_int8_512, "avx512f,avx512vnni", _mm512_set1_epi32(i32), _mm512_set1_epi8(1),
    |x, ones| _mm512_dpbusd_epi32(x, ones, ones), |x| _mm512_cvtsi512_si32(x)
}

chains! {
    /// x = x + 1 * 1 + 1 * 1 + 1 * 1 + 1 * 1, modulo 2^32.
    dot_int8_256, "avx2,avxvnni", _mm256_set1_epi32(i32), _mm256_set1_epi8(1),
    |x, ones| _mm256_dpbusd_avx_epi32(x, ones, ones), |x| _mm256_cvtsi256_si32(x)
}
