//! xtask/instructions.toml: the counts that were committed to, and what they were counted with.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

/// The file's opening.
const HEAD: &str = "\
# Instructions of fixed work, counted by callgrind: `cargo xtask instructions` compares with these and fails when
# there are more by over `tolerance`, `cargo xtask instructions --bless` writes them. Valgrind hides AVX-512, so
# they are those of the AVX2 paths. They change with the compiler: bless again when it does.
";

/// What is tolerated unless the file says otherwise.
const TOLERANCE: f64 = 0.03;

/// The file.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    tolerance: f64,
    tools: Tools,
    counts: BTreeMap<String, u64>,
}

/// What counts depend on, beside the code.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Tools {
    pub(super) arch: String,
    pub(super) rustc: String,
    pub(super) valgrind: String,
}

/// The judgement on a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    /// Fewer than committed, by over the tolerance.
    Fewer,
    /// More than committed, by over the tolerance.
    Regression,
    /// None is committed.
    New,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Ok => "ok",
            Verdict::Fewer => "fewer: `--bless`",
            Verdict::Regression => "REGRESSION",
            Verdict::New => "new",
        })
    }
}

impl Record {
    pub(super) fn path() -> PathBuf {
        crate::root().join("xtask/instructions.toml")
    }

    /// An absent file is one without counts.
    pub(super) fn read(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self { tolerance: TOLERANCE, tools: Tools::default(), counts: BTreeMap::new() });
        }
        let text =
            std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("could not parse {}", path.display()))
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.to_toml()).with_context(|| format!("could not write {}", path.display()))
    }

    pub(super) fn tolerance(&self) -> f64 {
        self.tolerance
    }

    pub(super) fn count(&self, work: &str) -> Option<u64> {
        self.counts.get(work).copied()
    }

    pub(super) fn verdict(&self, work: &str, count: u64) -> Verdict {
        let Some(expected) = self.count(work) else {
            return Verdict::New;
        };
        let ratio = count as f64 / expected as f64;
        if ratio > 1.0 + self.tolerance {
            Verdict::Regression
        } else if ratio < 1.0 - self.tolerance {
            Verdict::Fewer
        } else {
            Verdict::Ok
        }
    }

    /// The tools that are not those of the file: "rustc 1.95.0, not 1.94.0".
    pub(super) fn differing_tools(&self, tools: &Tools) -> Vec<String> {
        let pairs = [
            ("arch", &self.tools.arch, &tools.arch),
            ("rustc", &self.tools.rustc, &tools.rustc),
            ("valgrind", &self.tools.valgrind, &tools.valgrind),
        ];
        let differing =
            pairs.iter().filter(|(_, committed, found)| committed != found && !committed.is_empty());
        differing.map(|(name, committed, found)| format!("{name} {committed}, not {found}")).collect()
    }

    pub(super) fn bless(&mut self, tools: Tools, counts: impl Iterator<Item = (String, u64)>) {
        self.tools = tools;
        self.counts.extend(counts);
    }

    /// Drops the counts of all other work.
    pub(super) fn retain(&mut self, work: &[&str]) {
        self.counts.retain(|name, _| work.contains(&name.as_str()));
    }

    fn to_toml(&self) -> String {
        let Tools { arch, rustc, valgrind } = &self.tools;
        let mut text = format!(
            "{HEAD}tolerance = {}\n\n[tools]\narch = \"{arch}\"\nrustc = \"{rustc}\"\nvalgrind = \"{valgrind}\"\n\n[counts]\n",
            self.tolerance
        );
        for (name, count) in &self.counts {
            writeln!(text, "\"{name}\" = {count}").expect("a string takes any text");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let tools = Tools { arch: "x86_64".into(), rustc: "1.95.0".into(), valgrind: "3.19.0".into() };
        let counts = [("linear".to_owned(), 1000), ("attention 1x128".to_owned(), 77)];
        Record { tolerance: 0.03, tools, counts: counts.into() }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(toml::from_str::<Record>(&record().to_toml()).unwrap(), record());
    }

    #[test]
    fn the_committed_file_can_be_read() {
        let record = Record::read(&Record::path()).unwrap();
        assert!(Record::path().is_file() && record.tolerance() < 0.1);
    }

    #[test]
    fn verdicts_follow_the_tolerance() {
        let verdict = |count| record().verdict("linear", count);
        assert_eq!(
            [960, 975, 1000, 1029, 1031].map(verdict),
            [Verdict::Fewer, Verdict::Ok, Verdict::Ok, Verdict::Ok, Verdict::Regression]
        );
        assert_eq!(record().verdict("unheard of", 1), Verdict::New);
    }

    #[test]
    fn other_tools_are_named() {
        let mut tools = record().tools;
        assert!(record().differing_tools(&tools).is_empty());
        tools.rustc = "1.96.0".into();
        assert_eq!(record().differing_tools(&tools), ["rustc 1.95.0, not 1.96.0"]);
    }

    #[test]
    fn blessing_adds_replaces_and_forgets() {
        let mut record = record();
        record.bless(record.tools.clone(), [("linear".to_owned(), 5), ("new".to_owned(), 6)].into_iter());
        record.retain(&["linear", "new"]);
        assert_eq!(record.counts, [("linear".to_owned(), 5), ("new".to_owned(), 6)].into());
    }
}
