//! Semantic search over the lines of standard input: `cargo run --release --example search -p candlewick -- "query" < FILE`.

use std::io::{BufRead, Write};

use candlewick::TextEmbedding;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let query = std::env::args().nth(1).ok_or("usage: search QUERY < LINES")?;
    let lines = std::io::stdin().lock().lines().collect::<Result<Vec<_>, _>>()?;
    let model = TextEmbedding::load("sentence-transformers/all-MiniLM-L6-v2")?;

    let query = model.query_embed(&[query])?.remove(0);
    let passages = model.passage_embed(&lines)?;
    // Embeddings have unit length, so the dot product is the cosine.
    let cosine = |passage: &Vec<f32>| query.iter().zip(passage).map(|(a, b)| a * b).sum::<f32>();
    let mut found: Vec<(f32, &String)> = passages.iter().map(cosine).zip(&lines).collect();
    found.sort_by(|(a, _), (b, _)| b.total_cmp(a));

    let mut out = std::io::stdout().lock();
    for (cosine, line) in found.iter().take(5) {
        writeln!(out, "{cosine:.3}  {line}")?;
    }
    Ok(())
}
