//! Late interaction: a vector for each token.

use std::sync::Arc;

use candlewick_models::{Kind, LateInteractionModel, MultiVectorEmbedding, Result, TextRole};

use crate::EmbedIter;
use crate::constructors::constructors;

/// A model that turns a text into a vector for each of its tokens, as ColBERT does. [`max_sim`](crate::max_sim) says how
/// well a document answers a query.
///
/// Queries and documents are embedded differently: embed queries with [`query_embed`](Self::query_embed). All methods take
/// `&self`; clones are cheap and share the weights and the threads. A text's vectors depend on neither the other texts of
/// the call nor the threads.
///
/// ```
/// use candlewick::{LateInteractionTextEmbedding, ThreadPool, TokenPooling, max_sim_scores, top_k};
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/heads/colbert-v2");
/// let model = LateInteractionTextEmbedding::from_folder(folder)?;
/// let documents = model.embed(&["The fox sleeps by the river.", "A quick brown dog"])?;
/// let query = &model.query_embed(&["where does the fox sleep?"])?[0];
/// assert_eq!(query.dim(), model.embedding_size());
///
/// let pool = ThreadPool::new(None)?;
/// let scores = max_sim_scores(query, &documents, &pool)?;
/// println!("document {} is the best", top_k(&scores, 1)[0]);
/// // A third of the vectors takes a third of the space.
/// let smaller = TokenPooling::new(3)?.pool_all(&documents, &pool);
/// assert!(smaller[0].len() < documents[0].len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct LateInteractionTextEmbedding {
    model: Arc<LateInteractionModel>,
}

constructors!(
    LateInteractionTextEmbedding,
    LateInteractionModel,
    Kind::LateInteraction,
    "tokenizer.json, config.json and weights, as ColBERT (artifact.metadata) or PyLate \
     (config_sentence_transformers.json) writes it. Of another folder, every token has its hidden state."
);

impl LateInteractionTextEmbedding {
    /// The vectors of each document, in input order. An empty slice gives an empty result; an empty document has the
    /// vectors of its special tokens.
    ///
    /// # Errors
    ///
    /// When a document cannot be tokenized, the device fails, or a vector is not finite.
    pub fn embed<S: AsRef<str> + Sync>(&self, documents: &[S]) -> Result<Vec<MultiVectorEmbedding>> {
        self.model.embed(documents, TextRole::Plain)
    }

    /// The same for texts that are searched for: marked as queries, and filled up with mask tokens where the model does
    /// so, which have vectors too.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed).
    pub fn query_embed<S: AsRef<str> + Sync>(&self, queries: &[S]) -> Result<Vec<MultiVectorEmbedding>> {
        self.model.embed(queries, TextRole::Query)
    }

    /// The same for texts that are searched in. A graph that has an input for it is told so; else it is
    /// [`embed`](Self::embed).
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed).
    pub fn passage_embed<S: AsRef<str> + Sync>(&self, passages: &[S]) -> Result<Vec<MultiVectorEmbedding>> {
        self.model.embed(passages, TextRole::Passage)
    }

    /// Embeds documents as an iterator provides them, however many, in bounded memory: that of the vectors of a few
    /// thousand texts or a few megabytes of text.
    ///
    /// ```
    /// use candlewick::{LateInteractionTextEmbedding, TokenPooling};
    ///
    /// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/heads/colbert-v2");
    /// let model = LateInteractionTextEmbedding::from_folder(folder)?;
    /// let pooling = TokenPooling::new(2)?;
    /// for document in model.embed_iter((0..100).map(|number| format!("the fox number {number}"))) {
    ///     let document = document?;
    ///     assert!(pooling.pool(&document).len() < document.len());
    /// }
    /// # Ok::<(), candlewick::Error>(())
    /// ```
    pub fn embed_iter<I>(&self, documents: I) -> EmbedIter<I::IntoIter, MultiVectorEmbedding>
    where
        I: IntoIterator,
        I::Item: AsRef<str> + Sync,
    {
        let model = self.clone();
        EmbedIter::new(documents.into_iter(), move |documents| model.embed(documents))
    }

    /// Length of each of a text's vectors.
    pub fn embedding_size(&self) -> usize {
        self.model.dim()
    }

    /// Tokens of a document that are read, special tokens and marker included; what is beyond is cut off.
    pub fn max_length(&self) -> usize {
        self.model.max_length()
    }

    /// Number of tokens of all documents together: special tokens and marker included, after truncation. Tokens without
    /// a vector, such as punctuation, count too.
    ///
    /// # Errors
    ///
    /// When a document cannot be tokenized.
    pub fn token_count<S: AsRef<str> + Sync>(&self, documents: &[S]) -> Result<usize> {
        self.model.token_count(documents, TextRole::Plain)
    }

    /// The same of queries, with the mask tokens that they are filled up with.
    ///
    /// # Errors
    ///
    /// As [`token_count`](Self::token_count).
    pub fn query_token_count<S: AsRef<str> + Sync>(&self, queries: &[S]) -> Result<usize> {
        self.model.token_count(queries, TextRole::Query)
    }
}
