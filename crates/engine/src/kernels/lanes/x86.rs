//! AVX-512 and AVX2 registers.

use std::arch::x86_64::*;

use super::{Kernel, Lanes};

/// Proof that this CPU has AVX-512.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx512(());

/// Proof that this CPU has AVX2 and fused multiply-add.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx2(());

impl Avx512 {
    #[inline]
    pub(in crate::kernels) fn detect() -> Option<Self> {
        let detected = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw");
        detected.then_some(Self(()))
    }

    #[inline]
    pub(in crate::kernels) fn run(self, kernel: impl Kernel) {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
        fn run(lanes: Avx512, kernel: impl Kernel) {
            kernel.run(lanes);
        }
        // SAFETY: `detect` found these features.
        unsafe { run(self, kernel) }
    }
}

impl Avx2 {
    #[inline]
    pub(in crate::kernels) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }

    #[inline]
    pub(in crate::kernels) fn run(self, kernel: impl Kernel) {
        #[target_feature(enable = "avx2,fma")]
        fn run(lanes: Avx2, kernel: impl Kernel) {
            kernel.run(lanes);
        }
        // SAFETY: `detect` found these features.
        unsafe { run(self, kernel) }
    }
}

impl Lanes for Avx512 {
    type V = __m512;

    const LANES: usize = 16;
    const TILE_ROWS: usize = 8;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: `self` proves that this CPU has the instruction; likewise below.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as in `splat`. The instruction returns its second operand where either is NaN.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn shift_to_exponent(self, a: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(a))) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: as in `splat`, and the caller's promise.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: __m512) {
        // SAFETY: as in `splat`, and the caller's promise.
        unsafe { _mm512_storeu_ps(to, a) }
    }

    #[inline(always)]
    fn prefetch(self, from: *const f32) {
        // SAFETY: as in `splat`; a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, a: __m512, count: usize) {
        // SAFETY: as in `splat`; masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(to, ((1u32 << count) - 1) as u16, a) }
    }

    /// Transposes 4x4 blocks within quarters of registers, then the quarters.
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: as in `splat`, and the caller's promise.
        unsafe {
            let mut quads = [_mm512_setzero_ps(); 16];
            for first in [0, 4, 8, 12] {
                let row = |i| _mm512_loadu_ps(from.add((first + i) * from_stride));
                let (r0, r1, r2, r3) = (row(0), row(1), row(2), row(3));
                let low = |a, b| _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
                let high = |a, b| _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
                let (a, b, c, d) = (low(r0, r1), low(r2, r3), high(r0, r1), high(r2, r3));
                quads[first] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                quads[first + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
                quads[first + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d));
                quads[first + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(c, d));
            }
            // quads[4 * i + j] holds, in its quarter q, column 4 * q + j of rows 4 * i to 4 * i + 3.
            for column in 0..4 {
                let (a, b) = (quads[column], quads[4 + column]);
                let (c, d) = (quads[8 + column], quads[12 + column]);
                // Quarters 0 and 2 of two registers, and quarters 1 and 3.
                let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                let (even2, odd2) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                let put = |quarter: usize, a| _mm512_storeu_ps(to.add((4 * quarter + column) * to_stride), a);
                put(0, _mm512_shuffle_f32x4::<0x88>(even, even2));
                put(1, _mm512_shuffle_f32x4::<0x88>(odd, odd2));
                put(2, _mm512_shuffle_f32x4::<0xdd>(even, even2));
                put(3, _mm512_shuffle_f32x4::<0xdd>(odd, odd2));
            }
        }
    }
}

impl Lanes for Avx2 {
    type V = __m256;

    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: `self` proves that this CPU has the instruction; likewise below.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as in `splat`.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as in `splat`.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as in `splat`.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: as in `splat`.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as in `splat`. The instruction returns its second operand where either is NaN.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn shift_to_exponent(self, a: __m256) -> __m256 {
        // SAFETY: as in `splat`.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(a))) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: as in `splat`, and the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: __m256) {
        // SAFETY: as in `splat`, and the caller's promise.
        unsafe { _mm256_storeu_ps(to, a) }
    }

    #[inline(always)]
    fn prefetch(self, from: *const f32) {
        // SAFETY: as in `splat`; a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    /// Transposes 4x4 blocks within halves of registers, then the halves.
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: as in `splat`, and the caller's promise.
        unsafe {
            let mut quads = [_mm256_setzero_ps(); 8];
            for first in [0, 4] {
                let row = |i| _mm256_loadu_ps(from.add((first + i) * from_stride));
                let (r0, r1, r2, r3) = (row(0), row(1), row(2), row(3));
                let low = |a, b| _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
                let high = |a, b| _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
                let (a, b, c, d) = (low(r0, r1), low(r2, r3), high(r0, r1), high(r2, r3));
                quads[first] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
                quads[first + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
                quads[first + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(c, d));
                quads[first + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(c, d));
            }
            for column in 0..4 {
                let (a, b) = (quads[column], quads[4 + column]);
                let put = |column: usize, a| _mm256_storeu_ps(to.add(column * to_stride), a);
                put(column, _mm256_permute2f128_ps::<0x20>(a, b));
                put(column + 4, _mm256_permute2f128_ps::<0x31>(a, b));
            }
        }
    }
}
