//! How what was computed is laid out: JSON lines, or a NumPy file (https://numpy.org/neps/nep-0001-npy-format.html).

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};

use crate::jsonl::{self, Computed, Fields};
use crate::output::{Destination, WriteError};

/// Takes what was computed in order, and writes it.
pub(crate) enum Writer {
    JsonLines(BufWriter<Destination>),
    Npy(NpyWriter),
}

impl Writer {
    pub(crate) fn jsonl(destination: Destination) -> Self {
        Writer::JsonLines(BufWriter::with_capacity(1 << 16, destination))
    }

    /// For vectors of `dim` values.
    pub(crate) fn npy(destination: Destination, dim: usize) -> Result<Self, WriteError> {
        Ok(Writer::Npy(NpyWriter::new(destination, dim)?))
    }

    /// Writes a line each, and lets the reader see them now if the format can be read so.
    pub(crate) fn write(
        &mut self,
        lines: impl IntoIterator<Item = (Fields, Computed)>,
    ) -> Result<(), WriteError> {
        let mut lines = lines.into_iter();
        match self {
            Writer::JsonLines(out) => lines
                .try_for_each(|(fields, computed)| jsonl::write(out, &fields, &computed))
                .and_then(|()| out.flush())
                .map_err(|source| out.get_ref().error(source)),
            Writer::Npy(npy) => lines.try_for_each(|(_, computed)| match computed {
                Computed::Dense(embedding) => npy.write(&embedding),
                // Commands refuse this format for them.
                _ => Ok(()),
            }),
        }
    }

    /// Completes the output. What is dropped without it does not become a file.
    pub(crate) fn finish(self) -> Result<(), WriteError> {
        match self {
            // Nothing is left in the buffer: `write` flushes.
            Writer::JsonLines(out) => out.into_parts().0.finish(),
            Writer::Npy(npy) => npy.finish(),
        }
    }
}

/// Length of the header, a multiple of 64 that has room for any number of rows.
const NPY_HEADER_BYTES: usize = 128;

/// The header comes first and states the number of rows, which is known last. So rows go to a file: to the
/// output itself if that is a file nobody sees yet, else to a temporary one that is copied at the end.
pub(crate) struct NpyWriter {
    dim: usize,
    rows: u64,
    body: BufWriter<File>,
    body_name: Option<String>,
    destination: Destination,
}

impl NpyWriter {
    fn new(destination: Destination, dim: usize) -> Result<Self, WriteError> {
        let (file, body_name) = match destination.unseen_file() {
            Some(file) => (file.try_clone().map_err(|source| destination.error(source))?, None),
            None => {
                let name = format!("a temporary file in {}", std::env::temp_dir().display());
                (tempfile::tempfile().map_err(|source| WriteError::new(&name, source))?, Some(name))
            }
        };
        let body = BufWriter::with_capacity(1 << 16, file);
        let mut writer = NpyWriter { dim, rows: 0, body, body_name, destination };
        writer.body.write_all(&npy_header(0, dim)).map_err(|source| writer.body_error(source))?;
        Ok(writer)
    }

    fn write(&mut self, embedding: &[f32]) -> Result<(), WriteError> {
        debug_assert_eq!(embedding.len(), self.dim);
        let bytes: Vec<u8> = embedding.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.body.write_all(&bytes).map_err(|source| self.body_error(source))?;
        self.rows += 1;
        Ok(())
    }

    fn finish(mut self) -> Result<(), WriteError> {
        self.patch_header().map_err(|source| self.body_error(source))?;
        if self.body_name.is_some() {
            let copied = self.body.get_mut().rewind().and_then(|()| {
                io::copy(self.body.get_mut(), &mut self.destination)?;
                Ok(())
            });
            copied.map_err(|source| self.destination.error(source))?;
        }
        self.destination.finish()
    }

    fn patch_header(&mut self) -> io::Result<()> {
        self.body.rewind()?;
        self.body.write_all(&npy_header(self.rows, self.dim))?;
        self.body.flush()
    }

    fn body_error(&self, source: io::Error) -> WriteError {
        match &self.body_name {
            Some(name) => WriteError::new(name, source),
            None => self.destination.error(source),
        }
    }
}

fn npy_header(rows: u64, dim: usize) -> [u8; NPY_HEADER_BYTES] {
    const PREFIX: &[u8; 8] = b"\x93NUMPY\x01\x00";
    let shape = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}");
    let mut header = [b' '; NPY_HEADER_BYTES];
    let rest = (NPY_HEADER_BYTES - PREFIX.len() - 2) as u16;
    header[..8].copy_from_slice(PREFIX);
    header[8..10].copy_from_slice(&rest.to_le_bytes());
    header[10..10 + shape.len()].copy_from_slice(shape.as_bytes());
    header[NPY_HEADER_BYTES - 1] = b'\n';
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_has_room_for_all_numbers() {
        let header = npy_header(u64::MAX, usize::MAX);
        let shape = std::str::from_utf8(&header[10..127]).unwrap();
        assert!(shape.trim_end().ends_with("(18446744073709551615, 18446744073709551615), }"), "{shape}");
        assert_eq!(u16::from_le_bytes([header[8], header[9]]), 118);
        assert_eq!(header[127], b'\n');
    }
}
