//! expected.toml: the cases that do not pass, with reasons.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Outcome;

/// Cases that do not pass; all others do.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Cases by the operator that the importer does not know, the first of them.
    pub unsupported: BTreeMap<String, BTreeSet<String>>,
    /// Errors, by case.
    pub refused: BTreeMap<String, String>,
    /// Differences, by case.
    pub wrong: BTreeMap<String, String>,
}

impl Expected {
    /// Reads the list.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let unreadable = || format!("could not read {}", path.display());
        let text = std::fs::read_to_string(path).with_context(unreadable)?;
        toml::from_str(&text).with_context(unreadable)
    }

    /// The list of these outcomes.
    pub(super) fn of(outcomes: &BTreeMap<String, Outcome>) -> Self {
        let mut expected = Self::default();
        for (case, outcome) in outcomes {
            match outcome {
                Outcome::Passed => {}
                Outcome::Unsupported(operators) => {
                    let operator = operators.first().cloned().unwrap_or_default();
                    expected.unsupported.entry(operator).or_default().insert(case.clone());
                }
                Outcome::Refused(why) => {
                    expected.refused.insert(case.clone(), why.clone());
                }
                Outcome::Wrong(why) => {
                    expected.wrong.insert(case.clone(), why.clone());
                }
            }
        }
        expected
    }

    /// How outcomes differ from the list, a line each. Reasons may differ.
    pub(super) fn differences(&self, outcomes: &BTreeMap<String, Outcome>) -> Vec<String> {
        let difference = |(case, outcome): (&String, &Outcome)| {
            let (expected, found) = (self.word(case), word(outcome));
            let why = match outcome {
                Outcome::Passed => String::new(),
                Outcome::Unsupported(operators) => format!(": {}", operators.join(", ")),
                Outcome::Refused(why) | Outcome::Wrong(why) => format!(": {why}"),
            };
            (expected != found).then(|| format!("{case}: was {expected}, is {found}{why}"))
        };
        outcomes.iter().filter_map(difference).collect()
    }

    fn word(&self, case: &str) -> &'static str {
        if self.refused.contains_key(case) {
            "refused"
        } else if self.wrong.contains_key(case) {
            "wrong"
        } else if self.unsupported.values().any(|cases| cases.contains(case)) {
            "unsupported"
        } else {
            "passed"
        }
    }

    /// Writes the list.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.text()).with_context(|| format!("could not write {}", path.display()))
    }

    fn text(&self) -> String {
        let mut text = String::from(
            "# ONNX's test cases that do not pass; all others do. Made by `cargo xtask conformance --bless`.\n",
        );
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n# Operators that the importer does not know.\n[unsupported]");
        for (operator, cases) in &self.unsupported {
            let _ = writeln!(text, "{} = [", quoted(operator));
            for case in cases {
                let _ = writeln!(text, "    {},", quoted(case));
            }
            let _ = writeln!(text, "]");
        }
        let tables = [
            ("Uses of known operators that are errors.", "refused", &self.refused),
            ("Other outputs than expected.", "wrong", &self.wrong),
        ];
        for (comment, name, cases) in tables {
            let _ = writeln!(text, "\n# {comment}\n[{name}]");
            for (case, why) in cases {
                let _ = writeln!(text, "{} = {}", quoted(case), quoted(why));
            }
        }
        text
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Unsupported(_) => "unsupported",
        Outcome::Refused(_) => "refused",
        Outcome::Wrong(_) => "wrong",
    }
}

/// A basic string of TOML, whose escapes JSON's are among.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_either_way_is_a_difference() {
        let outcomes = |a: Outcome, b: Outcome| BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        let refused = || Outcome::Refused("a \"reason\"\u{1}".to_owned());
        let before = outcomes(Outcome::Passed, refused());
        let expected = Expected::of(&before);
        assert_eq!(toml::from_str::<Expected>(&expected.text()).unwrap(), expected);
        assert!(expected.differences(&before).is_empty());
        let after = outcomes(Outcome::Wrong("panics".to_owned()), Outcome::Passed);
        assert_eq!(
            expected.differences(&after),
            ["a: was passed, is wrong: panics", "b: was refused, is passed"]
        );
        let unsupported = outcomes(Outcome::Unsupported(vec!["Foo".to_owned()]), refused());
        assert_eq!(expected.differences(&unsupported), ["a: was passed, is unsupported: Foo"]);
        let expected = Expected::of(&unsupported);
        assert_eq!(toml::from_str::<Expected>(&expected.text()).unwrap(), expected);
        assert_eq!(expected.differences(&before), ["a: was unsupported, is passed"]);
    }
}
