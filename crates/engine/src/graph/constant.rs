//! Values that a file gives: weights, mostly.

use bytes::Bytes;

use super::array::{DataType, Element, element_count, for_type};
use super::low_bit::{self, LowBit};
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
    /// When there are not as many bytes as type and shape say, or an element is not a number of bytes.
    pub fn new(dtype: DataType, shape: Vec<usize>, bytes: Bytes) -> Result<Self, Problem> {
        if dtype == DataType::String {
            return Err(Problem::new("strings cannot be raw data"));
        }
        if dtype.low_bit().is_some_and(|format| format.bits() < 8) {
            return Err(Problem::new(format!("elements of {dtype} are less than a byte each")));
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
        for_type!(self.dtype, T => {
            let values = T::decode_all(&self.bytes, |len| {
                if let Some(file) = &self.file {
                    file.release(&self.bytes[..len]);
                }
            });
            Array::new(self.shape.clone(), values).expect("the constructor compared the sizes")
        })
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
    /// Calls `is_read` with the number of bytes that were read so far, again and again: the largest tensor of a file, its
    /// token table, should not be resident twice.
    fn decode_all(bytes: &[u8], is_read: impl FnMut(usize)) -> Vec<Self>;
}

/// Bytes that are read before their memory is given back.
const PIECE: usize = 4 << 20;

macro_rules! decode_numbers {
    ($($type:ty)*) => {$(
        impl Decode for $type {
            fn decode_all(bytes: &[u8], mut is_read: impl FnMut(usize)) -> Vec<Self> {
                let (elements, _) = bytes.as_chunks::<{ size_of::<$type>() }>();
                let mut values = Vec::new();
                memory::reserve(&mut values, elements.len());
                for piece in elements.chunks(PIECE / size_of::<$type>()) {
                    values.extend(piece.iter().map(|&element| <$type>::from_le_bytes(element)));
                    is_read(size_of_val(values.as_slice()));
                }
                values
            }
        }
    )*};
}

decode_numbers!(f32 f64 half::f16 half::bf16 i8 i16 i32 i64 u8 u16 u32 u64);

macro_rules! decode_codes {
    ($($type:ident)*) => {$(
        impl Decode for low_bit::$type {
            fn decode_all(bytes: &[u8], _: impl FnMut(usize)) -> Vec<Self> {
                bytes.iter().map(|&code| Self::from_code(code)).collect()
            }
        }
    )*};
}

decode_codes!(I4 U4 I2 U2 F8E4M3Fn F8E4M3FnUz F8E5M2 F8E5M2FnUz F8E8M0 F4E2M1);

impl Decode for bool {
    fn decode_all(bytes: &[u8], _: impl FnMut(usize)) -> Vec<Self> {
        bytes.iter().map(|&byte| byte != 0).collect()
    }
}

impl Decode for String {
    fn decode_all(_: &[u8], _: impl FnMut(usize)) -> Vec<Self> {
        unreachable!("the constructor refuses strings")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_of_a_file_can_be_decoded_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let values: Vec<u32> = (0..PIECE as u32 / 2).map(|i| i.wrapping_mul(2_654_435_761)).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        // Neither aligned to pages nor to elements.
        std::fs::write(&path, [&[7; 4099], &bytes[..], &[7; 5000]].concat()).unwrap();
        let file = MappedFile::open(&path).unwrap();
        let raw =
            RawTensor::new(DataType::U32, vec![values.len()], file.bytes().slice(4099..4099 + bytes.len()));
        let constant = Constant::Raw(raw.unwrap().in_file(file.clone()));
        for _ in 0..2 {
            assert_eq!(constant.array().values::<u32>().unwrap(), values);
        }
        assert!(
            file.as_slice()[..4099]
                .iter()
                .chain(&file.as_slice()[4099 + bytes.len()..])
                .all(|&byte| byte == 7)
        );
    }

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
        assert!(raw(DataType::F8E5M2, &[2], &[0x3C, 0xFF]).is_ok());
        assert!(raw(DataType::U4, &[2], &[1, 2]).is_err(), "whether they are packed nobody says");
    }
}
