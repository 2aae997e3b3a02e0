//! BM25 as sparse vectors, as `Qdrant/bm25` in fastembed makes them.
//!
//! A document's vector holds the term frequency part of BM25, a query's the number 1 for each word; the inverse
//! document frequency is the index's part (in Qdrant: the modifier `idf`). No weights, no vocabulary: a
//! word's dimension is its hash.
//!
//! Source: fastembed's `sparse/bm25.py`, with which tests/fixtures/lexical compares; Robertson and Zaragoza, "The
//! Probabilistic Relevance Framework: BM25 and Beyond", 2009.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use candlewick_engine::ThreadPool;

use super::SparseEmbedding;
use super::embedding::overwriting;
use crate::lexical::{
    Language, SnowballStemmer, is_punctuation_mark, lower, split_words, stop_words, word_index,
};
use crate::{Error, Result};

/// A stemmer of one's own: a word in lower case to its stem. Words with an empty stem are left out.
pub type StemFn = dyn Fn(&str) -> String + Send + Sync;

/// A tokenizer of one's own: a text to its words.
pub type TokenizeFn = dyn Fn(&str) -> Vec<String> + Send + Sync;

/// How words become stems.
#[derive(Clone, Default)]
pub enum Stemming {
    /// By the language's Snowball stemmer.
    #[default]
    Snowball,
    /// Not at all; words are only put in lower case. As in fastembed, this also turns off the language's stop
    /// words, which are for the language that is stemmed.
    Disabled,
    /// By a function: for languages without a Snowball stemmer, or for a lemmatizer.
    Custom(Arc<StemFn>),
}

/// Words that are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StopWords {
    /// The language's list; none where stemming is [disabled](Stemming::Disabled).
    #[default]
    OfLanguage,
    /// These, in any case. An empty set keeps all words.
    Custom(HashSet<String>),
}

/// How [`Bm25`] splits and weighs. Documents and queries of one index need the same.
#[derive(Clone)]
#[non_exhaustive]
pub struct Bm25Options {
    /// How slowly a word's weight saturates as it is repeated; 0 or more.
    pub k: f64,
    /// How much long documents are held back; 0 (not) to 1.
    pub b: f64,
    /// Words of an average document, stop words not counted; more than 0.
    pub avg_len: f64,
    /// Whose stemmer and stop words are used.
    pub language: Language,
    /// Words of more characters (Unicode code points) are left out.
    pub token_max_length: usize,
    /// How words become stems.
    pub stemming: Stemming,
    /// Words that are left out.
    pub stop_words: StopWords,
    /// Splits texts into words. Default: [`split_words`].
    pub tokenizer: Option<Arc<TokenizeFn>>,
}

impl Bm25Options {
    /// fastembed's defaults: English, k 1.2, b 0.75, 256 words on average, words of 40 characters at most.
    pub fn new() -> Self {
        Self {
            k: 1.2,
            b: 0.75,
            avg_len: 256.0,
            language: Language::English,
            token_max_length: 40,
            stemming: Stemming::Snowball,
            stop_words: StopWords::OfLanguage,
            tokenizer: None,
        }
    }

    /// Sets [`k`](Self::k).
    pub fn k(mut self, k: f64) -> Self {
        self.k = k;
        self
    }

    /// Sets [`b`](Self::b).
    pub fn b(mut self, b: f64) -> Self {
        self.b = b;
        self
    }

    /// Sets [`avg_len`](Self::avg_len).
    pub fn avg_len(mut self, words: f64) -> Self {
        self.avg_len = words;
        self
    }

    /// Sets [`language`](Self::language).
    pub fn language(mut self, language: Language) -> Self {
        self.language = language;
        self
    }

    /// Sets [`token_max_length`](Self::token_max_length).
    pub fn token_max_length(mut self, characters: usize) -> Self {
        self.token_max_length = characters;
        self
    }

    /// Turns stemming off, or on again.
    pub fn disable_stemmer(mut self, disable: bool) -> Self {
        self.stemming = if disable { Stemming::Disabled } else { Stemming::Snowball };
        self
    }

    /// Stems by a function of one's own.
    pub fn stemmer(mut self, stem: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        self.stemming = Stemming::Custom(Arc::new(stem));
        self
    }

    /// Leaves these words out, in any case, instead of the language's stop words.
    pub fn stop_words<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.stop_words = StopWords::Custom(words.into_iter().map(Into::into).collect());
        self
    }

    /// Splits texts by a function of one's own: for languages without spaces, or whose words consist of
    /// combining marks too. Its words still go through lower case, stop words, the limit of length and stemming.
    pub fn tokenizer(mut self, tokenize: impl Fn(&str) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.tokenizer = Some(Arc::new(tokenize));
        self
    }
}

/// Refuses what no term frequency can be weighed with.
pub(super) fn check_saturation(model: &str, k: f64, b: f64, avg_len: f64) -> Result<()> {
    let valid = |value: f64, is_valid: bool, option, problem: &str| {
        let error = || Error::InvalidOption {
            model: model.to_owned(),
            option,
            requested: value.to_string(),
            problem: problem.into(),
        };
        (value.is_finite() && is_valid).then_some(()).ok_or_else(error)
    };
    valid(k, k >= 0.0, "k", "must be 0 or more")?;
    valid(b, (0.0..=1.0).contains(&b), "b", "must be between 0 and 1")?;
    valid(avg_len, avg_len > 0.0, "avg_len", "must be more than 0")
}

impl Default for Bm25Options {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Stemming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Snowball => "Snowball",
            Self::Disabled => "Disabled",
            Self::Custom(_) => "Custom(..)",
        })
    }
}

