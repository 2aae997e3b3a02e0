//! Sparse, late interaction and reranking models as users of the facade meet them: empty texts, no texts, long texts,
//! options, and models that are asked for by the wrong type. Parity with the originals is `cargo xtask verify`'s.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "heads/language_models.rs"]
mod language_models;

use std::path::PathBuf;
use std::sync::Arc;

use candlewick::{
    Bm25Options, Error, Kind, LateInteractionTextEmbedding, LoadOptions, Registry, ScoreActivation,
    ScoreOptions, SparseTextEmbedding, TextCrossEncoder, TextEmbedding, ThreadPool, TokenPooling, max_sim,
    max_sim_scores, top_k,
};

const TEXTS: [&str; 4] = ["the fox sleeps by the river.", "", "a quick brown dog!", "wax"];

fn fixture(name: &str) -> PathBuf {
    xtask::root().join("tests/fixtures/heads").join(name)
}

fn sparse(name: &str) -> SparseTextEmbedding {
    SparseTextEmbedding::from_folder(fixture(name)).unwrap()
}

fn late_interaction(name: &str) -> LateInteractionTextEmbedding {
    LateInteractionTextEmbedding::from_folder(fixture(name)).unwrap()
}

fn reranker(name: &str) -> TextCrossEncoder {
    TextCrossEncoder::from_folder(fixture(name)).unwrap()
}

fn bm25() -> SparseTextEmbedding {
    SparseTextEmbedding::bm25(Bm25Options::new()).unwrap()
}

#[test]
fn nothing_in_nothing_out() {
    for model in [sparse("splade-bert"), sparse("if-splade"), bm25()] {
        assert!(model.embed::<&str>(&[]).unwrap().is_empty());
        assert!(model.query_embed::<&str>(&[]).unwrap().is_empty());
        assert_eq!(model.embed_iter(Vec::<String>::new()).count(), 0);
        assert_eq!(model.token_count::<&str>(&[]).unwrap(), 0);
    }
    let model = late_interaction("colbert-v2");
    assert!(model.embed::<&str>(&[]).unwrap().is_empty());
    assert!(model.query_embed::<&str>(&[]).unwrap().is_empty());
    assert_eq!(model.embed_iter(Vec::<String>::new()).count(), 0);
    let model = reranker("rerank-bert");
    assert!(model.rerank::<&str>("a query", &[]).unwrap().is_empty());
    assert!(model.rerank_pairs::<&str, &str>(&[]).unwrap().is_empty());
    assert!(model.rank::<&str>("a query", &[], &ScoreOptions::new(), Some(3)).unwrap().is_empty());
    let windows = ScoreOptions::new().window_overlap(3);
    assert!(model.rerank_with::<&str>("a query", &[], &windows).unwrap().is_empty());
}

#[test]
fn empty_texts_are_texts() {
    // Of SPLADE the special tokens say something; of BM25 there is no word.
    assert_eq!(sparse("splade-bert").embed(&[""]).unwrap().len(), 1);
    assert_eq!(sparse("splade-bert").token_count(&["", ""]).unwrap(), 4);
    assert!(sparse("if-splade").query_embed(&[""]).unwrap()[0].is_empty());
    assert!(bm25().embed(&["", "the and of !"]).unwrap().iter().all(|embedding| embedding.is_empty()));
    assert!(bm25().query_embed(&[""]).unwrap()[0].is_empty());

    // Two special tokens and the marker; a query is filled up.
    let model = late_interaction("colbert-v2");
    assert_eq!(model.embed(&[""]).unwrap()[0].len(), 3);
    assert_eq!(model.query_embed(&[""]).unwrap()[0].len(), 32);
    assert_eq!((model.token_count(&[""]).unwrap(), model.query_token_count(&[""]).unwrap()), (3, 32));

    let model = reranker("rerank-bert");
    let scores = model.rerank("", &["", "a quick brown dog"]).unwrap();
    assert_eq!(scores.len(), 2);
    assert_ne!(scores[0], scores[1]);
    assert_ne!(model.rerank("the river", &[""]).unwrap()[0], scores[0]);
}

