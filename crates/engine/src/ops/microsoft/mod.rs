//! Operators that ONNX Runtime's optimizer writes, as its CPU provider computes them:
//! <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>.
//!
//! Numbers below f32 are computed in f32 and rounded once.

mod activation;
mod attention;
mod embedding;
mod group_query;
mod heads;
mod matmul;
mod multi_head;
mod normalization;
mod rotary;

pub(crate) use activation::{BiasActivation, Function};
pub(super) use attention::Context;
pub(crate) use attention::{Attention, SelfAttention};
pub(crate) use embedding::{EmbedLayerNormalization, Embeddings, MaskIndex, Table};
pub(crate) use group_query::GroupQueryAttention;
pub(super) use matmul::Activation;

pub(crate) use multi_head::MultiHeadAttention;
pub(crate) use normalization::{SimplifiedLayerNormalization, SkipLayerNormalization};

use super::{Entry, NodeReader};
use crate::graph::{Array, Dim, Info, Problem, problem};

pub(super) const OPERATORS: &[Entry] = &[
    Entry::microsoft("EmbedLayerNormalization", 7..=9, embedding::EmbedLayerNormalization::read),
    Entry::microsoft("Attention", 2..=7, attention::Attention::read),
    Entry::microsoft("MultiHeadAttention", 1..=10, multi_head::MultiHeadAttention::read),
    Entry::microsoft("GroupQueryAttention", 7..=17, group_query::GroupQueryAttention::read),
    Entry::microsoft("RotaryEmbedding", 4..=4, rotary::RotaryEmbedding::read),
    Entry::microsoft("SkipLayerNormalization", 3..=5, normalization::SkipLayerNormalization::read),
    Entry::microsoft(
        "SkipSimplifiedLayerNormalization",
        3..=4,
        normalization::SkipLayerNormalization::read_simplified,
    ),
    // ONNX Runtime registers this one in the standard's domain.
    Entry::new("SimplifiedLayerNormalization", 2..=2, normalization::SimplifiedLayerNormalization::read),
    Entry::microsoft("BiasGelu", 2..=2, |node| activation::BiasActivation::read(node, "BiasGelu")),
    Entry::microsoft("Gelu", 1..=1, |node| activation::BiasActivation::read(node, "Gelu")),
    Entry::microsoft("FastGelu", 1..=2, |node| activation::BiasActivation::read(node, "FastGelu")),
    Entry::microsoft("QuickGelu", 1..=1, |node| activation::BiasActivation::read(node, "QuickGelu")),
    Entry::microsoft("BiasAdd", 3..=3, activation::BiasAdd::read),
    Entry::microsoft("BiasSplitGelu", 2..=2, activation::BiasSplitGelu::read),
    Entry::microsoft("BiasSoftmax", 2..=2, activation::BiasSoftmax::read),
    Entry::microsoft("FusedMatMul", 2..=2, |node| matmul::FusedMatMul::read(node, "FusedMatMul")),
    Entry::microsoft("TransposeMatMul", 2..=2, |node| matmul::FusedMatMul::read(node, "TransposeMatMul")),
    Entry::microsoft("FusedGemm", 2..=3, matmul::FusedGemm::read),
];

/// The sizes of an array that must have as many dimensions.
pub(super) fn sizes<const N: usize>(array: &Array, what: &str) -> Result<[usize; N], Problem> {
    <[usize; N]>::try_from(array.shape())
        .map_err(|_| Problem::new(format!("{what} has shape {:?}, expected {N} dimensions", array.shape())))
}

/// What is known about the sizes of a value that must have as many dimensions.
pub(super) fn known_sizes<const N: usize>(info: &Info, what: &str) -> Result<[Dim; N], Problem> {
    let Some(shape) = &info.shape else {
        return Ok(std::array::from_fn(|_| Dim::unknown()));
    };
    <[Dim; N]>::try_from(shape.clone())
        .map_err(|shape| Problem::new(format!("{what} has shape {shape:?}, expected {N} dimensions")))
}

/// Fails when a value is of no floating-point type.
pub(super) fn expect_float(info: &Info, what: &str) -> Result<(), Problem> {
    if !info.dtype.is_float() {
        problem!("{what} is {}, expected floating-point numbers", info.dtype);
    }
    Ok(())
}

/// The elements of a vector that must be as long.
pub(super) fn vector_of_len<'a>(
    array: &'a Array,
    len: usize,
    what: &str,
) -> Result<std::borrow::Cow<'a, [f32]>, Problem> {
    if array.shape() != [len] {
        problem!("{what} has shape {:?}, expected [{len}]", array.shape());
    }
    array.to_floats()
}

/// A count that an attribute gives.
pub(super) fn count(node: &NodeReader, name: &str) -> Result<usize, Problem> {
    match node.attributes.int(name)? {
        Some(value @ 1..=65_536) => Ok(usize::try_from(value).expect("it is between 1 and 65536")),
        Some(value) => problem!("attribute `{name}` is {value}"),
        None => problem!("attribute `{name}` is missing"),
    }
}
