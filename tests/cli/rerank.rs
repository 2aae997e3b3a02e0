//! `candlewick rerank`.

use std::process::Command;

use candlewick::{ScoreActivation, ScoreOptions, TextCrossEncoder};

use crate::support::{candlewick, fixture, jsonl, names, objects, run, run_with};

const QUERY: &str = "where is the river?";
const DOCUMENTS: [&str; 5] = ["wax", "the fox sleeps by the river.", "", "a quick brown dog!", "wax"];

fn rerank(model: &str, args: &[&str]) -> Command {
    let mut command = candlewick(["rerank", "--query", QUERY, "--model-dir", &fixture(model)]);
    command.args(args);
    command
}

fn input() -> String {
    DOCUMENTS.join("\n") + "\n"
}

fn field<T: serde::de::DeserializeOwned>(output: &[u8], name: &str) -> Vec<T> {
    objects(output).iter().map(|object| serde_json::from_value(object[name].clone()).unwrap()).collect()
}

#[test]
fn scores_are_the_librarys_in_input_order() {
    for name in ["heads/rerank-bert", "heads/rerank-xlm-roberta"] {
        let model = TextCrossEncoder::from_folder(fixture(name)).unwrap();
        let expected = model.rerank(QUERY, &DOCUMENTS).unwrap();
        let output = run_with(&mut rerank(name, &[]), input()).ok();
        assert_eq!(field::<f32>(&output, "score"), expected);
        assert!(objects(&output).iter().all(|object| object.len() == 1));
        assert_eq!(run(&mut rerank(name, &DOCUMENTS)).ok(), output);
        assert_eq!(run_with(&mut rerank(name, &["-i", "-", "--threads", "1"]), input()).ok(), output);
        // The same network, as a graph.
        let graph = run_with(&mut rerank(name, &["--weights", "onnx/model.onnx"]), input()).ok();
        for (found, expected) in field::<f32>(&graph, "score").iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5);
        }
    }
}

#[test]
fn sorted_scores_say_where_documents_were() {
    let model = TextCrossEncoder::from_folder(fixture("heads/rerank-bert")).unwrap();
    let ranked = model.rank(QUERY, &DOCUMENTS, &ScoreOptions::new(), None).unwrap();
    let output = run_with(&mut rerank("heads/rerank-bert", &["--sort"]), input()).ok();
    assert_eq!(
        field::<usize>(&output, "index"),
        ranked.iter().map(|ranked| ranked.index).collect::<Vec<_>>()
    );
    assert_eq!(field::<f32>(&output, "score"), ranked.iter().map(|ranked| ranked.score).collect::<Vec<_>>());
    let best = run_with(&mut rerank("heads/rerank-bert", &["--top-k", "2"]), input()).ok();
    assert_eq!(objects(&best), objects(&output)[..2]);
    assert_eq!(run_with(&mut rerank("heads/rerank-bert", &["--top-k", "99"]), input()).ok(), output);
}

#[test]
fn activations_and_labels() {
    let model = TextCrossEncoder::from_folder(fixture("heads/rerank-bert-3")).unwrap();
    for (name, activation) in [
        ("raw", ScoreActivation::Raw),
        ("sigmoid", ScoreActivation::Sigmoid),
        ("softmax", ScoreActivation::Softmax),
    ] {
        let options = ScoreOptions::new().activation(activation).label(2);
        let expected = model.rerank_with(QUERY, &DOCUMENTS, &options).unwrap();
        let flags = ["--activation", name, "--label", "2"];
        let output = run_with(&mut rerank("heads/rerank-bert-3", &flags), input()).ok();
        assert_eq!(field::<f32>(&output, "score"), expected, "{name}");
    }
    // Also where there is nothing to score.
    let refused = run_with(&mut rerank("heads/rerank-bert-3", &["--label", "3"]), "");
    refused.fails(2, &["label 3: the model has 3 labels, counted from 0"]);
}

