//! BM42: words weighted by the attention that a small encoder pays them. Here is what follows the encoder.
//!
//! Source: fastembed's `sparse/bm42.py`, with which tests/fixtures/lexical/word_pieces.json compares.

use std::collections::{HashMap, HashSet};

use super::SparseEmbedding;
use super::embedding::overwriting;
use crate::lexical::{SnowballStemmer, Word, word_index};

/// Turns words and the attention that their tokens got into sparse vectors.
#[derive(Debug)]
pub struct Bm42Words {
    /// Words that are left out, as in the model's stopwords.txt.
    pub stop_words: HashSet<String>,
    /// The stemmer of the model's language.
    pub stemmer: SnowballStemmer,
    /// What weights are raised to, after the logarithm; 0.5 in fastembed.
    pub alpha: f64,
}

impl Bm42Words {
    /// The vector of a document: `ln(1 + w)^alpha` for each stem, `w` being the attention that the tokens of the word
    /// got together, and the largest of these where several words have one stem. In the order of first
    /// occurrence.
    ///
    /// `attention` has a weight for each token of the sequence: the mean over heads of the first token's row. A
    /// position that it has not counts as 0.
    pub fn document(&self, words: &[Word], attention: &[f32]) -> SparseEmbedding {
        let mut positions: HashMap<String, usize> = HashMap::new();
        let mut weights: Vec<(u32, f64)> = Vec::new();
        for (stem, word) in self.stems(words) {
            let of_token = |position: &usize| attention.get(*position).copied().map_or(0.0, f64::from);
            let weight: f64 = word.positions.iter().map(of_token).sum();
            let index = word_index(&stem);
            let position = *positions.entry(stem).or_insert_with(|| {
                weights.push((index, 0.0));
                weights.len() - 1
            });
            let largest = &mut weights[position].1;
            *largest = largest.max(weight);
        }
        overwriting(
            weights.into_iter().map(|(index, weight)| (index, (1.0 + weight).ln().powf(self.alpha) as f32)),
        )
    }

    /// The vector of a query, which needs no encoder: 1 for each stem.
    pub fn query(&self, words: &[Word]) -> SparseEmbedding {
        overwriting(self.stems(words).map(|(stem, _)| (word_index(&stem), 1.0)))
    }

    fn stems<'a>(&'a self, words: &'a [Word]) -> impl Iterator<Item = (String, &'a Word)> {
        let is_kept = |word: &&Word| {
            let is_mark = matches!(word.text.as_bytes(), [byte] if byte.is_ascii_punctuation());
            !is_mark && !self.stop_words.contains(&word.text)
        };
        words.iter().filter(is_kept).map(|word| (self.stemmer.stem(&word.text), word))
    }
}
