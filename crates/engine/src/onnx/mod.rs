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

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use crate::graph::{Array, Graph, Problem};
use crate::runtime::MappedFile;
use crate::{Error, Result};
use proto::{ModelProto, TensorProto};
use tensor::TensorFiles;

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
    let (model, file) = decode::<ModelProto>(path, limits::Message::Model)?;
    reader::model(model, path, file)
}

/// Reads a file that holds one tensor, as ONNX's test data does.
///
/// # Errors
///
/// When the file cannot be read or is no tensor.
pub fn read_tensor(path: &Path) -> Result<(String, Array)> {
    let (tensor, file) = decode::<TensorProto>(path, limits::Message::Tensor)?;
    let constant = tensor::constant(&tensor, &TensorFiles::new(path, file))
        .map_err(|problem| invalid(path, format!("tensor `{}`", tensor.name), problem))?;
    Ok((tensor.name, constant.array()))
}

/// A file's message, and the file, of which the message's bytes are slices; an empty file is not mapped.
fn decode<M: Message + Default>(path: &Path, kind: limits::Message) -> Result<(M, Option<MappedFile>)> {
    let file = map(path)?;
    let bytes = file.as_ref().map_or_else(Bytes::new, MappedFile::bytes);
    limits::check(&bytes, kind).map_err(|problem| invalid(path, "not a valid ONNX file", problem))?;
    let message = M::decode(bytes).map_err(|source| Error::ParseOnnx { path: path.to_owned(), source })?;
    Ok((message, file))
}

fn map(path: &Path) -> Result<Option<MappedFile>> {
    let unreadable = |source| Error::OpenOnnx { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(unreadable)?.len() == 0 {
        return Ok(None);
    }
    MappedFile::open(path).map(Some).map_err(unreadable)
}

fn invalid(path: &Path, place: impl Into<String>, problem: Problem) -> Error {
    Error::InvalidOnnx { path: path.to_owned(), place: place.into(), problem }
}
