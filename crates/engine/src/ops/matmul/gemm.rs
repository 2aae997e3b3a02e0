//! `Gemm`: a product of two matrices plus a third.

use super::multiply;
use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, checked_len, problem};
use crate::kernels::{self, ProductShape};
use crate::ops::elementwise::cast;
use crate::ops::number::{Number, for_number, wide, widen};
use crate::ops::permute::permute;
use crate::ops::{Entry, NodeReader, broadcast};

pub(in crate::ops) const OPERATORS: &[Entry] = &[Entry::new("Gemm", 2..=3, Gemm::read)];

/// `Gemm`: `alpha A B + beta C`, where A and B may be transposed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Gemm {
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    pub(crate) transpose_a: bool,
    pub(crate) transpose_b: bool,
}

impl Gemm {
    fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self {
            alpha: node.attributes.float("alpha")?.unwrap_or(1.0),
            beta: node.attributes.float("beta")?.unwrap_or(1.0),
            transpose_a: node.attributes.flag("transA")?.unwrap_or(false),
            transpose_b: node.attributes.flag("transB")?.unwrap_or(false),
        }))
    }

    /// Rows, depth on the left, depth on the right, columns.
    fn sizes<T: Clone + std::fmt::Debug>(self, a: &[T], b: &[T]) -> Result<[T; 4], Problem> {
        let ([a0, a1], [b0, b1]) = (a, b) else {
            problem!("shapes {a:?} and {b:?} are not both those of matrices");
        };
        let (rows, depth) = if self.transpose_a { (a1, a0) } else { (a0, a1) };
        let (other, columns) = if self.transpose_b { (b1, b0) } else { (b0, b1) };
        Ok([rows, depth, other, columns].map(T::clone))
    }
}

impl Operator for Gemm {
    fn name(&self) -> &'static str {
        "Gemm"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        wide(a.dtype)?;
        for other in inputs.iter_from(1).flatten() {
            if other.dtype != a.dtype {
                problem!("inputs are {} and {}", a.dtype, other.dtype);
            }
        }
        let (Some(x), Some(y)) = (&a.shape, &b.shape) else {
            return Ok(vec![Info::with_rank(a.dtype, 2)]);
        };
        let [rows, depth, other, columns] = self.sizes(x, y)?;
        if let (Some(depth), Some(other)) = (depth.known(), other.known())
            && depth != other
        {
            problem!("shapes {x:?} and {y:?} cannot be multiplied");
        }
        let shape: Vec<Dim> = vec![rows, columns];
        if let Some(c) = inputs.optional(2).and_then(|c| c.shape.as_ref())
            && broadcast::dims_of(&[&shape, c])?.len() != 2
        {
            problem!("shape {c:?} does not fit {shape:?}");
        }
        Ok(vec![Info::new(a.dtype, shape)])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (a, b) = (inputs.take(0)?, inputs.take(1)?);
        let c = inputs.take_optional(2);
        let dtype = a.dtype();
        if b.dtype() != dtype || c.as_ref().is_some_and(|c| c.dtype() != dtype) {
            problem!("inputs are not all {dtype}");
        }
        let [rows, depth, other, columns] = self.sizes(a.shape(), b.shape())?;
        if depth != other {
            problem!("shapes {:?} and {:?} cannot be multiplied", a.shape(), b.shape());
        }
        if let Some(c) = &c
            && broadcast::shape(&[&[rows, columns], c.shape()])? != [rows, columns]
        {
            problem!("shape {:?} does not fit {:?}", c.shape(), [rows, columns]);
        }
        let shape = ProductShape { rows, depth, columns };
        let c = c.map(widen).transpose()?;
        let (a, b) = (widen(a)?, widen(b)?);
        checked_len(&[rows, columns], a.dtype().size())?;
        let result = match a.dtype() {
            DataType::F32 => self.run_f32(a, b, c, shape)?,
            wide => for_number!(wide, T => self.run_any::<T>(a, b, c, shape)?),
        };
        Ok(vec![cast(result, dtype)?])
    }
}

