//! BGE-M3 in small against FlagEmbedding (tests/fixtures/heads/bge-m3), and what can be wrong with its files.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Tensor;
use candlewick_engine::{Batch, TextEncoder};
use safetensors::SafeTensors;
use tempfile::TempDir;

mod graphs;

use super::*;
use crate::{DenseModel, LateInteractionModel, Registry, SparseModel, State};

/// Of provenance.json.
const TOLERANCE: f32 = 1e-5;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/heads/bge-m3")
}

fn texts() -> Vec<String> {
    serde_json::from_slice(&fs::read(fixture().join("reference/texts.json")).unwrap()).unwrap()
}

fn load() -> HybridModel {
    HybridModel::from_folder(&fixture(), LoadOptions::new()).unwrap()
}

/// What FlagEmbedding computed.
struct Reference {
    dense: Vec<Vec<f32>>,
    sparse: Vec<SparseEmbedding>,
    multi_vector: Vec<MultiVectorEmbedding>,
}

impl Reference {
    fn read() -> Self {
        let bytes = fs::read(fixture().join("reference/reference.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let floats = |name: &str| -> Vec<f32> {
            let (elements, _) = tensors.tensor(name).unwrap().data().as_chunks::<4>();
            elements.iter().map(|element| f32::from_le_bytes(*element)).collect()
        };
        let ints = |name: &str| -> Vec<usize> {
            let (elements, _) = tensors.tensor(name).unwrap().data().as_chunks::<8>();
            elements.iter().map(|element| i64::from_le_bytes(*element) as usize).collect()
        };
        let ranges = |name: &str| -> Vec<std::ops::Range<usize>> {
            ints(name).windows(2).map(|pair| pair[0]..pair[1]).collect()
        };
        let (indices, values, rows) = (ints("indices"), floats("values"), floats("colbert_rows"));
        let sparse = |range: std::ops::Range<usize>| SparseEmbedding {
            indices: indices[range.clone()].iter().map(|index| *index as u32).collect(),
            values: values[range].to_vec(),
        };
        let multi_vector = |range: std::ops::Range<usize>| {
            MultiVectorEmbedding::new(24, rows[range.start * 24..range.end * 24].to_vec()).unwrap()
        };
        Self {
            dense: floats("embeddings").chunks(24).map(<[f32]>::to_vec).collect(),
            sparse: ranges("cu_nnz").into_iter().map(sparse).collect(),
            multi_vector: ranges("colbert_cu_rows").into_iter().map(multi_vector).collect(),
        }
    }

    #[track_caller]
    fn check_dense(&self, found: &[Vec<f32>]) {
        assert_eq!(found.len(), self.dense.len());
        for (found, expected) in found.iter().zip(&self.dense) {
            check_close(found, expected);
        }
    }

    #[track_caller]
    fn check_sparse(&self, found: &[SparseEmbedding]) {
        assert!(self.sparse.iter().any(|expected| expected.len() > 10));
        assert_eq!(found.len(), self.sparse.len());
        for (found, expected) in found.iter().zip(&self.sparse) {
            assert_eq!(found.indices, expected.indices);
            check_close(&found.values, &expected.values);
        }
    }

    #[track_caller]
    fn check_multi_vector(&self, found: &[MultiVectorEmbedding]) {
        assert_eq!(found.len(), self.multi_vector.len());
        for (found, expected) in found.iter().zip(&self.multi_vector) {
            check_close(found.values(), expected.values());
        }
    }
}

#[track_caller]
fn check_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= TOLERANCE, "{found} {expected}");
    }
}

fn dense(embeddings: &[HybridEmbedding]) -> Vec<Vec<f32>> {
    embeddings.iter().map(|embedding| embedding.dense.clone().unwrap()).collect()
}

fn sparse(embeddings: &[HybridEmbedding]) -> Vec<SparseEmbedding> {
    embeddings.iter().map(|embedding| embedding.sparse.clone().unwrap()).collect()
}

fn multi_vector(embeddings: &[HybridEmbedding]) -> Vec<MultiVectorEmbedding> {
    embeddings.iter().map(|embedding| embedding.multi_vector.clone().unwrap()).collect()
}

/// An encoder that counts how often it runs.
struct Counting(Arc<dyn TextEncoder>, Arc<AtomicUsize>);

impl TextEncoder for Counting {
    fn hidden_size(&self) -> usize {
        self.0.hidden_size()
    }

