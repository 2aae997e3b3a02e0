//! Products on x86-64: AVX-512 with its bf16 and 8-bit dot products, and AVX2.
//!
//! A tile of 6 rows by 64 columns keeps 24 of 32 AVX-512 registers as sums: ten loads for 24 multiplications.
//! With AVX2 it is 6 by 16, 12 of 16 registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::arithmetic::{Arithmetic, Job, Kernel, run};
use super::format::Format;
use crate::kernels::lanes::x86::{Avx2, Avx512};

/// The best first.
pub(super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "AVX-512",
        columns: 64,
        format: Format::F32,
        run: f32_avx512,
        is_available: || Avx512::detect().is_some(),
    },
    Kernel {
        name: "AVX2",
        columns: 16,
        format: Format::F32,
        run: f32_avx2,
        is_available: || Avx2::detect().is_some(),
    },
    Kernel {
        name: "AVX512-BF16",
        columns: 64,
        format: Format::Bf16Pairs,
        run: bf16_pairs_avx512,
        is_available: || is_x86_feature_detected!("avx512bf16") && Avx512::detect().is_some(),
    },
    Kernel {
        name: "AVX-512",
        columns: 64,
        format: Format::Bf16,
        run: bf16_avx512,
        is_available: || Avx512::detect().is_some(),
    },
    Kernel {
        name: "AVX2",
        columns: 16,
        format: Format::Bf16,
        run: bf16_avx2,
        is_available: || Avx2::detect().is_some(),
    },
    Kernel {
        name: "AVX-512",
        columns: 64,
        format: Format::F16,
        run: f16_avx512,
        is_available: || Avx512::detect().is_some(),
    },
    Kernel {
        name: "AVX2",
        columns: 16,
        format: Format::F16,
        run: f16_avx2,
        is_available: || is_x86_feature_detected!("f16c") && Avx2::detect().is_some(),
    },
    Kernel {
        name: "AVX512-VNNI",
        columns: 64,
        format: Format::Int8,
        run: int8_avx512,
        is_available: || is_x86_feature_detected!("avx512vnni") && Avx512::detect().is_some(),
    },
    Kernel {
        name: "AVX-VNNI",
        columns: 16,
        format: Format::Int8,
        run: int8_avx_vnni,
        is_available: || is_x86_feature_detected!("avxvnni") && is_x86_feature_detected!("avx2"),
    },
    Kernel {
        name: "AVX2",
        columns: 16,
        format: Format::Int8,
        run: int8_avx2,
        is_available: || is_x86_feature_detected!("avx2"),
    },
];

/// Compiles a kernel for its instruction set.
macro_rules! kernel {
    ($name:ident, $features:literal, $arithmetic:ty, $vectors:literal, $tile:literal) => {
        #[target_feature(enable = $features)]
        fn $name(job: &Job, panels: Range<usize>) {
            // SAFETY: the instructions are those that this function is compiled for, and whoever calls it by
            // pointer promises the rest.
            unsafe { run::<$arithmetic, 6, $vectors, $tile>(job, panels) }
        }
    };
}

kernel!(f32_avx512, "avx512f,avx512vl,avx512dq,avx512bw", F32Avx512, 4, 384);
kernel!(bf16_pairs_avx512, "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16", Bf16PairsAvx512, 4, 384);
kernel!(bf16_avx512, "avx512f,avx512vl,avx512dq,avx512bw", Bf16Avx512, 4, 384);
kernel!(f16_avx512, "avx512f,avx512vl,avx512dq,avx512bw", F16Avx512, 4, 384);
kernel!(int8_avx512, "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni", Int8Avx512, 4, 384);
kernel!(f32_avx2, "avx2,fma", F32Avx2, 2, 96);
kernel!(bf16_avx2, "avx2,fma", Bf16Avx2, 2, 96);
kernel!(f16_avx2, "avx2,fma,f16c", F16Avx2, 2, 96);
kernel!(int8_avx_vnni, "avx2,avxvnni", Int8AvxVnni, 2, 96);
kernel!(int8_avx2, "avx2", Int8Avx2, 2, 96);

