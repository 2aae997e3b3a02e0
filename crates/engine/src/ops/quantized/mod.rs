//! Operators on quantised integers, of the standard and of ONNX Runtime: an integer minus its zero point, times a
//! scale, is the number that it stands for.
//!
//! Integers come out as ONNX Runtime computes them: products are summed in i32 without saturation between, numbers
//! are divided by the scale in f32, halves are rounded to even, and what does not fit is saturated.

mod attention;
mod conv;
mod elementwise;
mod embedding;
mod gather;
mod linear;
mod matmul;
mod nbits;
mod packed;
mod pool;

pub(crate) use attention::QAttention;
pub(crate) use embedding::QEmbedLayerNormalization;
pub(crate) use linear::{DequantizeLinear, DynamicQuantizeLinear, QuantizeLinear};
pub(crate) use nbits::MatMulNBits;

use super::Entry;
use crate::graph::{Array, DataType, Element, Problem, problem};
use crate::kernels::transposed;

pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("QuantizeLinear", 2..=3, linear::QuantizeLinear::read),
    Entry::microsoft("QuantizeLinear", 2..=3, linear::QuantizeLinear::read),
    Entry::new("DequantizeLinear", 2..=3, linear::DequantizeLinear::read),
    Entry::microsoft("DequantizeLinear", 2..=3, linear::DequantizeLinear::read),
    Entry::new("DynamicQuantizeLinear", 1..=1, linear::DynamicQuantizeLinear::read),
    Entry::new("MatMulInteger", 2..=4, matmul::MatMulInteger::read),
    Entry::new("QLinearMatMul", 8..=8, matmul::QLinearMatMul::read),
    Entry::microsoft("MatMulIntegerToFloat", 4..=7, matmul::MatMulIntegerToFloat::read),
    Entry::microsoft("DynamicQuantizeMatMul", 3..=5, matmul::DynamicQuantizeMatMul::read),
    Entry::microsoft("QGemm", 6..=9, matmul::QGemm::read),
    Entry::microsoft("QAttention", 5..=9, attention::QAttention::read),
    Entry::microsoft("QEmbedLayerNormalization", 18..=18, embedding::QEmbedLayerNormalization::read),
    Entry::microsoft("MatMulNBits", 3..=6, nbits::MatMulNBits::read),
    Entry::microsoft("QLinearAdd", 7..=8, |node| elementwise::QLinearArithmetic::read(node, false)),
    Entry::microsoft("QLinearMul", 7..=8, |node| elementwise::QLinearArithmetic::read(node, true)),
    Entry::microsoft("QLinearSigmoid", 4..=5, elementwise::QLinearFunction::read_sigmoid),
    Entry::microsoft("QLinearLeakyRelu", 4..=5, elementwise::QLinearFunction::read_leaky_relu),
    Entry::microsoft("QLinearConcat", 3..=65_536, elementwise::QLinearConcat::read),
    Entry::microsoft("QLinearAveragePool", 4..=5, |node| pool::QLinearPool::read(node, "QLinearAveragePool")),
    Entry::microsoft("QLinearGlobalAveragePool", 4..=5, |node| {
        pool::QLinearPool::read(node, "QLinearGlobalAveragePool")
    }),
    Entry::microsoft("GatherBlockQuantized", 3..=4, gather::GatherBlockQuantized::read),
    Entry::new("ConvInteger", 2..=4, conv::ConvInteger::read),
    Entry::new("QLinearConv", 8..=9, conv::QLinearConv::read),
];

/// An integer that stands for a number.
pub(super) trait Quantized: Element + Copy {
    const LOWEST: i32;
    const HIGHEST: i32;

    /// `value` is not below the lowest and not above the highest.
    fn from_i32(value: i32) -> Self;

    fn to_i32(self) -> i32;
}

macro_rules! quantized {
    ($($type:ty)*) => {$(
        impl Quantized for $type {
            const LOWEST: i32 = <$type>::MIN as i32;
            const HIGHEST: i32 = <$type>::MAX as i32;

            #[inline(always)]
            fn from_i32(value: i32) -> Self {
                value as $type
            }

            #[inline(always)]
            fn to_i32(self) -> i32 {
                i32::from(self)
            }
        }
    )*};
}

quantized!(u8 i8 u16 i16);

/// Evaluates `$body` with `$T` standing for one of the types that numbers are quantised to.
macro_rules! for_quantized {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DataType::U8 => {
                type $T = u8;
                $body
            }
            DataType::I8 => {
                type $T = i8;
                $body
            }
            DataType::U16 => {
                type $T = u16;
                $body
            }
            DataType::I16 => {
                type $T = i16;
                $body
            }
            dtype => problem!("{dtype} is not a type that numbers are quantised to"),
        }
    };
}
use for_quantized;

