//! One test case: its files, how it is run, and how results are compared.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context, Result, bail};
use candlewick_engine::graph::{Array, DataType, Graph, Session};
use candlewick_engine::{Error, Int8Scales, Precision, fuse, onnx};
use serde::Deserialize;

/// A test case, in memory.
#[derive(Debug)]
pub struct Case {
    /// Its name in the package `onnx`.
    pub name: String,
    /// The operator that it is of.
    pub operator: String,
    facts: Facts,
    /// All files of its folder, by name.
    files: BTreeMap<String, Vec<u8>>,
}

/// case.json, which xtask/conformance/cases.py writes, or case.txt, which xtask/fixtures/contrib_cases.py does.
#[derive(Debug, PartialEq, Deserialize)]
struct Facts {
    operator: String,
    rtol: f64,
    atol: f64,
    kinds: Vec<String>,
    /// For each run, the absolute tolerance of each output that has its own.
    #[serde(default)]
    tolerances: Vec<BTreeMap<String, f64>>,
}

impl Facts {
    fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Self> {
        if let Some(json) = files.get("case.json") {
            return serde_json::from_slice(json).context("case.json");
        }
        let lines = files.get("case.txt").context("there is neither a case.json nor a case.txt")?;
        Self::from_lines(std::str::from_utf8(lines).context("case.txt")?).context("case.txt")
    }

    /// The operators, relative and absolute tolerance, and what values are.
    fn from_lines(lines: &str) -> Result<Self> {
        let [operators, tolerances, "tensors"] = lines.lines().collect::<Vec<_>>()[..] else {
            bail!("expected operators, tolerances and `tensors`, a line each");
        };
        let (rtol, atol) = tolerances.split_once(' ').context("expected two tolerances")?;
        let operator = operators.split(' ').collect::<Vec<_>>().join("+");
        Ok(Self {
            operator,
            rtol: rtol.parse()?,
            atol: atol.parse()?,
            kinds: Vec::new(),
            tolerances: Vec::new(),
        })
    }

    /// The absolute tolerance of an output of a run.
    fn atol(&self, run: usize, output: &str) -> f64 {
        let own = self.tolerances.get(run).and_then(|outputs| outputs.get(output));
        own.copied().unwrap_or(self.atol)
    }
}

/// What a graph goes through before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    /// Nothing.
    None,
    /// What every session does: constants are folded and laid out, dead nodes dropped, memory is given on.
    Session,
    /// Fusion too, as encoders get it. Quantisation keeps its scales.
    Fusion,
}

impl Passes {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Session, Self::Fusion];

    fn session(self, mut graph: Graph) -> candlewick_engine::Result<Session> {
        if self == Self::Fusion {
            fuse(&mut graph, Precision::F32, Int8Scales::Exact)?;
        }
        if self == Self::None { Ok(Session::as_written(graph)) } else { Session::new(graph) }
    }
}

/// What comes of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The outputs are those expected.
    Passed,
    /// The importer does not know these operators.
    Unsupported(Vec<String>),
    /// The operators are known, but not this use of them: an error, and why.
    Refused(String),
    /// The outputs are others than expected, or the engine panics.
    Wrong(String),
}

