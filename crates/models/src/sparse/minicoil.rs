//! miniCOIL: words of a vocabulary get a small vector of their meaning, all others count as in BM25. Here is what
//! comes before and after the encoder and its matrices.
//!
//! Source: fastembed's `sparse/minicoil.py` and `sparse/utils`, with which tests/fixtures/lexical/word_pieces.json
//! compares.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use super::SparseEmbedding;
use crate::json::read_json;
use crate::lexical::{SnowballStemmer, Word, is_punctuation_mark, runs, word_index};
use crate::{Error, Result};

/// Indices of unknown words begin behind a gap of at least this many.
const GAP: u64 = 32_000;

/// Unknown words with more characters in their stem are left out.
const STEM_MAX_LENGTH: usize = 40;

const SPECIAL_TOKENS: [&str; 5] = ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"];

/// The words that have vectors. Ids begin at 1; 0 is for all unknown words.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    words: Vec<String>,
    ids: HashMap<String, u32>,
    /// By stem.
    ids_of_stems: HashMap<String, u32>,
}

#[derive(Deserialize)]
struct VocabularyFile {
    vocab: Vec<String>,
    stem_mapping: HashMap<String, String>,
}

impl Vocabulary {
    /// Reads the model's `.vocab` file: JSON with the list `vocab` and the map `stem_mapping`, from stems to words.
    ///
    /// # Errors
    ///
    /// [`Error::FileMissing`], [`Error::ReadFile`] and [`Error::ParseJson`]; [`Error::UnsupportedConfig`] when a word is
    /// there twice, or a stem's word is not in the list.
    pub fn load(path: &Path) -> Result<Self> {
        let file: VocabularyFile = read_json(path)?;
        let mut seen = HashSet::new();
        if let Some(word) = file.vocab.iter().find(|word| !seen.insert(word.as_str())) {
            let problem = format!("`{word}` is there twice");
            return Err(Error::UnsupportedConfig { path: path.into(), key: "vocab".into(), problem });
        }
        Self::new(file.vocab, &file.stem_mapping).map_err(|problem| Error::UnsupportedConfig {
            path: path.into(),
            key: "stem_mapping".into(),
            problem,
        })
    }

    /// The words, and which of them stands for a stem. An error says which word is missing.
    pub(super) fn new(words: Vec<String>, stem_mapping: &HashMap<String, String>) -> Result<Self, String> {
        let ids: HashMap<String, u32> = words.iter().cloned().zip(1..).collect();
        let id_of = |(stem, word): (&String, &String)| match ids.get(word) {
            Some(&id) => Ok((stem.clone(), id)),
            None => Err(format!("`{word}`, which `{stem}` leads to, is not in `vocab`")),
        };
        let ids_of_stems = stem_mapping.iter().map(id_of).collect::<Result<_, _>>()?;
        Ok(Self { words, ids, ids_of_stems })
    }

    /// Number of ids, that of the unknown included.
    pub fn size(&self) -> usize {
        self.ids.len() + 1
    }

    /// The word of an id; `None` of 0 and of ids that there are not.
    pub fn word(&self, id: u32) -> Option<&str> {
        let index = usize::try_from(id).ok()?.checked_sub(1)?;
        self.words.get(index).map(String::as_str)
    }

    fn id(&self, word: &str, stemmer: &SnowballStemmer) -> u32 {
        let known = self.ids.get(word).or_else(|| self.ids_of_stems.get(word));
        known.or_else(|| self.ids_of_stems.get(&stemmer.stem(word))).copied().unwrap_or(0)
    }
}

/// What [`MiniCoilWords::resolve`] finds in a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedWords {
    /// For each token the id of its word, 0 where that is unknown.
    pub token_word_ids: Vec<u32>,
    /// How often each known word occurs, by id.
    pub counts: BTreeMap<u32, u32>,
    /// Unknown words, stop words and special tokens among them, in the order of first occurrence, and how often
    /// each occurs.
    pub unknown: Vec<(String, u32)>,
}

