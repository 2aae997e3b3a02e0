//! The embedded store finds what it must by either vector, fuses by ranks, and keeps its data.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::path::Path;

use candlewick::SparseEmbedding;
use candlewick_examples::corpus::Passage;
use candlewick_examples::fusion;
use candlewick_examples::store::{EmbeddedStore, Layout, Point, Query, Store};

/// A dense vector, and sparse indices with their values.
type Vectors = ([f32; 2], &'static [(u32, f32)]);

/// Of each point.
const POINTS: [Vectors; 4] = [
    ([1.0, 0.0], &[(7, 1.0)]),
    ([0.9, 0.4], &[(7, 1.0), (9, 1.0)]),
    ([0.0, 1.0], &[(7, 1.5)]),
    ([-1.0, 0.1], &[]),
];

fn sparse(entries: &[(u32, f32)]) -> SparseEmbedding {
    entries.iter().copied().collect()
}

fn filled(folder: &Path, idf: bool) -> EmbeddedStore {
    let store = EmbeddedStore::create(folder, Layout { dim: 2, idf }).unwrap();
    let point = |(id, (dense, entries)): (u64, &Vectors)| {
        let passage = Passage { source: format!("file {id}"), text: format!("text {id}") };
        Point { id, dense: dense.to_vec(), sparse: sparse(entries), passage }
    };
    store.upsert((0..).zip(&POINTS).map(point).collect()).unwrap();
    store.finish().unwrap();
    store
}

fn found(store: &EmbeddedStore, query: Query) -> Vec<String> {
    store.search(query, 3).unwrap().into_iter().map(|hit| hit.passage.text).collect()
}

#[test]
fn each_vector_ranks_alone_and_both_are_fused_by_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(&folder.path().join("new/store"), false);
    assert_eq!(store.count().unwrap(), 4);
    let dense = || Some(vec![1.0, 0.0]);
    let words = || Some(sparse(&[(7, 1.0), (9, 1.0)]));
    assert_eq!(found(&store, Query { dense: dense(), sparse: None }), ["text 0", "text 1", "text 2"]);
    // What shares no word is not found at all.
    assert_eq!(found(&store, Query { dense: None, sparse: words() }), ["text 1", "text 2", "text 0"]);
    assert!(found(&store, Query { dense: None, sparse: None }).is_empty());

    let hits = store.search(Query { dense: dense(), sparse: words() }, 4).unwrap();
    let expected = fusion::rrf(&[vec![0, 1, 2, 3], vec![1, 2, 0]]);
    assert_eq!(hits.len(), expected.len());
    for (hit, (index, score)) in hits.iter().zip(&expected) {
        assert_eq!(hit.passage.text, format!("text {index}"));
        assert!((hit.score - score).abs() < 1e-6, "{} {score}", hit.score);
    }
}

#[test]
fn rare_words_count_more_where_the_store_knows_how_rare_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let words = || Some(sparse(&[(7, 1.0), (9, 0.4)]));
    let plain = filled(&folder.path().join("plain"), false);
    assert_eq!(found(&plain, Query { dense: None, sparse: words() })[0], "text 2");
    let idf = filled(&folder.path().join("idf"), true);
    assert_eq!(found(&idf, Query { dense: None, sparse: words() })[0], "text 1");
}

#[test]
fn a_collection_outlives_its_store_and_is_replaced_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    drop(filled(&path, true));
    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(store.count().unwrap(), 4);
    let query = Query { dense: Some(vec![0.0, 1.0]), sparse: None };
    assert_eq!(store.search(query, 1).unwrap()[0].passage.source, "file 2");
    drop(store);
    let store = EmbeddedStore::create(&path, Layout { dim: 3, idf: false }).unwrap();
    assert_eq!(store.count().unwrap(), 0);
}

#[test]
fn what_is_no_collection_is_neither_opened_nor_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let error = EmbeddedStore::open(&folder.path().join("nothing")).unwrap_err().to_string();
    assert!(error.contains("nothing") && error.contains("index something first"), "{error}");
    std::fs::write(folder.path().join("thesis.txt"), "the only copy").unwrap();
    let error = EmbeddedStore::create(folder.path(), Layout { dim: 2, idf: false }).unwrap_err().to_string();
    assert!(error.contains("no collection"), "{error}");
    assert!(folder.path().join("thesis.txt").exists());
}
