//! Sparse embeddings: few of very many dimensions, most often one for each word.

mod bm25;
mod embedding;

pub use bm25::{Bm25, Bm25Options, StemFn, Stemming, StopWords, TokenizeFn};
pub use embedding::SparseEmbedding;
