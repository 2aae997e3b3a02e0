//! Products with constant matrices, and the bias and activation that follow them.

use super::pattern::{Replacement, replace};
use crate::graph::{Graph, ValueId};
use crate::ops::fused::{Activate, Linear, WeightLayout};
use crate::{Precision, Result};

pub(super) fn fuse(graph: &mut Graph, precision: Precision) -> Result<()> {
    let is_matrix = |graph: &Graph, id: ValueId| {
        graph.constant(id).is_some_and(|weight| {
            weight.dtype().is_float() && weight.shape().len() == 2 && !weight.is_empty()
        })
    };
    let infos = graph.infer(&[])?;
    replace(graph, |pattern, node| {
        let weight = node.input(1).filter(|id| is_matrix(pattern.graph, *id))?;
        // A vector times a matrix has no rows.
        let is_rows = infos.get(node.input(0)?)?.rank().is_some_and(|rank| rank >= 2);
        if node.operator.name() != "MatMul" || !is_rows || pattern.graph.constant(node.input(0)?).is_some() {
            return None;
        }
        let linear = Linear { layout: WeightLayout::InOut, activation: None, precision };
        Some(Replacement::new(linear, vec![node.input(0), Some(weight)]))
    });
    replace(graph, |pattern, node| {
        if node.operator.name() != "Add" {
            return None;
        }
        super::pattern::Pattern::both_orders(node).into_iter().find_map(|(product, bias)| {
            let (product_node, linear) = pattern.operator::<Linear>(product)?;
            let out_features = pattern.graph.constant(product_node.input(1)?)?.shape()[1];
            let bias_shape = pattern.graph.constant(bias)?.shape();
            let fits = bias_shape == [out_features] && product_node.inputs.len() == 2;
            if !fits || !pattern.is_used_once(product) {
                return None;
            }
            let inputs = vec![product_node.input(0), product_node.input(1), Some(bias)];
            Some(Replacement::new(linear.clone(), inputs))
        })
    });
    replace(graph, |pattern, node| {
        let Activate { activation } = node.operator()?;
        let (linear_node, linear) = pattern.operator::<Linear>(node.input(0)?)?;
        if linear.activation.is_some() || !pattern.is_used_once(node.input(0)?) {
            return None;
        }
        let linear = Linear { activation: Some(*activation), ..linear.clone() };
        Some(Replacement::new(linear, linear_node.inputs.clone()))
    });
    Ok(())
}
