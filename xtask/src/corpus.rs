//! Real text of mixed length that needs no download: the doc comments of crates that we depend on anyway.
//!
//! Cargo.lock pins their versions, so everybody gets the same texts until a version changes; the fingerprint
//! tells whether two measurements used the same. The crates are named one by one, so that a new dependency does
//! not change the corpus. They are ones whose comments are mostly prose. Examples in code are left out, since
//! they are split into far more tokens than prose is. What remains is about log-normal in length: for
//! all-MiniLM-L6-v2 a median of 45 tokens, a mean of 82, and one in a hundred of more than 600.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// Where the texts come from.
pub const CRATES: [&str; 14] = [
    "aho-corasick",
    "bytemuck",
    "byteorder",
    "clap_builder",
    "half",
    "hashbrown",
    "memchr",
    "memmap2",
    "rayon",
    "rayon-core",
    "regex-automata",
    "serde",
    "serde_core",
    "tempfile",
];

/// Shorter ones are remarks like "See above.", or half of a sentence.
const MIN_CHARS: usize = 20;

/// `count` different texts in an order that is random, but always the same.
///
/// # Errors
///
/// When cargo cannot find the crates, or they do not have as many texts.
pub fn texts(count: usize) -> Result<Vec<String>> {
    let mut texts = all()?;
    ensure!(texts.len() >= count, "the corpus has {} texts, not {count}", texts.len());
    texts.truncate(count);
    Ok(texts)
}

/// All different texts in an order that is random, but always the same.
///
/// # Errors
///
/// When cargo cannot find the crates.
pub fn all() -> Result<Vec<String>> {
    let mut all = BTreeSet::new();
    for folder in crate_folders()? {
        for file in rust_files(&folder.join("src"))? {
            let source =
                std::fs::read(&file).with_context(|| format!("could not read {}", file.display()))?;
            all.extend(doc_texts(&String::from_utf8_lossy(&source)));
        }
    }
    let mut texts: Vec<String> = all.into_iter().collect();
    shuffle(&mut texts);
    Ok(texts)
}

/// A number that changes when any text does (FNV-1a).
pub fn fingerprint(texts: &[String]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
}

fn crate_folders() -> Result<Vec<PathBuf>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        // None of the crates is for one platform only; this saves fetching those that are.
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(crate::root())
        .output()
        .context("could not start cargo")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata's output")?;
    let mut folders = Vec::new();
    for name in CRATES {
        let packages = metadata.packages.iter().filter(|package| package.name == name);
        let before = folders.len();
        folders.extend(packages.filter_map(|package| package.manifest_path.parent()).map(Path::to_owned));
        ensure!(
            folders.len() > before,
            "the corpus takes texts from {name}, which is no dependency any more"
        );
    }
    Ok(folders)
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// The doc comments of a source file, without their examples in code.
fn doc_texts(source: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut block: Vec<&str> = Vec::new();
    let mut kind = None;
    // The line at the end closes the last block.
    for line in source.lines().map(str::trim).chain([""]) {
        let doc = doc_line(line);
        let next = doc.map(|(marker, _)| marker);
        if next != kind {
            texts.extend(paragraphs(&block));
            block.clear();
            kind = next;
        }
        block.extend(doc.map(|(_, content)| content));
    }
    texts.retain(|text| text.chars().count() >= MIN_CHARS);
    texts
}

/// What kind of doc comment a line is, and what it says. Four slashes are no doc comment.
fn doc_line(line: &str) -> Option<(&'static str, &str)> {
    let marker = ["///", "//!"].into_iter().find(|marker| line.starts_with(marker))?;
    let content = &line[marker.len()..];
    (!content.starts_with('/')).then_some((marker, content))
}

/// Joins the lines of each paragraph by a space, and paragraphs by a newline. Fenced code is dropped, and so
/// are the targets of links.
fn paragraphs(lines: &[&str]) -> Option<String> {
    let mut text = String::new();
    let mut is_code = false;
    for line in lines.iter().map(|line| line.trim()) {
        if line.starts_with("```") || line.starts_with("~~~") {
            is_code = !is_code;
        } else if line.is_empty() {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
        } else if !is_code && !is_link_target(line) {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push(' ');
            }
            text.push_str(line);
        }
    }
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Such as "[`join`]: crate::join".
fn is_link_target(line: &str) -> bool {
    line.starts_with('[') && line.contains("]: ")
}

/// Fisher and Yates's shuffle with a linear congruential generator (Knuth's MMIX constants).
fn shuffle<T>(items: &mut [T]) {
    let mut state: u64 = 0;
    for end in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The low bits of such a generator repeat soon.
        let random = (state >> 32) as usize;
        items.swap(end, random % (end + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_texts_without_code() {
        let source = "\
//! A crate that does something useful.
//!
//! And a second paragraph
//! in two lines.

/// Another kind of comment begins another text.
///
/// ```
/// let code = is_left_out();
/// ```
///
/// After the [code].
///
/// [code]: crate::code
//! Outer and inner ones are not mixed.
//// Four slashes are an ordinary comment.
fn f() {} /// Behind code nothing is read.
    /// Too short.
struct S;
    /// The last line of a file, indented";
        assert_eq!(
            doc_texts(source),
            [
                "A crate that does something useful.\nAnd a second paragraph in two lines.",
                "Another kind of comment begins another text.\nAfter the [code].",
                "Outer and inner ones are not mixed.",
                "The last line of a file, indented",
            ]
        );
    }

    #[test]
    fn shuffling_keeps_every_item_and_is_repeatable() {
        let mut items: Vec<usize> = (0..100).collect();
        shuffle(&mut items);
        let mut again: Vec<usize> = (0..100).collect();
        shuffle(&mut again);
        assert_eq!(items, again);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_corpus_is_there_and_varied() {
        let texts = texts(1000).unwrap();
        assert_eq!(texts.len(), 1000);
        assert_eq!(texts.iter().collect::<BTreeSet<_>>().len(), 1000);
        let mut chars: Vec<usize> = texts.iter().map(|text| text.chars().count()).collect();
        chars.sort_unstable();
        assert!(chars[0] >= MIN_CHARS);
        assert!(chars[500] < 400 && chars[990] > 1000, "median {}, p99 {}", chars[500], chars[990]);
    }
}
