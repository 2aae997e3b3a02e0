//! Command lines that make no sense, and models that are broken.

use std::fs;
use std::ops::Range;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{candlewick, embed, embeddings, fixture, run, run_with, text};

#[test]
fn wrong_command_lines() {
    let check = |args: &[&str], expected: &[&str]| {
        let run = run(&mut candlewick(args)).fails(2, expected);
        assert_eq!(run.stdout, b"", "{args:?}");
    };
    check(&["embde"], &["'embde'"]);
    check(&["embed", "--frobnicate", "a"], &["'--frobnicate'"]);
    check(&["embed", "a", "-i", "b"], &["cannot be used with"]);
    check(&["embed", "a", "--input-format", "jsonl"], &["cannot be used with"]);
    check(&["embed", "a", "--text-field", "b"], &["--text-field is for JSONL"]);
    check(&["embed", "--query", "--passage", "a"], &["cannot be used with"]);
    check(&["embed", "--model", "m", "--model-dir", "d", "a"], &["cannot be used with"]);
    check(&["embed", "--registry", "r", "--model-dir", "d", "a"], &["cannot be used with"]);
    check(&["embed", "--weights", "w", "a"], &["--model-dir"]);
    check(&["embed", "--pooling", "none", "a"], &["`none` applies to graphs that pool themselves"]);
    check(&["embed", "--pooling", "max", "a"], &["unknown pooling `max`", "cls, mean or last"]);
    check(&["embed", "--normalize", "maybe", "a"], &["'maybe'", "true, false"]);
    check(&["embed", "--threads", "0", "a"], &["'0'", "--threads"]);
    check(&["embed", "--dim", "-3", "a"], &["'-3'"]);
    check(&["embed", "--device", "gpu", "a"], &["unknown device `gpu`"]);
    check(&["embed", "--precision", "f8", "a"], &["'f8'"]);
    check(&["embed", "--format", "csv", "a"], &["'csv'", "jsonl, npy"]);
    check(&["embed", "--graph-input", "task_id", "a"], &["--graph-input", "expected NAME=VALUE"]);
    check(&["embed", "--graph-input", "task_id=query", "a"], &["`query` is no number"]);
    check(&["inspect", "--graph-input", "=1", "m.onnx"], &["the name is missing"]);
    check(&["pull"], &["<ID>"]);
    check(&["models", "--kind", "dance"], &["'dance'"]);
    check(&["embed", "--model-dir", "d", "--kind", "image", "a"], &["nothing runs image models"]);
    check(&["embed", "--kind", "sparse", "a"], &["--model-dir"]);
    check(&["embed", "--query", "--pool-factor", "2", "a"], &["cannot be used with"]);
    check(&["embed", "--top-k", "0", "a"], &["'0'", "--top-k"]);
    check(&["embed", "--language", "klingon", "a"], &["`klingon`", "arabic, danish"]);
    check(&["rerank", "a"], &["--query <TEXT>"]);
    check(&["rerank", "--query", "q", "--activation", "tanh", "a"], &["'tanh'", "raw, sigmoid, softmax"]);
    check(&["rerank", "--query", "q", "--format", "npy", "a"], &["'--format'"]);
    check(&["rerank", "--query", "q", "a", "-i", "b"], &["cannot be used with"]);
}

#[test]
fn help_and_version_are_data() {
    for (args, expected) in [
        (&["--version"][..], "candlewick 0."),
        (&["--help"], "Usage: candlewick <COMMAND>"),
        (&["embed", "--help"], "--text-field <NAME>"),
        (&["rerank", "--help"], "--windows <OVERLAP>"),
        (&["models", "--help"], "--json"),
        (&["pull", "--help"], "--cache-dir <DIR>"),
    ] {
        let output = String::from_utf8(run(&mut candlewick(args)).ok()).unwrap();
        assert!(output.contains(expected), "{output}");
    }
}

