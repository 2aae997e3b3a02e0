//! A text's embedding depends on the text alone, down to the bits: not on its batch mates, their order, the token
//! budget or the number of threads, in every precision, whether an architecture or a graph computes it.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::sync::LazyLock;

use candlewick::{Embedding, EncoderInspection, LoadOptions, Precision, TextEmbedding};
use candlewick_models::{DenseModel, TextRole};
use proptest::prelude::*;

/// One text alone on one thread, and the same model on one to three threads with several budgets. Two threads
/// share a single text between them.
struct Models {
    alone: TextEmbedding,
    others: Vec<TextEmbedding>,
}

impl Models {
    fn load(load: impl Fn(LoadOptions) -> TextEmbedding, precision: Precision) -> Self {
        let load = |threads: usize, batch_tokens: usize| {
            load(LoadOptions::new().threads(threads).batch_tokens(batch_tokens).precision(precision))
        };
        let others = [(1, 64), (2, 64), (2, 512), (3, 8192)];
        Self { alone: load(1, 512), others: others.map(|(threads, tokens)| load(threads, tokens)).into() }
    }

    /// The texts whose embedding has other bits alone than in some batch, or alone on several threads.
    fn differing<'a>(&self, texts: &'a [String]) -> Vec<&'a str> {
        let bits = |embedding: &Embedding| embedding.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let alone = |model: &TextEmbedding| -> Vec<_> {
            texts.iter().flat_map(|text| model.embed(&[text]).unwrap()).map(|e| bits(&e)).collect()
        };
        let expected = alone(&self.alone);
        let batched = self.others.iter().map(|model| model.embed(texts).unwrap().iter().map(bits).collect());
        let shared = self.others.iter().map(alone);
        let mut differing = Vec::new();
        for found in batched.chain(shared).collect::<Vec<Vec<_>>>() {
            assert_eq!(found.len(), texts.len());
            let pairs = texts.iter().zip(found.iter().zip(&expected));
            differing.extend(
                pairs.filter(|(_, (found, expected))| found != expected).map(|(text, _)| text.as_str()),
            );
        }
        differing
    }
}

static FIXTURES: LazyLock<Vec<(Precision, Models)>> = LazyLock::new(|| {
    let load = |name: &str, precision| {
        let folder = xtask::root().join("tests/fixtures").join(name);
        Models::load(|options| TextEmbedding::from_folder_with(&folder, options).unwrap(), precision)
    };
    let names = ["bert-mean", "bert-cls-tanh", "bert-last-odd"];
    let pairs = names.into_iter().flat_map(|name| Precision::ALL.map(|precision| (name, precision)));
    let graphs = GRAPHS.iter().map(|graph| (graph.precision, graph.load()));
    pairs.map(|(name, precision)| (precision, load(name, precision))).chain(graphs).collect()
});

/// An ONNX file of a text encoder.
struct GraphFile {
    path: &'static str,
    precision: Precision,
    is_packed: bool,
}

const fn packed(path: &'static str, precision: Precision) -> GraphFile {
    GraphFile { path, precision, is_packed: true }
}

const GRAPHS: [GraphFile; 9] = [
    packed("bert/plain-17.onnx", Precision::F32),
    packed("bert/plain-17.onnx", Precision::Bf16),
    packed("bert/optimized.onnx", Precision::F32),
    // With a scale for each token.
    packed("bert/quantized.onnx", Precision::F32),
    packed("modernbert/plain-17.onnx", Precision::F32),
    packed("bert-mean-pooled/plain-17.onnx", Precision::F32),
    packed("jina-embeddings-v3-tasks/plain-17.onnx", Precision::F32),
    packed("qwen3/plain-17.onnx", Precision::F32),
    GraphFile { path: "bert/qdq.onnx", precision: Precision::F32, is_packed: false },
];

