//! What the rivals run in: Python environments, and a program of its own for rten. Each is made when the first
//! contestant needs it; where that fails, the reason becomes that contestant's row.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::{progress, script};
use crate::python;

/// Paths, or why there are none.
#[derive(Debug)]
pub(super) struct Programs {
    given_python: Option<PathBuf>,
    python: OnceCell<Result<PathBuf, String>>,
    candding: OnceCell<Result<PathBuf, String>>,
    rten: OnceCell<Result<PathBuf, String>>,
}

impl Programs {
    pub(super) fn new(given_python: Option<PathBuf>) -> Self {
        let (python, candding, rten) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Self { given_python, python, candding, rten }
    }

    /// A Python with ONNX Runtime, fastembed, sentence-transformers and torch.
    pub(super) fn python(&self) -> Result<PathBuf, String> {
        let make = || match &self.given_python {
            Some(python) => Ok(python.clone()),
            None => {
                progress("looking for the rivals' Python packages; fetching them takes minutes, once")?;
                python::environment("fixtures", &crate::root().join("xtask/fixtures/requirements.lock"))
            }
        };
        once(&self.python, make)
    }

    /// A Python with candding, which the fixtures do not need.
    pub(super) fn candding(&self) -> Result<PathBuf, String> {
        once(&self.candding, || python::environment("candding", &script("candding.lock")))
    }

    /// The worker that runs ONNX files with rten.
    pub(super) fn rten(&self) -> Result<PathBuf, String> {
        let make = || {
            progress("building the worker for rten")?;
            let target = crate::root().join("target/compare/rten");
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--release", "--locked"]);
            cargo.arg("--manifest-path").arg(script("rten/Cargo.toml")).arg("--target-dir").arg(&target);
            python::run_quietly(&mut cargo)?;
            Ok(target.join("release/compare-rten"))
        };
        once(&self.rten, make)
    }
}

fn once(
    cell: &OnceCell<Result<PathBuf, String>>,
    make: impl FnOnce() -> Result<PathBuf>,
) -> Result<PathBuf, String> {
    cell.get_or_init(|| make().map_err(|error| format!("{error:#}"))).clone()
}