impl Case {
    /// Reads a case's folder.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let unreadable = || format!("could not read {}", folder.display());
        let mut files = BTreeMap::new();
        for entry in folder.read_dir().with_context(unreadable)? {
            let path = entry.with_context(unreadable)?.path();
            let content =
                std::fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
            files.insert(file_name(&path)?, content);
        }
        Self::new(file_name(folder)?, files)
    }

    fn new(name: String, files: BTreeMap<String, Vec<u8>>) -> Result<Self> {
        let facts = Facts::read(&files).with_context(|| name.clone())?;
        if !files.contains_key("model.onnx") {
            bail!("{name} has no model.onnx");
        }
        Ok(Self { name, operator: facts.operator.clone(), facts, files })
    }

    /// Whether it is a case of this operator, perhaps in place of others.
    pub(super) fn is_of(&self, operator: &str) -> bool {
        let whole = self.operator.trim_end_matches(" (expanded)");
        whole.split('+').any(|name| name == operator)
    }

    /// Bytes of all files.
    pub(super) fn size(&self) -> usize {
        self.files.values().map(Vec::len).sum()
    }

    /// The model's bytes.
    pub fn model(&self) -> &[u8] {
        &self.files["model.onnx"]
    }

    /// Runs the case in a folder that does not exist yet.
    ///
    /// # Errors
    ///
    /// When the files cannot be written. A case that fails is an outcome.
    pub fn run(&self, folder: &Path) -> Result<Outcome> {
        self.run_after(Passes::Session, folder)
    }

    /// [`run`](Self::run) of the graph that passes make of the case's.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn run_after(&self, passes: Passes, folder: &Path) -> Result<Outcome> {
        let unwritable = || format!("could not write {}", folder.display());
        std::fs::create_dir(folder).with_context(unwritable)?;
        for (name, content) in &self.files {
            std::fs::write(folder.join(name), content).with_context(unwritable)?;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| self.outcome(passes, folder)));
        std::fs::remove_dir_all(folder).with_context(unwritable)?;
        let outcome = outcome.unwrap_or_else(|_| Err(Outcome::Wrong("panics".to_owned())));
        Ok(outcome.err().unwrap_or(Outcome::Passed))
    }

    fn outcome(&self, passes: Passes, folder: &Path) -> Result<(), Outcome> {
        let refused = |error: Error| Outcome::Refused(reason(&error.to_string(), folder));
        let model = onnx::read(&folder.join("model.onnx")).map_err(|error| match error {
            Error::UnsupportedOperators { operators, .. } => {
                let name = |operator: &String| operator.split(' ').next().unwrap_or_default().to_owned();
                Outcome::Unsupported(operators.iter().map(name).collect())
            }
            error => refused(error),
        })?;
        let session = passes.session(model.graph).map_err(refused)?;
        if let Some(kind) = self.facts.kinds.iter().find(|kind| *kind != "TensorProto") {
            return Err(Outcome::Refused(format!("a value is a {kind}")));
        }
        for run in (0usize..).take_while(|run| self.files.contains_key(&format!("output_{run}_0.pb"))) {
            let values = |side: &str| self.values(folder, &format!("{side}_{run}_")).map_err(refused);
            let outputs = session.run(values("input")?).map_err(refused)?;
            let found: BTreeMap<&str, &Array> = session.output_names().zip(&outputs).collect();
            for (name, expected) in values("output")? {
                let Some(found) = found.get(name.as_str()) else {
                    return Err(Outcome::Wrong(format!("there is no output `{name}`")));
                };
                compare(found, &expected, self.facts.rtol, self.facts.atol(run, &name))
                    .map_err(|difference| Outcome::Wrong(format!("`{name}`: {difference}")))?;
            }
        }
        Ok(())
    }

    fn values(&self, folder: &Path, prefix: &str) -> candlewick_engine::Result<Vec<(String, Array)>> {
        let names = self.files.keys().filter(|name| name.starts_with(prefix));
        names.map(|name| onnx::read_tensor(&folder.join(name))).collect()
    }
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).with_context(|| format!("{} has no name", path.display()))
}

/// An error in one short line, without what differs from run to run.
fn reason(error: &str, folder: &Path) -> String {
    let error = error.replace(&format!("{}/", folder.display()), "");
    let mut pieces = error.split('?');
    let mut line = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        // Dimensions of which nothing is known are numbered through.
        line += "?";
        line += piece.trim_start_matches(|character: char| character.is_ascii_digit());
    }
    let line = line.replace('\n', " ");
    line.chars().take(160).collect()
}

/// Compares by type, shape and elements: integers exactly, floating-point numbers within `atol + rtol * |expected|`,
/// NaN equal to NaN, and infinities only to themselves.
fn compare(found: &Array, expected: &Array, rtol: f64, atol: f64) -> Result<(), String> {
    if found.dtype() != expected.dtype() || found.shape() != expected.shape() {
        return Err(format!(
            "got {}{:?}, expected {}{:?}",
            found.dtype(),
            found.shape(),
            expected.dtype(),
            expected.shape()
        ));
    }
    let (Some(a), Some(b)) = (floats(found), floats(expected)) else {
        return if found == expected { Ok(()) } else { Err(format!("got {found:?}, expected {expected:?}")) };
    };
    for (index, (a, b)) in a.into_iter().zip(b).enumerate() {
        let is_close = a == b
            || (a.is_nan() && b.is_nan())
            || (a.is_finite() && b.is_finite() && (a - b).abs() <= atol + rtol * b.abs());
        if !is_close {
            return Err(format!("element {index} is {a}, expected {b}"));
        }
    }
    Ok(())
}

fn floats(array: &Array) -> Option<Vec<f64>> {
    match array.dtype() {
        DataType::F64 => array.values::<f64>().ok().map(<[f64]>::to_vec),
        _ => Some(array.to_floats().ok()?.iter().map(|&value| value.into()).collect()),
    }
}

/// The name of the archive's one member. One stream for all: the cases resemble each other.
const MEMBER: &str = "cases";

