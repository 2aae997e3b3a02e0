//! Pairs of bf16 in AVX-512 registers, of which AVX512-BF16 multiplies and adds twice as many as of f32.
//!
//! The instructions round to nearest, ties to even, and take denormals for zero.

use std::arch::x86_64::*;

use super::{Factors, MAX_GROUP, ProductKernel};
use crate::kernels::lanes::{Lanes, x86::Avx512};

/// Proof that this CPU has AVX-512 and AVX512-BF16.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Bf16Pairs(Avx512);

impl Bf16Pairs {
    #[inline]
    pub(in crate::kernels) fn detect() -> Option<Self> {
        if is_x86_feature_detected!("avx512bf16") { Avx512::detect().map(Self) } else { None }
    }

    #[inline]
    pub(in crate::kernels) fn run(self, kernel: impl ProductKernel) {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")]
        fn run(factors: Bf16Pairs, kernel: impl ProductKernel) {
            kernel.run(factors);
        }
        // SAFETY: `detect` found these features.
        unsafe { run(self, kernel) }
    }
}

/// What the reduction of a number to its fraction subtracts: the next lower integer.
const FLOOR: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;

/// Two ones.
const ONES: i32 = 0x3f80_3f80;

/// Where the elements of pairs are in two registers of 16 behind each other.
const INTERLEAVED: [u16; 32] = {
    let mut from = [0; 32];
    let mut at = 0;
    while at < 32 {
        from[at] = (at / 2 + at % 2 * 16) as u16;
        at += 1;
    }
    from
};

impl Factors for Bf16Pairs {
    type Lanes = Avx512;

    const GROUP: usize = 2;

    #[inline(always)]
    fn lanes(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    fn add_products(self, a: __m512, b: __m512, sums: __m512) -> __m512 {
        // SAFETY: `self` proves that this CPU has the instruction; likewise below.
        unsafe { _mm512_dpbf16_ps(sums, pairs(a), pairs(b)) }
    }

    #[inline(always)]
    fn add_groups(self, groups: __m512, sums: __m512) -> __m512 {
        // SAFETY: as in `add_products`.
        let ones = unsafe { _mm512_castsi512_ps(_mm512_set1_epi32(ONES)) };
        self.add_products(groups, ones, sums)
    }

    /// Method: the minimax polynomial for 2^(x - floor(x)), and floor(x) added to the exponent. Its error of
    /// 8e-5 is a 25th of what rounding to bf16 adds, and too small to round 2^0 to anything but 1.
    #[inline(always)]
    fn exp2(self, x: __m512) -> __m512 {
        const COEFFICIENTS: [f32; 4] = [0.078_024_54, 0.226_067_19, 0.695_833_5, 0.999_925_2];
        let lanes = self.0;
        // SAFETY: as in `add_products`.
        let r = unsafe { _mm512_reduce_ps::<FLOOR>(x) };
        let mut power = lanes.splat(COEFFICIENTS[0]);
        for coefficient in &COEFFICIENTS[1..] {
            power = lanes.mul_add(power, r, lanes.splat(*coefficient));
        }
        // SAFETY: as in `add_products`.
        unsafe { _mm512_scalef_ps(power, x) }
    }

    #[inline(always)]
    fn join(self, [low, high]: [__m512; MAX_GROUP]) -> __m512 {
        // SAFETY: as in `add_products`; the indices are a register long.
        unsafe {
            let halves = words(_mm512_cvtne2ps_pbh(high, low));
            let interleaved = _mm512_loadu_si512(INTERLEAVED.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(interleaved, halves))
        }
    }

    #[inline(always)]
    fn join_neighbours(self, row: &mut [f32]) {
        let to = row.as_mut_ptr();
        for first in (0..row.len()).step_by(32) {
            let left = row.len() - first;
            // SAFETY: as in `add_products`; only what is left is read and written, and the pairs of what is
            // read lie where nothing is read later.
            unsafe {
                let (from, to) = (to.add(first), to.add(first / 2));
                if left >= 32 {
                    let joined = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from.add(16)), _mm512_loadu_ps(from));
                    _mm512_storeu_si512(to.cast(), words(joined));
                } else {
                    let low = _mm512_maskz_loadu_ps(mask(left), from);
                    let high = _mm512_maskz_loadu_ps(mask(left.saturating_sub(16)), from.wrapping_add(16));
                    let joined = words(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_mask_storeu_epi32(to.cast(), mask(left.div_ceil(2)), joined);
                }
            }
        }
    }
}

