//! MUVERA (Jayaram et al., arXiv:2405.19504): one vector for a multi-vector embedding, such that the dot product of a
//! query's with a document's is near their MaxSim. With it, an index of single vectors finds candidates.
//!
//! The encodings are fastembed's (`fastembed.postprocess.Muvera`), so what was indexed with the one can be searched
//! with the other. They are computed in f64 as there, from the random numbers of NumPy, and rounded at the end.

use candlewick_engine::kernels::{PackedLinear, add_to_groups, project_f64};
use candlewick_engine::{Precision, ThreadPool};

use super::MultiVectorEmbedding;
use super::embedding::all_finite;
use super::numpy_random::NumpyRandom;
use crate::{Embedding, Error, Result};

/// What an encoding is made of. Only encodings of the same options can be compared.
///
/// ```
/// use candlewick_models::MuveraOptions;
///
/// let options = MuveraOptions { k_sim: 4, ..MuveraOptions::new(128) };
/// assert_eq!((options.dim, options.dim_proj, options.r_reps, options.seed), (128, 16, 20, 42));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MuveraOptions {
    /// Values of a vector.
    pub dim: usize,
    /// Random hyperplanes of a repetition, which part space into `2^k_sim` clusters.
    pub k_sim: usize,
    /// Values that a cluster's centre is projected to: at most `dim`, which means no projection.
    pub dim_proj: usize,
    /// Repetitions, each with other hyperplanes and another projection.
    pub r_reps: usize,
    /// The seed of the random numbers.
    pub seed: u64,
}

impl MuveraOptions {
    /// fastembed's defaults, for vectors of `dim` values: `k_sim` 5, `dim_proj` 16, `r_reps` 20, `seed` 42.
    pub fn new(dim: usize) -> Self {
        Self { dim, k_sim: 5, dim_proj: 16, r_reps: 20, seed: 42 }
    }

    /// Values of an encoding, if it is one that can be made.
    fn check(&self) -> Result<usize> {
        let Self { dim, k_sim, dim_proj, r_reps, .. } = *self;
        let invalid = |parameter, requested, problem: String| {
            Err(Error::InvalidParameter { of: "Muvera", parameter, requested, problem })
        };
        for (parameter, value) in [("dim", dim), ("dim_proj", dim_proj), ("r_reps", r_reps)] {
            if value == 0 {
                return invalid(parameter, value, "must be at least 1".into());
            }
        }
        if dim_proj > dim {
            return invalid("dim_proj", dim_proj, format!("more than the {dim} values of a vector"));
        }
        let clusters = u32::try_from(k_sim).ok().and_then(|bits| 1usize.checked_shl(bits));
        let product = |factors: [Option<usize>; 3]| {
            factors.into_iter().try_fold(1usize, |product, factor| product.checked_mul(factor?))
        };
        let fits = |size: Option<usize>| size.filter(|size| *size <= MAX_VALUES);
        let Some(size) = fits(product([Some(r_reps), clusters, Some(dim_proj)])) else {
            return invalid("k_sim", k_sim, format!("the encoding would have more than {MAX_VALUES} values"));
        };
        // The sums of a repetition, its hyperplanes, its projection.
        for factors in [
            [Some(1), clusters, Some(dim)],
            [r_reps, k_sim, dim].map(Some),
            [r_reps, dim, dim_proj].map(Some),
        ] {
            if fits(product(factors)).is_none() {
                return invalid("dim", dim, format!("a matrix would have more than {MAX_VALUES} values"));
            }
        }
        Ok(size)
    }
}

/// Values of an encoding, and of each matrix that it takes to make one: a gigabyte of f32.
const MAX_VALUES: usize = 1 << 28;

/// Makes encodings of a fixed size from multi-vector embeddings.
///
/// ```
/// use candlewick_models::{Muvera, MuveraOptions, MultiVectorEmbedding};
///
/// let muvera = Muvera::new(MuveraOptions { dim_proj: 2, ..MuveraOptions::new(3) })?;
/// let query = MultiVectorEmbedding::from_rows(&[[1.0, 0.0, 0.0]])?;
/// let document = MultiVectorEmbedding::from_rows(&[[0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])?;
/// let (query, document) = (muvera.query(&query)?, muvera.document(&document)?);
/// assert_eq!(document.len(), muvera.embedding_size());
/// assert_eq!(muvera.embedding_size(), 20 * 32 * 2);
/// # Ok::<(), candlewick_models::Error>(())
/// ```
#[derive(Debug)]
pub struct Muvera {
    options: MuveraOptions,
    embedding_size: usize,
    /// Of all repetitions: `[r_reps * k_sim, dim]`.
    hyperplanes: Vec<f64>,
    /// The same, for a first look; `None` where there are none.
    packed: Option<PackedLinear>,
    /// A dot product of the first look is within this many times the vector's length of the exact one.
    uncertainty: f64,
    /// Signs, `[r_reps, dim, dim_proj]`, rows padded to whole registers; empty where there is no projection.
    projections: Vec<f64>,
}

