//! Reranking by ColBERT: BM25 finds candidates in microseconds, and MaxSim of every query token with every passage token
//! ranks them. Passages' vectors are independent of the query, so that a real service would store them; token pooling
//! makes them fewer.
//!
//! ```sh
//! cargo run --release --bin colbert_rerank -- "how do I parse command line arguments"
//! ```

use anyhow::Result;
use candlewick::{
    LateInteractionTextEmbedding, MultiVectorEmbedding, SparseTextEmbedding, ThreadPool, TokenPooling,
    max_sim_scores, rank,
};
use candlewick_examples::corpus::{self, CorpusArgs};
use candlewick_examples::models::{LoadArgs, weigh_by_rarity};
use candlewick_examples::{print, progress};
use clap::Parser;

#[derive(Debug, Parser)]
#[command(about = "Reranking by ColBERT")]
struct Args {
    /// What to look for.
    query: String,
    #[command(flatten)]
    corpus: CorpusArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// The late-interaction model: an id, or a folder.
    #[arg(long, value_name = "MODEL", default_value = "answerdotai/answerai-colbert-small-v1")]
    model: String,
    /// Keep one vector for this many tokens of a passage.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pool_factor: usize,
    /// How many passages ColBERT ranks.
    #[arg(long, value_name = "N", default_value_t = 50)]
    candidates: usize,
    /// How many passages to show.
    #[arg(long, value_name = "N", default_value_t = 5)]
    limit: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let passages = corpus::read(&args.corpus)?;
    let texts: Vec<&str> = passages.iter().map(|passage| passage.text.as_str()).collect();
    progress(&format!("{} passages", passages.len()))?;

    let bm25 = SparseTextEmbedding::bm25(Default::default())?;
    let mut query = bm25.query_embed(&[&args.query])?.remove(0);
    let embeddings = bm25.passage_embed(&texts)?;
    weigh_by_rarity(&mut query, &embeddings);
    let scores: Vec<f32> = embeddings.iter().map(|passage| query.dot(passage)).collect();
    let mut candidates = rank(&scores, Some(args.candidates));
    candidates.retain(|ranked| ranked.score > 0.0);
    let best = candidates.iter().take(args.limit);
    print("BM25", best.map(|ranked| (ranked.score, &passages[ranked.index])))?;

    let colbert = args.load.open(
        &args.model,
        LateInteractionTextEmbedding::load_with,
        LateInteractionTextEmbedding::from_folder_with,
    )?;
    let query = colbert.query_embed(&[&args.query])?.remove(0);
    let texts: Vec<&str> = candidates.iter().map(|ranked| texts[ranked.index]).collect();
    let mut embeddings = colbert.passage_embed(&texts)?;
    let pool = ThreadPool::new(args.load.threads)?;
    if args.pool_factor > 1 {
        let vectors = |embeddings: &[MultiVectorEmbedding]| {
            embeddings.iter().map(MultiVectorEmbedding::len).sum::<usize>()
        };
        let before = vectors(&embeddings);
        embeddings = TokenPooling::new(args.pool_factor)?.pool_all(&embeddings, &pool);
        progress(&format!("{} vectors instead of {before}", vectors(&embeddings)))?;
    }
    let scores = max_sim_scores(&query, &embeddings, &pool)?;
    let reranked = rank(&scores, Some(args.limit));
    let hits = reranked.iter().map(|ranked| (ranked.score, &passages[candidates[ranked.index].index]));
    print(&format!("MaxSim, {}", args.model), hits)
}
