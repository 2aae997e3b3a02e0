//! Text embeddings in pure Rust: one crate, no C++ library, no Python.
//!
//! | type | what it makes | compared by |
//! |---|---|---|
//! | [`TextEmbedding`] | a vector for each text | cosine |
//! | [`SparseTextEmbedding`] | a few weighted words for each text | [`SparseEmbedding::dot`] |
//! | [`LateInteractionTextEmbedding`] | a vector for each token of a text | [`max_sim`] |
//! | [`TextCrossEncoder`] | a score for each pair of a query and a document | the score |
//!
//! Each loads a model by its id, from the hub's cache or by fetching it, or from a folder. [`LoadOptions`] says how.
//!
//! ```no_run
//! use candlewick::TextEmbedding;
//!
//! let model = TextEmbedding::load("sentence-transformers/all-MiniLM-L6-v2")?;
//! let embeddings = model.embed(&["A candle burns.", "Wax melts near a flame."])?;
//! assert_eq!(embeddings[0].len(), 384);
//! # Ok::<(), candlewick::Error>(())
//! ```
//!
//! # Which errors to expect
//!
//! Whatever is wrong with a model's files, or not supported, is an [`Error`] of loading that names the file
//! and the tensor or key. Embedding a text fails only when the device does.

#![deny(missing_docs)]

mod constructors;
mod embed_iter;
mod hybrid_text_embedding;
mod late_interaction_text_embedding;
mod sparse_text_embedding;
mod text_cross_encoder;
mod text_embedding;

pub use candlewick_engine::{DeviceChoice, Error as EngineError, Int8Scales, Pooling, Precision, ThreadPool};
pub use candlewick_models::lexical::Language;
pub use candlewick_models::source::{Progress, ProgressFn};
pub use candlewick_models::{
    Attempt, Bm25Options, Embedding, EncoderInspection, Error, HybridEmbedding, HybridOutputs, HybridWeights,
    InputSpec, Inspection, Kind, LateInteractionSpec, LoadOptions, LogitScoreSpec, Missing, ModelSpec,
    MultiVectorEmbedding, Muvera, MuveraOptions, OnnxDialect, PairTemplate, Prompts, Ranked,
    ReferenceFigures, ReferenceImage, Registry, Result, ScoreActivation, ScoreOptions, SourceSpec,
    SparseEmbedding, SparseMethod, State, StemFn, Stemming, StopWords, TokenPooling, TokenizeFn, ValueType,
    WeightsFormat, WeightsSize, WeightsSpec, inspect, max_sim, max_sim_scores, rank, top_k,
};
pub use embed_iter::EmbedIter;
pub use hybrid_text_embedding::HybridTextEmbedding;
pub use late_interaction_text_embedding::LateInteractionTextEmbedding;
pub use sparse_text_embedding::SparseTextEmbedding;
pub use text_cross_encoder::TextCrossEncoder;
pub use text_embedding::TextEmbedding;

use std::path::PathBuf;

/// Fetches a registry model's files, unless they are cached, and returns the folder that holds them. The model
/// may be of any kind, also of one that cannot be loaded yet.
///
/// # Errors
///
/// When the id is unknown, or no source could provide the files.
pub fn pull(id: &str, options: &LoadOptions) -> Result<PathBuf> {
    let registry = options.registry.as_deref().unwrap_or(Registry::built_in());
    candlewick_models::source::resolve(registry.get(id)?, &options.source_options())
}

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
