//! Late interaction's score (Khattab and Zaharia, ColBERT, arXiv:2004.12832).

use std::borrow::Borrow;

use candlewick_engine::ThreadPool;
use candlewick_engine::kernels;

use super::MultiVectorEmbedding;
use crate::Result;

/// How well a document answers a query: the sum over the query's vectors of the largest dot product with any of
/// the document's.
///
/// A query without vectors scores 0 with every document: the sum of nothing. A document without vectors scores
/// negative infinity with any other query, because 0 would put it before documents that score less.
///
/// ```
/// use candlewick_models::{MultiVectorEmbedding, max_sim};
///
/// let query = MultiVectorEmbedding::from_rows(&[[1.0, 0.0], [0.0, 1.0]])?;
/// let document = MultiVectorEmbedding::from_rows(&[[0.5, 0.0], [0.25, 0.25], [0.0, -1.0]])?;
/// assert_eq!(max_sim(&query, &document)?, 0.5 + 0.25);
/// # Ok::<(), candlewick_models::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::DimMismatch`](crate::Error::DimMismatch) when their vectors differ in length.
pub fn max_sim(query: &MultiVectorEmbedding, document: &MultiVectorEmbedding) -> Result<f32> {
    document.check_dim(query.dim(), || "the document".into())?;
    Ok(scores(query, &[document.values()])[0])
}

/// The [`max_sim`] of a query with each document, in the order of the documents.
///
/// Runs on all threads of `pool`. A score does not depend on their number or on the other documents, down to the
/// bits.
///
/// ```
/// use candlewick_engine::ThreadPool;
/// use candlewick_models::{MultiVectorEmbedding, max_sim_scores, top_k};
///
/// let query = MultiVectorEmbedding::new(2, vec![1.0, 0.0])?;
/// let documents: Vec<_> = [0.1, 0.9, 0.5].map(|x| MultiVectorEmbedding::new(2, vec![x, 1.0])).into_iter().collect::<Result<_, _>>()?;
/// let scores = max_sim_scores(&query, &documents, &ThreadPool::new(None)?)?;
/// assert_eq!(scores, [0.1, 0.9, 0.5]);
/// assert_eq!(top_k(&scores, 2), [1, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`Error::DimMismatch`](crate::Error::DimMismatch), naming the first document whose vectors have another length
/// than the query's.
pub fn max_sim_scores<D: Borrow<MultiVectorEmbedding> + Sync>(
    query: &MultiVectorEmbedding,
    documents: &[D],
    pool: &ThreadPool,
) -> Result<Vec<f32>> {
    for (index, document) in documents.iter().enumerate() {
        document.borrow().check_dim(query.dim(), || format!("document {index}"))?;
    }
    let vectors: usize = documents.iter().map(|document| document.borrow().len()).sum();
    let products = vectors.saturating_mul(query.values().len());
    // Parts that are not worth a thread's waking are not made, nor fewer than balance the threads.
    let parts = (products / MIN_PRODUCTS_OF_PART).clamp(1, PARTS_OF_THREAD * pool.threads());
    let parts: Vec<&[D]> = documents.chunks(documents.len().div_ceil(parts).max(1)).collect();
    let score = |part: &&[D]| {
        let documents: Vec<&[f32]> = part.iter().map(|document| document.borrow().values()).collect();
        Ok(scores(query, &documents))
    };
    Ok(pool.try_map(&parts, score)?.concat())
}

/// Indices of the `k` largest scores, the largest first, or of all where there are fewer. Of equal scores the
/// one of the lower index comes first; NaN comes last.
pub fn top_k(scores: &[f32], k: usize) -> Vec<usize> {
    let best_first = |&a: &usize, &b: &usize| {
        let nan_last = scores[a].is_nan().cmp(&scores[b].is_nan());
        let larger_first = scores[b].partial_cmp(&scores[a]);
        nan_last.then(larger_first.unwrap_or(std::cmp::Ordering::Equal)).then(a.cmp(&b))
    };
    let mut indices: Vec<usize> = (0..scores.len()).collect();
    if k < indices.len() {
        indices.select_nth_unstable_by(k, best_first);
        indices.truncate(k);
    }
    indices.sort_unstable_by(best_first);
    indices
}

/// A thread computes these in about fifty microseconds.
const MIN_PRODUCTS_OF_PART: usize = 1 << 22;

/// Documents differ in length, and threads in what else runs on their cores.
const PARTS_OF_THREAD: usize = 16;

fn scores(query: &MultiVectorEmbedding, documents: &[&[f32]]) -> Vec<f32> {
    kernels::max_sim(query.values(), documents, query.dim()).expect("every embedding is of whole vectors")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn noise(len: usize, dim: usize, seed: usize) -> MultiVectorEmbedding {
        let value = |at: usize| ((at * 7919 + seed * 104_729) as f32 * 0.137).sin();
        MultiVectorEmbedding::new(dim, (0..len * dim).map(value).collect()).unwrap()
    }

    #[test]
    fn threads_and_neighbours_change_nothing() {
        let query = noise(32, 48, 1);
        // Enough that there are several parts.
        let documents: Vec<_> = (0..300).map(|index| noise(index % 90, 48, index)).collect();
        let alone: Vec<f32> = documents.iter().map(|d| max_sim(&query, d).unwrap()).collect();
        for threads in [1, 2, 3] {
            let pool = ThreadPool::new(Some(threads)).unwrap();
            assert_eq!(max_sim_scores(&query, &documents, &pool).unwrap(), alone);
            let references: Vec<&MultiVectorEmbedding> = documents.iter().collect();
            assert_eq!(max_sim_scores(&query, &references, &pool).unwrap(), alone);
        }
        let expected = kernels::max_sim_reference(query.values(), documents[77].values(), 48);
        assert!((f64::from(alone[77]) - expected).abs() < 1e-4);
    }

    #[test]
    fn nothing_is_scored_as_documented() {
        let pool = ThreadPool::new(Some(2)).unwrap();
        let (none, one) = (noise(0, 3, 1), noise(2, 3, 2));
        assert_eq!(max_sim(&none, &one).unwrap(), 0.0);
        assert_eq!(max_sim(&none, &none).unwrap(), 0.0);
        assert_eq!(max_sim(&one, &none).unwrap(), f32::NEG_INFINITY);
        assert!(max_sim_scores::<MultiVectorEmbedding>(&one, &[], &pool).unwrap().is_empty());
        assert_eq!(max_sim_scores(&none, &[&one, &none], &pool).unwrap(), [0.0, 0.0]);
    }

    #[test]
    fn other_lengths_are_errors_that_name_the_document() {
        let pool = ThreadPool::new(Some(1)).unwrap();
        let error = max_sim_scores(&noise(1, 3, 1), &[noise(1, 3, 2), noise(1, 4, 3)], &pool).unwrap_err();
        assert!(matches!(error, Error::DimMismatch { expected: 3, found: 4, .. }));
        assert!(error.to_string().contains("document 1"), "{error}");
        assert!(max_sim(&noise(1, 3, 1), &noise(0, 4, 2)).is_err());
    }

    #[test]
    fn the_best_come_first_and_ties_in_order() {
        let scores = [1.0, f32::NAN, 3.0, f32::NEG_INFINITY, 3.0, 2.0];
        assert_eq!(top_k(&scores, 0), [0usize; 0]);
        assert_eq!(top_k(&scores, 1), [2]);
        assert_eq!(top_k(&scores, 3), [2, 4, 5]);
        assert_eq!(top_k(&scores, 9), [2, 4, 5, 0, 3, 1]);
        assert_eq!(top_k(&[], 3), [0usize; 0]);
    }
}
