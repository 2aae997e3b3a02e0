//! Operators along dimensions: sums, extremes and their places, softmax.

pub(super) mod arg;
pub(crate) mod reduce;
pub(crate) mod softmax;

use crate::graph::{Problem, problem};

/// A dimension that may be counted from the end.
pub(super) fn dimension(axis: i64, rank: usize) -> Result<usize, Problem> {
    let from_start = if axis < 0 { axis.checked_add_unsigned(rank as u64) } else { Some(axis) };
    match from_start.and_then(|axis| usize::try_from(axis).ok()) {
        Some(dimension) if dimension < rank => Ok(dimension),
        _ => problem!("axis {axis} is not inside rank {rank}"),
    }
}

/// A shape around one dimension: the elements before it, along it, and after it.
fn around(shape: &[usize], dimension: usize) -> (usize, usize, usize) {
    (shape[..dimension].iter().product(), shape[dimension], shape[dimension + 1..].iter().product())
}
