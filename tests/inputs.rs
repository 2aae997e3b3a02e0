//! Graphs that read a single number besides texts: which adapter to take, as jina-embeddings-v3 does.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candlewick::{Embedding, LoadOptions, Registry, Result, TextEmbedding};
use tempfile::TempDir;

const TEXTS: [&str; 3] = ["wax", "a wick and a flame", ""];
const GRAPH: &str = "jina-embeddings-v3-tasks/plain-17.onnx";

fn fixtures() -> PathBuf {
    xtask::root().join("tests/fixtures/onnx")
}

fn from_folder(graph: &str, options: LoadOptions) -> Result<TextEmbedding> {
    TextEmbedding::from_folder_with(fixtures(), options.weights(fixtures().join(graph)))
}

/// What a graph makes of the texts for a task, as a folder without a row has it.
fn of_task(graph: &str, task: f64) -> Vec<Embedding> {
    from_folder(graph, LoadOptions::new().input("task_id", task)).unwrap().embed(&TEXTS).unwrap()
}

#[track_caller]
fn check_error(loaded: Result<TextEmbedding>, expected: &[&str]) {
    let error = loaded.expect_err("must be refused").to_string();
    for expected in expected {
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
}

#[test]
fn each_task_has_its_embeddings() {
    for graph in [GRAPH, "bert-tasks/plain-17.onnx"] {
        let tasks: Vec<Vec<Embedding>> = (0..5).map(|task| of_task(graph, f64::from(task))).collect();
        for (index, embeddings) in tasks.iter().enumerate() {
            for other in &tasks[..index] {
                for (embedding, other) in embeddings.iter().zip(other) {
                    assert_ne!(embedding, other);
                }
            }
        }
    }
}

#[test]
fn a_folder_s_texts_are_all_of_the_task_that_was_asked_for() {
    let model = from_folder(GRAPH, LoadOptions::new().input("task_id", 3.0)).unwrap();
    let expected = of_task(GRAPH, 3.0);
    assert_eq!(model.query_embed(&TEXTS).unwrap(), expected);
    assert_eq!(model.passage_embed(&TEXTS).unwrap(), expected);
}

#[test]
fn wrong_inputs_are_refused_at_load_however_lazy() {
    for options in [LoadOptions::new(), LoadOptions::new().lazy_load(true)] {
        let missing = ["input `task_id`", "--graph-input task_id=VALUE"];
        check_error(from_folder(GRAPH, options.clone()), &missing);
        let misspelt = options.clone().input("task", 1.0).input("task_id", 1.0);
        check_error(from_folder(GRAPH, misspelt), &["input `task`", "only `task_id`"]);
        check_error(from_folder(GRAPH, options.clone().input("task_id", 1.5)), &["1.5 is no value of int64"]);
        let none = options.clone().input("task_id", 1.0);
        check_error(from_folder("bert/plain-17.onnx", none.clone()), &["input `task_id`", "has none"]);
        let safetensors = fixtures().with_file_name("bert-mean");
        let refused = TextEmbedding::from_folder_with(safetensors, none);
        check_error(refused, &["input task_id=1", "only ONNX files have named inputs"]);
    }
    check_error(from_folder(GRAPH, LoadOptions::new().input("task_id", 5.0)), &["5"]);
}

/// A hub's cache with a model whose row has `inputs`.
fn cache(folder: &Path) -> PathBuf {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let model = folder.join("models--my--tasks");
    let snapshot = model.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::write(model.join("refs/main"), commit).unwrap();
    fs::copy(fixtures().join("tokenizer.json"), snapshot.join("tokenizer.json")).unwrap();
    fs::copy(fixtures().join(GRAPH), snapshot.join("model.onnx")).unwrap();
    folder.to_owned()
}

fn from_row(cache: &Path, inputs: &str, options: LoadOptions) -> Result<TextEmbedding> {
    let row = format!(
        r#"[[model]]
        id = "my/tasks"
        kind = "dense"
        dim = 16
        pooling = "mean"
        normalize = false
        licence = "MIT"
        size = 1
        description = "A graph with a task."
        inputs = {inputs}
        weights = [{{ path = "model.onnx", format = "onnx", dialect = "plain" }}]
        files = ["tokenizer.json"]
        sources = [{{ type = "hub", repo = "my/tasks" }}]
        "#
    );
    let registry = Arc::new(Registry::parse(&row, "mine.toml").unwrap());
    let options = options.registry(registry).cache_dir(cache).offline(true);
    TextEmbedding::load_with("my/tasks", options)
}

#[test]
fn a_row_says_the_task_of_each_role() {
    let folder = TempDir::new().unwrap();
    let cache = cache(folder.path());
    let inputs = "[{ name = \"task_id\", plain = 1, query = 0, passage = 1 }]";

    let model = from_row(&cache, inputs, LoadOptions::new()).unwrap();
    assert_eq!(model.embed(&TEXTS).unwrap(), of_task(GRAPH, 1.0));
    assert_eq!(model.query_embed(&TEXTS).unwrap(), of_task(GRAPH, 0.0));
    assert_eq!(model.passage_embed(&TEXTS).unwrap(), of_task(GRAPH, 1.0));

    // Asked for a task, it is of texts that are neither.
    let model = from_row(&cache, inputs, LoadOptions::new().input("task_id", 4.0)).unwrap();
    assert_eq!(model.embed(&TEXTS).unwrap(), of_task(GRAPH, 4.0));
    assert_eq!(model.query_embed(&TEXTS).unwrap(), of_task(GRAPH, 0.0));
    assert_eq!(model.passage_embed(&TEXTS).unwrap(), of_task(GRAPH, 1.0));
}

#[test]
fn a_row_s_inputs_are_the_graph_s() {
    let folder = TempDir::new().unwrap();
    let cache = cache(folder.path());
    let check = |inputs: &str, expected: &[&str]| {
        check_error(from_row(&cache, inputs, LoadOptions::new().lazy_load(true)), expected);
    };
    check("[]", &["my/tasks", "input `task_id`", "it has no value"]);
    check("[{ name = \"task\", plain = 1, query = 0, passage = 1 }]", &["input `task`", "only `task_id`"]);
    check("[{ name = \"task_id\", plain = 1, query = 0.5, passage = 1 }]", &["`task_id` 0.5 is no value"]);
}

#[test]
fn the_row_of_jina_embeddings_v3_is_fastembed_s() {
    let spec = Registry::built_in().get("jina-embeddings-v3").unwrap();
    let [input] = spec.inputs.as_slice() else { panic!("{:?}", spec.inputs) };
    assert_eq!((input.name.as_str(), input.plain, input.query, input.passage), ("task_id", 1.0, 0.0, 1.0));
}
