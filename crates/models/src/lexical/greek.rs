//! The Greek words on which `rust-stemmers` panics, and their stems.
//!
//! Snowball's Greek algorithm of 2018 has two faults, found here by fuzzing, of which the first is known
//! upstream: <https://github.com/snowballstem/snowball/issues/204>.
//!
//! - `steps3` takes a suffix off and then, if `ισα` alone is left, replaces it without having marked it. The
//!   mark is still where the suffix was, past the end. So `ισαισα` panics.
//! - `step5c` means "either of three", but as `or` binds, only begins the third there. So after the second has
//!   put `ετ` behind a match, the list of the third is tried too, with a mark that is past the end where
//!   the match had three letters or more. So `αντιθετε`, a common word, panics.
//!
//! Nothing has stems of these words to agree with: fastembed's process dies on them. They get the stems that the
//! algorithm means.
//!
//! Which words these are is found by doing what comes before: suffixes fall, step by step. Where a step would
//! put letters in the place of a suffix there is no way back to the two faults, so only removal is followed.

/// The stem of a word on which `rust-stemmers` panics; `None` for all other words.
pub(super) fn stem_of_broken(word: &str) -> Option<String> {
    // All characters that matter have two bytes.
    if word.is_ascii() {
        return None;
    }
    let folded: String = word.chars().map(fold).collect();
    let mut word = folded.as_str();
    for suffixes in BEFORE_STEPS3 {
        word = without_suffix(word, suffixes).unwrap_or(word);
    }
    if without_suffix(word, STEPS3) == Some(LEFT_BY_STEPS3) {
        return Some("ισ".to_owned());
    }
    for suffixes in STEPS3_TO_STEP5B {
        let Some(rest) = without_suffix(word, suffixes) else { continue };
        if suffixes == STEPS9 && rest.ends_with('ε') {
            // It puts `ιδ` there, and no further step takes that away.
            return None;
        }
        word = rest;
    }
    word = word.strip_suffix("ησετε").unwrap_or(word);
    let word = word.strip_suffix("ετε")?;
    let start = without_suffix(word, STEP5C_ANYWHERE)?;
    let third_applies = STEP5C_WHOLE.contains(&start);
    // With a match of two letters the stale mark is still inside the word.
    let is_long = word.len() - start.len() > "οδ".len();
    (third_applies && is_long).then(|| format!("{word}ετ"))
}

/// The word without the longest of `suffixes` that it ends with.
fn without_suffix<'a>(word: &'a str, suffixes: &[&str]) -> Option<&'a str> {
    suffixes.iter().filter_map(|suffix| word.strip_suffix(suffix)).min_by_key(|rest| rest.len())
}

/// The algorithm's own lower case, which also takes accents away. (It takes `ϊ` and `ΐ` for eta.)
fn fold(c: char) -> char {
    match c {
        'Ά' | 'ά' => 'α',
        'Έ' | 'έ' => 'ε',
        'Ή' | 'ή' | 'ϊ' | 'ΐ' => 'η',
        'Ί' | 'ί' | 'Ϊ' => 'ι',
        'Ό' | 'ό' => 'ο',
        'Ύ' | 'ύ' | 'Ϋ' | 'ϋ' | 'ΰ' => 'υ',
        'Ώ' | 'ώ' => 'ω',
        'ς' => 'σ',
        'Α'..='Ρ' | 'Σ'..='Ω' => char::from_u32(u32::from(c) + 32).unwrap_or(c),
        _ => c,
    }
}

const BEFORE_STEPS3: [&[&str]; 2] = [
    &[
        "ιζα",
        "ιζεσ",
        "ιζε",
        "ιζαμε",
        "ιζατε",
        "ιζαν",
        "ιζανε",
        "ιζω",
        "ιζεισ",
        "ιζει",
        "ιζουμε",
        "ιζετε",
        "ιζουν",
        "ιζουνε",
    ],
    &["ωθηκα", "ωθηκεσ", "ωθηκε", "ωθηκαμε", "ωθηκατε", "ωθηκαν", "ωθηκανε"],
];

const STEPS3: &[&str] = &["ισα", "ισεσ", "ισε", "ισαμε", "ισατε", "ισαν", "ισανε"];

const LEFT_BY_STEPS3: &str = "ισα";

const STEPS9: &[&str] = &["ιδιο", "ιδια", "ιδιων"];

/// Without the steps that put something in where `ετε` is left: step2a, step3, step4 and the end of step5b.
const STEPS3_TO_STEP5B: [&[&str]; 14] = [
    STEPS3,
    &["ισω", "ισεισ", "ισει", "ισουμε", "ισετε", "ισουν", "ισουνε"],
    &["ιστοσ", "ιστου", "ιστο", "ιστε", "ιστοι", "ιστων", "ιστουσ", "ιστη", "ιστησ", "ιστα", "ιστεσ"],
    &["ισμο", "ισμοι", "ισμοσ", "ισμου", "ισμουσ", "ισμων"],
    &["αρακι", "αρακια", "ουδακι", "ουδακια"],
    &["ακι", "ακια", "ιτσα", "ιτσασ", "ιτσεσ", "ιτσων", "αρακι", "αρακια"],
    STEPS9,
    &["ισκοσ", "ισκου", "ισκο", "ισκε"],
    &["εδεσ", "εδων"],
    &["ουδεσ", "ουδων"],
    &["εωσ", "εων"],
    &["αγαμε", "ησαμε", "ουσαμε", "ηκαμε", "ηθηκαμε"],
    &["αμε"],
    &[
        "αγανε",
        "ησανε",
        "ουσανε",
        "ιοντανε",
        "ιοτανε",
        "ιουντανε",
        "οντανε",
        "οτανε",
        "ουντανε",
        "ηκανε",
        "ηθηκανε",
    ],
];

