//! Words of a text as Python's `re` module and string methods see them.
//!
//! The lexical models split texts with Python's `\w`, which no Rust crate has: it is `str.isalnum()` or `_`,
//! that is the letters and numbers of Unicode's general categories, without combining marks. So the vowel signs
//! of Devanagari or Tamil cut words apart, and so do decomposed accents: documents that are in an index were
//! cut like that, and queries must be cut alike. The `\w` of the crate `regex` takes marks in and leaves `²` out.
//!
//! Categories are those of Unicode 18, by the crate `unicode-properties`; Python's depend on its version. No
//! character that Python 3.11 (Unicode 14) or 3.13 (15.1) knows is on the other side here, as the tests show for the
//! first; what is newer than one's Python is no word character there, and may be one here.

use std::borrow::Cow;

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Whether Python's `\w` matches: a letter or number of any script, or `_`. Combining marks are neither.
pub fn is_word_char(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || c == '_';
    }
    matches!(c.general_category_group(), GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number)
}

/// Whether Unicode calls it punctuation, which are all general categories that begin with P. `$`, `+` and `|`
/// are symbols, and `_` is punctuation.
pub fn is_punctuation(c: char) -> bool {
    c.general_category_group() == GeneralCategoryGroup::Punctuation
}

/// Whether `word` is a single punctuation character.
pub(crate) fn is_punctuation_mark(word: &str) -> bool {
    let mut chars = word.chars();
    chars.next().is_some_and(is_punctuation) && chars.next().is_none()
}

/// Lower case as Python's `str.lower()` has it: by full mappings, so `İ` becomes `i` and a combining dot, and
/// with a final sigma where Greek wants one.
pub fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return Cow::Borrowed(text);
    }
    // The standard library's is the same mapping, and the same rule for the sigma.
    Cow::Owned(text.to_lowercase())
}

/// The words of a text in lower case: runs of [word characters](is_word_char), cut again where lower case
/// brought combining marks in (`İstanbul` is `i` and `stanbul`).
///
/// ```
/// use candlewick_models::lexical::split_words;
///
/// assert_eq!(split_words("It's 5 km², snake_case!"), ["it", "s", "5", "km²", "snake_case"]);
/// assert_eq!(split_words("हिन्दी"), ["ह", "न", "द"], "marks are no word characters");
/// ```
pub fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for run in runs(text) {
        match lower(run) {
            Cow::Borrowed(word) => words.push(word.to_owned()),
            Cow::Owned(lowered) => words.extend(runs(&lowered).map(str::to_owned)),
        }
    }
    words
}

/// The longest stretches of word characters, as they are.
pub(crate) fn runs(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c| !is_word_char(c)).filter(|run| !run.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn characters() -> Value {
        serde_json::from_str(include_str!("../../../../tests/fixtures/lexical/characters.json")).unwrap()
    }

    fn all_chars() -> impl Iterator<Item = char> {
        (0..=u32::from(char::MAX)).filter_map(char::from_u32)
    }

    /// Which code points a list of first and last ones holds.
    fn set(runs: &Value) -> Vec<bool> {
        let mut set = vec![false; 0x11_0000];
        for run in runs.as_array().unwrap() {
            let bound = |index: usize| usize::try_from(run[index].as_u64().unwrap()).unwrap();
            set[bound(0)..=bound(1)].fill(true);
        }
        set
    }

    /// Code points that Python has assigned and puts on the other side.
    fn differences(name: &str, ours: fn(char) -> bool) -> Vec<u32> {
        let characters = characters();
        let (python, assigned) = (set(&characters[name]), set(&characters["assigned"]));
        let differs = |c: &char| {
            let index = u32::from(*c) as usize;
            assigned[index] && ours(*c) != python[index]
        };
        all_chars().filter(differs).map(u32::from).collect()
    }

    #[test]
    fn word_characters_and_punctuation_are_pythons() {
        assert_eq!(differences("word", is_word_char), [0_u32; 0]);
        assert_eq!(differences("punctuation", is_punctuation), [0_u32; 0]);
    }

    #[test]
    fn characters_that_python_does_not_know_yet_are_few_scripts() {
        let characters = characters();
        let assigned = set(&characters["assigned"]);
        let newer = all_chars().filter(|c| !assigned[u32::from(*c) as usize] && is_word_char(*c));
        let newer: Vec<char> = newer.collect();
        assert!(newer.contains(&'\u{323b0}'), "an ideograph of Unicode 17");
        assert!(newer.iter().all(|c| !c.is_ascii()));
    }

    #[test]
    fn lower_case_is_pythons() {
        let characters = characters();
        let assigned = set(&characters["assigned"]);
        let pairs = characters["lower"].as_array().unwrap();
        let of_python: std::collections::HashMap<u32, &str> = pairs
            .iter()
            .map(|pair| (u32::try_from(pair[0].as_u64().unwrap()).unwrap(), pair[1].as_str().unwrap()))
            .collect();
        let mut buffer = [0; 4];
        for c in all_chars().filter(|c| assigned[u32::from(*c) as usize]) {
            let text = &*c.encode_utf8(&mut buffer);
            let expected = of_python.get(&u32::from(c)).copied().unwrap_or(text);
            assert_eq!(lower(text), expected, "{:x}", u32::from(c));
            assert_eq!(lower(expected), expected, "a second time changes nothing");
        }
    }

    #[test]
    fn final_sigmas_are_pythons() {
        let characters = characters();
        let sigmas = characters["sigmas"].as_array().unwrap();
        assert!(sigmas.len() > 100);
        for pair in sigmas {
            assert_eq!(lower(pair[0].as_str().unwrap()), pair[1].as_str().unwrap(), "{pair}");
        }
    }

    #[test]
    fn single_marks() {
        assert!(is_punctuation_mark("_") && is_punctuation_mark("‿") && is_punctuation_mark("。"));
        assert!(!is_punctuation_mark("__") && !is_punctuation_mark("") && !is_punctuation_mark("+"));
    }
}
