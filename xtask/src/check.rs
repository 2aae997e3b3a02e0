//! `cargo xtask check`: what CI runs beside the tests.

use std::process::Command;

use anyhow::{Context, Result, bail};

const COMMANDS: [&[&str]; 3] = [
    &["fmt", "--all", "--check"],
    &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
    &["doc", "--workspace", "--no-deps", "--locked"],
];

/// Runs the checks, and stops at the first that fails.
///
/// # Errors
///
/// When one fails.
pub fn main() -> Result<()> {
    for arguments in COMMANDS {
        let line = format!("cargo {}", arguments.join(" "));
        let status = Command::new(env!("CARGO"))
            .args(arguments)
            .env("RUSTDOCFLAGS", "-D warnings")
            .current_dir(crate::root())
            .status()
            .with_context(|| format!("could not start `{line}`"))?;
        if !status.success() {
            bail!("`{line}` failed");
        }
    }
    Ok(())
}
