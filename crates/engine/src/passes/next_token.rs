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
            "Add" | "Sub" | "Mul" | "Div" => {
                for input in inputs.iter_mut().flatten() {
                    *input = self
                        .of_operand(*input, depth + 1)
                        .ok_or_else(|| obstacle("its inputs' columns are not known"))??;
                }
            }
            "MatMul" => inputs[1] = Some(self.of_weight(first(&node, 1, obstacle)?, None, depth)?),
            "Gemm" => {
                let is_rows = node.operator::<Gemm>().is_some_and(|gemm| gemm.transpose_b);
                let axis = Some(usize::from(!is_rows));
                inputs[1] = Some(self.of_weight(first(&node, 1, obstacle)?, axis, depth)?);
                if let Some(Some(bias)) = inputs.get_mut(2) {
                    *bias = self
                        .of_operand(*bias, depth + 1)
                        .ok_or_else(|| obstacle("its bias is not known"))??;
                }
            }
            "MatMulInteger" => {
                inputs[1] = Some(self.of_weight(first(&node, 1, obstacle)?, None, depth)?);
                if let Some(Some(zero)) = inputs.get_mut(3) {
                    *zero = self
                        .of_operand(*zero, depth + 1)
                        .ok_or_else(|| obstacle("its zero point is not known"))??;
                }
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

    /// [`of`](Self::of) something that is broadcast: itself, if it is the same for all columns. `None` where that is
    /// not known.
    fn of_operand(&mut self, value: ValueId, depth: usize) -> Option<Result<ValueId, Obstacle>> {
        let shape = self.infos.get(value)?.shape.as_ref()?;
        match shape.last().map(Dim::known_size) {
            Some(Some(width)) if width == self.width => Some(self.of(value, depth)),
            None | Some(Some(1)) => Some(Ok(value)),
            _ => None,
        }
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
