//! Matrix products over strided slices: bounds are checked here, the arithmetic is the gemm crate's.

use gemm::Parallelism;

/// A matrix inside a slice: element (row, col) is `values[row * row_stride + col * col_stride]`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows are `row_stride` elements apart.
    pub(super) fn new(values: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(extent(rows, cols, row_stride, 1) <= values.len(), "a matrix lies inside its slice");
        Self { values, rows, cols, row_stride, col_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
    pub(super) fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// `out = a b`, or `out += a b` with `accumulate`; the rows of `out` are `out_row_stride` elements apart.
pub(super) fn gemm(out: &mut [f32], out_row_stride: usize, a: Matrix, b: Matrix, accumulate: bool) {
    assert_eq!(a.cols, b.rows, "the inner sizes of a product agree");
    assert!(extent(a.rows, b.cols, out_row_stride, 1) <= out.len(), "the product lies inside its slice");
    if a.rows == 0 || b.cols == 0 {
        return;
    }
    // SAFETY: all three matrices lie inside their slices: `extent` was checked for each, here and in
    // `Matrix::new`. `out` is borrowed mutably, so it overlaps neither factor.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.as_mut_ptr(),
            1,
            out_row_stride as isize,
            accumulate,
            a.values.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// How many elements a matrix spans from its first to its last, both included.
fn extent(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_transposes_and_accumulation() {
        // Two of three columns of [[1, 2, 9], [3, 4, 9]].
        let padded = [1., 2., 9., 3., 4., 9.];
        let a = Matrix::new(&padded, 2, 2, 3);
        let mut out = [100.; 6];
        gemm(&mut out, 3, a, a.transposed(), false);
        assert_eq!(out, [5., 11., 100., 11., 25., 100.]);
        gemm(&mut out, 3, a, a, true);
        assert_eq!(out, [12., 21., 100., 26., 47., 100.]);
        gemm(&mut [], 3, Matrix::new(&[], 0, 2, 2), a, false);
    }

    #[test]
    fn a_slice_that_ends_with_the_last_element_is_long_enough() {
        // SAFETY of `gemm` rests on `extent`: the last row of a strided matrix need not fill its stride.
        let values = [1., 2., 9., 3., 4.];
        let mut out = [0.; 5];
        gemm(&mut out, 3, Matrix::new(&values, 2, 2, 3), Matrix::new(&[1., 0., 0., 1.], 2, 2, 2), false);
        assert_eq!(out, [1., 2., 0., 3., 4.]);
        let too_short = std::panic::catch_unwind(|| {
            let _ = Matrix::new(&[1., 2., 9., 3.], 2, 2, 3);
        });
        assert!(too_short.is_err());
    }
}
