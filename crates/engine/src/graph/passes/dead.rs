//! Removes nodes whose outputs nobody reads, and constants that nobody reads with them.

use crate::graph::Graph;

pub(crate) fn remove_dead_nodes(graph: &mut Graph) {
    let mut wanted = vec![false; graph.num_values()];
    for id in &graph.outputs {
        wanted[id.index()] = true;
    }
    let mut nodes = std::mem::take(&mut graph.nodes);
    // Nodes are in an order in which they can run, so all readers of a value come after the node that writes it.
    let mut kept: Vec<bool> = nodes
        .iter()
        .rev()
        .map(|node| {
            let is_wanted = node.outputs.iter().flatten().any(|id| wanted[id.index()]);
            if is_wanted {
                node.inputs.iter().flatten().for_each(|id| wanted[id.index()] = true);
            }
            is_wanted
        })
        .collect();
    nodes.retain(|_| kept.pop().expect("there is an answer for each node"));
    graph.nodes = nodes;
    for (value, wanted) in graph.values.iter_mut().zip(wanted) {
        if !wanted {
            value.constant = None;
        }
    }
}
