//! Random text encoders: what runs packed in a batch of mixed lengths is what each text gives alone in the graph as it was
//! written. Packing may refuse what it likes, but what it claims must be true.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "random_encoders/encoder.rs"]
mod encoder;
#[path = "random_encoders/model.rs"]
mod model;

use candlewick_engine::graph::{Array, Session};
use candlewick_engine::{Batch, ImportOptions, ImportPlan, TextEncoder, onnx};
use encoder::{Encoder, MAX_LEN, VOCABULARY, encoder};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Relative to the largest element: summation in another order, no more.
const TOLERANCE: f32 = 1e-4;
/// Values between are about 1, and what cancels to less than this is mostly their rounding.
const SMALLEST_SCALE: f32 = 1e-2;

/// What became of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Packed,
    Unpacked,
    Refused,
}

fn texts() -> impl Strategy<Value = Vec<Vec<u32>>> {
    prop::collection::vec(prop::collection::vec(0..VOCABULARY as u32, 1..=MAX_LEN), 2..5)
}

/// The rows of each text alone, in the graph as it was written.
fn alone(session: &Session, inputs: &[&str], text: &[u32]) -> Vec<f32> {
    let shape = [1, text.len()];
    let arrays = inputs.iter().map(|name| {
        let ids = text.iter().map(|id| if *name == "input_ids" { i64::from(*id) } else { 1 }).collect();
        (*name, Array::new::<i64>(shape, ids).unwrap())
    });
    session.run(arrays).unwrap().swap_remove(0).into_floats().unwrap()
}

/// Runs one encoder both ways.
fn compare(encoder: &Encoder, texts: &[Vec<u32>]) -> Result<Outcome, TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, &encoder.file).unwrap();
    let session = Session::as_written(onnx::read(&path).unwrap().graph);
    let Ok(plan) = ImportPlan::read(&path, &ImportOptions::default()) else {
        return Ok(Outcome::Refused);
    };
    let is_packed = plan.unpacked_because().is_none();
    // Where a graph runs padded, texts of equal length share a batch, and an axis of texts mixes them as the file says.
    let batches: Vec<&[Vec<u32>]> = if is_packed { vec![texts] } else { texts.chunks(1).collect() };
    let loaded = plan.load(None).unwrap();
    for texts in batches {
        let batch = Batch::from_sequences(texts.iter().map(Vec::as_slice)).unwrap();
        let found: Vec<f32> = loaded.forward(&batch).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let expected: Vec<f32> =
            texts.iter().flat_map(|text| alone(&session, &encoder.inputs, text)).collect();
        prop_assert_eq!(found.len(), expected.len(), "{}", &encoder.text);
        let largest = expected.iter().fold(SMALLEST_SCALE, |largest, value| largest.max(value.abs()));
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let is_close =
                (found - expected).abs() <= TOLERANCE * largest || found.to_bits() == expected.to_bits();
            prop_assert!(
                is_close || (found.is_nan() && expected.is_nan()),
                "element {} is {}, expected {}; packed: {}\n{}",
                index,
                found,
                expected,
                is_packed,
                &encoder.text
            );
        }
    }
    Ok(if is_packed { Outcome::Packed } else { Outcome::Unpacked })
}

#[test]
fn what_runs_packed_is_what_each_text_gives_alone() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    // The same encoders in every run, unless somebody asks for more of them.
    let seed =
        std::env::var("RANDOM_ENCODERS_SEED").ok().and_then(|seed| seed.parse::<u8>().ok()).unwrap_or(7);
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]));
    let counts = std::cell::Cell::new([0; 3]);
    let choices = prop::collection::vec(any::<u8>(), 0..60);
    let result = runner.run(&(choices, texts()), |(choices, texts)| {
        let outcome = compare(&encoder(&choices), &texts)?;
        let mut all = counts.get();
        all[outcome as usize] += 1;
        counts.set(all);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    let [packed, unpacked, refused] = counts.get();
    // Or it says nothing.
    assert!(packed * 4 >= cases && unpacked > 0, "{packed} packed, {unpacked} not, {refused} refused");
}
