//! Embeddings that are not one vector: sparse ones and late interaction's.

use candlewick::{
    Bm25Options, LateInteractionTextEmbedding, MultiVectorEmbedding, SparseEmbedding, SparseTextEmbedding,
    TokenPooling,
};
use serde_json::{Map, Value};

use crate::support::{candlewick, embed, fixture, jsonl, objects, run, run_with};

const TEXTS: [&str; 3] = ["the fox sleeps by the river.", "", "a quick brown dog!"];

fn input() -> String {
    TEXTS.join("\n") + "\n"
}

fn sparse(output: &[u8]) -> Vec<SparseEmbedding> {
    let embedding = |object: Map<String, Value>| {
        assert!(object.keys().eq(["indices", "values"]), "{object:?}");
        SparseEmbedding {
            indices: serde_json::from_value(object["indices"].clone()).unwrap(),
            values: serde_json::from_value(object["values"].clone()).unwrap(),
        }
    };
    objects(output).into_iter().map(embedding).collect()
}

fn multi_vector(output: &[u8]) -> Vec<MultiVectorEmbedding> {
    let embedding = |object: Map<String, Value>| {
        assert!(object.keys().eq(["embeddings"]), "{object:?}");
        let rows: Vec<Vec<f32>> = serde_json::from_value(object["embeddings"].clone()).unwrap();
        MultiVectorEmbedding::from_rows(&rows).unwrap()
    };
    objects(output).into_iter().map(embedding).collect()
}

#[test]
fn sparse_embeddings_are_the_librarys() {
    for name in ["heads/splade-bert", "heads/if-splade"] {
        let model = SparseTextEmbedding::from_folder(fixture(name)).unwrap();
        let output = |flags: &[&str]| {
            let flags = [&["--kind", "sparse"], flags].concat();
            sparse(&run_with(&mut embed(name, &flags), input()).ok())
        };
        assert_eq!(output(&[]), model.embed(&TEXTS).unwrap());
        assert_eq!(output(&["--passage"]), model.passage_embed(&TEXTS).unwrap());
        assert_eq!(output(&["--query"]), model.query_embed(&TEXTS).unwrap());
        let limited = model.embed(&TEXTS).unwrap().into_iter();
        let limited: Vec<_> = limited.map(|embedding| embedding.limited(Some(4), Some(0.05))).collect();
        assert_eq!(output(&["--top-k", "4", "--threshold", "0.05"]), limited);
    }
    // With a table for queries the folder says itself what it is; a masked language model may be anything.
    let told = run_with(&mut embed("heads/if-splade", &[]), input()).ok();
    assert_eq!(sparse(&told).len(), TEXTS.len());
    assert!(objects(&run(&mut embed("heads/splade-bert", &["wax"])).ok())[0].contains_key("embedding"));
}

#[test]
fn bm25_needs_no_files() {
    let output = |flags: &[&str]| {
        let args = [&["embed", "--model", "Qdrant/bm25", "--offline"], flags].concat();
        sparse(&run_with(&mut candlewick(args), input()).ok())
    };
    let model = SparseTextEmbedding::bm25(Bm25Options::new()).unwrap();
    assert_eq!(output(&[]), model.embed(&TEXTS).unwrap());
    assert_eq!(output(&["--query"]), model.query_embed(&TEXTS).unwrap());
    let options = Bm25Options::new().language("german".parse().unwrap()).k(1.5).b(0.5).avg_len(4.0);
    let model = SparseTextEmbedding::bm25(options).unwrap();
    let flags = ["--language", "German", "--k", "1.5", "--b", "0.5", "--avg-len", "4"];
    assert_eq!(output(&flags), model.embed(&TEXTS).unwrap());
    assert!(output(&["--top-k", "1"]).iter().all(|embedding| embedding.len() <= 1));
}

#[test]
fn late_interaction_embeddings_are_the_librarys() {
    for name in ["heads/colbert-v2", "heads/pylate"] {
        let model = LateInteractionTextEmbedding::from_folder(fixture(name)).unwrap();
        let output = |flags: &[&str]| multi_vector(&run_with(&mut embed(name, flags), input()).ok());
        let documents = model.embed(&TEXTS).unwrap();
        assert_eq!(output(&[]), documents);
        assert_eq!(output(&["--passage", "--kind", "late-interaction"]), documents);
        assert_eq!(output(&["--query"]), model.query_embed(&TEXTS).unwrap());
        let pooling = TokenPooling::new(3).unwrap();
        let pooled: Vec<_> = documents.iter().map(|document| pooling.pool(document)).collect();
        assert_ne!(pooled, documents);
        assert_eq!(output(&["--pool-factor", "3"]), pooled);
    }
}

#[test]
fn other_fields_pass_through() {
    let texts = TEXTS.map(str::to_owned);
    for name in ["heads/if-splade", "heads/colbert-v2"] {
        let mut command = embed(name, &["--input-format", "jsonl"]);
        let found = objects(&run_with(&mut command, jsonl(&texts)).ok());
        let plain = objects(&run_with(&mut embed(name, &[]), input()).ok());
        for (id, (mut found, plain)) in found.into_iter().zip(plain).enumerate() {
            assert_eq!(found.remove("id"), Some(id.into()));
            assert_eq!(found, plain);
        }
    }
    let mut command = embed("heads/if-splade", &["--input-format", "jsonl"]);
    let taken = run_with(&mut command, r#"{"text": "a", "values": 1}"#);
    taken.fails(1, &["line 1: a field `values` is there already"]);
    let mut command = embed("heads/colbert-v2", &["--input-format", "jsonl"]);
    assert_eq!(objects(&run_with(&mut command, r#"{"text": "a", "values": 1}"#).ok())[0]["values"], 1);
}

#[test]
fn threads_and_windows_change_nothing() {
    let lines: String = (0..5000).map(|number| format!("the {} fox\n", number % 11)).collect();
    for name in ["heads/if-splade", "heads/colbert-v2"] {
        let output = |flags: &[&str]| run_with(&mut embed(name, flags), &lines).ok();
        let usual = output(&[]);
        assert_eq!(objects(&usual).len(), 5000);
        assert_eq!(usual, output(&["--threads", "1", "--batch-tokens", "64"]));
    }
}
