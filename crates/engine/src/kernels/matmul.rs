//! Products of matrices of which neither is known before.
//!
//! The right factor is read where it lies while it fits a cache or few rows read it, and laid out as weights are
//! otherwise. Sums are built in order of depth whichever way is taken, so an element's bits depend on its row and its
//! column alone.

use std::mem::MaybeUninit;

use super::gemm::PackedWeight;
use super::lanes::{Kernel, Lanes, MAX_LANES, dispatch};
use super::tile::{for_tiles, product_tile};
use super::{Disjoint, MIN_SHARED_PRODUCTS};
use crate::runtime::share;

/// The sizes of a product: `[rows, depth]` by `[depth, columns]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProductShape {
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    pub(crate) columns: usize,
}

/// Elements of a right factor that stay in a second-level cache.
const MAX_CACHED: usize = 1 << 16;

/// Rows for which it is not worth laying out a right factor that does not.
const FEW_ROWS: usize = 8;

/// Columns that a thread takes at once: whole registers on every CPU, and for one row, which reads all of the right
/// factor once, enough that memory is read in long runs.
fn columns_of_part(rows: usize) -> usize {
    if rows == 1 { 1024 } else { 256 }
}

/// `a b` for each pair of offsets into `a` and `b`, where the factors begin, all of one shape:
/// `[offsets, rows, columns]`.
///
/// # Panics
///
/// When a factor is not inside its slice.
pub(crate) fn matmul(a: &[f32], b: &[f32], shape: ProductShape, offsets: &[(usize, usize)]) -> Vec<f32> {
    let ProductShape { rows, depth, columns } = shape;
    let size = rows * columns;
    let mut out = Vec::with_capacity(offsets.len() * size);
    if depth == 0 || size == 0 {
        out.resize(offsets.len() * size, 0.0);
        return out;
    }
    let factors =
        |offsets: (usize, usize)| (&a[offsets.0..][..rows * depth], &b[offsets.1..][..depth * columns]);
    let to = &mut out.spare_capacity_mut()[..offsets.len() * size];
    if columns == 1 && rows > FEW_ROWS {
        // The same products and sums as a row by a matrix.
        for (offsets, out) in offsets.iter().zip(to.chunks_exact_mut(size)) {
            let (a, b) = factors(*offsets);
            pack(PackedWeight::new(a, vec![0.0; rows], depth, crate::Precision::F32))
                .multiply_into(b, None, out);
        }
    } else if rows > FEW_ROWS && depth * columns > MAX_CACHED {
        for (offsets, out) in offsets.iter().zip(to.chunks_exact_mut(size)) {
            let (a, b) = factors(*offsets);
            PackedWeight::from_columns(b, vec![0.0; columns], depth).multiply_into(a, None, out);
        }
    } else {
        multiply_in_place(factors, shape, offsets, to);
    }
    // SAFETY: all elements were written.
    unsafe { out.set_len(offsets.len() * size) };
    out
}

fn pack(packed: Result<PackedWeight, usize>) -> PackedWeight {
    packed.expect("f32 holds every f32")
}

/// Products whose right factors are read where they lie.
fn multiply_in_place<'a>(
    factors: impl Fn((usize, usize)) -> (&'a [f32], &'a [f32]) + Sync,
    shape: ProductShape,
    offsets: &[(usize, usize)],
    out: &mut [MaybeUninit<f32>],
) {
    let size = shape.rows * shape.columns;
    assert_eq!(out.len(), offsets.len() * size, "there is room for the products");
    let products = size * shape.depth;
    // A part is a few small products, or some columns of a large one.
    let is_large = products > MIN_SHARED_PRODUCTS;
    let matrices = if is_large { 1 } else { MIN_SHARED_PRODUCTS.div_ceil(products) };
    let columns_of_part = columns_of_part(shape.rows);
    let parts_of_matrix = if is_large { shape.columns.div_ceil(columns_of_part) } else { 1 };
    let out = Disjoint(out.as_mut_ptr().cast::<f32>());
    share(offsets.len().div_ceil(matrices) * parts_of_matrix, |part| {
        let first = part / parts_of_matrix * matrices;
        let columns = if is_large {
            let start = part % parts_of_matrix * columns_of_part;
            start..shape.columns.min(start + columns_of_part)
        } else {
            0..shape.columns
        };
        for (index, &offsets) in offsets.iter().enumerate().skip(first).take(matrices) {
            let (left, right) = factors(offsets);
            // SAFETY: the product is inside `out`.
            let out = unsafe { out.add(index * size) };
            dispatch(Product { left, right, shape, columns: columns.clone(), out });
        }
    });
}

