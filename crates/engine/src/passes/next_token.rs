//! The last linear layer of a causal language model, of whose vocabulary a few entries are wanted, and of whose tokens each
//! sequence's last.
//!
//! A logit is a function of its own column of the layer's weight. So the weight is cut to the columns that are wanted
//! before the layer is fused and packed, and logits of the whole vocabulary are never computed.

use std::collections::HashMap;
use std::sync::Arc;

use crate::graph::{Array, Dim, Graph, Infos, Node, Operator, ValueId};
use crate::ops::fused::{LastTokens, Linear};
use crate::ops::indexing::Gather;
use crate::ops::matmul::gemm::Gemm;
use crate::ops::quantized::MatMulNBits;
use crate::ops::shaping::{Reshape, Transpose};

/// What is in the way, and where.
type Obstacle = (String, String);

/// Nodes between the layer and the output that are followed; files have one or two.
const MAX_DEPTH: usize = 16;

/// Adds to the graph what computes only some `columns` of `output`, which has `width` of them and is a linear layer's, or
/// made of such by element; the value, which has the output's name.
///
/// # Errors
///
/// When there is no such column, or the node on the way that is nothing of the kind.
pub(crate) fn keep_columns(
    graph: &mut Graph,
    output: ValueId,
    width: usize,
    columns: &[u32],
) -> Result<ValueId, Obstacle> {
    if let Some(column) = columns.iter().find(|column| **column as usize >= width) {
        let place = format!("output `{}`", graph.value(output).name);
        return Err((place, format!("it has {width} columns, none for token {column}")));
    }
    let infos = graph.infer(&[]).map_err(|error| ("graph".to_owned(), error.to_string()))?;
    let mut writers = vec![None; graph.num_values()];
    let mut varies = vec![false; graph.num_values()];
    graph.inputs.iter().for_each(|id| varies[id.index()] = true);
    for (index, node) in graph.nodes.iter().enumerate() {
        let of_inputs = node.inputs.iter().flatten().any(|id| varies[id.index()]);
        for id in node.outputs.iter().flatten() {
            writers[id.index()] = Some(index);
            varies[id.index()] = of_inputs || !node.operator.is_deterministic();
        }
    }
    let indices = columns.iter().map(|column| i64::from(*column)).collect();
    let columns = graph.add_constant("columns", Array::vector(indices));
    let mut columns = Columns { graph, infos, writers, varies, width, columns, known: HashMap::new() };
    let kept = columns.of(output, 0)?;
    let graph = columns.graph;
    graph.value_mut(kept).name = graph.value(output).name.clone();
    Ok(kept)
}

struct Columns<'a> {
    graph: &'a mut Graph,
    infos: Infos,
    writers: Vec<Option<usize>>,
    /// Whether a value depends on the graph's inputs.
    varies: Vec<bool>,
    width: usize,
    /// Which are wanted.
    columns: ValueId,
    /// The wanted columns of values.
    known: HashMap<ValueId, ValueId>,
}

