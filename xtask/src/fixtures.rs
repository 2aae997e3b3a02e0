//! `cargo xtask fixtures`: checkpoints and reference outputs, made by the original implementations.
//!
//! Fixtures are committed, so that neither tests nor users need Python. This is how they came to be, and how
//! they are made again: the packages are pinned in xtask/fixtures/requirements.lock, the seeds in the scripts.

use std::process::Command;

use anyhow::{Context, Result};
use candlewick::LoadOptions;

use crate::python;

/// What to make.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only these fixtures, by folder name.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Makes the fixtures in tests/fixtures.
///
/// # Errors
///
/// When Python, its packages or the real weights cannot be had, or a script fails.
pub fn main(options: &Options) -> Result<()> {
    let root = crate::root();
    let scripts = root.join("xtask/fixtures");
    if options.names.is_empty() || options.names.iter().any(|name| name == HOSTILE) {
        make_hostile()?;
    }
    if options.names.is_empty() || options.names.iter().any(|name| name == MULTI_VECTOR) {
        make_multi_vector()?;
    }
    let is_other = |name: &&String| *name != HOSTILE && *name != MULTI_VECTOR;
    let names: Vec<&String> = options.names.iter().filter(is_other).collect();
    if names.is_empty() && !options.names.is_empty() {
        return Ok(());
    }
    let python = python::environment("fixtures", &scripts.join("requirements.lock"))?;
    let minilm = candlewick::pull("all-MiniLM-L6-v2", &LoadOptions::new())
        .context("the reference of the real model needs its weights")?;
    let mut command = Command::new(python);
    command.arg(scripts.join("make.py")).arg("--out").arg(root.join("tests/fixtures"));
    command.arg("--minilm").arg(minilm);
    if !names.is_empty() {
        command.arg("--only").args(names);
    }
    python::run(&mut command)
}

/// The folder of ONNX files that nobody should trust.
const HOSTILE: &str = "hostile";

fn make_hostile() -> Result<()> {
    let root = crate::root();
    // They need no more than `onnx`.
    let python = python::environment("conformance", &root.join("xtask/conformance/requirements.lock"))?;
    let mut command = Command::new(python);
    command.arg(root.join("xtask/fixtures/hostile_onnx.py"));
    python::run(command.arg("--out").arg(root.join("tests/fixtures").join(HOSTILE)))
}

/// What NumPy, SciPy, fastembed and PyLate compute from multi-vector embeddings.
const MULTI_VECTOR: &str = "multi_vector";

fn make_multi_vector() -> Result<()> {
    // One method is taken out of it; its dependencies are many, and not needed.
    const PYLATE: &str = "1.6.0";
    let root = crate::root();
    let scripts = root.join("xtask/fixtures");
    let python = python::environment("fixtures", &scripts.join("requirements.lock"))?;
    let folder = root.join("target/python/pylate");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest"]);
    python::run(pip.arg(&folder).arg(format!("pylate=={PYLATE}")))?;
    let mut command = Command::new(python);
    command
        .arg(scripts.join("multi_vector.py"))
        .arg("--out")
        .arg(root.join("tests/fixtures").join(MULTI_VECTOR));
    python::run(command.arg("--pylate").arg(folder.join(format!("pylate-{PYLATE}-py3-none-any.whl"))))
}