/// What step5c's second alternative finds at the end of a word.
const STEP5C_ANYWHERE: &[&str] = &[
    "οδ",
    "αιρ",
    "φορ",
    "ταθ",
    "διαθ",
    "σχ",
    "ενδ",
    "ευρ",
    "τιθ",
    "υπερθ",
    "ραθ",
    "ενθ",
    "ροθ",
    "σθ",
    "πυρ",
    "αιν",
    "συνδ",
    "συν",
    "συνθ",
    "χωρ",
    "πον",
    "βρ",
    "καθ",
    "ευθ",
    "εκθ",
    "νετ",
    "ρον",
    "αρκ",
    "βαρ",
    "βολ",
    "ωφελ",
];

/// What its third alternative takes if nothing is before it.
const STEP5C_WHOLE: &[&str] = &[
    "αβαρ",
    "βεν",
    "εναρ",
    "αβρ",
    "αδ",
    "αθ",
    "αν",
    "απλ",
    "βαρον",
    "ντρ",
    "σκ",
    "κοπ",
    "μπορ",
    "νιφ",
    "παγ",
    "παρακαλ",
    "σερπ",
    "σκελ",
    "συρφ",
    "τοκ",
    "υ",
    "δ",
    "εμ",
    "θαρρ",
    "θ",
];

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use rust_stemmers::{Algorithm, Stemmer};

    use super::*;

    fn panics(word: &str) -> bool {
        catch_unwind(|| Stemmer::create(Algorithm::Greek).stem(word).into_owned()).is_err()
    }

    /// Whether we call `word` broken, after it was held against the stemmer itself.
    fn is_broken(word: &str) -> bool {
        let broken = stem_of_broken(word).is_some();
        assert_eq!(broken, panics(word), "{word}");
        broken
    }

    #[test]
    fn what_panics_is_known_and_nothing_else() {
        let mut broken = 0;
        let removed: Vec<&str> = [BEFORE_STEPS3.as_slice(), &STEPS3_TO_STEP5B].concat().concat();
        let inserting =
            ["αδεσ", "ια", "ιου", "ικα", "ικων", "ανε", "ησετε", "ετε", "φαγια", "περατα", "σ", "ουνε"];
        let endings: Vec<&str> = removed.iter().chain(&inserting).chain(&[""]).copied().collect();
        for end in &endings {
            for suffix in STEPS3 {
                broken += usize::from(is_broken(&format!("ισα{suffix}{end}")));
                broken += usize::from(is_broken(&format!("μισα{suffix}{end}")));
            }
            for long in STEP5C_ANYWHERE {
                for start in ["υ", "δ", "αν", "παρακαλ", "αβαρ", "ι", "κ", ""] {
                    broken += usize::from(is_broken(&format!("{start}{long}ετε{end}")));
                }
            }
            for second in ["ιζα", "ωθηκε", "ισο", "ισμοσ", "ακι", "εδων", "αμε", "ησανε", "ησετε", "ια"]
            {
                broken += usize::from(is_broken(&format!("ισαισα{end}{second}")));
                broken += usize::from(is_broken(&format!("αντιθετε{end}{second}")));
            }
        }
        assert!(broken > 2000, "{broken}");
    }

    #[test]
    fn all_words_of_the_second_fault() {
        let mut broken = 0;
        for start in STEP5C_WHOLE {
            for long in STEP5C_ANYWHERE {
                broken += usize::from(is_broken(&format!("{start}{long}ετε")));
            }
        }
        assert!(broken > 600, "{broken}");
    }

    #[test]
    fn broken_words_get_the_stem_that_was_meant() {
        for (word, stem) in
            [("ισαισα", "ισ"), ("Ίσαισες", "ισ"), ("αντίθετε", "αντιθετ"), ("αντίθετεισε", "αντιθετ")]
        {
            assert_eq!(stem_of_broken(word).as_deref(), Some(stem), "{word}");
        }
        let stemmer = Stemmer::create(Algorithm::Greek);
        for word in ["αντίθετος", "αντίθετες", "αντίθετα"] {
            assert_eq!(stem_of_broken(word), None, "{word}");
            assert_eq!(stemmer.stem(word), "αντιθετ", "as its kin");
        }
    }

    #[test]
    fn folding_is_the_algorithms() {
        let stemmer = Stemmer::create(Algorithm::Greek);
        // Two characters are too short to be stemmed, but are folded.
        for c in (0x370..0x400).chain(0x1f00..0x2000).filter_map(char::from_u32) {
            assert_eq!(stemmer.stem(&format!("{c}ξ")), format!("{}ξ", fold(c)), "{c}");
        }
    }
}
