//! The house rules that a compiler does not check: which crate may see which, and what a file opens with.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::path::{Path, PathBuf};

/// Packages that each package may depend on, of those in this workspace.
const MAY_SEE: [(&str, &[&str]); 4] = [
    ("engine", &[]),
    ("models", &["candlewick-engine"]),
    ("candlewick", &["candlewick-engine", "candlewick-models"]),
    ("cli", &["candlewick"]),
];

/// Modules of the engine that must not name another: (module, what it must not import).
const MUST_NOT_IMPORT: [(&str, &[&str]); 9] = [
    ("kernels", &["crate::graph", "crate::nn", "crate::onnx", "crate::weights"]),
    ("nn", &["crate::graph", "crate::onnx"]),
    ("batch", &["crate::nn", "crate::kernels", "candle_core"]),
    ("weights", &["crate::nn", "crate::kernels", "candle_core"]),
    ("graph", &["crate::onnx", "crate::ops", "crate::packing", "crate::passes", "candle_core"]),
    ("ops", &["crate::packing", "crate::passes"]),
    ("onnx", &["crate::packing", "crate::passes"]),
    ("passes", &["crate::onnx", "crate::packing"]),
    ("packing", &["crate::onnx"]),
];

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn dependencies_point_down() {
    for (folder, allowed) in MAY_SEE {
        let manifest = xtask::root().join("crates").join(folder).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).unwrap();
        let dependencies = text.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
        let ours: Vec<&str> = dependencies
            .lines()
            .filter_map(|line| line.split(['.', ' ', '=']).next())
            .filter(|name| name.starts_with("candlewick"))
            .collect();
        assert!(!dependencies.trim().is_empty() && (folder == "engine" || !ours.is_empty()), "{text}");
        for name in ours {
            assert!(allowed.contains(&name), "{folder} must not depend on {name}");
        }
    }
}

#[test]
fn engine_modules_keep_their_direction() {
    let engine = xtask::root().join("crates/engine/src");
    for (module, forbidden) in MUST_NOT_IMPORT {
        let files = rust_files(&engine.join(module));
        assert!(!files.is_empty(), "{module}");
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for import in forbidden {
                assert!(!text.contains(import), "{} imports {import}", file.display());
            }
        }
    }
}

#[test]
fn the_engine_knows_neither_models_nor_the_network() {
    for file in rust_files(&xtask::root().join("crates/engine/src")) {
        let text = fs::read_to_string(&file).unwrap().to_lowercase();
        for word in ["minilm", "bge-", "hf_hub", "std::net", "reqwest", "ureq"] {
            assert!(!text.contains(word), "{} contains {word}", file.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for folder in ["crates", "xtask/src", "tests", "benches", "examples/src", "examples/tests"] {
        for file in rust_files(&xtask::root().join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.starts_with("//! "), "{} has no module docs", file.display());
        }
    }
}

#[test]
fn the_readme_lists_every_model_with_its_facts() {
    let readme = fs::read_to_string(xtask::root().join("README.md")).unwrap();
    let table = xtask::models::table().unwrap();
    let written = xtask::models::with_table(&readme, &table).unwrap();
    assert!(readme == written, "`cargo xtask models` writes the table anew");
    let run = |line: &str| line.rsplit(" | ").next().unwrap_or_default().to_owned();
    let lines: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(lines.len(), candlewick::Registry::built_in().models().len());
    for (spec, line) in candlewick::Registry::built_in().models().iter().zip(lines) {
        assert!(line.starts_with(&format!("| `{}` | {} | ", spec.id, spec.kind)), "{line}");
        let is_loadable = spec.state() == candlewick::State::Loadable;
        assert!(is_loadable || run(line) == "nothing yet |", "what cannot be loaded was not run: {line}");
        let has_real = ["/all-MiniLM-L6-v2", "/cognition-splade"].iter().any(|name| spec.id.ends_with(name));
        assert_eq!(run(line) == "real weights |", has_real, "{line}");
    }
}

#[test]
fn the_readme_begins_with_the_main_job_and_the_tests() {
    let readme = fs::read_to_string(xtask::root().join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let commands: Vec<&str> = blocks.flat_map(str::lines).collect();
    assert!(commands[0].starts_with("cargo run --release -- embed "), "{}", commands[0]);
    assert_eq!(commands[1], "cargo test --workspace");
    let ci = fs::read_to_string(xtask::root().join(".ci/run")).unwrap();
    assert!(ci.contains(commands[1]), "CI runs the README's test command");
}
