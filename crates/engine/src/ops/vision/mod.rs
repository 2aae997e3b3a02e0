//! Operators on images and other grids: `[batch, channels, spatial dimensions..]`.

mod col2im;
mod conv;
mod pool;
mod resize;
mod window;

pub(super) use conv::{Sizes, groups, infer as infer_conv};
pub(super) use pool::{GlobalPool, Pool};
pub(super) use window::Window;

use super::Entry;

pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("Conv", 2..=3, |node| conv::Conv::read(node, false)),
    Entry::microsoft("FusedConv", 2..=4, |node| conv::Conv::read(node, true)),
    Entry::new("ConvTranspose", 2..=3, conv::ConvTranspose::read),
    Entry::new("MaxPool", 1..=1, pool::MaxPool::read),
    Entry::new("AveragePool", 1..=1, |node| pool::Pool::read(node, "AveragePool")),
    Entry::new("LpPool", 1..=1, |node| pool::Pool::read(node, "LpPool")),
    Entry::new("GlobalAveragePool", 1..=1, |node| pool::GlobalPool::read(node, "GlobalAveragePool")),
    Entry::new("GlobalMaxPool", 1..=1, |node| pool::GlobalPool::read(node, "GlobalMaxPool")),
    Entry::new("GlobalLpPool", 1..=1, |node| pool::GlobalPool::read(node, "GlobalLpPool")),
    Entry::new("Col2Im", 3..=3, col2im::Col2Im::read),
    Entry::new("LRN", 1..=1, pool::Lrn::read),
    Entry::new("Resize", 1..=4, |node| resize::Resize::read(node, false)),
    Entry::new("Upsample", 1..=2, |node| resize::Resize::read(node, true)),
];
