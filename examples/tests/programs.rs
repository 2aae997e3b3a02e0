//! The programs find the right passage, as a user would run them: real MiniLM, BM25, and tiny models for the last stage.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TEXTS: [(&str, &str); 4] = [
    (
        "candles.md",
        "# Candles\nA candle burns because its wax melts, and the wick draws it up into the flame.",
    ),
    (
        "markets.md",
        "# Markets\nShares fell on Monday as investors feared that interest rates would rise again.",
    ),
    (
        "bread.md",
        "# Bread\nLet the dough rest overnight, then bake the loaf in a hot oven until the crust is brown.",
    ),
    (
        "bees.txt",
        "Bees dance in the hive to tell each other how far away the flowers are, and in which direction.",
    ),
];

fn corpus() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in TEXTS {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// A tiny model with random weights, which ranks at random but runs every stage.
fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/heads").join(name)
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    output
}

/// The passages of a stage, the best first.
fn stage(output: &Output, title: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let stage = text.split("\n\n").find(|stage| stage.trim_start().starts_with(title));
    let stage = stage.unwrap_or_else(|| panic!("no stage {title} in {text}"));
    let places = stage.lines().filter_map(|line| line.trim_start().split_once(". "));
    places
        .filter_map(|(place, rest)| place.parse::<usize>().ok().map(|_| rest.trim_start().to_owned()))
        .collect()
}

#[test]
fn hybrid_search_indexes_once_and_finds_again() {
    let program = env!("CARGO_BIN_EXE_hybrid_search");
    let (corpus, store) = (corpus(), tempfile::tempdir().unwrap());
    let (corpus, store) = (corpus.path().to_str().unwrap(), store.path().join("s"));
    let store = store.to_str().unwrap();
    let missing = Command::new(program).args(["--store", store, "search", "wax"]).output().unwrap();
    assert!(String::from_utf8_lossy(&missing.stderr).contains("index something first"));

    run(program, &["--store", store, "index", "--corpus", corpus]);
    // The second time in place of the first.
    run(program, &["--store", store, "index", "--corpus", corpus]);
    let output =
        run(program, &["--store", store, "search", "--explain", "why do investors fear interest rates?"]);
    assert_eq!(stage(&output, "dense").len(), 4);
    assert!(stage(&output, "dense")[0].contains("markets.md"));
    // Words that only one passage has.
    assert_eq!(stage(&output, "sparse").len(), 1);
    assert!(stage(&output, "hybrid")[0].contains("markets.md"));
    // Of stop words nothing is left but the meaning.
    let output = run(program, &["--store", store, "search", "what is it"]);
    assert_eq!(stage(&output, "hybrid").len(), 4);

    let model = tiny("rerank-bert");
    let rerank =
        ["--store", store, "search", "--limit", "2", "--rerank", model.to_str().unwrap(), "melting wax"];
    assert_eq!(stage(&run(program, &rerank), "hybrid, reranked").len(), 2);
}

#[test]
fn three_stages_in_memory() {
    let corpus = corpus();
    let model = tiny("rerank-bert");
    let arguments =
        ["--corpus", corpus.path().to_str().unwrap(), "--rerank", model.to_str().unwrap(), "--limit", "4"];
    let output =
        run(env!("CARGO_BIN_EXE_rerank"), &[&arguments[..], &["how do insects talk about flowers"]].concat());
    for title in ["dense", "sparse", "fused"] {
        assert!(stage(&output, title)[0].contains("bees.txt"), "{title}");
    }
    assert_eq!(stage(&output, "reranked").len(), 4);
}

#[test]
fn max_sim_ranks_what_bm25_finds() {
    let corpus = corpus();
    let model = tiny("colbert-v2");
    let arguments = ["--corpus", corpus.path().to_str().unwrap(), "--model", model.to_str().unwrap()];
    let program = env!("CARGO_BIN_EXE_colbert_rerank");
    let output = run(program, &[&arguments[..], &["--pool-factor", "2", "wax, flowers and dough"]].concat());
    assert_eq!(stage(&output, "BM25").len(), 3);
    assert_eq!(stage(&output, "MaxSim").len(), 3);
    // Nothing has these words, so that there is nothing to rank.
    let output = run(program, &[&arguments[..], &["zymurgy"]].concat());
    assert!(stage(&output, "MaxSim").is_empty());
}
