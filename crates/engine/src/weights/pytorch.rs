//! What `torch.save` writes of a dictionary of tensors, as pytorch_model.bin and the `.pt` of single layers are: a zip
//! archive, in which `data.pkl` has names and shapes, and a file below `data/` each storage.
//!
//! Nothing is executed, and nothing is copied: entries are stored as they are, so tensors are ranges of the mapped file.
//! Files from before PyTorch 1.6 are no archives and are refused.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

use safetensors::Dtype;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, TensorRecord};

type Result<T, E = String> = std::result::Result<T, E>;

/// Where a tensor is in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Range<usize>,
}

/// Whether a file is, or should be, one of PyTorch. No safetensors file begins as an archive does: its header would be
/// longer than is allowed.
pub(super) fn is_pytorch(path: &Path, bytes: &[u8]) -> bool {
    let extension = path.extension().unwrap_or_default();
    bytes.starts_with(b"PK\x03\x04") || ["pt", "pth", "bin"].iter().any(|known| extension == *known)
}

/// The tensors of a file.
///
/// # Errors
///
/// When it is no archive, or holds anything but a dictionary of tensors with their elements in row-major order; in words
/// that name the tensor.
pub(super) fn read(file: &[u8]) -> Result<Vec<Tensor>> {
    let archive = Archive::open(file)?;
    if archive.get("byteorder").is_some_and(|bytes| &file[bytes] != b"little") {
        return Err("its numbers are not little-endian".into());
    }
    let pickle = archive.get("data.pkl").ok_or("it has no data.pkl")?;
    let records = pickle::read(&file[pickle]).map_err(|problem| format!("data.pkl: {problem}"))?;
    let locate = |(name, record): (String, TensorRecord)| match archive.locate(&record) {
        Ok(bytes) => Ok(Tensor { name, dtype: record.storage.dtype, shape: record.shape, bytes }),
        Err(problem) => Err(format!("tensor `{name}`: {problem}")),
    };
    records.into_iter().map(locate).collect()
}

/// The entries of an archive, all below one folder.
struct Archive {
    folder: String,
    entries: HashMap<String, Range<usize>>,
}

impl Archive {
    fn open(file: &[u8]) -> Result<Self> {
        let invalid = |error: zip::result::ZipError| format!("no zip archive: {error}");
        let mut zip = ZipArchive::new(Cursor::new(file)).map_err(invalid)?;
        if zip.has_duplicate_names() {
            return Err("two entries have the same name".into());
        }
        let mut entries = HashMap::new();
        for index in 0..zip.len() {
            let entry = zip.by_index_raw(index).map_err(invalid)?;
            let name = entry.name().map_err(invalid)?.into_owned();
            if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
                return Err(format!("`{name}` is compressed or encrypted, which torch.save does not"));
            }
            let start = entry.data_start().and_then(|start| usize::try_from(start).ok());
            let range =
                start.and_then(|start| Some(start..start.checked_add(usize::try_from(entry.size()).ok()?)?));
            let range = range.filter(|range| range.end <= file.len());
            let range = range.ok_or_else(|| format!("`{name}` is cut off"))?;
            entries.insert(name, range);
        }
        let mut folders = entries.keys().filter_map(|name| name.strip_suffix("data.pkl"));
        let folder = folders.next().ok_or("it has no data.pkl")?.to_owned();
        match folders.next() {
            None => Ok(Self { folder, entries }),
            Some(_) => Err("it has more than one data.pkl".into()),
        }
    }

    fn get(&self, name: &str) -> Option<Range<usize>> {
        self.entries.get(&format!("{}{name}", self.folder)).cloned()
    }

    /// The bytes of a tensor.
    fn locate(&self, record: &TensorRecord) -> Result<Range<usize>> {
        let TensorRecord { storage, offset, shape, strides } = record;
        let size = storage.dtype.bitsize() / 8;
        let entry = self.get(&format!("data/{}", storage.key));
        let entry = entry.ok_or_else(|| format!("there is no `data/{}`", storage.key))?;
        if storage.len.checked_mul(size) != Some(entry.len()) {
            let problem = format!("{} elements are not {} bytes", storage.len, entry.len());
            return Err(format!("`data/{}`: {problem}", storage.key));
        }
        let len = shape.iter().try_fold(1usize, |len, size| len.checked_mul(*size));
        let end = len.and_then(|len| offset.checked_add(len)).filter(|end| *end <= storage.len);
        let end = end.ok_or_else(|| {
            format!("shape {shape:?} from element {offset} on is beyond the storage's {}", storage.len)
        })?;
        if !is_row_major(shape, strides) {
            return Err(format!("strides {strides:?} of shape {shape:?} are not row-major"));
        }
        Ok(entry.start + offset * size..entry.start + end * size)
    }
}

/// Whether the elements of a tensor, which are in memory, follow each other.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    let mut places = shape.iter().zip(strides).rev();
    shape.len() == strides.len()
        && places.all(|(size, stride)| {
            let fits = *size == 1 || *stride == expected;
            // Of a tensor without elements the sizes may be anything.
            expected = usize::saturating_mul(expected, (*size).max(1));
            fits
        })
}

#[cfg(test)]
mod tests;
