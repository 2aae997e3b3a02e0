//! Values of a graph: typed arrays in host memory, row-major and contiguous.
//!
//! Elements are shared until somebody writes: an array that nobody else holds gives its memory to the result of
//! the operator that consumes it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use half::{bf16, f16};

use super::Problem;

/// Bytes that one value may take: a graph's sizes come from a file and from inputs, and neither is trusted with all
/// memory.
const MAX_BYTES: usize = 1 << 32;

/// Dimensions that one value may have; real models have at most eight or so.
const MAX_RANK: usize = 64;

/// A type of elements.
pub trait Element: Clone + Default + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// Its name.
    const DTYPE: DataType;

    #[doc(hidden)]
    fn slice(data: &Data) -> Option<&Arc<Vec<Self>>>;

    #[doc(hidden)]
    fn take(data: Data) -> Option<Arc<Vec<Self>>>;

    #[doc(hidden)]
    fn wrap(values: Arc<Vec<Self>>) -> Data;
}

macro_rules! types {
    ($($variant:ident: $type:ty = $name:literal,)*) => {
        /// The type of an array's elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DataType {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl DataType {
            /// As ONNX spells it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Bytes of an element; of a string, of its handle.
            pub fn size(self) -> usize {
                match self { $(Self::$variant => size_of::<$type>(),)* }
            }
        }

        #[doc(hidden)]
        #[derive(Clone, Debug, PartialEq)]
        pub enum Data { $($variant(Arc<Vec<$type>>),)* }

        impl Data {
            fn dtype(&self) -> DataType {
                match self { $(Self::$variant(_) => DataType::$variant,)* }
            }

            fn len(&self) -> usize {
                match self { $(Self::$variant(values) => values.len(),)* }
            }

            fn is_shared(&self) -> bool {
                match self { $(Self::$variant(values) => Arc::strong_count(values) > 1,)* }
            }
        }

        $(impl Element for $type {
            const DTYPE: DataType = DataType::$variant;

            fn slice(data: &Data) -> Option<&Arc<Vec<Self>>> {
                match data { Data::$variant(values) => Some(values), _ => None }
            }

            fn take(data: Data) -> Option<Arc<Vec<Self>>> {
                match data { Data::$variant(values) => Some(values), _ => None }
            }

            fn wrap(values: Arc<Vec<Self>>) -> Data {
                Data::$variant(values)
            }
        })*

        /// Evaluates `$body` with the type alias `$T` standing for the Rust type of `$dtype`.
        macro_rules! for_type {
            ($dtype:expr, $T:ident => $body:expr) => {
                match $dtype {
                    $($crate::graph::DataType::$variant => { type $T = $type; $body })*
                }
            };
        }
    };
}

types! {
    F32: f32 = "float",
    F64: f64 = "double",
    F16: half::f16 = "float16",
    Bf16: half::bf16 = "bfloat16",
    I8: i8 = "int8",
    I16: i16 = "int16",
    I32: i32 = "int32",
    I64: i64 = "int64",
    U8: u8 = "uint8",
    U16: u16 = "uint16",
    U32: u32 = "uint32",
    U64: u64 = "uint64",
    Bool: bool = "bool",
    String: String = "string",
}
pub(crate) use for_type;

impl DataType {
    /// The type with this number in ONNX's schema.
    ///
    /// # Errors
    ///
    /// When there is none, or none that is supported.
    pub fn from_number(number: i32) -> Result<Self, Problem> {
        Ok(match number {
            1 => Self::F32,
            2 => Self::U8,
            3 => Self::I8,
            4 => Self::U16,
            5 => Self::I16,
            6 => Self::I32,
            7 => Self::I64,
            8 => Self::String,
            9 => Self::Bool,
            10 => Self::F16,
            11 => Self::F64,
            12 => Self::U32,
            13 => Self::U64,
            16 => Self::Bf16,
            14 | 15 => super::problem!("complex numbers are not supported"),
            17..=20 | 23..=28 => {
                super::problem!(
                    "floating-point numbers below 16 bits and integers below 4 bits are not supported"
                )
            }
            _ => super::problem!("{number} is not a type of elements"),
        })
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::Bf16)
    }

    /// Whether it is an integer type.
    pub fn is_int(self) -> bool {
        !self.is_float() && !matches!(self, Self::Bool | Self::String)
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A typed array. Cloning shares the elements.
#[derive(Clone, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    data: Data,
}

