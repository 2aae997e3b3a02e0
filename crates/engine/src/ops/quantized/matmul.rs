//! Products of matrices of 8-bit integers.

use std::borrow::Cow;

use super::linear::quantized;
use super::packed::{Factor, IntegerOperator, matrix_transposed};
use super::{centred, dynamic_quantization, for_quantized, saturate, scale, zero_point, zero_points};
use crate::graph::{Array, Constant, DataType, Dim, Info, Operands, Operator, Prepared, Problem, problem};
use crate::kernels::{integer_product, transposed};
use crate::ops::matrix::{self, MatrixProduct};
use crate::ops::{NodeReader, broadcast};

/// A product of stacks of matrices, in sums of i32.
pub(super) struct IntegerProduct {
    pub(super) sums: Vec<i32>,
    pub(super) shape: Vec<usize>,
    /// Columns.
    pub(super) n: usize,
}

impl IntegerProduct {
    /// Zero points are one, or one for each row of `a` and column of `b`.
    pub(super) fn new(a: &Array, a_zero: Option<&Array>, b: &Factor) -> Result<Self, Problem> {
        let a_zeros = zero_points(a_zero)?;
        let rows = if a.rank() > 1 { a.shape()[a.rank() - 2] } else { 1 };
        if a_zeros.len() != 1 && a_zeros.len() != rows {
            problem!("there are {} zero points for {rows} rows", a_zeros.len());
        }
        match b {
            Factor::Array(b, b_zero) => {
                let plan = MatrixProduct::new(a.shape(), b.shape())?;
                let x = centred_rows(a, &a_zeros, rows, plan.k)?;
                let y = centred_columns(b, &zero_points(b_zero.as_ref())?, plan.k, plan.n)?;
                let sums = plan.of(&x, &y, integer_product);
                Ok(Self { sums, shape: plan.shape, n: plan.n })
            }
            Factor::Packed(b) => {
                let plan = MatrixProduct::new(a.shape(), &[b.in_features(), b.out_features()])?;
                // Signed integers and their zero points are more by 128 here.
                let (x, offset): (Cow<[u8]>, i32) = match a.dtype() {
                    DataType::I8 => (a.values::<i8>()?.iter().map(|&x| x as u8 ^ 0x80).collect(), 128),
                    _ => (a.values::<u8>()?.into(), 0),
                };
                let zeros: Vec<i32> = a_zeros.iter().map(|&zero| i32::from(zero) + offset).collect();
                let zeros = match zeros[..] {
                    [zero] => vec![zero],
                    _ => zeros.iter().copied().cycle().take(x.len() / plan.k).collect(),
                };
                Ok(Self { sums: b.multiply(&x, &zeros), shape: plan.shape, n: plan.n })
            }
        }
    }

    /// `sums * scales + bias`; one scale for all or one for each column.
    pub(super) fn scaled(self, scales: &[f32], bias: Option<&Array>) -> Result<Array, Problem> {
        let n = self.n;
        if scales.len() != 1 && scales.len() != n {
            problem!("there are {} scales for {n} columns", scales.len());
        }
        let mut values: Vec<f32> = self.sums.iter().map(|&sum| sum as f32).collect();
        let bias = match bias {
            Some(bias) if bias.shape() != [n] => {
                problem!("the bias has shape {:?}, expected [{n}]", bias.shape())
            }
            Some(bias) => bias.to_floats()?.into_owned(),
            None => vec![0.0; n],
        };
        if n > 0 {
            for row in values.chunks_exact_mut(n) {
                match scales {
                    [scale] => row.iter_mut().zip(&bias).for_each(|(v, bias)| *v = *v * scale + bias),
                    _ => {
                        let columns = row.iter_mut().zip(scales).zip(&bias);
                        columns.for_each(|((v, scale), bias)| *v = *v * scale + bias);
                    }
                }
            }
        }
        Array::new(self.shape, values)
    }

    /// The integers that stand for `sums * scales`.
    pub(super) fn requantized(&self, scales: &[f32], dtype: DataType, zero: i32) -> Result<Array, Problem> {
        let n = self.n;
        if scales.len() != 1 && scales.len() != n {
            problem!("there are {} scales for {n} columns", scales.len());
        }
        for_quantized!(dtype, T => {
            let mut values = Vec::with_capacity(self.sums.len());
            for row in self.sums.chunks(n.max(1)) {
                match scales {
                    [scale] => values.extend(row.iter().map(|&sum| saturate::<T>(sum as f32 * scale, zero))),
                    _ => {
                        let columns = row.iter().zip(scales);
                        values.extend(columns.map(|(&sum, scale)| saturate::<T>(sum as f32 * scale, zero)));
                    }
                }
            }
            Array::new(self.shape.clone(), values)
        })
    }
}

