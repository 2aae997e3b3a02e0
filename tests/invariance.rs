//! A text's embedding depends on the text alone: not on its batch mates, their order, the token budget or the
//! number of threads.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::sync::LazyLock;

use candlewick::{Embedding, LoadOptions, TextEmbedding};
use proptest::prelude::*;

const TOLERANCE: f32 = 1e-6;

/// One text alone on one thread, and the same model on two threads with several budgets.
struct Models {
    alone: TextEmbedding,
    batched: Vec<TextEmbedding>,
}

impl Models {
    fn load(load: impl Fn(LoadOptions) -> TextEmbedding) -> Self {
        let batched = [(1, 64), (2, 64), (2, 512), (2, 8192)].map(|(threads, batch_tokens)| {
            load(LoadOptions::new().threads(threads).batch_tokens(batch_tokens))
        });
        Self { alone: load(LoadOptions::new().threads(1)), batched: batched.into() }
    }

    /// The largest difference between any text alone and in any batch.
    fn largest_difference(&self, texts: &[String]) -> f32 {
        let alone: Vec<Embedding> =
            texts.iter().flat_map(|text| self.alone.embed(&[text]).unwrap()).collect();
        let differences = self.batched.iter().flat_map(|model| {
            let batched = model.embed(texts).unwrap();
            let pairs = alone.iter().flatten().zip(batched.into_iter().flatten());
            pairs.map(|(a, b)| (a - b).abs()).collect::<Vec<_>>()
        });
        differences.fold(0.0, f32::max)
    }
}

static FIXTURES: LazyLock<Vec<Models>> = LazyLock::new(|| {
    let load = |name: &str| {
        let folder = xtask::root().join("tests/fixtures").join(name);
        Models::load(|options| TextEmbedding::from_folder_with(&folder, options).unwrap())
    };
    ["bert-mean", "bert-cls-tanh", "bert-last-odd"].map(load).into()
});

fn texts() -> impl Strategy<Value = Vec<String>> {
    let words = prop::collection::vec("[a-z0-9,.]{1,8}|[α-ω]{1,4}|[中国人口手]", 0..90);
    prop::collection::vec(words.prop_map(|words| words.join(" ")), 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn neighbours_order_and_threads_change_nothing(texts in texts(), rotation in 0usize..24) {
        let mut rotated = texts.clone();
        rotated.rotate_left(rotation % texts.len());
        for models in FIXTURES.iter() {
            for texts in [&texts, &rotated] {
                let difference = models.largest_difference(texts);
                prop_assert!(difference <= TOLERANCE, "differs by {}", difference);
            }
        }
    }
}

#[test]
fn the_real_model_is_invariant_too() {
    let reference = xtask::verify::Reference::read(&xtask::root().join("tests/fixtures/all-MiniLM-L6-v2"));
    let models = Models::load(|options| TextEmbedding::load_with("all-MiniLM-L6-v2", options).unwrap());
    let difference = models.largest_difference(&reference.unwrap().texts);
    assert!(difference <= TOLERANCE, "differs by {difference}");
}

#[test]
fn streaming_yields_what_embedding_at_once_yields() {
    let model = TextEmbedding::from_folder(xtask::root().join("tests/fixtures/bert-mean")).unwrap();
    // More than one window.
    let texts: Vec<String> = (0..5000).map(|number| format!("number {number}")).collect();
    let at_once = model.embed(&texts).unwrap();
    let streamed: Vec<Embedding> = model.embed_iter(&texts).collect::<Result<_, _>>().unwrap();
    let difference = at_once.iter().flatten().zip(streamed.iter().flatten()).map(|(a, b)| (a - b).abs());
    assert_eq!(at_once.len(), streamed.len());
    assert!(difference.fold(0.0, f32::max) <= TOLERANCE);
}
