//! Computes at load what depends on no input.
//!
//! A node is folded when all its inputs are constants, or when inference knows its output: the sizes of known
//! dimensions, above all. What a file's weights become larger by is not folded: a few bytes could ask for gigabytes.

use crate::Result;
use crate::graph::{Array, Constant, DataType, Dim, Graph, Info, Node, Operands, product};

/// Elements of an output that is folded even if it is larger than the inputs.
const MAX_GROWN: usize = 1 << 20;

pub(crate) fn fold_constants(graph: &mut Graph) -> Result<()> {
    let infos = graph.infer(&[])?;
    let nodes = std::mem::take(&mut graph.nodes);
    for node in nodes {
        let output_infos: Vec<_> = node.outputs.iter().map(|id| id.and_then(|id| infos.get(id))).collect();
        if let Some(values) = known_outputs(&node, &output_infos) {
            set_outputs(graph, &node, values);
            continue;
        }
        let constants: Vec<_> = node.inputs.iter().map(|id| id.map(|id| graph.constant(id))).collect();
        let has_constants = constants.iter().flatten().all(Option::is_some);
        let inputs: usize = constants.iter().flatten().flatten().map(|constant| constant.len()).sum();
        if !has_constants || !node.operator.is_deterministic() || !fits(&output_infos, inputs) {
            graph.nodes.push(node);
            continue;
        }
        let operands = constants.iter().map(|constant| constant.flatten().map(Constant::array)).collect();
        let outputs = node.operator.run(Operands::new(operands)).map_err(|problem| node.error(problem))?;
        set_outputs(graph, &node, outputs);
    }
    Ok(())
}

fn set_outputs(graph: &mut Graph, node: &Node, outputs: Vec<Array>) {
    for (id, value) in node.outputs.iter().zip(outputs) {
        if let Some(id) = id {
            graph.value_mut(*id).constant = Some(value.into());
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
    let array = match info.dtype {
        DataType::I64 => Array::new(shape, ints),
        DataType::I32 => {
            Array::new(shape, ints.into_iter().map(i32::try_from).collect::<Result<Vec<_>, _>>().ok()?)
        }
        _ => return None,
    };
    array.ok().map(|array| vec![array])
}

/// Whether all outputs have known sizes that do not exceed the inputs' by much.
fn fits(infos: &[Option<&Info>], inputs: usize) -> bool {
    infos.iter().flatten().all(|info| {
        let size = info.shape.as_ref().and_then(|shape| product(shape).known_size());
        // Sizes that depend on elements, as NonZero's, are bounded by the inputs'.
        size.is_none_or(|size| size <= inputs.max(MAX_GROWN))
    })
}
