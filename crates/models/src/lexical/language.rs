//! The languages that there are stemmers for.

use std::fmt;
use std::str::FromStr;

use rust_stemmers::Algorithm;

use crate::{Error, Result};

/// A language with a Snowball stemmer and, but for Tamil, a list of stop words. They are fastembed's.
///
/// ```
/// use candlewick_models::lexical::Language;
///
/// let language: Language = "german".parse()?;
/// assert_eq!(language, Language::German);
/// let error = "klingon".parse::<Language>().unwrap_err().to_string();
/// assert!(error.contains("`klingon`") && error.contains("arabic, danish, dutch"));
/// # Ok::<(), candlewick_models::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it")]
pub enum Language {
    Arabic,
    Danish,
    Dutch,
    #[default]
    English,
    Finnish,
    French,
    German,
    Greek,
    Hungarian,
    Italian,
    Norwegian,
    Portuguese,
    Romanian,
    Russian,
    Spanish,
    Swedish,
    Tamil,
    Turkish,
}

impl Language {
    /// All of them, in alphabetical order.
    pub const ALL: [Self; 18] = [
        Self::Arabic,
        Self::Danish,
        Self::Dutch,
        Self::English,
        Self::Finnish,
        Self::French,
        Self::German,
        Self::Greek,
        Self::Hungarian,
        Self::Italian,
        Self::Norwegian,
        Self::Portuguese,
        Self::Romanian,
        Self::Russian,
        Self::Spanish,
        Self::Swedish,
        Self::Tamil,
        Self::Turkish,
    ];

    /// Its English name in lower case, which is what it is called in files and on the command line.
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// Its code in ISO 639-1.
    pub(crate) fn code(self) -> &'static str {
        self.facts().1
    }

    pub(crate) fn algorithm(self) -> Algorithm {
        self.facts().2
    }

    fn facts(self) -> (&'static str, &'static str, Algorithm) {
        match self {
            Self::Arabic => ("arabic", "ar", Algorithm::Arabic),
            Self::Danish => ("danish", "da", Algorithm::Danish),
            Self::Dutch => ("dutch", "nl", Algorithm::Dutch),
            Self::English => ("english", "en", Algorithm::English),
            Self::Finnish => ("finnish", "fi", Algorithm::Finnish),
            Self::French => ("french", "fr", Algorithm::French),
            Self::German => ("german", "de", Algorithm::German),
            Self::Greek => ("greek", "el", Algorithm::Greek),
            Self::Hungarian => ("hungarian", "hu", Algorithm::Hungarian),
            Self::Italian => ("italian", "it", Algorithm::Italian),
            Self::Norwegian => ("norwegian", "no", Algorithm::Norwegian),
            Self::Portuguese => ("portuguese", "pt", Algorithm::Portuguese),
            Self::Romanian => ("romanian", "ro", Algorithm::Romanian),
            Self::Russian => ("russian", "ru", Algorithm::Russian),
            Self::Spanish => ("spanish", "es", Algorithm::Spanish),
            Self::Swedish => ("swedish", "sv", Algorithm::Swedish),
            Self::Tamil => ("tamil", "ta", Algorithm::Tamil),
            Self::Turkish => ("turkish", "tr", Algorithm::Turkish),
        }
    }
}

impl FromStr for Language {
    type Err = Error;

    /// By [`name`](Language::name), in any case.
    fn from_str(text: &str) -> Result<Self> {
        let same = |language: &Self| language.name().eq_ignore_ascii_case(text);
        Self::ALL.into_iter().find(same).ok_or_else(|| Error::UnknownLanguage { language: text.into() })
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
