//! `candlewick models`: what is in the registry, as a table for people or as JSON for programs.

use std::io::IsTerminal;

use anyhow::Result;
use candlewick::{Kind, ModelSpec, State};
use serde::Serialize;

use crate::args::{KindArg, ModelsArgs};
use crate::fetch;
use crate::output::to_stdout;

/// The width of a table that is not printed to a terminal.
const DEFAULT_WIDTH: usize = 100;

/// Descriptions get this much even where that is more than the terminal has.
const MIN_DESCRIPTION_WIDTH: usize = 30;

const NOT_YET: &str = "not yet: `candlewick pull` fetches the files, but nothing runs them in this version.";

/// A row as JSON: what models.toml says, and what this version can do with it.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    spec: &'a ModelSpec,
    #[serde(flatten)]
    state: State,
}

pub(crate) fn run(args: &ModelsArgs) -> Result<()> {
    let registry = fetch::registry(args.registry.as_deref())?;
    let wanted = |spec: &&ModelSpec| args.kind.is_none_or(|kind| spec.kind == Kind::from(kind));
    let models: Vec<&ModelSpec> = registry.models().iter().filter(wanted).collect();
    let text = match args.json {
        true => {
            let listed = models.iter().map(|spec| Listed { spec, state: spec.state() });
            serde_json::to_string_pretty(&listed.collect::<Vec<_>>())? + "\n"
        }
        false => table(&models, table_width()),
    };
    to_stdout(|out| out.write_all(text.as_bytes()))?;
    Ok(())
}

impl From<KindArg> for Kind {
    fn from(kind: KindArg) -> Kind {
        match kind {
            KindArg::Dense => Kind::Dense,
            KindArg::Sparse => Kind::Sparse,
            KindArg::LateInteraction => Kind::LateInteraction,
            KindArg::Hybrid => Kind::Hybrid,
            KindArg::Image => Kind::Image,
            KindArg::Multimodal => Kind::Multimodal,
            KindArg::CrossEncoder => Kind::CrossEncoder,
        }
    }
}

fn table_width() -> usize {
    if !std::io::stdout().is_terminal() {
        return DEFAULT_WIDTH;
    }
    terminal_size::terminal_size().map_or(DEFAULT_WIDTH, |(width, _)| usize::from(width.0))
}

/// Two lines or more per model: names alone can take most of a terminal, and must not be cut.
fn table(models: &[&ModelSpec], width: usize) -> String {
    let licence_width = models.iter().map(|spec| spec.licence.len()).chain([7]).max().unwrap_or_default();
    let facts = |dim: &str, tokens: &str, size: &str, licence: &str| {
        format!("  {dim:>5}  {tokens:>6}  {size:>7}  {licence:<licence_width$}  ")
    };
    let head = facts("DIM", "TOKENS", "SIZE", "LICENCE");
    let indent = head.len();
    let mut table = format!("MODEL  KIND\n{head}DESCRIPTION\n");
    let mut all_loadable = true;
    for spec in models {
        let number = |fact: Option<usize>| fact.map_or_else(|| "-".to_owned(), |fact| fact.to_string());
        let facts = facts(&number(spec.dim), &number(spec.max_length), &rounded(spec.size), &spec.licence);
        let is_loadable = spec.state() == State::Loadable;
        all_loadable &= is_loadable;
        let state = if is_loadable { "" } else { ", not yet" };
        let description = wrap(&spec.description, width.saturating_sub(indent).max(MIN_DESCRIPTION_WIDTH));
        let description = description.join(&format!("\n{:indent$}", ""));
        table.push_str(&format!("{}  {}{state}\n{facts}{description}\n", spec.id, spec.kind));
    }
    if !all_loadable {
        table.push_str(&format!("\n{}\n", wrap(NOT_YET, width).join("\n")));
    }
    table
}

/// Sizes are approximate, and shown so.
fn rounded(bytes: u64) -> String {
    match bytes {
        1_000_000_000.. => format!("{:.1} GB", bytes as f64 / 1e9),
        1_000_000.. => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.0} kB", (bytes as f64 / 1e3).ceil()),
    }
}

/// Breaks a text into lines of at most `width` characters, as far as its words allow.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use candlewick::Registry;

    use super::*;

    #[test]
    fn table_fits_and_cuts_nothing() {
        let models: Vec<&ModelSpec> = Registry::built_in().models().iter().collect();
        for width in [80, 100, 200] {
            let table = table(&models, width);
            assert!(table.lines().all(|line| line.chars().count() <= width), "{table}");
            let words: Vec<&str> = table.split_whitespace().collect();
            for spec in &models {
                assert!(words.contains(&spec.id.as_str()), "{}", spec.id);
                assert!(spec.description.split_whitespace().all(|word| words.contains(&word)));
            }
        }
    }

    #[test]
    fn sizes_are_rounded() {
        let sizes = [0, 1, 999_999, 1_500_000, 91_400_000, 1_340_000_000];
        assert_eq!(sizes.map(rounded), ["0 kB", "1 kB", "1000 kB", "2 MB", "91 MB", "1.3 GB"]);
    }

    #[test]
    fn wrapping_breaks_between_words() {
        assert_eq!(wrap("ab cd efg", 5), ["ab cd", "efg"]);
        assert_eq!(wrap("abcdef gh", 3), ["abcdef", "gh"]);
        assert_eq!(wrap("", 3), [""]);
    }
}
