//! Dense, sparse and multi-vector embeddings of one pass.

use std::sync::Arc;

use candlewick_models::{HybridEmbedding, HybridModel, HybridOutputs, Kind, Result, TextRole};

use crate::EmbedIter;
use crate::constructors::constructors;

/// A model that gives a text a dense embedding, a sparse one and a vector for each token in one pass, as BGE-M3 does.
///
/// All methods take `&self`; clones are cheap and share the weights and the threads. A text's embedding depends on neither
/// the other texts of the call nor the threads.
///
/// ```
/// use candlewick::{HybridTextEmbedding, HybridWeights};
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/heads/bge-m3");
/// let model = HybridTextEmbedding::from_folder(folder)?;
/// let documents = model.embed(&["The fox sleeps by the river.", "A quick brown dog"])?;
/// let query = &model.query_embed(&["where does the fox sleep?"])?[0];
/// for document in &documents {
///     println!("{}", query.score(document, HybridWeights::default())?);
/// }
/// # Ok::<(), candlewick::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct HybridTextEmbedding {
    model: Arc<HybridModel>,
}

constructors!(
    HybridTextEmbedding,
    HybridModel,
    Kind::Hybrid,
    "tokenizer.json, config.json, the encoder's weights, and sparse_linear and colbert_linear beside them, as FlagEmbedding \
     writes it; or an ONNX graph that gives all three embeddings."
);

impl HybridTextEmbedding {
    /// All embeddings of each text, in input order.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized, the device fails, or a number is not finite.
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<HybridEmbedding>> {
        self.model.embed(texts, TextRole::Plain)
    }

    /// The embeddings that are wanted; what is left out is not computed, unless a graph gives all.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed).
    pub fn embed_some<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        outputs: HybridOutputs,
    ) -> Result<Vec<HybridEmbedding>> {
        self.model.embed_some(texts, TextRole::Plain, outputs)
    }

    /// The same for texts that are searched for: the model's query prompt is put before each, if it has one.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed).
    pub fn query_embed<S: AsRef<str> + Sync>(&self, queries: &[S]) -> Result<Vec<HybridEmbedding>> {
        self.model.embed(queries, TextRole::Query)
    }

    /// The same for texts that are searched in: the model's passage prompt is put before each, if it has one.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed).
    pub fn passage_embed<S: AsRef<str> + Sync>(&self, passages: &[S]) -> Result<Vec<HybridEmbedding>> {
        self.model.embed(passages, TextRole::Passage)
    }

    /// Embeds texts as an iterator provides them, however many, in bounded memory: that of the embeddings of a few thousand
    /// texts or a few megabytes of text.
    pub fn embed_iter<I>(&self, texts: I) -> EmbedIter<I::IntoIter, HybridEmbedding>
    where
        I: IntoIterator,
        I::Item: AsRef<str> + Sync,
    {
        let model = self.clone();
        EmbedIter::new(texts.into_iter(), move |texts| model.embed(texts))
    }

    /// Length of a dense embedding.
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
