//! Exact products of 8-bit integers, as operators on quantised numbers define them.

use std::fmt;

use super::arithmetic::{Columns, Job, Kernel};
use super::format::{Format, Panels};
use super::{MAX_IN_FEATURES, best_kernel};
use crate::Precision;
use crate::kernels::{share_rows, simd};

/// A matrix of 8-bit integers and the zero points of its columns, laid out for this CPU.
pub(crate) struct PackedIntegers {
    kernel: Kernel,
    panels: Panels,
    /// Of each column; empty where all are 0.
    zeros: Vec<i32>,
    in_features: usize,
    out_features: usize,
}

impl PackedIntegers {
    /// Takes a weight `[out_features, in_features]` in row-major order and a zero point for each of its rows.
    ///
    /// `None` where there is nothing to multiply, or sums of so many products could overflow on the way.
    pub(crate) fn new(weight: &[i8], zeros: Vec<i32>, in_features: usize) -> Option<Self> {
        Self::with_kernel(best_kernel(Precision::Int8), weight, zeros, in_features)
    }

    pub(super) fn with_kernel(
        kernel: Kernel,
        weight: &[i8],
        mut zeros: Vec<i32>,
        in_features: usize,
    ) -> Option<Self> {
        let out_features = zeros.len();
        assert_eq!(weight.len(), in_features * out_features, "a weight is [out_features, in_features]");
        if weight.is_empty() || in_features > MAX_IN_FEATURES {
            return None;
        }
        let panels = Panels::pack_integers(weight, in_features, kernel.columns);
        if zeros.iter().all(|&zero| zero == 0) {
            zeros = Vec::new();
        }
        Some(Self { kernel, panels, zeros, in_features, out_features })
    }

    /// The sums of `(x - x_zero) * (weight - zero)`, `[rows, out_features]`, which wrap around: of `x`,
    /// `[rows, in_features]`, with one zero point or one for each row.
    pub(crate) fn multiply(&self, x: &[u8], x_zeros: &[i32]) -> Vec<i32> {
        let (in_features, out_features) = (self.in_features, self.out_features);
        let rows = x.len() / in_features;
        assert_eq!(x.len(), rows * in_features, "rows are whole");
        assert!(x_zeros.len() == 1 || x_zeros.len() == rows, "zero points are one or of all rows");
        let is_signed = self.kernel.format == Format::SignedInt8;
        let words = in_features.div_ceil(4);
        let mut groups = vec![0; rows * words];
        share_rows((&mut groups, words), (&mut [(); 0], 0), rows, |row, groups, _| {
            let rows = groups.len() / words;
            let x = &x[row * in_features..(row + rows) * in_features];
            join_fours(x, in_features, if is_signed { 0x8080_8080 } else { 0 }, groups);
        });
        let size = rows * out_features;
        let mut out = Vec::<i32>::with_capacity(size);
        let job = Job {
            rows,
            groups: words,
            inputs: groups.as_ptr(),
            weights: self.panels.as_ptr(),
            columns: Columns { bias: &[], scales: &[], sums: &[] },
            row_scales: &[],
            activation: None,
            writes_sums: true,
            out: out.as_mut_ptr().cast(),
            out_features,
            out_stride: out_features,
        };
        // SAFETY: the kernel is available and its sums are i32. The inputs are `[rows, groups]`, the panels hold
        // all columns, and `out` has room for `[rows, out_features]`, which they cover.
        unsafe {
            self.kernel.run_shared(&job, in_features);
            out.set_len(size);
        }
        share_rows((&mut out, out_features), (&mut [(); 0], 0), rows, |row, out, _| {
            for (index, out) in out.chunks_exact_mut(out_features).enumerate() {
                let row = row + index;
                let x_zero = x_zeros[if x_zeros.len() == 1 { 0 } else { row }];
                let x = &x[row * in_features..(row + 1) * in_features];
                // What the kernel multiplied is less by 128.
                let offset = if is_signed { 128 } else { 0 };
                self.take_zero_points(out, x, x_zero, offset);
            }
        });
        out
    }

    /// From sums of `(x - offset) * weight` of one row to sums of `(x - x_zero) * (weight - zero)`.
    fn take_zero_points(&self, out: &mut [i32], x: &[u8], x_zero: i32, offset: i32) {
        let shift = x_zero - offset;
        if shift != 0 {
            for (sum, weight_sum) in out.iter_mut().zip(&self.panels.sums) {
                *sum = sum.wrapping_sub(shift.wrapping_mul(*weight_sum));
            }
        }
        if !self.zeros.is_empty() {
            // At most 255 for each of `MAX_IN_FEATURES` inputs.
            let x_sum: i32 = x.iter().map(|&x| i32::from(x) - x_zero).sum();
            for (sum, zero) in out.iter_mut().zip(&self.zeros) {
                *sum = sum.wrapping_sub(zero.wrapping_mul(x_sum));
            }
        }
    }