impl Array {
    /// An array of these elements in row-major order.
    ///
    /// # Errors
    ///
    /// When there are not as many values as the shape says.
    pub fn new<T: Element>(shape: impl Into<Vec<usize>>, values: Vec<T>) -> Result<Self, Problem> {
        let shape = shape.into();
        if element_count(&shape)? != values.len() {
            return Err(Problem::new(format!("{} elements cannot have shape {shape:?}", values.len())));
        }
        Ok(Self { shape, data: T::wrap(Arc::new(values)) })
    }

    /// An array of one element and no dimensions.
    pub fn scalar<T: Element>(value: T) -> Self {
        Self { shape: Vec::new(), data: T::wrap(Arc::new(vec![value])) }
    }

    /// An array of one dimension.
    pub fn vector<T: Element>(values: Vec<T>) -> Self {
        Self { shape: vec![values.len()], data: T::wrap(Arc::new(values)) }
    }

    /// An array whose elements are all `value`.
    ///
    /// # Errors
    ///
    /// When it would be too large.
    pub fn full<T: Element>(shape: impl Into<Vec<usize>>, value: T) -> Result<Self, Problem> {
        let shape = shape.into();
        let values = vec![value; checked_len(&shape, size_of::<T>())?];
        Self::new(shape, values)
    }

    /// An array of these little-endian elements.
    ///
    /// # Errors
    ///
    /// When there are not as many bytes as type and shape say, or the type has no fixed size.
    pub fn from_le_bytes(
        dtype: DataType,
        shape: impl Into<Vec<usize>>,
        bytes: Vec<u8>,
    ) -> Result<Self, Problem> {
        let raw = super::RawTensor::new(dtype, shape.into(), bytes.into())?;
        Ok(super::Constant::Raw(raw).array())
    }

