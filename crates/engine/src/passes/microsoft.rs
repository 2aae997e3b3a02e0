//! ONNX Runtime's own operators as what they are made of, so that the passes after this one see one dialect.

use super::pattern::{Additions, Pattern, Replacement, replace_with};
use crate::Result;
use crate::graph::{Graph, Node};
use crate::kernels::Activation;
use crate::ops::elementwise::{Arithmetic, Operation};
use crate::ops::fused::{Activate, CountOnes, LayerNorm, PositionIds};
use crate::ops::indexing::Gather;
use crate::ops::microsoft::{BiasActivation, EmbedLayerNormalization, Function, SkipLayerNormalization};

pub(super) fn fuse(graph: &mut Graph) -> Result<()> {
    replace_with(graph, |pattern, node, additions| {
        activation(node, additions)
            .or_else(|| skip_norm(pattern, node, additions))
            .or_else(|| embeddings(pattern, node, additions))
    });
    Ok(())
}

const ADD: Arithmetic = Arithmetic { operation: Operation::Add };

fn activation(node: &Node, additions: &mut Additions) -> Option<Replacement> {
    let BiasActivation { function, .. } = node.operator()?;
    let activation = match function {
        Function::GeluErf => Activation::GeluErf,
        Function::GeluTanh => Activation::GeluTanh,
        Function::QuickGelu { alpha } if *alpha == 1.702 => Activation::QuickGelu,
        Function::QuickGelu { .. } => return None,
    };
    let mut x = node.input(0)?;
    if let Some(bias) = node.input(1) {
        x = additions.node(ADD, &[x, bias]);
    }
    Some(Replacement::new(Activate { activation }, vec![Some(x)]))
}

/// `LayerNorm(x + skip + bias)`
fn skip_norm(pattern: &Pattern, node: &Node, additions: &mut Additions) -> Option<Replacement> {
    let SkipLayerNormalization { epsilon, is_simplified, .. } = node.operator()?;
    let output = |index: usize| node.outputs.get(index).copied().flatten().filter(|id| pattern.is_used(*id));
    if *is_simplified || output(1).is_some() || output(2).is_some() {
        return None;
    }
    let (mut x, skip) = (node.input(0)?, node.input(1)?);
    if let Some(bias) = node.input(4) {
        x = additions.node(ADD, &[x, bias]);
    }
    let (weight, bias) = (node.input(2)?, node.input(3)?);
    // The last output is the sum. The addition is fused again where nothing is broadcast and nobody else reads it.
    let sum = match output(3) {
        Some(sum) => {
            additions.node_for(sum, ADD, &[x, skip]);
            sum
        }
        None => additions.node(ADD, &[x, skip]),
    };
    let inputs = vec![Some(sum), Some(weight), Some(bias)];
    Some(Replacement::new(LayerNorm { epsilon: *epsilon }, inputs))
}

/// The sum of rows of tables, normalised; the second output counts real tokens.
fn embeddings(pattern: &Pattern, node: &Node, additions: &mut Additions) -> Option<Replacement> {
    let EmbedLayerNormalization { epsilon } = node.operator()?;
    if node.outputs.get(2).copied().flatten().is_some_and(|id| pattern.is_used(id)) {
        return None;
    }
    let ids = node.input(0)?;
    let rows = |additions: &mut Additions, table, ids| additions.node(Gather { axis: 0 }, &[table, ids]);
    let words = rows(additions, node.input(2)?, ids);
    let positions = match node.input(8) {
        Some(positions) => positions,
        None => additions.node(PositionIds, &[ids]),
    };
    let positions = rows(additions, node.input(3)?, positions);
    let mut sum = additions.node(ADD, &[words, positions]);
    if let (Some(segments), Some(table)) = (node.input(1), node.input(4)) {
        let segments = rows(additions, table, segments);
        sum = additions.node(ADD, &[sum, segments]);
    }
    if let (Some(Some(count)), Some(mask)) = (node.outputs.get(1), node.input(7)) {
        additions.node_for(*count, CountOnes, &[mask]);
    }
    let inputs = vec![Some(sum), Some(node.input(5)?), Some(node.input(6)?)];
    Some(Replacement::new(LayerNorm { epsilon: *epsilon }, inputs))
}
