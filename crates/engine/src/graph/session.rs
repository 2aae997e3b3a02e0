//! Runs a graph.

use std::collections::{BTreeMap, HashMap};

use super::{Array, Constant, Dim, Graph, Node, Operands, Prepared, Value, ValueId, passes};
use crate::{Error, Result, ThreadPool};

/// A graph that is ready to run, any number of times and from any number of threads.
#[derive(Debug)]
pub struct Session {
    graph: Graph,
    constants: Vec<Option<Array>>,
    /// For each node, which inputs are read there for the last time.
    last_uses: Vec<Vec<bool>>,
}

impl Session {
    /// Prepares a graph: computes what depends on no input, drops what nobody reads, and plans when memory is free.
    ///
    /// # Errors
    ///
    /// When a node does not take its inputs.
    pub fn new(graph: Graph) -> Result<Self> {
        Self::with_threads(graph, None)
    }

    /// [`new`](Self::new), where weights are laid out by the threads of a pool.
    ///
    /// # Errors
    ///
    /// When a node does not take its inputs.
    pub fn with_threads(mut graph: Graph, pool: Option<&ThreadPool>) -> Result<Self> {
        passes::simplify(&mut graph)?;
        prepare(&mut graph, pool)?;
        let constants = graph.values.iter_mut().map(|value| {
            let array = value.constant.as_ref()?.array();
            // A file that everything was read of need not stay mapped.
            value.constant = Some(array.clone().into());
            Some(array)
        });
        let constants = constants.collect();
        let last_uses = last_uses(&graph);
        Ok(Self { graph, constants, last_uses })
    }

    /// A graph as it was written: nothing is computed or laid out before, nothing is dropped, and every value is kept until
    /// the end. It is what the other sessions are compared with.
    pub fn as_written(graph: Graph) -> Self {
        let constants =
            graph.values.iter().map(|value| value.constant.as_ref().map(Constant::array)).collect();
        let last_uses = graph.nodes.iter().map(|node| vec![false; node.inputs.len()]).collect();
        Self { graph, constants, last_uses }
    }

    /// The graph as it runs.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Names of the inputs.
    pub fn input_names(&self) -> impl Iterator<Item = &str> {
        self.graph.inputs.iter().map(|id| self.graph.value(*id).name.as_str())
    }

    /// Names of the outputs.
    pub fn output_names(&self) -> impl Iterator<Item = &str> {
        self.graph.outputs.iter().map(|id| self.graph.value(*id).name.as_str())
    }

    /// Computes all outputs from inputs by name.
    ///
    /// # Errors
    ///
    /// When an input is missing, unknown or of another type or shape than declared, or a node does not take its inputs.
    pub fn run(&self, inputs: impl IntoIterator<Item = (impl AsRef<str>, Array)>) -> Result<Vec<Array>> {
        let mut given: BTreeMap<String, Array> =
            inputs.into_iter().map(|(name, array)| (name.as_ref().to_owned(), array)).collect();
        let mut values = self.constants.clone();
        let mut sizes = HashMap::new();
        for &id in &self.graph.inputs {
            let value = self.graph.value(id);
            match given.remove(&value.name) {
                Some(array) => {
                    check_input(&array, value, &mut sizes)
                        .map_err(|problem| Error::GraphInput { input: value.name.clone(), problem })?;
                    values[id.index()] = Some(array);
                }
                None if value.constant.is_some() => {}
                None => {
                    let problem = "is missing".to_owned();
                    return Err(Error::GraphInput { input: value.name.clone(), problem });
                }
            }
        }
        if let Some((input, _)) = given.pop_first() {
            return Err(Error::GraphInput { input, problem: "is not an input of the graph".to_owned() });
        }
        self.run_nodes(&mut values)?;
        let output = |id: &ValueId| {
            values[id.index()].clone().ok_or_else(|| {
                let name = self.graph.value(*id).name.clone();
                Error::GraphInput { input: name, problem: "is an output that nothing computes".to_owned() }
            })
        };
        self.graph.outputs.iter().map(output).collect()
    }

    fn run_nodes(&self, values: &mut [Option<Array>]) -> Result<()> {
        for (node, last_uses) in self.graph.nodes.iter().zip(&self.last_uses) {
            let operands = node
                .inputs
                .iter()
                .zip(last_uses)
                .map(|(id, is_last)| {
                    let value = &mut values[id.as_ref()?.index()];
                    if *is_last { value.take() } else { value.clone() }
                })
                .collect();
            for (id, output) in node.outputs.iter().zip(node.run(operands)?) {
                if let Some(id) = id {
                    values[id.index()] = Some(output);
                }
            }
        }
        Ok(())
    }
}

/// Lets operators take their constants in: most of the time of loading goes here.
fn prepare(graph: &mut Graph, pool: Option<&ThreadPool>) -> Result<()> {
    let prepare = |node: &Node| {
        let constants = node.inputs.iter().map(|id| id.map(|id| graph.constant(id))).collect();
        node.operator.prepare(&Operands::new(constants)).map_err(|problem| node.error(problem))
    };
    let prepared: Vec<Option<Prepared>> = match pool {
        Some(pool) => pool.try_map(&graph.nodes, prepare)?,
        None => graph.nodes.iter().map(prepare).collect::<Result<_>>()?,
    };
    for (node, prepared) in graph.nodes.iter_mut().zip(prepared) {
        if let Some(Prepared { operator, inputs }) = prepared {
            node.inputs = inputs.into_iter().map(|index| node.inputs[index]).collect();
            node.operator = operator;
        }
    }
    passes::remove_dead_nodes(graph);
    Ok(())
}

/// Compares an input with what the file declares about it, which passes rely on: known sizes are those, and sizes of
/// one name are equal.
fn check_input<'a>(
    array: &Array,
    value: &'a Value,
    sizes: &mut HashMap<&'a Dim, usize>,
) -> Result<(), String> {
    let Some(declared) = &value.declared else {
        return Ok(());
    };
    if declared.dtype != array.dtype() {
        return Err(format!("is {}, expected {}", array.dtype(), declared.dtype));
    }
    let Some(dims) = &declared.shape else {
        return Ok(());
    };
    let fits = |(dim, size): (&'a Dim, &usize)| match dim.known() {
        Some(known) => usize::try_from(known) == Ok(*size),
        None => sizes.entry(dim).or_insert(*size) == size,
    };
    if dims.len() != array.rank() || !dims.iter().zip(array.shape()).all(fits) {
        return Err(format!("has shape {:?}, expected {dims:?}", array.shape()));
    }
    Ok(())
}

fn last_uses(graph: &Graph) -> Vec<Vec<bool>> {
    let mut is_read_later = vec![false; graph.num_values()];
    for id in &graph.outputs {
        is_read_later[id.index()] = true;
    }
    let mut last_uses: Vec<Vec<bool>> = graph
        .nodes
        .iter()
        .rev()
        .map(|node| {
            let mut last_uses: Vec<bool> = node
                .inputs
                .iter()
                .rev()
                .map(|id| id.is_some_and(|id| !std::mem::replace(&mut is_read_later[id.index()], true)))
                .collect();
            last_uses.reverse();
            last_uses
        })
        .collect();
    last_uses.reverse();
    last_uses
}