/// The files of cases, one after the other, compressed.
pub(super) fn pack(cases: &[&Case]) -> Result<Vec<u8>> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    // Without a time, so that the same cases are the same bytes.
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated)
        .compression_level(Some(9))
        .last_modified_time(zip::DateTime::default());
    writer.start_file(MEMBER, options)?;
    for case in cases {
        for (name, content) in &case.files {
            writeln!(writer, "{}/{name} {}", case.name, content.len())?;
            writer.write_all(content)?;
        }
    }
    Ok(writer.finish()?.into_inner())
}

/// The cases that [`pack`] packed.
pub(super) fn unpack(archive: &[u8]) -> Result<Vec<Case>> {
    let mut all = Vec::new();
    zip::ZipArchive::new(Cursor::new(archive))?.by_name(MEMBER)?.read_to_end(&mut all)?;
    let mut folders: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    let mut rest = all.as_slice();
    while !rest.is_empty() {
        let entry = entry(rest).context("the archive of cases is damaged")?;
        folders
            .entry(entry.case.to_owned())
            .or_default()
            .insert(entry.file.to_owned(), entry.content.to_vec());
        rest = entry.rest;
    }
    folders.into_iter().map(|(name, files)| Case::new(name, files)).collect()
}

/// A file in the archive, and what follows it.
struct Entry<'a> {
    case: &'a str,
    file: &'a str,
    content: &'a [u8],
    rest: &'a [u8],
}

fn entry(bytes: &[u8]) -> Option<Entry<'_>> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let (path, length) = std::str::from_utf8(&bytes[..end]).ok()?.rsplit_once(' ')?;
    let (case, file) = path.split_once('/')?;
    let (content, rest) = bytes[end + 1..].split_at_checked(length.parse().ok()?)?;
    Some(Entry { case, file, content, rest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_numbers_agree_and_nothing_else_does() {
        let check = |a: &[f32], b: &[f32]| {
            compare(&Array::vector(a.to_vec()), &Array::vector(b.to_vec()), 1e-3, 1e-7).is_ok()
        };
        assert!(check(&[1.0, f32::NAN, f32::INFINITY, -0.0], &[1.0005, f32::NAN, f32::INFINITY, 0.0]));
        assert!(!check(&[1.0], &[1.002]));
        assert!(!check(&[f32::NAN], &[1.0]));
        assert!(!check(&[1.0], &[f32::INFINITY]));
        assert!(!check(&[f32::INFINITY], &[f32::NEG_INFINITY]));
        assert!(!check(&[1.0], &[1.0, 1.0]));
        let (a, b) = (Array::vector(vec![1000i64]), Array::vector(vec![1001i64]));
        assert!(compare(&a, &b, 1e-2, 1.0).is_err(), "integers are exact");
        assert!(compare(&a, &Array::vector(vec![1000i32]), 1e-3, 1e-7).is_err());
    }

    #[test]
    fn cases_survive_packing() {
        let facts = br#"{"operator": "Add+Mul", "rtol": 0.001, "atol": 1e-7, "kinds": []}"#;
        let files = [("case.json", facts.as_slice()), ("model.onnx", b"\x0a 3\n/ 5")];
        let files = files.map(|(name, content)| (name.to_owned(), content.to_vec()));
        let case = Case::new("test_add".to_owned(), files.into()).unwrap();
        assert!(case.is_of("Mul") && !case.is_of("Ad"));
        let archive = pack(&[&case]).unwrap();
        assert_eq!(pack(&[&case]).unwrap(), archive);
        let found = unpack(&archive).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].name, &found[0].files), (&case.name, &case.files));
        assert!(unpack(&[]).is_err());
    }

    #[test]
    fn facts_are_read_from_lines() {
        let facts = Facts::from_lines("com.microsoft.Gelu\n0.0001 2e-05\ntensors\n").unwrap();
        let operator = "com.microsoft.Gelu".to_owned();
        assert_eq!(
            facts,
            Facts { operator, rtol: 1e-4, atol: 2e-5, kinds: Vec::new(), tolerances: Vec::new() }
        );
        for lines in ["", "Gelu\n0.1\ntensors", "Gelu\n0 x\ntensors", "Gelu\n0 0\nsequences", "Gelu\n0 0"] {
            assert!(Facts::from_lines(lines).is_err(), "{lines:?}");
        }
    }

    #[test]
    fn reasons_do_not_change_from_run_to_run() {
        let error = "/tmp/x/model.onnx: node `a` (Add): shapes [[?17], [3]] differ\nsomehow";
        assert_eq!(
            reason(error, Path::new("/tmp/x")),
            "model.onnx: node `a` (Add): shapes [[?], [3]] differ somehow"
        );
    }
}