/// 1.5 * 2^23: adding and subtracting it rounds to the nearest integer, halves to even.
const ROUND: f32 = 12_582_912.0;

/// The integer that stands for the number nearest to `value * scale`.
#[inline(always)]
pub(super) fn saturate<T: Quantized>(value: f32, zero: i32) -> T {
    T::from_i32(saturated(value, zero, [T::LOWEST, T::HIGHEST]))
}

/// [`saturate`] to integers in a range.
#[inline(always)]
fn saturated(value: f32, zero: i32, [lowest, highest]: [i32; 2]) -> i32 {
    // What is between these is far below 2^22, as the rounding needs. NaN becomes the lowest.
    let (low, high) = ((lowest - zero) as f32, (highest - zero) as f32);
    let value = value.max(low).min(high);
    (value + ROUND - ROUND) as i32 + zero
}

/// 8-bit integers minus their zero point.
pub(super) fn centred(array: &Array, zero: i16) -> Result<Vec<i16>, Problem> {
    match array.dtype() {
        DataType::U8 => Ok(array.values::<u8>()?.iter().map(|&value| i16::from(value) - zero).collect()),
        DataType::I8 => Ok(array.values::<i8>()?.iter().map(|&value| i16::from(value) - zero).collect()),
        dtype => problem!("expected 8-bit integers, got {dtype}"),
    }
}

/// 8-bit zero points: one, or as many as there are columns, say; 0 where there is no array.
pub(super) fn zero_points(array: Option<&Array>) -> Result<Vec<i16>, Problem> {
    match array {
        Some(array) if array.is_empty() => problem!("there are no zero points"),
        Some(array) => centred(array, 0),
        None => Ok(vec![0]),
    }
}

/// `[.., places, channels]` to `[.., channels, places]`, in another shape.
fn by_channel(array: &Array, shape: Vec<usize>, channels: usize, places: usize) -> Result<Array, Problem> {
    for_quantized!(array.dtype(), T => {
        let images = array.values::<T>()?.chunks_exact((channels * places).max(1));
        Array::new(shape, images.flat_map(|image| transposed(image, places, channels)).collect::<Vec<T>>())
    })
}

/// The only zero point.
pub(super) fn zero_point(array: Option<&Array>) -> Result<i32, Problem> {
    match array {
        None => Ok(0),
        Some(array) => match array.to_ints()?[..] {
            [zero] if (-32_768..=65_535).contains(&zero) => Ok(zero as i32),
            _ => problem!("a zero point has shape {:?}, expected one element", array.shape()),
        },
    }
}

/// The only scale.
pub(super) fn scale(array: &Array, what: &str) -> Result<f32, Problem> {
    match array.to_floats()?[..] {
        [scale] => Ok(scale),
        _ => problem!("{what} has shape {:?}, expected one element", array.shape()),
    }
}

/// Scale and zero point that 8-bit integers need for these numbers and 0.
pub(super) fn dynamic_quantization(values: &[f32]) -> (f32, u8) {
    let (low, high) = range(values);
    let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
    (scale, saturate(-low / scale, 0))
}

/// The range of the numbers and 0.
fn range(values: &[f32]) -> (f32, f32) {
    let (mut low, mut high) = ([0.0f32; 16], [0.0f32; 16]);
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for ((low, high), &value) in low.iter_mut().zip(&mut high).zip(chunk) {
            *low = if value < *low { value } else { *low };
            *high = if value > *high { value } else { *high };
        }
    }
    let low = low.iter().chain(rest).fold(0.0f32, |low, &value| low.min(value));
    let high = high.iter().chain(rest).fold(0.0f32, |high, &value| high.max(value));
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_rounded_to_even_and_the_rest_saturates() {
        let values = [0.5, 1.5, 2.5, -0.5, -1.5, 300.0, -300.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        let to_i8 = values.map(|value| saturate::<i8>(value, 0));
        assert_eq!(to_i8, [0, 2, 2, 0, -2, 127, -128, 127, -128, -128]);
        assert_eq!([0.5, 1.5, -129.0].map(|value| saturate::<u8>(value, 128)), [128, 130, 0]);
        assert_eq!(saturate::<u16>(1e9, 65_535), 65_535);
    }

    #[test]
    fn ranges_include_zero() {
        assert_eq!(dynamic_quantization(&[]), (1.0, 0));
        assert_eq!(dynamic_quantization(&[2.55, 1.0]), (0.01, 0));
        assert_eq!(dynamic_quantization(&[-2.55]), (0.01, 255));
        let many: Vec<f32> = (0..100).map(|i| i as f32 - 51.0).collect();
        assert_eq!(range(&many), (-51.0, 48.0));
    }
}
