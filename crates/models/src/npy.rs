//! Arrays in NumPy's own format.
//!
//! Source: numpy.lib.format. A magic number, the version, the header's length, and a header that is a Python dictionary;
//! then the elements.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::json::file_missing;
use crate::{Error, Result};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Longer headers are not read, as in NumPy itself, which warns of what is above 10,000.
const MAX_HEADER_LENGTH: u32 = 10_000;

/// The type that is read: floats of four bytes, the least significant first.
const F32: &str = "<f4";

/// A file with a three-dimensional array of f32 in row-major order, whose length fits its header.
#[derive(Debug)]
pub(crate) struct NpyFile {
    path: PathBuf,
    shape: [usize; 3],
    /// Where the elements begin.
    start: u64,
}

impl NpyFile {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// [`Error::FileMissing`] and [`Error::ReadFile`]; [`Error::InvalidNpy`] when the header is malformed, says something
    /// else than f32 in three dimensions, or another size than the file has.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if !path.is_file() {
            return Err(file_missing(path));
        }
        let unreadable = |source| Error::ReadFile { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut reader = BufReader::new(file);
        let mut take = |count: usize| {
            let mut bytes = vec![0; count];
            match reader.read_exact(&mut bytes) {
                Ok(()) => Ok(bytes),
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    Err(invalid(path, "it ends within its header"))
                }
                Err(source) => Err(unreadable(source)),
            }
        };
        let preamble = take(8)?;
        if preamble[..6] != *MAGIC {
            return Err(invalid(path, "it does not begin as such files do"));
        }
        let (prefix, header_length) = match preamble[6] {
            1 => {
                let bytes = take(2)?;
                (10, u32::from(u16::from_le_bytes([bytes[0], bytes[1]])))
            }
            2 | 3 => {
                let bytes = take(4)?;
                (12, u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            other => return Err(invalid(path, format!("version {other} of the format is not known"))),
        };
        if header_length > MAX_HEADER_LENGTH {
            return Err(invalid(path, format!("a header of {header_length} bytes")));
        }
        let header = String::from_utf8(take(header_length as usize)?);
        let header = header.map_err(|_| invalid(path, "its header is not UTF-8"))?;
        let shape =
            Header::parse(&header).and_then(Header::shape).map_err(|problem| invalid(path, problem))?;
        let start = prefix + u64::from(header_length);
        let elements = shape.iter().try_fold(4u64, |bytes, size| bytes.checked_mul(*size as u64));
        if elements.and_then(|bytes| bytes.checked_add(start)) != Some(length) {
            let problem = format!("its header says shape {shape:?}, which is not the file's {length} bytes");
            return Err(invalid(path, problem));
        }
        Ok(Self { path: path.to_owned(), shape, start })
    }

    /// The array's shape.
    pub(crate) fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The error for an array that does not fit the rest of the model.
    pub(crate) fn invalid(&self, problem: impl Into<String>) -> Error {
        invalid(&self.path, problem)
    }

    /// The elements, in row-major order.
    ///
    /// # Errors
    ///
    /// [`Error::ReadFile`]; [`Error::InvalidNpy`] when an element is not finite.
    pub(crate) fn read(&self) -> Result<Vec<f32>> {
        let unreadable = |source| Error::ReadFile { path: self.path.clone(), source };
        let mut file = File::open(&self.path).map_err(unreadable)?;
        file.seek(SeekFrom::Start(self.start)).map_err(unreadable)?;
        // As many as the file had bytes for when it was opened.
        let mut values = Vec::with_capacity(self.shape.iter().product());
        let mut row = vec![0; self.shape[1] * self.shape[2] * 4];
        for _ in 0..self.shape[0] {
            file.read_exact(&mut row).map_err(unreadable)?;
            values.extend(row.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(invalid(&self.path, format!("element {index} is {}", values[index]))),
            None => Ok(values),
        }
    }
}

fn invalid(path: &Path, problem: impl Into<String>) -> Error {
    Error::InvalidNpy { path: path.to_owned(), problem: problem.into() }
}

/// What a header's dictionary says.
#[derive(Default)]
struct Header {
    descr: Option<String>,
    fortran_order: Option<bool>,
    shape: Option<Vec<usize>>,
}

impl Header {
    fn parse(text: &str) -> Result<Self, String> {
        let mut header = Self::default();
        let mut literal = Literal(text.trim());
        let is_whole = header.read(&mut literal).is_some() && literal.0.is_empty();
        is_whole.then_some(header).ok_or_else(|| format!("its header is malformed: {}", text.trim()))
    }

    /// Reads all entries; `None` where it is no dictionary of these.
    fn read(&mut self, literal: &mut Literal<'_>) -> Option<()> {
        literal.take("{")?;
        while literal.take("}").is_none() {
            let key = literal.string()?;
            literal.take(":")?;
            let is_new = match key {
                "descr" => self.descr.replace(literal.string()?.to_owned()).is_none(),
                "fortran_order" => self.fortran_order.replace(literal.bool()?).is_none(),
                "shape" => self.shape.replace(literal.tuple()?).is_none(),
                _ => false,
            };
            if !is_new || (literal.take(",").is_none() && !literal.0.starts_with('}')) {
                return None;
            }
        }
        Some(())
    }

    /// The shape of an array that can be read.
    fn shape(self) -> Result<[usize; 3], String> {
        let missing = |key: &str| format!("its header has no `{key}`");
        let descr = self.descr.ok_or_else(|| missing("descr"))?;
        if descr != F32 {
            return Err(format!("elements of type `{descr}`, expected `{F32}`"));
        }
        if self.fortran_order.ok_or_else(|| missing("fortran_order"))? {
            return Err("it is in column-major order".to_owned());
        }
        let shape = self.shape.ok_or_else(|| missing("shape"))?;
        match <[usize; 3]>::try_from(shape) {
            Ok(shape) if !shape.contains(&0) => Ok(shape),
            Ok(shape) => Err(format!("shape {shape:?}, which is empty")),
            Err(shape) => Err(format!("shape {shape:?}, expected three dimensions")),
        }
    }
}

/// What is left of a Python literal; spaces between its parts are passed over.
struct Literal<'a>(&'a str);

