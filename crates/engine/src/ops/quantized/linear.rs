//! Numbers to integers, or floating-point numbers of few bits, and back.

use std::borrow::Cow;

use super::{Quantized, dynamic_quantization, for_quantized, saturate, saturated};
use crate::graph::low_bit::{Conversion, Format};
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
    if let Some(format) = array.dtype().low_bit().filter(|format| !format.is_int()) {
        if array.codes()?.into_iter().any(|code| format.decode(code) != 0.0) {
            problem!("zero points of {} are not zero", array.dtype());
        }
        return Ok(vec![0; scales.len()]);
    }
    let narrow = |zero| i32::try_from(zero).map_err(|_| Problem::new(format!("zero point {zero}")));
    array.to_ints()?.into_iter().map(narrow).collect()
}

fn scale_values(array: &Array) -> Result<Cow<'_, [f32]>, Problem> {
    match array.dtype().low_bit() {
        Some(format @ Format::PowerOfTwo) => {
            Ok(array.codes()?.into_iter().map(|code| format.decode(code)).collect())
        }
        _ => array.to_floats(),
    }
}

fn check_scales(dtype: DataType) -> Result<(), Problem> {
    if !dtype.is_float() && dtype != DataType::F8E8M0 {
        problem!("scales are {dtype}");
    }
    Ok(())
}

/// Whether numbers are quantised to this type, perhaps one of few bits.
fn check_quantized(dtype: DataType) -> Result<(), Problem> {
    if dtype.low_bit().is_none() || dtype == DataType::F8E8M0 {
        for_quantized!(dtype, T => T::LOWEST);
    }
    Ok(())
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
    match node.attributes.int("output_dtype")?.unwrap_or(0) {
        0 => Ok(None),
        number => match i32::try_from(number) {
            Ok(number) => DataType::from_number(number).map(Some),
            Err(_) => problem!("attribute `output_dtype` is {number}"),
        },
    }
}

/// `QuantizeLinear`
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct QuantizeLinear {
    pub(crate) granularity: Granularity,
    /// The zero points' where `None`, or u8.
    pub(crate) output: Option<DataType>,
    /// What is too large for an 8-bit floating-point type becomes its largest number.
    pub(crate) saturates: bool,
}

impl QuantizeLinear {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let saturates = node.attributes.flag("saturate")?.unwrap_or(true);
        if !matches!(node.attributes.int("precision")?, None | Some(0 | 1)) {
            problem!("attribute `precision` is not supported below float");
        }
        let output = output_type(node)?;
        output.map_or(Ok(()), check_quantized)?;
        Ok(Box::new(Self { granularity: Granularity::read(node)?, output, saturates }))
    }

    /// The codes of numbers in a type of few bits.
    fn codes(
        &self,
        layout: &Layout,
        values: &[f32],
        scales: &[f32],
        zeros: &[i32],
        (format, has_zero): (Format, bool),
    ) -> Vec<u8> {
        match format.int_range() {
            Some(range) => layout.apply(values, scales, zeros, |value, scale, zero| {
                format.encode_int(saturated(value / scale, zero, range).into())
            }),
            None => {
                let conversion = Conversion { saturates: self.saturates, ..Conversion::default() };
                // ONNX's cases add a zero point to numbers of 4 bits alone, which takes the sign from zeros.
                let zero = if has_zero && format.bits() == 4 { 0.0 } else { -0.0 };
                layout.apply(values, scales, zeros, |value, scale, _| {
                    format.encode((value / scale + zero).into(), conversion)
                })
            }
        }
    }
}

impl Operator for QuantizeLinear {
    fn name(&self) -> &str {
        "QuantizeLinear"
    }