/// The first `count` lanes, or all.
#[inline(always)]
fn mask(count: usize) -> u16 {
    if count < 16 { (1 << count) - 1 } else { u16::MAX }
}

#[inline(always)]
fn pairs(words: __m512) -> __m512bh {
    // SAFETY: the same 512 bits.
    unsafe { std::mem::transmute(words) }
}

#[inline(always)]
fn words(pairs: __m512bh) -> __m512i {
    // SAFETY: the same 512 bits.
    unsafe { std::mem::transmute(pairs) }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::super::math::tests::noise;
    use super::super::Register;
    use super::*;

    fn rounded(value: f32) -> u32 {
        u32::from(bf16::from_f32(value).to_bits())
    }

    struct Joins;

    impl ProductKernel for Joins {
        #[inline(always)]
        fn run<F: Factors>(self, factors: F) {
            for len in [1, 2, 5, 16, 17, 31, 32, 33, 47, 64, 70] {
                let row = noise(len, 5);
                let mut joined = row.clone();
                factors.join_neighbours(&mut joined);
                let expected = row
                    .chunks(2)
                    .map(|pair| rounded(pair[0]) | rounded(pair.get(1).copied().unwrap_or(0.0)) << 16);
                let found = joined.iter().map(|pair| pair.to_bits());
                assert!(found.take(len.div_ceil(2)).eq(expected), "{len}");
            }
            let rows = noise(2 * 48, 6);
            let mut joined = rows.clone();
            factors.join_rows(&mut joined);
            let (low, high) = rows.split_at(48);
            for ((joined, low), high) in joined.iter().zip(low).zip(high) {
                assert_eq!(joined.to_bits(), rounded(*low) | rounded(*high) << 16);
            }
        }
    }

    struct Exp2;

    impl ProductKernel for Exp2 {
        #[inline(always)]
        fn run<F: Factors>(self, factors: F) {
            let lanes = factors.lanes();
            let exp2 = |x| first(factors, factors.exp2(lanes.splat(x)));
            for x in (0..4000).map(|i| -0.033_f32 * i as f32) {
                let expected = f64::from(x).exp2();
                let error = (f64::from(exp2(x)) - expected).abs();
                assert!(error < 8e-5 * expected + f64::from(f32::MIN_POSITIVE), "2^{x} = {}", exp2(x));
            }
            assert_eq!([exp2(-200.0), exp2(-1e30), exp2(f32::MIN), exp2(f32::NEG_INFINITY)], [0.0; 4]);
            assert!(exp2(f32::NAN).is_nan());
            let ones = factors.join([factors.exp2(lanes.splat(0.0)); MAX_GROUP]);
            assert_eq!(first(factors, factors.add_groups(ones, lanes.splat(0.0))), 2.0);
        }
    }

    #[inline(always)]
    fn first<F: Factors>(factors: F, a: Register<F>) -> f32 {
        let mut out = [0.0; 16];
        // SAFETY: the array has room for any register.
        unsafe { factors.lanes().store(out.as_mut_ptr(), a) };
        out[0]
    }

    struct Products;

    impl ProductKernel for Products {
        #[inline(always)]
        fn run<F: Factors>(self, factors: F) {
            let lanes = factors.lanes();
            let of = |low, high| factors.join([lanes.splat(low), lanes.splat(high)]);
            let first = |a| first(factors, a);
            let a = of(1.5, -2.0);
            // All numbers are exact in bf16, and the sums in f32.
            assert_eq!(first(factors.add_products(a, of(3.0, 0.25), lanes.splat(0.5))), 4.5);
            assert_eq!(first(factors.add_groups(a, lanes.splat(0.25))), -0.25);
            let nan = of(f32::NAN, 0.0);
            assert!(first(factors.add_groups(nan, lanes.splat(0.0))).is_nan());
            assert_eq!(first(factors.add_groups(of(f32::INFINITY, 1.0), lanes.splat(0.0))), f32::INFINITY);
        }
    }

    #[test]
    fn pairs_are_joined_and_multiplied() {
        if let Some(pairs) = Bf16Pairs::detect() {
            pairs.run(Joins);
            pairs.run(Products);
            pairs.run(Exp2);
        }
    }
}
