//! Inputs of a graph that was exported to generate text: keys and values of tokens that were read before. An encoder
//! reads whole texts, so there are none, and what joins them to a text's own is left out.

use std::sync::Arc;

use crate::graph::low_bit::Conversion;
use crate::graph::{Array, Dim, Graph, Info, Infos, Node, ValueId};
use crate::ops::axes;
use crate::ops::elementwise::Cast;
use crate::ops::fused::PositionIds;
use crate::ops::microsoft::GroupQueryAttention;
use crate::ops::shaping::{Concat, Expand, Identity, Shape};
use crate::packing::Roles;

/// As optimum and transformers.js call them: `past_key_values.0.key`...
const INPUTS: &str = "past_key_values.";

/// What such a graph gives back, for the tokens to come: `present.0.key`...
const OUTPUTS: &str = "present.";

/// Of `[batch_size, num_heads, past_len, head_dim]`.
const SEQUENCE_AXIS: usize = 2;

/// The inputs for keys and values of earlier tokens.
pub(super) fn inputs(graph: &Graph) -> Vec<ValueId> {
    graph.inputs.iter().copied().filter(|id| graph.value(*id).name.starts_with(INPUTS)).collect()
}

/// Makes the graph one without a past: `past` are no inputs any more, and neither are positions, which are those in a text
/// and so follow from the token ids' shape.
///
/// # Errors
///
/// Place and problem, when an input is not of keys or values, or is read by a node that does not merely join them.
pub(super) fn leave_out(
    graph: &mut Graph,
    past: &[ValueId],
    roles: &mut Roles,
) -> Result<(), (String, String)> {
    if past.is_empty() {
        return Ok(());
    }
    let token_ids = roles.token_ids;
    if let Some(positions) = roles.positions.take() {
        count_positions(graph, positions, token_ids);
    }
    for id in past {
        declare_empty(graph, *id)?;
    }
    let outputs = std::mem::take(&mut graph.outputs);
    let is_kept = |id: &ValueId| !graph.value(*id).name.starts_with(OUTPUTS);
    graph.outputs = outputs.into_iter().filter(is_kept).collect();
    let infos = graph.infer(&[]).map_err(|error| ("graph".to_owned(), error.to_string()))?;
    // Values that hold nothing but the past.
    let mut is_past = vec![false; graph.num_values()];
    past.iter().for_each(|id| is_past[id.index()] = true);
    for mut node in std::mem::take(&mut graph.nodes) {
        let reads_past = |id: &Option<ValueId>| id.is_some_and(|id| is_past[id.index()]);
        if !node.inputs.iter().any(reads_past) {
            graph.nodes.push(node);
            continue;
        }
        if joins_sequences(&node, &infos) {
            if node.inputs.iter().all(reads_past) {
                node.outputs.iter().flatten().for_each(|id| is_past[id.index()] = true);
            } else {
                node.inputs.retain(|id| !reads_past(id));
                if node.inputs.len() == 1 {
                    node.operator = Arc::new(Identity);
                }
            }
        } else if node.operator::<Shape>().is_some() {
            give_sizes(graph, &mut node, &infos, token_ids);
        } else if node.operator::<GroupQueryAttention>().is_some() {
            for index in [3, 4] {
                if let Some(input) = node.inputs.get_mut(index) {
                    *input = input.filter(|id| !is_past[id.index()]);
                }
            }
        }
        graph.nodes.push(node);
    }
    graph.inputs.retain(|id| !past.contains(id));
    crate::graph::passes::remove_dead_nodes(graph);
    for node in &graph.nodes {
        if let Some(id) = node.inputs.iter().flatten().find(|id| is_past.get(id.index()) == Some(&true)) {
            let place = format!("node `{}` ({})", node.name, node.operator.name());
            let name = &graph.value(*id).name;
            return Err((
                place,
                format!("it reads `{name}`, keys or values of earlier tokens, of which there are none"),
            ));
        }
    }
    Ok(())
}

