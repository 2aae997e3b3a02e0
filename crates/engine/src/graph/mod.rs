//! A typed graph of operators: what an imported model is before it runs.
//!
//! A [`Graph`] holds values and nodes in an order in which they can run. Passes rewrite it, [`Graph::infer`] says
//! what is known about its values before any input is there, and a [`Session`] runs it: constants prepared once,
//! memory given on at a value's last use.
//!
//! This module knows neither a file format nor what operators compute; those are `onnx` and `ops`.

mod array;
mod attributes;
mod constant;
mod dim;
mod extract;
mod operator;
pub(crate) mod passes;
mod session;

use std::sync::Arc;

pub use array::{Array, DataType, Element, checked_len, element_count};
pub(crate) use array::{check_rank, for_type};
pub use attributes::{Attribute, Attributes};
pub use constant::{Constant, RawTensor};
pub use dim::{Dim, Info, product};
pub(crate) use operator::problem;
pub use operator::{Operands, Operator, Prepared, Problem};
pub use session::Session;

use crate::{Error, Result};

/// Nodes and the values between them.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Values that whoever runs the graph gives.
    pub inputs: Vec<ValueId>,
    /// Values that whoever runs the graph gets.
    pub outputs: Vec<ValueId>,
    /// In an order in which they can run.
    pub nodes: Vec<Node>,
    values: Vec<Value>,
}

/// Which value of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

/// What stands between nodes.
#[derive(Clone, Debug)]
pub struct Value {
    /// The value's name in the file.
    pub name: String,
    /// Its value, where the file gives one.
    pub constant: Option<Constant>,
    /// What the file declares about it.
    pub declared: Option<Info>,
}

/// An operator and the values that it reads and writes.
#[derive(Clone, Debug)]
pub struct Node {
    /// The node's name in the file, or what else identifies it.
    pub name: String,
    /// What it computes.
    pub operator: Arc<dyn Operator>,
    /// `None` for an input that is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// `None` for an output that nobody wants.
    pub outputs: Vec<Option<ValueId>>,
}

impl Graph {
    /// A value that a node will compute, or an input.
    pub fn add_value(&mut self, name: impl Into<String>) -> ValueId {
        self.push(Value { name: name.into(), constant: None, declared: None })
    }

    /// A value that is known.
    pub fn add_constant(&mut self, name: impl Into<String>, constant: impl Into<Constant>) -> ValueId {
        self.push(Value { name: name.into(), constant: Some(constant.into()), declared: None })
    }

    /// An input of the graph.
    pub fn add_input(&mut self, name: impl Into<String>, declared: Option<Info>) -> ValueId {
        let id = self.push(Value { name: name.into(), constant: None, declared });
        self.inputs.push(id);
        id
    }

    /// A node with one output, after all nodes that are there; its output.
    pub fn add_node(
        &mut self,
        name: impl Into<String>,
        operator: impl Operator,
        inputs: &[ValueId],
    ) -> ValueId {
        let name = name.into();
        let output = self.add_value(format!("{name}:0"));
        let inputs = inputs.iter().copied().map(Some).collect();
        self.nodes.push(Node { name, operator: Arc::new(operator), inputs, outputs: vec![Some(output)] });
        output
    }

    fn push(&mut self, value: Value) -> ValueId {
        let id = u32::try_from(self.values.len()).expect("a file holds fewer values than 2^32");
        self.values.push(value);
        ValueId(id)
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// A value, to be changed.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.0 as usize]
    }

    /// The constant behind a value, if it is one.
    pub fn constant(&self, id: ValueId) -> Option<&Constant> {
        self.value(id).constant.as_ref()
    }

    /// All values that are known.
    pub fn constants(&self) -> impl Iterator<Item = &Constant> {
        self.values.iter().filter_map(|value| value.constant.as_ref())
    }

    /// The number of values.
    pub fn num_values(&self) -> usize {
        self.values.len()
    }

