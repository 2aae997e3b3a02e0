//! A part of a graph as a graph of its own.

use std::collections::HashMap;

use super::{Graph, ValueId};

impl Graph {
    /// What computes `outputs` from `cuts` and from the graph's inputs: `cuts` become inputs, after those of this
    /// graph, all of which stay.
    pub(crate) fn extract(&self, outputs: &[ValueId], cuts: &[ValueId]) -> Graph {
        let mut wanted = vec![false; self.num_values()];
        outputs.iter().for_each(|id| wanted[id.index()] = true);
        let is_cut = |id: &ValueId| cuts.contains(id);
        let mut kept = Vec::new();
        for node in self.nodes.iter().rev() {
            let is_wanted = node.outputs.iter().flatten().any(|id| wanted[id.index()] && !is_cut(id));
            if is_wanted {
                node.inputs.iter().flatten().for_each(|id| wanted[id.index()] = true);
                kept.push(node);
            }
        }
        let mut part = Graph::default();
        let mut ids: HashMap<ValueId, ValueId> = HashMap::new();
        for id in self.inputs.iter().chain(cuts) {
            let value = self.value(*id);
            ids.insert(*id, part.add_input(&value.name, value.declared.clone()));
        }
        let mut map = |part: &mut Graph, id: ValueId| {
            *ids.entry(id).or_insert_with(|| part.push(self.value(id).clone()))
        };
        for node in kept.into_iter().rev() {
            let mut node = node.clone();
            for id in node.inputs.iter_mut().chain(&mut node.outputs).flatten() {
                *id = map(&mut part, *id);
            }
            part.nodes.push(node);
        }
        part.outputs = outputs.iter().map(|id| map(&mut part, *id)).collect();
        part
    }
}
