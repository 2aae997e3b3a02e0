//! Qdrant in this process or as a server, behind one trait, so that a program does not care which.

mod embedded;
mod server;

use anyhow::Result;
use candlewick::{Embedding, SparseEmbedding};
use serde_json::{Value, json};

use crate::corpus::Passage;

pub use embedded::EmbeddedStore;
pub use server::ServerStore;

/// A collection of points.
pub trait Store {
    /// Adds points, or replaces those of the same ids.
    ///
    /// # Errors
    ///
    /// When the store fails.
    fn upsert(&self, points: Vec<Point>) -> Result<()>;

    /// Builds indices and writes everything to the disk.
    ///
    /// # Errors
    ///
    /// When the store fails.
    fn finish(&self) -> Result<()>;

    /// How many points there are.
    ///
    /// # Errors
    ///
    /// When the store fails.
    fn count(&self) -> Result<usize>;

    /// The best points, best first. Rankings by several vectors are fused, by places.
    ///
    /// # Errors
    ///
    /// When the store fails.
    fn search(&self, query: Query, limit: usize) -> Result<Vec<Hit>>;
}

/// What a collection's vectors are like.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Length of dense vectors.
    pub dim: usize,
    /// Whether the store multiplies sparse values by the inverse document frequency.
    pub idf: bool,
}

/// A passage with its vectors.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its own.
    pub id: u64,
    /// By cosine.
    pub dense: Embedding,
    /// By dot product.
    pub sparse: SparseEmbedding,
    /// What is shown of it.
    pub passage: Passage,
}

/// A query's vectors; what is `None` is not searched for.
#[derive(Clone, Debug)]
pub struct Query {
    /// Compared with [`Point::dense`].
    pub dense: Option<Embedding>,
    /// Compared with [`Point::sparse`].
    pub sparse: Option<SparseEmbedding>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Hit {
    /// A similarity, or the sum of reciprocal ranks.
    pub score: f32,
    /// The point's.
    pub passage: Passage,
}

/// The names of the vectors.
const DENSE: &str = "dense";
const SPARSE: &str = "sparse";

/// Of each ranking that is fused, this many points, or as many as are wanted if those are more.
const CANDIDATES: usize = 50;

fn payload(passage: Passage) -> Value {
    json!({ "source": passage.source, "text": passage.text })
}

fn passage(field: impl Fn(&str) -> Option<String>) -> Passage {
    Passage { source: field("source").unwrap_or_default(), text: field("text").unwrap_or_default() }
}
