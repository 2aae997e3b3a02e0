//! Which matrices a product of stacks of matrices multiplies, as numpy's `matmul` has it.

use super::broadcast;
use crate::graph::{Dim, Problem, checked_len, problem};

/// A product of two stacks of matrices, `[.., m, k]` and `[.., k, n]`; a vector stands for a matrix of one row or
/// column, which the result lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MatrixProduct {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Of the result.
    pub(super) shape: Vec<usize>,
    /// For each matrix of the result, which one of the first stack and which one of the second.
    pub(super) pairs: Vec<(usize, usize)>,
}

impl MatrixProduct {
    pub(super) fn new(a: &[usize], b: &[usize]) -> Result<Self, Problem> {
        let (a_batch, m, k) = match a {
            [] => problem!("the first input is a scalar"),
            [k] => (&a[..0], 1, *k),
            [batch @ .., m, k] => (batch, *m, *k),
        };
        let (b_batch, b_k, n) = match b {
            [] => problem!("the second input is a scalar"),
            [k] => (&b[..0], *k, 1),
            [batch @ .., k, n] => (batch, *k, *n),
        };
        if k != b_k {
            problem!("matrices of shapes {a:?} and {b:?} cannot be multiplied");
        }
        let batch = broadcast::shape(&[a_batch, b_batch])?;
        let mut shape = batch.clone();
        shape.extend((a.len() > 1).then_some(m));
        shape.extend((b.len() > 1).then_some(n));
        checked_len(&shape, size_of::<f32>())?;
        let (a_strides, b_strides) =
            (broadcast::strides(a_batch, &batch), broadcast::strides(b_batch, &batch));
        // An empty result may still have any number of empty matrices.
        let mut pairs = Vec::new();
        if !shape.contains(&0) {
            broadcast::for_each_index(&batch, |index| {
                let at = |strides: &[usize]| index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
                pairs.push((at(&a_strides), at(&b_strides)));
            });
        }
        // With one second matrix, all rows of the first stack are rows of one matrix.
        let mut product = Self { m, n, k, shape, pairs };
        if b_batch.iter().all(|&size| size == 1) && a_batch.len() >= b_batch.len() && product.pairs.len() > 1
        {
            product.m *= product.pairs.len();
            product.pairs = vec![(0, 0)];
        }
        Ok(product)
    }

    /// The product, made of the products of matrices `[m, k]` of `a` and `[n, k]` of `b_transposed`.
    pub(super) fn of<T, U>(
        &self,
        a: &[T],
        b_transposed: &[T],
        multiply: impl Fn(&[T], &[T], [usize; 3]) -> Vec<U>,
    ) -> Vec<U> {
        let Self { m, n, k, .. } = *self;
        let one = |&(i, j): &(usize, usize)| {
            multiply(&a[i * m * k..(i + 1) * m * k], &b_transposed[j * n * k..(j + 1) * n * k], [m, n, k])
        };
        match self.pairs.as_slice() {
            [pair] => one(pair),
            pairs => pairs.iter().flat_map(one).collect(),
        }
    }
}

/// What is known about the shape of a product.
pub(super) fn dims(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, Problem> {
    let (a_batch, m, k) = match a {
        [] => problem!("the first input is a scalar"),
        [k] => (&a[..0], None, k),
        [batch @ .., m, k] => (batch, Some(m), k),
    };
    let (b_batch, b_k, n) = match b {
        [] => problem!("the second input is a scalar"),
        [k] => (&b[..0], k, None),
        [batch @ .., k, n] => (batch, k, Some(n)),
    };
    if let (Some(k), Some(b_k)) = (k.known(), b_k.known())
        && k != b_k
    {
        problem!("matrices of shapes {a:?} and {b:?} cannot be multiplied");
    }
    let mut dims = broadcast::dims_of(&[a_batch, b_batch])?;
    dims.extend(m.cloned());
    dims.extend(n.cloned());
    Ok(dims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_numpys() {
        let shape = |a: &[usize], b: &[usize]| MatrixProduct::new(a, b).map(|product| product.shape);
        assert!(shape(&[3], &[3]).unwrap().is_empty());
        assert_eq!(shape(&[3], &[5, 3, 4]).unwrap(), [5, 4]);
        assert_eq!(shape(&[2, 1, 7, 3], &[5, 3, 4]).unwrap(), [2, 5, 7, 4]);
        assert_eq!(shape(&[0, 7, 3], &[3, 4]).unwrap(), [0, 7, 4]);
        assert!(shape(&[], &[3]).is_err());
        assert!(shape(&[2, 3], &[2, 3]).is_err());
        assert!(shape(&[1 << 30, 1], &[1, 1 << 30]).is_err());
        let folded = MatrixProduct::new(&[4, 7, 3], &[1, 3, 2]).unwrap();
        assert_eq!((folded.m, folded.pairs.len()), (28, 1));
    }

    #[test]
    fn symbols_pass_through() {
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        let a = [batch.clone(), seq.clone(), 384i64.into()];
        assert_eq!(dims(&a, &[384i64.into(), 32i64.into()]).unwrap(), [batch, seq, 32i64.into()]);
        assert!(dims(&a, &[383i64.into(), 32i64.into()]).is_err());
    }
}
