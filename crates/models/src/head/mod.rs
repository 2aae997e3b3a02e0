//! Heads: from an encoder's rows to what the caller gets, one file each.

mod dense;

pub(crate) use dense::{DenseConfig, DenseHead};
