//! What `cargo xtask conformance` wrote down, without Python: the committed cases pass, and nothing else is claimed. So
//! do cases of operators for which ONNX has none or few, with outputs that ONNX Runtime computed.

use std::collections::BTreeMap;

use xtask::conformance::{
    Case, Expected, Outcome, committed, contrib, expected_path, failure, random, run_all,
};

#[test]
fn every_committed_case_passes() {
    every_case_passes(&committed().unwrap());
}

#[test]
fn every_case_of_onnx_runtime_passes() {
    every_case_passes(&contrib().unwrap());
}

fn every_case_passes(cases: &[Case]) {
    assert!(!cases.is_empty());
    let mut failed = run_all(cases).expect("cases can be laid out");
    failed.retain(|_, outcome| *outcome != Outcome::Passed);
    assert_eq!(failed, BTreeMap::new());
}

#[test]
fn no_committed_case_is_listed_as_failing() {
    let expected = Expected::read(&expected_path()).unwrap();
    for case in committed().unwrap() {
        assert!(!expected.refused.contains_key(&case.name), "{}", case.name);
        assert!(!expected.wrong.contains_key(&case.name), "{}", case.name);
        assert!(!expected.unsupported.values().any(|cases| cases.contains(&case.name)), "{}", case.name);
    }
}

/// Combinations of operators that no exporter has written, as they are and after each kind of passes.
#[test]
fn every_random_graph_is_as_onnx_runtime_computes_it() {
    let cases = random().unwrap();
    assert!(cases.len() >= 300, "{}", cases.len());
    for case in &cases {
        assert_eq!(failure(case).unwrap(), None, "{}", case.name);
    }
}
