//! Loops that do not end, values captured in either order, and what is known of shapes that change.

use super::*;
use crate::graph::{Attribute, Attributes, DataType, Operator};
use crate::ops::{self, NodeReader};

fn operator(name: &str, inputs: usize, attributes: Vec<(&str, Attribute)>) -> Box<dyn Operator> {
    let attributes = attributes.into_iter().map(|(name, attribute)| (name.to_owned(), attribute)).collect();
    let attributes = Attributes::new(attributes);
    let node = NodeReader { opset: 18, num_inputs: inputs, num_outputs: 1, attributes: &attributes };
    ops::find("", name).unwrap().read(&node).unwrap()
}

/// Adds a node of an operator that is read as a file's.
fn add(
    graph: &mut Graph,
    name: &str,
    inputs: &[crate::graph::ValueId],
    attributes: Vec<(&str, Attribute)>,
) -> crate::graph::ValueId {
    let operator: Arc<dyn Operator> = operator(name, inputs.len(), attributes).into();
    let output = graph.add_value(format!("{name} {}", graph.num_values()));
    let (inputs, outputs) = (inputs.iter().copied().map(Some).collect(), vec![Some(output)]);
    graph.nodes.push(Node { name: name.to_owned(), operator, inputs, outputs });
    output
}

/// A graph that joins its second carried value and a captured one.
fn growing() -> Graph {
    let mut graph = Graph::default();
    graph.add_input("trip", Some(Info::new(DataType::I64, vec![])));
    let goes_on = graph.add_input("condition", Some(Info::new(DataType::Bool, vec![])));
    // The declaration is true of the first iteration only.
    let value = graph.add_input("value", Some(Info::new(DataType::F32, vec![1i64.into(), 2i64.into()])));
    let captured = graph.add_input("captured", None);
    let joined = add(&mut graph, "Concat", &[value, captured], vec![("axis", Attribute::Int(0))]);
    graph.outputs = vec![goes_on, joined, captured];
    graph
}

fn growing_loop() -> Box<dyn Operator> {
    operator("Loop", 3, vec![("body", Attribute::Graph(growing()))])
}

fn run(operator: &dyn Operator, inputs: Vec<Option<Array>>) -> Result<Vec<Array>, Problem> {
    operator.run(Operands::new(inputs))
}

#[test]
fn loops_carry_values_and_stack_others() {
    let row = Array::full([1, 2], 1.0f32).unwrap();
    let outputs = |trips: i64| {
        run(&*growing_loop(), vec![Some(Array::scalar(trips)), None, Some(row.clone()), Some(row.clone())])
            .unwrap()
    };
    let shapes = |trips| outputs(trips).iter().map(|array| array.shape().to_vec()).collect::<Vec<_>>();
    assert_eq!(shapes(3), [vec![4, 2], vec![3, 1, 2]]);
    assert_eq!(shapes(0), [vec![1, 2], vec![0, 1, 2]]);
    assert_eq!(shapes(i64::MIN), [vec![1, 2], vec![0, 1, 2]]);
}

#[test]
fn sizes_that_change_from_iteration_to_iteration_are_unknown() {
    let seq = Dim::symbol("seq");
    let initial = Info::new(DataType::F32, vec![seq.clone(), 2i64.into()]);
    let captured = Info::new(DataType::F32, vec![1i64.into(), 2i64.into()]);
    let trips = Info::new(DataType::I64, vec![]);
    let inputs = Operands::new(vec![Some(&trips), None, Some(&initial), Some(&captured)]);
    let outputs = growing_loop().infer(&inputs).unwrap();
    let dims = outputs[0].shape.as_ref().unwrap();
    assert!(dims[0] != seq && dims[0].known().is_none());
    assert_eq!(dims[1], 2i64.into());
    assert_eq!(outputs[1].shape.as_ref().unwrap()[1..], [1i64.into(), 2i64.into()]);
}

#[test]
fn loops_without_end_are_problems() {
    let mut graph = Graph::default();
    graph.add_input("trip", None);
    let goes_on = graph.add_input("condition", None);
    graph.outputs = vec![goes_on];
    let endless = operator("Loop", 2, vec![("body", Attribute::Graph(graph))]);
    assert!(run(&*endless, vec![Some(Array::scalar(i64::MAX)), Some(Array::scalar(true))]).is_err());
    assert!(run(&*endless, vec![]).is_err());
    assert!(run(&*endless, vec![None, Some(Array::scalar(false))]).unwrap().is_empty());
    assert!(run(&*endless, vec![Some(Array::vector(vec![1i64, 2]))]).is_err());
}

