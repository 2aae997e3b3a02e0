//! Graphs with several outputs, packed and not.

use std::path::PathBuf;

use super::*;
use crate::graph::{DataType, Dim, Info};
use crate::ops::elementwise::{Arithmetic, Operation};
use crate::ops::indexing::Gather;
use crate::ops::reduction::softmax::{Normalisation, Softmax};
use crate::ops::shaping::Slice;

const TEXTS: [&[u32]; 4] = [&[2, 0, 1], &[1], &[0, 2, 1, 1, 2], &[2, 1]];

/// Rows of a table of tokens: all, those of one column, those of the tokens `from..to`, and the first of each text. If tokens are `mixed`,
/// it cannot be packed.
fn model(mixed: bool, [from, to]: [i64; 2]) -> OnnxModel {
    let mut graph = Graph::default();
    let ids = Info::new(DataType::I64, vec![Dim::symbol("batch"), Dim::symbol("len")]);
    let ids = graph.add_input("input_ids", Some(ids));
    let tokens = graph.add_constant("tokens", Array::new([3, 2], vec![1f32, 2., 3., 4., 5., 6.]).unwrap());
    let mut rows = graph.add_node("rows", Gather { axis: 0 }, &[tokens, ids]);
    if mixed {
        let softmax = Softmax { normalisation: Normalisation::Softmax, axis: 1, flattened: false };
        rows = graph.add_node("mix", softmax, &[rows]);
    }
    let one = graph.add_constant("one", Array::new([1], vec![1i64]).unwrap());
    let column = graph.add_node("column", Gather { axis: 2 }, &[rows, one]);
    let [from, to] = [from, to].map(|place| graph.add_constant("", Array::vector(vec![place])));
    let kept = graph.add_node("kept", Slice { attributes: None }, &[rows, from, to, one]);
    let double = graph.add_node("double", Arithmetic { operation: Operation::Add }, &[kept, kept]);
    let zero = graph.add_constant("zero", Array::new([0usize; 0], vec![0i64]).unwrap());
    let first = graph.add_node("first", Gather { axis: 1 }, &[rows, zero]);
    graph.outputs = vec![rows, column, double, first];
    for (id, name) in graph.outputs.clone().into_iter().zip(["all", "column", "kept", "first"]) {
        graph.value_mut(id).name = name.to_owned();
    }
    OnnxModel { path: PathBuf::from("tiny.onnx"), graph, producer: String::new(), opsets: Vec::new() }
}

fn options(outputs: &[&str]) -> ImportOptions {
    let outputs = outputs.iter().map(|name| (*name).to_owned()).collect();
    ImportOptions { outputs, ..ImportOptions::default() }
}

fn forward(encoder: &ImportedEncoder, texts: &[&[u32]]) -> Vec<Vec<Vec<f32>>> {
    let batch = Batch::from_sequences(texts.iter().copied()).unwrap();
    let outputs = encoder.forward_outputs(&batch).unwrap();
    outputs.into_iter().map(|rows| rows.to_vec2().unwrap()).collect()
}

#[test]
fn several_outputs_are_of_one_run() {
    let load = |mixed| {
        let plan = ImportPlan::new(model(mixed, [1, i64::MAX]), &options(&["first", "kept", "column"]));
        plan.unwrap().load(None).unwrap()
    };
    for mixed in [false, true] {
        let encoder = load(mixed);
        assert_eq!(encoder.unpacked_because().is_some(), mixed);
        let layouts: Vec<OutputLayout> = encoder.outputs().iter().map(|rows| rows.layout).collect();
        assert_eq!(layouts, [OutputLayout::Sequences, OutputLayout::TokensButFirst, OutputLayout::Tokens]);
        assert_eq!((encoder.hidden_size(), encoder.is_pooled()), (2, true));
        let together = forward(&encoder, &TEXTS);
        let (mut alone, mut start) = (vec![Vec::new(); 3], 0);
        for (index, text) in TEXTS.iter().enumerate() {
            let found = forward(&encoder, &[text]);
            // What the graph gives for this text.
            let session = Session::new(model(mixed, [1, i64::MAX]).graph).unwrap();
            let ids = text.iter().map(|id| i64::from(*id)).collect();
            let expected = session.run([("input_ids", Array::new([1, text.len()], ids).unwrap())]).unwrap();
            let rows = |index: usize, width: usize| -> Vec<Vec<f32>> {
                expected[index].to_floats().unwrap().chunks(width).map(<[f32]>::to_vec).collect()
            };
            assert_eq!(found[0], rows(3, 2));
            assert_eq!(found[1], [vec![vec![0.0; 2]], rows(2, 2)].concat(), "zeros for the first token");
            assert_eq!(found[2], rows(1, 1));
            assert_eq!(together[0][index], found[0][0]);
            for (alone, found) in alone.iter_mut().zip(found) {
                alone.extend(found);
            }
            start += text.len();
        }
        assert_eq!(together, alone);
        assert_eq!(together[1].len(), start);
        let batch = Batch::from_sequences(TEXTS).unwrap();
        assert_eq!(encoder.forward(&batch).unwrap().to_vec2::<f32>().unwrap(), together[0]);
    }
}

#[test]
fn outputs_that_were_not_asked_for_are_in_nobodys_way() {
    // Only this one cannot be packed.
    let plan = ImportPlan::new(model(false, [0, -2]), &options(&["column", "all"])).unwrap();
    assert_eq!(plan.unpacked_because(), None);
    assert_eq!(plan.outputs().iter().map(|rows| rows.size).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn outputs_are_known_before_one_is_chosen() {
    let outputs = ImportPlan::outputs_of(&model(true, [2, i64::MAX])).unwrap();
    let layouts: Vec<_> = outputs.iter().map(|output| output.rows.as_ref().map(|rows| rows.layout)).collect();
    let (tokens, sequences) = (Some(OutputLayout::Tokens), Some(OutputLayout::Sequences));
    assert_eq!(layouts, [tokens, tokens, None, sequences]);
    assert!(outputs[2].shape.contains("seq_len"), "{}", outputs[2].shape);
}

#[test]
fn rows_of_unknown_tokens_are_refused() {
    let refused = |mixed, kept: [i64; 2], outputs: &[&str]| {
        let error = ImportPlan::new(model(mixed, kept), &options(outputs)).unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("tiny.onnx: output `"), "{error}");
        error
    };
    for mixed in [false, true] {
        let error = refused(mixed, [0, -1], &["first", "kept"]);
        assert!(
            error.contains("output `kept`: its rows may not be those of all tokens but the first"),
            "{error}"
        );
        let error = refused(mixed, [2, i64::MAX], &["kept"]);
        assert!(error.contains("it has no row of numbers for each token or text"), "{error}");
    }
    let error = refused(false, [1, i64::MAX], &["first", "last"]);
    assert!(error.contains("`last`: there is none of this name, only `all`, `column`"), "{error}");
    // One alone must have a row for each token.
    let alone = ImportOptions { output: Some("kept".to_owned()), ..ImportOptions::default() };
    ImportPlan::new(model(false, [1, i64::MAX]), &alone).expect_err("it has none for the first");
}
