//! What a node computes.

use std::any::Any;
use std::fmt;

use std::sync::Arc;

use super::{Array, Constant, Info};

/// Why an operator cannot be read, inferred or run; whoever called it adds which node of which file it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(String);

impl Problem {
    /// A problem in words that follow the name of a node.
    pub fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }
}

/// `return Err(Problem)` with a formatted message.
macro_rules! problem {
    ($($message:tt)*) => {
        return Err($crate::graph::Problem::new(format!($($message)*)))
    };
}
pub(crate) use problem;

/// An operator with its attributes.
///
/// Passes recognise operators by their Rust type: upcast to [`Any`].
pub trait Operator: fmt::Debug + Send + Sync + Any {
    /// The operator's name, as ONNX spells it.
    fn name(&self) -> &str;

    /// What is known about the outputs. An output whose shape depends on elements has
    /// [unknown](super::Dim::unknown) dimensions.
    ///
    /// # Errors
    ///
    /// When the operator does not take such inputs.
    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem>;

    /// Whether equal inputs give equal outputs.
    fn is_deterministic(&self) -> bool {
        true
    }

    /// Whether inputs and outputs may be of [types of few bits](super::low_bit): an operator that moves elements, or
    /// converts them, may say so. Others never see them.
    fn takes_low_bit(&self) -> bool {
        false
    }

    /// The operator with its constant inputs taken in, in whatever layout it likes: called once, before the first run.
    /// An input that is computed is `Some(None)`.
    ///
    /// # Errors
    ///
    /// When the operator does not take such constants.
    fn prepare(&self, _constants: &Operands<Option<&Constant>>) -> Result<Option<Prepared>, Problem> {
        Ok(None)
    }

    /// Computes the outputs: as many as the operator can have or fewer, in order.
    ///
    /// # Errors
    ///
    /// When the operator does not take such inputs.
    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem>;
}

/// What an operator becomes once its constants are known.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The operator with the constants in it.
    pub operator: Arc<dyn Operator>,
    /// Which of the inputs it still reads, in order.
    pub inputs: Vec<usize>,
}

/// The inputs of a node, some of which may be left out.
#[derive(Clone, Debug)]
pub struct Operands<T> {
    operands: Vec<Option<T>>,
}

impl<T> Operands<T> {
    /// Inputs in order; `None` for one that is left out.
    pub fn new(operands: Vec<Option<T>>) -> Self {
        Self { operands }
    }

    /// How many there are, those left out between others included.
    pub fn len(&self) -> usize {
        self.operands.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.operands.is_empty()
    }

    /// An input that the operator needs.
    ///
    /// # Errors
    ///
    /// When it is left out.
    pub fn get(&self, index: usize) -> Result<&T, Problem> {
        self.optional(index).ok_or_else(|| missing(index))
    }

    /// An input that may be left out.
    pub fn optional(&self, index: usize) -> Option<&T> {
        self.operands.get(index).and_then(Option::as_ref)
    }

    /// An input to keep, of which this was perhaps the last use: then its memory can be written to.
    ///
    /// # Errors
    ///
    /// When it is left out, or was taken before.
    pub fn take(&mut self, index: usize) -> Result<T, Problem> {
        self.take_optional(index).ok_or_else(|| missing(index))
    }

    /// [`take`](Self::take) of an input that may be left out.
    pub fn take_optional(&mut self, index: usize) -> Option<T> {
        self.operands.get_mut(index).and_then(Option::take)
    }

    /// All inputs from `first` on.
    pub fn iter_from(&self, first: usize) -> impl Iterator<Item = Option<&T>> {
        self.operands.iter().skip(first).map(Option::as_ref)
    }
}

impl<'a> Operands<Option<&'a Constant>> {
    /// The constants from `first` on where they are, if none of those inputs is computed.
    pub(crate) fn known_from(&self, first: usize) -> Option<Operands<&'a Constant>> {
        let known = |(index, operand): (usize, &Option<Option<&'a Constant>>)| match operand {
            Some(None) if index >= first => None,
            operand => Some(operand.flatten().filter(|_| index >= first)),
        };
        self.operands.iter().enumerate().map(known).collect::<Option<_>>().map(Operands::new)
    }
}

fn missing(index: usize) -> Problem {
    Problem::new(format!("input {index} is missing"))
}