/// `[.., rows, k]`, with one zero point or one for each row.
fn centred_rows(a: &Array, zeros: &[i16], rows: usize, k: usize) -> Result<Vec<i16>, Problem> {
    if let [zero] = zeros {
        return centred(a, *zero);
    }
    let mut values = centred(a, 0)?;
    if k > 0 {
        for (row, values) in values.chunks_exact_mut(k).enumerate() {
            values.iter_mut().for_each(|value| *value -= zeros[row % rows]);
        }
    }
    Ok(values)
}

/// `[.., k, n]` to `[.., n, k]`
fn centred_columns(b: &Array, zeros: &[i16], k: usize, n: usize) -> Result<Vec<i16>, Problem> {
    if zeros.len() != 1 && zeros.len() != n {
        problem!("there are {} zero points for {n} columns", zeros.len());
    }
    let mut values = centred(b, if zeros.len() == 1 { zeros[0] } else { 0 })?;
    if values.is_empty() {
        return Ok(values);
    }
    if zeros.len() > 1 {
        for row in values.chunks_exact_mut(n) {
            row.iter_mut().zip(zeros).for_each(|(value, zero)| *value -= zero);
        }
    }
    if k == 1 || n == 1 {
        return Ok(values);
    }
    Ok(values.chunks_exact(k * n).flat_map(|matrix| transposed(matrix, k, n)).collect())
}

fn infer_product(a: &Info, b: &Info, dtype: DataType) -> Result<Info, Problem> {
    for info in [a, b] {
        if !matches!(info.dtype, DataType::U8 | DataType::I8) {
            problem!("expected 8-bit integers, got {}", info.dtype);
        }
    }
    infer_shape(a, b, dtype)
}

fn infer_shape(a: &Info, b: &Info, dtype: DataType) -> Result<Info, Problem> {
    match (&a.shape, &b.shape) {
        (Some(a), Some(b)) => Ok(Info::new(dtype, matrix::dims(a, b)?)),
        _ => Ok(Info::unknown(dtype)),
    }
}

/// `MatMulInteger`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatMulInteger;

impl MatMulInteger {
    pub(super) fn read(_: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self))
    }
}

impl Operator for MatMulInteger {
    fn name(&self) -> &str {
        "MatMulInteger"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        Ok(vec![infer_product(inputs.get(0)?, inputs.get(1)?, DataType::I32)?])
    }

    fn prepare(&self, constants: &Operands<Option<&Constant>>) -> Result<Option<Prepared>, Problem> {
        self.pack(constants)
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        self.compute_unpacked(&inputs)
    }
}

impl IntegerOperator for MatMulInteger {
    const FACTOR: usize = 1;
    const ZERO: usize = 3;

    fn compute(&self, inputs: &Operands<Array>, factor: &Factor) -> Result<Vec<Array>, Problem> {
        let product = IntegerProduct::new(inputs.get(0)?, inputs.optional(2), factor)?;
        Ok(vec![Array::new(product.shape, product.sums)?])
    }
}

/// `QLinearMatMul`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QLinearMatMul;

impl QLinearMatMul {
    pub(super) fn read(_: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self))
    }
}

impl Operator for QLinearMatMul {
    fn name(&self) -> &str {
        "QLinearMatMul"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        Ok(vec![infer_product(inputs.get(0)?, inputs.get(3)?, inputs.get(7)?.dtype)?])
    }

    fn prepare(&self, constants: &Operands<Option<&Constant>>) -> Result<Option<Prepared>, Problem> {
        self.pack(constants)
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        self.compute_unpacked(&inputs)
    }
}

impl IntegerOperator for QLinearMatMul {
    const FACTOR: usize = 3;
    const ZERO: usize = 5;

