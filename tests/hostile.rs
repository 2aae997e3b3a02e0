//! ONNX files that nobody should trust: each is an error in words, or runs; none panics, hangs, overflows the stack or
//! takes memory that it did not bring.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "hostile/allocator.rs"]
mod allocator;
#[path = "hostile/expected.rs"]
mod expected;
#[path = "hostile/generated.rs"]
mod generated;
#[path = "hostile/mutated.rs"]
mod mutated;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use allocator::Allocator;
use candlewick_engine::graph::{Array, DataType, Dim, Element, Graph, Problem, Session};
use candlewick_engine::onnx;
use expected::{EXPECTED, Expected};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new();

/// Bytes of one allocation that no file may cause beyond its own.
const MAX_ALLOCATION: usize = 64 << 20;

/// The least stack of any thread that a program might read a model on; the main thread of a Unix program has 8 MiB.
const STACK: usize = 256 << 10;

const TIME: Duration = Duration::from_secs(60);

/// How far a file got.
#[derive(Debug)]
enum Outcome {
    Unread(String),
    Failed(String),
    Ran,
}

/// Runs `task` on a thread with a small stack. A panic there, or too long a time, is one here.
fn on_small_stack<T: Send + 'static>(name: &str, task: impl FnOnce() -> T + Send + 'static) -> T {
    try_on_small_stack(name, task).unwrap_or_else(|problem| panic!("{problem}"))
}

/// Runs `task` on a thread with a small stack. A panic there, or too long a time, is an error.
fn try_on_small_stack<T: Send + 'static>(
    name: &str,
    task: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (sender, receiver) = mpsc::channel();
    let task = move || drop(sender.send(task()));
    thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(task).unwrap();
    receiver.recv_timeout(TIME).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => format!("{name}: hangs"),
        mpsc::RecvTimeoutError::Disconnected => format!("{name}: panics"),
    })
}

/// Reads, prepares and, if told to, runs a file.
fn try_file(path: &Path, is_run: bool) -> Outcome {
    let model = match onnx::read(path) {
        Ok(model) => model,
        Err(error) => return Outcome::Unread(error.to_string()),
    };
    let result = Session::new(model.graph).and_then(|session| {
        let inputs = if is_run { ones(session.graph()) } else { None };
        inputs.map(|inputs| session.run(inputs)).transpose()
    });
    match result {
        Ok(_) => Outcome::Ran,
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// Ones for each input, one of each size that is not known; `None` if an input is of a type that has no one.
fn ones(graph: &Graph) -> Option<Vec<(String, Array)>> {
    let one = |id| {
        let value = graph.value(id);
        let declared = value.declared.as_ref()?;
        let size = |dim: &Dim| match dim.known_size() {
            // Too large a size is met with another.
            Some(size) => size.min(4),
            None => 1,
        };
        let shape: Vec<usize> = declared.shape.as_ref()?.iter().map(size).collect();
        Some((value.name.clone(), full(declared.dtype, shape)?.ok()?))
    };
    graph.inputs.iter().map(|&id| one(id)).collect()
}

fn full(dtype: DataType, shape: Vec<usize>) -> Option<Result<Array, Problem>> {
    fn of<T: Element>(shape: Vec<usize>, one: T) -> Option<Result<Array, Problem>> {
        Some(Array::full(shape, one))
    }
    match dtype {
        DataType::F32 => of(shape, 1f32),
        DataType::F64 => of(shape, 1f64),
        DataType::I8 => of(shape, 1i8),
        DataType::I32 => of(shape, 1i32),
        DataType::I64 => of(shape, 1i64),
        DataType::U8 => of(shape, 1u8),
        DataType::U64 => of(shape, 1u64),
        DataType::Bool => of(shape, true),
        DataType::String => of(shape, "one".to_owned()),
        _ => None,
    }
}

fn files() -> Vec<PathBuf> {
    let folder = xtask::root().join("tests/fixtures/hostile");
    let mut files: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn expected(name: &str) -> Option<Expected> {
    let is_it = |(pattern, _): &&(&str, Expected)| match pattern.ends_with('_') {
        true => name.starts_with(pattern),
        false => name == *pattern,
    };
    EXPECTED.iter().find(is_it).map(|(_, expected)| *expected)
}

/// What is wrong with what came of a file.
fn complaint(path: &Path) -> Option<String> {
    let name = path.file_stem().unwrap().to_str().unwrap();
    let Some(expected) = expected(name) else {
        return Some(format!("{name}: nothing is said about it"));
    };
    let is_run = !matches!(expected, Expected::NotRun);
    let outcome = try_on_small_stack(name, {
        let path = path.to_owned();
        move || try_file(&path, is_run)
    });
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(problem) => return Some(problem),
    };
    let has = |error: &str, words: &[&str]| words.iter().all(|word| error.contains(word));
    let names_file = |error: &str| error.contains(&format!("{name}.onnx"));
    let is_right = match (expected, &outcome) {
        (Expected::Unread(words), Outcome::Unread(error)) => has(error, words) && names_file(error),
        (Expected::Fails(words), Outcome::Unread(error)) => has(error, words) && names_file(error),
        (Expected::Fails(words), Outcome::Failed(error)) => has(error, words),
        (Expected::Runs, Outcome::Ran) => true,
        (Expected::Anything | Expected::NotRun, Outcome::Unread(error)) => names_file(error),
        (Expected::Anything | Expected::NotRun, _) => true,
        _ => false,
    };
    (!is_right).then(|| format!("{name}: expected {expected:?}, got {outcome:?}"))
}

#[test]
fn every_hostile_file_is_an_error_that_says_where() {
    let files = files();
    assert!(files.len() > 100);
    let complaints: Vec<String> = files.iter().filter_map(|path| complaint(path)).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(ALLOCATOR.largest() <= MAX_ALLOCATION, "{}", ALLOCATOR.largest());
}

#[test]
fn everything_that_is_expected_is_there() {
    let names: Vec<String> =
        files().iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    for (pattern, _) in EXPECTED {
        assert!(names.iter().any(|name| name.starts_with(pattern)), "{pattern}");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_is_no_external_data() {
    let folder = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("mkfifo").arg(folder.path().join("nowhere.bin")).status();
    assert!(status.unwrap().success());
    let path = folder.path().join("model.onnx");
    std::fs::copy(xtask::root().join("tests/fixtures/hostile/external_missing.onnx"), &path).unwrap();
    let outcome = on_small_stack("pipe", move || try_file(&path, true));
    assert!(matches!(&outcome, Outcome::Unread(error) if error.contains("is not a file")), "{outcome:?}");
}