    fn forward(&self, batch: &Batch) -> candlewick_engine::Result<Tensor> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.forward(batch)
    }

    fn forward_outputs(&self, batch: &Batch) -> candlewick_engine::Result<Vec<Tensor>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.forward_outputs(batch)
    }
}

#[test]
fn all_three_are_flag_embeddings() {
    let (model, reference) = (load(), Reference::read());
    assert_eq!((model.dim(), model.multi_vector_dim(), model.max_length()), (24, 24, 64));
    assert_eq!(model.skipped_ids, HashSet::from([0, 1, 2, 3]));
    let embeddings = model.embed(&texts(), TextRole::Plain).unwrap();
    reference.check_dense(&dense(&embeddings));
    reference.check_sparse(&sparse(&embeddings));
    reference.check_multi_vector(&multi_vector(&embeddings));
}

#[test]
fn texts_together_are_texts_alone() {
    let model = load();
    let texts = texts();
    let together = model.embed(&texts, TextRole::Passage).unwrap();
    for (text, together) in texts.iter().zip(&together) {
        assert_eq!(&model.embed(&[text], TextRole::Query).unwrap()[0], together, "{text}");
    }
}

#[test]
fn one_pass_gives_all_and_what_is_left_out_changes_nothing() {
    check_one_pass(LoadOptions::new());
}

#[track_caller]
fn check_one_pass(options: LoadOptions) {
    let mut model = HybridModel::from_folder(&fixture(), options.batch_tokens(1 << 20)).unwrap();
    let forwards = Arc::new(AtomicUsize::new(0));
    model.model.wrap_encoders(|encoder| Arc::new(Counting(encoder, forwards.clone())));
    // Few enough that they are one batch.
    let texts = &texts()[..3];
    let all = model.embed(texts, TextRole::Plain).unwrap();
    assert_eq!(forwards.swap(0, Ordering::Relaxed), 1);
    for (dense, sparse, multi_vector) in
        [(true, false, false), (false, true, false), (false, false, true), (true, true, false)]
    {
        let outputs = HybridOutputs { dense, sparse, multi_vector };
        let some = model.embed_some(texts, TextRole::Plain, outputs).unwrap();
        assert_eq!(forwards.swap(0, Ordering::Relaxed), 1);
        for (some, all) in some.iter().zip(&all) {
            assert_eq!(some.dense, all.dense.clone().filter(|_| dense));
            assert_eq!(some.sparse, all.sparse.clone().filter(|_| sparse));
            assert_eq!(some.multi_vector, all.multi_vector.clone().filter(|_| multi_vector));
        }
    }
}

#[test]
fn each_kind_of_model_has_its_head_of_the_folder() {
    let (texts, reference) = (texts(), Reference::read());
    let together = load().embed(&texts, TextRole::Plain).unwrap();
    let alone = DenseModel::from_folder(&fixture(), LoadOptions::new()).unwrap();
    assert_eq!(alone.embed(&texts, TextRole::Plain).unwrap(), dense(&together));
    let alone = SparseModel::from_folder(&fixture(), LoadOptions::new()).unwrap();
    assert_eq!(alone.embed(&texts, TextRole::Plain).unwrap(), sparse(&together));
    let limited = SparseModel::from_folder(&fixture(), LoadOptions::new().top_k(2)).unwrap();
    let limited = limited.embed(&texts, TextRole::Plain).unwrap();
    assert!(limited.iter().all(|embedding| embedding.len() <= 2) && limited.iter().any(|e| e.len() == 2));
    let alone = LateInteractionModel::from_folder(&fixture(), LoadOptions::new()).unwrap();
    for role in [TextRole::Passage, TextRole::Query] {
        reference.check_multi_vector(&alone.embed(&texts, role).unwrap());
    }
}

/// A copy of the fixture, without its reference.
fn copy() -> TempDir {
    let folder = TempDir::new().unwrap();
    for file in fs::read_dir(fixture()).unwrap().chain(fs::read_dir(fixture().join("1_Pooling")).unwrap()) {
        let path = file.unwrap().path();
        let target = folder.path().join(path.strip_prefix(fixture()).unwrap());
        if path.is_dir() {
            fs::create_dir(target).unwrap();
        } else {
            fs::copy(path, target).unwrap();
        }
    }
    folder
}

