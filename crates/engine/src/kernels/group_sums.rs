//! Sums of rows by group, and products of such sums with a matrix, in f64: what MUVERA's encoding (Jayaram et al.,
//! arXiv:2405.19504) spends its time on.
//!
//! Elementwise loops without fused multiply-add, so the bits do not depend on the instruction set.

use super::simd;

simd! {
    /// Adds each row of `values`, `[rows, dim]`, to the sum of its group: `sums`, `[groups, dim]`.
    ///
    /// # Panics
    ///
    /// When there are fewer than `rows` group numbers, or one of them is beyond `sums`, or `dim` is 0.
    pub fn add_to_groups(sums: &mut [f64], values: &[f32], groups: &[usize], dim: usize) = add_loop
}

#[inline(always)]
fn add_loop(sums: &mut [f64], values: &[f32], groups: &[usize], dim: usize) {
    for (row, group) in values.chunks_exact(dim).zip(&groups[..values.len() / dim]) {
        for (sum, value) in sums[group * dim..][..dim].iter_mut().zip(row) {
            *sum += f64::from(*value);
        }
    }
}

/// Columns of a tile: a register of AVX-512. A matrix for [`project_f64`] has a multiple of these.
const COLUMNS: usize = 8;

/// Rows of a tile: as many independent sums as hide the latency of an addition.
const ROWS: usize = 8;

simd! {
    /// Multiplies `rows`, `[n, depth]`, by `matrix`, `[depth, width]`, to `out`, `[n, width]`. Sums are built in order
    /// of depth.
    ///
    /// # Panics
    ///
    /// When `depth` is 0, `width` is no multiple of 8, or `out` is of another size.
    pub fn project_f64(out: &mut [f64], rows: &[f64], matrix: &[f64], depth: usize) = project_loop
}

#[inline(always)]
fn project_loop(out: &mut [f64], rows: &[f64], matrix: &[f64], depth: usize) {
    let width = matrix.len() / depth;
    assert!(width.is_multiple_of(COLUMNS) && out.len() == rows.len() / depth * width, "the sizes agree");
    if width == 0 {
        return;
    }
    for (rows, out) in rows.chunks(ROWS * depth).zip(out.chunks_mut(ROWS * width)) {
        for column in (0..width).step_by(COLUMNS) {
            if rows.len() == ROWS * depth {
                tile::<ROWS>(out, rows, matrix, depth, column);
            } else {
                for (row, out) in rows.chunks_exact(depth).zip(out.chunks_exact_mut(width)) {
                    tile::<1>(out, row, matrix, depth, column);
                }
            }
        }
    }
}

#[inline(always)]
fn tile<const N: usize>(out: &mut [f64], rows: &[f64], matrix: &[f64], depth: usize, column: usize) {
    let width = matrix.len() / depth;
    let rows: [&[f64]; N] = std::array::from_fn(|row| &rows[row * depth..][..depth]);
    let mut sums = [[0.0; COLUMNS]; N];
    for (at, factors) in matrix.chunks_exact(width).enumerate() {
        let factors: &[f64; COLUMNS] = factors[column..].first_chunk().expect("columns come in whole tiles");
        for (sums, row) in sums.iter_mut().zip(rows) {
            for (sum, factor) in sums.iter_mut().zip(factors) {
                *sum += row[at] * factor;
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        out[row * width + column..][..COLUMNS].copy_from_slice(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small integers, of which all sums and products are exact.
    fn integers(len: usize, seed: usize) -> impl Iterator<Item = i8> {
        (0..len).map(move |at| ((at * 37 + seed * 11) % 15) as i8 - 7)
    }

    #[test]
    fn rows_are_added_to_their_groups() {
        for dim in [1, 3, 8, 33] {
            let values: Vec<f32> = integers(5 * dim, dim).map(f32::from).collect();
            let mut sums = vec![1.0; 3 * dim];
            add_to_groups(&mut sums, &values, &[2, 0, 2, 2, 0], dim);
            for at in 0..dim {
                let value = |row: usize| f64::from(values[row * dim + at]);
                assert_eq!(sums[at], 1.0 + value(1) + value(4));
                assert_eq!(sums[dim + at], 1.0);
                assert_eq!(sums[2 * dim + at], 1.0 + value(0) + value(2) + value(3));
            }
        }
    }

    #[test]
    fn products_are_those_of_matrices() {
        for (n, depth, width) in [(0, 3, 8), (1, 1, 8), (7, 5, 16), (8, 33, 8), (21, 16, 24), (3, 4, 0)] {
            let rows: Vec<f64> = integers(n * depth, 1).map(f64::from).collect();
            let matrix: Vec<f64> = integers(depth * width, 2).map(f64::from).collect();
            let mut out = vec![f64::NAN; n * width];
            project_f64(&mut out, &rows, &matrix, depth);
            for (at, found) in out.iter().enumerate() {
                let (row, column) = (at / width, at % width);
                let products = (0..depth).map(|k| rows[row * depth + k] * matrix[k * width + column]);
                assert_eq!(*found, products.sum::<f64>());
            }
        }
    }
}
