//! The register tile that products of matrices are made of.

use super::lanes::Lanes;

/// Products of `ROWS` rows of a row-major or column-major factor with `COLS` registers' columns of another, summed
/// in order of depth: the sum of each element is the same whatever tile it is computed in.
///
/// Element (row, k) of the left factor is `left.add(row * row_stride + k * depth_stride)`; register c of row k
/// of the right factor is at `right.add(k * right_stride + c * LANES)`.
///
/// # Safety
///
/// Those are valid for reading for `row < ROWS`, `k < depth` and `c < COLS`.
#[inline(always)]
pub(super) unsafe fn product_tile<L: Lanes, const ROWS: usize, const COLS: usize>(
    lanes: L,
    mut sums: [[L::V; COLS]; ROWS],
    left: *const f32,
    (row_stride, depth_stride): (usize, usize),
    right: *const f32,
    right_stride: usize,
    depth: usize,
) -> [[L::V; COLS]; ROWS] {
    for k in 0..depth {
        let mut columns = [lanes.splat(0.0); COLS];
        for (c, column) in columns.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *column = unsafe { lanes.load(right.add(k * right_stride + c * L::LANES)) };
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let factor = lanes.splat(unsafe { *left.add(row * row_stride + k * depth_stride) });
            for (sum, column) in sums.iter_mut().zip(&columns) {
                *sum = lanes.mul_add(factor, *column, *sum);
            }
        }
    }
    sums
}