    fn compute(&self, inputs: &Operands<Array>, factor: &Factor) -> Result<Vec<Array>, Problem> {
        let product = IntegerProduct::new(inputs.get(0)?, inputs.optional(2), factor)?;
        let (a_scale, y_scale) = (scale(inputs.get(1)?, "a_scale")?, scale(inputs.get(6)?, "y_scale")?);
        let b_scales = inputs.get(4)?.to_floats()?;
        let scales: Vec<f32> = b_scales.iter().map(|b_scale| a_scale * b_scale / y_scale).collect();
        let zero = inputs.get(7)?;
        Ok(vec![product.requantized(&scales, zero.dtype(), zero_point(Some(zero))?)?])
    }
}

/// `MatMulIntegerToFloat`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatMulIntegerToFloat;

impl MatMulIntegerToFloat {
    pub(super) fn read(_: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self))
    }
}

impl Operator for MatMulIntegerToFloat {
    fn name(&self) -> &str {
        "MatMulIntegerToFloat"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        Ok(vec![infer_product(inputs.get(0)?, inputs.get(1)?, inputs.get(2)?.dtype)?])
    }

    fn prepare(&self, constants: &Operands<Option<&Constant>>) -> Result<Option<Prepared>, Problem> {
        self.pack(constants)
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        self.compute_unpacked(&inputs)
    }
}

impl IntegerOperator for MatMulIntegerToFloat {
    const FACTOR: usize = 1;
    const ZERO: usize = 5;

    fn compute(&self, inputs: &Operands<Array>, factor: &Factor) -> Result<Vec<Array>, Problem> {
        let dtype = inputs.get(2)?.dtype();
        let a_scale = scale(inputs.get(2)?, "a_scale")?;
        let scales: Vec<f32> = inputs.get(3)?.to_floats()?.iter().map(|scale| a_scale * scale).collect();
        let product = IntegerProduct::new(inputs.get(0)?, inputs.optional(4), factor)?;
        let y = product.scaled(&scales, inputs.optional(6))?;
        Ok(vec![Array::from_floats(dtype, y.shape().to_vec(), y.into_floats()?)?])
    }
}

/// `DynamicQuantizeMatMul`: quantises its first input, and multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DynamicQuantizeMatMul;

impl DynamicQuantizeMatMul {
    pub(super) fn read(_: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self))
    }
}

impl Operator for DynamicQuantizeMatMul {
    fn name(&self) -> &str {
        "DynamicQuantizeMatMul"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        if a.dtype != DataType::F32 || !matches!(b.dtype, DataType::U8 | DataType::I8) {
            problem!("inputs are {} and {}", a.dtype, b.dtype);
        }
        Ok(vec![infer_shape(a, b, DataType::F32)?])
    }

    fn prepare(&self, constants: &Operands<Option<&Constant>>) -> Result<Option<Prepared>, Problem> {
        self.pack(constants)
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        self.compute_unpacked(&inputs)
    }
}

impl IntegerOperator for DynamicQuantizeMatMul {
    const FACTOR: usize = 1;
    const ZERO: usize = 3;

    fn compute(&self, inputs: &Operands<Array>, factor: &Factor) -> Result<Vec<Array>, Problem> {
        let a = inputs.get(0)?;
        let values = a.values::<f32>()?;
        let (a_scale, a_zero) = dynamic_quantization(values);
        let a = Array::new(a.shape(), quantized(values, a_scale, a_zero))?;
        let a_zero = Array::scalar(a_zero);
        let product = IntegerProduct::new(&a, Some(&a_zero), factor)?;
        let scales: Vec<f32> = inputs.get(2)?.to_floats()?.iter().map(|scale| a_scale * scale).collect();
        Ok(vec![product.scaled(&scales, inputs.optional(4))?])
    }
}

/// `QGemm`: to integers, or to f32 where the output has no scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct QGemm {
    pub(crate) alpha: f32,
    pub(crate) transpose_a: bool,
    pub(crate) transpose_b: bool,
}

impl QGemm {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let flag = |name| Ok::<_, Problem>(node.attributes.flag(name)?.unwrap_or(false));
        let alpha = node.attributes.float("alpha")?.unwrap_or(1.0);
        Ok(Box::new(Self { alpha, transpose_a: flag("transA")?, transpose_b: flag("transB")? }))
    }
}

