//! Virtual environments under target/, for the chores that run Python.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The Python of the environment `name`, with the packages of a requirements file. It is made on first use
/// and again whenever the requirements have changed.
///
/// # Errors
///
/// When Python or a package cannot be had.
pub fn environment(name: &str, requirements: &Path) -> Result<PathBuf> {
    let folder = crate::root().join("target/python").join(name);
    let python = folder.join("bin/python");
    let stamp = folder.join("requirements.installed");
    let wanted =
        std::fs::read(requirements).with_context(|| format!("could not read {}", requirements.display()))?;
    if std::fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
        .arg(requirements))?;
    std::fs::write(&stamp, wanted).with_context(|| format!("could not write {}", stamp.display()))?;
    Ok(python)
}

/// Runs a command to its end.
///
/// # Errors
///
/// When it cannot be started, or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("could not start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}
