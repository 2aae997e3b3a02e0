//! Which axes an operator looks along: the elements of an output that differ in their index on any other axis come
//! from inputs that differ in it, too.

use super::Packer;
use crate::graph::{Node, ValueId};
use crate::ops::axes;
use crate::ops::fused::LayerNorm;
use crate::ops::indexing::Gather;
use crate::ops::microsoft::{SimplifiedLayerNormalization, SkipLayerNormalization};
use crate::ops::normalisation::axes::AxesNormalization;
use crate::ops::normalisation::rows::{LayerNormalization, RmsNormalization};
use crate::ops::reduction::reduce::Reduce;
use crate::ops::reduction::softmax::Softmax;
use crate::ops::shaping::{Concat, Slice, Split};

/// The axes of the first input, which has this rank, that a node reduces, normalises, cuts or joins.
///
/// # Errors
///
/// When the operator's axes are not known, or are no constant.
pub(super) fn along(packer: &Packer, node: &Node, rank: usize) -> Result<Vec<usize>, String> {
    let one =
        |given: i64| axes::axis(given, rank).map(|axis| vec![axis]).map_err(|problem| problem.to_string());
    let some = |given: &[i64]| axes::axes(given, rank).map_err(|problem| problem.to_string());
    let from = |given: i64| one(given).map(|first| (first[0]..rank).collect());
    if let Some(Softmax { axis, flattened, .. }) = node.operator() {
        return if *flattened { from(*axis) } else { one(*axis) };
    }
    if let Some(LayerNormalization { axis, .. }) = node.operator() {
        return from(*axis);
    }
    if let Some(RmsNormalization { axis, .. }) = node.operator() {
        return from(*axis);
    }
    if let Some(SimplifiedLayerNormalization { axis, .. }) = node.operator() {
        return from(*axis);
    }
    if node.operator::<LayerNorm>().is_some() || node.operator::<SkipLayerNormalization>().is_some() {
        return one(-1);
    }
    if let Some(AxesNormalization { axes, .. }) = node.operator() {
        return some(axes);
    }
    if let Some(Reduce { axes, noop_with_empty_axes, .. }) = node.operator() {
        let given = match (axes, node.input(1)) {
            (Some(axes), _) => axes.clone(),
            (None, Some(id)) => constant_ints(packer, id)?,
            (None, None) => Vec::new(),
        };
        return if given.is_empty() && !noop_with_empty_axes { from(0) } else { some(&given) };
    }
    if let Some(Gather { axis }) = node.operator() {
        return one(*axis);
    }
    if let Some(Concat { axis }) = node.operator() {
        return one(*axis);
    }
    if let Some(Split { axis, .. }) = node.operator() {
        return one(*axis);
    }
    if let Some(Slice { attributes }) = node.operator() {
        let (given, len) = match (attributes, node.input(3)) {
            (Some(ranges), _) => (ranges.axes.clone(), ranges.starts.len()),
            (None, Some(id)) => (Some(constant_ints(packer, id)?), 0),
            (None, None) => {
                let starts = node.input(1).ok_or("it has no starts")?;
                (None, constant_ints(packer, starts)?.len())
            }
        };
        // The first ones if none are given.
        return given.map_or_else(|| Ok((0..len.min(rank)).collect()), |given| some(&given));
    }
    Err("this operator may look across tokens".to_owned())
}

/// The elements of a constant of integers.
pub(super) fn constant_ints(packer: &Packer, id: ValueId) -> Result<Vec<i64>, String> {
    let constant = packer.graph.constant(id).ok_or("an input is no constant")?;
    constant.array().to_ints().map_err(|problem| problem.to_string())
}