    /// The sizes of the dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DataType {
        self.data.dtype()
    }

    /// Whether somebody else holds the elements, so that they cannot be written to.
    pub fn is_shared(&self) -> bool {
        self.data.is_shared()
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    ///
    /// When they are of another type.
    pub fn values<T: Element>(&self) -> Result<&[T], Problem> {
        T::slice(&self.data).map(|values| values.as_slice()).ok_or_else(|| self.wrong_type(T::DTYPE))
    }

    /// The elements to keep: the array's own memory if nobody else holds it, a copy otherwise.
    ///
    /// # Errors
    ///
    /// When they are of another type.
    pub fn into_values<T: Element>(self) -> Result<Vec<T>, Problem> {
        let problem = self.wrong_type(T::DTYPE);
        let values = T::take(self.data).ok_or(problem)?;
        Ok(Arc::try_unwrap(values).unwrap_or_else(|shared| shared.to_vec()))
    }

    fn wrong_type(&self, expected: DataType) -> Problem {
        Problem::new(format!("expected {expected}, got {}", self.dtype()))
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    ///
    /// When the shape has another number of elements.
    pub fn with_shape(self, shape: impl Into<Vec<usize>>) -> Result<Self, Problem> {
        let shape = shape.into();
        if element_count(&shape)? != self.len() {
            return Err(Problem::new(format!("shape {:?} cannot become {shape:?}", self.shape)));
        }
        Ok(Self { shape, data: self.data })
    }

    /// Elements of any integer type, or bool, as i64.
    ///
    /// # Errors
    ///
    /// When they are no integers, or too large.
    pub fn to_ints(&self) -> Result<Vec<i64>, Problem> {
        macro_rules! widen {
            ($values:expr) => {
                Ok($values.iter().map(|&value| value.into()).collect())
            };
        }
        match &self.data {
            Data::I8(values) => widen!(values),
            Data::I16(values) => widen!(values),
            Data::I32(values) => widen!(values),
            Data::I64(values) => Ok(values.to_vec()),
            Data::U8(values) => widen!(values),
            Data::U16(values) => widen!(values),
            Data::U32(values) => widen!(values),
            Data::Bool(values) => widen!(values),
            Data::U64(values) => values
                .iter()
                .map(|&value| i64::try_from(value).map_err(|_| Problem::new(format!("{value} is too large"))))
                .collect(),
            _ => Err(Problem::new(format!("expected integers, got {}", self.dtype()))),
        }
    }

    /// An array of a type of numbers, or of truth values, from integers.
    ///
    /// # Errors
    ///
    /// When `dtype` is of strings or cannot hold one of the integers, or the shape has another number of elements.
    pub fn from_ints(
        dtype: DataType,
        shape: impl Into<Vec<usize>>,
        values: Vec<i64>,
    ) -> Result<Self, Problem> {
        fn convert<T: Element>(
            shape: Vec<usize>,
            values: &[i64],
            convert: impl Fn(i64) -> Option<T>,
        ) -> Result<Array, Problem> {
            let one = |value: &i64| {
                convert(*value).ok_or_else(|| Problem::new(format!("{value} is no value of {}", T::DTYPE)))
            };
            Array::new(shape, values.iter().map(one).collect::<Result<_, _>>()?)
        }
        macro_rules! narrow {
            ($type:ty) => {
                convert(shape.into(), &values, |value| <$type>::try_from(value).ok())
            };
        }
        // What a type of floating-point numbers rounds is another integer.
        macro_rules! exact {
            ($from:expr, $to:expr) => {
                convert(shape.into(), &values, |value| {
                    let float = $from(value as f64);
                    ($to(float) == value as f64 && value.unsigned_abs() <= 1 << 53).then_some(float)
                })
            };
        }
        match dtype {
            DataType::I64 => Self::new(shape, values),
            DataType::I8 => narrow!(i8),
            DataType::I16 => narrow!(i16),
            DataType::I32 => narrow!(i32),
            DataType::U8 => narrow!(u8),
            DataType::U16 => narrow!(u16),
            DataType::U32 => narrow!(u32),
            DataType::U64 => narrow!(u64),
            DataType::Bool => convert(shape.into(), &values, |value| match value {
                0 => Some(false),
                1 => Some(true),
                _ => None,
            }),
            DataType::F32 => exact!(|value| value as f32, f64::from),
            DataType::F64 => exact!(|value: f64| value, |value: f64| value),
            DataType::F16 => exact!(f16::from_f64, f16::to_f64),
            DataType::Bf16 => exact!(bf16::from_f64, bf16::to_f64),
            DataType::String => Err(Problem::new("strings are no integers")),
        }
    }

    /// Elements of any floating-point type as f32.
    ///
    /// # Errors
    ///
    /// When they are no floating-point numbers.
    pub fn to_floats(&self) -> Result<Cow<'_, [f32]>, Problem> {
        match &self.data {
            Data::F32(values) => Ok(Cow::Borrowed(values)),
            Data::F64(values) => Ok(values.iter().map(|&value| value as f32).collect()),
            Data::F16(values) => Ok(values.iter().map(|value| value.to_f32()).collect()),
            Data::Bf16(values) => Ok(values.iter().map(|value| value.to_f32()).collect()),
            _ => Err(Problem::new(format!("expected floating-point numbers, got {}", self.dtype()))),
        }
    }

    /// [`to_floats`](Self::to_floats), in the array's own memory where it can be had.
    ///
    /// # Errors
    ///
    /// When they are no floating-point numbers.
    pub fn into_floats(self) -> Result<Vec<f32>, Problem> {
        if self.dtype() == DataType::F32 {
            return self.into_values();
        }
        Ok(self.to_floats()?.into_owned())
    }

    /// An array of a floating-point type, rounded from f32.
    ///
    /// # Errors
    ///
    /// When `dtype` is no floating-point type, or the shape has another number of elements.
    pub fn from_floats(
        dtype: DataType,
        shape: impl Into<Vec<usize>>,
        values: Vec<f32>,
    ) -> Result<Self, Problem> {
        match dtype {
            DataType::F32 => Self::new(shape, values),
            DataType::F64 => Self::new(shape, values.into_iter().map(f64::from).collect()),
            DataType::F16 => Self::new(shape, values.into_iter().map(f16::from_f32).collect()),
            DataType::Bf16 => Self::new(shape, values.into_iter().map(bf16::from_f32).collect()),
            _ => Err(Problem::new(format!("expected a floating-point type, got {dtype}"))),
        }
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype(), self.shape)?;
        if self.len() <= 16 {
            for_type!(self.dtype(), T => write!(f, " {:?}", self.values::<T>().unwrap_or_default()))?;
        }
        Ok(())
    }
}

