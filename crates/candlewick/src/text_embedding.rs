//! Dense text embeddings.

use std::sync::Arc;

use candlewick_models::{DenseModel, Embedding, Kind, Result, TextRole};

use crate::EmbedIter;
use crate::constructors::constructors;

/// A model that turns texts into vectors.
///
/// All methods take `&self`; clones are cheap and share the weights and the threads, so one value serves a
/// whole server. A text's embedding depends on neither the other texts of the call nor the threads.
///
/// ```
/// use candlewick::{LoadOptions, TextEmbedding};
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bert-mean");
/// let model = TextEmbedding::from_folder_with(folder, LoadOptions::new().threads(2))?;
/// let embeddings = model.embed(&["wax", "wick", "flame"])?;
/// assert_eq!(embeddings.len(), 3);
/// assert_eq!(embeddings[0].len(), model.embedding_size());
/// # Ok::<(), candlewick::Error>(())
/// ```
///
/// By its name, and without touching the network:
///
/// ```no_run
/// use candlewick::{LoadOptions, TextEmbedding};
///
/// let options = LoadOptions::new().offline(true).threads(2);
/// let model = TextEmbedding::load_with("BAAI/bge-small-en-v1.5", options)?;
/// # Ok::<(), candlewick::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TextEmbedding {
    model: Arc<DenseModel>,
}

constructors!(
    TextEmbedding,
    DenseModel,
    Kind::Dense,
    "tokenizer.json, config.json and weights. What sentence-transformers puts beside them (modules.json, 1_Pooling, \
     sentence_bert_config.json...) is read and obeyed."
);

impl TextEmbedding {
    /// One embedding per text, in input order. No text gets a prompt. An empty slice gives an empty result,
    /// an empty text an embedding like any other.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized, the device fails, or an embedding is not finite.
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Embedding>> {
        self.model.embed(texts, TextRole::Plain)
    }

    /// The same for texts that are searched for: the model's query prompt is put before each, if it has one,
    /// and a graph that selects an adapter takes the one for queries.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed).
    pub fn query_embed<S: AsRef<str> + Sync>(&self, queries: &[S]) -> Result<Vec<Embedding>> {
        self.model.embed(queries, TextRole::Query)
    }

    /// The same for texts that are searched in: the model's passage prompt is put before each, if it has one,
    /// and a graph that selects an adapter takes the one for passages.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed).
    pub fn passage_embed<S: AsRef<str> + Sync>(&self, passages: &[S]) -> Result<Vec<Embedding>> {
        self.model.embed(passages, TextRole::Passage)
    }

    /// Embeds texts as an iterator provides them, however many, in bounded memory: it takes a window of
    /// texts at a time, at most a few thousand or a few megabytes, and yields their embeddings in order.
    ///
    /// After an error the iterator ends.
    ///
    /// ```
    /// use candlewick::TextEmbedding;
    ///
    /// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/bert-mean");
    /// let model = TextEmbedding::from_folder(folder)?;
    /// let numbers = (0..5000).map(|number| format!("text number {number}"));
    /// let mut count = 0;
    /// for embedding in model.embed_iter(numbers) {
    ///     assert_eq!(embedding?.len(), model.embedding_size());
    ///     count += 1;
    /// }
    /// assert_eq!(count, 5000);
    /// # Ok::<(), candlewick::Error>(())
    /// ```
    pub fn embed_iter<I>(&self, texts: I) -> EmbedIter<I::IntoIter, Embedding>
    where
        I: IntoIterator,
        I::Item: AsRef<str> + Sync,
    {
        let model = self.clone();
        EmbedIter::new(texts.into_iter(), move |texts| model.embed(texts))
    }

    /// Length of an embedding.
    pub fn embedding_size(&self) -> usize {
        self.model.dim()
    }

    /// Tokens of a text that are read, special tokens included; what is beyond is cut off.
    pub fn max_length(&self) -> usize {
        self.model.max_length()
    }

    /// Number of tokens of all texts together, special tokens included, after truncation.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized.
    pub fn token_count<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<usize> {
        self.model.token_count(texts)
    }
}
