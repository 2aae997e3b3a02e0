//! A strict reader of checkpoints: safetensors, and what `torch.save` writes.
//!
//! Files are memory-mapped, so reading a tensor costs one pass over its bytes. Nothing is taken on trust: a
//! tensor has the shape that the caller expects, a floating-point type, and finite elements, or the reader
//! says which file and tensor has not. [`View::finish`] refuses tensors that nobody asked for, because a
//! checkpoint with extra parts computes something else than the architecture that ignores them.
//!
//! Formats: <https://github.com/huggingface/safetensors#format>, and `pytorch`.

mod pickle;
mod pytorch;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use safetensors::{Dtype, SafeTensors};

use crate::runtime::{MappedFile, memory};
use crate::{Error, Precision, Result, ThreadPool};

/// The tensors of a checkpoint, in one file or several.
#[derive(Debug)]
pub struct Weights {
    files: Vec<WeightsFile>,
    tensors: BTreeMap<String, TensorInfo>,
    read: Mutex<BTreeSet<String>>,
    precision: Precision,
    pool: Option<ThreadPool>,
}

#[derive(Debug)]
struct WeightsFile {
    path: PathBuf,
    mapped: MappedFile,
}

#[derive(Debug)]
struct TensorInfo {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl Weights {
    /// Maps the files of one checkpoint and checks their headers.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, is neither a valid safetensors file nor one of PyTorch, or repeats a tensor of another.
    pub fn open<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Self> {
        let mut weights = Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
            read: Mutex::new(BTreeSet::new()),
            precision: Precision::F32,
            pool: None,
        };
        for path in paths {
            weights.map(path.as_ref())?;
        }
        Ok(weights)
    }

    /// Lets [`View::load_each`] use the threads of `pool`.
    #[must_use]
    pub fn with_threads(mut self, pool: &ThreadPool) -> Self {
        self.pool = Some(pool.clone());
        self
    }

    fn map(&mut self, path: &Path) -> Result<()> {
        let open_error = |source| Error::OpenWeights { path: path.to_owned(), source };
        let mapped = MappedFile::open(path).map_err(open_error)?;
        let file = self.files.len();
        for (name, info) in read_header(path, mapped.as_slice(), file)? {
            if let Some(earlier) = self.tensors.get(&name) {
                let other = self.files.get(earlier.file).map_or(path, |file| &file.path).to_owned();
                return Err(Error::DoubledTensor { path: path.to_owned(), other, tensor: name });
            }
            self.tensors.insert(name, info);
        }
        self.files.push(WeightsFile { path: path.to_owned(), mapped });
        Ok(())
    }

    /// Makes the linear layers that are loaded from this checkpoint hold their weights in `precision`.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The whole checkpoint as a view.
    pub fn root(&self) -> View<'_> {
        View { weights: self, prefix: String::new() }
    }

    /// Whether the checkpoint holds a tensor of this full name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape of the tensor of this full name, if the checkpoint holds it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|info| info.shape.as_slice())
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Bytes of all tensors together.
    pub fn size(&self) -> usize {
        self.tensors.values().map(|info| info.bytes.len()).sum()
    }

    /// Names a missing tensor's file in errors; a checkpoint without files has no better place.
    fn first_path(&self) -> PathBuf {
        self.files.first().map(|file| file.path.clone()).unwrap_or_default()
    }

    fn append_f32(&self, values: &mut Vec<f32>, name: &str, shape: &[usize]) -> Result<()> {
        let Some(info) = self.tensors.get(name) else {
            return Err(Error::MissingTensor { path: self.first_path(), tensor: name.into() });
        };
        let file = &self.files[info.file];
        let (path, tensor) = (|| file.path.clone(), || name.to_owned());
        if info.shape != shape {
            let (expected, found) = (shape.to_vec(), info.shape.clone());
            return Err(Error::TensorShape { path: path(), tensor: tensor(), expected, found });
        }
        let bytes = &file.mapped.as_slice()[info.bytes.clone()];
        // The format is little-endian, and offers no alignment.
        let read = match info.dtype {
            Dtype::F32 => widen(values, bytes, f32::from_le_bytes),
            Dtype::F16 => widen(values, bytes, |two| half::f16::from_le_bytes(two).to_f32()),
            Dtype::BF16 => widen(values, bytes, |two| half::bf16::from_le_bytes(two).to_f32()),
            other => {
                return Err(Error::TensorDtype {
                    path: path(),
                    tensor: tensor(),
                    found: format!("{other:?}"),
                });
            }
        };
        read.map_err(|(index, value)| Error::NonFiniteTensor {
            path: path(),
            tensor: tensor(),
            index,
            value,
        })?;
        file.mapped.release(bytes);
        // A panic while the set is locked leaves it whole: insertion is its only use.
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(tensor());
        Ok(())
    }
}

/// The tensors below a prefix, as a layer sees them.
#[derive(Clone, Debug)]
pub struct View<'a> {
    weights: &'a Weights,
    prefix: String,
}

