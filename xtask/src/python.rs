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

/// Runs a command to its end, and keeps what it says to itself unless it fails.
///
/// # Errors
///
/// When it cannot be started, or fails: then with the last thing it said.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("could not start {command:?}"))?;
    if !output.status.success() {
        let program = command.get_program().display();
        bail!("{program} failed: {}: {}", output.status, last_words(&output.stderr));
    }
    Ok(())
}

/// The last line of a log that is not blank.
pub fn last_words(log: &[u8]) -> String {
    let log = String::from_utf8_lossy(log);
    let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    last.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_a_reason() {
        let shell = |script: &str| run_quietly(Command::new("sh").args(["-c", script]));
        assert!(shell("echo noise; echo noise >&2").is_ok());
        let error = shell("echo first >&2; echo 'the reason' >&2; echo >&2; exit 3").unwrap_err().to_string();
        assert!(error.contains('3') && error.ends_with("the reason"), "{error}");
        assert_eq!(last_words(b""), "it said nothing");
    }
}
