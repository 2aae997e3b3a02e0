//! Rewrites of graphs, one per file: several nodes become one that a kernel computes.
//!
//! A pass looks at each node as the last of a pattern and puts an operator of [`fused`](crate::ops::fused) in its place
//! if the pattern is there; nodes that nobody reads any more are removed afterwards. A pass never changes what is
//! computed but by rounding: constants that a pattern fixes are compared, not assumed.

mod activation;
mod adapter;
mod add_norm;
mod layer_norm;
mod linear;
mod microsoft;
mod mlp;
mod next_token;
mod pattern;
mod quantized;
mod vocabulary_max;

pub(crate) use activation::scaled_by;
pub(crate) use next_token::{keep_columns, take_last_tokens};
pub(crate) use pattern::Pattern;
pub(crate) use vocabulary_max::take_vocabulary_max;

use crate::graph::Graph;
use crate::{Int8Scales, Precision, Result};

/// Fuses what runs on the CPU's kernels: linear layers of that precision, activations, layer normalisation, and with
/// [`Int8Scales::PerToken`] products of integers. An encoder's graph is fused by [`ImportPlan`](crate::ImportPlan).
///
/// # Errors
///
/// When a node does not take its inputs.
pub fn fuse(graph: &mut Graph, precision: Precision, int8: Int8Scales) -> Result<()> {
    crate::graph::passes::simplify(graph)?;
    if int8 == Int8Scales::PerToken {
        quantized::fuse(graph)?;
    }
    for pass in [microsoft::fuse, layer_norm::fuse, activation::fuse] {
        pass(graph)?;
    }
    adapter::fuse(graph, precision)?;
    linear::fuse(graph, precision)?;
    add_norm::fuse(graph)?;
    mlp::fuse(graph)?;
    crate::graph::passes::remove_dead_nodes(graph);
    Ok(())
}
