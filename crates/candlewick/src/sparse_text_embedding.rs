//! Sparse text embeddings.

use std::sync::Arc;

use candlewick_models::{Bm25Options, Kind, LoadOptions, Result, SparseEmbedding, SparseModel, TextRole};

use crate::EmbedIter;
use crate::constructors::constructors;

/// A model that turns texts into sparse vectors: few of very many dimensions, most often one for each word. Their dot
/// product says how well a document answers a query.
///
/// SPLADE, whose weights of words a network has learned, and [BM25](Self::bm25), which counts. Documents and queries may
/// be embedded differently, so embed queries with [`query_embed`](Self::query_embed). All methods take `&self`; clones are
/// cheap and share the weights and the threads. A text's embedding depends on neither the other texts of the call nor the
/// threads.
///
/// ```
/// use candlewick::{LoadOptions, SparseTextEmbedding};
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/heads/splade-bert");
/// let model = SparseTextEmbedding::from_folder_with(folder, LoadOptions::new().threads(2).top_k(64))?;
/// let documents = model.embed(&["The fox sleeps by the river.", "A quick brown dog"])?;
/// let query = &model.query_embed(&["river"])?[0];
/// assert!(documents[0].len() <= 64);
/// println!("{} and {}", documents[0].dot(query), documents[1].dot(query));
/// # Ok::<(), candlewick::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SparseTextEmbedding {
    model: Arc<SparseModel>,
}

constructors!(
    SparseTextEmbedding,
    SparseModel,
    Kind::Sparse,
    "tokenizer.json, config.json and the weights of a masked language model. With an idf.json beside them, which has \
     the weights of tokens, queries are looked up there and need no network."
);

impl SparseTextEmbedding {
    /// BM25, which needs no files: the term frequency part for documents, 1 for each word of a query. The inverse document
    /// frequency is the index's part (in Qdrant: the modifier `idf`).
    ///
    /// To share threads with other models, [`load_with`](Self::load_with)`("Qdrant/bm25", ...)` takes the same options as
    /// [`LoadOptions::bm25`].
    ///
    /// ```
    /// use candlewick::{Bm25Options, SparseTextEmbedding};
    ///
    /// let model = SparseTextEmbedding::bm25(Bm25Options::new().language("german".parse()?))?;
    /// let documents = model.embed(&["Kerzen brennen.", "Es regnet."])?;
    /// let query = &model.query_embed(&["brennende Kerze"])?[0];
    /// assert!(documents[0].dot(query) > 0.0);
    /// assert_eq!(documents[1].dot(query), 0.0);
    /// # Ok::<(), candlewick::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When an option is out of its range.
    pub fn bm25(options: Bm25Options) -> Result<Self> {
        Self::load_with("Qdrant/bm25", LoadOptions::new().bm25(options))
    }

    /// One embedding per document, in input order. An empty slice gives an empty result, a document without words an
    /// embedding that may be empty.
    ///
    /// # Errors
    ///
    /// When a document cannot be tokenized, the device fails, or a value is not finite.
    pub fn embed<S: AsRef<str> + Sync>(&self, documents: &[S]) -> Result<Vec<SparseEmbedding>> {
        self.model.embed(documents, TextRole::Plain)
    }

    /// The same for texts that are searched for.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed).
    pub fn query_embed<S: AsRef<str> + Sync>(&self, queries: &[S]) -> Result<Vec<SparseEmbedding>> {
        self.model.embed(queries, TextRole::Query)
    }

    /// The same for texts that are searched in. A graph that has an input for it is told so; else it is
    /// [`embed`](Self::embed).
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed).
    pub fn passage_embed<S: AsRef<str> + Sync>(&self, passages: &[S]) -> Result<Vec<SparseEmbedding>> {
        self.model.embed(passages, TextRole::Passage)
    }

    /// Embeds documents as an iterator provides them, however many, in bounded memory.
    ///
    /// ```
    /// use candlewick::{Bm25Options, SparseTextEmbedding};
    ///
    /// let model = SparseTextEmbedding::bm25(Bm25Options::new())?;
    /// let numbers = (0..5000).map(|number| format!("text number {number}"));
    /// for embedding in model.embed_iter(numbers) {
    ///     assert_eq!(embedding?.len(), 3);
    /// }
    /// # Ok::<(), candlewick::Error>(())
    /// ```
    pub fn embed_iter<I>(&self, documents: I) -> EmbedIter<I::IntoIter, SparseEmbedding>
    where
        I: IntoIterator,
        I::Item: AsRef<str> + Sync,
    {
        let model = self.clone();
        EmbedIter::new(documents.into_iter(), move |documents| model.embed(documents))
    }

    /// Number of tokens of all texts together, special tokens included, after truncation; of BM25, of words.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized.
    pub fn token_count<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<usize> {
        self.model.token_count(texts)
    }
}