/// Turns words and the vectors of the known ones into sparse vectors.
#[derive(Debug)]
pub struct MiniCoilWords {
    /// The words that have vectors.
    pub vocabulary: Vocabulary,
    /// Words that are left out, as in the model's stopwords.txt.
    pub stop_words: HashSet<String>,
    /// The stemmer of the model's language.
    pub stemmer: SnowballStemmer,
    /// Components of a word's vector; 4 in fastembed's model.
    pub word_dim: usize,
    /// As in [`Bm25Options`](super::Bm25Options); 1.2 in fastembed.
    pub k: f64,
    /// As in [`Bm25Options`](super::Bm25Options); 0.75 in fastembed.
    pub b: f64,
    /// As in [`Bm25Options`](super::Bm25Options); 150 in fastembed.
    pub avg_len: f64,
}

/// A word on its way into the vector.
struct Entry<'a> {
    word: String,
    count: u32,
    /// The id and the vector of a known word.
    known: Option<(u32, &'a [f32])>,
}

impl MiniCoilWords {
    /// Finds the words of a sequence of `tokens` tokens in the vocabulary: as they are, else by their stem.
    pub fn resolve(&self, words: &[Word], tokens: usize) -> ResolvedWords {
        let mut resolved = ResolvedWords { token_word_ids: vec![0; tokens], ..ResolvedWords::default() };
        let mut places: HashMap<&str, usize> = HashMap::new();
        for word in words {
            let text = word.text.as_str();
            let is_stop_word = self.stop_words.contains(text);
            let id = if is_stop_word { 0 } else { self.vocabulary.id(text, &self.stemmer) };
            for &position in &word.positions {
                if let Some(token_word_id) = resolved.token_word_ids.get_mut(position) {
                    *token_word_id = id;
                }
            }
            if id > 0 {
                *resolved.counts.entry(id).or_insert(0) += 1;
                continue;
            }
            let place = *places.entry(text).or_insert_with(|| {
                resolved.unknown.push((text.to_owned(), 0));
                resolved.unknown.len() - 1
            });
            resolved.unknown[place].1 += 1;
        }
        resolved
    }

    /// The vector of a document. `vectors` are those of the known words by id, `word_dim` components each. Known
    /// words come by ascending id, unknown ones after them in the order of first occurrence; where two unknown words
    /// share an index, it is there twice. A known word without a vector is left out.
    pub fn document(&self, resolved: &ResolvedWords, vectors: &BTreeMap<u32, Vec<f32>>) -> SparseEmbedding {
        let entries = self.entries(resolved, vectors);
        let len: u64 = entries.iter().map(|entry| u64::from(entry.count)).sum();
        let saturation = self.k * (1.0 - self.b + self.b * len as f64 / self.avg_len);
        self.emit(&entries, |count| {
            let count = f64::from(count);
            count * (self.k + 1.0) / (count + saturation)
        })
    }

    /// The vector of a query: as of a document, but however often a word occurs.
    pub fn query(&self, resolved: &ResolvedWords, vectors: &BTreeMap<u32, Vec<f32>>) -> SparseEmbedding {
        self.emit(&self.entries(resolved, vectors), |_| 1.0)
    }

