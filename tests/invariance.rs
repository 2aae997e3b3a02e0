//! A text's embedding depends on the text alone, down to the bits: not on its batch mates, their order, the token
//! budget or the number of threads, in every precision.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::sync::LazyLock;

use candlewick::{Embedding, LoadOptions, Precision, TextEmbedding};
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
    pairs.map(|(name, precision)| (precision, load(name, precision))).collect()
});

fn texts() -> impl Strategy<Value = Vec<String>> {
    let words = prop::collection::vec("[a-z0-9,.]{1,8}|[α-ω]{1,4}|[中国人口手]", 0..90);
    prop::collection::vec(words.prop_map(|words| words.join(" ")), 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

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
