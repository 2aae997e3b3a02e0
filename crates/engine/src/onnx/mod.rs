//! Reads ONNX files.
//!
//! [`read`] maps a file, decodes its messages and makes a [`Graph`] of it: operators with checked attributes in an
//! order in which they can run, tensors that stay in the mapped file until somebody needs them. What cannot be run is
//! an error here, with every unsupported operator listed at once.
//!
//! Format: <https://onnx.ai/onnx/repo-docs/IR.html>.

mod functions;
mod limits;
mod proto;
mod reader;
mod tensor;

use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;
use prost::Message;

use crate::graph::{Array, Graph, Problem};
use crate::{Error, Result};
use proto::{ModelProto, TensorProto};
use tensor::ExternalFiles;

/// A model in an ONNX file.
#[derive(Clone, Debug)]
pub struct OnnxModel {
    /// The file.
    pub path: PathBuf,
    /// What it computes.
    pub graph: Graph,
    /// The program that wrote it, with its version.
    pub producer: String,
    /// Versions of the operator sets that it uses, by domain; the standard's is the empty one.
    pub opsets: Vec<(String, i64)>,
}

/// Reads a model.
///
/// # Errors
///
/// When the file cannot be read, is no ONNX file, contradicts itself, or has operators that are not supported.
pub fn read(path: &Path) -> Result<OnnxModel> {
    reader::model(decode::<ModelProto>(path, limits::Message::Model)?, path)
}

/// Reads a file that holds one tensor, as ONNX's test data does.
///
/// # Errors
///
/// When the file cannot be read or is no tensor.
pub fn read_tensor(path: &Path) -> Result<(String, Array)> {
    let tensor: TensorProto = decode(path, limits::Message::Tensor)?;
    let constant = tensor::constant(&tensor, &ExternalFiles::beside(path))
        .map_err(|problem| invalid(path, format!("tensor `{}`", tensor.name), problem))?;
    Ok((tensor.name, constant.array()))
}

fn decode<M: Message + Default>(path: &Path, kind: limits::Message) -> Result<M> {
    let bytes = map(path)?;
    limits::check(&bytes, kind).map_err(|problem| invalid(path, "not a valid ONNX file", problem))?;
    M::decode(bytes).map_err(|source| Error::ParseOnnx { path: path.to_owned(), source })
}

fn map(path: &Path) -> Result<Bytes> {
    let unreadable = |source| Error::OpenOnnx { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: as with all weights files, nobody changes the file while it is mapped.
    let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
    Ok(Bytes::from_owner(map))
}

fn invalid(path: &Path, place: impl Into<String>, problem: Problem) -> Error {
    Error::InvalidOnnx { path: path.to_owned(), place: place.into(), problem }
}
