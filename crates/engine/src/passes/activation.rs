//! Activation functions that exporters spell out.
//!
//! - exact GELU: `x * 0.5 * (1 + erf(x / sqrt(2)))`, in whatever order the products are;
//! - tanh GELU: `0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`;
//! - SiLU and quick GELU: `x * sigmoid(x)` and `x * sigmoid(1.702 * x)`.

use super::pattern::{Pattern, Replacement, is_like, replace};
use crate::Result;
use crate::graph::{Graph, Node, ValueId};
use crate::kernels::Activation;
use crate::ops::fused::Activate;

pub(super) fn fuse(graph: &mut Graph) -> Result<()> {
    let infos = graph.infer(&[])?;
    replace(graph, |pattern, node| {
        let (x, activation) = gelu(pattern, node).or_else(|| sigmoid_product(pattern, node))?;
        let is_same = is_like(&infos, x, node.output());
        is_same.then(|| Replacement::new(Activate { activation }, vec![Some(x)]))
    });
    Ok(())
}

/// `x * 0.5 * (1 + f(x))`.
fn gelu(pattern: &Pattern, node: &Node) -> Option<(ValueId, Activation)> {
    let product = |id: ValueId| Pattern::both_orders(pattern.named(id, "Mul")?).first().copied();
    if node.operator.name() != "Mul" {
        return None;
    }
    for (a, b) in Pattern::both_orders(node) {
        let Some((c, d)) = product(b) else {
            continue;
        };
        for [first, second, third] in [[a, c, d], [c, a, d], [d, a, c]] {
            let Some((x, activation)) = one_plus(pattern, first) else {
                continue;
            };
            let is_half = |id| pattern.is_scalar(id, 0.5);
            if (second == x && is_half(third)) || (third == x && is_half(second)) {
                return Some((x, activation));
            }
        }
    }
    None
}

/// `1 + erf(x / sqrt(2))` or `1 + tanh(...)`, and what `x` is.
fn one_plus(pattern: &Pattern, id: ValueId) -> Option<(ValueId, Activation)> {
    let sum = pattern.named(id, "Add")?;
    let (function, _) =
        Pattern::both_orders(sum).into_iter().find(|(_, one)| pattern.is_scalar(*one, 1.0))?;
    if let Some(erf) = pattern.named(function, "Erf") {
        let scaled = pattern.node(erf.input(0)?)?;
        let x = times(pattern, scaled, std::f32::consts::FRAC_1_SQRT_2)?;
        return Some((x, Activation::GeluErf));
    }
    let tanh = pattern.named(function, "Tanh")?;
    let sum = times(pattern, pattern.node(tanh.input(0)?)?, (2.0 / std::f32::consts::PI).sqrt())?;
    let sum = pattern.named(sum, "Add")?;
    Pattern::both_orders(sum).into_iter().find_map(|(x, cubic)| {
        let cube = times(pattern, pattern.node(cubic)?, 0.044_715)?;
        is_cube_of(pattern, cube, x).then_some((x, Activation::GeluTanh))
    })
}

fn is_cube_of(pattern: &Pattern, cube: ValueId, x: ValueId) -> bool {
    let Some(node) = pattern.node(cube) else {
        return false;
    };
    let is_square = |id| {
        pattern.named(id, "Mul").is_some_and(|node| node.input(0) == Some(x) && node.input(1) == Some(x))
    };
    match node.operator.name() {
        "Pow" => node.input(0) == Some(x) && node.input(1).is_some_and(|id| pattern.is_scalar(id, 3.0)),
        "Mul" => Pattern::both_orders(node).into_iter().any(|(a, square)| a == x && is_square(square)),
        _ => false,
    }
}

/// What a node multiplies by this factor, or divides by its inverse.
fn times(pattern: &Pattern, node: &Node, factor: f32) -> Option<ValueId> {
    match node.operator.name() {
        "Mul" => Pattern::both_orders(node)
            .into_iter()
            .find_map(|(x, scalar)| pattern.is_scalar(scalar, factor).then_some(x)),
        "Div" => pattern.is_scalar(node.input(1)?, 1.0 / factor).then_some(node.input(0)?),
        _ => None,
    }
}

/// `x * factor` or `x / (1 / factor)`.
pub(crate) fn scaled_by(pattern: &Pattern, node: &Node) -> Option<(ValueId, f32)> {
    match node.operator.name() {
        "Mul" => {
            Pattern::both_orders(node).into_iter().find_map(|(x, factor)| Some((x, pattern.scalar(factor)?)))
        }
        "Div" => Some((node.input(0)?, 1.0 / pattern.scalar(node.input(1)?)?)),
        _ => None,
    }
}

fn sigmoid_product(pattern: &Pattern, node: &Node) -> Option<(ValueId, Activation)> {
    if node.operator.name() != "Mul" {
        return None;
    }
    Pattern::both_orders(node).into_iter().find_map(|(x, sigmoid)| {
        let inner = pattern.named(sigmoid, "Sigmoid")?.input(0)?;
        if inner == x {
            return Some((x, Activation::Silu));
        }
        let scaled = times(pattern, pattern.node(inner)?, 1.702)?;
        (scaled == x).then_some((x, Activation::QuickGelu))
    })
}
