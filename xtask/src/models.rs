//! `cargo xtask models`: the README's table of models, written from the registry, the code and the evidence.
//!
//! What a row says of itself comes from models.toml; whether it can be loaded, from the code; what was really run,
//! from the references that `cargo xtask verify` compares with. A test holds the README to it.

mod evidence;

use std::path::PathBuf;

use anyhow::{Context, Result};
use candlewick::{ModelSpec, Registry};

pub use evidence::Evidence;

/// The lines of the README that the table is between.
pub const MARKS: [&str; 2] =
    ["<!-- written by `cargo xtask models`, as is all up to the next mark -->", "<!-- mark -->"];

/// Writes the table into the README.
///
/// # Errors
///
/// When the README has no place for it, or the evidence cannot be read.
pub fn main() -> Result<()> {
    let path = readme();
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let written = with_table(&text, &table()?)?;
    std::fs::write(&path, written).with_context(|| path.display().to_string())
}

/// The README with this table in place of the one that it has.
///
/// # Errors
///
/// When it has no place for it.
pub fn with_table(readme: &str, table: &str) -> Result<String> {
    let [start, end] = MARKS;
    let (before, rest) =
        readme.split_once(start).context("the README lacks the mark of the table's start")?;
    let (_, after) = rest.split_once(end).context("the README lacks the mark of the table's end")?;
    Ok(format!("{before}{start}\n\n{table}\n{end}{after}"))
}

/// All models as Markdown.
///
/// # Errors
///
/// When the evidence cannot be read.
pub fn table() -> Result<String> {
    let run = evidence::Run::read(&crate::root().join("tests/fixtures"))?;
    let mut table = String::from(
        "| id | kind | dim | tokens | pooling | download | licence | really run |\n|---|---|---|---|---|---|---|---|\n",
    );
    for spec in Registry::built_in().models() {
        table.push_str(&line(spec, run.of(spec)));
    }
    Ok(table)
}

fn line(spec: &ModelSpec, evidence: Evidence) -> String {
    let number = |fact: Option<usize>| fact.map_or_else(|| "–".to_owned(), |fact| fact.to_string());
    let pooling = spec.pooling.map(|pooling| pooling.to_string());
    let unit_length = spec.normalize.filter(|normalize| *normalize).map(|_| "unit length".to_owned());
    let pooling: Vec<String> = pooling.into_iter().chain(unit_length).collect();
    format!(
        "| `{}` | {} | {} | {} | {} | {} MB | {} | {evidence} |\n",
        spec.id,
        spec.kind,
        number(spec.dim),
        number(spec.max_length),
        if pooling.is_empty() { "–".to_owned() } else { pooling.join(", ") },
        with_commas((spec.size + 500_000) / 1_000_000),
        spec.licence,
    )
}

fn with_commas(number: u64) -> String {
    match number {
        1_000.. => format!("{},{:03}", with_commas(number / 1_000), number % 1_000),
        _ => number.to_string(),
    }
}

fn readme() -> PathBuf {
    crate::root().join("README.md")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_goes_between_the_marks() {
        let [start, end] = MARKS;
        let readme = format!("a\n{start}\nold\n{end}\nb\n");
        assert_eq!(with_table(&readme, "new\n").unwrap(), format!("a\n{start}\n\nnew\n\n{end}\nb\n"));
        assert!(with_table("a", "new\n").is_err());
    }

    #[test]
    fn thousands_get_commas() {
        assert_eq!(
            [7, 999, 1_000, 1_342, 6_500_001].map(with_commas),
            ["7", "999", "1,000", "1,342", "6,500,001"]
        );
    }
}
