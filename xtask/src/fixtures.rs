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
    let names: Vec<&String> = options.names.iter().filter(|name| *name != HOSTILE).collect();
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