#[test]
fn long_documents_are_cut_or_read_in_windows() {
    let long = "a quick brown dog ".repeat(40) + "and the river";
    let model = TextCrossEncoder::from_folder(fixture("heads/rerank-bert")).unwrap();
    let score = |flags: &[&str]| {
        let output = run(&mut rerank("heads/rerank-bert", &[flags, &[&long]].concat())).ok();
        field::<f32>(&output, "score")
    };
    assert_eq!(score(&[]), model.rerank(QUERY, &[&long]).unwrap());
    let windows = ScoreOptions::new().window_overlap(8);
    let expected = model.rerank_with(QUERY, &[&long], &windows).unwrap();
    assert_eq!(score(&["--windows", "8"]), expected);
    assert_ne!(score(&[]), expected, "the river is at the end");
    assert_ne!(score(&["--max-length", "20"]), score(&[]));
}

#[test]
fn language_models_take_an_instruction() {
    let score = |flags: &[&str]| {
        let flags = [&["--weights", "onnx/model.onnx"], flags].concat();
        field::<f32>(&run_with(&mut rerank("heads/rerank-qwen3", &flags), input()).ok(), "score")
    };
    let own = score(&[]);
    assert_eq!(score(&["--activation", "sigmoid"]), own);
    assert_ne!(score(&["--activation", "raw"]), own);
    assert_ne!(score(&["--instruction", "Find the fox"]), own);
    let refused = run_with(&mut rerank("heads/rerank-bert", &["--instruction", "any"]), input());
    refused.fails(2, &["instruction any: the model takes none"]);
}

#[test]
fn fields_pass_through() {
    let documents = DOCUMENTS.map(str::to_owned);
    let plain = field::<f32>(&run_with(&mut rerank("heads/rerank-bert", &[]), input()).ok(), "score");
    let command = |flags: &[&str]| {
        let flags = [&["--input-format", "jsonl"], flags].concat();
        rerank("heads/rerank-bert", &flags)
    };
    let output = run_with(&mut command(&[]), jsonl(&documents)).ok();
    assert_eq!(field::<usize>(&output, "id"), [0, 1, 2, 3, 4]);
    assert_eq!(field::<f32>(&output, "score"), plain);
    let sorted = run_with(&mut command(&["--sort"]), jsonl(&documents)).ok();
    assert_eq!(field::<usize>(&sorted, "id"), field::<usize>(&sorted, "index"));

    let line = r#"{"index": 7, "body": "wax"}"#;
    let body = run_with(&mut command(&["--text-field", "body"]), line).ok();
    assert_eq!(
        (field::<usize>(&body, "index"), field::<f32>(&body, "score")),
        (vec![7], plain[..1].to_vec())
    );
    let taken = run_with(&mut command(&["--text-field", "body", "--sort"]), line);
    taken.fails(1, &["line 1: a field `index` is there already"]);
}

#[test]
fn documents_are_scored_as_they_come() {
    let lines: String = (0..5000).map(|number| format!("the {} fox\n", number % 13)).collect();
    let output = run_with(&mut rerank("heads/rerank-bert", &[]), &lines).ok();
    let scores = field::<f32>(&output, "score");
    assert_eq!(scores.len(), 5000);
    assert!(scores.iter().skip(13).zip(&scores).all(|(score, before)| score == before));
    let best = run_with(&mut rerank("heads/rerank-bert", &["--top-k", "3"]), &lines).ok();
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    assert_eq!(field::<f32>(&best, "score"), [highest; 3]);
    let first = scores.iter().position(|score| *score == highest).unwrap();
    assert_eq!(field::<usize>(&best, "index"), [first, first + 13, first + 26]);
}

#[test]
fn what_fails_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "{\"text\": \"a\"}\n{\n";
    let flags = ["-o", "out.jsonl", "--input-format", "jsonl", "--sort"];
    let mut command = rerank("heads/rerank-bert", &flags);
    run_with(command.current_dir(&folder), lines).fails(1, &["standard input: line 2"]);
    assert_eq!(names(folder.path()), [""; 0]);
    let written = run(rerank("heads/rerank-bert", &["-o", "out.jsonl", "wax"]).current_dir(&folder)).ok();
    assert_eq!(written, b"");
    assert_eq!(names(folder.path()), ["out.jsonl"]);
    run(&mut rerank("bert-mean", &["wax"])).fails(1, &["model.safetensors"]);
    run_with(&mut rerank("heads/rerank-bert", &[]), "").ok();
}

#[test]
fn default_model_is_a_reranker() {
    let run = run(&mut candlewick(["rerank", "--query", "q", "--offline", "a"]));
    run.fails(1, &["Xenova/ms-marco-MiniLM-L-6-v2"]);
}
