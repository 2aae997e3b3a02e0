//! BM42 and miniCOIL as models: a small encoder reads tokens, and what it says of them becomes a vector of words.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use candle_core::Tensor;
use candlewick_engine::{Batch, ImportOptions};

use super::bm25::check_saturation;
use super::{Bm42Words, MiniCoilWords, ResolvedWords, SparseEmbedding, Vocabulary};
use crate::backbone::Backbone;
use crate::checkpoint::Checkpoint;
use crate::head::{TokenRowsConfig, TokenRowsHead};
use crate::json::file_missing;
use crate::lexical::{CONTINUING_PREFIX, Language, SnowballStemmer, join_word_pieces};
use crate::npy::NpyFile;
use crate::registry::ModelSpec;
use crate::text_model::{Head, TextModel};
use crate::{Error, LoadOptions, Result, TextRole};

/// Words that are left out, one a line.
pub(super) const STOP_WORDS: &str = "stopwords.txt";

/// The matrices of miniCOIL's words, `[words + 1, hidden_size, word_dim]`; the first is for unknown words.
pub(super) const MATRICES: &str = "minicoil.triplet.model.npy";

/// miniCOIL's words.
const VOCABULARY: &str = "minicoil.triplet.model.vocab";

/// What BM42 raises weights to, in fastembed.
const ALPHA: f64 = 0.5;

/// How miniCOIL weighs a word in a document, as BM25 does. Documents and queries of one index need not the same: queries
/// are not weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct MiniCoilOptions {
    /// How slowly a word's weight saturates as it is repeated; 0 or more.
    pub k: f64,
    /// How much long documents are held back; 0 (not) to 1.
    pub b: f64,
    /// Words of an average document, stop words not counted; more than 0.
    pub avg_len: f64,
}

impl MiniCoilOptions {
    /// fastembed's defaults: k 1.2, b 0.75, 150 words on average.
    pub fn new() -> Self {
        Self { k: 1.2, b: 0.75, avg_len: 150.0 }
    }

    /// Sets [`k`](Self::k).
    #[must_use]
    pub fn k(mut self, k: f64) -> Self {
        self.k = k;
        self
    }

    /// Sets [`b`](Self::b).
    #[must_use]
    pub fn b(mut self, b: f64) -> Self {
        self.b = b;
        self
    }

    /// Sets [`avg_len`](Self::avg_len).
    #[must_use]
    pub fn avg_len(mut self, words: f64) -> Self {
        self.avg_len = words;
        self
    }
}

impl Default for MiniCoilOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A loaded BM42 model: words weighted by the attention that the first token pays them in the encoder's last layer.
#[derive(Debug)]
pub struct Bm42Model {
    model: TextModel<TokenRowsHead>,
    words: Bm42Words,
    /// As they are spelled.
    special_tokens: HashSet<String>,
}

/// A loaded miniCOIL model: words weighted as in BM25, of which those of a vocabulary are small vectors of their meaning.
#[derive(Debug)]
pub struct MiniCoilModel {
    model: TextModel<TokenRowsHead>,
    words: MiniCoilWords,
}

impl Bm42Model {
    /// Loads a folder: tokenizer.json, a graph that gives attention's probabilities, and stopwords.txt.
    pub(crate) fn open(folder: &Path, spec: Option<ModelSpec>, options: LoadOptions) -> Result<Self> {
        let stop_words = read_stop_words(folder)?;
        let mut import = ImportOptions::default();
        import.first_token_attention = true;
        let alpha = options.bm42_alpha.unwrap_or(ALPHA);
        let checkpoint = Checkpoint::open(folder, spec, options, import)?;
        if !(alpha.is_finite() && alpha >= 0.0) {
            return Err(checkpoint.invalid_option("bm42_alpha", alpha, "must be 0 or more"));
        }
        if let Backbone::Native(_) = &checkpoint.backbone {
            let (path, key) = (checkpoint.backbone.file(folder), "model_type".into());
            let problem = "attention that words get can be had from ONNX files only".into();
            return Err(Error::UnsupportedConfig { path, key, problem });
        }
        let head = TokenRowsConfig::new(&checkpoint, None)?;
        let model = open_model(checkpoint, head)?;
        let special_ids = model.tokenizer.special_ids();
        let special_tokens = special_ids.into_iter().map(|id| model.tokenizer.token(id)).collect();
        let stemmer = SnowballStemmer::new(Language::English);
        Ok(Self { model, words: Bm42Words { stop_words, stemmer, alpha }, special_tokens })
    }

