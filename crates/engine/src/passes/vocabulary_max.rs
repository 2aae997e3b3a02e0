//! The last linear layer of a masked language model of which SPLADE wants the largest logits only.

use std::any::Any;
use std::sync::Arc;

use crate::graph::Graph;
use crate::ops::fused::{Linear, VocabularyMax};

/// Lets a packed graph that ends in one linear layer with constant weights give each sequence's largest results, or zero,
/// instead of all; says whether it does. `cu_seqlens` is the name of the input that says where sequences end.
pub(crate) fn take_vocabulary_max(graph: &mut Graph, cu_seqlens: &str) -> bool {
    let &[output] = graph.outputs.as_slice() else {
        return false;
    };
    let ends = graph.inputs.iter().copied().find(|id| graph.value(*id).name == cu_seqlens);
    let last = graph.nodes.iter().position(|node| node.outputs.contains(&Some(output)));
    let (Some(ends), Some(last)) = (ends, last) else {
        return false;
    };
    let node = &graph.nodes[last];
    let Some(linear) = (node.operator.as_ref() as &dyn Any).downcast_ref::<Linear>() else {
        return false;
    };
    let is_constant = |id: &Option<_>| id.is_none_or(|id| graph.constant(id).is_some());
    let is_one = matches!(node.inputs.len(), 2 | 3) && node.inputs[1..].iter().all(is_constant);
    if linear.activation.is_some() || !is_one {
        return false;
    }
    let operator = Arc::new(VocabularyMax { linear: linear.clone() });
    let bias = node.inputs.get(2).copied().flatten();
    let inputs = vec![node.inputs[0], node.inputs[1], bias, Some(ends)];
    let node = &mut graph.nodes[last];
    (node.operator, node.inputs) = (operator, inputs);
    graph.value_mut(output).declared = None;
    true
}
