//! Operators that pick elements, or places for them, by index, value or order.

mod gather;
mod number;
mod scatter;
mod select;
mod sequence;
mod top_k;

use super::Entry;

pub(crate) use gather::{Gather, GatherElements, GatherNd};
pub(crate) use scatter::{ScatterElements, ScatterNd};
pub(crate) use select::{Compress, NonZero, OneHot, Unique};
pub(crate) use sequence::{CumSum, ReverseSequence};
pub(crate) use top_k::TopK;

pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("Gather", 2..=2, Gather::read),
    Entry::new("GatherElements", 2..=2, GatherElements::read),
    Entry::new("GatherND", 2..=2, GatherNd::read),
    Entry::new("Scatter", 3..=3, ScatterElements::read),
    Entry::new("ScatterElements", 3..=3, ScatterElements::read),
    Entry::new("ScatterND", 3..=3, ScatterNd::read),
    Entry::new("OneHot", 3..=3, OneHot::read),
    Entry::new("NonZero", 1..=1, NonZero::read),
    Entry::new("TopK", 1..=2, TopK::read),
    Entry::new("CumSum", 2..=2, CumSum::read),
    Entry::new("ReverseSequence", 2..=2, ReverseSequence::read),
    Entry::new("Compress", 2..=2, Compress::read),
    Entry::new("Unique", 1..=1, Unique::read),
];