    /// The registry's id, or the folder.
    pub fn name(&self) -> &str {
        self.model.name()
    }

    /// Tokens of a text that are read, special tokens included.
    pub fn max_length(&self) -> usize {
        self.model.tokenizer.max_length()
    }

    /// One embedding per text, in input order, with indices in the order of words' first occurrence. Queries need no
    /// encoder: 1 for each word.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized, the device fails, or a weight is not finite.
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S], role: TextRole) -> Result<Vec<SparseEmbedding>> {
        let LoadOptions { top_k, threshold, .. } = self.model.checkpoint.options;
        let limit = |embedding: SparseEmbedding| embedding.limited(top_k, threshold);
        let words = |token_ids: &[u32]| {
            let tokens = spell(&self.model, token_ids);
            join_word_pieces(tokens.iter().map(String::as_str), |token| self.special_tokens.contains(token))
        };
        let encode = self.model.encode(TextRole::Plain);
        if role == TextRole::Query {
            let query =
                |index: usize, text: &S| Ok(limit(self.words.query(&words(&encode(index, text)?.token_ids))));
            return self.model.pipeline().map(texts, query);
        }
        let document = |token_ids: &[u32], attention: &[f32], _: &TokenRowsHead| {
            limit(self.words.document(&words(token_ids), attention))
        };
        self.model.run_with(
            texts,
            role,
            |text| text.as_ref().len(),
            encode,
            |head, states, batch| of_sequences(head, states, batch, document),
        )
    }

    /// Number of tokens of all `texts` together, special tokens included, after truncation. Needs no weights.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized.
    pub fn token_count<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<usize> {
        self.model.count_tokens(texts)
    }
}

impl MiniCoilModel {
    /// Loads a folder: tokenizer.json, an encoder, words with their matrices, and stopwords.txt.
    pub(crate) fn open(folder: &Path, spec: Option<ModelSpec>, options: LoadOptions) -> Result<Self> {
        let stop_words = read_stop_words(folder)?;
        let vocabulary = Vocabulary::load(&folder.join(VOCABULARY))?;
        let matrices = NpyFile::open(&folder.join(MATRICES))?;
        let [count, _, word_dim] = matrices.shape();
        if count != vocabulary.size() {
            let problem = format!("{count} matrices, but {VOCABULARY} has {} words", vocabulary.size() - 1);
            return Err(matrices.invalid(format!("{problem}, and one is for unknown words")));
        }
        let MiniCoilOptions { k, b, avg_len } = options.minicoil.unwrap_or_default();
        let checkpoint = Checkpoint::open(folder, spec, options, ImportOptions::default())?;
        check_saturation(&checkpoint.name, k, b, avg_len)?;
        let LoadOptions { top_k, threshold, .. } = &checkpoint.options;
        let limits =
            [("top_k", top_k.map(|k| k.to_string())), ("threshold", threshold.map(|t| t.to_string()))];
        for (option, requested) in limits {
            if let Some(requested) = requested {
                let problem = "a word's values are components of a vector, of which none can be left out";
                return Err(checkpoint.invalid_option(option, requested, problem));
            }
        }
        let head = TokenRowsConfig::new(&checkpoint, Some(matrices))?;
        let stemmer = SnowballStemmer::new(Language::English);
        let words = MiniCoilWords { vocabulary, stop_words, stemmer, word_dim, k, b, avg_len };
        Ok(Self { model: open_model(checkpoint, head)?, words })
    }

