//! What passes ask of a graph.

use std::sync::Arc;

use half::{bf16, f16};

use crate::graph::{Array, Constant, DataType, Graph, Infos, Node, Operator, ValueId};

/// A graph with the node that writes each value.
pub(crate) struct Pattern<'a> {
    pub(super) graph: &'a Graph,
    writers: Vec<Option<usize>>,
    uses: Vec<usize>,
}

impl<'a> Pattern<'a> {
    pub(crate) fn new(graph: &'a Graph) -> Self {
        let mut writers = vec![None; graph.num_values()];
        for (index, node) in graph.nodes.iter().enumerate() {
            for id in node.outputs.iter().flatten() {
                writers[id.index()] = Some(index);
            }
        }
        Self { graph, writers, uses: graph.uses() }
    }

    /// The node whose first output is this value.
    pub(crate) fn node(&self, id: ValueId) -> Option<&'a Node> {
        let node = &self.graph.nodes[self.writers[id.index()]?];
        (node.output() == Some(id)).then_some(node)
    }

    /// The place of the node that writes this value.
    pub(crate) fn index(&self, id: ValueId) -> Option<usize> {
        self.writers[id.index()]
    }

    /// [`node`](Self::node), if its operator has this name.
    pub(crate) fn named(&self, id: ValueId, name: &str) -> Option<&'a Node> {
        self.node(id).filter(|node| node.operator.name() == name)
    }

    /// [`node`](Self::node), if its operator is of this type.
    pub(crate) fn operator<T: Operator>(&self, id: ValueId) -> Option<(&'a Node, &'a T)> {
        let node = self.node(id)?;
        Some((node, node.operator()?))
    }

    /// Whether the value is read in one place only.
    pub(super) fn is_used_once(&self, id: ValueId) -> bool {
        self.uses[id.index()] == 1
    }

    /// Whether anything reads the value.
    pub(super) fn is_used(&self, id: ValueId) -> bool {
        self.uses[id.index()] > 0
    }

    /// The number that this value is, if it is a constant of one floating-point element.
    pub(crate) fn scalar(&self, id: ValueId) -> Option<f32> {
        let constant = self.graph.constant(id)?;
        if constant.len() != 1 || !constant.dtype().is_float() {
            return None;
        }
        constant.array().to_floats().ok().map(|values| values[0])
    }

    /// Whether the value is this number, with five digits or more, or rounded to 16 bits where it is computed in those.
    pub(super) fn is_scalar(&self, id: ValueId, expected: f32) -> bool {
        let dtype = self.graph.constant(id).map(Constant::dtype);
        self.scalar(id).is_some_and(|value| {
            (value - expected).abs() <= 1e-5 * expected.abs()
                || (dtype == Some(DataType::F16) && value == f16::from_f32(expected).to_f32())
                || (dtype == Some(DataType::Bf16) && value == bf16::from_f32(expected).to_f32())
        })
    }

    /// Both orders of a node's two inputs.
    pub(super) fn both_orders(node: &Node) -> Vec<(ValueId, ValueId)> {
        match (node.input(0), node.input(1), node.inputs.len()) {
            (Some(a), Some(b), 2) => vec![(a, b), (b, a)],
            _ => Vec::new(),
        }
    }
}

/// Whether kernels for f32 can compute a value of as many dimensions as `x` has, in place of all the nodes between `x` and
/// `output`: constants of further dimensions would give it more, and f64 has more digits.
pub(super) fn is_like(infos: &Infos, x: ValueId, output: Option<ValueId>) -> bool {
    let info = |id: ValueId| infos.get(id).filter(|info| info.dtype != DataType::F64);
    match (info(x), output.and_then(info)) {
        (Some(x), Some(output)) => x.rank().is_some() && x.rank() == output.rank(),
        _ => false,
    }
}

/// What takes the place of a node.
pub(super) struct Replacement {
    operator: Arc<dyn Operator>,
    inputs: Vec<Option<ValueId>>,
}

impl Replacement {
    pub(super) fn new(operator: impl Operator, inputs: Vec<Option<ValueId>>) -> Self {
        Self { operator: Arc::new(operator), inputs }
    }
}

/// Nodes that a replacement needs before it.
pub(super) struct Additions<'a> {
    name: &'a str,
    next: usize,
    nodes: Vec<Node>,
    constants: Vec<(ValueId, Array)>,
}

impl Additions<'_> {
    /// A node; its output.
    pub(super) fn node(&mut self, operator: impl Operator, inputs: &[ValueId]) -> ValueId {
        let output = ValueId::new(self.next);
        self.next += 1;
        self.node_for(output, operator, inputs);
        output
    }

    /// A value that is known.
    pub(super) fn constant(&mut self, array: Array) -> ValueId {
        let id = ValueId::new(self.next);
        self.next += 1;
        self.constants.push((id, array));
        id
    }

    /// A node that computes a value that is there.
    pub(super) fn node_for(&mut self, output: ValueId, operator: impl Operator, inputs: &[ValueId]) {
        self.nodes.push(Node {
            name: self.name.to_owned(),
            operator: Arc::new(operator),
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
        });
    }
}

/// Replaces every node for which `rule` has something better.
pub(super) fn replace(graph: &mut Graph, rule: impl Fn(&Pattern, &Node) -> Option<Replacement>) {
    replace_with(graph, |pattern, node, _| rule(pattern, node));
}

/// [`replace`] by a rule that may need further nodes.
pub(super) fn replace_with(
    graph: &mut Graph,
    rule: impl Fn(&Pattern, &Node, &mut Additions) -> Option<Replacement>,
) {
    let pattern = Pattern::new(graph);
    let mut next = graph.num_values();
    let mut nodes = Vec::with_capacity(graph.nodes.len());
    let mut constants = Vec::new();
    for node in &graph.nodes {
        let mut additions = Additions { name: &node.name, next, nodes: Vec::new(), constants: Vec::new() };
        let Some(Replacement { operator, inputs }) = rule(&pattern, node, &mut additions) else {
            nodes.push(node.clone());
            continue;
        };
        next = additions.next;
        nodes.append(&mut additions.nodes);
        constants.append(&mut additions.constants);
        let outputs = node.outputs[..1].to_vec();
        nodes.push(Node { name: node.name.clone(), operator, inputs, outputs });
    }
    for index in graph.num_values()..next {
        graph.add_value(format!("value {index}"));
    }
    for (id, array) in constants {
        graph.value_mut(id).constant = Some(array.into());
    }
    graph.nodes = nodes;
    crate::graph::passes::remove_dead_nodes(graph);
}
