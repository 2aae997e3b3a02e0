//! The model zoo of candlewick: what models exist, where their files come from, how they are loaded and run.
//!
//! A [`ModelSpec`] is a row of the [`Registry`], which is models.toml; its [`State`] says whether it can be
//! loaded. [`source::resolve`] turns it into a folder of files. [`DenseModel`] loads such a folder, or any other that sentence-transformers would load:
//! its tokenizer, its encoder (`arch`, one file per architecture) and its head (`head`), with
//! [`LoadOptions`] overriding what the folder says. Most users want the facade crate `candlewick` instead.
//!
//! ```
//! use candlewick_models::Registry;
//!
//! let spec = Registry::built_in().get("all-MiniLM-L6-v2")?;
//! assert_eq!((spec.dim, spec.max_length), (Some(384), Some(256)));
//! # Ok::<(), candlewick_models::Error>(())
//! ```

#![deny(missing_docs)]

mod arch;
mod backbone;
mod checkpoint;
mod dense;
mod error;
mod folder;
mod head;
mod hybrid;
mod inspect;
mod json;
mod late_interaction;
pub mod lexical;
mod multi_vector;
mod npy;
mod options;
mod registry;
mod rerank;
pub mod source;
pub mod sparse;
mod text;
mod text_model;

pub use dense::{DenseModel, Embedding, TextRole};
pub use error::{Attempt, Error, Result};
pub use hybrid::{HybridEmbedding, HybridModel, HybridOutputs, HybridWeights};
pub use inspect::{EncoderInspection, Inspection, ValueType, WeightsSize, inspect};
pub use late_interaction::LateInteractionModel;
pub use multi_vector::{
    MultiVectorEmbedding, Muvera, MuveraOptions, TokenPooling, max_sim, max_sim_scores, top_k,
};
pub use options::LoadOptions;
pub use registry::{
    InputSpec, Kind, LateInteractionSpec, LogitScoreSpec, Missing, ModelSpec, OnnxDialect, PairTemplate,
    Prompts, ReferenceFigures, ReferenceImage, Registry, SourceSpec, SparseMethod, State, WeightsFormat,
    WeightsSpec,
};
pub use rerank::{Ranked, RerankModel, ScoreActivation, ScoreOptions, rank};
pub use sparse::{
    Bm25, Bm25Options, Bm42Model, MiniCoilModel, MiniCoilOptions, SparseEmbedding, SparseModel, SpladeModel,
    StemFn, Stemming, StopWords, TokenizeFn,
};
pub use text::{WINDOW_BYTES, WINDOW_TEXTS};
