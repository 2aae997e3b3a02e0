//! Low-rank adapters (LoRA) that a graph adds to its weights: `x (W + s A B)` becomes `x W + s (x A) B`.
//!
//! Where an input selects the adapter, the sum is no constant: each run would write all weights anew, a table of tokens
//! as well, and multiply with a matrix that nobody laid out. Rewritten, the weights stay the file's, and what the
//! adapter adds costs two thin products.

use super::pattern::{Additions, Pattern, Replacement, replace_with};
use crate::graph::{Array, Graph, Info, Infos, Node, ValueId};
use crate::ops::elementwise::{Arithmetic, Operation};
use crate::ops::fused::{Linear, WeightLayout};
use crate::ops::indexing::Gather;
use crate::ops::matmul::MatMul;
use crate::ops::shaping::{Reshape, Transpose};
use crate::{Precision, Result};

const ADD: Arithmetic = Arithmetic { operation: Operation::Add };
const MUL: Arithmetic = Arithmetic { operation: Operation::Mul };

pub(super) fn fuse(graph: &mut Graph, precision: Precision) -> Result<()> {
    let infos = graph.infer(&[])?;
    // A bias is added first, so that it is part of the linear layer.
    replace_with(graph, |pattern, node, additions| {
        if node.operator.name() != "Add" {
            return None;
        }
        Pattern::both_orders(node).into_iter().find_map(|(product, bias)| {
            let sum = Sum::find(pattern, &infos, pattern.named(product, "MatMul")?)?;
            let bias_shape = pattern.graph.constant(bias)?.shape();
            let fits = bias_shape == [sum.out_features()] && pattern.is_used_once(product);
            fits.then(|| sum.replacement(additions, precision, Some(bias)))
        })
    });
    let infos = graph.infer(&[])?;
    replace_with(graph, |pattern, node, additions| {
        if node.operator.name() == "MatMul" {
            return Some(Sum::find(pattern, &infos, node)?.replacement(additions, precision, None));
        }
        rows(pattern, &infos, node, additions)
    });
    Ok(())
}

/// `W + s A B`
struct Adapted {
    weight: ValueId,
    /// Of weight: rows and columns.
    shape: [usize; 2],
    scale: Option<ValueId>,
    /// `[rows, rank]` and `[rank, columns]`, with leading ones perhaps.
    factors: [ValueId; 2],
    rank: usize,
    /// Whether the factors have to lose leading ones.
    is_flat: bool,
}

impl Adapted {
    fn find(pattern: &Pattern, infos: &Infos, id: ValueId) -> Option<Self> {
        let add = pattern.named(id, "Add")?;
        Pattern::both_orders(add).into_iter().find_map(|(weight, delta)| {
            let constant = pattern.graph.constant(weight)?;
            let &[rows, columns] = constant.shape() else {
                return None;
            };
            // What is added must not be broadcast.
            let is_whole = matrix(infos, delta)? == [rows, columns] && infos.get(delta)?.rank() == Some(2);
            let (mut delta, mut scale) = (delta, None);
            while let Some(node) = pattern.node(delta) {
                delta = match node.operator.name() {
                    "Reshape" => node.input(0)?,
                    "Mul" if scale.is_none() => {
                        let is_number = |id| infos.get(id).and_then(Info::rank).is_some_and(|rank| rank <= 2);
                        let (scaled, factor) = Pattern::both_orders(node)
                            .into_iter()
                            .find(|(_, factor)| pattern.scalar(*factor).is_some() && is_number(*factor))?;
                        scale = Some(factor);
                        scaled
                    }
                    _ => break,
                };
            }
            let product = pattern.named(delta, "MatMul")?;
            let factors = [product.input(0)?, product.input(1)?];
            let [a, b] = [matrix(infos, factors[0])?, matrix(infos, factors[1])?];
            let rank = a[1];
            // A product of thick factors is cheaper once than twice.
            let is_low = rank.checked_mul(rows.checked_add(columns)?)? < rows.checked_mul(columns)?;
            let fits = a[0] == rows && b == [rank, columns] && is_low && constant.dtype().is_float();
            let is_flat = factors.iter().all(|id| infos.get(*id).and_then(Info::rank) == Some(2));
            let shape = [rows, columns];
            (fits && is_whole).then_some(Self { weight, shape, scale, factors, rank, is_flat })
        })
    }

    /// The factors as matrices.
    fn factors(&self, additions: &mut Additions) -> [ValueId; 2] {
        let [a, b] = self.factors;
        if self.is_flat {
            return [a, b];
        }
        let shapes = [[self.shape[0], self.rank], [self.rank, self.shape[1]]];
        [(a, shapes[0]), (b, shapes[1])].map(|(factor, shape)| {
            let shape = additions.constant(Array::vector(shape.map(|size| size as i64).to_vec()));
            additions.node(Reshape { allow_zero: true }, &[factor, shape])
        })
    }

