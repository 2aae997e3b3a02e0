//! Stop words: words too frequent to say what a text is about.
//!
//! They are NLTK's lists, by the crate `stop-words`, as in the files of Qdrant/bm25. NLTK has since added
//! English contractions (`he'd`, `we're`), which a text cut at apostrophes never yields.

use super::Language;

/// The stop words of a language, in lower case. Tamil has none: NLTK's list came later than the model's files,
/// and documents in existing indexes were embedded without.
pub fn stop_words(language: Language) -> &'static [&'static str] {
    match language {
        Language::Tamil => &[],
        _ => stop_words::lookup(language.code())
            .expect("the crate has NLTK's languages, with the feature `nltk`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_has_its_list_but_tamil() {
        for language in Language::ALL {
            let words = stop_words(language);
            assert_eq!(words.is_empty(), language == Language::Tamil, "{language}");
            assert!(words.iter().all(|word| **word == word.to_lowercase() && !word.is_empty()), "{language}");
        }
        assert!(stop_words(Language::English).contains(&"the"));
        assert!(stop_words(Language::French).contains(&"je"));
        assert!(stop_words(Language::Norwegian).contains(&"hvordan"));
    }
}
