//! Reading JSON files, with errors that name the file.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Reads a JSON file that must be there.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    read_json_if_there(path)?.ok_or_else(|| file_missing(path))
}

/// The error for a file that must be there and is not.
pub(crate) fn file_missing(path: &Path) -> Error {
    Error::FileMissing {
        folder: path.parent().unwrap_or(path).to_owned(),
        file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    }
}

/// Reads a JSON file; `None` when there is no such file. Any other trouble is an error: a file that cannot be
/// read must not pass for one that is absent.
pub(crate) fn read_json_if_there<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::ReadFile { path: path.to_owned(), source }),
    };
    let value = serde_json::from_slice(&bytes)
        .map_err(|source| Error::ParseJson { path: path.to_owned(), source })?;
    Ok(Some(value))
}