    /// `scale * product`
    fn scaled(&self, additions: &mut Additions, product: ValueId) -> ValueId {
        match self.scale {
            Some(scale) => additions.node(MUL, &[product, scale]),
            None => product,
        }
    }
}

/// The last two sizes of a value whose others are 1.
fn matrix(infos: &Infos, id: ValueId) -> Option<[usize; 2]> {
    let shape = infos.get(id)?.shape.as_ref()?;
    let (ones, last) = shape.split_at_checked(shape.len().checked_sub(2)?)?;
    if !ones.iter().all(|dim| dim.is(1)) {
        return None;
    }
    Some([last[0].known_size()?, last[1].known_size()?])
}

/// A product with an adapted weight.
struct Sum {
    x: ValueId,
    adapted: Adapted,
    is_transposed: bool,
}

impl Sum {
    fn find(pattern: &Pattern, infos: &Infos, node: &Node) -> Option<Self> {
        let (x, weight) = (node.input(0)?, node.input(1)?);
        if infos.get(x)?.rank()? < 2 || pattern.graph.constant(x).is_some() {
            return None;
        }
        let transpose = pattern.operator::<Transpose>(weight);
        let weight = match transpose {
            Some((transpose, _)) => transpose.input(0)?,
            None => weight,
        };
        let adapted = Adapted::find(pattern, infos, weight)?;
        // A matrix has one transpose, but for the one that leaves it as it is.
        let is_identity = |transpose: &Transpose| transpose.order.as_deref() == Some(&[0, 1]);
        let is_transposed = transpose.is_some_and(|(_, transpose)| !is_identity(transpose));
        Some(Self { x, adapted, is_transposed })
    }

    fn out_features(&self) -> usize {
        self.adapted.shape[usize::from(!self.is_transposed)]
    }

    /// `(x W + bias) + s (x A) B`, or with all matrices transposed.
    fn replacement(
        &self,
        additions: &mut Additions,
        precision: Precision,
        bias: Option<ValueId>,
    ) -> Replacement {
        let layout = if self.is_transposed { WeightLayout::OutIn } else { WeightLayout::InOut };
        let linear = Linear { layout, activation: None, precision };
        let inputs: Vec<ValueId> = [self.x, self.adapted.weight].into_iter().chain(bias).collect();
        let product = additions.node(linear, &inputs);
        let [mut a, mut b] = self.adapted.factors(additions);
        if self.is_transposed {
            let transpose = Transpose { order: Some(vec![1, 0]) };
            (a, b) = (additions.node(transpose.clone(), &[b]), additions.node(transpose, &[a]));
        }
        let thin = additions.node(MatMul, &[self.x, a]);
        let delta = additions.node(MatMul, &[thin, b]);
        let delta = self.adapted.scaled(additions, delta);
        Replacement::new(ADD, vec![Some(product), Some(delta)])
    }
}

