//! The register tile that products of matrices are made of, and what its factors are packed by.

use super::factors::{Factors, Register};
use super::lanes::Lanes;

/// Products of `ROWS` rows of a row-major or column-major factor with `COLS` registers' columns of another,
/// summed in order of depth, which counts groups: the sum of each element is the same whatever tile it is
/// computed in.
///
/// Group (row, k) of the left factor is `left.add(row * row_stride + k * depth_stride)`; register c of row k
/// of the right factor is at `right.add(k * right_stride + c * LANES)`.
///
/// # Safety
///
/// Those are valid for reading for `row < ROWS`, `k < depth` and `c < COLS`.
#[inline(always)]
pub(super) unsafe fn product_tile<F: Factors, const ROWS: usize, const COLS: usize>(
    factors: F,
    mut sums: [[Register<F>; COLS]; ROWS],
    left: *const f32,
    (row_stride, depth_stride): (usize, usize),
    right: *const f32,
    right_stride: usize,
    depth: usize,
) -> [[Register<F>; COLS]; ROWS] {
    let lanes = factors.lanes();
    for k in 0..depth {
        let mut columns = [lanes.splat(0.0); COLS];
        for (c, column) in columns.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *column = unsafe { lanes.load(right.add(k * right_stride + c * F::Lanes::LANES)) };
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let group = lanes.splat(unsafe { *left.add(row * row_stride + k * depth_stride) });
            for (sum, column) in sums.iter_mut().zip(&columns) {
                *sum = factors.add_products(group, *column, *sum);
            }
        }
    }
    sums
}

/// Runs `$body` for tiles of `$rows` rows, a constant, from `$first` on, that make up a range.
macro_rules! for_tiles {
    ($lanes:ty, $range:expr, |$first:ident, $rows:ident| $body:expr) => {{
        let std::ops::Range { start: mut $first, end } = $range;
        while $first < end {
            let left = (end - $first).min(<$lanes as $crate::kernels::lanes::Lanes>::TILE_ROWS);
            $crate::kernels::tile::for_tiles!(@arms left, $first, $rows, $body, 8 6 4 2 1);
        }
    }};
    (@arms $left:ident, $first:ident, $rows:ident, $body:expr, $($count:literal)*) => {
        $(if $left >= $count {
            const $rows: usize = $count;
            $body;
            $first += $rows;
        } else)* {}
    };
}
pub(super) use for_tiles;

/// Transposes the first `COLS * LANES` rows of `[_, padded]`, where the width is a multiple of `LANES`, to
/// `[padded, COLS * LANES]`: the right factor of tiles whose columns are those rows.
#[inline(always)]
pub(super) fn transpose_rows<L: Lanes, const COLS: usize>(
    lanes: L,
    rows: &[f32],
    columns: &mut [f32],
    padded: usize,
) {
    let width = COLS * L::LANES;
    assert!(
        padded.is_multiple_of(L::LANES) && rows.len() >= width * padded && columns.len() >= width * padded
    );
    for row in (0..width).step_by(L::LANES) {
        for column in (0..padded).step_by(L::LANES) {
            // SAFETY: `[width, padded]` and `[padded, width]` have room for this square of lanes.
            unsafe {
                let (from, to) = (rows.as_ptr().add(row * padded + column), columns.as_mut_ptr());
                lanes.transpose(from, padded, to.add(column * width + row), width);
            }
        }
    }
}
