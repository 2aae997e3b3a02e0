//! Hybrid search with Qdrant: dense embeddings know meanings, sparse ones know words, and the store fuses both.
//!
//! ```sh
//! cargo run --release --bin hybrid_search -- index
//! cargo run --release --bin hybrid_search -- search "how do I parse command line arguments"
//! ```
//! Qdrant runs in this process and keeps its data in a folder; `--server http://localhost:6334` takes a server instead.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use candlewick::{SparseTextEmbedding, TextCrossEncoder, TextEmbedding};
use candlewick_examples::corpus::{self, CorpusArgs, Passage};
use candlewick_examples::models::{LoadArgs, requires_idf};
use candlewick_examples::store::{EmbeddedStore, Hit, Layout, Point, Query, ServerStore, Store};
use candlewick_examples::{print, progress};
use clap::Parser;

#[derive(Debug, Parser)]
#[command(about = "Hybrid search with Qdrant")]
struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    load: LoadArgs,
    /// The dense model: an id, or a folder.
    #[arg(
        long,
        global = true,
        value_name = "MODEL",
        default_value = "sentence-transformers/all-MiniLM-L6-v2"
    )]
    dense: String,
    /// The sparse model: an id, or a folder. BM25 needs no weights.
    #[arg(long, global = true, value_name = "MODEL", default_value = "Qdrant/bm25")]
    sparse: String,
    /// Where collections are kept, unless there is a server.
    #[arg(long, global = true, value_name = "DIR", default_value = "hybrid-search-store")]
    store: PathBuf,
    /// A Qdrant server's address for gRPC.
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Embed passages and store them, in place of those that were stored before.
    Index {
        #[command(flatten)]
        corpus: CorpusArgs,
    },
    /// Find passages.
    Search {
        /// What to look for.
        query: String,
        /// How many passages to show.
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Also show what either embedding finds alone.
        #[arg(long)]
        explain: bool,
        /// A cross-encoder that ranks the best passages anew: an id, or a folder.
        #[arg(long, value_name = "MODEL")]
        rerank: Option<String>,
    },
}

/// Passages that are embedded and stored together.
const CHUNK: usize = 256;

/// Passages that a cross-encoder reads.
const RERANKED: usize = 30;

fn main() -> Result<()> {
    let args = Args::parse();
    let dense = args.load.open(&args.dense, TextEmbedding::load_with, TextEmbedding::from_folder_with)?;
    let sparse = args.load.open(
        &args.sparse,
        SparseTextEmbedding::load_with,
        SparseTextEmbedding::from_folder_with,
    )?;
    match &args.command {
        Command::Index { corpus } => {
            let passages = corpus::read(corpus)?;
            let layout = Layout { dim: dense.embedding_size(), idf: requires_idf(&args.sparse) };
            let store: Box<dyn Store> = match &args.server {
                Some(url) => Box::new(ServerStore::create(url, &collection(&args), layout)?),
                None => Box::new(EmbeddedStore::create(&args.store.join(collection(&args)), layout)?),
            };
            index(store.as_ref(), passages, &dense, &sparse)
        }
        Command::Search { query, limit, explain, rerank } => {
            let store: Box<dyn Store> = match &args.server {
                Some(url) => Box::new(ServerStore::open(url, &collection(&args))?),
                None => Box::new(EmbeddedStore::open(&args.store.join(collection(&args)))?),
            };
            let limit = *limit as usize;
            let both = embed_query(query, &dense, &sparse)?;
            if *explain {
                let found = store.search(Query { sparse: None, ..both.clone() }, limit)?;
                show(&format!("dense, {}", args.dense), &found)?;
                let found = store.search(Query { dense: None, ..both.clone() }, limit)?;
                show(&format!("sparse, {}", args.sparse), &found)?;
            }
            let Some(model) = rerank else {
                return show("hybrid", &store.search(both, limit)?);
            };
            let cross_encoder =
                args.load.open(model, TextCrossEncoder::load_with, TextCrossEncoder::from_folder_with)?;
            let candidates = store.search(both, RERANKED.max(limit))?;
            let texts: Vec<&str> = candidates.iter().map(|hit| hit.passage.text.as_str()).collect();
            let ranked = cross_encoder.rank(query, &texts, &Default::default(), Some(limit))?;
            print(
                &format!("hybrid, reranked by {model}"),
                ranked.iter().map(|ranked| (ranked.score, &candidates[ranked.index].passage)),
            )
        }
    }
}

/// Named after the models: what was embedded by others cannot be compared.
fn collection(args: &Args) -> String {
    let name = format!("{} {}", args.dense, args.sparse);
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '_' };
    name.trim_start_matches(['/', '.']).chars().map(safe).collect()
}

fn index(
    store: &dyn Store,
    passages: Vec<Passage>,
    dense: &TextEmbedding,
    sparse: &SparseTextEmbedding,
) -> Result<()> {
    let count = passages.len();
    let mut done = 0;
    for chunk in passages.chunks(CHUNK) {
        let texts: Vec<&str> = chunk.iter().map(|passage| passage.text.as_str()).collect();
        let vectors = dense.passage_embed(&texts)?.into_iter().zip(sparse.passage_embed(&texts)?);
        let points = chunk.iter().cloned().zip(vectors).zip(done..);
        let point = |((passage, (dense, sparse)), id)| Point { id, dense, sparse, passage };
        store.upsert(points.map(point).collect())?;
        done += chunk.len() as u64;
        progress(&format!("{done} of {count} passages"))?;
    }
    store.finish()?;
    let stored = store.count()?;
    ensure!(stored == count, "{stored} of {count} passages were stored");
    Ok(())
}

/// A query of which nothing is left, such as one of stop words only, has no sparse embedding to search by.
fn embed_query(query: &str, dense: &TextEmbedding, sparse: &SparseTextEmbedding) -> Result<Query> {
    let sparse = sparse.query_embed(&[query])?.remove(0);
    Ok(Query {
        dense: Some(dense.query_embed(&[query])?.remove(0)),
        sparse: (!sparse.indices.is_empty()).then_some(sparse),
    })
}

fn show(title: &str, hits: &[Hit]) -> Result<()> {
    print(title, hits.iter().map(|hit| (hit.score, &hit.passage)))
}
