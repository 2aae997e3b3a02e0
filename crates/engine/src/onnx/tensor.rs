//! Tensors in all the encodings that the format has.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;
use half::{bf16, f16};
use memmap2::Mmap;

use super::proto::{EXTERNAL, TensorProto};
use crate::graph::{Array, Constant, DataType, Problem, RawTensor, check_rank, element_count, problem};

/// The files beside a model that hold tensors of it, each mapped once.
pub(super) struct ExternalFiles {
    folder: PathBuf,
    files: Mutex<HashMap<String, Bytes>>,
}

impl ExternalFiles {
    pub(super) fn beside(model: &Path) -> Self {
        let folder = model.parent().unwrap_or(Path::new("")).to_owned();
        Self { folder, files: Mutex::default() }
    }

    /// A range of a file in the model's folder or below.
    fn read(&self, location: &str, offset: usize, length: Option<usize>) -> Result<Bytes, Problem> {
        let mut files = self.files.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let bytes = match files.get(location) {
            Some(bytes) => bytes.clone(),
            None => {
                let bytes = self.map(location)?;
                files.insert(location.to_owned(), bytes.clone());
                bytes
            }
        };
        let end = length.map_or(Some(bytes.len()), |length| offset.checked_add(length));
        match end {
            Some(end) if offset <= end && end <= bytes.len() => Ok(bytes.slice(offset..end)),
            _ => problem!(
                "bytes {offset}.. of length {length:?} are not inside `{location}`, which has {} bytes",
                bytes.len()
            ),
        }
    }

    fn map(&self, location: &str) -> Result<Bytes, Problem> {
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
        let file = File::open(&path).map_err(unreadable)?;
        // SAFETY: weights files are not changed while they are mapped; the same is true of every weights file.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        Ok(Bytes::from_owner(map))
    }
}

/// The type with this number in the schema.
pub(crate) fn data_type(number: i32) -> Result<DataType, Problem> {
    Ok(match number {
        1 => DataType::F32,
        2 => DataType::U8,
        3 => DataType::I8,
        4 => DataType::U16,
        5 => DataType::I16,
        6 => DataType::I32,
        7 => DataType::I64,
        8 => DataType::String,
        9 => DataType::Bool,
        10 => DataType::F16,
        11 => DataType::F64,
        12 => DataType::U32,
        13 => DataType::U64,
        16 => DataType::Bf16,
        14 | 15 => problem!("complex numbers are not supported"),
        17..=20 | 23..=28 => {
            problem!("floating-point numbers below 16 bits and integers below 4 bits are not supported")
        }
        _ => problem!("{number} is not a type of elements"),
    })
}

const UINT4: i32 = 21;
const INT4: i32 = 22;

/// Whether its elements are 4-bit integers.
pub(super) fn is_4_bit(tensor: &TensorProto) -> bool {
    matches!(tensor.data_type, UINT4 | INT4)
}

/// A tensor of the file or of a file beside it. 4-bit integers become 8-bit ones.
pub(super) fn constant(tensor: &TensorProto, files: &ExternalFiles) -> Result<Constant, Problem> {
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
        Some(external(tensor, files)?)
    } else if !tensor.raw_data.is_empty() {
        Some(tensor.raw_data.clone())
    } else {
        None
    };
    if is_4_bit(tensor) {
        return nibbles(tensor, shape, raw);
    }
    let dtype = data_type(tensor.data_type)?;
    match raw {
        Some(bytes) => RawTensor::new(dtype, shape, bytes).map(Constant::Raw),
        None => typed(tensor, dtype, shape).map(Constant::Array),
    }
}

fn external(tensor: &TensorProto, files: &ExternalFiles) -> Result<Bytes, Problem> {
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

/// Two 4-bit integers to a byte, the first in the low half.
fn nibbles(tensor: &TensorProto, shape: Vec<usize>, raw: Option<Bytes>) -> Result<Constant, Problem> {
    let len = element_count(&shape)?;
    let bytes = match raw {
        Some(bytes) => bytes.to_vec(),
        None => narrow(&tensor.int32_data)?,
    };
    if bytes.len() != len.div_ceil(2) {
        problem!("{} bytes are not {len} 4-bit integers", bytes.len());
    }
    let halves = bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]).take(len);
    let array = if tensor.data_type == UINT4 {
        Array::new::<u8>(shape, halves.collect())
    } else {
        // The sign is the fourth bit.
        Array::new::<i8>(shape, halves.map(|half| ((half << 4) as i8) >> 4).collect())
    };
    array.map(Constant::Array)
}
