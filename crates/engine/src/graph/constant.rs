//! Values that a file gives: weights, mostly.

use bytes::Bytes;

use super::array::{DataType, Element, element_count, for_type};
use super::{Array, Info, Problem};
use crate::runtime::{MappedFile, memory};

/// A constant, decoded only when it is needed: most weights are read once, into the layout that a kernel wants.
#[derive(Clone, Debug)]
pub enum Constant {
    /// A value in memory.
    Array(Array),
    /// The bytes of a value in a mapped file.
    Raw(RawTensor),
}

/// Little-endian elements in row-major order.
#[derive(Clone, Debug)]
pub struct RawTensor {
    dtype: DataType,
    shape: Vec<usize>,
    bytes: Bytes,
    /// The file that the bytes are in.
    file: Option<MappedFile>,
}

impl RawTensor {
    /// A tensor of these bytes.
    ///
    /// # Errors
    ///
    /// When there are not as many bytes as type and shape say, or the type has no fixed size.
    pub fn new(dtype: DataType, shape: Vec<usize>, bytes: Bytes) -> Result<Self, Problem> {
        if dtype == DataType::String {
            return Err(Problem::new("strings cannot be raw data"));
        }
        let expected = element_count(&shape)?.checked_mul(dtype.size());
        if expected != Some(bytes.len()) {
            return Err(Problem::new(format!(
                "{} bytes are not the elements of {dtype}{shape:?}",
                bytes.len()
            )));
        }
        Ok(Self { dtype, shape, bytes, file: None })
    }

    /// The same in a file, whose memory is given back once the tensor was decoded.
    #[must_use]
    pub(crate) fn in_file(self, file: MappedFile) -> Self {
        Self { file: Some(file), ..self }
    }

    fn decode(&self) -> Array {
        let array = for_type!(self.dtype, T => {
            let values = T::decode_all(&self.bytes);
            Array::new(self.shape.clone(), values).expect("the constructor compared the sizes")
        });
        if let Some(file) = &self.file {
            file.release(&self.bytes);
        }
        array
    }
}

impl Constant {
    /// The type of the elements.
    pub fn dtype(&self) -> DataType {
        match self {
            Self::Array(array) => array.dtype(),
            Self::Raw(raw) => raw.dtype,
        }
    }

    /// The sizes of the dimensions.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Array(array) => array.shape(),
            Self::Raw(raw) => &raw.shape,
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        element_count(self.shape()).expect("the constructor counted them")
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known about the value before the graph runs.
    pub(crate) fn info(&self) -> Info {
        match self {
            Self::Array(array) => Info::constant(array),
            Self::Raw(_) if self.len() <= Info::MAX_KNOWN_ELEMENTS => Info::constant(&self.array()),
            Self::Raw(raw) => Info::new(raw.dtype, raw.shape.iter().map(|&size| size.into()).collect()),
        }
    }

    /// The value.
    pub fn array(&self) -> Array {
        match self {
            Self::Array(array) => array.clone(),
            Self::Raw(raw) => raw.decode(),
        }
    }
}

impl From<Array> for Constant {
    fn from(array: Array) -> Self {
        Self::Array(array)
    }
}

/// Elements from their bytes.
trait Decode: Element {
    fn decode_all(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! decode_numbers {
    ($($type:ty)*) => {$(
        impl Decode for $type {
            fn decode_all(bytes: &[u8]) -> Vec<Self> {
                let (chunks, _) = bytes.as_chunks::<{ size_of::<$type>() }>();
                let mut values = Vec::new();
                memory::reserve(&mut values, chunks.len());
                values.extend(chunks.iter().map(|&chunk| <$type>::from_le_bytes(chunk)));
                values
            }
        }
    )*};
}

decode_numbers!(f32 f64 half::f16 half::bf16 i8 i16 i32 i64 u8 u16 u32 u64);

impl Decode for bool {
    fn decode_all(bytes: &[u8]) -> Vec<Self> {
        bytes.iter().map(|&byte| byte != 0).collect()
    }
}

impl Decode for String {
    fn decode_all(_: &[u8]) -> Vec<Self> {
        unreachable!("the constructor refuses strings")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_elements() {
        let raw = |dtype, shape: &[usize], bytes: &'static [u8]| {
            RawTensor::new(dtype, shape.to_vec(), Bytes::from_static(bytes))
        };
        let constant = Constant::Raw(raw(DataType::I16, &[2], &[1, 0, 0xFE, 0xFF]).unwrap());
        assert_eq!(constant.array(), Array::vector(vec![1i16, -2]));
        let constant = Constant::Raw(raw(DataType::Bool, &[2, 1], &[1, 0]).unwrap());
        assert_eq!(constant.array(), Array::new(vec![2, 1], vec![true, false]).unwrap());
        assert!(raw(DataType::F32, &[2], &[0; 7]).is_err());
        assert!(raw(DataType::F32, &[usize::MAX, 4], &[]).is_err());
        assert!(raw(DataType::String, &[], &[]).is_err());
    }
}
