//! Rewrites of a graph, one per file.

mod dead;
mod fold;

pub(crate) use dead::remove_dead_nodes;
pub(crate) use fold::fold_constants;

use super::Graph;
use crate::Result;

/// What every graph gets before it runs.
pub(crate) fn simplify(graph: &mut Graph) -> Result<()> {
    fold_constants(graph)?;
    remove_dead_nodes(graph);
    Ok(())
}