impl Columns<'_> {
    /// The wanted columns of a value that has all of them.
    fn of(&mut self, value: ValueId, depth: usize) -> Result<ValueId, Obstacle> {
        if let Some(known) = self.known.get(&value) {
            return Ok(*known);
        }
        if !self.varies[value.index()] {
            return self.of_weight(value, None, depth);
        }
        let Some(index) = self.writers[value.index()] else {
            let place = format!("output `{}`", self.graph.value(value).name);
            return Err((place, "it is an input, and no linear layer's result".to_owned()));
        };
        let node = self.graph.nodes[index].clone();
        let obstacle =
            |problem: &str| (format!("node `{}` ({})", node.name, node.operator.name()), problem.to_owned());
        if depth == MAX_DEPTH || node.output() != Some(value) {
            return Err(obstacle("the output's linear layer is not found"));
        }
        let mut inputs = node.inputs.clone();
        let mut operator = node.operator.clone();
        match node.operator.name() {
            "Cast" | "Identity" | "Tanh" => inputs[0] = Some(self.of(first(&node, 0, obstacle)?, depth + 1)?),
            "Add" | "Sub" | "Mul" | "Div" => self.operands(&node, &mut inputs, &[0, 1], depth)?,
            "MatMul" => inputs[1] = Some(self.of_weight(first(&node, 1, obstacle)?, None, depth)?),
            "Gemm" => {
                let is_rows = node.operator::<Gemm>().is_some_and(|gemm| gemm.transpose_b);
                let axis = Some(usize::from(!is_rows));
                inputs[1] = Some(self.of_weight(first(&node, 1, obstacle)?, axis, depth)?);
                self.operands(&node, &mut inputs, &[2], depth)?;
            }
            // Zero points, scales and biases may be the columns' own.
            name @ ("MatMulInteger" | "MatMulIntegerToFloat" | "DynamicQuantizeMatMul") => {
                inputs[1] = Some(self.of_weight(first(&node, 1, obstacle)?, None, depth)?);
                let operands: &[usize] = match name {
                    "MatMulInteger" => &[3],
                    "MatMulIntegerToFloat" => &[3, 5, 6],
                    _ => &[2, 3, 4],
                };
                self.operands(&node, &mut inputs, operands, depth)?;
            }
            "MatMulNBits" => {
                let Some(product) = node.operator::<MatMulNBits>() else {
                    return Err(obstacle("it is none of ONNX Runtime's"));
                };
                for index in [1, 2, 3, 5] {
                    if let Some(Some(input)) = inputs.get_mut(index) {
                        if self.varies[input.index()] {
                            return Err(obstacle("its weight is computed from the inputs"));
                        }
                        *input = self.rows(*input);
                    }
                }
                if let Some(Some(bias)) = inputs.get_mut(5) {
                    let shape = self.graph.add_constant("", Array::vector(vec![-1i64]));
                    *bias = self.graph.add_node("", Reshape { allow_zero: false }, &[*bias, shape]);
                }
                let out_features = self.len();
                operator = Arc::new(MatMulNBits { out_features, ..*product });
            }
            _ => {
                return Err(obstacle(
                    "it is no linear layer, whose weight could be cut to a few tokens' columns",
                ));
            }
        }
        let kept = self.add(&node, operator, inputs);
        self.known.insert(value, kept);
        Ok(kept)
    }

    /// Puts the wanted columns of some inputs, which are broadcast, in their place: the input itself, if it is the same
    /// for all columns.
    fn operands(
        &mut self,
        node: &Node,
        inputs: &mut [Option<ValueId>],
        indices: &[usize],
        depth: usize,
    ) -> Result<(), Obstacle> {
        for index in indices {
            let Some(Some(input)) = inputs.get_mut(*index) else {
                continue;
            };
            let shape = self.infos.get(*input).and_then(|info| info.shape.as_deref());
            match shape.map(|shape| shape.last().map_or(Some(1), Dim::known_size)) {
                Some(Some(width)) if width == self.width => *input = self.of(*input, depth + 1)?,
                Some(Some(1)) => {}
                _ => {
                    let place = format!("node `{}` ({})", node.name, node.operator.name());
                    return Err((place, format!("the columns of its input {index} are not known")));
                }
            }
        }
        Ok(())
    }

    /// The wanted columns, on this axis or the last, of something that is the same for all texts. Pushed up to what the
    /// file holds, so that a large table is neither transposed nor cast.
    fn of_weight(&mut self, value: ValueId, axis: Option<usize>, depth: usize) -> Result<ValueId, Obstacle> {
        let obstacle = |graph: &Graph, problem: &str| {
            (format!("weight `{}`", graph.value(value).name), problem.to_owned())
        };
        if self.varies[value.index()] {
            return Err(obstacle(self.graph, "it is computed from the inputs"));
        }
        let shape = self.infos.get(value).and_then(|info| info.shape.clone());
        let shape = shape.ok_or_else(|| obstacle(self.graph, "its shape is not known"))?;
        let axis = axis.unwrap_or(shape.len().saturating_sub(1));
        if !shape.get(axis).is_some_and(|size| size.is(self.width as i64)) {
            return Err(obstacle(self.graph, &format!("its shape {shape:?} has not {} columns", self.width)));
        }
        let writer = self.writers[value.index()].filter(|_| depth < MAX_DEPTH);
        let node = writer.map(|index| self.graph.nodes[index].clone());
        if let Some(node) = node.filter(|node| node.output() == Some(value))
            && let Some(input) = node.input(0)
        {
            let reversed = || (0..shape.len()).rev().collect();
            let above = match node.operator::<Transpose>() {
                Some(Transpose { order }) => order.clone().unwrap_or_else(reversed).get(axis).copied(),
                None if ["Cast", "Identity"].contains(&node.operator.name()) => Some(axis),
                None => None,
            };
            if let Some(axis) = above {
                let kept = self.of_weight(input, Some(axis), depth + 1)?;
                let inputs = std::iter::once(Some(kept)).chain(node.inputs.iter().skip(1).copied()).collect();
                return Ok(self.add(&node, node.operator.clone(), inputs));
            }
        }
        let axis = i64::try_from(axis).expect("a rank is small");
        Ok(self.graph.add_node("columns of a weight", Gather { axis }, &[value, self.columns]))
    }

    /// The wanted of `width` rows, whatever their shape.
    fn rows(&mut self, value: ValueId) -> ValueId {
        let shape = self.graph.add_constant("", Array::vector(vec![self.width as i64, -1]));
        let rows = self.graph.add_node("rows of a weight", Reshape { allow_zero: false }, &[value, shape]);
        self.graph.add_node("some rows of a weight", Gather { axis: 0 }, &[rows, self.columns])
    }

    fn len(&self) -> usize {
        self.graph.constant(self.columns).map_or(0, |columns| columns.len())
    }

    fn add(&mut self, node: &Node, operator: Arc<dyn Operator>, inputs: Vec<Option<ValueId>>) -> ValueId {
        let output = self.graph.add_value(node.name.clone());
        self.graph.nodes.push(Node {
            name: node.name.clone(),
            operator,
            inputs,
            outputs: vec![Some(output)],
        });
        output
    }
}

