//! Two linear layers with nothing but an activation between them.

use super::pattern::{Replacement, replace};
use crate::Result;
use crate::graph::Graph;
use crate::ops::fused::{Linear, Mlp};

pub(super) fn fuse(graph: &mut Graph) -> Result<()> {
    replace(graph, |pattern, node| {
        let down: &Linear = node.operator()?;
        let (up_node, up) = pattern.operator::<Linear>(node.input(0)?)?;
        if !pattern.is_used_once(node.input(0)?) || up_node.inputs.len() > 3 || node.inputs.len() > 3 {
            return None;
        }
        let inputs = [up_node.input(0), up_node.input(1), up_node.input(2), node.input(1), node.input(2)];
        Some(Replacement::new(Mlp { up: up.clone(), down: down.clone() }, inputs.to_vec()))
    });
    Ok(())
}