#[test]
fn streams_are_the_same_as_slices() {
    let texts: Vec<String> = (0..3000).map(|number| format!("the fox {}", number % 7)).collect();
    let model = bm25();
    let streamed: Result<Vec<_>, _> = model.embed_iter(&texts).collect();
    assert_eq!(streamed.unwrap(), model.embed(&texts).unwrap());
    let model = late_interaction("pylate");
    let streamed: Result<Vec<_>, _> = model.embed_iter(TEXTS).collect();
    assert_eq!(streamed.unwrap(), model.embed(&TEXTS).unwrap());
    let model = sparse("splade-bert");
    let streamed: Result<Vec<_>, _> = model.embed_iter(TEXTS).collect();
    assert_eq!(streamed.unwrap(), model.passage_embed(&TEXTS).unwrap());
}

#[test]
fn sparse_embeddings_are_limited_as_asked() {
    let limited = |options: LoadOptions| {
        let splade = SparseTextEmbedding::from_folder_with(fixture("splade-bert"), options.clone()).unwrap();
        let bm25 = SparseTextEmbedding::load_with("bm25", options).unwrap();
        [splade.embed(&TEXTS).unwrap(), bm25.embed(&TEXTS).unwrap()].concat()
    };
    let whole = limited(LoadOptions::new());
    assert!(whole.iter().any(|embedding| embedding.len() > 10));
    for (found, whole) in limited(LoadOptions::new().top_k(2)).iter().zip(&whole) {
        assert_eq!(*found, whole.clone().limited(Some(2), None));
        assert_eq!(found.len(), whole.len().min(2));
    }
    for (found, whole) in limited(LoadOptions::new().threshold(0.1)).iter().zip(&whole) {
        assert_eq!(*found, whole.clone().limited(None, Some(0.1)));
    }
    let error = SparseTextEmbedding::load_with("bm25", LoadOptions::new().threshold(f32::NAN)).unwrap_err();
    assert!(error.to_string().contains("threshold NaN"), "{error}");
}

#[test]
fn queries_of_a_table_need_no_network() {
    let options = LoadOptions::new().lazy_load(true);
    let model = SparseTextEmbedding::from_folder_with(fixture("if-splade"), options).unwrap();
    let query = &model.query_embed(&["the river"]).unwrap()[0];
    assert!(!query.is_empty() && query.len() <= 2, "{query:?}");
    assert_ne!(*query, model.embed(&["the river"]).unwrap()[0]);
}

#[test]
fn bm25_splits_and_weighs_as_asked() {
    let model = bm25();
    let document = &model.embed(&["Wax melts where the wick burns, and wax drips."]).unwrap()[0];
    let query = &model.query_embed(&["melting waxes"]).unwrap()[0];
    assert_eq!(query.values, [1.0, 1.0]);
    assert!(document.dot(query) > 2.0);
    assert_eq!(
        model.token_count(&["The wax melts!"]).unwrap(),
        3,
        "stop words are words, punctuation is not"
    );

    // By the registry's name the same, with the same options.
    let options = Bm25Options::new().language("french".parse().unwrap()).k(2.0).b(0.0).avg_len(3.0);
    let french = SparseTextEmbedding::bm25(options.clone()).unwrap();
    let named = SparseTextEmbedding::load_with("Qdrant/BM25", LoadOptions::new().bm25(options)).unwrap();
    let embeddings = french.embed(&["les bougies brûlent"]).unwrap();
    assert_eq!(embeddings, named.embed(&["les bougies brûlent"]).unwrap());
    assert_ne!(embeddings, model.embed(&["les bougies brûlent"]).unwrap());

    let error = SparseTextEmbedding::bm25(Bm25Options::new().b(1.5)).unwrap_err().to_string();
    assert!(error.contains("b 1.5: must be between 0 and 1"), "{error}");
    let error = "klingon".parse::<candlewick::Language>().unwrap_err();
    assert!(matches!(&error, Error::UnknownLanguage { language } if language == "klingon"));
    assert!(error.to_string().contains("no stemmer for the language `klingon`; there are arabic, danish"));
}

#[test]
fn late_interaction_scores_and_pools() {
    let model = late_interaction("colbert-v2");
    assert_eq!(model.embedding_size(), 16);
    let documents = model.embed(&TEXTS).unwrap();
    assert_eq!(documents, model.passage_embed(&TEXTS).unwrap());
    let queries = model.query_embed(&TEXTS).unwrap();
    for (document, query) in documents.iter().zip(&queries) {
        assert_eq!((document.dim(), query.dim()), (16, 16));
        assert!(query.len() >= 32 && document.len() < query.len());
    }
    // Punctuation has no vectors, but is read.
    let tokens: usize = documents.iter().map(|document| document.len()).sum();
    assert_eq!(model.token_count(&TEXTS).unwrap(), tokens + 2);

    let pool = ThreadPool::new(Some(2)).unwrap();
    let scores = max_sim_scores(&queries[0], &documents, &pool).unwrap();
    assert_eq!(scores[2], max_sim(&queries[0], &documents[2]).unwrap());
    assert_eq!(top_k(&scores, 4).len(), 4);
    let pooled = TokenPooling::new(2).unwrap().pool_all(&documents, &pool);
    assert!(pooled[0].len() < documents[0].len());
}