fn first(node: &Node, index: usize, obstacle: impl Fn(&str) -> Obstacle) -> Result<ValueId, Obstacle> {
    node.input(index).ok_or_else(|| obstacle("an input is missing"))
}

/// Lets the last linear layer of a packed graph, and what follows it by element, compute each sequence's last token only;
/// says whether it does. `cu_seqlens` is the name of the input that says where sequences end.
pub(crate) fn take_last_tokens(graph: &mut Graph, cu_seqlens: &str) -> bool {
    let &[output] = graph.outputs.as_slice() else {
        return false;
    };
    let ends = graph.inputs.iter().copied().find(|id| graph.value(*id).name == cu_seqlens);
    let Some(ends) = ends else {
        return false;
    };
    let mut value = output;
    for _ in 0..MAX_DEPTH {
        let Some(index) = graph.nodes.iter().position(|node| node.output() == Some(value)) else {
            return false;
        };
        let node = &graph.nodes[index];
        let constants = node.inputs.iter().skip(1).flatten().all(|id| graph.constant(*id).is_some());
        let is_linear = node.operator::<Linear>().is_some() || node.operator::<MatMulNBits>().is_some();
        let follows = ["Cast", "Identity", "Tanh"].contains(&node.operator.name());
        let Some(input) = node.input(0).filter(|_| constants && (is_linear || follows)) else {
            return false;
        };
        if is_linear {
            let last = graph.add_node("last tokens", LastTokens, &[input, ends]);
            let moved = graph.nodes.pop().expect("it was added");
            graph.nodes.insert(index, moved);
            graph.nodes[index + 1].inputs[0] = Some(last);
            graph.value_mut(output).declared = None;
            return true;
        }
        value = input;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{DataType, Info, Session};
    use crate::ops::elementwise::{Arithmetic, Operation};
    use crate::ops::matmul::MatMul;
    use crate::ops::shaping::Identity;
    use crate::{Int8Scales, Precision};

    const WIDTH: usize = 5;

    fn numbers(shape: &[usize]) -> Array {
        let len = shape.iter().product::<usize>();
        Array::new(shape, (0..len).map(|i| (i * i % 17) as f32 - 8.0).collect()).unwrap()
    }

    /// A graph of 16 inputs for each token, with what `build` makes of them as its output.
    fn graph(build: impl FnOnce(&mut Graph, ValueId) -> ValueId) -> Graph {
        let mut graph = Graph::default();
        let shape = vec![Dim::symbol("batch_size"), Dim::symbol("seq_len"), 16i64.into()];
        let x = graph.add_input("x", Some(Info::new(DataType::F32, shape)));
        let output = build(&mut graph, x);
        graph.value_mut(output).name = "logits".to_owned();
        graph.outputs = vec![output];
        graph
    }

    fn run(graph: &Graph) -> Vec<f32> {
        let given = [("x".to_owned(), numbers(&[1, 3, 16]))];
        let found = Session::with_threads(graph.clone(), None).unwrap().run(given).unwrap();
        found[0].to_floats().unwrap().into_owned()
    }

    /// The columns 3 and 1 of what `build` makes; the largest constant that is left.
    #[track_caller]
    fn check(build: impl FnOnce(&mut Graph, ValueId) -> ValueId) {
        let mut graph = graph(build);
        let all = run(&graph);
        let output = graph.outputs[0];
        let kept = keep_columns(&mut graph, output, WIDTH, &[3, 1]).unwrap();
        assert_eq!(graph.value(kept).name, "logits");
        graph.outputs = vec![kept];
        crate::graph::passes::remove_dead_nodes(&mut graph);
        crate::passes::fuse(&mut graph, Precision::F32, Int8Scales::PerToken).unwrap();
        assert_eq!(
            graph.infer(&[]).unwrap().get(graph.outputs[0]).unwrap().shape.as_ref().unwrap()[2],
            2i64.into()
        );
        let largest = graph.constants().map(|constant| constant.len()).max();
        assert!(largest <= Some(2 * 16), "{largest:?} elements are left");
        let expected: Vec<f32> = all.chunks_exact(WIDTH).flat_map(|row| [row[3], row[1]]).collect();
        assert_eq!(run(&graph), expected);
    }

    #[test]
    fn columns_of_layers_are_those_of_all() {
        let add = || Arithmetic { operation: Operation::Add };
        let multiply = || Arithmetic { operation: Operation::Mul };
        check(|graph, x| {
            let weight = graph.add_constant("weight", numbers(&[16, WIDTH]));
            graph.add_node("layer", MatMul, &[x, weight])
        });
        // Tied to a token table, with a bias of each column and a factor of all.
        check(|graph, x| {
            let table = graph.add_constant("table", numbers(&[WIDTH, 16]));
            let table = graph.add_node("same", Identity, &[table]);
            let weight = graph.add_node("turned", Transpose { order: Some(vec![1, 0]) }, &[table]);
            let (bias, factor) = (numbers(&[WIDTH]), Array::scalar(0.5f32));
            let (bias, factor) = (graph.add_constant("bias", bias), graph.add_constant("factor", factor));
            let product = graph.add_node("layer", MatMul, &[x, weight]);
            let sum = graph.add_node("sum", add(), &[bias, product]);
            graph.add_node("scaled", multiply(), &[sum, factor])
        });
        // A weight that is computed from constants.
        check(|graph, x| {
            let codes = graph.add_constant("codes", numbers(&[16, WIDTH]));
            let scales = graph.add_constant("scales", numbers(&[WIDTH]));
            let weight = graph.add_node("weight", multiply(), &[codes, scales]);
            graph.add_node("layer", MatMul, &[x, weight])
        });
        check(|graph, x| {
            let codes = Array::new([WIDTH, 1, 8], (0..40u8).map(|i| i * 6).collect()).unwrap();
            let zeros = Array::new([WIDTH], vec![1u8, 2, 3, 4, 5]).unwrap();
            let (bias, scales) = (numbers(&[WIDTH]), numbers(&[WIDTH]));
            let inputs = [codes, scales, zeros].map(|array| graph.add_constant("", array));
            let bias = graph.add_constant("bias", bias);
            let operator = MatMulNBits { in_features: 16, out_features: WIDTH, bits: 4, block_size: 16 };
            let output = graph.add_node("layer", operator, &[x, inputs[0], inputs[1], inputs[2]]);
            graph.nodes[0].inputs.extend([None, Some(bias)]);
            output
        });
    }

    #[test]
    fn columns_of_a_matrix_product_with_a_turned_weight() {
        for transpose_b in [false, true] {
            let shape = if transpose_b { [WIDTH, 16] } else { [16, WIDTH] };
            let mut graph = Graph::default();
            let info = Info::new(DataType::F32, vec![Dim::symbol("rows"), 16i64.into()]);
            let x = graph.add_input("x", Some(info));
            let weight = graph.add_constant("weight", numbers(&shape));
            let bias = graph.add_constant("bias", numbers(&[WIDTH]));
            let gemm = Gemm { alpha: 1.0, beta: 1.0, transpose_a: false, transpose_b };
            graph.outputs = vec![graph.add_node("layer", gemm, &[x, weight, bias])];
            let rows = |graph: &Graph| {
                let given = [("x".to_owned(), numbers(&[3, 16]))];
                Session::with_threads(graph.clone(), None).unwrap().run(given).unwrap().swap_remove(0)
            };
            let all = rows(&graph);
            let output = graph.outputs[0];
            graph.outputs = vec![keep_columns(&mut graph, output, WIDTH, &[4, 0]).unwrap()];
            let all = all.values::<f32>().unwrap().chunks_exact(WIDTH);
            let expected: Vec<f32> = all.flat_map(|row| [row[4], row[0]]).collect();
            assert_eq!(rows(&graph), Array::new([3, 2], expected).unwrap());
        }
    }

    #[test]
    fn what_is_no_layer_is_named() {
        let refused = |build: fn(&mut Graph, ValueId) -> ValueId, column: u32| {
            let mut graph = graph(build);
            let output = graph.outputs[0];
            let (place, problem) = keep_columns(&mut graph, output, WIDTH, &[column]).unwrap_err();
            format!("{place}: {problem}")
        };
        let layer = |graph: &mut Graph, x| {
            let weight = graph.add_constant("weight", numbers(&[16, WIDTH]));
            graph.add_node("layer", MatMul, &[x, weight])
        };
        assert!(refused(layer, 5).contains("output `logits`: it has 5 columns, none for token 5"));
        let turned = |graph: &mut Graph, x| {
            let weight = graph.add_constant("weight", numbers(&[16, WIDTH]));
            let logits = graph.add_node("layer", MatMul, &[x, weight]);
            graph.add_node("turned", Transpose { order: Some(vec![1, 0, 2]) }, &[logits])
        };
        assert!(refused(turned, 0).starts_with("node `turned` (Transpose): it is no linear layer"));
        let computed = |graph: &mut Graph, x| {
            let turned = graph.add_node("turned", Transpose { order: Some(vec![0, 2, 1]) }, &[x]);
            graph.add_node("layer", MatMul, &[x, turned])
        };
        assert!(refused(computed, 0).contains("it is computed from the inputs"));
        // A sum with itself, again and again: neither deep nor often.
        let doubled = |graph: &mut Graph, x| {
            let weight = graph.add_constant("weight", numbers(&[16, WIDTH]));
            let mut sum = graph.add_node("layer", MatMul, &[x, weight]);
            for _ in 0..200 {
                sum = graph.add_node("sum", Arithmetic { operation: Operation::Add }, &[sum, sum]);
            }
            sum
        };
        assert!(refused(doubled, 0).contains("is not found"));
    }
}