    fn takes_low_bit(&self) -> bool {
        true
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
        check_scales(inputs.get(1)?.dtype)?;
        let dtype = zero.or(self.output).unwrap_or(DataType::U8);
        check_quantized(dtype)?;
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
        let (values, scales) = (numbers(x)?, scale_values(scales)?);
        if let Some(format) = dtype.low_bit() {
            let has_zero = inputs.optional(2).is_some();
            let codes = self.codes(&layout, &values, &scales, &zeros, (format, has_zero));
            return Ok(vec![Array::from_codes(dtype, shape, codes.into_iter())?]);
        }
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

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (x, scales) = (inputs.get(0)?, inputs.get(1)?);
        if x.dtype != DataType::I32 {
            check_quantized(x.dtype)?;
        }
        if let Some(zero) = inputs.optional(2)
            && zero.dtype != x.dtype
        {
            problem!("the zero point is {}, the input {}", zero.dtype, x.dtype);
        }
        check_scales(scales.dtype)?;
        let dtype = self.output.unwrap_or(scales.dtype);
        if !dtype.is_float() {
            problem!("the output is {dtype}");
        }
        Ok(vec![Info { dtype, shape: x.shape.clone(), ints: None, constant: None }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (x, scales) = (inputs.get(0)?, inputs.get(1)?);
        let zeros = zeros(inputs.optional(2), scales)?;
        let layout = self.granularity.layout(x.shape(), scales.shape())?;
        let dtype = self.output.unwrap_or(scales.dtype());
        let scales = scale_values(scales)?;
        let values = if let Some(format) = x.dtype().low_bit() {
            let numbers = format.numbers();
            let number = |code: u8, scale: f32, zero: i32| (numbers[usize::from(code)] - zero as f32) * scale;
            layout.apply(&x.codes()?, &scales, &zeros, number)
        } else if x.dtype() == DataType::I32 {
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

    fn codes(dtype: DataType, shape: &[usize], codes: &[u8]) -> Array {
        Array::from_codes(dtype, shape, codes.iter().copied()).unwrap()
    }

    #[test]
    fn blocks_of_4_bits_have_a_scale_and_a_zero_point_each() {
        let x = codes(DataType::I4, &[2, 4], &[0, 1, 2, 7, 8, 9, 14, 15]);
        let scales = Array::new([2, 2], vec![1.0f32, 0.5, 2.0, 0.25]).unwrap();
        let zeros = codes(DataType::I4, &[2, 2], &[1, 0, 15, 8]);
        let operator =
            DequantizeLinear { granularity: Granularity { axis: -1, block_size: 2 }, output: None };
        let run = |zeros: Option<Array>| {
            let inputs = vec![Some(x.clone()), Some(scales.clone()), zeros];
            operator.run(Operands::new(inputs)).map(|outputs| outputs[0].to_floats().unwrap().into_owned())
        };
        assert_eq!(run(Some(zeros)).unwrap(), [-1.0, 0.0, 1.0, 3.5, -14.0, -12.0, 1.5, 1.75]);
        assert_eq!(run(None).unwrap(), [0.0, 1.0, 1.0, 3.5, -16.0, -14.0, -0.5, -0.25]);
        assert!(run(Some(codes(DataType::I4, &[1], &[0]))).is_err());
    }

    #[test]
    fn numbers_are_quantised_to_few_bits() {
        let run = |zero: Array, scale: Array, saturates| {
            let granularity = Granularity { axis: 1, block_size: 0 };
            let operator = QuantizeLinear { granularity, output: None, saturates };
            let x = Array::vector(vec![-100.0f32, -1.0, 0.5, 1.5, 1000.0]);
            let inputs = vec![Some(x), Some(scale), Some(zero)];
            operator.run(Operands::new(inputs)).map(|outputs| outputs[0].codes().unwrap())
        };
        let zero = |dtype, code| codes(dtype, &[], &[code]);
        let (one, two) = (|| Array::scalar(1f32), || Array::scalar(2f32));
        assert_eq!(run(zero(DataType::I4, 1), one(), true).unwrap(), [8, 0, 1, 3, 7]);
        assert_eq!(run(zero(DataType::U2, 1), one(), true).unwrap(), [0, 0, 1, 3, 3]);
        let float8 = |saturates| run(zero(DataType::F8E4M3Fn, 0), two(), saturates).unwrap();
        assert_eq!(float8(true), [0xE4, 0xB0, 0x28, 0x34, 0x7E]);
        assert_eq!(float8(false)[4], 0x7F);
        // 2, as a power.
        let power = codes(DataType::F8E8M0, &[], &[128]);
        assert_eq!(run(zero(DataType::F8E4M3Fn, 0), power, true).unwrap(), float8(true));
        assert!(run(zero(DataType::F8E4M3Fn, 1), two(), true).is_err());
    }

    #[test]
    fn what_numbers_are_not_quantised_to_is_refused_at_load() {
        let infer = |zero: DataType, scale: DataType| {
            let infos = [DataType::F32, scale, zero].map(|dtype| Info::new(dtype, Vec::new()));
            let operator = QuantizeLinear {
                granularity: Granularity { axis: 1, block_size: 0 },
                output: None,
                saturates: true,
            };
            operator.infer(&Operands::new(infos.iter().map(Some).collect())).map(|_| ())
        };
        assert!(infer(DataType::F4E2M1, DataType::F8E8M0).is_ok());
        assert!(infer(DataType::F8E8M0, DataType::F32).is_err());
        assert!(infer(DataType::I4, DataType::F8E5M2).is_err());
        assert!(infer(DataType::I32, DataType::F32).is_err());
    }
}
