//! Runs the command, and reads what it wrote and what it should have written.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use safetensors::SafeTensors;
use serde_json::{Map, Value};

/// A tiny model's folder.
pub(crate) fn fixture(name: &str) -> String {
    format!("{}/../../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The command, cut off from the network and from this machine's caches.
pub(crate) fn candlewick<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candlewick"));
    isolate(&mut command).args(args);
    command
}

pub(crate) fn isolate(command: &mut Command) -> &mut Command {
    for name in ["HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "XDG_CACHE_HOME", "http_proxy"] {
        command.env_remove(name);
    }
    // Port 9 of the loopback interface refuses connections; `false` is a pip that always fails.
    command
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .env("CANDLEWICK_PIP", "false")
        .env("HOME", "/nonexistent")
}

/// `candlewick embed` with a tiny model.
pub(crate) fn embed(model: &str, args: &[&str]) -> Command {
    let mut command = candlewick(["embed", "--model-dir", &fixture(model)]);
    command.args(args);
    command
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

pub(crate) fn run(command: &mut Command) -> Run {
    run_with(command, "")
}

/// Runs a command with `input` on its standard input, which it need not read.
pub(crate) fn run_with(command: &mut Command, input: impl AsRef<[u8]>) -> Run {
    let input = input.as_ref();
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        Run { status: output.status, stdout: output.stdout, stderr }
    })
}

impl Run {
    /// Asserts success and silence, and returns standard output.
    #[track_caller]
    pub(crate) fn ok(self) -> Vec<u8> {
        assert_eq!(self.status.code(), Some(0), "{}", self.stderr);
        assert_eq!(self.stderr, "");
        self.stdout
    }

    /// The embeddings of a run that succeeded.
    #[track_caller]
    pub(crate) fn embeddings(self) -> Vec<Vec<f32>> {
        embeddings(&self.ok())
    }

    /// Asserts that the run failed with this exit code and one error that says all of `expected`.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, expected: &[&str]) -> Run {
        assert_eq!(self.status.code(), Some(code), "{}", self.stderr);
        assert_eq!(self.stderr.matches("error: ").count(), 1, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        for expected in expected {
            assert!(self.stderr.contains(expected), "no `{expected}` in: {}", self.stderr);
        }
        self
    }
}

/// The objects of JSON lines.
#[track_caller]
pub(crate) fn objects(jsonl: &[u8]) -> Vec<Map<String, Value>> {
    let text = std::str::from_utf8(jsonl).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
pub(crate) fn embeddings(jsonl: &[u8]) -> Vec<Vec<f32>> {
    let embedding =
        |mut object: Map<String, Value>| serde_json::from_value(object.remove("embedding").unwrap()).unwrap();
    objects(jsonl).into_iter().map(embedding).collect()
}

/// What a NumPy file holds: the number of columns and the rows.
#[track_caller]
pub(crate) fn npy(bytes: &[u8]) -> (usize, Vec<Vec<f32>>) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!(start % 64, 0);
    let header = std::str::from_utf8(&bytes[10..start]).unwrap();
    let shape = header.strip_prefix("{'descr': '<f4', 'fortran_order': False, 'shape': (").unwrap();
    let (shape, padding) = shape.split_once("), }").unwrap();
    assert!(padding.ends_with('\n') && padding.trim().is_empty());
    let (rows, columns) = shape.split_once(", ").unwrap();
    let (rows, columns): (usize, usize) = (rows.parse().unwrap(), columns.parse().unwrap());
    assert_eq!(bytes.len(), start + rows * columns * 4);
    let values = bytes[start..].chunks(4).map(|value| f32::from_le_bytes(value.try_into().unwrap()));
    let values: Vec<f32> = values.collect();
    (columns, values.chunks(columns).map(<[f32]>::to_vec).collect())
}

/// The texts of a fixture, and the original implementation's embeddings of them.
pub(crate) fn reference(model: &str, tensor: &str) -> (Vec<String>, Vec<Vec<f32>>) {
    let folder = PathBuf::from(fixture(model)).join("reference");
    let texts: Vec<String> =
        serde_json::from_slice(&std::fs::read(folder.join("texts.json")).unwrap()).unwrap();
    let bytes = std::fs::read(folder.join("reference.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor(tensor).unwrap();
    let values: Vec<f32> =
        tensor.data().chunks(4).map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect();
    (texts, values.chunks(tensor.shape()[1]).map(<[f32]>::to_vec).collect())
}

/// JSON lines of an id and a text each.
pub(crate) fn jsonl(texts: &[String]) -> String {
    texts
        .iter()
        .enumerate()
        .map(|(id, text)| serde_json::json!({"id": id, "text": text}).to_string() + "\n")
        .collect()
}

#[track_caller]
pub(crate) fn assert_close(found: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len());
        let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0., f32::max);
        assert!(difference <= tolerance, "row {row} differs by {difference}");
    }
}

pub(crate) fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|value| value * value).sum::<f32>().sqrt()
}

/// The names of what is in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
