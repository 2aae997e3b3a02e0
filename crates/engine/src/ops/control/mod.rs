//! Operators that run graphs: `If`, `Loop` and `Scan`.

mod branch;
mod iterate;
mod scan;

use std::sync::Arc;

use super::Entry;
use crate::graph::{Array, Dim, Graph, Info, Node, Operands, Problem, Session, problem};

pub(crate) use branch::If;
pub(crate) use iterate::Loop;
pub(crate) use scan::Scan;

pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("If", 1..=1, If::read),
    Entry::new("Loop", 2..=usize::MAX, Loop::read),
    Entry::new("Scan", 1..=usize::MAX, Scan::read),
];

/// A graph inside a node. The node's own arguments are its first inputs, values of graphs around it the others.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    session: Arc<Session>,
    arguments: usize,
    /// Graphs inside each other, this one included.
    depth: usize,
}

/// Graphs inside each other: what is known about loops takes some rounds for each.
const MAX_DEPTH: usize = 8;

impl Body {
    fn new(mut graph: Graph, arguments: usize) -> Result<Self, Problem> {
        let inputs = graph.inputs.len();
        if inputs < arguments {
            problem!("a graph inside has {inputs} inputs, expected {arguments}");
        }
        let depth = 1 + graph.nodes.iter().map(depth).max().unwrap_or(0);
        if depth > MAX_DEPTH {
            problem!("more than {MAX_DEPTH} graphs are inside each other");
        }
        // Shapes may change from iteration to iteration, and what files declare then is true of the first at best.
        for id in graph.inputs.clone() {
            let declared = &mut graph.value_mut(id).declared;
            *declared = declared.as_ref().map(|info| Info::unknown(info.dtype));
        }
        let session = Session::new(graph).map_err(inside)?;
        Ok(Self { session: Arc::new(session), arguments, depth })
    }

    fn outputs(&self) -> usize {
        self.session.graph().outputs.len()
    }

    /// How many values of graphs around it the graph reads.
    fn captures(&self) -> usize {
        self.session.graph().inputs.len() - self.arguments
    }

    /// Inputs of a node from `first` on that are values of graphs around.
    fn captured<'a, T: Clone>(&self, inputs: &'a Operands<T>, first: usize) -> Vec<Option<&'a T>> {
        let mut captured: Vec<_> = inputs.iter_from(first).take(self.captures()).collect();
        captured.resize(self.captures(), None);
        captured
    }

    /// What is known about the outputs; `None` for one of which nothing is.
    fn infer(
        &self,
        arguments: &[Option<Info>],
        captured: &[Option<&Info>],
    ) -> Result<Vec<Option<Info>>, Problem> {
        let graph = self.session.graph();
        let given = arguments.iter().map(Option::as_ref).chain(captured.iter().copied());
        let mut known = Vec::new();
        for (&id, info) in graph.inputs.iter().zip(given) {
            match (info, &graph.value(id).declared) {
                (Some(info), Some(declared)) if info.dtype != declared.dtype => {
                    problem!("a graph inside takes {}, not {}", declared.dtype, info.dtype)
                }
                (Some(info), _) => known.push((id, info.clone())),
                (None, _) => {}
            }
        }
        let infos = graph.infer(&known).map_err(inside)?;
        Ok(graph.outputs.iter().map(|id| infos.get(*id).cloned()).collect())
    }

    /// The outputs for arguments and captured values.
    fn run(&self, arguments: Vec<Array>, captured: &[Option<&Array>]) -> Result<Vec<Array>, Problem> {
        let names = self.session.input_names();
        let captured = captured.iter().filter_map(|array| array.map(Array::clone));
        self.session.run(names.zip(arguments.into_iter().chain(captured))).map_err(inside)
    }
}

/// Graphs inside each other inside a node.
fn depth(node: &Node) -> usize {
    if let Some(If { then_branch, else_branch, .. }) = node.operator() {
        return then_branch.depth.max(else_branch.depth);
    }
    let body = node.operator().map(|Loop { body, .. }| body);
    body.or(node.operator().map(|Scan { body, .. }| body)).map_or(0, |body| body.depth)
}

fn inside(error: crate::Error) -> Problem {
    Problem::new(format!("a graph inside: {error}"))
}

/// What is known of a value that is either of two.
fn either(a: &Info, b: &Info) -> Result<Info, Problem> {
    if a.dtype != b.dtype {
        problem!("an output is either {} or {}", a.dtype, b.dtype);
    }
    let shape = match (&a.shape, &b.shape) {
        (Some(a), Some(b)) if a.len() == b.len() => {
            let dim = |(a, b): (&Dim, &Dim)| if a == b { a.clone() } else { Dim::unknown() };
            Some(a.iter().zip(b).map(dim).collect())
        }
        _ => None,
    };
    let ints = a.ints.clone().filter(|_| a.ints == b.ints && a.shape == b.shape);
    Ok(Info { dtype: a.dtype, shape, ints, constant: None })
}

/// The one truth in an array.
fn condition(array: &Array) -> Result<bool, Problem> {
    match array.values::<bool>()? {
        &[condition] => Ok(condition),
        values => problem!("the condition has {} elements, expected one", values.len()),
    }
}

/// Elements that iterations give, one array per iteration, along a new first axis.
#[derive(Default)]
struct Stack {
    arrays: Vec<Array>,
    elements: usize,
}

impl Stack {
    fn push(&mut self, array: Array) -> Result<(), Problem> {
        if let Some(first) = self.arrays.first()
            && (first.shape() != array.shape() || first.dtype() != array.dtype())
        {
            problem!(
                "iterations give {}{:?} and {}{:?}",
                first.dtype(),
                first.shape(),
                array.dtype(),
                array.shape()
            );
        }
        // All of them shall fit into one array.
        self.elements = self.elements.saturating_add(array.len());
        crate::graph::checked_len(&[self.elements], array.dtype().size())?;
        self.arrays.push(array);
        Ok(())
    }

    /// The arrays one after another; `info` tells about them where there are none.
    fn finish(self, info: Option<&Info>) -> Result<Array, Problem> {
        let Some(first) = self.arrays.first() else {
            return empty(info);
        };
        let one = [&[1], first.shape()].concat();
        let with_axis = |array: Array| array.with_shape(one.as_slice());
        let arrays = self.arrays.into_iter().map(with_axis).collect::<Result<Vec<_>, _>>()?;
        super::shaping::concat(&arrays.iter().collect::<Vec<_>>(), 0)
    }
}

/// No arrays along a new first axis. Sizes of them that are not known are 0, too.
fn empty(info: Option<&Info>) -> Result<Array, Problem> {
    let Some(Info { dtype, shape: Some(shape), .. }) = info else {
        problem!("there are no iterations, and the shape of what they give is not known");
    };
    let sizes = shape.iter().map(|dim| dim.known_size().unwrap_or(0));
    let shape: Vec<usize> = std::iter::once(0).chain(sizes).collect();
    crate::graph::for_type!(*dtype, T => Array::new(shape, Vec::<T>::new()))
}

/// What is known of an array.
fn info(array: &Array) -> Info {
    Info::new(array.dtype(), array.shape().iter().map(|&size| size.into()).collect())
}

/// What is known of iterations' outputs along a new first axis.
fn stacked(element: &Info, iterations: Dim) -> Info {
    let shape = element
        .shape
        .as_ref()
        .map(|shape| std::iter::once(iterations).chain(shape.iter().cloned()).collect());
    Info { dtype: element.dtype, shape, ints: None, constant: None }
}
