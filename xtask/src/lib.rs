//! The project's own tools, as a library so that tests can call what `cargo xtask` prints.

pub mod check;
pub mod compare;
pub mod conformance;
pub mod corpus;
pub mod fixtures;
pub mod instructions;
pub mod models;
pub mod multi_vector;
pub mod python;
pub mod retrieval;
pub mod roofline;
pub mod verify;
pub mod workload;

use std::path::{Path, PathBuf};

/// The folder that holds the workspace.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask lies in the workspace").to_owned()
}