impl fmt::Debug for Bm25Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bm25Options")
            .field("k", &self.k)
            .field("b", &self.b)
            .field("avg_len", &self.avg_len)
            .field("language", &self.language)
            .field("token_max_length", &self.token_max_length)
            .field("stemming", &self.stemming)
            .field("stop_words", &self.stop_words)
            .field("tokenizer", &self.tokenizer.as_ref().map(|_| "..."))
            .finish()
    }
}

/// Documents that one thread embeds at a time.
const CHUNK_TEXTS: usize = 64;

/// BM25 as a sparse embedding model.
///
/// ```
/// use candlewick_engine::ThreadPool;
/// use candlewick_models::{Bm25, Bm25Options};
///
/// let model = Bm25::new(Bm25Options::new(), ThreadPool::new(Some(1))?)?;
/// let documents = model.embed(&["Wax melts where the wick burns.", "A candle was burning."]);
/// let query = &model.query_embed(&["burning candles"])[0];
/// assert_eq!(query.values, [1.0, 1.0]);
/// assert!(documents[1].dot(query) > documents[0].dot(query), "both words, not one");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Bm25 {
    options: Bm25Options,
    /// In lower case.
    stop_words: HashSet<String>,
    snowball: SnowballStemmer,
    pool: ThreadPool,
}

impl Bm25 {
    /// The model with these options, whose documents `pool` works on.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] when `k`, `b` or `avg_len` is out of its range.
    pub fn new(options: Bm25Options, pool: ThreadPool) -> Result<Self> {
        check_saturation("Qdrant/bm25", options.k, options.b, options.avg_len)?;
        let stop_words = match (&options.stop_words, &options.stemming) {
            (StopWords::Custom(words), _) => words.iter().map(|word| lower(word).into_owned()).collect(),
            (StopWords::OfLanguage, Stemming::Disabled) => HashSet::new(),
            (StopWords::OfLanguage, _) => {
                stop_words(options.language).iter().map(|word| (*word).to_owned()).collect()
            }
        };
        let snowball = SnowballStemmer::new(options.language);
        Ok(Self { options, stop_words, snowball, pool })
    }

    /// What it was made with.
    pub fn options(&self) -> &Bm25Options {
        &self.options
    }

    /// Embeds documents, in their order. A vector's dimensions come in the order in which words first occur; a
    /// text without words has none.
    pub fn embed<S: AsRef<str> + Sync>(&self, documents: &[S]) -> Vec<SparseEmbedding> {
        self.map(documents, |document| self.weigh(self.stems(document)))
    }

    /// Embeds queries, in their order: 1 for each word, however often it occurs.
    pub fn query_embed<S: AsRef<str> + Sync>(&self, queries: &[S]) -> Vec<SparseEmbedding> {
        self.map(queries, |query| overwriting(self.stems(query).map(|stem| (word_index(&stem), 1.0))))
    }

    /// Number of words of all `texts` together, stop words and overlong words included.
    pub fn token_count<S: AsRef<str> + Sync>(&self, texts: &[S]) -> usize {
        self.map(texts, |text| self.words(text).len()).into_iter().sum()
    }

    fn map<S: AsRef<str> + Sync, R: Send>(&self, texts: &[S], f: impl Fn(&str) -> R + Send + Sync) -> Vec<R> {
        let chunks: Vec<&[S]> = texts.chunks(CHUNK_TEXTS).collect();
        let run = |chunk: &&[S]| Ok::<_, Infallible>(chunk.iter().map(|text| f(text.as_ref())).collect());
        let results: Vec<Vec<R>> = match self.pool.try_map(&chunks, run) {
            Ok(results) => results,
            Err(never) => match never {},
        };
        results.into_iter().flatten().collect()
    }

    fn words(&self, text: &str) -> Vec<String> {
        match &self.options.tokenizer {
            Some(tokenize) => tokenize(text),
            None => split_words(text),
        }
    }

    /// The stems of a text's words that are kept.
    fn stems(&self, text: &str) -> impl Iterator<Item = String> {
        self.words(text).into_iter().filter_map(|word| {
            let lowered = lower(&word);
            let is_kept = !is_punctuation_mark(&word)
                && !self.stop_words.contains(lowered.as_ref())
                && word.chars().count() <= self.options.token_max_length;
            let stem = is_kept.then(|| match &self.options.stemming {
                Stemming::Snowball => self.snowball.stem(&lowered),
                Stemming::Disabled => lowered.into_owned(),
                Stemming::Custom(stem) => stem(&lowered),
            })?;
            (!stem.is_empty()).then_some(stem)
        })
    }

    /// The term frequency part of BM25, rounded to f32 once, at the end.
    fn weigh(&self, stems: impl Iterator<Item = String>) -> SparseEmbedding {
        let Bm25Options { k, b, avg_len, .. } = self.options;
        let mut positions: HashMap<String, usize> = HashMap::new();
        let mut counts: Vec<(u32, u32)> = Vec::new();
        let mut len = 0_u32;
        for stem in stems {
            len += 1;
            let index = word_index(&stem);
            let position = *positions.entry(stem).or_insert_with(|| {
                counts.push((index, 0));
                counts.len() - 1
            });
            counts[position].1 += 1;
        }
        let saturation = k * (1.0 - b + b * f64::from(len) / avg_len);
        // Of two words with one index the later's value stays, in the earlier's place.
        overwriting(counts.into_iter().map(|(index, count)| {
            let count = f64::from(count);
            (index, (count * (k + 1.0) / (count + saturation)) as f32)
        }))
    }
}

#[cfg(test)]
mod tests;
