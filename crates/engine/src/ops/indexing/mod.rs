//! Operators that pick elements, or places for them, by index.

mod gather;

use super::Entry;

pub(crate) use gather::{Gather, GatherElements, GatherNd};

pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("Gather", 2..=2, Gather::read),
    Entry::new("GatherElements", 2..=2, GatherElements::read),
    Entry::new("GatherND", 2..=2, GatherNd::read),
];
