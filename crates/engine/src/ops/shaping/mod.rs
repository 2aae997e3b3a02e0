//! Operators that move elements without computing with them: shapes, slices, copies and constants.

mod concat;
mod constant;
mod identity;
mod matrix;
mod pad;
mod repeat;
mod reshape;
mod sizes;
mod slice;
mod split;
mod transpose;

use super::Entry;
use crate::graph::{DataType, Dim, Info};

pub(crate) use concat::{Concat, concat};
pub(crate) use constant::{ConstantOfShape, Range, Value};
pub(crate) use identity::{Dropout, Identity};
pub(crate) use matrix::{EyeLike, Trilu};
pub(crate) use pad::Pad;
pub(crate) use repeat::{Expand, Tile};
pub(crate) use reshape::{Flatten, Reshape, Squeeze, Unsqueeze};
pub(crate) use sizes::{Shape, Size};
pub(crate) use slice::Slice;
pub(crate) use split::Split;
pub(crate) use transpose::{Blocks, Transpose};

pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("Shape", 1..=1, Shape::read),
    Entry::new("Size", 1..=1, Size::read),
    Entry::new("Reshape", 2..=2, Reshape::read),
    Entry::new("Flatten", 1..=1, Flatten::read),
    Entry::new("Squeeze", 1..=2, Squeeze::read),
    Entry::new("Unsqueeze", 1..=2, Unsqueeze::read),
    Entry::new("Transpose", 1..=1, Transpose::read),
    Entry::new("DepthToSpace", 1..=1, Blocks::read_depth_to_space),
    Entry::new("SpaceToDepth", 1..=1, Blocks::read_space_to_depth),
    Entry::new("Concat", 1..=usize::MAX, Concat::read),
    Entry::new("Split", 1..=2, Split::read),
    Entry::new("Slice", 1..=5, Slice::read),
    Entry::new("Expand", 2..=2, Expand::read),
    Entry::new("Tile", 2..=2, Tile::read),
    Entry::new("Pad", 1..=4, Pad::read),
    Entry::new("Identity", 1..=1, Identity::read),
    Entry::new("Dropout", 1..=3, Dropout::read),
    Entry::new("Constant", 0..=0, Value::read),
    Entry::new("ConstantOfShape", 1..=1, ConstantOfShape::read),
    Entry::new("Range", 3..=3, Range::read),
    Entry::new("Trilu", 1..=2, Trilu::read),
    Entry::new("EyeLike", 1..=1, EyeLike::read),
];

/// A value of which at most the shape is known.
fn shaped(dtype: DataType, shape: Option<Vec<Dim>>) -> Info {
    Info { dtype, shape, ints: None, constant: None }
}