#[test]
fn a_text_has_the_rows_that_fastembed_counts() {
    // Its "Hello World": the first token, the marker, two words and the last token; queries are filled up.
    for (name, text) in [("colbert-v2", "river river"), ("colbert-jina", "river river")] {
        let model = late_interaction(name);
        assert_eq!(model.embed(&[text]).unwrap()[0].len(), 5, "{name}");
        assert_eq!(model.query_embed(&[text]).unwrap()[0].len(), 32, "{name}");
        assert_eq!(model.query_token_count(&[text, text]).unwrap(), 64, "{name}");
    }
}

#[test]
fn long_texts_are_cut() {
    let long = "river ".repeat(1000);
    let model = late_interaction("colbert-v2");
    assert!(model.token_count(&[&long]).unwrap() <= model.max_length());
    assert!(model.embed(&[&long]).unwrap()[0].len() <= model.max_length());
    let model = sparse("splade-bert");
    assert_eq!(model.embed(&[&long]).unwrap(), model.embed(&["river ".repeat(500)]).unwrap());

    // The query alone is too long; of two texts the longer is cut first.
    for name in ["rerank-bert", "rerank-xlm-roberta"] {
        let model = reranker(name);
        assert_eq!(model.max_length(), 64);
        for document in ["", "a quick brown dog", long.as_str()] {
            assert_eq!(model.token_count(&[(&long, document)]).unwrap(), 64, "{name}");
            let whole = model.rerank(&long, &[document]).unwrap();
            assert_eq!(whole, model.rerank(&"river ".repeat(500), &[document]).unwrap());
            let windows = ScoreOptions::new().window_overlap(8);
            let best = model.rerank_with(&long, &[document], &windows).unwrap()[0];
            assert!(best.is_finite(), "{name}");
        }
    }
}

