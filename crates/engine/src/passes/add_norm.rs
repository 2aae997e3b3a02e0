//! An addition that is normalised right away: a layer's output and its input, mostly.

use super::pattern::{Replacement, replace};
use crate::Result;
use crate::graph::Graph;
use crate::ops::fused::LayerNorm;

pub(super) fn fuse(graph: &mut Graph) -> Result<()> {
    let infos = graph.infer(&[])?;
    replace(graph, |pattern, node| {
        let norm: &LayerNorm = node.operator()?;
        let [Some(x), weight, bias] = node.inputs[..] else {
            return None;
        };
        let sum = pattern.named(x, "Add").filter(|_| pattern.is_used_once(x))?;
        let (a, b) = (sum.input(0)?, sum.input(1)?);
        let shape = |id| infos.get(id)?.shape.as_ref();
        if shape(a)? != shape(b)? {
            return None;
        }
        Some(Replacement::new(norm.clone(), vec![Some(a), weight, bias, Some(b)]))
    });
    Ok(())
}
