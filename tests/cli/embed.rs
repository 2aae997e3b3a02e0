//! What is computed: against the original implementation's embeddings, under each option.

use crate::support::{assert_close, candlewick, embed, fixture, jsonl, length, reference, run, run_with};

const TOLERANCE: f32 = 1e-5;

#[track_caller]
fn check_reference(model: &str, flags: &[&str], tensor: &str) {
    let (texts, expected) = reference(model, tensor);
    let flags = [&["--input-format", "jsonl"], flags].concat();
    assert_close(&run_with(&mut embed(model, &flags), jsonl(&texts)).embeddings(), &expected, TOLERANCE);
}

#[test]
fn embeddings_are_those_of_the_original() {
    check_reference("bert-mean", &[], "embeddings");
    check_reference("bert-cls-tanh", &[], "embeddings");
    check_reference("bert-relu-raw", &[], "embeddings");
}

#[test]
fn prompts_are_put_before_texts_when_asked_for() {
    check_reference("bert-prompts", &[], "embeddings");
    check_reference("bert-prompts", &["--query"], "query_embeddings");
    check_reference("bert-prompts", &["--passage"], "document_embeddings");
}

#[test]
fn graphs_are_given_numbers() {
    const GRAPH: [&str; 2] = ["--weights", "jina-embeddings-v3-tasks/plain-17.onnx"];
    let of_task = |flags: &[&str]| run(&mut embed("onnx", &[&GRAPH, flags, &["wax"]].concat()));
    let first = of_task(&["--graph-input", "task_id=0"]).embeddings();
    assert_ne!(first, of_task(&["--graph-input", "task_id=1"]).embeddings());
    assert_eq!(first, of_task(&["--graph-input", "task_id=0", "--query"]).embeddings());
    of_task(&[]).fails(1, &["input `task_id`", "--graph-input task_id=VALUE"]);
    of_task(&["--graph-input", "tusk=1"]).fails(1, &["input `tusk`", "only `task_id`"]);

    let path = format!("{}/{}", fixture("onnx"), GRAPH[1]);
    let inspect = |flags: &[&str]| {
        let args = [&["inspect", path.as_str()], flags].concat();
        String::from_utf8(run(&mut candlewick(args)).ok()).unwrap()
    };
    assert!(inspect(&[]).contains("cannot run as a text encoder"), "its number is missing");
    assert!(inspect(&["--graph-input", "task_id=0"]).contains("packed: nothing is computed for padding"));
}

#[test]
fn texts_may_be_arguments() {
    let (texts, expected) = reference("bert-mean", "embeddings");
    let one = run(&mut embed("bert-mean", &[&texts[3]])).embeddings();
    assert_close(&one, &expected[3..4], TOLERANCE);
    let several = run(&mut embed("bert-mean", &[&texts[2], &texts[0], &texts[9]])).embeddings();
    let expected = [2, 0, 9].map(|index: usize| expected[index].clone());
    assert_close(&several, &expected, TOLERANCE);
}

#[test]
fn pooling_may_be_overridden() {
    let model_s_own = run(&mut embed("bert-mean", &["hello world"])).embeddings();
    for (pooling, same) in [("mean", true), ("cls", false), ("last", false)] {
        let embeddings = run(&mut embed("bert-mean", &["--pooling", pooling, "hello world"])).embeddings();
        assert_eq!(embeddings == model_s_own, same, "{pooling}");
    }
}

#[test]
fn normalize_may_be_overridden() {
    let raw = run(&mut embed("bert-relu-raw", &["hello world"])).embeddings();
    assert!((length(&raw[0]) - 1.).abs() > 0.01);
    let unit = run(&mut embed("bert-relu-raw", &["--normalize", "true", "hello world"])).embeddings();
    assert!((length(&unit[0]) - 1.).abs() < 1e-5);
    let scaled = raw[0].iter().map(|value| value / length(&raw[0])).collect();
    assert_close(&unit, &[scaled], TOLERANCE);
}

#[test]
fn dim_cuts_before_it_normalizes() {
    let full = run(&mut embed("bert-mean", &["hello world"])).embeddings();
    let cut = run(&mut embed("bert-mean", &["--dim", "8", "hello world"])).embeddings();
    assert!((length(&cut[0]) - 1.).abs() < 1e-5);
    let expected = full[0][..8].iter().map(|value| value / length(&full[0][..8])).collect();
    assert_close(&cut, &[expected], TOLERANCE);
}

#[test]
fn max_length_cuts_texts() {
    let embeddings =
        |length, text| run(&mut embed("bert-mean", &["--max-length", length, text])).embeddings();
    assert_eq!(embeddings("4", "hello world again"), embeddings("4", "hello world and more"));
    assert_ne!(embeddings("6", "hello world again"), embeddings("6", "hello world and more"));
}

#[test]
fn threads_and_batches_change_nothing() {
    let (texts, _) = reference("bert-mean", "embeddings");
    let input = jsonl(&texts);
    let output = |flags: &[&str]| {
        run_with(&mut embed("bert-mean", &[&["--input-format", "jsonl"], flags].concat()), &input).ok()
    };
    let usual = output(&[]);
    assert_eq!(usual, output(&["--threads", "1"]));
    assert_eq!(usual, output(&["--threads", "3", "--batch-tokens", "1"]));
    assert_eq!(usual, output(&["--device", "cpu", "--precision", "f32", "--kind", "dense", "--no-progress"]));
}

#[test]
fn weights_may_have_another_name() {
    let (_, expected) = reference("bert-mean", "embeddings");
    let by_name = run(&mut embed("bert-mean", &["--weights", "model.safetensors", ""])).embeddings();
    assert_close(&by_name, &expected[..1], TOLERANCE);
    let path = crate::support::fixture("bert-mean") + "/model.safetensors";
    assert_eq!(run(&mut embed("bert-mean", &["--weights", &path, ""])).embeddings(), by_name);
    let other = run(&mut embed("bert-mean", &["--weights", "other.safetensors", ""]));
    other.fails(1, &["bert-mean has no other.safetensors"]);
}