/// Checks a number of dimensions: what is known about them is kept for every value.
///
/// # Errors
///
/// When it is too large.
pub(crate) fn check_rank(rank: usize) -> Result<(), Problem> {
    if rank > MAX_RANK {
        return Err(Problem::new(format!("{rank} dimensions are more than {MAX_RANK}")));
    }
    Ok(())
}

/// The number of elements of a shape.
///
/// # Errors
///
/// When it overflows.
pub fn element_count(shape: &[usize]) -> Result<usize, Problem> {
    // Overflow is looked for even where another dimension is zero.
    let product =
        shape.iter().filter(|&&size| size != 0).try_fold(1usize, |len, &size| len.checked_mul(size));
    match product {
        Some(_) if shape.contains(&0) => Ok(0),
        Some(len) => Ok(len),
        None => Err(Problem::new(format!("shape {shape:?} is too large"))),
    }
}

/// The number of elements of a shape that is about to be allocated.
///
/// # Errors
///
/// When a value of that size would take more memory than any value may.
pub fn checked_len(shape: &[usize], element_size: usize) -> Result<usize, Problem> {
    let len = element_count(shape)?;
    match len.checked_mul(element_size) {
        Some(bytes) if bytes <= MAX_BYTES => Ok(len),
        _ => Err(Problem::new(format!("shape {shape:?} is too large"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_nobody_else_holds_is_given_away() {
        let array = Array::vector(vec![1.0f32, 2.0]);
        let address = array.values::<f32>().unwrap().as_ptr();
        let values = array.into_values::<f32>().unwrap();
        assert_eq!(values.as_ptr(), address);

        let array = Array::vector(vec![1i64, 2]);
        let shared = array.clone();
        assert_eq!(array.into_values::<i64>().unwrap(), [1, 2]);
        assert_eq!(shared.values::<i64>().unwrap(), [1, 2]);
    }

    #[test]
    fn sizes_that_overflow_are_problems() {
        assert_eq!(element_count(&[2, 3]).unwrap(), 6);
        assert_eq!(element_count(&[]).unwrap(), 1);
        assert_eq!(element_count(&[usize::MAX, 0]).unwrap(), 0);
        assert!(element_count(&[usize::MAX, 2, 0]).is_err());
        assert!(Array::full(vec![1 << 20, 1 << 20], 0u8).is_err());
        assert!(Array::new(vec![2], vec![1.0f32]).is_err());
    }

    #[test]
    fn integers_become_what_can_hold_them() {
        let of = |dtype, value| Array::from_ints(dtype, [1], vec![value]);
        for dtype in [DataType::I8, DataType::U8, DataType::I32, DataType::U64, DataType::I64, DataType::Bool]
        {
            let array = of(dtype, 1).unwrap();
            assert_eq!((array.dtype(), array.to_ints().unwrap()), (dtype, vec![1]));
        }
        for dtype in [DataType::F16, DataType::Bf16, DataType::F32, DataType::F64] {
            assert_eq!(*of(dtype, -3).unwrap().to_floats().unwrap(), [-3.0]);
        }
        let too_large = [
            (DataType::Bool, 2),
            (DataType::U8, -1),
            (DataType::U8, 256),
            (DataType::I32, 1 << 31),
            (DataType::U64, -1),
            (DataType::F16, 2049),
            (DataType::Bf16, 257),
            (DataType::F32, (1 << 24) + 1),
            (DataType::F64, (1 << 53) + 1),
            (DataType::F64, i64::MAX),
            (DataType::String, 0),
        ];
        for (dtype, value) in too_large {
            assert!(of(dtype, value).is_err(), "{value} as {dtype}");
        }
        assert!(Array::from_ints(DataType::I32, [2], vec![1]).is_err());
    }

    #[test]
    fn types_are_checked_and_widened() {
        let array = Array::vector(vec![f16::from_f32(0.5)]);
        assert!(array.values::<f32>().is_err());
        assert_eq!(*array.to_floats().unwrap(), [0.5]);
        assert!(array.to_ints().is_err());
        assert_eq!(Array::vector(vec![true, false]).to_ints().unwrap(), [1, 0]);
        assert!(Array::scalar(u64::MAX).to_ints().is_err());
    }
}