/// The tensors of sparse_linear.pt or colbert_linear.pt as safetensors.
fn as_safetensors(name: &str, weight: [usize; 2]) -> Vec<u8> {
    let weights = candlewick_engine::Weights::open([fixture().join(name)]).unwrap();
    let bytes = |name: &str, shape: &[usize]| {
        let values = weights.root().read_f32(name, shape).unwrap();
        (shape.to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    };
    let tensors = [("weight", bytes("weight", &weight)), ("bias", bytes("bias", &weight[..1]))];
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn layers_may_be_safetensors_and_modules_may_be_missing() {
    let folder = copy();
    let at = |name: &str| folder.path().join(name);
    for (name, weight) in [("sparse_linear", [1, 24]), ("colbert_linear", [24, 24])] {
        fs::write(at(&format!("{name}.safetensors")), as_safetensors(&format!("{name}.pt"), weight)).unwrap();
        fs::remove_file(at(&format!("{name}.pt"))).unwrap();
    }
    fs::remove_file(at("modules.json")).unwrap();
    let model = HybridModel::from_folder(folder.path(), LoadOptions::new()).unwrap();
    assert_eq!(
        model.embed(&texts(), TextRole::Plain).unwrap(),
        load().embed(&texts(), TextRole::Plain).unwrap()
    );
}

#[test]
fn an_encoder_of_pytorch_is_one_of_safetensors() {
    let folder = copy();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let model = HybridModel::from_folder(folder.path(), LoadOptions::new()).unwrap();
    assert_eq!(
        model.embed(&texts(), TextRole::Plain).unwrap(),
        load().embed(&texts(), TextRole::Plain).unwrap()
    );
    let weights = folder.path().join("pytorch_model.bin");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 100]).unwrap();
    check_error(folder.path(), &["pytorch_model.bin", "not a PyTorch file of tensors"]);
}

#[track_caller]
fn check_error(folder: &Path, expected: &[&str]) {
    let error =
        HybridModel::from_folder(folder, LoadOptions::new()).expect_err("must be refused").to_string();
    for expected in expected {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_wrong_with_a_layer_is_said_at_load() {
    for name in ["sparse_linear.pt", "colbert_linear.pt"] {
        let folder = copy();
        let path = folder.path().join(name);
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        check_error(folder.path(), &[&format!("has no {name}")]);
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        check_error(folder.path(), &[name, "not a PyTorch file of tensors", "no zip archive"]);
        let at = whole.windows(6).position(|bytes| bytes == b"weight").unwrap();
        let mut renamed = whole.clone();
        renamed[at..at + 6].copy_from_slice(b"weighs");
        fs::write(&path, &renamed).unwrap();
        check_error(folder.path(), &[name, "tensor `weight` is missing"]);
    }
    let folder = copy();
    fs::copy(fixture().join("colbert_linear.pt"), folder.path().join("sparse_linear.pt")).unwrap();
    check_error(folder.path(), &["sparse_linear.pt", "shape [24, 24], expected [1, 24]"]);
    // One number for each token would be a vector that always points the same way, but it is what the file says.
    let folder = copy();
    fs::copy(fixture().join("sparse_linear.pt"), folder.path().join("colbert_linear.pt")).unwrap();
    let model = HybridModel::from_folder(folder.path(), LoadOptions::new()).unwrap();
    assert_eq!(model.multi_vector_dim(), 1);
}

#[test]
fn graphs_give_what_they_have() {
    let graph = || LoadOptions::new().weights(fixture().join("onnx/model.onnx"));
    let (texts, reference) = (texts(), Reference::read());
    let model = DenseModel::from_folder(&fixture(), graph().output("dense_vecs")).unwrap();
    reference.check_dense(&model.embed(&texts, TextRole::Plain).unwrap());
    let model = SparseModel::from_folder(&fixture(), graph().output("sparse_vecs")).unwrap();
    reference.check_sparse(&model.embed(&texts, TextRole::Plain).unwrap());
    let error = HybridModel::from_folder(&fixture(), graph().output("dense_vecs")).unwrap_err().to_string();
    assert!(error.contains("no output has a row for each token"), "{error}");
    let error = HybridModel::from_folder(&fixture(), graph().output("sparse_vecs")).unwrap_err().to_string();
    assert!(error.contains("takes 24, but gets 1"), "{error}");
}

#[test]
fn rows_are_loaded_by_every_kind_that_has_a_head() {
    let row = |dim: usize| {
        let row = format!(
            r#"
            [[model]]
            id = "owner/m3"
            kind = "hybrid"
            architecture = "xlm-roberta"
            dim = {dim}
            pooling = "cls"
            normalize = true
            licence = "MIT"
            size = 1
            description = "A test row."
            weights = [{{ path = "model.safetensors", format = "safetensors" }}]
            files = ["config.json", "tokenizer.json", "sparse_linear.pt", "colbert_linear.pt"]
            sources = [{{ type = "hub", repo = "owner/m3" }}]
            "#
        );
        Registry::parse(&row, "test").unwrap()
    };
    // A cache as the hub's tools make it.
    let cache = TempDir::new().unwrap();
    let repo = cache.path().join("models--owner--m3");
    let snapshot = repo.join("snapshots/0000000000000000000000000000000000000000");
    fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), "0000000000000000000000000000000000000000").unwrap();
    fs::rename(copy().keep(), &snapshot).unwrap();
    let options = |dim| LoadOptions::new().offline(true).cache_dir(cache.path()).registry(Arc::new(row(dim)));
    let texts = &texts()[..4];
    let hybrid = HybridModel::load("owner/m3", options(24)).unwrap().embed(texts, TextRole::Plain).unwrap();
    let found = DenseModel::load("owner/m3", options(24)).unwrap().embed(texts, TextRole::Plain).unwrap();
    assert_eq!(found, dense(&hybrid));
    let found = SparseModel::load("owner/m3", options(24)).unwrap().embed(texts, TextRole::Plain).unwrap();
    assert_eq!(found, sparse(&hybrid));
    let found =
        LateInteractionModel::load("owner/m3", options(24)).unwrap().embed(texts, TextRole::Query).unwrap();
    assert_eq!(found, multi_vector(&hybrid));
    let error = crate::RerankModel::load("owner/m3", options(24)).unwrap_err();
    assert!(matches!(error, Error::WrongKind { found: Kind::Hybrid, .. }), "{error}");
    let error = HybridModel::load("owner/m3", options(25)).unwrap_err();
    assert!(matches!(error, Error::RegistryMismatch { key: "dim", .. }), "{error}");
}