    /// Rows of the matrix.
    pub(crate) fn in_features(&self) -> usize {
        self.in_features
    }

    /// Columns of the matrix.
    pub(crate) fn out_features(&self) -> usize {
        self.out_features
    }
}

impl fmt::Debug for PackedIntegers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedIntegers")
            .field("kernel", &self.kernel.name)
            .field("in_features", &self.in_features)
            .field("out_features", &self.out_features)
            .finish()
    }
}

simd! {
    /// Four neighbours of a row in a word, the last with zeros, with some bits of each flipped.
    fn join_fours(x: &[u8], in_features: usize, flipped: u32, groups: &mut [u32]) = join_fours_loop
}

#[inline(always)]
fn join_fours_loop(x: &[u8], in_features: usize, flipped: u32, groups: &mut [u32]) {
    let words = in_features.div_ceil(4);
    for (row, groups) in x.chunks_exact(in_features).zip(groups.chunks_exact_mut(words)) {
        let (fours, rest) = row.as_chunks::<4>();
        for (group, four) in groups.iter_mut().zip(fours) {
            *group = u32::from_ne_bytes(*four) ^ flipped;
        }
        if !rest.is_empty() {
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            // The weights that the zeros meet are 0, whatever is flipped.
            groups[words - 1] = u32::from_ne_bytes(last) ^ flipped;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::kernels;
    use super::*;

    fn expected(x: &[u8], x_zeros: &[i32], weight: &[i8], zeros: &[i32], in_features: usize) -> Vec<i32> {
        let mut out = Vec::new();
        for (row, x) in x.chunks(in_features).enumerate() {
            let x_zero = x_zeros[row % x_zeros.len()];
            for (weight, zero) in weight.chunks(in_features).zip(zeros) {
                let products =
                    x.iter().zip(weight).map(|(&x, &w)| (i32::from(x) - x_zero) * (i32::from(w) - zero));
                out.push(products.fold(0, i32::wrapping_add));
            }
        }
        out
    }

    proptest! {
        #[test]
        fn every_kernel_gives_the_exact_sums(
            rows in 0usize..9,
            in_features in 1usize..40,
            out_features in 1usize..140,
            seed in any::<u32>(),
            zeros_vary in any::<bool>(),
        ) {
            let byte = |index: usize, salt: u32| {
                ((index as u32).wrapping_add(seed).wrapping_mul(2_654_435_761) ^ salt).to_be_bytes()[1]
            };
            let x: Vec<u8> = (0..rows * in_features).map(|i| byte(i, 0)).collect();
            let weight: Vec<i8> = (0..in_features * out_features).map(|i| byte(i, 7 << 16) as i8).collect();
            let x_zeros: Vec<i32> = if zeros_vary {
                (0..rows).map(|i| i32::from(byte(i, 9 << 16))).collect()
            } else {
                vec![i32::from(byte(3, 1 << 16))]
            };
            let x_zeros = if x_zeros.is_empty() { vec![0] } else { x_zeros };
            let zeros: Vec<i32> =
                (0..out_features).map(|i| if zeros_vary { i32::from(byte(i, 5 << 16) as i8) } else { 0 }).collect();
            let expected = expected(&x, &x_zeros, &weight, &zeros, in_features);
            for kernel in kernels(Precision::Int8) {
                let packed = PackedIntegers::with_kernel(kernel, &weight, zeros.clone(), in_features).unwrap();
                prop_assert_eq!(&packed.multiply(&x, &x_zeros), &expected, "{:?}", packed);
            }
        }
    }

    #[test]
    fn the_ends_of_the_range_do_not_saturate() {
        for in_features in [3, 1000, MAX_IN_FEATURES] {
            let x = vec![255; in_features];
            for (weight, zero, x_zero) in [(-128, 0, 0), (127, 0, 0), (127, -128, 0), (-128, 127, 255)] {
                let weight = vec![weight; in_features];
                let expected = expected(&x, &[x_zero], &weight, &[zero], in_features);
                for kernel in kernels(Precision::Int8) {
                    let packed =
                        PackedIntegers::with_kernel(kernel, &weight, vec![zero], in_features).unwrap();
                    assert_eq!(packed.multiply(&x, &[x_zero]), expected, "{packed:?}");
                }
            }
        }
        let wide = vec![1; MAX_IN_FEATURES + 1];
        assert!(PackedIntegers::new(&wide, vec![0], wide.len()).is_none());
        assert!(PackedIntegers::new(&[], vec![], 3).is_none());
    }
}
