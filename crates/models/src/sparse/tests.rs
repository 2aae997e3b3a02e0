//! What follows the encoders of BM42 and miniCOIL, against fastembed's own functions on made-up tokens
//! (tests/fixtures/lexical/word_pieces.json).

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;

use super::*;
use crate::lexical::{Language, SnowballStemmer, Word, join_word_pieces};

#[derive(Deserialize)]
struct Fixture {
    special: Vec<String>,
    stop_words: HashSet<String>,
    vocab: Vec<String>,
    stem_mapping: HashMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    tokens: Vec<String>,
    bm42: Bm42Case,
    minicoil: MiniCoilCase,
}

#[derive(Deserialize)]
struct Bm42Case {
    words: Vec<(String, Vec<usize>)>,
    attention: Vec<f32>,
    indices: Vec<u32>,
    values: Vec<f64>,
    query: Vec<u32>,
}

#[derive(Deserialize)]
struct MiniCoilCase {
    words: Vec<(String, Vec<usize>)>,
    word_ids: Vec<u32>,
    counts: Vec<(u32, u32)>,
    unknown: Vec<(String, u32)>,
    vectors: Vec<(u32, Vec<f32>)>,
    document: (Vec<u32>, Vec<f32>),
    query: (Vec<u32>, Vec<f32>),
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../../../../tests/fixtures/lexical/word_pieces.json")).unwrap()
}

fn words(case: &Case, special: &[String]) -> Vec<Word> {
    join_word_pieces(case.tokens.iter().map(String::as_str), |token| special.iter().any(|name| name == token))
}

fn as_pairs(words: &[Word]) -> Vec<(String, Vec<usize>)> {
    words.iter().map(|word| (word.text.clone(), word.positions.clone())).collect()
}

fn close(ours: &[f32], theirs: impl IntoIterator<Item = f64>) -> bool {
    let theirs: Vec<f64> = theirs.into_iter().collect();
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6)
}

#[test]
fn bm42_is_fastembeds() {
    let fixture = fixture();
    let stemmer = SnowballStemmer::new(Language::English);
    let model = Bm42Words { stop_words: fixture.stop_words, stemmer, alpha: 0.5 };
    assert!(fixture.cases.iter().any(|case| !case.bm42.indices.is_empty()));
    for case in &fixture.cases {
        let words = words(case, &fixture.special);
        let expected = &case.bm42;
        assert_eq!(as_pairs(&words), expected.words, "{:?}", case.tokens);
        let document = model.document(&words, &expected.attention);
        assert_eq!(document.indices, expected.indices, "{:?}", case.tokens);
        assert!(
            close(&document.values, expected.values.iter().copied()),
            "{document:?} {:?}",
            expected.values
        );
        let query = model.query(&words);
        assert_eq!(query.indices, expected.query);
        assert!(query.values.iter().all(|value| *value == 1.0));
    }
}

#[test]
fn minicoil_is_fastembeds() {
    let fixture = fixture();
    let model = MiniCoilWords {
        vocabulary: Vocabulary::new(fixture.vocab, &fixture.stem_mapping).unwrap(),
        stop_words: fixture.stop_words,
        stemmer: SnowballStemmer::new(Language::English),
        word_dim: 4,
        k: 1.2,
        b: 0.75,
        avg_len: 150.0,
    };
    let is_known = |case: &&Case| !case.minicoil.counts.is_empty();
    assert!(fixture.cases.iter().filter(is_known).count() > 2);
    for case in &fixture.cases {
        let words = words(case, &[]);
        let expected = &case.minicoil;
        assert_eq!(as_pairs(&words), expected.words, "{:?}", case.tokens);
        let resolved = model.resolve(&words, case.tokens.len());
        assert_eq!(resolved.counts, expected.counts.iter().copied().collect(), "{:?}", case.tokens);
        assert_eq!(resolved.unknown, expected.unknown, "{:?}", case.tokens);
        // Where no word takes a token, fastembed leaves the token's own id.
        let is_taken = |position: &usize| words.iter().any(|word| word.positions.contains(position));
        for position in (0..case.tokens.len()).filter(is_taken) {
            assert_eq!(resolved.token_word_ids[position], expected.word_ids[position], "{:?}", case.tokens);
        }
        let vectors: BTreeMap<u32, Vec<f32>> = expected.vectors.iter().cloned().collect();
        let document = model.document(&resolved, &vectors);
        assert_eq!(document.indices, expected.document.0, "{:?}", case.tokens);
        assert!(close(&document.values, expected.document.1.iter().copied().map(f64::from)), "{document:?}");
        let query = model.query(&resolved, &vectors);
        assert_eq!(query.indices, expected.query.0, "{:?}", case.tokens);
        assert!(close(&query.values, expected.query.1.iter().copied().map(f64::from)), "{query:?}");
    }
}

#[test]
fn positions_out_of_the_sequence_are_no_panic() {
    let fixture = fixture();
    let stray = [Word { text: "bat".into(), positions: vec![7, usize::MAX] }];
    let stemmer = || SnowballStemmer::new(Language::English);
    let bm42 = Bm42Words { stop_words: HashSet::new(), stemmer: stemmer(), alpha: 0.5 };
    assert_eq!(bm42.document(&stray, &[1.0]).values, [0.0]);
    let vocabulary = Vocabulary::new(fixture.vocab, &fixture.stem_mapping).unwrap();
    let stop_words = HashSet::new();
    let minicoil = MiniCoilWords {
        vocabulary,
        stop_words,
        stemmer: stemmer(),
        word_dim: 4,
        k: 1.2,
        b: 0.75,
        avg_len: 150.0,
    };
    assert_eq!(minicoil.resolve(&stray, 1).token_word_ids, [0]);
    let no_vectors = minicoil.document(&minicoil.resolve(&stray, 1), &BTreeMap::new());
    assert!(no_vectors.is_empty());
}
