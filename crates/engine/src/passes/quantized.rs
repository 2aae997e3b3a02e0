//! Products of integers as linear layers with a scale for each token.
//!
//! `quantize_dynamic` of ONNX Runtime gives all activations of a batch one scale, so that a text's result depends on the
//! longest and loudest text beside it. Here the same integer weights multiply inputs that have a scale for each token:
//! no text depends on another, and results are closer to those of the model before it was quantised.

use super::pattern::{Additions, Pattern, Replacement, replace_with};
use crate::graph::{Array, Constant, Graph, Node, ValueId};
use crate::ops::elementwise::{Arithmetic, Operation};
use crate::ops::fused::{CountOnes, LayerNorm, Linear, PositionIds, WeightLayout};
use crate::ops::indexing::Gather;
use crate::ops::microsoft::Attention;
use crate::ops::quantized::{DynamicQuantizeLinear, QAttention, QEmbedLayerNormalization};
use crate::{Precision, Result};

pub(super) fn fuse(graph: &mut Graph) -> Result<()> {
    replace_with(graph, |pattern, node, additions| {
        product(pattern, node, additions)
            .or_else(|| attention(pattern, node, additions))
            .or_else(|| embeddings(pattern, node, additions))
    });
    Ok(())
}

/// `(q W) * (input scale * weight scale)`
fn product(pattern: &Pattern, node: &Node, additions: &mut Additions) -> Option<Replacement> {
    if node.operator.name() != "Mul" {
        return None;
    }
    Pattern::both_orders(node).into_iter().find_map(|(sums, scales)| {
        let cast = pattern.named(sums, "Cast")?;
        let sums = pattern.named(cast.input(0)?, "MatMulInteger")?;
        let (x, input_scale) = quantized(pattern, sums.input(0)?, sums.input(2))?;
        let scales = pattern.named(scales, "Mul")?;
        let (_, weight_scale) =
            Pattern::both_orders(scales).into_iter().find(|(scale, _)| *scale == input_scale)?;
        linear(pattern, additions, x, sums.input(1)?, weight_scale, sums.input(3), None)
    })
}

/// The f32 value that an integer value and its zero point are the quantisation of, and its scale.
fn quantized(pattern: &Pattern, values: ValueId, zero: Option<ValueId>) -> Option<(ValueId, ValueId)> {
    let (node, _) = pattern.operator::<DynamicQuantizeLinear>(values)?;
    let (scale, own_zero) = (node.outputs.get(1).copied()??, node.outputs.get(2).copied()??);
    (zero == Some(own_zero)).then_some((node.input(0)?, scale))
}

fn linear(
    pattern: &Pattern,
    additions: &mut Additions,
    x: ValueId,
    weight: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
    bias: Option<ValueId>,
) -> Option<Replacement> {
    let weight = dequantized(pattern, weight, scale, zero)?;
    if weight.rank() != 2 {
        return None;
    }
    let weight = additions.constant(weight);
    let linear = Linear { layout: WeightLayout::InOut, activation: None, precision: Precision::Int8 };
    let mut inputs = vec![Some(x), Some(weight)];
    inputs.extend(bias.map(Some));
    Some(Replacement::new(linear, inputs))
}

/// What constant integers stand for; scales and zero points are one, or one for each column.
fn dequantized(pattern: &Pattern, weight: ValueId, scale: ValueId, zero: Option<ValueId>) -> Option<Array> {
    let constant = |id: ValueId| pattern.graph.constant(id).map(Constant::array);
    let (weight, scale) = (constant(weight)?, constant(scale)?);
    let columns = *weight.shape().last()?;
    let scales = scale.to_floats().ok()?;
    let zeros = match zero {
        Some(zero) => constant(zero)?.to_ints().ok()?,
        None => vec![0],
    };
    let fits = |len: usize| len == 1 || len == columns;
    if !fits(scales.len()) || !fits(zeros.len()) {
        return None;
    }
    let ints = weight.to_ints().ok()?;
    let values = ints.iter().enumerate().map(|(index, value)| {
        let column = index % columns;
        (value - zeros[column % zeros.len()]) as f32 * scales[column % scales.len()]
    });
    Array::new(weight.shape(), values.collect()).ok()
}

/// `QAttention` as `Attention`, whose projection's weight is what the integers stand for.
fn attention(pattern: &Pattern, node: &Node, additions: &mut Additions) -> Option<Replacement> {
    let QAttention { attention } = node.operator()?;
    if node.input(8).is_some() {
        return None;
    }
    let (x, scale) = quantized(pattern, node.input(0)?, node.input(6))?;
    if node.input(3) != Some(scale) {
        return None;
    }
    let weight = dequantized(pattern, node.input(1)?, node.input(4)?, node.input(7))?;
    let weight = additions.constant(weight);
    let operator = Attention { attention: attention.clone(), qkv_hidden_sizes: None };
    Some(Replacement::new(operator, vec![Some(x), Some(weight), node.input(2), node.input(5)]))
}

/// `QEmbedLayerNormalization` over tables of what the integers stand for.
fn embeddings(pattern: &Pattern, node: &Node, additions: &mut Additions) -> Option<Replacement> {
    let QEmbedLayerNormalization { epsilon } = node.operator()?;
    let table = |additions: &mut Additions, index: usize| {
        let (scale, zero) = (node.input(index + 6)?, node.input(index + 11)?);
        Some(additions.constant(dequantized(pattern, node.input(index)?, scale, Some(zero))?))
    };
    let add = Arithmetic { operation: Operation::Add };
    let ids = node.input(0)?;
    let words = table(additions, 2)?;
    let words = additions.node(Gather { axis: 0 }, &[words, ids]);
    let rows = table(additions, 3)?;
    let positions = additions.node(PositionIds, &[ids]);
    let positions = additions.node(Gather { axis: 0 }, &[rows, positions]);
    let mut sum = additions.node(add, &[words, positions]);
    if let (Some(segments), Some(_)) = (node.input(1), node.input(4)) {
        let rows = table(additions, 4)?;
        let segments = additions.node(Gather { axis: 0 }, &[rows, segments]);
        sum = additions.node(add, &[sum, segments]);
    }
    let (weight, bias) = (table(additions, 5)?, table(additions, 6)?);
    if let (Some(Some(count)), Some(mask)) = (node.outputs.get(1), node.input(7)) {
        additions.node_for(*count, CountOnes, &[mask]);
    }
    Some(Replacement::new(LayerNorm { epsilon: *epsilon }, vec![Some(sum), Some(weight), Some(bias)]))
}
