//! Random bytes, and files that were valid before something happened to them.

use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::{files, on_small_stack, try_file};

/// Files to start from.
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let is_small = |path: &PathBuf| !path.ends_with("nested_200.onnx");
    let hostile = files().into_iter().filter(is_small).map(|path| std::fs::read(path).unwrap());
    let cases = xtask::conformance::committed().unwrap().into_iter().map(|case| case.model().to_vec());
    hostile.chain(cases).filter(|bytes| !bytes.is_empty()).collect()
});

/// Something that happens to a file.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Set(Index, u8),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    /// Part of the file once more, somewhere else.
    Repeat(Index, usize, Index),
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let part = |at: usize, len: usize| at..(at + len).min(bytes.len());
        match self {
            Self::Flip(at, bit) => *at.get_mut(bytes) ^= 1 << bit,
            Self::Set(at, byte) => *at.get_mut(bytes) = *byte,
            Self::Remove(at, len) => {
                let removed = part(at.index(bytes.len()), *len);
                bytes.drain(removed);
            }
            Self::Insert(at, new) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Repeat(from, len, to) => {
                let copy = bytes[part(from.index(bytes.len()), *len)].to_vec();
                let to = to.index(bytes.len());
                bytes.splice(to..to, copy);
            }
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), 0u8..8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        1 => (at(), 1usize..16).prop_map(|(at, len)| Mutation::Remove(at, len)),
        1 => (at(), vec(any::<u8>(), 1..16)).prop_map(|(at, new)| Mutation::Insert(at, new)),
        1 => (at(), 1usize..64, at()).prop_map(|(from, len, to)| Mutation::Repeat(from, len, to)),
    ]
}

/// Reads and prepares these bytes; whatever comes of it, it comes in time.
fn check(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, bytes).unwrap();
    on_small_stack("mutated", move || try_file(&path, false));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..256)) {
        check(&bytes);
    }

    #[test]
    fn mutated_files_never_panic(seed in any::<Index>(), mutations in vec(mutation(), 1..6)) {
        let mut bytes = seed.get(&SEEDS).clone();
        for mutation in &mutations {
            mutation.apply(&mut bytes);
        }
        check(&bytes);
    }
}
