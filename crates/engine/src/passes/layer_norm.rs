//! Layer normalisation over the last axis, as one node or spelled out in nine:
//! `(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * weight + bias`.

use super::pattern::{Pattern, Replacement, is_like, replace};
use crate::Result;
use crate::graph::{Graph, Infos, Node, ValueId};
use crate::ops::fused::LayerNorm;
use crate::ops::normalisation::rows::LayerNormalization;

pub(super) fn fuse(graph: &mut Graph) -> Result<()> {
    let infos = graph.infer(&[])?;
    replace(graph, |pattern, node| {
        one_node(pattern, &infos, node).or_else(|| spelled_out(pattern, &infos, node))
    });
    Ok(())
}

fn one_node(pattern: &Pattern, infos: &Infos, node: &Node) -> Option<Replacement> {
    let LayerNormalization { axis, epsilon, has_statistics } = node.operator()?;
    let wants_more = *has_statistics && node.outputs.iter().skip(1).flatten().any(|id| pattern.is_used(*id));
    let (x, weight, bias) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let rank = infos.get(x)?.rank()?;
    let is_last = *axis == -1 || usize::try_from(*axis).is_ok_and(|axis| axis + 1 == rank);
    // The standard lets a row have no other width than the vector, unless that is 1.
    let is_wide = |id| {
        is_vector_for(pattern, infos, id, x)
            || pattern.graph.constant(id).is_some_and(|vector| matches!(vector.shape(), [len] if *len > 1))
    };
    if wants_more || !is_last || !is_wide(weight) || !is_wide(bias) || !is_like(infos, x, node.output()) {
        return None;
    }
    let inputs = vec![Some(x), Some(weight), Some(bias)];
    Some(Replacement::new(LayerNorm { epsilon: *epsilon }, inputs))
}

fn spelled_out(pattern: &Pattern, infos: &Infos, node: &Node) -> Option<Replacement> {
    if node.operator.name() != "Add" {
        return None;
    }
    let (scaled, bias) = with_vector(pattern, node)?;
    let (quotient, weight) = with_vector(pattern, pattern.named(scaled, "Mul")?)?;
    let quotient = pattern.named(quotient, "Div")?;
    let difference = pattern.named(quotient.input(0)?, "Sub")?;
    let (x, mean) = (difference.input(0)?, difference.input(1)?);
    let root = pattern.named(quotient.input(1)?, "Sqrt")?;
    let sum = pattern.named(root.input(0)?, "Add")?;
    let (variance, epsilon) = Pattern::both_orders(sum)
        .into_iter()
        .find_map(|(variance, epsilon)| Some((variance, pattern.scalar(epsilon)?)))?;
    let square = pattern.node(mean_of(pattern, infos, variance)?)?;
    let is_square = match square.operator.name() {
        "Pow" => pattern.is_scalar(square.input(1)?, 2.0),
        "Mul" => square.input(0) == square.input(1),
        _ => false,
    };
    // Some exporters subtract twice.
    let is_difference = |id: ValueId| {
        Some(id) == difference.output()
            || pattern.named(id, "Sub").is_some_and(|other| other.inputs == difference.inputs)
    };
    if !is_square || !is_difference(square.input(0)?) || mean_of(pattern, infos, mean)? != x {
        return None;
    }
    // Rows of another width would be widened, or the vectors repeated.
    let is_wide = |id| is_vector_for(pattern, infos, id, x);
    if !is_wide(weight) || !is_wide(bias) || !is_like(infos, x, node.output()) {
        return None;
    }
    let inputs = vec![Some(x), Some(weight), Some(bias)];
    Some(Replacement::new(LayerNorm { epsilon }, inputs))
}

/// Whether a constant is a vector with a number for each of a row of `x`.
fn is_vector_for(pattern: &Pattern, infos: &Infos, id: ValueId, x: ValueId) -> bool {
    let width = infos.get(x).and_then(|info| info.shape.as_ref()?.last());
    pattern.graph.constant(id).is_some_and(|vector| match (vector.shape(), width) {
        ([len], Some(width)) => width.is(*len as i64),
        _ => false,
    })
}

/// The operands of a node of which one is a constant vector, which comes second here.
fn with_vector(pattern: &Pattern, node: &Node) -> Option<(ValueId, ValueId)> {
    Pattern::both_orders(node)
        .into_iter()
        .find(|(_, vector)| pattern.graph.constant(*vector).is_some_and(|vector| vector.shape().len() == 1))
}

/// What `id` is the mean of over the last axis, which is kept.
fn mean_of(pattern: &Pattern, infos: &Infos, id: ValueId) -> Option<ValueId> {
    let x = pattern.named(id, "ReduceMean")?.input(0)?;
    let (from, to) = (infos.get(x)?.shape.as_ref()?, infos.get(id)?.shape.as_ref()?);
    let (last, rest) = to.split_last()?;
    (last.is(1) && !from.last()?.is(1) && from.len() == to.len() && from[..rest.len()] == *rest).then_some(x)
}
