//! Fewer vectors for a document: vectors that are alike become their mean (Clavié, Chaffin and Adams,
//! arXiv:2409.14683).

use candlewick_engine::{ThreadPool, kernels};

use super::MultiVectorEmbedding;
use super::ward::Distances;
use crate::{Error, Result};

/// Hierarchical token pooling of documents, as PyLate does it (`pool_factor`, `protected_tokens`).
///
/// The vectors of a document are clustered by Ward's method on cosine distances, and each cluster is replaced by
/// the mean of its vectors, which is not normalised again. Meant for documents; queries have few vectors as it is.
///
/// ```
/// use candlewick_models::{MultiVectorEmbedding, TokenPooling};
///
/// // The first vector is protected, the other four are two pairs.
/// let document = MultiVectorEmbedding::from_rows(&[[0.6, 0.8], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])?;
/// let pooled = TokenPooling::new(2)?.pool(&document);
/// assert_eq!(pooled, MultiVectorEmbedding::from_rows(&[[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]])?);
/// # Ok::<(), candlewick_models::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenPooling {
    factor: usize,
    protected: usize,
}

impl TokenPooling {
    /// Leaves one vector in `factor`, and the first one, of the `[CLS]` token, as it is. 1 leaves all as they are.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParameter`] when the factor is 0.
    pub fn new(factor: usize) -> Result<Self> {
        if factor == 0 {
            let (of, parameter, problem) = ("token pooling", "factor", "must be at least 1".into());
            return Err(Error::InvalidParameter { of, parameter, requested: factor, problem });
        }
        Ok(Self { factor, protected: 1 })
    }

    /// Leaves the first `count` vectors of a document as they are; 1 unless this says otherwise.
    #[must_use]
    pub fn protected(self, count: usize) -> Self {
        Self { protected: count, ..self }
    }

    /// The document's protected vectors, then the means of `(len - protected) / factor` clusters, at least one; fewer
    /// where vectors are equally far from each other.
    ///
    /// Takes time and memory that grow with the square of the number of vectors: 8 bytes and a few nanoseconds for
    /// each pair.
    pub fn pool(&self, document: &MultiVectorEmbedding) -> MultiVectorEmbedding {
        let dim = document.dim();
        let (protected, pooled) = document.values().split_at(self.protected.min(document.len()) * dim);
        let points = pooled.len() / dim;
        let clusters = (points / self.factor).max(1);
        if clusters >= points {
            return document.clone();
        }
        let labels = cosine_distances(pooled, dim).labels(clusters);
        let means = means(pooled, dim, &labels);
        let values = protected.iter().copied().chain(means).collect();
        MultiVectorEmbedding::new(dim, values).expect("means of finite values are finite")
    }

    /// [`pool`](Self::pool) of each document, in the order of the documents, on all threads of `pool`.
    pub fn pool_all(
        &self,
        documents: &[MultiVectorEmbedding],
        pool: &ThreadPool,
    ) -> Vec<MultiVectorEmbedding> {
        let Ok(pooled) =
            pool.try_map(documents, |document| Ok::<_, std::convert::Infallible>(self.pool(document)));
        pooled
    }
}

fn cosine_distances(values: &[f32], dim: usize) -> Distances {
    let points = values.len() / dim;
    // In f64, where no square of an f32 overflows.
    let norm = |row: &[f32]| row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let normalized = values.chunks_exact(dim).flat_map(|row| {
        // What is no direction has distance 1 from everything.
        let scale = Some(1.0 / norm(row)).filter(|scale| scale.is_finite()).unwrap_or(0.0);
        row.iter().map(move |value| (f64::from(*value) * scale) as f32)
    });
    let normalized: Vec<f32> = normalized.collect();
    let similarities = kernels::product(&normalized, &normalized, [points, points, dim]);
    Distances::new(points, |i, j| f64::from(1.0 - similarities[i * points + j]).max(0.0))
}

/// The mean of each cluster's rows, in the order of the labels.
fn means(values: &[f32], dim: usize, labels: &[usize]) -> impl Iterator<Item = f32> {
    let clusters = labels.iter().max().map_or(0, |last| last + 1);
    let (mut sums, mut counts) = (vec![0.0; clusters * dim], vec![0.0; clusters]);
    for (row, label) in values.chunks_exact(dim).zip(labels) {
        counts[*label] += 1.0;
        for (sum, value) in sums[label * dim..].iter_mut().zip(row) {
            *sum += f64::from(*value);
        }
    }
    sums.into_iter().enumerate().map(move |(at, sum)| (sum / counts[at / dim]) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    /// What xtask/fixtures/multi_vector.py recorded of PyLate.
    #[derive(Deserialize)]
    struct Case {
        document: Vec<Vec<f32>>,
        pooled: Vec<Pooled>,
    }

    #[derive(Deserialize)]
    struct Pooled {
        factor: usize,
        protected: usize,
        vectors: Vec<Vec<f32>>,
    }

    #[test]
    fn pooled_vectors_are_pylates() {
        let pool = ThreadPool::new(Some(2)).unwrap();
        for case in crate::multi_vector::tests::fixture::<Vec<Case>>("token_pooling.json") {
            let document = MultiVectorEmbedding::from_rows(&case.document).unwrap();
            for expected in case.pooled {
                let pooling = TokenPooling::new(expected.factor).unwrap().protected(expected.protected);
                let pooled = pooling.pool(&document);
                let what = format!("{} vectors, {pooling:?}", document.len());
                assert_eq!(pooled.len(), expected.vectors.len(), "{what}");
                for (value, expected) in pooled.values().iter().zip(expected.vectors.iter().flatten()) {
                    assert!((value - expected).abs() <= 1e-6, "{what}: {value}, expected {expected}");
                }
                let both = pooling.pool_all(&[document.clone(), document.clone()], &pool);
                assert_eq!(both, [pooled.clone(), pooled]);
            }
        }
    }

    #[test]
    fn anything_finite_can_be_pooled() {
        let rows = [[f32::MAX, f32::MAX], [f32::MAX, f32::MAX], [0.0, 0.0], [1e-45, 0.0], [-f32::MAX, 1.0]];
        let document = MultiVectorEmbedding::from_rows(&rows).unwrap();
        for factor in 1..9 {
            let pooled = TokenPooling::new(factor).unwrap().protected(0).pool(&document);
            assert_eq!(pooled.len(), (5 / factor).max(1));
        }
        assert_eq!(TokenPooling::new(2).unwrap().protected(9).pool(&document), document);
        let none = MultiVectorEmbedding::new(3, vec![]).unwrap();
        assert_eq!(TokenPooling::new(2).unwrap().pool(&none), none);
        assert!(TokenPooling::new(0).is_err());
    }
}
