//! What the examples share: texts to search, models by id or folder, fusion of rankings, and Qdrant behind one trait.
//!
//! The programs are in `src/bin`: `hybrid_search` keeps dense and sparse embeddings in Qdrant, in this process or as a
//! server; `rerank` fuses both in memory and lets a cross-encoder have the last word; `colbert_rerank` ranks by MaxSim.

pub mod corpus;
pub mod fusion;
pub mod models;
pub mod store;

use std::io::Write;

use corpus::Passage;

/// Prints the best passages, each with its score and the beginning of its text.
///
/// # Errors
///
/// When standard output cannot be written.
pub fn print<'a>(title: &str, hits: impl IntoIterator<Item = (f32, &'a Passage)>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{title}")?;
    let mut is_empty = true;
    for (place, (score, passage)) in hits.into_iter().enumerate() {
        is_empty = false;
        let start: String =
            passage.text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(90).collect();
        writeln!(out, "{:>3}. {score:8.4}  {}\n               {start}", place + 1, passage.source)?;
    }
    if is_empty {
        writeln!(out, "     nothing found")?;
    }
    writeln!(out)?;
    Ok(())
}

/// Says on standard error what goes on; standard output is for results.
///
/// # Errors
///
/// When standard error cannot be written.
pub fn progress(message: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stderr().lock(), "{message}")?)
}
