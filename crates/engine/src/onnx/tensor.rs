//! Tensors in all the encodings that the format has.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;
use half::{bf16, f16};

use super::proto::{EXTERNAL, TensorProto};
use crate::graph::low_bit::Format;
use crate::graph::{Array, Constant, DataType, Problem, RawTensor, check_rank, element_count, problem};
use crate::runtime::MappedFile;

/// The files that hold a model's tensors, each mapped once.
pub(super) struct TensorFiles {
    /// The model's own.
    model: Option<MappedFile>,
    folder: PathBuf,
    external: Mutex<HashMap<String, MappedFile>>,
}

impl TensorFiles {
    /// Those of the model in this file, which is mapped unless it is empty.
    pub(super) fn new(path: &Path, model: Option<MappedFile>) -> Self {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Self { model, folder, external: Mutex::default() }
    }

    /// A range of a file in the model's folder or below.
    fn read(
        &self,
        location: &str,
        offset: usize,
        length: Option<usize>,
    ) -> Result<(Bytes, MappedFile), Problem> {
        let mut files = self.external.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let file = match files.get(location) {
            Some(file) => file.clone(),
            None => {
                let file = self.map(location)?;
                files.insert(location.to_owned(), file.clone());
                file
            }
        };
        let bytes = file.bytes();
        let end = length.map_or(Some(bytes.len()), |length| offset.checked_add(length));
        match end {
            Some(end) if offset <= end && end <= bytes.len() => Ok((bytes.slice(offset..end), file)),
            _ => problem!(
                "bytes {offset}.. of length {length:?} are not inside `{location}`, which has {} bytes",
                bytes.len()
            ),
        }
    }

    fn map(&self, location: &str) -> Result<MappedFile, Problem> {
        let relative = Path::new(location);
        let is_inside =
            relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if location.is_empty() || !is_inside {
            problem!("external data `{location}` is not inside the model's folder");
        }
        let unreadable = |source: std::io::Error| {
            Problem::new(format!("external data `{location}` could not be read: {source}"))
        };
        let folder = if self.folder.as_os_str().is_empty() { Path::new(".") } else { &self.folder };
        let path = folder.join(relative);
        // Links are followed: hub caches are folders of them. Before it is opened: opening a pipe would wait for ever.
        if !std::fs::metadata(&path).map_err(unreadable)?.is_file() {
            problem!("external data `{location}` is not a file");
        }
        MappedFile::open(&path).map_err(unreadable)
    }
}

/// A tensor of the file or of a file beside it.
pub(super) fn constant(tensor: &TensorProto, files: &TensorFiles) -> Result<Constant, Problem> {
    check_rank(tensor.dims.len())?;
    let shape: Vec<usize> = tensor
        .dims
        .iter()
        .map(|&size| usize::try_from(size).map_err(|_| Problem::new(format!("{size} is not a size"))))
        .collect::<Result<_, _>>()?;
    if tensor.segment.is_some() {
        problem!("tensors in segments are not supported");
    }
    let raw = if tensor.data_location == EXTERNAL {
        let (bytes, file) = external(tensor, files)?;
        Some((bytes, Some(file)))
    } else if !tensor.raw_data.is_empty() {
        Some((tensor.raw_data.clone(), files.model.clone()))
    } else {
        None
    };
    let dtype = DataType::from_number(tensor.data_type)?;
    match raw {
        Some((bytes, _)) if is_packed(dtype) => unpacked(&bytes, dtype, shape).map(Constant::Array),
        Some((bytes, file)) => {
            let raw = RawTensor::new(dtype, shape, bytes)?;
            Ok(Constant::Raw(match file {
                Some(file) => raw.in_file(file),
                None => raw,
            }))
        }
        None => typed(tensor, dtype, shape).map(Constant::Array),
    }
}

fn external(tensor: &TensorProto, files: &TensorFiles) -> Result<(Bytes, MappedFile), Problem> {
    let entry = |key: &str| {
        tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    };
    let number = |key: &str| match entry(key) {
        None => Ok(None),
        Some(value) => match value.parse::<usize>() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Problem::new(format!("external data's {key} is `{value}`"))),
        },
    };
    let Some(location) = entry("location") else {
        problem!("external data has no location");
    };
    files.read(location, number("offset")?.unwrap_or(0), number("length")?)
}