#[test]
fn options_that_the_model_refuses() {
    let refused = run(&mut embed("bert-mean", &["--dim", "33", "a"]));
    refused.fails(2, &["bert-mean", "dim 33", "32 dimensions"]);
    let refused = run(&mut embed("bert-mean", &["--max-length", "100000", "a"]));
    refused.fails(2, &["bert-mean", "max_length 100000"]);
    #[cfg(not(feature = "metal"))]
    run(&mut embed("bert-mean", &["--device", "metal", "a"])).fails(2, &["`metal`", "cargo feature `metal`"]);
}

#[test]
fn models_that_nothing_can_run_are_refused_before_any_download() {
    for (model, missing) in [
        (
            "colmodernvbert",
            &["`Qdrant/colmodernvbert` cannot be loaded yet", "nothing runs multimodal models"][..],
        ),
        ("Qdrant/clip-ViT-B-32-vision", &["nothing runs image models"]),
    ] {
        let refused = run(&mut candlewick(["embed", "--model", model, "a"])).fails(1, missing);
        assert!(!refused.stderr.contains("hub"), "no source was tried: {}", refused.stderr);
    }
}

/// A model for another command, or with flags for other models, is noticed before anything is fetched.
#[test]
fn models_that_are_not_for_the_command_line() {
    let check = |args: &[&str], expected: &[&str]| {
        let refused = run(&mut candlewick(args)).fails(2, expected);
        assert_eq!(refused.stdout, b"", "{args:?}");
    };
    let reranker = "BAAI/bge-reranker-base is a cross-encoder, which `candlewick rerank` is for";
    check(&["embed", "--model", "bge-reranker-base", "a"], &[reranker]);
    let dense = "BAAI/bge-small-en is of kind dense, and reranking takes a cross-encoder";
    check(&["rerank", "--query", "q", "--model", "BAAI/bge-small-en", "a"], &[dense]);
    check(
        &["rerank", "--query", "q", "--model", "bge-reranker-bass", "a"],
        &["did you mean `BAAI/bge-reranker-base`?"],
    );
    let folder = fixture("heads/rerank-bert");
    check(&["embed", "--model-dir", &folder, "a"], &["rerank-bert is a cross-encoder"]);

    let splade = fixture("heads/if-splade");
    let colbert = fixture("heads/colbert-v2");
    for (model, flag, value, family) in [
        (["--model", "bm25"], "--max-length", "9", "BM25, which has no network"),
        (["--model", "bm25"], "--precision", "int8", "BM25, which has no network"),
        (["--model", "bm25"], "--normalize", "true", "BM25"),
        (["--model", "all-MiniLM-L6-v2"], "--top-k", "9", "dense models"),
        (["--model", "all-MiniLM-L6-v2"], "--threshold", "-0.5", "dense models"),
        (["--model", "all-MiniLM-L6-v2"], "--pool-factor", "2", "dense models"),
        (["--model-dir", &splade], "--dim", "9", "this sparse model"),
        (["--model-dir", &splade], "--pooling", "cls", "this sparse model"),
        (["--model-dir", &splade], "--language", "german", "this sparse model"),
        (["--model-dir", &splade], "--k", "1", "this sparse model"),
        (["--model-dir", &colbert], "--dim", "9", "late interaction models"),
        (["--model-dir", &colbert], "--b", "0.5", "late interaction models"),
        (["--model-dir", &colbert], "--avg-len", "9", "late interaction models"),
    ] {
        let args = ["embed", model[0], model[1], flag, value, "a"];
        check(&args, &[&format!("error: {flag} does not apply to {family}")]);
    }
    for model in [["--model", "bm25"], ["--model-dir", &colbert]] {
        let npy = "npy is for dense models";
        check(&["embed", model[0], model[1], "--format", "npy", "a"], &[npy]);
        check(&["embed", model[0], model[1], "-o", "/nope/out.npy", "a"], &[npy]);
    }
    check(&["embed", "--model", "bm25", "--b", "1.5", "a"], &["b 1.5: must be between 0 and 1"]);
    check(&["embed", "--model", "bm25", "--avg-len", "-1", "a"], &["avg_len -1: must be more than 0"]);
    check(&["embed", "--model", "bm25", "--threshold", "nan", "a"], &["threshold NaN"]);
}

