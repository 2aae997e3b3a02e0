//! Products of two matrices neither of which was laid out in advance.

use super::gemm::PackedWeight;
use super::{Disjoint, MIN_SHARED_PRODUCTS, simd};
use crate::Precision;
use crate::runtime::share;

/// `a b^T` of `a`, `[m, k]`, and `b`, `[n, k]`, in row-major order: `[m, n]`.
///
/// # Panics
///
/// When the matrices are not of these sizes.
pub fn product(a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) -> Vec<f32> {
    assert!(a.len() == m * k && b.len() == n * k, "the matrices are [m, k] and [n, k]");
    if m == 0 || n == 0 || k == 0 {
        return vec![0.0; m * n];
    }
    let weight = PackedWeight::new(b, vec![0.0; n], k, Precision::F32).expect("f32 holds every f32");
    weight.multiply(a, None)
}

/// `[rows, columns]` to `[columns, rows]`.
pub(crate) fn transposed<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    assert_eq!(values.len(), rows * columns, "the matrix is [rows, columns]");
    const BLOCK: usize = 16;
    let mut out = values.to_vec();
    // Blocks of whole cache lines on both sides.
    for first_row in (0..rows).step_by(BLOCK) {
        let last_row = rows.min(first_row + BLOCK);
        for column in 0..columns {
            let to = &mut out[column * rows + first_row..column * rows + last_row];
            for (to, row) in to.iter_mut().zip(first_row..last_row) {
                *to = values[row * columns + column];
            }
        }
    }
    out
}

/// `a b^T` of `a`, `[m, k]`, and `b`, `[n, k]`, with sums that wrap around as every integer instruction's do.
///
/// 16 bits hold the difference of an 8-bit integer and its zero point, and their products' sums in pairs have an
/// instruction of their own on most CPUs.
pub(crate) fn integer_product(a: &[i16], b: &[i16], [m, n, k]: [usize; 3]) -> Vec<i32> {
    assert!(a.len() == m * k && b.len() == n * k, "the matrices are [m, k] and [n, k]");
    let mut out = vec![0; m * n];
    if m == 0 || n == 0 || k == 0 {
        return out;
    }
    let rows_of_part = MIN_SHARED_PRODUCTS.div_ceil(n * k);
    let to = Disjoint(out.as_mut_ptr());
    share(m.div_ceil(rows_of_part), |part| {
        let first = part * rows_of_part;
        let rows = rows_of_part.min(m - first);
        // SAFETY: the rows are inside the output and are this part's alone.
        let out = unsafe { std::slice::from_raw_parts_mut(to.add(first * n), rows * n) };
        integer_rows(&a[first * k..(first + rows) * k], b, k, out);
    });
    out
}

simd! {
    fn integer_rows(a: &[i16], b: &[i16], k: usize, out: &mut [i32]) = integer_rows_loop
}

/// Columns whose inputs stay in the second-level cache while all rows pass.
const COLUMNS: usize = 64;

#[inline(always)]
fn integer_rows_loop(a: &[i16], b: &[i16], k: usize, out: &mut [i32]) {
    let n = b.len() / k;
    for first in (0..n).step_by(COLUMNS) {
        let last = n.min(first + COLUMNS);
        for (a, out) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
            let mut column = first;
            while column + 4 <= last {
                let b = &b[column * k..(column + 4) * k];
                let (b0, b1, b2, b3) = (&b[..k], &b[k..2 * k], &b[2 * k..3 * k], &b[3 * k..]);
                let mut sums = [0i32; 4];
                for (index, &a) in a.iter().enumerate() {
                    let a = i32::from(a);
                    sums[0] = sums[0].wrapping_add(a * i32::from(b0[index]));
                    sums[1] = sums[1].wrapping_add(a * i32::from(b1[index]));
                    sums[2] = sums[2].wrapping_add(a * i32::from(b2[index]));
                    sums[3] = sums[3].wrapping_add(a * i32::from(b3[index]));
                }
                out[column..column + 4].copy_from_slice(&sums);
                column += 4;
            }
            for column in column..last {
                let b = &b[column * k..(column + 1) * k];
                let products = a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b));
                out[column] = products.fold(0, i32::wrapping_add);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_small_integers_are_exact_in_both_types() {
        for [m, n, k] in [[1, 1, 1], [3, 5, 7], [2, 70, 33], [5, 4, 64], [0, 2, 3], [2, 0, 3], [2, 3, 0]] {
            let a: Vec<i16> = (0..m * k).map(|i| (i * 37 % 511) as i16 - 255).collect();
            let b: Vec<i16> = (0..n * k).map(|i| (i * 91 % 511) as i16 - 255).collect();
            let expected: Vec<i32> = (0..m * n)
                .map(|at| (at / n, at % n))
                .map(|(i, j)| (0..k).map(|l| i32::from(a[i * k + l]) * i32::from(b[j * k + l])).sum())
                .collect();
            assert_eq!(integer_product(&a, &b, [m, n, k]), expected);
            let float = |values: &[i16]| values.iter().map(|&v| f32::from(v)).collect::<Vec<_>>();
            let sums = product(&float(&a), &float(&b), [m, n, k]);
            assert_eq!(sums, expected.iter().map(|&sum| sum as f32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn transposing_twice_changes_nothing() {
        let values: Vec<u32> = (0..35 * 19).collect();
        let once = transposed(&values, 35, 19);
        assert_eq!(once[1], 19);
        assert_eq!(transposed(&once, 19, 35), values);
    }
}
