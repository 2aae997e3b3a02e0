//! Products with constant matrices, and the bias and activation that follow them.

use super::pattern::{Replacement, replace};
use crate::graph::{DataType, Graph, ValueId};
use crate::ops::fused::{Activate, Linear, WeightLayout};
use crate::ops::matmul::gemm::Gemm;
use crate::{Precision, Result};

pub(super) fn fuse(graph: &mut Graph, precision: Precision) -> Result<()> {
    let is_matrix = |graph: &Graph, id: ValueId| {
        graph.constant(id).is_some_and(|weight| {
            // The kernels compute in f32.
            weight.dtype().is_float()
                && weight.dtype() != DataType::F64
                && weight.shape().len() == 2
                && !weight.is_empty()
        })
    };
    let infos = graph.infer(&[])?;
    replace(graph, |pattern, node| {
        let weight = node.input(1).filter(|id| is_matrix(pattern.graph, *id))?;
        // A vector times a matrix has no rows.
        let is_rows = infos.get(node.input(0)?)?.rank().is_some_and(|rank| rank >= 2);
        if !is_rows || pattern.graph.constant(node.input(0)?).is_some() {
            return None;
        }
        let linear = |layout| Linear { layout, activation: None, precision };
        if let Some(gemm) = node.operator::<Gemm>() {
            let shape = pattern.graph.constant(weight)?.shape();
            let out_features = shape[usize::from(!gemm.transpose_b)];
            let bias = node.input(2);
            let bias_fits = bias.is_none_or(|id| {
                pattern.graph.constant(id).is_some_and(|bias| bias.shape() == [out_features])
            });
            if gemm.alpha != 1.0 || (gemm.beta != 1.0 && bias.is_some()) || gemm.transpose_a || !bias_fits {
                return None;
            }
            let layout = if gemm.transpose_b { WeightLayout::OutIn } else { WeightLayout::InOut };
            return Some(Replacement::new(linear(layout), vec![node.input(0), Some(weight), bias]));
        }
        if node.operator.name() != "MatMul" {
            return None;
        }
        Some(Replacement::new(linear(WeightLayout::InOut), vec![node.input(0), Some(weight)]))
    });
    replace(graph, |pattern, node| {
        if node.operator.name() != "Add" {
            return None;
        }
        super::pattern::Pattern::both_orders(node).into_iter().find_map(|(product, bias)| {
            let (product_node, linear) = pattern.operator::<Linear>(product)?;
            let shape = pattern.graph.constant(product_node.input(1)?)?.shape();
            let out_features = shape[usize::from(linear.layout == WeightLayout::InOut)];
            let bias_shape = pattern.graph.constant(bias)?.shape();
            let fits = bias_shape == [out_features] && product_node.input(2).is_none();
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
