//! Snowball stemmers: `running` and `runs` become `run`.
//!
//! The algorithms are those of the crate `rust-stemmers`, because fastembed's are: its version of Snowball is
//! from 2018, later ones give other stems and would miss what is in an index.

use super::{Language, greek};

/// The Snowball stemmer of a language.
///
/// ```
/// use candlewick_models::lexical::{Language, SnowballStemmer};
///
/// let stemmer = SnowballStemmer::new(Language::English);
/// assert_eq!(stemmer.stem("generously"), "generous");
/// ```
pub struct SnowballStemmer {
    language: Language,
    stemmer: rust_stemmers::Stemmer,
}

impl SnowballStemmer {
    /// The stemmer of `language`.
    pub fn new(language: Language) -> Self {
        Self { language, stemmer: rust_stemmers::Stemmer::create(language.algorithm()) }
    }

    /// The stem of a word, which should be in lower case. It may be empty.
    ///
    /// Time grows with the square of the word's length in Greek and some other languages: a word of a thousand
    /// characters is fine, a megabyte is not.
    pub fn stem(&self, word: &str) -> String {
        if self.language == Language::Greek
            && let Some(stem) = greek::stem_of_broken(word)
        {
            return stem;
        }
        self.stemmer.stem(word).into_owned()
    }
}

impl std::fmt::Debug for SnowballStemmer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SnowballStemmer").field(&self.language).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexical::stop_words;

    /// Numbers that are the same in every run (xorshift).
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % bound as u64).unwrap()
        }
    }

    /// Pieces of words that look like the language: its stop words, which are full of its endings, and letters.
    fn pieces(language: Language) -> Vec<String> {
        let mut pieces: Vec<String> = stop_words(language).iter().map(|word| (*word).to_owned()).collect();
        if language == Language::Tamil {
            pieces.extend((0xb80..0xc00).filter_map(char::from_u32).map(String::from));
        }
        let letters: Vec<String> = pieces.iter().flat_map(|piece| piece.chars()).map(String::from).collect();
        pieces.extend(letters);
        pieces
    }

    #[test]
    fn no_word_panics() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for language in Language::ALL {
            let stemmer = SnowballStemmer::new(language);
            let pieces = pieces(language);
            for round in 0..20_000 {
                let mut word = String::new();
                for _ in 0..=random.below(if round % 100 == 0 { 200 } else { 6 }) {
                    match random.below(12) {
                        0 => word.extend(char::from_u32(random.below(0x11_0000) as u32)),
                        1 => word.extend(char::from_u32(random.below(0x3000) as u32)),
                        _ => word.push_str(&pieces[random.below(pieces.len())]),
                    }
                }
                stemmer.stem(&word);
            }
            assert_eq!(stemmer.stem(""), "");
        }
    }

    #[test]
    fn words_that_the_crate_panics_on_have_stems() {
        let stemmer = SnowballStemmer::new(Language::Greek);
        assert_eq!(stemmer.stem("αντιθετε"), "αντιθετ");
        assert_eq!(stemmer.stem("ισαισα"), "ισ");
    }
}
