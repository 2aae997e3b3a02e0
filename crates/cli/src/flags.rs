//! Which flags of `candlewick embed` are for which models: one that would do nothing is an error.

use std::fmt;

use anyhow::Result;
use candlewick::{DeviceChoice, Int8Scales, Precision};

use crate::Usage;
use crate::args::EmbedArgs;

/// Models that have the same flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Dense,
    Sparse,
    /// Sparse, without a network.
    Bm25,
    LateInteraction,
    Hybrid,
}

const DENSE: &[Family] = &[Family::Dense];
const SPARSE: &[Family] = &[Family::Sparse, Family::Bm25];
const BM25: &[Family] = &[Family::Bm25];
const LATE_INTERACTION: &[Family] = &[Family::LateInteraction];
const VECTORS: &[Family] = &[Family::Dense, Family::LateInteraction];
const NETWORKS: &[Family] = &[Family::Dense, Family::Sparse, Family::LateInteraction, Family::Hybrid];

/// Refuses flags that are not for `family`.
pub(crate) fn check(args: &EmbedArgs, family: Family) -> Result<()> {
    let (model, embedding, bm25, compute) = (&args.source, &args.embedding, &args.bm25, &args.compute);
    let flags = [
        ("--pooling", embedding.pooling.is_some(), DENSE),
        ("--normalize", embedding.normalize.is_some(), VECTORS),
        ("--dim", embedding.dim.is_some(), DENSE),
        ("--top-k", embedding.top_k.is_some(), SPARSE),
        ("--threshold", embedding.threshold.is_some(), SPARSE),
        ("--pool-factor", embedding.pool_factor.is_some(), LATE_INTERACTION),
        ("--language", bm25.language.is_some(), BM25),
        ("--k", bm25.k.is_some(), BM25),
        ("--b", bm25.b.is_some(), BM25),
        ("--avg-len", bm25.avg_len.is_some(), BM25),
        ("--max-length", model.max_length.is_some(), NETWORKS),
        ("--output-name", model.output_name.is_some(), NETWORKS),
        ("--graph-input", !model.graph_input.is_empty(), NETWORKS),
        ("--batch-tokens", compute.batch_tokens.is_some(), NETWORKS),
        ("--device", compute.device != DeviceChoice::Cpu, NETWORKS),
        ("--precision", compute.precision != Precision::F32, NETWORKS),
        ("--int8", compute.int8 != Int8Scales::PerToken, NETWORKS),
    ];
    match flags.iter().find(|(_, is_given, families)| *is_given && !families.contains(&family)) {
        Some((flag, ..)) => Err(Usage::new(format!("{flag} does not apply to {family}"))),
        None => Ok(()),
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Dense => "dense models",
            Family::Sparse => "this sparse model",
            Family::Bm25 => "BM25, which has no network",
            Family::LateInteraction => "late interaction models",
            Family::Hybrid => "hybrid models",
        })
    }
}