impl Operator for QGemm {
    fn name(&self) -> &str {
        "QGemm"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (mut a, mut b) = (inputs.get(0)?.shape.clone(), inputs.get(3)?.shape.clone());
        for shape in [&a, &b].into_iter().flatten() {
            if shape.len() != 2 {
                problem!("an input has shape {shape:?}, expected 2 dimensions");
            }
        }
        for (shape, is_transposed) in [(&mut a, self.transpose_a), (&mut b, self.transpose_b)] {
            if let (Some(shape), true) = (shape, is_transposed) {
                shape.reverse();
            }
        }
        let dtype = inputs.optional(8).map_or(DataType::F32, |zero| zero.dtype);
        let dtype = if inputs.optional(7).is_none() { DataType::F32 } else { dtype };
        let shape = match (a, b) {
            (Some(a), Some(b)) => matrix::dims(&a, &b)?,
            _ => vec![Dim::unknown(), Dim::unknown()],
        };
        Ok(vec![Info::new(dtype, shape)])
    }

    fn prepare(&self, constants: &Operands<Option<&Constant>>) -> Result<Option<Prepared>, Problem> {
        self.pack(constants)
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        self.compute_unpacked(&inputs)
    }
}

impl IntegerOperator for QGemm {
    const FACTOR: usize = 3;
    const ZERO: usize = 5;

    fn is_transposed(&self) -> bool {
        self.transpose_b
    }

    fn compute(&self, inputs: &Operands<Array>, factor: &Factor) -> Result<Vec<Array>, Problem> {
        let a = inputs.get(0)?;
        let a = if self.transpose_a { matrix_transposed(a)? } else { a.clone() };
        if a.rank() != 2 || matches!(factor, Factor::Array(b, _) if b.rank() != 2) {
            problem!("the inputs are no matrices");
        }
        let mut product = IntegerProduct::new(&a, inputs.optional(2), factor)?;
        if let Some(c) = inputs.optional(6) {
            if broadcast::shape(&[&product.shape, c.shape()])? != product.shape {
                problem!("a bias of shape {:?} does not fit {:?}", c.shape(), product.shape);
            }
            let sums = Array::new(product.shape.clone(), product.sums)?;
            let sums = broadcast::zip::<i32, i32>(&sums, c, |a, b| a.wrapping_add(*b))?;
            product.sums = sums.into_values()?;
        }
        let a_scale = scale(inputs.get(1)?, "a_scale")?;
        let b_scales = inputs.get(4)?.to_floats()?;
        match (inputs.optional(7), inputs.optional(8)) {
            (None, _) => {
                let scales: Vec<f32> = b_scales.iter().map(|b| self.alpha * a_scale * b).collect();
                Ok(vec![product.scaled(&scales, None)?])
            }
            (Some(y_scale), Some(zero)) => {
                let y_scale = scale(y_scale, "y_scale")?;
                let scales: Vec<f32> = b_scales.iter().map(|b| self.alpha * a_scale * b / y_scale).collect();
                Ok(vec![product.requantized(&scales, zero.dtype(), zero_point(Some(zero))?)?])
            }
            (Some(_), None) => problem!("the output has a scale and no zero point"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_points_are_of_rows_and_columns() {
        let run = |a_zero: Vec<u8>, b_zero: Vec<i8>| {
            MatMulInteger.run(Operands::new(vec![
                Array::new([2, 2], vec![1u8, 2, 3, 4]).ok(),
                Array::new([2, 1], vec![-1i8, 1]).ok(),
                Some(Array::vector(a_zero)),
                Some(Array::vector(b_zero)),
            ]))
        };
        assert_eq!(run(vec![1], vec![0]).unwrap()[0], Array::new([2, 1], vec![1, 1]).unwrap());
        assert_eq!(run(vec![1, 3], vec![1]).unwrap()[0], Array::new([2, 1], vec![0, 0]).unwrap());
        assert!(run(vec![1, 2, 3], vec![0]).is_err());
        assert!(run(vec![1], vec![0, 0]).is_err());
        assert!(run(vec![], vec![0]).is_err());
    }

    #[test]
    fn sums_do_not_saturate() {
        let product = MatMulInteger
            .run(Operands::new(vec![Array::full([1, 4], 255u8).ok(), Array::full([4, 1], 127i8).ok()]));
        assert_eq!(product.unwrap()[0].values::<i32>().unwrap(), [4 * 255 * 127]);
        let float = Operands::new(vec![Array::full([1, 4], 1.0f32).ok(), Array::full([4, 1], 127i8).ok()]);
        assert!(MatMulInteger.run(float).is_err());
    }
}
