//! Whole models against fastembed's own classes (tests/fixtures/heads/bm42 and minicoil), and folders that are no models.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use candlewick_engine::{Batch, ImportPlan, TextEncoder};
use tempfile::TempDir;

use super::*;
use crate::sparse::SparseModel;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/heads").join(name)
}

fn options() -> LoadOptions {
    LoadOptions::new().threads(2)
}

/// A copy of a fixture's model, to be spoilt.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let files = ["config.json", "tokenizer.json", "tokenizer_config.json", STOP_WORDS, MATRICES, VOCABULARY];
    for file in files.into_iter().chain(["model.onnx", "onnx/model.onnx"]) {
        let from = fixture(name).join(file);
        if from.is_file() {
            let to = folder.path().join(file);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(from, to).unwrap();
        }
    }
    folder
}

fn error(folder: &Path, options: LoadOptions) -> String {
    SparseModel::from_folder(folder, options).unwrap_err().to_string()
}

fn texts(name: &str) -> Vec<String> {
    let bytes = std::fs::read(fixture(name).join("reference/texts.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// What the original computed of each text.
fn reference(tensors: &HashMap<String, Tensor>, kind: &str) -> Vec<SparseEmbedding> {
    let tensor = |part: &str| &tensors[&format!("{kind}_{part}")];
    let indices = tensor("indices").to_vec1::<i64>().unwrap();
    let values = tensor("values").to_vec1::<f32>().unwrap();
    let ends = tensor("cu_nnz").to_vec1::<i64>().unwrap();
    let of_text = |pair: &[i64]| {
        let range = pair[0] as usize..pair[1] as usize;
        let indices = indices[range.clone()].iter().map(|index| u32::try_from(*index).unwrap());
        indices.zip(values[range].iter().copied()).collect()
    };
    ends.windows(2).map(of_text).collect()
}

/// The largest difference of values; indices must be equal in their order.
#[track_caller]
fn difference(found: &[SparseEmbedding], expected: &[SparseEmbedding]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let mut largest = 0.0f32;
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.indices, expected.indices, "text {index}");
        for (found, expected) in found.values.iter().zip(&expected.values) {
            largest = largest.max((found - expected).abs());
        }
    }
    largest
}

/// Compares documents and queries, texts together and alone.
fn is_the_originals(name: &str, options: &LoadOptions, bound: f32) {
    let tensors = fixture(name).join("reference/reference.safetensors");
    let tensors = candle_core::safetensors::load(tensors, &Device::Cpu).unwrap();
    let texts = texts(name);
    let model = SparseModel::from_folder(&fixture(name), options.clone()).unwrap();
    let roles = [(TextRole::Plain, "document"), (TextRole::Passage, "document"), (TextRole::Query, "query")];
    for (role, kind) in roles {
        let expected = reference(&tensors, kind);
        assert!(expected.iter().filter(|embedding| embedding.len() > 4).count() > 10);
        let together = model.embed(&texts, role).unwrap();
        let largest = difference(&together, &expected);
        assert!(largest <= bound, "{name}, {kind}: {largest:e}");
        let alone: Vec<_> = texts.iter().map(|text| model.embed(&[text], role).unwrap().remove(0)).collect();
        assert_eq!(together, alone);
    }
}

#[test]
fn bm42_is_fastembeds() {
    is_the_originals("bm42", &options(), 1e-6);
}

#[test]
fn attention_is_the_same_packed_and_not() {
    let read = |partly_attended| {
        let mut import = ImportOptions::default();
        (import.first_token_attention, import.partly_attended) = (true, partly_attended);
        ImportPlan::read(&fixture("bm42").join("model.onnx"), &import).unwrap()
    };
    let (packed, padded) = (read(false), read(true));
    assert_eq!(packed.unpacked_because(), None);
    assert!(padded.unpacked_because().unwrap().contains("FirstTokenAttention"));
    assert_eq!((packed.hidden_size(), padded.hidden_size()), (1, 1));
    // One layer is whole, of the last there are queries and keys.
    let operators: Vec<&str> = packed.graph().nodes.iter().map(|node| node.operator.name()).collect();
    assert_eq!(operators.iter().filter(|name| **name == "PackedAttention").count(), 1, "{operators:?}");
    assert_eq!(operators.last(), Some(&"PackedFirstTokenAttention"));

    let sequences = [[2, 17, 30, 41, 3].as_slice(), &[2, 3], &[2, 9, 3], &[2, 30, 17, 40, 3]];
    let batch = Batch::from_sequences(sequences).unwrap();
    let rows = |plan: &ImportPlan| {
        let rows = plan.load(None).unwrap().forward(&batch).unwrap();
        assert_eq!(rows.dims(), [batch.total_tokens(), 1]);
        rows.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let (packed, padded) = (rows(&packed), rows(&padded));
    assert!(packed.iter().zip(&padded).all(|(a, b)| (a - b).abs() < 1e-6), "{packed:?} {padded:?}");
    for sequence in batch.sequences() {
        assert!((packed[sequence].iter().sum::<f32>() - 1.0).abs() < 1e-5, "{packed:?}");
    }
}

#[test]
fn minicoil_is_fastembeds() {
    is_the_originals("minicoil", &options(), 1e-5);
    is_the_originals("minicoil", &options().lazy_load(true), 1e-5);
}

#[test]
fn attention_of_another_layer_has_other_weights() {
    let texts = ["A dog jumped over the river."];
    let embed = |options| {
        let model = SparseModel::from_folder(&fixture("bm42"), options).unwrap();
        model.embed(&texts, TextRole::Plain).unwrap().remove(0)
    };
    let last = embed(options());
    assert_eq!(embed(options().output("attention_6")), last);
    let other = embed(options().output("attention_5"));
    assert_eq!(other.indices, last.indices);
    assert_ne!(other.values, last.values);
    let wrong = error(&fixture("bm42"), options().output("last_hidden_state"));
    assert!(wrong.contains("model.onnx") && wrong.contains("probabilities"), "{wrong}");
}

#[test]
fn options_change_weights() {
    let texts = ["A dog jumped over the river."];
    let embed = |name, options, role| {
        let model = SparseModel::from_folder(&fixture(name), options).unwrap();
        model.embed(&texts, role).unwrap().remove(0)
    };
    let squared: Vec<f32> = embed("bm42", options(), TextRole::Plain).values.iter().map(|v| v * v).collect();
    let linear = embed("bm42", options().bm42_alpha(1.0), TextRole::Plain).values;
    assert!(linear.iter().zip(&squared).all(|(a, b)| (a - b).abs() < 1e-6), "{linear:?} {squared:?}");
    assert_eq!(embed("bm42", options().top_k(1), TextRole::Plain).len(), 1);

    // Without saturation a word that is there once has the weight 1, as in queries.
    let flat = options().minicoil(MiniCoilOptions::new().k(0.0));
    let query = embed("minicoil", options(), TextRole::Query);
    assert_eq!(embed("minicoil", flat, TextRole::Plain), query);
    assert_ne!(embed("minicoil", options(), TextRole::Plain), query);

    for (name, options, option) in [
        ("bm42", options().bm42_alpha(f64::NAN), "bm42_alpha"),
        ("bm42", options().bm42_alpha(-1.0), "bm42_alpha"),
        ("minicoil", options().minicoil(MiniCoilOptions::new().avg_len(0.0)), "avg_len"),
        ("minicoil", options().top_k(3), "top_k"),
        ("minicoil", options().threshold(0.5), "threshold"),
    ] {
        let found = SparseModel::from_folder(&fixture(name), options).unwrap_err();
        assert!(matches!(&found, Error::InvalidOption { option: found, .. } if *found == option), "{found}");
    }
}

#[test]
fn tokens_are_counted_without_weights() {
    for name in ["bm42", "minicoil"] {
        let model = SparseModel::from_folder(&fixture(name), options().lazy_load(true)).unwrap();
        assert_eq!(model.name(), fixture(name).display().to_string());
        // Special tokens and stop words are counted, too.
        assert_eq!(model.token_count(&["dog", "the dog", ""]).unwrap(), 3 + 4 + 2);
        assert_eq!(model.embed::<&str>(&[], TextRole::Plain).unwrap(), []);
    }
}

#[test]
fn a_missing_file_is_named() {
    let folder = copy("minicoil");
    std::fs::remove_file(folder.path().join(VOCABULARY)).unwrap();
    assert!(error(folder.path(), options()).contains(VOCABULARY));
    let folder = copy("minicoil");
    std::fs::remove_file(folder.path().join(STOP_WORDS)).unwrap();
    assert!(error(folder.path(), options()).contains(STOP_WORDS));
    // Without stop words nothing says that it is BM42, and token states are no weights of a vocabulary.
    let folder = copy("bm42");
    std::fs::remove_file(folder.path().join(STOP_WORDS)).unwrap();
    assert!(error(folder.path(), options()).contains("tokenizer.json"));
    let missing = Bm42Model::open(folder.path(), None, options()).unwrap_err();
    assert!(missing.to_string().contains(STOP_WORDS), "{missing}");
}

#[test]
fn graphs_without_attention_are_refused() {
    let folder = copy("minicoil");
    std::fs::remove_file(folder.path().join(MATRICES)).unwrap();
    let found = error(folder.path(), options());
    assert!(found.contains("model.onnx") && found.contains("`last_hidden_state`"), "{found}");
    let folder = copy("bm42");
    std::fs::remove_file(folder.path().join("model.onnx")).unwrap();
    assert!(error(folder.path(), options()).contains("ONNX files only"));
}

#[test]
fn matrices_that_do_not_fit_are_refused() {
    let folder = copy("minicoil");
    let path = folder.path().join(MATRICES);
    let bytes = std::fs::read(&path).unwrap();
    // The header keeps its length: spaces stand at its end.
    let header_length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let (header, values) = bytes.split_at(10 + header_length);
    let header = String::from_utf8(header[10..].to_vec()).unwrap();
    let write = |changed: &str, values: &[u8]| {
        let changed = format!("{:<width$}\n", changed.trim_end(), width = header_length - 1);
        std::fs::write(&path, [&bytes[..10], changed.as_bytes(), values].concat()).unwrap();
    };
    let says = |options: LoadOptions| {
        let found = error(folder.path(), options);
        assert!(found.contains(MATRICES), "{found}");
        found
    };
    write(&header, &values[..values.len() - 1]);
    assert!(says(options()).contains("bytes"));
    write(&header.replace("<f4", "<f2"), values);
    assert!(says(options()).contains("`<f2`"));
    assert!(header.contains("(21, 24, 4)"), "{header}");
    write(&header.replace("(21, 24, 4)", "(20, 24, 4)"), &values[..20 * 24 * 4 * 4]);
    assert!(says(options()).contains("20 matrices"));
    write(&header.replace("(21, 24, 4)", "(21, 12, 8)"), values);
    assert!(says(options()).contains("rows of 12 numbers"));
    let mut nan = values.to_vec();
    nan[40..44].copy_from_slice(&f32::NAN.to_le_bytes());
    write(&header, &nan);
    assert!(says(options()).contains("element 10 is NaN"));
    // Elements are weights: they may be read later.
    let lazy = SparseModel::from_folder(folder.path(), options().lazy_load(true)).unwrap();
    let found = lazy.embed(&["a dog"], TextRole::Plain).unwrap_err().to_string();
    assert!(found.contains(MATRICES) && found.contains("NaN"), "{found}");
    write(&header, values);
    SparseModel::from_folder(folder.path(), options()).unwrap();
}

#[test]
fn words_need_word_pieces() {
    for name in ["bm42", "minicoil"] {
        let folder = copy(name);
        let path = folder.path().join("tokenizer.json");
        let mut tokenizer: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        tokenizer["model"]["continuing_subword_prefix"] = "@@".into();
        std::fs::write(&path, tokenizer.to_string()).unwrap();
        assert!(error(folder.path(), options()).contains("WordPiece"));
    }
}