fn declare_empty(graph: &mut Graph, id: ValueId) -> Result<(), (String, String)> {
    let value = graph.value_mut(id);
    let info = value.declared.as_ref();
    let shape = info.and_then(|info| info.shape.as_deref());
    let (Some(info), Some([_, num_heads, _, head_dim])) = (info, shape) else {
        let problem = "it is not [batch_size, num_heads, past_len, head_dim]".to_owned();
        return Err((format!("input `{}`", value.name), problem));
    };
    let shape = vec![Dim::symbol("batch_size"), num_heads.clone(), 0i64.into(), head_dim.clone()];
    value.declared = Some(Info::new(info.dtype, shape));
    Ok(())
}

/// Makes of the input `positions` what counts a text's tokens, `[batch_size, seq_len]` as the input was.
fn count_positions(graph: &mut Graph, positions: ValueId, token_ids: ValueId) {
    let nodes = std::mem::take(&mut graph.nodes);
    let row = graph.add_node("positions", PositionIds, &[token_ids]);
    let to = graph.value(positions).declared_dtype();
    let row = graph.add_node("positions", Cast { to: Some(to), conversion: Conversion::default() }, &[row]);
    let sizes = graph.add_node("sizes", Shape { start: 0, end: None }, &[token_ids]);
    graph.nodes.push(Node {
        name: "positions".to_owned(),
        operator: Arc::new(Expand),
        inputs: vec![Some(row), Some(sizes)],
        outputs: vec![Some(positions)],
    });
    graph.nodes.extend(nodes);
    graph.inputs.retain(|id| *id != positions);
}

fn joins_sequences(node: &Node, infos: &Infos) -> bool {
    let rank = node.input(0).and_then(|id| infos.get(id)?.rank());
    let along =
        node.operator::<Concat>().zip(rank).and_then(|(concat, rank)| axes::axis(concat.axis, rank).ok());
    along == Some(SEQUENCE_AXIS)
}

