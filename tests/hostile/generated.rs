//! Files that are too large to keep, made here.

use std::path::Path;
use std::time::Instant;

use super::{ALLOCATOR, MAX_ALLOCATION, Outcome, on_small_stack, try_file};

/// A field of a protocol buffer that holds bytes.
fn field(number: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(content);
    bytes
}

/// A model of these fields of a graph.
fn model(graph: &[u8]) -> Vec<u8> {
    let opset = field(8, [0x10, 21]);
    [field(7, graph), opset].concat()
}

fn node(operator: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let inputs = inputs.iter().flat_map(|name| field(1, name));
    field(1, inputs.chain(field(2, output)).chain(field(4, operator)).collect::<Vec<u8>>())
}

/// The declaration of a vector of any size.
fn value(number: u8, name: &str) -> Vec<u8> {
    let mut tensor = vec![0x08, 1];
    tensor.extend(field(2, field(1, field(2, "n"))));
    field(number, [field(1, name), field(2, field(1, tensor))].concat())
}

/// How far a model of these bytes gets.
fn outcome(name: &str, bytes: &[u8]) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, bytes).unwrap();
    on_small_stack(name, move || try_file(&path, true))
}

fn outcome_of_chain(length: usize, inputs: impl Fn(usize) -> [String; 2]) -> Outcome {
    let mut graph = [value(11, "v0"), value(12, &format!("v{length}"))].concat();
    for index in 0..length {
        let [a, b] = inputs(index);
        graph.extend(node("Add", &[&a, &b], &format!("v{}", index + 1)));
    }
    outcome("chain", &model(&graph))
}

#[test]
fn a_chain_of_a_hundred_thousand_nodes_runs() {
    let start = Instant::now();
    let outcome = outcome_of_chain(100_000, |index| [format!("v{index}"), format!("v{index}")]);
    assert!(matches!(outcome, Outcome::Ran), "{outcome:?}");
    // Every node reads the first value too: its readers are many.
    let outcome = outcome_of_chain(100_000, |index| [format!("v{index}"), "v0".to_owned()]);
    assert!(matches!(outcome, Outcome::Ran), "{outcome:?}");
    // Linear work takes under a second on any machine, quadratic work hours.
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

#[test]
fn nodes_in_reverse_order_run() {
    let length = 100_000;
    let mut graph = [value(11, "v0"), value(12, &format!("v{length}"))].concat();
    for index in (0..length).rev() {
        graph.extend(node("Add", &[&format!("v{index}"), "v0"], &format!("v{}", index + 1)));
    }
    let outcome = outcome("reverse", &model(&graph));
    assert!(matches!(outcome, Outcome::Ran), "{outcome:?}");
}

#[test]
fn millions_of_empty_messages_are_refused_before_they_take_memory() {
    let nodes = model(&field(1, []).repeat(5 << 20));
    let attributes = model(&field(1, field(5, []).repeat(5 << 20)));
    let names = model(&field(1, field(1, []).repeat(5 << 20)));
    for bytes in [nodes, attributes, names] {
        let outcome = outcome("messages", &bytes);
        let is_refused = matches!(&outcome, Outcome::Unread(error) if error.contains("too many"));
        assert!(is_refused, "{outcome:?}");
        assert!(ALLOCATOR.largest() <= MAX_ALLOCATION + bytes.len(), "{}", ALLOCATOR.largest());
    }
}

#[test]
fn values_that_inner_graphs_read_are_limited() {
    // Thirty graphs inside each other, the innermost of which reads many values of the outermost.
    let names: Vec<String> = (0..20_000).map(|index| format!("v{index}")).collect();
    let mut body: Vec<u8> =
        names.iter().flat_map(|name| node("Add", &[name, name], &format!("{name}_twice"))).collect();
    body.extend(field(12, field(1, "v0_twice")));
    for _ in 0..30 {
        let branch =
            |name, graph: &[u8]| field(5, [field(1, name), field(6, graph), vec![0xA0, 1, 5]].concat());
        let other = field(12, field(1, "v0"));
        let branches = [branch("then_branch", &body), branch("else_branch", &other)].concat();
        let inner = [field(1, "c"), field(2, "y"), field(4, "If"), branches].concat();
        body = [field(1, inner), field(12, field(1, "y"))].concat();
    }
    body.extend(names.iter().flat_map(|name| value(11, name)));
    body.extend(value(11, "c"));
    let outcome = outcome("captures", &model(&body));
    let is_refused = matches!(&outcome, Outcome::Unread(error) if error.contains("too many values"));
    assert!(is_refused, "{outcome:?}");
}

#[test]
fn folders_and_missing_files_are_errors() {
    for path in ["/", "/nowhere.onnx"] {
        let outcome = try_file(Path::new(path), false);
        assert!(matches!(&outcome, Outcome::Unread(error) if error.contains(path)), "{outcome:?}");
    }
}