impl GraphFile {
    fn load(&self) -> Models {
        let folder = xtask::root().join("tests/fixtures/onnx");
        let file = folder.join(self.path);
        let options = |options: LoadOptions| {
            // Not every graph says how many positions it has.
            let options = options.weights(file.clone()).max_length(36);
            if self.path.contains("-tasks/") { options.input("task_id", 2.0) } else { options }
        };
        let inspection = candlewick::inspect(&file, &options(LoadOptions::new())).unwrap();
        let EncoderInspection::Runs { unpacked_because, .. } = inspection.encoder else {
            panic!("{inspection:?}");
        };
        assert_eq!(unpacked_because.is_none(), self.is_packed, "{}: {unpacked_because:?}", self.path);
        let load = |given| TextEmbedding::from_folder_with(&folder, options(given)).unwrap();
        Models::load(load, self.precision)
    }
}

#[test]
fn graphs_give_equal_bits_too() {
    let words = ["wax and wick", "a flame", "", "candle", "tallow 0123 and beeswax are what it is made of"];
    let texts: Vec<String> = (0..40).map(|index| words[index % 5].repeat(1 + index / 7)).collect();
    for graph in &GRAPHS {
        let differing = graph.load().differing(&texts);
        assert!(differing.is_empty(), "{} {}: {differing:?}", graph.path, graph.precision);
    }
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    let words = prop::collection::vec("[a-z0-9,.]{1,8}|[α-ω]{1,4}|[中国人口手]", 0..90);
    prop::collection::vec(words.prop_map(|words| words.join(" ")), 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(72))]

    #[test]
    fn neighbours_order_and_threads_change_nothing(
        texts in texts(),
        rotation in 0usize..24,
        model in 0..FIXTURES.len(),
    ) {
        let mut rotated = texts.clone();
        rotated.rotate_left(rotation % texts.len());
        let (precision, models) = &FIXTURES[model];
        for texts in [&texts, &rotated] {
            let differing = models.differing(texts);
            prop_assert!(differing.is_empty(), "{precision}: {differing:?}");
        }
    }
}

#[test]
fn the_real_model_is_invariant_too() {
    let reference = xtask::verify::Reference::read(&xtask::root().join("tests/fixtures/all-MiniLM-L6-v2"));
    let texts = reference.unwrap().texts;
    for precision in Precision::ALL {
        let load = |options| TextEmbedding::load_with("all-MiniLM-L6-v2", options).unwrap();
        let differing = Models::load(load, precision).differing(&texts);
        assert!(differing.is_empty(), "{precision}: {differing:?}");
    }
}

#[test]
fn streaming_yields_what_embedding_at_once_yields() {
    let model = TextEmbedding::from_folder(xtask::root().join("tests/fixtures/bert-mean")).unwrap();
    // More than one window.
    let texts: Vec<String> = (0..5000).map(|number| format!("number {number}")).collect();
    let at_once = model.embed(&texts).unwrap();
    let streamed: Vec<Embedding> = model.embed_iter(&texts).collect::<Result<_, _>>().unwrap();
    assert_eq!(at_once, streamed);
}

#[test]
fn token_ids_give_what_their_texts_give() {
    let folder = xtask::root().join("tests/fixtures/bert-mean");
    let model = DenseModel::from_folder(&folder, LoadOptions::new().threads(2).batch_tokens(64)).unwrap();
    let texts: Vec<String> = (0..40).map(|number| "wick ".repeat(number % 7) + "flame").collect();
    let batch = model.tokenize(&texts).unwrap();
    let sequences: Vec<&[u32]> = batch.sequences().map(|rows| &batch.token_ids()[rows]).collect();

    assert_eq!(model.embed_tokens(&sequences).unwrap(), model.embed(&texts, TextRole::Plain).unwrap());

    assert!(model.embed_tokens::<&[u32]>(&[]).unwrap().is_empty());
    let error = model.embed_tokens(&[[0, u32::MAX]]).expect_err("no such token").to_string();
    assert!(error.contains("bert-mean"), "{error}");
}