/// Implements the methods that all kinds of one register width share.
macro_rules! sums {
    (f32, 512) => {
        type Sum = f32;
        type Sums = __m512;
        const LANES: usize = 16;
        #[inline(always)]
        unsafe fn zero() -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, sums: __m512) {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_ps(to, sums) }
        }
    };
    (f32, 256) => {
        type Sum = f32;
        type Sums = __m256;
        const LANES: usize = 8;
        #[inline(always)]
        unsafe fn zero() -> __m256 {
            // SAFETY: the caller's promise.
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, sums: __m256) {
            // SAFETY: the caller's promise.
            unsafe { _mm256_storeu_ps(to, sums) }
        }
    };
    (i32, 512) => {
        type Sum = i32;
        type Sums = __m512i;
        const LANES: usize = 16;
        #[inline(always)]
        unsafe fn zero() -> __m512i {
            // SAFETY: the caller's promise.
            unsafe { _mm512_setzero_si512() }
        }
        #[inline(always)]
        unsafe fn store(to: *mut i32, sums: __m512i) {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_si512(to.cast(), sums) }
        }
    };
    (i32, 256) => {
        type Sum = i32;
        type Sums = __m256i;
        const LANES: usize = 8;
        #[inline(always)]
        unsafe fn zero() -> __m256i {
            // SAFETY: the caller's promise.
            unsafe { _mm256_setzero_si256() }
        }
        #[inline(always)]
        unsafe fn store(to: *mut i32, sums: __m256i) {
            // SAFETY: the caller's promise.
            unsafe { _mm256_storeu_si256(to.cast(), sums) }
        }
    };
}

/// Defines a kind: its weights are loaded by `$load` and multiplied by `$add`.
macro_rules! arithmetic {
    (
        $(#[$meta:meta])* $name:ident, $sum:ident $width:tt, $input:ty, $weight:ty => $weights:ty,
        $load:expr, $add:expr
    ) => {
        $(#[$meta])*
        struct $name;

        impl Arithmetic for $name {
            type Input = $input;
            type Weight = $weight;
            type Weights = $weights;
            sums!($sum, $width);
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
    F32Avx512, f32 512, f32, f32 => __m512,
    |from| _mm512_loadu_ps(from),
    |sums, input, weights| _mm512_fmadd_ps(_mm512_set1_ps(input), weights, sums)
);
arithmetic!(
    F32Avx2, f32 256, f32, f32 => __m256,
    |from| _mm256_loadu_ps(from),
    |sums, input, weights| _mm256_fmadd_ps(_mm256_set1_ps(input), weights, sums)
);
arithmetic!(
    /// Inputs and weights are pairs of bf16; the instruction rounds each sum once a pair, to nearest.
    Bf16PairsAvx512, f32 512, i32, u32 => __m512bh,
    |from: *const u32| std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(from.cast())),
    |sums, input, weights| {
        let input = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(input));
        _mm512_dpbf16_ps(sums, input, weights)
    }
);
arithmetic!(
    /// bf16 is the upper half of f32.
    Bf16Avx512, f32 512, f32, u16 => __m512,
    |from: *const u16| {
        let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
    },
    |sums, input, weights| _mm512_fmadd_ps(_mm512_set1_ps(input), weights, sums)
);
arithmetic!(
    Bf16Avx2, f32 256, f32, u16 => __m256,
    |from: *const u16| {
        let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
    },
    |sums, input, weights| _mm256_fmadd_ps(_mm256_set1_ps(input), weights, sums)
);
arithmetic!(
    F16Avx512, f32 512, f32, u16 => __m512,
    |from: *const u16| _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())),
    |sums, input, weights| _mm512_fmadd_ps(_mm512_set1_ps(input), weights, sums)
);
arithmetic!(
    F16Avx2, f32 256, f32, u16 => __m256,
    |from: *const u16| _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
    |sums, input, weights| _mm256_fmadd_ps(_mm256_set1_ps(input), weights, sums)
);
arithmetic!(
    Int8Avx512, i32 512, i32, u32 => __m512i,
    |from: *const u32| _mm512_loadu_si512(from.cast()),
    |sums, input, weights| _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(input), weights)
);
arithmetic!(
    Int8AvxVnni, i32 256, i32, u32 => __m256i,
    |from: *const u32| _mm256_loadu_si256(from.cast()),
    |sums, input, weights| _mm256_dpbusd_avx_epi32(sums, _mm256_set1_epi32(input), weights)
);
arithmetic!(
    /// Without a dot instruction: the bytes at even and at odd positions are widened to 16 bits, whose products
    /// `madd` sums in 32. (`maddubs` would take bytes, but saturates.)
    Int8Avx2, i32 256, i32, u32 => (__m256i, __m256i),
    |from: *const u32| {
        let bytes = _mm256_loadu_si256(from.cast());
        (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)), _mm256_srai_epi16::<8>(bytes))
    },
    |sums, input: i32, (even, odd): (__m256i, __m256i)| {
        let even = _mm256_madd_epi16(_mm256_set1_epi32(input & 0x00ff_00ff), even);
        let odd = _mm256_madd_epi16(_mm256_set1_epi32((input >> 8) & 0x00ff_00ff), odd);
        _mm256_add_epi32(sums, _mm256_add_epi32(even, odd))
    }
);
