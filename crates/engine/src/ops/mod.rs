//! Operators, one file per family: how attributes are read, what is known about the outputs, how they are computed.
//!
//! [`find`] is the registry. The semantics are those of the standard,
//! <https://onnx.ai/onnx/operators/>, and of ONNX Runtime's contrib operators,
//! <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>.

pub(crate) mod attention;
pub(crate) mod axes;
mod broadcast;
mod control;
pub(crate) mod elementwise;
pub(crate) mod fused;
pub(crate) mod indexing;
pub(crate) mod matmul;
mod matrix;
pub(crate) mod microsoft;
pub(crate) mod normalisation;
mod number;
mod permute;
pub(crate) mod quantized;
pub(crate) mod reduction;
pub(crate) mod shaping;
mod strided;
mod vision;

use std::ops::RangeInclusive;

use crate::graph::{Attributes, Operator, Problem, problem};

/// A node as an operator's reader sees it.
pub(crate) struct NodeReader<'a> {
    /// The version of the standard operator set.
    pub(crate) opset: i64,
    /// Inputs, those left out included; values that inner graphs capture come after them and do not count.
    pub(crate) num_inputs: usize,
    /// Outputs, those that nobody wants included.
    pub(crate) num_outputs: usize,
    pub(crate) attributes: &'a Attributes,
}

/// An operator that can be read.
pub(crate) struct Entry {
    /// Empty for the standard's.
    domain: &'static str,
    name: &'static str,
    inputs: RangeInclusive<usize>,
    read: fn(&NodeReader) -> Result<Box<dyn Operator>, Problem>,
}

impl Entry {
    /// An operator of the standard.
    const fn new(
        name: &'static str,
        inputs: RangeInclusive<usize>,
        read: fn(&NodeReader) -> Result<Box<dyn Operator>, Problem>,
    ) -> Self {
        Self { domain: "", name, inputs, read }
    }

    /// An operator that ONNX Runtime adds.
    const fn microsoft(
        name: &'static str,
        inputs: RangeInclusive<usize>,
        read: fn(&NodeReader) -> Result<Box<dyn Operator>, Problem>,
    ) -> Self {
        Self { domain: "com.microsoft", name, inputs, read }
    }

    /// The operator of a node.
    ///
    /// # Errors
    ///
    /// When it has another number of inputs or attributes than the operator.
    pub(crate) fn read(&self, node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        if !self.inputs.contains(&node.num_inputs) {
            let (least, most) = (self.inputs.start(), self.inputs.end());
            problem!("{} inputs, expected {least} to {most}", node.num_inputs);
        }
        let operator = (self.read)(node)?;
        match node.attributes.unread().as_slice() {
            [] => Ok(operator),
            unread => problem!("unknown attributes: {}", unread.join(", ")),
        }
    }
}

const FAMILIES: &[&[Entry]] = &[
    attention::rotary::OPERATORS,
    attention::sdpa::OPERATORS,
    control::OPERATORS,
    elementwise::arithmetic::OPERATORS,
    elementwise::cast::OPERATORS,
    elementwise::clip::OPERATORS,
    elementwise::function::OPERATORS,
    elementwise::logic::OPERATORS,
    elementwise::variadic::OPERATORS,
    indexing::OPERATORS,
    matmul::OPERATORS,
    matmul::einsum::OPERATORS,
    matmul::gemm::OPERATORS,
    microsoft::OPERATORS,
    normalisation::axes::OPERATORS,
    normalisation::channels::OPERATORS,
    normalisation::rows::OPERATORS,
    quantized::OPERATORS,
    reduction::arg::OPERATORS,
    reduction::reduce::OPERATORS,
    reduction::softmax::OPERATORS,
    shaping::OPERATORS,
    vision::OPERATORS,
];

/// The operator of this name, if it is supported.
pub(crate) fn find(domain: &str, name: &str) -> Option<&'static Entry> {
    FAMILIES.iter().copied().flatten().find(|entry| entry.domain == domain && entry.name == name)
}