    /// The registry's id, or the folder.
    pub fn name(&self) -> &str {
        self.model.name()
    }

    /// Tokens of a text that are read, special tokens included.
    pub fn max_length(&self) -> usize {
        self.model.tokenizer.max_length()
    }

    /// One embedding per text, in input order: components of known words by ascending id, unknown words behind them in
    /// the order of first occurrence. An index may be there twice.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized, the device fails, or a value is not finite.
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S], role: TextRole) -> Result<Vec<SparseEmbedding>> {
        let encode = self.model.encode(TextRole::Plain);
        let weigh = |token_ids: &[u32], rows: &[f32], head: &TokenRowsHead| {
            let tokens = spell(&self.model, token_ids);
            // Special tokens are words that the vocabulary lacks.
            let words = join_word_pieces(tokens.iter().map(String::as_str), |_| false);
            let resolved = self.words.resolve(&words, tokens.len());
            let vectors = word_vectors(head, &resolved, rows);
            match role {
                TextRole::Query => self.words.query(&resolved, &vectors),
                TextRole::Plain | TextRole::Passage => self.words.document(&resolved, &vectors),
            }
        };
        self.model.run_with(
            texts,
            role,
            |text| text.as_ref().len(),
            encode,
            |head, states, batch| of_sequences(head, states, batch, weigh),
        )
    }

    /// Number of tokens of all `texts` together, special tokens included, after truncation. Needs no weights.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized.
    pub fn token_count<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<usize> {
        self.model.count_tokens(texts)
    }
}

/// The vectors of a text's known words by id: each of the mean of all of its tokens' rows.
fn word_vectors(head: &TokenRowsHead, resolved: &ResolvedWords, rows: &[f32]) -> BTreeMap<u32, Vec<f32>> {
    let mut positions: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (position, id) in resolved.token_word_ids.iter().enumerate().filter(|(_, id)| **id > 0) {
        positions.entry(*id).or_default().push(position);
    }
    let vector = |(id, positions): (u32, Vec<usize>)| (id, head.word_vector(id, rows, &positions));
    positions.into_iter().map(vector).collect()
}

/// What `embed` makes of each sequence's tokens and the encoder's rows of them; `None` where that is not finite.
fn of_sequences(
    head: &TokenRowsHead,
    states: &Tensor,
    batch: &Batch,
    embed: impl Fn(&[u32], &[f32], &TokenRowsHead) -> SparseEmbedding,
) -> candlewick_engine::Result<Vec<Option<SparseEmbedding>>> {
    let rows = head.forward(states, batch)?;
    let embedding = |(rows, tokens): (Option<Vec<f32>>, std::ops::Range<usize>)| {
        let embedding = embed(&batch.token_ids()[tokens], &rows?, head);
        embedding.values.iter().all(|value| value.is_finite()).then_some(embedding)
    };
    Ok(rows.into_iter().zip(batch.sequences()).map(embedding).collect())
}

fn spell(model: &TextModel<TokenRowsHead>, token_ids: &[u32]) -> Vec<String> {
    token_ids.iter().map(|id| model.tokenizer.token(*id)).collect()
}

/// Opens a model whose tokens can be put together to words again.
fn open_model(checkpoint: Checkpoint, head: TokenRowsConfig) -> Result<TextModel<TokenRowsHead>> {
    let model = TextModel::open(checkpoint, head)?;
    if model.tokenizer.continuing_prefix() != Some(CONTINUING_PREFIX) {
        let path = model.checkpoint.folder.join("tokenizer.json");
        let problem = format!("words are put together of WordPiece's tokens with `{CONTINUING_PREFIX}`");
        return Err(Error::UnsupportedConfig { path, key: "model".into(), problem });
    }
    Ok(model)
}

fn read_stop_words(folder: &Path) -> Result<HashSet<String>> {
    let path = folder.join(STOP_WORDS);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(file_missing(&path)),
        Err(source) => Err(Error::ReadFile { path, source }),
    }
}

#[cfg(test)]
mod tests;
