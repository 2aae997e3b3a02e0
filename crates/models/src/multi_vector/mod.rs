//! What is computed from multi-vector embeddings, one vector per token or image patch: late interaction's score
//! ([`max_sim`]), fewer vectors for a document ([`TokenPooling`]), one vector for all ([`Muvera`]).
//!
//! Nothing here needs a model: the embeddings may come from anywhere.

mod embedding;
mod max_sim;
mod muvera;
mod numpy_random;
mod token_pooling;
mod ward;
mod ziggurat;

pub use embedding::MultiVectorEmbedding;
pub use max_sim::{max_sim, max_sim_scores, top_k};
pub use muvera::{Muvera, MuveraOptions};
pub use token_pooling::TokenPooling;

#[cfg(test)]
mod tests {
    /// A file that xtask/fixtures/multi_vector.py made.
    pub(super) fn fixture<T: serde::de::DeserializeOwned>(name: &str) -> T {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/multi_vector");
        let json = std::fs::read_to_string(std::path::Path::new(root).join(name)).unwrap();
        serde_json::from_str(&json).unwrap()
    }
}