/// Columns of a projection come in whole registers.
const PADDING: usize = 8;

impl Muvera {
    /// Draws the hyperplanes and projections.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParameter`] when `dim_proj` is more than `dim`, a size other than `k_sim` is 0, or an encoding
    /// would have more than 2^28 values.
    pub fn new(options: MuveraOptions) -> Result<Self> {
        let embedding_size = options.check()?;
        let MuveraOptions { dim, k_sim, dim_proj, r_reps, seed } = options;
        let mut random = NumpyRandom::new(seed);
        let mut hyperplanes = vec![0.0; r_reps * k_sim * dim];
        for repetition in hyperplanes.chunks_exact_mut((k_sim * dim).max(1)) {
            // NumPy draws `[dim, k_sim]`.
            for at in 0..k_sim * dim {
                repetition[at % k_sim * dim + at / k_sim] = random.normal();
            }
        }
        let mut projections = Vec::new();
        if dim_proj < dim {
            let width = dim_proj.next_multiple_of(PADDING);
            projections.resize(r_reps * dim * width, 0.0);
            for row in projections.chunks_exact_mut(width) {
                row[..dim_proj].fill_with(|| f64::from(random.sign()));
            }
        }
        let packed = (k_sim > 0).then(|| {
            let weight: Vec<f32> = hyperplanes.iter().map(|value| *value as f32).collect();
            PackedLinear::new(&weight, vec![0.0; r_reps * k_sim], dim, None, Precision::F32)
                .expect("f32 holds every f32")
        });
        let longest = hyperplanes.chunks_exact(dim).map(length).fold(0.0, f64::max);
        // A dot product of `n` terms, summed in any order, is off by at most `n u / (1 - n u)` of the sum of their
        // magnitudes, which is at most the product of both lengths (Higham, Accuracy and Stability of Numerical
        // Algorithms, 3.1); rounding the hyperplane to f32 adds one more `u`.
        let rounding = (dim + 2) as f64 * f64::from(f32::EPSILON) / 2.0;
        let uncertainty = if rounding < 0.5 { rounding / (1.0 - rounding) * longest } else { f64::INFINITY };
        Ok(Self { options, embedding_size, hyperplanes, packed, uncertainty, projections })
    }

    /// The options that it was made with.
    pub fn options(&self) -> &MuveraOptions {
        &self.options
    }

    /// Values of an encoding: `r_reps * 2^k_sim * dim_proj`.
    pub fn embedding_size(&self) -> usize {
        self.embedding_size
    }

    /// The encoding of a document: the mean of each cluster's vectors, and for a cluster without any the first
    /// vector of the nearest cluster that has some.
    ///
    /// # Errors
    ///
    /// [`Error::NotEncodable`] when there are no vectors, or a value of the encoding is beyond f32;
    /// [`Error::DimMismatch`] when they are not of `dim` values.
    pub fn document(&self, document: &MultiVectorEmbedding) -> Result<Embedding> {
        self.encode(document, Side::Document, || "the document".into())
    }

    /// The encoding of a query: the sum of each cluster's vectors, zeros where there are none.
    ///
    /// # Errors
    ///
    /// As those of [`document`](Self::document).
    pub fn query(&self, query: &MultiVectorEmbedding) -> Result<Embedding> {
        self.encode(query, Side::Query, || "the query".into())
    }

    /// [`document`](Self::document) of each, in the order of the documents, on all threads of `pool`.
    ///
    /// # Errors
    ///
    /// As those of [`document`](Self::document), naming the document by its index.
    pub fn documents(&self, documents: &[MultiVectorEmbedding], pool: &ThreadPool) -> Result<Vec<Embedding>> {
        let documents: Vec<_> = documents.iter().enumerate().collect();
        pool.try_map(&documents, |(index, document)| {
            self.encode(document, Side::Document, || format!("document {index}"))
        })
    }