    fn emit(&self, entries: &[Entry<'_>], weight: impl Fn(u32) -> f64) -> SparseEmbedding {
        let mut dimensions = Vec::new();
        for entry in entries {
            let weight = weight(entry.count);
            let Some((id, vector)) = entry.known else {
                dimensions.push((self.unknown_index(&entry.word), weight as f32));
                continue;
            };
            let first = u64::from(id) * self.word_dim as u64;
            let norm = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let norm = if norm < 1e-8 { 1.0 } else { norm };
            for (index, &x) in (first..).zip(vector) {
                // An id counts words of a list in memory, so this fits for any vector that does too.
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                dimensions.push((index, (f64::from(x) / norm * weight) as f32));
            }
        }
        dimensions.into_iter().collect()
    }

    /// The index of a word without a vector: its hash, moved behind those of the vocabulary.
    pub fn unknown_index(&self, word: &str) -> u32 {
        const LARGEST: u64 = i32::MAX as u64;
        let of_vocabulary = (self.vocabulary.size() * self.word_dim) as u64;
        // A vocabulary that leaves no room would take 2^31 / word_dim words.
        let shift = ((of_vocabulary / GAP + 2) * GAP).min(LARGEST - 1);
        let index = shift + u64::from(word_index(word)) % (LARGEST - shift);
        u32::try_from(index).expect("it is less than 2^31 - 1")
    }

    /// The words that are kept. Unknown ones are split and stemmed as BM25 would have done, and what comes out the
    /// same is counted together, with a known word too.
    fn entries<'a>(&self, resolved: &ResolvedWords, vectors: &'a BTreeMap<u32, Vec<f32>>) -> Vec<Entry<'a>> {
        let unknown: HashSet<&str> = resolved.unknown.iter().map(|(word, _)| word.as_str()).collect();
        let mut entries: Vec<Entry<'a>> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for (&id, &count) in &resolved.counts {
            let (Some(word), Some(vector)) = (self.vocabulary.word(id), vectors.get(&id)) else { continue };
            // A stop word of the text that the vocabulary has too takes its place, and is then left out.
            if !unknown.contains(word) {
                places.insert(word.to_owned(), entries.len());
                entries.push(Entry { word: word.to_owned(), count, known: Some((id, vector)) });
            }
        }
        for (word, count) in resolved.unknown.iter().filter(|(word, _)| !self.is_unwanted(word)) {
            for stem in runs(word).map(|run| self.stemmer.stem(run)) {
                if stem.chars().count() > STEM_MAX_LENGTH || self.is_unwanted(&stem) {
                    continue;
                }
                match places.get(&stem) {
                    Some(&place) => entries[place].count = entries[place].count.saturating_add(*count),
                    None => {
                        places.insert(stem.clone(), entries.len());
                        entries.push(Entry { word: stem, count: *count, known: None });
                    }
                }
            }
        }
        entries
    }

    fn is_unwanted(&self, word: &str) -> bool {
        is_punctuation_mark(word) || SPECIAL_TOKENS.contains(&word) || self.stop_words.contains(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stem_that_leads_nowhere_is_an_error() {
        let stems = HashMap::from([("bat".to_owned(), "bats".to_owned())]);
        let problem = Vocabulary::new(vec!["cat".into()], &stems).unwrap_err();
        assert!(problem.contains("`bats`") && problem.contains("`bat`"), "{problem}");
    }

    #[test]
    fn id_0_is_no_word() {
        let vocabulary = Vocabulary::new(vec!["cat".into(), "dog".into()], &HashMap::new()).unwrap();
        assert_eq!((vocabulary.word(0), vocabulary.word(2), vocabulary.word(3)), (None, Some("dog"), None));
        assert_eq!(vocabulary.size(), 3);
    }

    #[test]
    fn a_vocabulary_is_read_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("minicoil.triplet.model.vocab");
        std::fs::write(&path, r#"{"vocab": ["bat", "box"], "stem_mapping": {"bat": "bat"}}"#).unwrap();
        assert_eq!(Vocabulary::load(&path).unwrap().word(2), Some("box"));
        for (file, expected) in [
            (r#"{"vocab": [], "stem_mapping": {"bat": "bat"}}"#, "stem_mapping"),
            (r#"{"vocab": ["bat", "bat"], "stem_mapping": {}}"#, "vocab"),
        ] {
            std::fs::write(&path, file).unwrap();
            let error = Vocabulary::load(&path).unwrap_err();
            assert!(matches!(&error, Error::UnsupportedConfig { key, .. } if key == expected), "{error}");
        }
    }
}
