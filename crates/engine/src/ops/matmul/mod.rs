//! Products of matrices.

pub(super) mod einsum;
pub(crate) mod gemm;

use super::Entry;
use super::broadcast;
use super::elementwise::cast;
use super::number::{Number, for_number, wide, widen};
use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, checked_len, problem};
use crate::kernels::{self, ProductShape};

pub(super) const OPERATORS: &[Entry] = &[Entry::new("MatMul", 2..=2, |_| Ok(Box::new(MatMul)))];

/// `MatMul`, as NumPy has it: matrices in the last two dimensions, broadcast over the others; a vector is a row on the
/// left and a column on the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatMul;

impl Operator for MatMul {
    fn name(&self) -> &'static str {
        "MatMul"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        if a.dtype != b.dtype {
            problem!("inputs are {} and {}", a.dtype, b.dtype);
        }
        wide(a.dtype)?;
        let (Some(x), Some(y)) = (&a.shape, &b.shape) else {
            return Ok(vec![Info::unknown(a.dtype)]);
        };
        let (Some((depth, rows)), Some((last, others))) = (x.split_last(), y.split_last()) else {
            problem!("a factor has no dimensions");
        };
        let (other_depth, columns, y_batch): (&Dim, Option<&Dim>, &[Dim]) = match others.split_last() {
            Some((depth, batch)) => (depth, Some(last), batch),
            None => (last, None, &[]),
        };
        if let (Some(depth), Some(other)) = (depth.known(), other_depth.known())
            && depth != other
        {
            problem!("shapes {x:?} and {y:?} cannot be multiplied");
        }
        let (rows, x_batch): (Option<&Dim>, &[Dim]) = match rows.split_last() {
            Some((rows, batch)) => (Some(rows), batch),
            None => (None, &[]),
        };
        let mut shape = broadcast::dims_of(&[x_batch, y_batch])?;
        shape.extend(rows.into_iter().chain(columns).cloned());
        Ok(vec![Info::new(a.dtype, shape)])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        Ok(vec![matmul(inputs.take(0)?, inputs.take(1)?)?])
    }
}

/// What [`MatMul`] computes.
pub(super) fn matmul(a: Array, b: Array) -> Result<Array, Problem> {
    let plan = Plan::new(a.shape(), b.shape())?;
    let dtype = a.dtype();
    if dtype != b.dtype() {
        problem!("inputs are {dtype} and {}", b.dtype());
    }
    let (a, b) = (widen(a)?, widen(b)?);
    let product = match a.dtype() {
        DataType::F32 => {
            let values = kernels::matmul(a.values()?, b.values()?, plan.shape, &plan.offsets);
            Array::new(plan.out, values)?
        }
        other => for_number!(other, T => {
            let values = multiply::<T>(a.values()?, b.values()?, plan.shape, &plan.offsets);
            Array::new(plan.out, values)?
        }),
    };
    cast(product, dtype)
}

/// Which matrices are multiplied.
struct Plan {
    shape: ProductShape,
    /// Where the factors of each product begin.
    offsets: Vec<(usize, usize)>,
    out: Vec<usize>,
}

impl Plan {
    fn new(a: &[usize], b: &[usize]) -> Result<Self, Problem> {
        let (Some((&depth, a_rest)), Some((&last, b_rest))) = (a.split_last(), b.split_last()) else {
            problem!("a factor has no dimensions");
        };
        let (rows, a_batch): (_, &[usize]) = match a_rest.split_last() {
            Some((&rows, batch)) => (Some(rows), batch),
            None => (None, &[]),
        };
        let (b_depth, columns, b_batch): (_, _, &[usize]) = match b_rest.split_last() {
            Some((&depth, batch)) => (depth, Some(last), batch),
            None => (last, None, &[]),
        };
        if depth != b_depth {
            problem!("shapes {a:?} and {b:?} cannot be multiplied");
        }
        let mut out = broadcast::shape(&[a_batch, b_batch])?;
        let batch = out.clone();
        out.extend(rows.into_iter().chain(columns));
        let mut shape = ProductShape { rows: rows.unwrap_or(1), depth, columns: columns.unwrap_or(1) };
        let mut offsets = Vec::new();
        if checked_len(&out, size_of::<u64>())? == 0 {
            return Ok(Self { shape, offsets, out });
        }
        if b_batch.iter().all(|&size| size == 1) {
            // Rows are multiplied with the same matrix, whichever matrix they are of.
            shape.rows *= a_batch.iter().product::<usize>();
            offsets.push((0, 0));
        } else {
            let strides = [broadcast::strides(a_batch, &batch), broadcast::strides(b_batch, &batch)];
            broadcast::for_each_index(&batch, |index| {
                let matrix = |strides: &[usize]| index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>();
                let (a, b) = (matrix(&strides[0]), matrix(&strides[1]));
                offsets.push((a * shape.rows * depth, b * depth * shape.columns));
            });
        }
        Ok(Self { shape, offsets, out })
    }
}