    fn encode(
        &self,
        embedding: &MultiVectorEmbedding,
        side: Side,
        what: impl Fn() -> String,
    ) -> Result<Embedding> {
        let MuveraOptions { dim, k_sim, dim_proj, r_reps, .. } = self.options;
        embedding.check_dim(dim, &what)?;
        if embedding.is_empty() {
            return Err(Error::NotEncodable { what: what(), problem: "it has no vectors" });
        }
        let clusters = self.clusters(embedding.values());
        let mut encoding = vec![0.0; self.embedding_size];
        for (repetition, out) in encoding.chunks_exact_mut(dim_proj << k_sim).enumerate() {
            let clusters: Vec<usize> = clusters.iter().skip(repetition).step_by(r_reps).copied().collect();
            self.encode_repetition(repetition, embedding.values(), &clusters, side, out);
        }
        if !all_finite(&encoding) {
            return Err(Error::NotEncodable { what: what(), problem: "a value would be beyond f32" });
        }
        Ok(encoding)
    }

    /// The cluster of each vector in each repetition: `[vectors, r_reps]`. Bit `i` says that the vector is on the
    /// positive side of hyperplane `i`.
    fn clusters(&self, values: &[f32]) -> Vec<usize> {
        let MuveraOptions { dim, k_sim, r_reps, .. } = self.options;
        let Some(packed) = &self.packed else {
            return vec![0; values.len() / dim * r_reps];
        };
        let products = packed.forward_rows(values).expect("every embedding is of whole vectors");
        let mut clusters = Vec::with_capacity(values.len() / dim * r_reps);
        for (row, products) in values.chunks_exact(dim).zip(products.chunks_exact(r_reps * k_sim)) {
            // Below the smallest normal number, rounding is no longer relative.
            let uncertain =
                (self.uncertainty * length(row) + dim as f64 * f64::from(f32::MIN_POSITIVE)) as f32;
            for (repetition, products) in products.chunks_exact(k_sim).enumerate() {
                let mut cluster = 0;
                for (bit, product) in products.iter().enumerate() {
                    // NaN and infinity come of sums beyond f32.
                    let is_positive = if product.abs() > uncertain && product.is_finite() {
                        *product > 0.0
                    } else {
                        self.is_positive(repetition * k_sim + bit, row)
                    };
                    cluster |= usize::from(is_positive) << bit;
                }
                clusters.push(cluster);
            }
        }
        clusters
    }

    fn is_positive(&self, hyperplane: usize, row: &[f32]) -> bool {
        let hyperplane = &self.hyperplanes[hyperplane * row.len()..][..row.len()];
        row.iter().zip(hyperplane).map(|(value, factor)| f64::from(*value) * factor).sum::<f64>() > 0.0
    }