/// Some columns of a product.
struct Product<'a> {
    /// `[rows, depth]`
    left: &'a [f32],
    /// `[depth, columns]`
    right: &'a [f32],
    shape: ProductShape,
    columns: std::ops::Range<usize>,
    /// `[rows, columns]`; nobody else uses these columns.
    out: *mut f32,
}

impl Kernel for Product<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let ProductShape { rows, depth, columns } = self.shape;
        assert!(self.left.len() == rows * depth && self.right.len() == depth * columns);
        assert!(self.columns.end <= columns);
        if rows == 1 {
            return self.sweep(lanes);
        }
        let width = 2 * L::LANES;
        let mut last = Vec::new();
        for column in self.columns.clone().step_by(width) {
            let count = width.min(self.columns.end - column);
            let (right, right_stride) = if count == width {
                (self.right[column..].as_ptr(), columns)
            } else {
                last.resize(depth * width, 0.0);
                for (row, padded) in self.right.chunks_exact(columns).zip(last.chunks_exact_mut(width)) {
                    padded[..count].copy_from_slice(&row[column..column + count]);
                }
                (last.as_ptr(), width)
            };
            for_tiles!(L, 0..rows, |row, ROWS| {
                let zeros = [[lanes.splat(0.0); 2]; ROWS];
                // SAFETY: the tile's rows are the left factor's, and two registers of columns are behind `right` in
                // each of `depth` rows; so are `count` elements of those rows of `out`.
                unsafe {
                    let left = self.left.as_ptr().add(row * depth);
                    let sums = product_tile::<L, ROWS, 2>(
                        lanes,
                        zeros,
                        left,
                        (depth, 1),
                        right,
                        right_stride,
                        depth,
                    );
                    for (index, [low, high]) in sums.into_iter().enumerate() {
                        let to = self.out.add((row + index) * columns + column);
                        store(lanes, to, low, count.min(L::LANES));
                        if count > L::LANES {
                            store(lanes, to.add(L::LANES), high, count - L::LANES);
                        }
                    }
                }
            });
        }
    }
}

impl Product<'_> {
    /// The product of one row: the right factor is read from front to back, a few of its rows at a time.
    #[inline(always)]
    fn sweep<L: Lanes>(self, lanes: L) {
        const ROWS: usize = 8;
        let ProductShape { depth, columns, .. } = self.shape;
        let to = self.out;
        let whole = self.columns.end - self.columns.len() % L::LANES;
        for first in (0..depth).step_by(ROWS) {
            let count = ROWS.min(depth - first);
            let factors: [L::V; ROWS] = std::array::from_fn(|row| {
                lanes.splat(if row < count { self.left[first + row] } else { 0.0 })
            });
            // SAFETY: all rows are the right factor's and all columns among this product's, of which `count` are
            // read and written where there is no whole register.
            unsafe {
                for column in (self.columns.start..whole).step_by(L::LANES) {
                    let mut sum = if first == 0 { lanes.splat(0.0) } else { lanes.load(to.add(column)) };
                    let right = self.right.as_ptr().add(first * columns + column);
                    for (row, factor) in factors.iter().enumerate().take(count) {
                        sum = lanes.mul_add(*factor, lanes.load(right.add(row * columns)), sum);
                    }
                    lanes.store(to.add(column), sum);
                }
                let rest = self.columns.end - whole;
                if rest > 0 {
                    let mut sum =
                        if first == 0 { lanes.splat(0.0) } else { load_first(lanes, to.add(whole), rest) };
                    for (row, factor) in factors.iter().enumerate().take(count) {
                        let right = self.right.as_ptr().add((first + row) * columns + whole);
                        sum = lanes.mul_add(*factor, load_first(lanes, right, rest), sum);
                    }
                    lanes.store_first(to.add(whole), sum, rest);
                }
            }
        }
        // SAFETY: those columns have just been written.
        let out = unsafe { std::slice::from_raw_parts_mut(to.add(self.columns.start), self.columns.len()) };
        out.iter_mut().for_each(|value| *value += 0.0);
    }
}