impl Gemm {
    fn run_f32(self, a: Array, b: Array, c: Option<Array>, shape: ProductShape) -> Result<Array, Problem> {
        let a = if self.transpose_a { permute::<f32>(&a, &[1, 0])? } else { a };
        let (x, y) = (a.values()?, b.values()?);
        let mut values = if self.transpose_b {
            kernels::product(x, y, [shape.rows, shape.columns, shape.depth])
        } else {
            kernels::matmul(x, y, shape, &[(0, 0)])
        };
        if self.alpha != 1.0 {
            values.iter_mut().for_each(|value| *value *= self.alpha);
        }
        let product = Array::new(vec![shape.rows, shape.columns], values)?;
        match c {
            None => Ok(product),
            Some(c) if self.beta == 1.0 => broadcast::zip_into::<f32>(product, c, |a, c| a + c),
            Some(c) => broadcast::zip_into::<f32>(product, c, |a, c| a + self.beta * c),
        }
    }

    fn run_any<T: Number>(
        self,
        a: Array,
        b: Array,
        c: Option<Array>,
        shape: ProductShape,
    ) -> Result<Array, Problem> {
        let a = if self.transpose_a { permute::<T>(&a, &[1, 0])? } else { a };
        let b = if self.transpose_b { permute::<T>(&b, &[1, 0])? } else { b };
        let scaled = |value: T, factor: f32| {
            if factor == 1.0 { value } else { T::from_f64(value.to_f64() * f64::from(factor)) }
        };
        let values = multiply::<T>(a.values()?, b.values()?, shape, &[(0, 0)]);
        let values = values.into_iter().map(|value| scaled(value, self.alpha)).collect();
        let product = Array::new(vec![shape.rows, shape.columns], values)?;
        match c {
            None => Ok(product),
            Some(c) => broadcast::zip::<T, T>(&product, &c, |a, c| a.plus(scaled(*c, self.beta))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(gemm: Gemm, inputs: [&Array; 3]) -> Result<Array, Problem> {
        let inputs = inputs.into_iter().cloned().map(Some).collect();
        gemm.run(Operands::new(inputs)).map(|mut outputs| outputs.remove(0))
    }

    #[test]
    fn types_and_transposes_agree() {
        let a = Array::new(vec![2, 3], vec![1f32, 2., 3., 4., 5., 6.]).unwrap();
        let b = Array::new(vec![3, 2], vec![1f32, 0., 2., 1., 0., 3.]).unwrap();
        let c = Array::vector(vec![10f32, 20.]);
        let expected = Array::new(vec![2, 2], vec![15f32, 32., 33., 56.]).unwrap();
        for (transpose_a, transpose_b) in [(false, false), (true, false), (false, true), (true, true)] {
            let transposed =
                |array: &Array, is| if is { permute::<f32>(array, &[1, 0]).unwrap() } else { array.clone() };
            let (a, b) = (transposed(&a, transpose_a), transposed(&b, transpose_b));
            let gemm = Gemm { alpha: 2.0, beta: 0.5, transpose_a, transpose_b };
            assert_eq!(run(gemm, [&a, &b, &c]).unwrap(), expected);
            let doubles = [&a, &b, &c].map(|array| cast(array.clone(), DataType::F64).unwrap());
            let [a, b, c] = &doubles;
            assert_eq!(cast(run(gemm, [a, b, c]).unwrap(), DataType::F32).unwrap(), expected);
        }
    }

    #[test]
    fn shapes_are_checked() {
        let gemm = Gemm { alpha: 1.0, beta: 1.0, transpose_a: false, transpose_b: true };
        let zeros = |shape: &[usize]| Array::full(shape, 0f32).unwrap();
        assert!(run(gemm, [&zeros(&[2, 3]), &zeros(&[4, 3]), &zeros(&[2, 1])]).is_ok());
        assert!(run(gemm, [&zeros(&[2, 3]), &zeros(&[3, 4]), &zeros(&[4])]).is_err());
        assert!(run(gemm, [&zeros(&[2, 3]), &zeros(&[4, 3]), &zeros(&[3])]).is_err());
        assert!(run(gemm, [&zeros(&[2, 3]), &zeros(&[4, 3]), &zeros(&[1, 2, 4])]).is_err());
        assert!(run(gemm, [&zeros(&[3]), &zeros(&[4, 3]), &zeros(&[4])]).is_err());
    }
}