    /// What is known about each value, where the inputs are what `inputs` says, or what the file declares about
    /// those that it leaves out. What the file declares about other values is not trusted.
    ///
    /// # Errors
    ///
    /// When a node does not take its inputs.
    pub fn infer(&self, inputs: &[(ValueId, Info)]) -> Result<Infos> {
        let mut infos = Infos { infos: vec![None; self.values.len()], num_ints: 0 };
        for (index, value) in self.values.iter().enumerate() {
            infos.set(ValueId(index as u32), value.constant.as_ref().map(Constant::info));
        }
        for &id in &self.inputs {
            infos.set(id, self.value(id).declared.clone());
        }
        for (id, info) in inputs {
            infos.set(*id, Some(info.clone()));
        }
        for node in &self.nodes {
            let operands = node.inputs.iter().map(|id| id.and_then(|id| infos.get(id))).collect();
            let known = node.inputs.iter().all(|id| id.is_none_or(|id| infos.get(id).is_some()));
            // Nothing can be said about what is computed from values of which nothing is known.
            let outputs = if known { node.infer(operands)? } else { Vec::new() };
            for (id, info) in node.outputs.iter().zip(outputs) {
                if let Some(id) = id {
                    infos.set(*id, Some(info));
                }
            }
        }
        Ok(infos)
    }

    /// How often each value is read, by nodes or as an output of the graph.
    pub fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.values.len()];
        let read = self.nodes.iter().flat_map(|node| node.inputs.iter().flatten());
        for id in read.chain(&self.outputs) {
            uses[id.0 as usize] += 1;
        }
        uses
    }
}

impl Value {
    /// The type of the elements that the file declares; where it declares none, that of token ids.
    pub fn declared_dtype(&self) -> DataType {
        self.declared.as_ref().map_or(DataType::I64, |info| info.dtype)
    }
}

impl ValueId {
    /// The value that is added to a graph of this many values.
    pub(crate) fn new(index: usize) -> Self {
        Self(u32::try_from(index).expect("a graph has fewer values than 2^32"))
    }

    /// An index for tables with an entry per value of a graph.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl Node {
    /// The node's first output, if anybody wants it.
    pub fn output(&self) -> Option<ValueId> {
        self.outputs.first().copied().flatten()
    }

    /// An input, if it is not left out.
    pub fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// The operator, if it is of this type.
    pub fn operator<T: Operator>(&self) -> Option<&T> {
        (&*self.operator as &dyn std::any::Any).downcast_ref()
    }

    /// What is known about the outputs.
    pub(crate) fn infer(&self, inputs: Vec<Option<&Info>>) -> Result<Vec<Info>> {
        let outputs = self.operator.infer(&Operands::new(inputs)).map_err(|problem| self.error(problem))?;
        for rank in outputs.iter().filter_map(Info::rank) {
            check_rank(rank).map_err(|problem| self.error(problem))?;
        }
        Ok(outputs)
    }

    /// Computes the outputs: as many as anybody wants or more.
    pub(crate) fn run(&self, inputs: Vec<Option<Array>>) -> Result<Vec<Array>> {
        let outputs = self.operator.run(Operands::new(inputs)).map_err(|problem| self.error(problem))?;
        let wanted = self.outputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        if wanted > outputs.len() {
            let problem = format!("it has {} outputs, not {wanted}", outputs.len());
            return Err(self.error(Problem::new(problem)));
        }
        Ok(outputs)
    }

    /// The error that this node meets.
    pub(crate) fn error(&self, problem: Problem) -> Error {
        Error::Node { node: self.name.clone(), operator: self.operator.name().to_owned(), problem }
    }
}

/// What is known about the values of a graph.
#[derive(Clone, Debug)]
pub struct Infos {
    infos: Vec<Option<Info>>,
    /// Of all values together.
    num_ints: usize,
}

/// Integers that are known of all values together: shapes have few, and a vector that a thousand nodes pass on would be
/// kept a thousand times.
const MAX_INTS: usize = 1 << 20;

impl Infos {
    /// What is known about a value, if anything is.
    pub fn get(&self, id: ValueId) -> Option<&Info> {
        self.infos.get(id.index()).and_then(Option::as_ref)
    }

    fn set(&mut self, id: ValueId, mut info: Option<Info>) {
        if let Some(info) = &mut info {
            let len = info.ints.as_ref().map_or(0, Vec::len);
            if len > Info::MAX_KNOWN_ELEMENTS || self.num_ints + len > MAX_INTS {
                info.ints = None;
            } else {
                self.num_ints += len;
            }
        }
        self.infos[id.index()] = info;
    }
}
