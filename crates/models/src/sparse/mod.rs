//! Sparse embeddings: few of very many dimensions, most often one for each word.

mod bm25;
mod bm42;
mod embedding;
mod minicoil;
mod model;
mod splade;
mod word_models;

#[cfg(test)]
mod tests;

pub use bm25::{Bm25, Bm25Options, StemFn, Stemming, StopWords, TokenizeFn};
pub use bm42::Bm42Words;
pub use embedding::SparseEmbedding;
pub use minicoil::{MiniCoilWords, ResolvedWords, Vocabulary};
pub use model::SparseModel;
pub use splade::SpladeModel;
pub use word_models::{Bm42Model, MiniCoilModel, MiniCoilOptions};
