//! Axes and indices that may be counted from the end.

use crate::graph::{Problem, problem};

/// An axis of an array of this rank.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, Problem> {
    match index(axis, rank) {
        Some(axis) => Ok(axis),
        None => problem!("axis {axis} is not inside rank {rank}"),
    }
}

/// Different axes of an array of this rank, in the order given.
pub(crate) fn axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, Problem> {
    let mut is_seen = vec![false; rank];
    let mut distinct = Vec::with_capacity(axes.len().min(rank));
    for &given in axes {
        let axis = axis(given, rank)?;
        if std::mem::replace(&mut is_seen[axis], true) {
            problem!("axis {given} is given twice");
        }
        distinct.push(axis);
    }
    Ok(distinct)
}

/// An index into `len` elements.
pub(super) fn index(index: i64, len: usize) -> Option<usize> {
    if let Ok(index) = usize::try_from(index) {
        return (index < len).then_some(index);
    }
    len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_count_from_either_end() {
        assert_eq!(axis(-1, 3).unwrap(), 2);
        assert_eq!(axis(0, 3).unwrap(), 0);
        for outside in [3, -4, i64::MIN, i64::MAX] {
            assert!(axis(outside, 3).is_err());
        }
        assert!(axis(0, 0).is_err());
        assert_eq!(axes(&[-1, 0], 3).unwrap(), [2, 0]);
        assert!(axes(&[2, -1], 3).is_err());
    }
}
