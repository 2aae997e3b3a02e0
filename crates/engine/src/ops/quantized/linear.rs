//! Numbers to integers and back.

use super::{Quantized, dynamic_quantization, for_quantized, saturate};
use crate::graph::{Array, DataType, Info, Operands, Operator, Problem, problem};
use crate::ops::NodeReader;

/// Which elements share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granularity {
    /// Elements with one index on it share a scale, unless there is only one.
    pub(crate) axis: i64,
    /// As many neighbours on the axis share a scale; 0 where all do that have one index.
    pub(crate) block_size: usize,
}

impl Granularity {
    fn read(node: &NodeReader) -> Result<Self, Problem> {
        let axis = node.attributes.int("axis")?.unwrap_or(1);
        let block_size = match node.attributes.int("block_size")?.unwrap_or(0) {
            size @ 0..=0x7FFF_FFFF => size as usize,
            size => problem!("attribute `block_size` is {size}"),
        };
        Ok(Self { axis, block_size })
    }

    fn layout(self, shape: &[usize], scales: &[usize]) -> Result<Layout, Problem> {
        let len: usize = shape.iter().product();
        if self.block_size == 0 && (scales.is_empty() || scales == [1]) {
            return Ok(Layout { size: 1, inner: len, block: None });
        }
        let rank = shape.len();
        let axis = if self.axis < 0 { self.axis.saturating_add_unsigned(rank as u64) } else { self.axis };
        let Some(axis) = usize::try_from(axis).ok().filter(|&axis| axis < rank) else {
            problem!("axis {} is not inside rank {rank}", self.axis);
        };
        let (size, inner) = (shape[axis], shape[axis + 1..].iter().product());
        if self.block_size == 0 {
            if scales != [size] {
                problem!("scales have shape {scales:?}, expected [{size}]");
            }
            return Ok(Layout { size, inner, block: None });
        }
        let fits = scales.len() == rank
            && (0..rank).all(|d| d == axis || scales[d] == shape[d])
            && scales[axis] == size.div_ceil(self.block_size);
        if !fits {
            problem!("scales of shape {scales:?} do not fit blocks of {} in {shape:?}", self.block_size);
        }
        Ok(Layout { size, inner, block: Some((self.block_size, scales[axis])) })
    }
}

/// Where the scale of an element is.
struct Layout {
    /// Of the axis.
    size: usize,
    /// Elements from one index on the axis to the next.
    inner: usize,
    /// Size and number of blocks.
    block: Option<(usize, usize)>,
}

impl Layout {
    /// Calls `run` with each run of elements and the index of its scale or, of blocks, of its first element's.
    fn for_each_run(&self, len: usize, mut run: impl FnMut(std::ops::Range<usize>, usize)) {
        if self.inner == 0 {
            return;
        }
        for (index, start) in (0..len).step_by(self.inner).enumerate() {
            let (outer, at) = (index / self.size, index % self.size);
            let scale = match self.block {
                None => at,
                Some((block, blocks)) => (outer * blocks + at / block) * self.inner,
            };
            run(start..start + self.inner, scale);
        }
    }

    fn apply<T: Copy, U>(
        &self,
        values: &[T],
        scales: &[f32],
        zeros: &[i32],
        f: impl Fn(T, f32, i32) -> U,
    ) -> Vec<U> {
        let mut out = Vec::with_capacity(values.len());
        self.for_each_run(values.len(), |run, at| {
            let values = &values[run];
            if self.block.is_some() {
                let parameters = scales[at..].iter().zip(&zeros[at..]);
                out.extend(values.iter().zip(parameters).map(|(&value, (&s, &z))| f(value, s, z)));
            } else {
                let (scale, zero) = (scales[at], zeros[at]);
                out.extend(values.iter().map(|&value| f(value, scale, zero)));
            }
        });
        out
    }
}

/// Zero points, as many as scales.
fn zeros(array: Option<&Array>, scales: &Array) -> Result<Vec<i32>, Problem> {
    let Some(array) = array else {
        return Ok(vec![0; scales.len()]);
    };
    if array.len() != scales.len() {
        problem!("scales have shape {:?}, zero points {:?}", scales.shape(), array.shape());
    }
    let narrow = |zero| i32::try_from(zero).map_err(|_| Problem::new(format!("zero point {zero}")));
    array.to_ints()?.into_iter().map(narrow).collect()
}

/// Numbers of any type that is quantised.
fn numbers(array: Array) -> Result<Vec<f32>, Problem> {
    match array.dtype() {
        DataType::I32 => Ok(array.values::<i32>()?.iter().map(|&value| value as f32).collect()),
        _ => array.into_floats(),
    }
}

/// The type that an attribute names by its number in the schema.
fn output_type(node: &NodeReader) -> Result<Option<DataType>, Problem> {
    Ok(match node.attributes.int("output_dtype")?.unwrap_or(0) {
        0 => None,
        1 => Some(DataType::F32),
        2 => Some(DataType::U8),
        3 => Some(DataType::I8),
        4 => Some(DataType::U16),
        5 => Some(DataType::I16),
        10 => Some(DataType::F16),
        16 => Some(DataType::Bf16),
        other => problem!("attribute `output_dtype` {other} is not supported"),
    })
}

/// `QuantizeLinear`
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct QuantizeLinear {
    pub(crate) granularity: Granularity,
    /// The zero points' where `None`, or u8.
    pub(crate) output: Option<DataType>,
}

impl QuantizeLinear {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        // How 8-bit floating-point numbers, which are refused, are rounded.
        node.attributes.ignore(&["saturate"]);
        if !matches!(node.attributes.int("precision")?, None | Some(0 | 1)) {
            problem!("attribute `precision` is not supported below float");
        }
        Ok(Box::new(Self { granularity: Granularity::read(node)?, output: output_type(node)? }))
    }
}