/// Rows of an adapted table: rows of the table and of the first factor.
fn rows(pattern: &Pattern, infos: &Infos, node: &Node, additions: &mut Additions) -> Option<Replacement> {
    let gather: &Gather = node.operator()?;
    let (table, ids) = (node.input(0)?, node.input(1)?);
    if gather.axis != 0 {
        return None;
    }
    // A row alone would be a vector, whose product has no rows.
    infos.get(ids)?.rank().filter(|rank| *rank > 0)?;
    let adapted = Adapted::find(pattern, infos, table)?;
    let [a, b] = adapted.factors(additions);
    let words = additions.node(*gather, &[adapted.weight, ids]);
    let thin = additions.node(*gather, &[a, ids]);
    let delta = additions.node(MatMul, &[thin, b]);
    let delta = adapted.scaled(additions, delta);
    Some(Replacement::new(ADD, vec![Some(words), Some(delta)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{DataType, Dim, Session};

    const ROWS: usize = 6;
    const COLUMNS: usize = 8;
    const SCALE: f32 = 0.5;

    fn wave(shape: &[usize], step: f32) -> Array {
        let len: usize = shape.iter().product();
        Array::new(shape, (0..len).map(|i| (i as f32 * step).sin()).collect()).unwrap()
    }

    /// `W + (A[task] B[task]) * scale` of rank `rank`, where task has the shape `[1]` or none.
    fn adapted(graph: &mut Graph, rank: usize, task_shape: Vec<Dim>) -> ValueId {
        let has_ones = !task_shape.is_empty();
        let task = graph.add_input("task", Some(Info::new(DataType::I64, task_shape)));
        let table = |graph: &mut Graph, name: &str, shape: [usize; 3]| {
            let table = graph.add_constant(name, wave(&shape, 0.37 + shape[1] as f32));
            graph.add_node(name, Gather { axis: 0 }, &[table, task])
        };
        let a = table(graph, "a", [3, ROWS, rank]);
        let b = table(graph, "b", [3, rank, COLUMNS]);
        let mut delta = graph.add_node("delta", MatMul, &[a, b]);
        if has_ones {
            let shape = graph.add_constant("shape", Array::vector(vec![ROWS as i64, COLUMNS as i64]));
            delta = graph.add_node("reshape", Reshape { allow_zero: false }, &[delta, shape]);
        }
        let scale = graph.add_constant("scale", Array::scalar(SCALE));
        let delta = graph.add_node("scaled", MUL, &[delta, scale]);
        let weight = graph.add_constant("weight", wave(&[ROWS, COLUMNS], 0.9));
        graph.add_node("sum", ADD, &[weight, delta])
    }

    /// Results of the graph as it is and fused, whose operators are these.
    #[track_caller]
    fn check(graph: &Graph, inputs: &[(&str, Array)], expected: &[&str]) {
        let mut fused = graph.clone();
        fuse(&mut fused, Precision::F32).unwrap();
        let names: Vec<&str> = fused.nodes.iter().map(|node| node.operator.name()).collect();
        for name in expected {
            assert!(names.contains(name), "{names:?} lacks {name}");
        }
        let run = |graph: &Graph, task: i64| {
            let input = &graph.inputs.iter().map(|id| graph.value(*id)).find(|value| value.name == "task");
            let rank = input.unwrap().declared.as_ref().unwrap().rank().unwrap();
            let task = Array::new(vec![1; rank], vec![task]).unwrap();
            let given = inputs.iter().cloned().chain([("task", task)]);
            Session::new(graph.clone()).unwrap().run(given).unwrap().remove(0)
        };
        for task in 0..3 {
            let (plain, fused) = (run(graph, task), run(&fused, task));
            assert_eq!(plain.shape(), fused.shape());
            let (plain, fused) = (plain.to_floats().unwrap(), fused.to_floats().unwrap());
            for (plain, fused) in plain.iter().zip(fused.iter()) {
                assert!((plain - fused).abs() < 1e-5, "{plain} {fused}");
            }
        }
    }

    fn product(is_transposed: bool, has_bias: bool, rank: usize, task_shape: Vec<Dim>) -> Graph {
        let mut graph = Graph::default();
        let (depth, width) = if is_transposed { (COLUMNS, ROWS) } else { (ROWS, COLUMNS) };
        let x = vec![Dim::symbol("batch"), Dim::symbol("len"), depth.into()];
        let x = graph.add_input("x", Some(Info::new(DataType::F32, x)));
        let mut weight = adapted(&mut graph, rank, task_shape);
        if is_transposed {
            weight = graph.add_node("transpose", Transpose { order: Some(vec![1, 0]) }, &[weight]);
        }
        let mut y = graph.add_node("product", MatMul, &[x, weight]);
        if has_bias {
            let bias = graph.add_constant("bias", wave(&[width], 1.1));
            y = graph.add_node("biased", ADD, &[bias, y]);
        }
        graph.outputs = vec![y];
        graph
    }

    #[test]
    fn adapters_of_weights_are_added_to_outputs() {
        for is_transposed in [false, true] {
            for has_bias in [false, true] {
                for task_shape in [vec![], vec![1i64.into()]] {
                    let graph = product(is_transposed, has_bias, 2, task_shape);
                    let depth = if is_transposed { COLUMNS } else { ROWS };
                    check(&graph, &[("x", wave(&[2, 3, depth], 0.3))], &["Linear"]);
                }
            }
        }
    }

    #[test]
    fn rows_of_adapted_tables_are_sums() {
        for task_shape in [vec![], vec![1i64.into()]] {
            let mut graph = Graph::default();
            let ids = Info::new(DataType::I64, vec![Dim::symbol("batch"), Dim::symbol("len")]);
            let ids = graph.add_input("ids", Some(ids));
            let table = adapted(&mut graph, 2, task_shape);
            let rows = graph.add_node("rows", Gather { axis: 0 }, &[table, ids]);
            graph.outputs = vec![rows];
            let ids = Array::new([1, 3], vec![5i64, 0, 2]).unwrap();
            check(&graph, &[("ids", ids)], &["Gather", "MatMul"]);
            let mut fused = graph.clone();
            fuse(&mut fused, Precision::F32).unwrap();
            let infos = fused.infer(&[]).unwrap();
            let is_table = |id: &ValueId| infos.get(*id).and_then(Info::rank) == Some(2);
            let adds = fused.nodes.iter().filter(|node| node.operator.name() == "Add");
            assert!(!adds.flat_map(|node| node.inputs.iter().flatten()).any(is_table), "no table is summed");
        }
    }

    #[test]
    fn a_thick_adapter_is_left_alone() {
        let mut graph = product(true, true, 4, vec![]);
        let before = graph.nodes.len();
        fuse(&mut graph, Precision::F32).unwrap();
        assert_eq!(graph.nodes.len(), before);
    }
}
