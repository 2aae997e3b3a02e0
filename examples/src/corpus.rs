//! Real text that every Rust programmer has: the README files of the crates that cargo downloaded. Or the Markdown and
//! text files of a folder.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// What to search.
#[derive(Clone, Debug, clap::Args)]
pub struct CorpusArgs {
    /// A folder of Markdown and text files. Default: the README files of the crates that cargo downloaded.
    #[arg(long, value_name = "DIR")]
    pub corpus: Option<PathBuf>,
    /// Read this many passages at most.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub passages: usize,
}

/// A part of a file that is read as one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// The file's folder and name, and the heading.
    pub source: String,
    /// Prose, with the heading before it.
    pub text: String,
}

/// A shorter text says too little to be found by.
const MIN_CHARS: usize = 60;

/// A longer one is cut at the next paragraph, because models read a few hundred tokens only.
const MAX_CHARS: usize = 1200;

/// Reads the passages, by path. No text comes twice.
///
/// # Errors
///
/// When the folder cannot be read, or nothing in it is long enough.
pub fn read(args: &CorpusArgs) -> Result<Vec<Passage>> {
    let (folder, is_wanted): (PathBuf, fn(&str) -> bool) = match &args.corpus {
        Some(folder) => (folder.clone(), |name| name.ends_with(".md") || name.ends_with(".txt")),
        None => (registry()?, |name| name == "readme.md"),
    };
    let mut files = Vec::new();
    walk(&folder, is_wanted, &mut files)?;
    let (mut passages, mut seen) = (Vec::new(), HashSet::new());
    for file in files {
        let text = std::fs::read(&file).with_context(|| format!("could not read {}", file.display()))?;
        let name = file.strip_prefix(&folder).unwrap_or(&file).components().rev().take(2);
        let name: Vec<_> = name.map(|part| part.as_os_str().to_string_lossy()).collect();
        let name = name.into_iter().rev().collect::<Vec<_>>().join("/");
        for passage in split(&name, &String::from_utf8_lossy(&text)) {
            if passages.len() < args.passages && seen.insert(passage.text.clone()) {
                passages.push(passage);
            }
        }
    }
    ensure!(!passages.is_empty(), "{} has no text of at least {MIN_CHARS} characters", folder.display());
    Ok(passages)
}

/// Where cargo unpacks what it downloads.
fn registry() -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    Ok(home.context("there is neither CARGO_HOME nor a home folder; name a --corpus")?.join("registry/src"))
}

/// Files below a folder whose lower-case names are wanted, sorted.
fn walk(folder: &Path, is_wanted: fn(&str) -> bool, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        // Links are not followed: they may lead in circles.
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), is_wanted, files)?;
        } else if kind.is_file() && is_wanted(&entry.file_name().to_string_lossy().to_lowercase()) {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The prose of a Markdown file in parts, each below its heading; code, badges and HTML are left out.
fn split(file: &str, text: &str) -> Vec<Passage> {
    let (mut passages, mut heading, mut body, mut in_code) =
        (Vec::new(), String::new(), String::new(), false);
    let mut flush = |heading: &str, body: &mut String| {
        if body.trim().len() >= MIN_CHARS {
            let source = if heading.is_empty() { file.to_owned() } else { format!("{file}, {heading}") };
            passages.push(Passage { source, text: format!("{heading}\n{}", body.trim()).trim().to_owned() });
        }
        body.clear();
    };
    for line in text.lines() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("```") || trimmed.starts_with("~~~") {
            in_code = !in_code;
        } else if in_code || trimmed.starts_with("[![") || trimmed.starts_with('<') {
            continue;
        } else if trimmed.starts_with('#') {
            flush(&heading, &mut body);
            heading = trimmed.trim_matches(['#', ' ']).to_owned();
        } else {
            if trimmed.is_empty() && body.len() > MAX_CHARS {
                flush(&heading, &mut body);
            }
            body.push_str(trimmed);
            body.push('\n');
        }
    }
    flush(&heading, &mut body);
    passages
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]
mod tests {
    use super::*;

    #[test]
    fn markdown_is_split_at_headings_and_long_sections_at_paragraphs() {
        let prose = "A candle burns while the wax melts, and the wick draws it up to the flame.";
        let text = format!("[![badge](x)]\n\n# Wax\n{prose}\n```\ncode\n```\n## Short\ntoo short\n# Long\n");
        let long = format!("{text}{}", format!("{prose}\n\n").repeat(40));
        let passages = split("candle/README.md", &long);
        assert_eq!(passages[0].source, "candle/README.md, Wax");
        assert_eq!(passages[0].text, format!("Wax\n{prose}"));
        assert!(passages.len() > 2 && passages[1..].iter().all(|passage| passage.source.ends_with(", Long")));
        assert!(passages.iter().all(|passage| passage.text.len() < MAX_CHARS + 2 * prose.len()));
    }

    #[test]
    fn a_folder_is_read_in_order_and_without_repetitions() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let prose = |word: &str| {
            format!("This is a paragraph about {word}, which is long enough to be worth a search.")
        };
        write("b.md", &prose("wax"));
        write("a.TXT", &prose("wicks"));
        write("c.md", &prose("wax"));
        write("d.rs", &prose("code"));
        let args = CorpusArgs { corpus: Some(folder.path().to_owned()), passages: 10 };
        let sources: Vec<String> = read(&args).unwrap().into_iter().map(|passage| passage.source).collect();
        assert_eq!(sources, ["a.TXT", "b.md"]);
        assert_eq!(read(&CorpusArgs { passages: 1, ..args }).unwrap().len(), 1);

        let empty = tempfile::tempdir().unwrap();
        let error = read(&CorpusArgs { corpus: Some(empty.path().to_owned()), passages: 1 }).unwrap_err();
        assert!(error.to_string().contains(&empty.path().display().to_string()), "{error}");
    }
}
