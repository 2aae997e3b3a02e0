//! Rows of all tokens of a sequence but the first: some files make vectors of these alone.
//!
//! What treats each row alike gives the same of a row before and after others were left out. So nothing is left out of
//! packed rows: those of first tokens are computed like the others, and nobody may look at them.

use super::axes::constant_ints;
use super::layout::{Layout, Packed, TOKENS};
use super::{OutputLayout, Packer, Roles, batch_size, seq_len};
use crate::Precision;
use crate::graph::{Dim, Graph, Node, ValueId};
use crate::ops::axes;
use crate::ops::shaping::Slice;

pub(super) const TOKENS_BUT_FIRST: Layout = Layout::TokensButFirst { is_broadcast: false };

/// The padded length less one.
pub(crate) fn seq_len_but_first() -> Dim {
    seq_len().without(1)
}

/// The packed value of a `Slice` that takes all tokens, or all but the first, and all of each; `None` of another.
pub(super) fn pack_slice(packer: &mut Packer, node: &Node) -> Option<Packed> {
    let taken = taken(packer, node)?;
    match packer.packed(node.input(0)?) {
        Ok((x, TOKENS)) => Some((x, taken)),
        _ => None,
    }
}

/// Which of `[batch_size, seq_len, ...]` a `Slice` takes, where that is all tokens or all but the first.
fn taken(packer: &Packer, node: &Node) -> Option<Layout> {
    let slice: &Slice = node.operator()?;
    let (data, output) = (packer.shape(node.input(0)?)?, packer.shape(node.output()?)?);
    let ([batch, seq, rest @ ..], [all, kept, same @ ..]) = (data, output) else {
        return None;
    };
    if *batch != batch_size() || *seq != seq_len() || all != batch || same != rest {
        return None;
    }
    let ints = |index: usize| node.input(index).map(|id| constant_ints(packer, id)).transpose();
    let (starts, given, steps) = match &slice.attributes {
        Some(ranges) => (ranges.starts.clone(), ranges.axes.clone(), ranges.steps.clone()),
        None => (ints(1).ok()??, ints(3).ok()?, ints(4).ok()?),
    };
    // In steps of one, a range that is as long as what it is taken from is the whole.
    if steps.is_some_and(|steps| steps.iter().any(|step| *step != 1)) {
        return None;
    }
    if kept == seq {
        return Some(TOKENS);
    }
    let axes =
        given.map_or(Some((0..starts.len()).collect()), |given| axes::axes(&given, data.len()).ok())?;
    let start = starts.get(axes.iter().position(|axis| *axis == 1)?)?;
    (*start == 1 && *kept == seq_len_but_first()).then_some(TOKENS_BUT_FIRST)
}

/// Proves of a graph that need not run packed that the rows of `output` are those of all tokens but the first: as far back
/// as to where the first are left out, each row is made of the row of the same token alone.
///
/// # Errors
///
/// What is in the way.
pub(crate) fn check(graph: &Graph, roles: &Roles, output: ValueId) -> Result<(), String> {
    let infos = graph.infer(&[]).map_err(|error| error.to_string())?;
    let mut packer = Packer::new(graph, &infos, roles, Precision::F32);
    let mut wanted = vec![false; graph.num_values()];
    wanted[output.index()] = true;
    let mut behind = Vec::new();
    for node in graph.nodes.iter().rev() {
        if !node.outputs.iter().flatten().any(|id| wanted[id.index()]) {
            continue;
        }
        behind.push(node);
        if let Some(data) = node.input(0).filter(|_| taken(&packer, node) == Some(TOKENS_BUT_FIRST)) {
            // Whatever is there, it has a row for each token.
            let rows = packer.packed.add_value(&graph.value(data).name);
            packer.values.insert(data, Ok((rows, TOKENS)));
            continue;
        }
        node.inputs.iter().flatten().for_each(|id| wanted[id.index()] = true);
    }
    for node in behind.into_iter().rev() {
        if node.outputs.iter().flatten().all(|id| !packer.values.contains_key(id)) {
            packer.node(node);
        }
    }
    let (_, layout) = packer.packed(output).map_err(|reason| reason.words)?;
    match super::output_layout(layout) {
        Some(OutputLayout::TokensButFirst) => Ok(()),
        _ => Err(format!("the output is {layout}")),
    }
}