#[test]
fn the_real_model_can_be_loaded_from_its_own_repository() {
    let spec = Registry::built_in().get_preferring(Kind::Sparse, "bge-m3").unwrap();
    assert_eq!((spec.kind, spec.state()), (Kind::Hybrid, State::Loadable));
    let files: Vec<&str> = spec.required_files().collect();
    for file in ["pytorch_model.bin", "sparse_linear.pt", "colbert_linear.pt"] {
        assert!(files.contains(&file), "{files:?}");
    }
}

#[test]
fn scores_are_weighted_means_of_what_both_have() {
    let rows = |rows: &[[f32; 2]]| Some(MultiVectorEmbedding::from_rows(rows).unwrap());
    let sparse = |index: u32| Some([(index, 0.5)].into_iter().collect());
    let query = HybridEmbedding {
        dense: Some(vec![1.0, 0.0]),
        sparse: sparse(4),
        multi_vector: rows(&[[1.0, 0.0], [0.0, 1.0]]),
    };
    let document = HybridEmbedding {
        dense: Some(vec![0.5, 0.0]),
        sparse: sparse(4),
        multi_vector: rows(&[[0.5, 0.0], [0.25, 0.25]]),
    };
    let score = |dense, sparse, multi_vector| {
        query.score(&document, HybridWeights { dense, sparse, multi_vector }).unwrap()
    };
    assert_eq!(score(1.0, 0.0, 0.0), 0.5);
    assert_eq!(score(0.0, 1.0, 0.0), 0.25);
    assert_eq!(score(0.0, 0.0, 1.0), 0.375);
    assert_eq!(score(1.0, 1.0, 0.0), 0.375);
    assert_eq!(score(2.0, 1.0, 1.0), (2.0 * 0.5 + 0.25 + 0.375) / 4.0);
    let without = HybridEmbedding { multi_vector: None, ..query.clone() };
    assert_eq!(without.score(&document, HybridWeights::default()).unwrap(), 0.375);
    assert!(matches!(
        query.score(&HybridEmbedding::default(), HybridWeights::default()),
        Err(Error::NothingToCompare)
    ));
    let long = HybridEmbedding { dense: Some(vec![1.0; 3]), ..HybridEmbedding::default() };
    let error = query.score(&long, HybridWeights::default()).unwrap_err();
    assert!(matches!(error, Error::DimMismatch { expected: 2, found: 3, .. }));
}