impl<'a> View<'a> {
    /// The view below `name`: `view.pp("encoder").pp("layer.0")`.
    pub fn pp(&self, name: impl std::fmt::Display) -> View<'a> {
        View { weights: self.weights, prefix: format!("{}{name}.", self.prefix) }
    }

    /// Whether the tensor is there.
    pub fn contains(&self, name: &str) -> bool {
        self.weights.contains(&self.full_name(name))
    }

    /// What linear layers are to be held in.
    pub fn precision(&self) -> Precision {
        self.weights.precision
    }

    /// The file that a tensor is in, and its full name: where an error about it points.
    pub(crate) fn place(&self, name: &str) -> (PathBuf, String) {
        let name = self.full_name(name);
        let file = self.weights.tensors.get(&name).map(|info| self.weights.files[info.file].path.clone());
        (file.unwrap_or_else(|| self.weights.first_path()), name)
    }

    /// The tensor's elements as f32, in row-major order.
    ///
    /// # Errors
    ///
    /// When the tensor is missing, has another shape, is not F32, F16 or BF16, or holds NaN or infinity.
    pub fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        self.append_f32(&mut values, name, shape)?;
        Ok(values)
    }

    /// Appends the tensor's elements to `values`, as [`View::read_f32`] returns them.
    ///
    /// # Errors
    ///
    /// Those of [`View::read_f32`]; `values` may then have grown.
    pub fn append_f32(&self, values: &mut Vec<f32>, name: &str, shape: &[usize]) -> Result<()> {
        self.weights.append_f32(values, &self.full_name(name), shape)
    }

    /// Loads parts that the checkpoint numbers, `0.` to `count - 1.` below this view, at the same time on the
    /// threads that [`Weights::with_threads`] named.
    ///
    /// # Errors
    ///
    /// The error of the first part that has one.
    pub fn load_each<T, E>(
        &self,
        count: usize,
        load: impl Fn(View<'a>) -> Result<T, E> + Send + Sync,
    ) -> Result<Vec<T>, E>
    where
        T: Send,
        E: Send,
    {
        let load = |part: usize| load(self.pp(part));
        match &self.weights.pool {
            // A count is a configuration file's word, so it must not size anything before there are tensors.
            Some(pool) if count <= self.weights.tensors.len() => {
                let parts: Vec<usize> = (0..count).collect();
                let Ok(loaded) = pool.try_map(&parts, |&part| Ok::<_, Infallible>(load(part)));
                loaded.into_iter().collect()
            }
            _ => (0..count).map(load).collect(),
        }
    }

    /// Declares this view's reading finished.
    ///
    /// # Errors
    ///
    /// [`Error::UnexpectedTensors`] when a tensor below this view was not read, unless its name continues
    /// with one of `ignored`: parts of the checkpoint that are known not to take part in the computation.
    pub fn finish(&self, ignored: &[&str]) -> Result<()> {
        let read = self.weights.read.lock().unwrap_or_else(PoisonError::into_inner);
        let tensors: Vec<String> = self
            .weights
            .names()
            .filter(|name| !read.contains(*name))
            .filter_map(|name| Some((name, name.strip_prefix(&self.prefix)?)))
            .filter(|(_, rest)| !ignored.iter().any(|ignored| rest.starts_with(ignored)))
            .map(|(name, _)| name.to_owned())
            .collect();
        if tensors.is_empty() {
            return Ok(());
        }
        Err(Error::UnexpectedTensors { path: self.weights.first_path(), tensors })
    }

    fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// The tensors of a file, which is number `file` of the checkpoint.
fn read_header(path: &Path, bytes: &[u8], file: usize) -> Result<Vec<(String, TensorInfo)>> {
    if pytorch::is_pytorch(path, bytes) {
        let parse_error = |problem| Error::ParsePytorch { path: path.to_owned(), problem };
        let tensors = pytorch::read(bytes).map_err(parse_error)?.into_iter();
        let info = |tensor: pytorch::Tensor| {
            let pytorch::Tensor { name, dtype, shape, bytes } = tensor;
            (name, TensorInfo { file, dtype, shape, bytes })
        };
        return Ok(tensors.map(info).collect());
    }
    let parse_error = |source| Error::ParseWeights { path: path.to_owned(), source };
    let parsed = SafeTensors::deserialize(bytes).map_err(parse_error)?;
    let info = |(name, tensor): (String, safetensors::tensor::TensorView<'_>)| {
        let start = tensor.data().as_ptr() as usize - bytes.as_ptr() as usize;
        let bytes = start..start + tensor.data().len();
        (name, TensorInfo { file, dtype: tensor.dtype(), shape: tensor.shape().to_vec(), bytes })
    };
    Ok(parsed.tensors().into_iter().map(info).collect())
}

/// Appends elements of `N` bytes each; one that is not finite is an error with its index.
///
/// Works in blocks that are still in the first-level cache when they are checked. The check has no branch per
/// element, so that the compiler can vectorise it.
fn widen<const N: usize>(
    values: &mut Vec<f32>,
    bytes: &[u8],
    to_f32: impl Fn([u8; N]) -> f32,
) -> Result<(), (usize, f32)> {
    const BLOCK: usize = 1024;
    let (elements, _) = bytes.as_chunks::<N>();
    memory::reserve(values, elements.len());
    let is_bad = |value: &f32| !value.is_finite();
    for (block, elements) in elements.chunks(BLOCK).enumerate() {
        let start = values.len();
        values.extend(elements.iter().map(|&element| to_f32(element)));
        let added = &values[start..];
        if added.iter().fold(false, |bad, value| bad | is_bad(value))
            && let Some(offset) = added.iter().position(is_bad)
        {
            return Err((block * BLOCK + offset, added[offset]));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