#[test]
fn documents_are_scored_alike_however_they_are_given() {
    let model = reranker("rerank-bert");
    assert_eq!(model.num_labels(), 1);
    let scores = model.rerank("where is the river?", &TEXTS).unwrap();
    let pairs = TEXTS.map(|text| ("where is the river?", text));
    assert_eq!(model.rerank_pairs(&pairs).unwrap(), scores);
    assert_eq!(model.logits(&pairs).unwrap().concat(), scores);
    for (text, score) in TEXTS.iter().zip(&scores) {
        assert_eq!(model.rerank("where is the river?", &[text]).unwrap(), [*score], "alone");
    }
    let ranked = model.rank("where is the river?", &TEXTS, &ScoreOptions::new(), None).unwrap();
    assert!(ranked.is_sorted_by(|a, b| a.score >= b.score) && ranked.len() == 4);
    assert!(ranked.iter().all(|ranked| scores[ranked.index] == ranked.score));
    let best = model.rank("where is the river?", &TEXTS, &ScoreOptions::new(), Some(2)).unwrap();
    assert_eq!(best, ranked[..2]);

    let sigmoid = ScoreOptions::new().activation(ScoreActivation::Sigmoid);
    for (found, logit) in model.rerank_pairs_with(&pairs, &sigmoid).unwrap().iter().zip(&scores) {
        assert!((found - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-6);
    }
    // What fits is one part.
    let windows = ScoreOptions::new().window_overlap(4);
    assert_eq!(model.rerank_pairs_with(&pairs, &windows).unwrap(), scores);
}

#[test]
fn labels_are_chosen() {
    let model = reranker("rerank-bert-3");
    assert_eq!(model.num_labels(), 3);
    let pairs = TEXTS.map(|text| ("the river", text));
    let logits = model.logits(&pairs).unwrap();
    let mut shares = vec![0.0; TEXTS.len()];
    for label in 0..3 {
        let of_label: Vec<f32> = logits.iter().map(|logits| logits[label]).collect();
        let options = ScoreOptions::new().label(label);
        assert_eq!(model.rerank_with("the river", &TEXTS, &options).unwrap(), of_label);
        let softmax = options.activation(ScoreActivation::Softmax);
        let found = model.rerank_with("the river", &TEXTS, &softmax).unwrap();
        shares.iter_mut().zip(found).for_each(|(sum, share)| *sum += share);
    }
    assert!(shares.iter().all(|sum: &f32| (sum - 1.0).abs() < 1e-5), "{shares:?}");
    let options = ScoreOptions::new().label(3);
    let error = model.rerank_with::<&str>("the river", &[], &options).unwrap_err().to_string();
    assert!(error.contains("label 3: the model has 3 labels, counted from 0"), "{error}");
}

#[test]
fn the_wrong_type_says_which_is_right() {
    let offline = || LoadOptions::new().offline(true);
    let errors = [
        (TextEmbedding::load_with("bm25", offline()).unwrap_err(), "SparseTextEmbedding"),
        (TextEmbedding::load_with("colbertv2.0", offline()).unwrap_err(), "LateInteractionTextEmbedding"),
        (SparseTextEmbedding::load_with("bge-reranker-base", offline()).unwrap_err(), "TextCrossEncoder"),
        (
            LateInteractionTextEmbedding::load_with("all-MiniLM-L6-v2", offline()).unwrap_err(),
            "TextEmbedding",
        ),
        (TextCrossEncoder::load_with("Splade_PP_en_v1", offline()).unwrap_err(), "SparseTextEmbedding"),
    ];
    for (error, right) in errors {
        assert!(matches!(error, Error::WrongKind { .. }), "{error:?}");
        assert!(error.to_string().ends_with(&format!(": `{right}` loads it")), "{error}");
    }
    let unknown = [
        (SparseTextEmbedding::load("Qdrant/bm52").unwrap_err(), "Qdrant/bm25"),
        (LateInteractionTextEmbedding::load("colbert-ir/colbertv2.1").unwrap_err(), "colbert-ir/colbertv2.0"),
        (TextCrossEncoder::load("BAAI/bge-reranker-bass").unwrap_err(), "BAAI/bge-reranker-base"),
    ];
    for (error, nearest) in unknown {
        assert!(error.to_string().contains(&format!("did you mean `{nearest}`?")), "{error}");
    }
}

#[test]
fn folders_of_another_kind_are_refused() {
    let refused = |error: Error, expected: &str| assert!(error.to_string().contains(expected), "{error}");
    refused(TextCrossEncoder::from_folder(fixture("splade-bert")).unwrap_err(), "model.safetensors");
    refused(SparseTextEmbedding::from_folder(fixture("rerank-bert")).unwrap_err(), "model.safetensors");
    let onnx = |file: &str| LoadOptions::new().weights(fixture(file));
    let scores = onnx("colbert-v2/model.onnx");
    refused(TextCrossEncoder::from_folder_with(fixture("colbert-v2"), scores).unwrap_err(), "row of labels");
    let vectors = onnx("rerank-bert/onnx/model.onnx");
    let error = LateInteractionTextEmbedding::from_folder_with(fixture("rerank-bert"), vectors).unwrap_err();
    refused(error, "no output has a row for each token");
    refused(SparseTextEmbedding::from_folder("/gone").unwrap_err(), "no such model folder: /gone");
}

#[test]
fn every_type_lists_its_own_models() {
    let counts = [
        (Kind::Sparse, SparseTextEmbedding::supported_models()),
        (Kind::LateInteraction, LateInteractionTextEmbedding::supported_models()),
        (Kind::CrossEncoder, TextCrossEncoder::supported_models()),
    ];
    for (kind, models) in counts {
        assert!(models.len() > 4 && models.iter().all(|model| model.kind == kind), "{kind}");
    }
}

#[test]
fn a_registry_of_ones_own_may_have_bm25() {
    let row = r#"
        [[model]]
        id = "my/words"
        kind = "sparse"
        method = "bm25"
        licence = "MIT"
        size = 1
        description = "BM25 under another name."
        files = ["english.txt"]
        sources = [{ type = "hub", repo = "my/words" }]
    "#;
    let registry = Arc::new(Registry::parse(row, "mine.toml").unwrap());
    let options = LoadOptions::new().registry(registry).offline(true).threads(1);
    let model = SparseTextEmbedding::load_with("my/words", options).unwrap();
    assert_eq!(model.embed(&TEXTS).unwrap(), bm25().embed(&TEXTS).unwrap());
}
