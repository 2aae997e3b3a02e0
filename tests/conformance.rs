//! What `cargo xtask conformance` wrote down, without Python: the committed cases pass, and nothing else is claimed.

use std::collections::BTreeMap;

use xtask::conformance::{Expected, Outcome, committed, expected_path, run_all};

#[test]
fn every_committed_case_passes() {
    let cases = committed().unwrap();
    assert!(!cases.is_empty());
    let mut failed = run_all(&cases).unwrap();
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
