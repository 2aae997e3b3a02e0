//! Heads: what becomes of hidden states.

mod dense;

pub(crate) use dense::DenseHead;