#[test]
fn unknown_models() {
    let nearest = "did you mean `sentence-transformers/all-MiniLM-L6-v2`? (`candlewick models` lists all)";
    for args in [
        ["embed", "--model", "sentence-transformers/all-MiniLM-L6-v3", "a"],
        // The name that is wrong is noticed before the one that is right is fetched.
        ["pull", "--offline", "all-MiniLM-L6-v2", "sentence-transformers/all-minilm-l6-v3"],
    ] {
        run(&mut candlewick(args)).fails(2, &["unknown model `", nearest]);
    }
    run(&mut candlewick(["embed", "--model", "llama", "a"]))
        .fails(2, &["unknown model `llama` (`candlewick"]);
}

#[test]
fn missing_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["embed", "-i", "nope.txt", "--model-dir", &fixture("bert-mean")];
    run(candlewick(args).current_dir(&folder)).fails(1, &["could not read nope.txt: No such file"]);
    let args = ["embed", "-i", ".", "--model-dir", &fixture("bert-mean")];
    run(candlewick(args).current_dir(&folder)).fails(1, &["could not read .: Is a directory"]);
    run(&mut candlewick(["embed", "--model-dir", "/nope", "a"])).fails(1, &["no such model folder: /nope"]);
}

/// A copy of a fixture that may be broken.
fn copy(model: &str) -> TempDir {
    fn copy_into(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy_into(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy_into(Path::new(&fixture(model)), folder.path());
    folder
}

#[track_caller]
fn check_broken(damage: impl FnOnce(&Path), expected: &[&str]) {
    let folder = copy("bert-mean");
    damage(folder.path());
    let run = run(&mut candlewick(["embed", "--model-dir", text(folder.path()), "hello"])).fails(1, expected);
    assert_eq!(run.stdout, b"");
}

#[test]
fn broken_model_folders() {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        check_broken(|folder| fs::remove_file(folder.join(file)).unwrap(), &["has no", file]);
        check_broken(|folder| fs::write(folder.join(file), "garbage").unwrap(), &[file]);
    }
}

#[test]
fn truncated_weights() {
    let truncate = |folder: &Path| {
        let path = folder.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 100]).unwrap();
    };
    check_broken(truncate, &["model.safetensors: not a valid safetensors file"]);
}

/// Overwrites some values of a tensor, counted in row-major order.
fn overwrite(folder: &Path, tensor: &str, values: Range<usize>, new: f32) {
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let data = SafeTensors::deserialize(&bytes).unwrap().tensor(tensor).unwrap().data().as_ptr();
    let start = data as usize - bytes.as_ptr() as usize;
    for value in bytes[start + values.start * 4..start + values.end * 4].chunks_mut(4) {
        value.copy_from_slice(&new.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn weights_that_are_not_numbers() {
    let tensor = "encoder.layer.1.attention.output.dense.weight";
    let damage = |folder: &Path| overwrite(folder, tensor, 2..3, f32::NAN);
    check_broken(damage, &["model.safetensors", tensor, "NaN"]);
}

/// Weights that are finite, but so large that what they compute is not.
#[test]
fn embeddings_that_are_not_numbers_are_withheld() {
    let tensor = "encoder.layer.1.output.LayerNorm.weight";
    let damage = |folder: &Path| overwrite(folder, tensor, 0..32, f32::MAX);
    check_broken(damage, &["error: text 1: model", "the embedding is not finite"]);
}

#[test]
fn texts_before_the_one_that_fails_count() {
    let folder = copy("bert-mean");
    let tokenizer: Value =
        serde_json::from_slice(&fs::read(folder.path().join("tokenizer.json")).unwrap()).unwrap();
    let river = tokenizer["model"]["vocab"]["river"].as_u64().unwrap() as usize;
    overwrite(folder.path(), "embeddings.word_embeddings.weight", river * 32..(river + 1) * 32, f32::MAX);
    let mut command = candlewick(["embed", "--model-dir", text(folder.path())]);
    let run = run_with(&mut command, "hello\nworld\na river\nhello\nriver\n");
    let run = run.fails(1, &["error: standard input: line 3: model", "the embedding is not finite"]);
    let expected = crate::support::run(&mut embed("bert-mean", &["hello", "world"])).embeddings();
    assert_eq!(embeddings(&run.stdout), expected);
}