impl Operator for QuantizeLinear {
    fn name(&self) -> &str {
        "QuantizeLinear"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        if !x.dtype.is_float() && x.dtype != DataType::I32 {
            problem!("{} cannot be quantised", x.dtype);
        }
        let zero = inputs.optional(2).map(|zero| zero.dtype);
        if let (Some(zero), Some(output)) = (zero, self.output)
            && zero != output
        {
            problem!("the zero point is {zero}, the output {output}");
        }
        let dtype = zero.or(self.output).unwrap_or(DataType::U8);
        for_quantized!(dtype, T => T::LOWEST);
        Ok(vec![Info { dtype, shape: x.shape.clone(), ints: None, constant: None }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.take(0)?;
        let scales = inputs.get(1)?;
        let zero = inputs.optional(2);
        let dtype = zero.map(Array::dtype).or(self.output).unwrap_or(DataType::U8);
        let zeros = zeros(zero, scales)?;
        let shape = x.shape().to_vec();
        let layout = self.granularity.layout(&shape, scales.shape())?;
        let (values, scales) = (numbers(x)?, scales.to_floats()?);
        for_quantized!(dtype, T => {
            let quantize = |value: f32, scale: f32, zero: i32| saturate::<T>(value / scale, zero);
            let values = layout.apply(&values, &scales, &zeros, quantize);
            Ok(vec![Array::new(shape, values)?])
        })
    }
}

/// `DequantizeLinear`
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DequantizeLinear {
    pub(crate) granularity: Granularity,
    /// The scales' where `None`.
    pub(crate) output: Option<DataType>,
}

impl DequantizeLinear {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { granularity: Granularity::read(node)?, output: output_type(node)? }))
    }
}

impl Operator for DequantizeLinear {
    fn name(&self) -> &str {
        "DequantizeLinear"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (x, scales) = (inputs.get(0)?, inputs.get(1)?);
        if x.dtype != DataType::I32 {
            for_quantized!(x.dtype, T => T::LOWEST);
        }
        if let Some(zero) = inputs.optional(2)
            && zero.dtype != x.dtype
        {
            problem!("the zero point is {}, the input {}", zero.dtype, x.dtype);
        }
        let dtype = self.output.unwrap_or(scales.dtype);
        if !dtype.is_float() || !scales.dtype.is_float() {
            problem!("scales are {}", scales.dtype);
        }
        Ok(vec![Info { dtype, shape: x.shape.clone(), ints: None, constant: None }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (x, scales) = (inputs.get(0)?, inputs.get(1)?);
        let zeros = zeros(inputs.optional(2), scales)?;
        let layout = self.granularity.layout(x.shape(), scales.shape())?;
        let dtype = self.output.unwrap_or(scales.dtype());
        let scales = scales.to_floats()?;
        let values = if x.dtype() == DataType::I32 {
            let number = |value: i32, scale: f32, zero: i32| value.wrapping_sub(zero) as f32 * scale;
            layout.apply(x.values::<i32>()?, &scales, &zeros, number)
        } else {
            for_quantized!(x.dtype(), T => {
                let number = |value: T, scale: f32, zero: i32| (value.to_i32() - zero) as f32 * scale;
                layout.apply(x.values::<T>()?, &scales, &zeros, number)
            })
        };
        Ok(vec![Array::from_floats(dtype, x.shape(), values)?])
    }
}

/// `DynamicQuantizeLinear`: to u8, with scale and zero point that fit the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DynamicQuantizeLinear;

impl DynamicQuantizeLinear {
    pub(super) fn read(_: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self))
    }
}

impl Operator for DynamicQuantizeLinear {
    fn name(&self) -> &str {
        "DynamicQuantizeLinear"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        if x.dtype != DataType::F32 {
            problem!("expected float, got {}", x.dtype);
        }
        let y = Info { dtype: DataType::U8, shape: x.shape.clone(), ints: None, constant: None };
        Ok(vec![y, Info::new(DataType::F32, Vec::new()), Info::new(DataType::U8, Vec::new())])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        let values = x.values::<f32>()?;
        let (scale, zero) = dynamic_quantization(values);
        let quantized = quantized(values, scale, zero);
        Ok(vec![Array::new(x.shape(), quantized)?, Array::scalar(scale), Array::scalar(zero)])
    }
}

/// The integers that stand for these numbers.
pub(super) fn quantized(values: &[f32], scale: f32, zero: u8) -> Vec<u8> {
    values.iter().map(|&value| saturate::<u8>(value / scale, i32::from(zero))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_shapes_are_problems() {
        let per_axis = Granularity { axis: 1, block_size: 0 };
        assert!(per_axis.layout(&[2], &[2]).is_err());
        assert!(per_axis.layout(&[2, 3], &[2]).is_err());
        assert!(Granularity { axis: i64::MIN, block_size: 0 }.layout(&[2, 3], &[3]).is_err());
        assert!(Granularity { axis: -1, block_size: 2 }.layout(&[2, 3], &[2, 1]).is_err());
        assert!(Granularity { axis: -1, block_size: 2 }.layout(&[2, 3], &[2, 2]).is_ok());
        let empty = Operands::new(vec![
            Some(Array::full([0, 3], 0u8).unwrap()),
            Some(Array::vector(vec![1.0f32, 2.0, 3.0])),
        ]);
        let operator = DequantizeLinear { granularity: per_axis, output: None };
        assert_eq!(operator.run(empty).unwrap()[0].shape(), [0, 3]);
    }
}
