//! Computes at load what depends on no input.
//!
//! A node is folded when all its inputs are constants, or when inference knows its output: the sizes of known
//! dimensions, above all. What a file's weights become larger by is not folded: a few bytes could ask for gigabytes.

use crate::Result;
use crate::graph::{Array, Constant, Dim, Graph, Info, Node, ValueId, product};

/// Elements of an output that is folded even if it is larger than the inputs.
const MAX_GROWN: usize = 1 << 20;

/// Bytes of all outputs that are folded even if the file's constants have fewer.
const MIN_BUDGET: usize = 64 << 20;

/// How often all of the file's constants may be computed anew: a quantised weight is cast, shifted, scaled and
/// transposed.
const REWRITES: usize = 8;

pub(crate) fn fold_constants(graph: &mut Graph) -> Result<()> {
    let infos = graph.infer(&[])?;
    let mut uses = graph.uses();
    let mut budget = constant_bytes(graph).saturating_mul(REWRITES).max(MIN_BUDGET);
    let nodes = std::mem::take(&mut graph.nodes);
    for node in nodes {
        let output_infos: Vec<_> = node.outputs.iter().map(|id| id.and_then(|id| infos.get(id))).collect();
        let outputs = match known_outputs(&node, &output_infos) {
            Some(outputs) => Some(outputs),
            None => computed_outputs(graph, &node, budget)?,
        };
        let Some(outputs) = outputs else {
            graph.nodes.push(node);
            continue;
        };
        budget = budget.saturating_sub(outputs.iter().map(bytes).sum());
        set_outputs(graph, &node, outputs);
        drop_read(graph, &node, &mut uses);
    }
    Ok(())
}

fn constant_bytes(graph: &Graph) -> usize {
    let constants = graph.values.iter().filter_map(|value| value.constant.as_ref());
    constants.map(|constant| constant.len() * constant.dtype().size()).sum()
}

fn bytes(array: &Array) -> usize {
    array.len() * array.dtype().size()
}

fn set_outputs(graph: &mut Graph, node: &Node, outputs: Vec<Array>) {
    for (id, value) in node.outputs.iter().zip(outputs) {
        if let Some(id) = id {
            graph.value_mut(*id).constant = Some(value.into());
        }
    }
}

/// Forgets constants that only folded nodes read.
fn drop_read(graph: &mut Graph, node: &Node, uses: &mut [usize]) {
    for id in node.inputs.iter().flatten() {
        uses[id.index()] -= 1;
        if uses[id.index()] == 0 {
            graph.value_mut(*id).constant = None;
        }
    }
}

/// The outputs, where all of them are integers that inference knows.
fn known_outputs(node: &Node, infos: &[Option<&Info>]) -> Option<Vec<Array>> {
    let [Some(info)] = infos else {
        return None;
    };
    if node.outputs.len() != 1 {
        return None;
    }
    let ints = info.known_ints()?;
    let shape: Vec<usize> = info.shape.as_ref()?.iter().map(Dim::known_size).collect::<Option<_>>()?;
    if !info.dtype.is_int() {
        return None;
    }
    let array = Array::from_ints(info.dtype, shape, ints);
    array.ok().map(|array| vec![array])
}

/// The outputs, where all inputs are constants and it takes no more than `budget` bytes.
fn computed_outputs(graph: &Graph, node: &Node, budget: usize) -> Result<Option<Vec<Array>>> {
    let constant = |id: &Option<ValueId>| id.map(|id| graph.constant(id));
    let constants: Vec<Option<Option<&Constant>>> = node.inputs.iter().map(constant).collect();
    if !constants.iter().flatten().all(Option::is_some) || !node.operator.is_deterministic() {
        return Ok(None);
    }
    let constants: Vec<Option<&Constant>> = constants.into_iter().map(Option::flatten).collect();
    // Inputs that were folded are known by now.
    let infos: Vec<Option<Info>> = constants.iter().map(|constant| constant.map(Constant::info)).collect();
    let outputs = node.infer(infos.iter().map(Option::as_ref).collect())?;
    let len = constants.iter().flatten().map(|constant| constant.len()).sum();
    if !fits(&outputs, len, budget) {
        return Ok(None);
    }
    node.run(constants.into_iter().map(|constant| constant.map(Constant::array)).collect()).map(Some)
}

/// Whether no output has more elements than all inputs by much, or more bytes than are left.
fn fits(outputs: &[Info], inputs: usize, budget: usize) -> bool {
    // Sizes that depend on elements, as NonZero's, are bounded by the inputs'.
    let len = |info: &Info| match &info.shape {
        Some(shape) if shape.iter().all(|dim| dim.known().is_some()) => product(shape).known_size(),
        _ => Some(inputs),
    };
    let mut bytes = 0usize;
    outputs.iter().all(|info| {
        let Some(len) = len(info) else {
            return false;
        };
        bytes = bytes.saturating_add(len.saturating_mul(info.dtype.size()));
        len <= inputs.max(MAX_GROWN) && bytes <= budget
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{DataType, Operands, Operator, Problem};

    /// As many zeros as its input says.
    #[derive(Debug)]
    struct Zeros;

    impl Operator for Zeros {
        fn name(&self) -> &str {
            "Zeros"
        }

        fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
            let len = inputs.get(0)?.ints.as_ref().map_or_else(Dim::unknown, |ints| ints[0].clone());
            Ok(vec![Info::new(DataType::U8, vec![len])])
        }

        fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
            let len = inputs.take(0)?.to_ints()?[0];
            Ok(vec![Array::full([usize::try_from(len).unwrap()], 0u8)?])
        }
    }

    fn kept(len: i64, nodes: usize) -> usize {
        let mut graph = Graph::default();
        let input = graph.add_constant("len", Array::scalar(len));
        for _ in 0..nodes {
            let output = graph.add_node("zeros", Zeros, &[input]);
            graph.outputs.push(output);
        }
        fold_constants(&mut graph).unwrap();
        graph.nodes.len()
    }

    #[test]
    fn what_grows_beyond_the_budget_is_not_folded() {
        assert_eq!(kept(1000, 10), 0);
        assert_eq!(kept(1 << 20, 64), 0);
        assert_eq!(kept(1 << 20, 70), 6, "64 MiB are folded");
        assert_eq!(kept((1 << 20) + 1, 1), 1);
        assert_eq!(kept(i64::MAX, 1), 1);
    }

    #[test]
    fn constants_that_nobody_reads_any_more_are_dropped() {
        let mut graph = Graph::default();
        let input = graph.add_constant("len", Array::scalar(3i64));
        let output = graph.add_node("zeros", Zeros, &[input]);
        graph.outputs.push(output);
        fold_constants(&mut graph).unwrap();
        assert!(graph.constant(input).is_none() && graph.constant(output).is_some());
    }
}
