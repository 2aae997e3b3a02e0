//! Late interaction (Khattab and Zaharia, ColBERT, arXiv:2004.12832): how well a document's vectors answer a
//! query's.

use candle_core::{Result, bail};

use super::lanes::{Kernel, Lanes, dispatch};
use super::scratch::Scratch;
use super::tile::{for_tiles, product_tile, transpose_rows};

/// The sum over a query's vectors of the largest dot product with any of a document's, for each document.
///
/// `query` is `[query_vectors, dim]` and each document `[vectors, dim]`, finite: a maximum may pass over NaN. A
/// document without vectors scores negative infinity. The score of a document does not depend on the others.
///
/// # Errors
///
/// When the length of the query or of a document is no multiple of `dim`.
pub fn max_sim(query: &[f32], documents: &[&[f32]], dim: usize) -> Result<Vec<f32>> {
    if dim == 0 || !query.len().is_multiple_of(dim) {
        bail!("max_sim: a query of {} values in vectors of {dim}", query.len());
    }
    if let Some(wrong) = documents.iter().find(|document| !document.len().is_multiple_of(dim)) {
        bail!("max_sim: a document of {} values in vectors of {dim}", wrong.len());
    }
    let mut scores = vec![0.0; documents.len()];
    dispatch(MaxSim { query, documents, dim, scores: &mut scores });
    Ok(scores)
}

struct MaxSim<'a> {
    query: &'a [f32],
    documents: &'a [&'a [f32]],
    dim: usize,
    scores: &'a mut [f32],
}

/// Registers of query vectors that a tile's columns are: ColBERT's 32 vectors are one tile of AVX-512.
const WIDE: usize = 2;

impl Kernel for MaxSim<'_> {
    /// Query vectors are in lanes and a document's in rows, so maxima go down columns.
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { query, documents, dim, scores } = self;
        let (width, padded_dim) = (WIDE * L::LANES, dim.next_multiple_of(L::LANES));
        let mut scratch = Scratch::take();
        let [rows, columns, lanes_of_maxima] =
            scratch.slices([width * padded_dim, width * padded_dim, width]);
        // Lanes past the last query vector are computed from what is left in memory, and not summed.
        for block in query.chunks(width * dim) {
            for (to, from) in rows.chunks_exact_mut(padded_dim).zip(block.chunks_exact(dim)) {
                to[..dim].copy_from_slice(from);
            }
            transpose_rows::<L, WIDE>(lanes, rows, columns, padded_dim);
            for (document, score) in documents.iter().zip(scores.iter_mut()) {
                let mut maxima = [lanes.splat(f32::NEG_INFINITY); WIDE];
                for_tiles!(L, 0..document.len() / dim, |row, ROWS| {
                    let zero = [[lanes.splat(0.0); WIDE]; ROWS];
                    // SAFETY: the document has `dim` values in each row below `row + ROWS`, and there are
                    // `padded_dim` rows of `width` columns.
                    let tile = unsafe {
                        let left = document.as_ptr().add(row * dim);
                        product_tile(lanes, zero, left, (dim, 1), columns.as_ptr(), width, dim)
                    };
                    for products in tile {
                        for (max, product) in maxima.iter_mut().zip(products) {
                            *max = lanes.max(product, *max);
                        }
                    }
                });
                for (max, to) in maxima.into_iter().zip(lanes_of_maxima.chunks_exact_mut(L::LANES)) {
                    // SAFETY: the chunk is a register long.
                    unsafe { lanes.store(to.as_mut_ptr(), max) };
                }
                for max in &lanes_of_maxima[..block.len() / dim] {
                    *score += max;
                }
            }
        }
    }
}

/// What [`max_sim`] computes for one document, in f64.
pub fn max_sim_reference(query: &[f32], document: &[f32], dim: usize) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let best = |q| document.chunks_exact(dim).map(|d| dot(q, d)).fold(f64::NEG_INFINITY, f64::max);
    query.chunks_exact(dim).map(best).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lanes::tests::with_all_lanes;
    use super::*;
    use crate::kernels::math::tests::noise;

    #[derive(Clone, Copy)]
    struct Check<'a> {
        query: &'a [f32],
        documents: &'a [&'a [f32]],
        dim: usize,
    }

    impl Kernel for Check<'_> {
        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) {
            let Self { query, documents, dim } = self;
            let mut scores = vec![0.0; documents.len()];
            MaxSim { query, documents, dim, scores: &mut scores }.run(lanes);
            for (score, document) in scores.iter().zip(documents) {
                let mut alone = [0.0];
                MaxSim { query, documents: &[document], dim, scores: &mut alone }.run(lanes);
                assert_eq!(*score, alone[0], "bit-identical alone");
                let expected = max_sim_reference(query, document, dim);
                let allowed = 1e-6 * expected.abs().max(100.0);
                assert!(f64::from(*score) == expected || (f64::from(*score) - expected).abs() < allowed);
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_reference_and_ignores_other_documents(
            query_vectors in 0usize..70,
            lengths in prop::collection::vec(0usize..40, 0..4),
            dim in 1usize..50,
            seed in any::<u32>(),
        ) {
            let query = noise(query_vectors * dim, seed);
            let documents: Vec<Vec<f32>> =
                lengths.iter().zip(1..).map(|(length, salt)| noise(length * dim, seed ^ salt)).collect();
            let documents: Vec<&[f32]> = documents.iter().map(Vec::as_slice).collect();
            with_all_lanes(Check { query: &query, documents: &documents, dim });
        }
    }

    #[test]
    fn lengths_must_be_multiples() {
        assert!(max_sim(&[1.0; 3], &[], 2).is_err());
        assert!(max_sim(&[1.0; 4], &[&[1.0; 3]], 2).is_err());
        assert!(max_sim(&[], &[], 0).is_err());
        assert_eq!(max_sim(&[1.0; 4], &[&[1.0; 2], &[]], 2).unwrap(), [4.0, f32::NEG_INFINITY]);
    }
}