    fn encode_repetition(
        &self,
        repetition: usize,
        values: &[f32],
        clusters: &[usize],
        side: Side,
        out: &mut [f32],
    ) {
        let MuveraOptions { dim, k_sim, dim_proj, .. } = self.options;
        let mut centres = Centres::new(values, clusters, dim, k_sim);
        if side == Side::Document {
            centres.fill(values, dim);
        }
        let (rows, width) = if dim_proj < dim {
            let width = dim_proj.next_multiple_of(PADDING);
            let mut rows = vec![0.0; centres.rows.len() / dim * width];
            let projection = &self.projections[repetition * dim * width..][..dim * width];
            project_f64(&mut rows, &centres.rows, projection, dim);
            let scale = 1.0 / (dim_proj as f64).sqrt();
            rows.iter_mut().for_each(|value| *value *= scale);
            (rows, width)
        } else {
            (centres.rows, dim)
        };
        for (out, row) in out.chunks_exact_mut(dim_proj).zip(&centres.row_of) {
            if let Some(row) = row {
                for (out, value) in out.iter_mut().zip(&rows[row * width..]) {
                    *out = *value as f32;
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Document,
    Query,
}

/// The centres of a repetition's clusters: a row for each that is different, so that none is projected twice.
struct Centres {
    /// Sums of the vectors of a cluster.
    rows: Vec<f64>,
    /// The row that is a cluster's centre; `None` for zeros.
    row_of: Vec<Option<usize>>,
    /// Of each row, how many vectors are in the sum, and which is the first.
    members: Vec<(usize, usize)>,
}

impl Centres {
    fn new(values: &[f32], clusters: &[usize], dim: usize, k_sim: usize) -> Self {
        let mut row_of = vec![None; 1 << k_sim];
        let mut members: Vec<(usize, usize)> = Vec::new();
        let mut groups = Vec::with_capacity(clusters.len());
        for (vector, cluster) in clusters.iter().enumerate() {
            let row = *row_of[*cluster].get_or_insert_with(|| {
                members.push((0, vector));
                members.len() - 1
            });
            members[row].0 += 1;
            groups.push(row);
        }
        let mut rows = vec![0.0; members.len() * dim];
        add_to_groups(&mut rows, values, &groups, dim);
        Self { rows, row_of, members }
    }

    /// Makes sums means, and gives clusters that are empty a centre: the first vector of the nearest cluster that is
    /// not, by the number of hyperplanes between them; of equally near ones the lowest.
    fn fill(&mut self, values: &[f32], dim: usize) {
        for (row, (count, _)) in self.rows.chunks_exact_mut(dim).zip(&self.members) {
            row.iter_mut().for_each(|value| *value /= *count as f64);
        }
        let nearest = nearest_occupied(&self.row_of);
        let mut first_of = vec![None; self.members.len()];
        let occupied = self.row_of.clone();
        for (cluster, nearest) in nearest.into_iter().enumerate() {
            let Some(row) = occupied[nearest].filter(|_| nearest != cluster) else {
                continue;
            };
            self.row_of[cluster] = Some(*first_of[row].get_or_insert_with(|| {
                let first = self.members[row].1;
                self.rows.extend(row_f64(&values[first * dim..][..dim]));
                self.rows.len() / dim - 1
            }));
        }
    }
}

/// For each cluster the occupied one whose number differs in the fewest bits, the lowest of several.
///
/// One pass for each bit: when bits below `i` are done, a cluster knows the nearest among those that differ from it
/// in these bits alone, and its neighbour across bit `i` knows those on the other side.
fn nearest_occupied(row_of: &[Option<usize>]) -> Vec<usize> {
    let mut nearest: Vec<(u32, usize)> = row_of
        .iter()
        .enumerate()
        .map(|(cluster, row)| (if row.is_some() { 0 } else { usize::BITS + 1 }, cluster))
        .collect();
    let mut bit = 1;
    while bit < nearest.len() {
        for pair in nearest.chunks_exact_mut(2 * bit) {
            let (zeros, ones) = pair.split_at_mut(bit);
            for (zero, one) in zeros.iter_mut().zip(ones) {
                let across = |(distance, cluster): (u32, usize)| (distance + 1, cluster);
                (*zero, *one) = ((*zero).min(across(*one)), (*one).min(across(*zero)));
            }
        }
        bit *= 2;
    }
    nearest.into_iter().map(|(_, cluster)| cluster).collect()
}

fn row_f64(row: &[f32]) -> impl Iterator<Item = f64> {
    row.iter().map(|value| f64::from(*value))
}

/// The Euclidean length, in eight sums that do not wait for each other.
fn length<T: Copy + Into<f64>>(values: &[T]) -> f64 {
    let mut sums = [0.0; 8];
    for chunk in values.chunks(sums.len()) {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            let value: f64 = (*value).into();
            *sum += value * value;
        }
    }
    sums.iter().sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    /// What xtask/fixtures/multi_vector.py recorded of fastembed.
    #[derive(Deserialize)]
    struct Case {
        dim: usize,
        k_sim: usize,
        dim_proj: usize,
        r_reps: usize,
        seed: u64,
        /// Vectors, which are NumPy's normal numbers of `vectors_seed`, rounded to f32.
        vectors: usize,
        vectors_seed: u64,
        document: Encoding,
        query: Encoding,
    }

    /// Every `step`th value of an encoding, and what shows that the others are right.
    #[derive(Deserialize)]
    struct Encoding {
        len: usize,
        step: usize,
        values: Vec<f64>,
        /// Of value times index modulo 97.
        weighted_sum: f64,
        non_zero: usize,
    }

    impl Encoding {
        fn check(&self, found: &[f32], what: &str) {
            assert_eq!(found.len(), self.len, "{what}");
            let sample = found.iter().step_by(self.step);
            assert_eq!(sample.len(), self.values.len(), "{what}");
            for (index, (found, expected)) in sample.zip(&self.values).enumerate() {
                let allowed = 1e-6 * expected.abs().max(1e-3);
                assert!(
                    (f64::from(*found) - expected).abs() <= allowed,
                    "{what}, {index}: {found}, {expected}"
                );
            }
            assert_eq!(found.iter().filter(|value| **value != 0.0).count(), self.non_zero, "{what}");
            let terms = || found.iter().enumerate().map(|(at, value)| f64::from(*value) * (at % 97) as f64);
            let allowed = 1e-7 * terms().map(f64::abs).sum::<f64>();
            assert!((terms().sum::<f64>() - self.weighted_sum).abs() <= allowed, "{what}");
        }
    }

    fn vectors(count: usize, dim: usize, seed: u64) -> MultiVectorEmbedding {
        let mut random = NumpyRandom::new(seed);
        let values = (0..count * dim).map(|_| random.normal() as f32).collect();
        MultiVectorEmbedding::new(dim, values).unwrap()
    }

    #[test]
    fn encodings_are_fastembeds() {
        let pool = ThreadPool::new(Some(2)).unwrap();
        for case in crate::multi_vector::tests::fixture::<Vec<Case>>("muvera.json") {
            let Case { dim, k_sim, dim_proj, r_reps, seed, .. } = case;
            let options = MuveraOptions { dim, k_sim, dim_proj, r_reps, seed };
            let muvera = Muvera::new(options).unwrap();
            let vectors = vectors(case.vectors, dim, case.vectors_seed);
            let what = format!("{} vectors, {options:?}", case.vectors);
            let document = muvera.document(&vectors).unwrap();
            case.document.check(&document, &format!("document of {what}"));
            case.query.check(&muvera.query(&vectors).unwrap(), &format!("query of {what}"));
            let documents = muvera.documents(&[vectors.clone(), vectors], &pool).unwrap();
            assert_eq!(documents, [document.clone(), document]);
        }
    }

    #[test]
    fn published_figures_are_met() {
        let published: serde_json::Value = crate::multi_vector::tests::fixture("published.json");
        let numbers = |path: &str| -> Vec<f64> {
            let value = published.pointer(path).unwrap_or_else(|| panic!("{path} is missing"));
            serde_json::from_value(value.clone()).unwrap_or_else(|_| vec![value.as_f64().unwrap()])
        };
        let param = |name: &str| numbers(&format!("/params/{name}"))[0] as usize;
        let options = MuveraOptions {
            dim: param("dim"),
            k_sim: param("k_sim"),
            dim_proj: param("dim_proj"),
            r_reps: param("r_reps"),
            seed: param("random_seed") as u64,
        };
        let muvera = Muvera::new(options).unwrap();
        let mut random = NumpyRandom::new(42);
        let input: Vec<f64> = (0..10 * options.dim).map(|_| random.uniform()).collect();
        assert_eq!(input[..4], numbers("/input_first"));
        let rows = MultiVectorEmbedding::new(options.dim, input.iter().map(|x| *x as f32).collect()).unwrap();

        // The originals' input is f64, ours f32: a sum of 128 products may differ in the seventh place.
        let close = |found: &[f32], path: &str| {
            let expected = numbers(path);
            assert!(found.len() >= expected.len() && !expected.is_empty());
            for (found, expected) in found.iter().zip(expected) {
                let difference = (f64::from(*found) - expected).abs();
                assert!(difference <= 1e-6 * expected.abs().max(1.0), "{path}: {found}, {expected}");
            }
        };
        let sums = |found: &[f32], path: &str| {
            let sum: f64 = found.iter().map(|value| f64::from(*value)).sum();
            let l2 = found.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            // Of ten thousand values.
            assert!((sum - numbers(&format!("{path}/sum"))[0]).abs() < 1e-3, "{path}: {sum}");
            assert!((l2 - numbers(&format!("{path}/l2"))[0]).abs() < 1e-4, "{path}: {l2}");
        };
        let document = muvera.document(&rows).unwrap();
        assert_eq!(document.len() as f64, numbers("/document/len")[0]);
        close(&document, "/tests/document_first");
        close(&document, "/document/first");
        close(&document[document.len() - 4..], "/document/last");
        sums(&document, "/document");
        let query = muvera.query(&rows).unwrap();
        let non_zero: Vec<f32> = query.iter().copied().filter(|value| *value != 0.0).collect();
        assert_eq!(non_zero.len() as f64, numbers("/query/non_zero")[0]);
        close(&non_zero, "/tests/query_first_non_zero");
        sums(&query, "/query");
    }

    #[test]
    fn the_first_look_never_decides_what_it_cannot_see() {
        let muvera = Muvera::new(MuveraOptions::new(40)).unwrap();
        let (dim, planes) = (40, muvera.hyperplanes.len() / 40);
        // Vectors that are nearly in a hyperplane, of lengths from the largest to the smallest.
        let mut rows = Vec::new();
        for (index, plane) in muvera.hyperplanes.chunks_exact(dim).enumerate() {
            let mut row: Vec<f64> =
                vectors(1, dim, index as u64).values().iter().map(|v| f64::from(*v)).collect();
            let dot: f64 = row.iter().zip(plane).map(|(a, b)| a * b).sum();
            let square: f64 = plane.iter().map(|value| value * value).sum();
            row.iter_mut().zip(plane).for_each(|(value, normal)| *value -= dot / square * normal);
            let scale = 10f64.powi(index as i32 % 80 - 42);
            rows.push(row.iter().map(|value| (value * scale) as f32).collect::<Vec<f32>>());
        }
        rows.extend([vec![0.0; dim], vec![f32::MAX; dim], vec![f32::MIN_POSITIVE / 8.0; dim]]);
        let embedding = MultiVectorEmbedding::from_rows(&rows).unwrap();
        let clusters = muvera.clusters(embedding.values());
        for (row, clusters) in rows.iter().zip(clusters.chunks_exact(20)) {
            for plane in 0..planes {
                assert_eq!(clusters[plane / 5] >> (plane % 5) & 1 == 1, muvera.is_positive(plane, row));
            }
        }
        let error = muvera.document(&embedding).unwrap_err().to_string();
        assert!(error.contains("beyond f32"), "{error}");
    }

    #[test]
    fn the_nearest_occupied_cluster_is_the_lowest_of_the_nearest() {
        for occupied in [0b1u64, 0x8000_0000, 0x0240_0801, 0x1122_4488, 0xffff_0000] {
            let row_of: Vec<Option<usize>> =
                (0..32).map(|at| (occupied >> at & 1 == 1).then_some(at)).collect();
            let nearest = nearest_occupied(&row_of);
            for (cluster, nearest) in nearest.into_iter().enumerate() {
                let candidates = (0..32usize).filter(|other| row_of[*other].is_some());
                let expected = candidates.min_by_key(|other| (cluster ^ other).count_ones());
                assert_eq!(Some(nearest), expected, "{occupied:x}");
            }
        }
    }

    #[test]
    fn impossible_options_are_refused() {
        let refused = |options| match Muvera::new(options).unwrap_err() {
            Error::InvalidParameter { parameter, .. } => parameter,
            other => panic!("{other}"),
        };
        let options = MuveraOptions::new(32);
        assert_eq!(refused(MuveraOptions { dim_proj: 33, ..options }), "dim_proj");
        assert_eq!(refused(MuveraOptions { dim_proj: 0, ..options }), "dim_proj");
        assert_eq!(refused(MuveraOptions { dim: 0, dim_proj: 0, ..options }), "dim");
        assert_eq!(refused(MuveraOptions { r_reps: 0, ..options }), "r_reps");
        for k_sim in [28, 63, 64, usize::MAX] {
            assert_eq!(refused(MuveraOptions { k_sim, ..options }), "k_sim");
        }
        assert_eq!(refused(MuveraOptions { r_reps: usize::MAX, k_sim: 0, dim_proj: 1, ..options }), "k_sim");
        assert_eq!(refused(MuveraOptions { dim: usize::MAX, r_reps: 1, k_sim: 0, ..options }), "dim");
    }

    #[test]
    fn vectors_must_be_there_and_of_the_right_length() {
        let pool = ThreadPool::new(Some(1)).unwrap();
        let muvera = Muvera::new(MuveraOptions::new(16)).unwrap();
        let (none, right, wrong) = (vectors(0, 16, 1), vectors(2, 16, 1), vectors(2, 17, 1));
        assert!(matches!(muvera.query(&none), Err(Error::NotEncodable { .. })));
        assert!(matches!(muvera.document(&none), Err(Error::NotEncodable { .. })));
        assert!(matches!(muvera.query(&wrong), Err(Error::DimMismatch { expected: 16, found: 17, .. })));
        let error = muvera.documents(&[right, wrong], &pool).unwrap_err();
        assert!(error.to_string().contains("document 1"), "{error}");
    }
}