#[test]
fn branches_capture_in_the_order_of_the_file() {
    let branch = |name: &str| {
        let mut graph = Graph::default();
        let input = graph.add_input(name, None);
        graph.outputs = vec![input];
        Attribute::Graph(graph)
    };
    let [a, b] = [1i64, 2].map(|int| Some(Array::scalar(int)));
    for (first, second, expected) in [("then_branch", "else_branch", 1), ("else_branch", "then_branch", 2)] {
        let operator = operator("If", 1, vec![(first, branch("a")), (second, branch("b"))]);
        let inputs = vec![Some(Array::scalar(true)), a.clone(), b.clone()];
        assert_eq!(run(&*operator, inputs).unwrap(), [Array::scalar(expected)]);
        let [a, b] = [1i64, 2].map(|int| Info::constant(&Array::scalar(int)));
        let [yes, maybe] = [Info::constant(&Array::scalar(true)), Info::new(DataType::Bool, vec![])];
        let known = operator.infer(&Operands::new(vec![Some(&yes), Some(&a), Some(&b)])).unwrap();
        assert_eq!(known[0].known_ints().unwrap(), [expected]);
        let known = operator.infer(&Operands::new(vec![Some(&maybe), Some(&a), Some(&b)])).unwrap();
        assert_eq!(known, [Info::new(DataType::I64, vec![])]);
    }
}

#[test]
fn scans_go_backwards_and_along_any_axis() {
    let graph = || {
        let mut graph = Graph::default();
        let sum = graph.add_input("sum", None);
        let part = graph.add_input("part", None);
        let sum = add(&mut graph, "Add", &[sum, part], vec![]);
        graph.outputs = vec![sum, sum];
        Attribute::Graph(graph)
    };
    let scan = |directions: Vec<i64>| {
        let attributes = vec![
            ("body", graph()),
            ("num_scan_inputs", Attribute::Int(1)),
            ("scan_input_axes", Attribute::Ints(vec![1])),
            ("scan_output_axes", Attribute::Ints(vec![-1])),
            ("scan_input_directions", Attribute::Ints(directions)),
        ];
        let scan = operator("Scan", 2, attributes);
        let array = Array::new([2, 3], vec![1i64, 2, 3, 4, 5, 6]).unwrap();
        let outputs = run(&*scan, vec![Some(Array::vector(vec![0i64, 0])), Some(array)]).unwrap();
        outputs.iter().map(|array| array.to_ints().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(scan(vec![0]), [vec![6, 15], vec![1, 3, 6, 4, 9, 15]]);
    assert_eq!(scan(vec![1]), [vec![6, 15], vec![3, 5, 6, 6, 11, 15]]);
}

#[test]
fn graphs_that_are_too_deep_are_problems() {
    let mut attribute = None;
    for _ in 0..=MAX_DEPTH {
        let mut graph = Graph::default();
        let condition = graph.add_input("condition", None);
        let input = graph.add_input("input", None);
        let output = match attribute.take() {
            None => input,
            Some(inner) => {
                let Attribute::Graph(inner) = inner else { unreachable!() };
                let other = Attribute::Graph(inner.clone());
                let attributes = vec![("then_branch", Attribute::Graph(inner)), ("else_branch", other)];
                let attributes = Attributes::new(
                    attributes.into_iter().map(|(name, graph)| (name.to_owned(), graph)).collect(),
                );
                let node = NodeReader { opset: 18, num_inputs: 1, num_outputs: 1, attributes: &attributes };
                let operator = ops::find("", "If").unwrap().read(&node);
                let output = graph.add_value("output");
                let inputs = [condition, condition, input, condition, input].map(Some).to_vec();
                let (name, outputs) = ("If".to_owned(), vec![Some(output)]);
                graph.nodes.push(Node { name, operator: operator.unwrap().into(), inputs, outputs });
                output
            }
        };
        graph.outputs = vec![output];
        attribute = Some(Attribute::Graph(graph));
    }
    let Some(Attribute::Graph(graph)) = attribute else { unreachable!() };
    assert!(Body::new(graph, 0).is_err());
}
