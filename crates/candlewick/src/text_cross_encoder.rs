//! Reranking by cross-encoders.

use std::sync::Arc;

use candlewick_models::{Kind, Ranked, RerankModel, Result, ScoreActivation, ScoreOptions, rank};

use crate::constructors::constructors;

/// A model that reads a query and a document together and says how well they fit: slower than comparing embeddings, and
/// more exact, so it is for the best few dozen that a search found.
///
/// All methods take `&self`; clones are cheap and share the weights and the threads. A pair's score depends on neither the
/// other pairs of the call nor the threads.
///
/// ```
/// use candlewick::{ScoreActivation, ScoreOptions, TextCrossEncoder};
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/heads/rerank-bert");
/// let model = TextCrossEncoder::from_folder(folder)?;
/// let documents = ["The fox sleeps by the river.", "A quick brown dog", ""];
/// let scores = model.rerank("where does the fox sleep?", &documents)?;
/// assert_eq!(scores.len(), 3);
///
/// let options = ScoreOptions::new().activation(ScoreActivation::Sigmoid);
/// let best = model.rank("where does the fox sleep?", &documents, &options, Some(2))?;
/// assert!(best[0].score >= best[1].score);
/// println!("{} ({})", documents[best[0].index], best[0].score);
/// # Ok::<(), candlewick::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TextCrossEncoder {
    model: Arc<RerankModel>,
}

constructors!(
    TextCrossEncoder,
    RerankModel,
    Kind::CrossEncoder,
    "tokenizer.json, config.json and the weights of a sequence classifier, or the ONNX file of a reranking language model."
);

impl TextCrossEncoder {
    /// The score of each document for a query, in input order: the raw logit of the first label, larger being better; of a
    /// language model that is asked whether the document answers the query, as Qwen3-Reranker, how likely it says yes. No
    /// documents give no scores. An empty query and an empty document are texts like any other. What is too long is cut,
    /// first from the longer of the two; in a language model's prompt, which stays whole, from the end of the pair.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized, the device fails, or a score is not finite.
    pub fn rerank<D: AsRef<str> + Sync>(&self, query: &str, documents: &[D]) -> Result<Vec<f32>> {
        self.rerank_with(query, documents, &ScoreOptions::default())
    }

    /// [`rerank`](Self::rerank) with options.
    ///
    /// # Errors
    ///
    /// As `rerank`, and when the model has no such label.
    pub fn rerank_with<D: AsRef<str> + Sync>(
        &self,
        query: &str,
        documents: &[D],
        options: &ScoreOptions,
    ) -> Result<Vec<f32>> {
        self.rerank_pairs_with(&paired(query, documents), options)
    }

    /// The documents by falling score, equal ones in input order: `top_k` of them, or all.
    ///
    /// # Errors
    ///
    /// As [`rerank_with`](Self::rerank_with).
    pub fn rank<D: AsRef<str> + Sync>(
        &self,
        query: &str,
        documents: &[D],
        options: &ScoreOptions,
        top_k: Option<usize>,
    ) -> Result<Vec<Ranked>> {
        Ok(rank(&self.rerank_with(query, documents, options)?, top_k))
    }

    /// The score of each pair of a query and a document, as [`rerank`](Self::rerank) has it.
    ///
    /// # Errors
    ///
    /// As `rerank`.
    pub fn rerank_pairs<Q, D>(&self, pairs: &[(Q, D)]) -> Result<Vec<f32>>
    where
        Q: AsRef<str> + Sync,
        D: AsRef<str> + Sync,
    {
        self.rerank_pairs_with(pairs, &ScoreOptions::default())
    }

    /// [`rerank_pairs`](Self::rerank_pairs) with options.
    ///
    /// # Errors
    ///
    /// As [`rerank_with`](Self::rerank_with).
    pub fn rerank_pairs_with<Q, D>(&self, pairs: &[(Q, D)], options: &ScoreOptions) -> Result<Vec<f32>>
    where
        Q: AsRef<str> + Sync,
        D: AsRef<str> + Sync,
    {
        self.model.scores(pairs, options)
    }

    /// The raw logits of all labels of each pair, `[num_labels]` each, in input order. A language model that answers yes or
    /// no has one: the logit of "yes" less that of "no".
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub fn logits<Q, D>(&self, pairs: &[(Q, D)]) -> Result<Vec<Vec<f32>>>
    where
        Q: AsRef<str> + Sync,
        D: AsRef<str> + Sync,
    {
        self.model.logits(pairs)
    }

    /// How many labels a pair has logits of: one, for a reranker.
    pub fn num_labels(&self) -> usize {
        self.model.num_labels()
    }

    /// What a score is made of the logits unless [`ScoreOptions::activation`] says: nothing, or the sigmoid of a language
    /// model that answers yes or no.
    pub fn activation(&self) -> ScoreActivation {
        self.model.activation()
    }

    /// Tokens of a pair that are read, special tokens included.
    pub fn max_length(&self) -> usize {
        self.model.max_length()
    }

    /// Number of tokens of all pairs together, special tokens included, after truncation.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized.
    pub fn token_count<Q, D>(&self, pairs: &[(Q, D)]) -> Result<usize>
    where
        Q: AsRef<str> + Sync,
        D: AsRef<str> + Sync,
    {
        self.model.token_count(pairs)
    }
}

fn paired<'a, D: AsRef<str>>(query: &'a str, documents: &'a [D]) -> Vec<(&'a str, &'a str)> {
    documents.iter().map(|document| (query, document.as_ref())).collect()
}
