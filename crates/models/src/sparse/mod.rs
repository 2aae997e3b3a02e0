//! Sparse embeddings: few of very many dimensions, most often one for each word.

mod embedding;
mod splade;

pub use embedding::SparseEmbedding;
pub use splade::SpladeModel;