/// Writes up to `LANES` sums, plus zero: packed weights have a bias, which makes a zero positive.
///
/// # Safety
///
/// `to` is valid for writing `count` values.
#[inline(always)]
unsafe fn store<L: Lanes>(lanes: L, to: *mut f32, sum: L::V, count: usize) {
    let sum = lanes.add(sum, lanes.splat(0.0));
    // SAFETY: the caller's promise.
    unsafe { if count == L::LANES { lanes.store(to, sum) } else { lanes.store_first(to, sum, count) } }
}

/// # Safety
///
/// `from` is valid for reading `count` values, no more than `LANES`.
#[inline(always)]
unsafe fn load_first<L: Lanes>(lanes: L, from: *const f32, count: usize) -> L::V {
    let mut values = [0.0; MAX_LANES];
    // SAFETY: the caller's promise; the array has room for any register.
    unsafe {
        std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), count);
        lanes.load(values.as_ptr())
    }
}

/// What [`matmul`] computes for one pair, in f64.
#[cfg(test)]
fn matmul_reference(a: &[f32], b: &[f32], ProductShape { rows, depth, columns }: ProductShape) -> Vec<f64> {
    let element = |row: usize, column: usize| {
        (0..depth).map(|k| f64::from(a[row * depth + k]) * f64::from(b[k * columns + column])).sum()
    };
    (0..rows * columns).map(|index| element(index / columns, index % columns)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::math::tests::noise;
    use super::super::product;
    use super::*;

    #[test]
    fn a_row_has_the_same_bits_whatever_is_beside_it() {
        // Read in place, laid out, by rows and by columns.
        for (rows, depth, columns) in [
            (1, 1, 1),
            (3, 7, 5),
            (9, 20, 33),
            (12, 300, 700),
            (8, 300, 300),
            (30, 65, 1),
            (5, 64, 1),
            (11, 0, 3),
            (2, 3, 1100),
            (2, 300, 1100),
        ] {
            let shape = ProductShape { rows, depth, columns };
            let (a, b) = (noise(rows * depth, 1), noise(depth * columns, 2));
            let found = matmul(&a, &b, shape, &[(0, 0)]);
            for (found, expected) in found.iter().zip(matmul_reference(&a, &b, shape)) {
                assert!((f64::from(*found) - expected).abs() < 1e-4, "{shape:?}");
            }
            for row in 0..rows {
                let alone = matmul(&a, &b, ProductShape { rows: 1, ..shape }, &[(row * depth, 0)]);
                assert_eq!(alone, found[row * columns..(row + 1) * columns], "{shape:?}");
            }
            let transposed: Vec<f32> = (0..columns)
                .flat_map(|column| (0..depth).map(move |k| (k, column)))
                .map(|(k, c)| b[k * columns + c])
                .collect();
            assert_eq!(product(&a, &transposed, [rows, columns, depth]), found, "{shape:?}");
        }
    }

    #[test]
    fn many_products_are_each_on_their_own() {
        let shape = ProductShape { rows: 4, depth: 6, columns: 5 };
        let (a, b) = (noise(3 * 24, 1), noise(2 * 30, 2));
        let offsets = [(0, 30), (48, 0), (24, 30), (0, 0)];
        let expected: Vec<f32> =
            offsets.iter().flat_map(|&offsets| matmul(&a, &b, shape, &[offsets])).collect();
        assert_eq!(matmul(&a, &b, shape, &offsets), expected);
        assert!(matmul(&a, &b, ProductShape { rows: 0, ..shape }, &offsets).is_empty());
    }
}