/// What [`kernels::matmul`] computes, for any type.
fn multiply<T: Number>(a: &[T], b: &[T], shape: ProductShape, offsets: &[(usize, usize)]) -> Vec<T> {
    let ProductShape { rows, depth, columns } = shape;
    let mut out = vec![T::ZERO; offsets.len() * rows * columns];
    if depth == 0 || columns == 0 || rows == 0 {
        return out;
    }
    for (out, &(a_at, b_at)) in out.chunks_exact_mut(rows * columns).zip(offsets) {
        let a_rows = a[a_at..][..rows * depth].chunks_exact(depth);
        for (out, a) in out.chunks_exact_mut(columns).zip(a_rows) {
            for (a, b) in a.iter().zip(b[b_at..][..depth * columns].chunks_exact(columns)) {
                out.iter_mut().zip(b).for_each(|(out, b)| *out = out.plus(a.times(*b)));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted<T: Number>(shape: &[usize]) -> Array {
        let len = shape.iter().product::<usize>();
        Array::new(shape, (0..len).map(|index| T::from_f64(index as f64)).collect()).unwrap()
    }

    #[test]
    fn types_and_broadcasts_agree() {
        let cases: [(&[usize], &[usize], &[usize]); 9] = [
            (&[2, 3], &[3, 4], &[2, 4]),
            (&[3], &[3, 4], &[4]),
            (&[2, 3], &[3], &[2]),
            (&[3], &[3], &[]),
            (&[5, 2, 3], &[3, 4], &[5, 2, 4]),
            (&[2, 3], &[5, 3, 4], &[5, 2, 4]),
            (&[2, 1, 2, 3], &[4, 3, 2], &[2, 4, 2, 2]),
            (&[2, 3], &[1, 1, 3, 2], &[1, 1, 2, 2]),
            (&[2, 0], &[0, 4], &[2, 4]),
        ];
        for (a, b, out) in cases {
            let float = matmul(counted::<f32>(a), counted::<f32>(b)).unwrap();
            let int = matmul(counted::<i64>(a), counted::<i64>(b)).unwrap();
            assert_eq!(float.shape(), out);
            assert_eq!(cast(float, DataType::I64).unwrap(), int);
            let infos =
                [a, b].map(|shape| Info::new(DataType::F32, shape.iter().map(|&size| size.into()).collect()));
            let info = MatMul.infer(&Operands::new(infos.iter().map(Some).collect())).unwrap().remove(0);
            assert_eq!(
                info.shape.unwrap().iter().map(|dim| dim.known_size().unwrap()).collect::<Vec<_>>(),
                out
            );
        }
    }

    #[test]
    fn factors_that_do_not_fit_are_problems() {
        let cases: [(&[usize], &[usize]); 4] =
            [(&[2, 3], &[2, 3]), (&[], &[3]), (&[3], &[]), (&[2, 2, 3], &[3, 3, 1])];
        for (a, b) in cases {
            assert!(matmul(counted::<f32>(a), counted::<f32>(b)).is_err());
            let infos =
                [a, b].map(|shape| Info::new(DataType::F32, shape.iter().map(|&size| size.into()).collect()));
            assert!(MatMul.infer(&Operands::new(infos.iter().map(Some).collect())).is_err());
        }
        assert!(matmul(counted::<f32>(&[1 << 20, 1]), counted::<f32>(&[1, 1 << 20])).is_err());
        assert!(matmul(Array::vector(vec![true]), Array::vector(vec![true])).is_err());
        assert!(matmul(counted::<f32>(&[1]), counted::<f64>(&[1])).is_err());
    }

    #[test]
    fn symbols_pass_through() {
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        let a = Info::new(DataType::F32, vec![batch.clone(), 12i64.into(), seq.clone(), 32i64.into()]);
        let b = Info::new(DataType::F32, vec![batch.clone(), 12i64.into(), 32i64.into(), seq.clone()]);
        let info = MatMul.infer(&Operands::new(vec![Some(&a), Some(&b)])).unwrap().remove(0);
        assert_eq!(info.shape.unwrap(), [batch, 12i64.into(), seq.clone(), seq]);
    }
}