fn typed(tensor: &TensorProto, dtype: DataType, shape: Vec<usize>) -> Result<Array, Problem> {
    let ints = &tensor.int32_data;
    match dtype {
        DataType::F32 => Array::new(shape, tensor.float_data.clone()),
        DataType::F64 => Array::new(shape, tensor.double_data.clone()),
        DataType::I64 => Array::new(shape, tensor.int64_data.clone()),
        DataType::U64 => Array::new(shape, tensor.uint64_data.clone()),
        DataType::U32 => Array::new::<u32>(shape, narrow(&tensor.uint64_data)?),
        DataType::I32 => Array::new(shape, ints.clone()),
        DataType::I16 => Array::new::<i16>(shape, narrow(ints)?),
        DataType::I8 => Array::new::<i8>(shape, narrow(ints)?),
        DataType::U16 => Array::new::<u16>(shape, narrow(ints)?),
        DataType::U8 => Array::new::<u8>(shape, narrow(ints)?),
        DataType::Bool => Array::new(shape, ints.iter().map(|&value| value != 0).collect()),
        DataType::F16 => Array::new(shape, narrow(ints)?.into_iter().map(f16::from_bits).collect()),
        DataType::Bf16 => Array::new(shape, narrow(ints)?.into_iter().map(bf16::from_bits).collect()),
        DataType::String => {
            let strings = tensor.string_data.iter().map(|bytes| string(bytes)).collect::<Result<_, _>>()?;
            Array::new::<String>(shape, strings)
        }
        _ if is_packed(dtype) => unpacked(&narrow(ints)?, dtype, shape),
        _ => Array::from_codes(dtype, shape, narrow(ints)?.into_iter()),
    }
}

fn narrow<T: Copy + std::fmt::Display, U: TryFrom<T>>(values: &[T]) -> Result<Vec<U>, Problem> {
    let narrow = |&value| U::try_from(value).map_err(|_| Problem::new(format!("{value} is out of range")));
    values.iter().map(narrow).collect()
}

/// Text of an attribute or a tensor.
pub(super) fn string(bytes: &[u8]) -> Result<String, Problem> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Problem::new("a string is not UTF-8"))
}

/// Whether several elements share a byte.
fn is_packed(dtype: DataType) -> bool {
    dtype.low_bit().is_some_and(|format| format.bits() < 8)
}

/// The elements in bytes that several share, the first in the lowest bits.
fn unpacked(bytes: &[u8], dtype: DataType, shape: Vec<usize>) -> Result<Array, Problem> {
    let len = element_count(&shape)?;
    let bits = dtype.low_bit().map_or(8, Format::bits);
    let per_byte = 8 / bits;
    if bytes.len() != len.div_ceil(per_byte as usize) {
        problem!("{} bytes are not {len} elements of {dtype}", bytes.len());
    }
    // Bits above an element's own are dropped.
    let codes = bytes.iter().flat_map(|byte| (0..per_byte).map(move |index| byte >> (index * bits)));
    Array::from_codes(dtype, shape, codes.take(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data_type: i32, dims: &[i64], raw: &[u8], ints: &[i32]) -> Result<Array, Problem> {
        let tensor = TensorProto {
            data_type,
            dims: dims.to_vec(),
            raw_data: raw.to_vec().into(),
            int32_data: ints.to_vec(),
            ..TensorProto::default()
        };
        constant(&tensor, &TensorFiles::new(Path::new("model.onnx"), None)).map(|constant| constant.array())
    }

    #[test]
    fn elements_that_share_a_byte_are_taken_apart() {
        const FLOAT8E4M3FN: i32 = 17;
        const UINT4: i32 = 21;
        const INT4: i32 = 22;
        const FLOAT4E2M1: i32 = 23;
        const INT2: i32 = 26;
        let int4 = read(INT4, &[3], &[0xF1, 0xA8], &[]).unwrap();
        assert_eq!((int4.dtype(), int4.to_ints().unwrap()), (DataType::I4, vec![1, -1, -8]));
        assert_eq!(read(UINT4, &[1, 3], &[], &[0xF1, 0xA8]).unwrap().to_ints().unwrap(), [1, 15, 8]);
        assert_eq!(
            read(INT2, &[5], &[0b11_10_01_00, 0b10], &[]).unwrap().to_ints().unwrap(),
            [0, 1, -2, -1, -2]
        );
        assert_eq!(read(FLOAT4E2M1, &[2], &[0x9F], &[]).unwrap().codes().unwrap(), [15, 9]);
        for (raw, ints) in [(&[0xF1u8, 3][..], &[][..]), (&[], &[0xF1, 3])] {
            assert_eq!(read(FLOAT8E4M3FN, &[2], raw, ints).unwrap().codes().unwrap(), [0xF1, 3]);
        }
        for (dtype, len) in [(INT4, 5), (UINT4, 2), (INT2, 9), (INT2, 4), (FLOAT8E4M3FN, 3)] {
            assert!(read(dtype, &[len], &[0, 0], &[]).is_err(), "{dtype} {len}");
        }
        assert!(read(INT4, &[1], &[], &[256]).is_err());
        assert_eq!(read(INT4, &[0], &[], &[]).unwrap().len(), 0);
        assert!(read(INT4, &[i64::MAX], &[0], &[]).is_err());
    }
}