impl<'a> Literal<'a> {
    fn take(&mut self, part: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(part)?.trim_start();
        Some(())
    }

    /// A string without escapes.
    fn string(&mut self) -> Option<&'a str> {
        let quote = self.0.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
        let (string, rest) = self.0[1..].split_once(quote)?;
        self.0 = rest.trim_start();
        Some(string)
    }

    fn bool(&mut self) -> Option<bool> {
        let is_true = self.take("True").is_some();
        (is_true || self.take("False").is_some()).then_some(is_true)
    }

    fn tuple(&mut self) -> Option<Vec<usize>> {
        self.take("(")?;
        let mut sizes = Vec::new();
        while self.take(")").is_none() {
            let end = self.0.find(|c: char| !c.is_ascii_digit())?;
            sizes.push(self.0[..end].parse().ok()?);
            self.0 = self.0[end..].trim_start();
            if self.take(",").is_none() && !self.0.starts_with(')') {
                return None;
            }
        }
        Some(sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of one version with this header, and the floats 0, 1, 2...
    fn file(version: u8, header: &str, elements: usize) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend((0..elements).flat_map(|index| (index as f32).to_le_bytes()));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<f32>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("array.npy");
        std::fs::write(&path, bytes).unwrap();
        NpyFile::open(&path)?.read()
    }

    fn problem(bytes: &[u8]) -> String {
        match read(bytes) {
            Err(Error::InvalidNpy { path, problem }) if path.ends_with("array.npy") => problem,
            other => panic!("{other:?}"),
        }
    }

    const GOOD: &str = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 3), }  \n";

    #[test]
    fn all_versions_are_read() {
        for version in 1..=3 {
            assert_eq!(read(&file(version, GOOD, 6)).unwrap(), [0., 1., 2., 3., 4., 5.]);
        }
        let tight = r#"{"shape":(1,2,3),"fortran_order":False,"descr":"<f4"}"#;
        assert_eq!(read(&file(1, tight, 6)).unwrap().len(), 6);
        let folder = tempfile::tempdir().unwrap();
        let missing = NpyFile::open(&folder.path().join("array.npy"));
        assert!(matches!(missing, Err(Error::FileMissing { .. })));
    }

    #[test]
    fn other_arrays_are_refused() {
        let says = |header: &str| problem(&file(1, header, 6));
        assert!(says(&GOOD.replace("<f4", ">f4")).contains("`>f4`"));
        assert!(says(&GOOD.replace("<f4", "<f8")).contains("`<f8`"));
        assert!(says(&GOOD.replace("False", "True")).contains("column-major"));
        assert!(says(&GOOD.replace("(1, 2, 3)", "(6,)")).contains("[6]"));
        assert!(says(&GOOD.replace("(1, 2, 3)", "(1, 2, 0)")).contains("empty"));
        assert!(says(&GOOD.replace("(1, 2, 3)", "(1, 2, 4)")).contains("[1, 2, 4]"));
        let huge = GOOD.replace("(1, 2, 3)", "(4611686018427387904, 2, 3)");
        assert!(says(&huge).contains("bytes"));
        assert!(says("{'descr': '<f4', 'shape': (1, 2, 3)}").contains("`fortran_order`"));
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let whole = file(1, GOOD, 6);
        for length in [0, 5, 7, 9, 30, whole.len() - 1] {
            problem(&whole[..length]);
        }
        problem(&file(1, GOOD, 7));
        assert!(problem(b"not an array").contains("begin"));
        assert!(problem(&file(9, GOOD, 6)).contains("version 9"));
        let mut long = file(2, GOOD, 6);
        long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(problem(&long).contains("4294967295"));
        for header in
            ["", "{", "{'descr'}", "{'descr': '<f4' 'shape': ()}", "{'x': 1}", "{'shape': (1 2)}", "{} {"]
        {
            assert!(problem(&file(1, header, 6)).contains("malformed"), "{header}");
        }
        let twice = GOOD.replace("'shape'", "'descr': '<f4', 'shape'");
        assert!(problem(&file(1, &twice, 6)).contains("malformed"));
        let mut nan = whole;
        let last = nan.len() - 4;
        nan[last..].copy_from_slice(&f32::NAN.to_le_bytes());
        assert_eq!(problem(&nan), "element 5 is NaN");
    }
}