/// Makes of a `Shape` what gives its sizes without its input, if all are known or the batch's.
fn give_sizes(graph: &mut Graph, node: &mut Node, infos: &Infos, token_ids: ValueId) {
    let sizes = node.output().and_then(|id| infos.get(id)?.ints.clone());
    let is_batch = |size: &Dim| *size == Dim::symbol("batch_size");
    let Some(sizes) = sizes.filter(|sizes| sizes.iter().all(|size| size.known().is_some() || is_batch(size)))
    else {
        return;
    };
    let part = |size: &Dim| match size.known() {
        Some(size) => graph.add_constant("", Array::vector(vec![size])),
        None => graph.add_node("batch size", Shape { start: 0, end: Some(1) }, &[token_ids]),
    };
    node.inputs = sizes.iter().map(part).map(Some).collect();
    node.operator = Arc::new(Concat { axis: 0 });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{DataType, Operator, Session};
    use crate::ops::shaping::Transpose;

    fn floats(graph: &mut Graph, name: &str, shape: [&str; 4]) -> ValueId {
        let dim = |dim: &str| dim.parse::<i64>().map_or_else(|_| Dim::symbol(dim), Dim::from);
        graph.add_input(name, Some(Info::new(DataType::F32, shape.map(dim).to_vec())))
    }

    fn ids(graph: &mut Graph) -> ValueId {
        let shape = vec![Dim::symbol("batch_size"), Dim::symbol("seq_len")];
        graph.add_input("input_ids", Some(Info::new(DataType::I64, shape)))
    }

    fn roles(token_ids: ValueId) -> Roles {
        Roles { token_ids, attention_mask: None, type_ids: None, positions: None }
    }

    #[test]
    fn nothing_is_joined_to_a_text() {
        let mut graph = Graph::default();
        let token_ids = ids(&mut graph);
        let own = floats(&mut graph, "own", ["batch_size", "2", "seq_len", "3"]);
        let past = floats(&mut graph, "past_key_values.0.key", ["b", "2", "p", "3"]);
        let both = vec![Dim::symbol("batch_size"), Dim::symbol("seq_len")];
        let positions = graph.add_input("position_ids", Some(Info::new(DataType::I32, both)));
        let alone = graph.add_node("alone", Concat { axis: -2 }, &[past]);
        let joined = graph.add_node("joined", Concat { axis: 2 }, &[alone, own]);
        let sizes = graph.add_node("sizes", Shape { start: 0, end: None }, &[alone]);
        let counted = graph.add_node("counted", Identity, &[positions]);
        graph.outputs = vec![joined, sizes, counted];
        let past = inputs(&graph);
        let mut roles = Roles { positions: Some(positions), ..roles(token_ids) };
        leave_out(&mut graph, &past, &mut roles).unwrap();
        assert!(roles.positions.is_none());
        let names: Vec<&str> = graph.inputs.iter().map(|id| graph.value(*id).name.as_str()).collect();
        assert_eq!(names, ["input_ids", "own"]);
        let array = Array::new([1, 2, 1, 3], vec![1.0f32; 6]).unwrap();
        let given = [("input_ids", Array::new([1, 1], vec![7i64]).unwrap()), ("own", array.clone())];
        let given = given.map(|(name, array)| (name.to_owned(), array));
        let found = Session::with_threads(graph, None).unwrap().run(given).unwrap();
        let counted = Array::new([1, 1], vec![0i32]).unwrap();
        assert_eq!(found, [array, Array::vector(vec![1i64, 2, 0, 3]), counted]);
    }

    #[test]
    fn attention_has_no_past_keys() {
        let mut graph = Graph::default();
        let token_ids = ids(&mut graph);
        let rows = |graph: &mut Graph, name: &str, width: i64| {
            let shape = vec![Dim::symbol("batch_size"), Dim::symbol("seq_len"), width.into()];
            graph.add_input(name, Some(Info::new(DataType::F32, shape)))
        };
        let own = [("q", 4), ("k", 2), ("v", 2)].map(|(name, width)| rows(&mut graph, name, width));
        let past = ["key", "value"].map(|part| {
            floats(&mut graph, &format!("past_key_values.0.{part}"), ["batch_size", "1", "past", "2"])
        });
        let (last, total) = (Array::vector(vec![1i32]), Array::vector(vec![2i32]));
        let sizes = [graph.add_constant("last", last), graph.add_constant("total", total)];
        let operator = GroupQueryAttention {
            num_heads: 2,
            num_kv_heads: 1,
            scale: None,
            softcap: 0.0,
            rotary: None,
            window: None,
        };
        let read = [&own[..], &past, &sizes].concat();
        graph.outputs = vec![graph.add_node("attention", operator, &read)];
        leave_out(&mut graph, &past, &mut roles(token_ids)).unwrap();
        let array = |width: usize, values: &[f32]| Array::new([1, 2, width], values.to_vec()).unwrap();
        let given = [
            ("input_ids", Array::new([1, 2], vec![1i64, 2]).unwrap()),
            ("q", array(4, &[0.0; 8])),
            ("k", array(2, &[1., 2., 3., 4.])),
            ("v", array(2, &[2., 4., 6., 8.])),
        ];
        let given = given.map(|(name, array)| (name.to_owned(), array));
        let found = Session::with_threads(graph, None).unwrap().run(given).unwrap();
        // The first token sees itself, the second both alike.
        assert_eq!(found, [array(4, &[2., 4., 2., 4., 4., 6., 4., 6.])]);
    }

    #[test]
    fn what_needs_a_past_is_named() {
        let refused = |operator: Option<Transpose>, shape: &[&str]| {
            let mut graph = Graph::default();
            let token_ids = ids(&mut graph);
            let dims = shape.iter().map(|dim| Dim::symbol(dim)).collect();
            let past = graph.add_input("past_key_values.0.key", Some(Info::new(DataType::F32, dims)));
            if let Some(operator) = operator {
                assert_eq!(operator.name(), "Transpose");
                graph.outputs = vec![graph.add_node("turned", operator, &[past])];
            }
            leave_out(&mut graph, &[past], &mut roles(token_ids)).unwrap_err()
        };
        let (place, problem) = refused(Some(Transpose { order: None }), &["a", "b", "c", "d"]);
        assert_eq!(place, "node `turned` (Transpose)");
        assert!(problem.contains("`past_key_values.0.key`"), "{problem}");
        assert_eq!(refused(None, &["a", "b", "c"]).0, "input `past_key_values.0.key`");
    }
}
