//! Heads of all shapes and options, with every kind of register, against the reference in f64.

use candle_core::Device;
use proptest::prelude::*;

use super::super::factors::{Factors, InF32, ProductKernel};
use super::super::lanes::tests::with_all_lanes;
use super::super::math::tests::noise;
use super::super::scratch::Scratch;
use super::*;

/// Numbers from -2 to 2.
fn values(count: usize, seed: u32) -> Vec<f32> {
    noise(count, seed).into_iter().map(|value| 2.0 * value).collect()
}

fn run(qkv: &[f32], lengths: &[usize], shape: AttentionShape, options: &AttentionOptions) -> Vec<f32> {
    let ids: Vec<Vec<u32>> = lengths.iter().map(|length| vec![0; *length]).collect();
    let batch = Batch::from_sequences(ids.iter().map(Vec::as_slice)).unwrap();
    let width = 3 * shape.num_heads * shape.head_dim;
    let qkv = Tensor::from_slice(qkv, (batch.total_tokens(), width), &Device::Cpu).unwrap();
    attention_with(&qkv, &batch, shape, options).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Room for the tables of options.
#[derive(Default)]
struct Tables {
    slopes: Vec<f32>,
    relative: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Tables {
    fn new(num_heads: usize, max_distance: usize, rotary_dim: usize, positions: usize) -> Self {
        let angle = |i: usize| {
            let (position, column) = (i / (rotary_dim / 2), i % (rotary_dim / 2));
            position as f32 * 10f32.powf(-(column as f32))
        };
        let angles: Vec<f32> = (0..positions * rotary_dim / 2).map(angle).collect();
        Self {
            slopes: (0..num_heads).map(|head| 0.5f32.powi(head as i32 + 1)).collect(),
            relative: values(num_heads * (2 * max_distance - 1), 9),
            cos: angles.iter().map(|angle| angle.cos()).collect(),
            sin: angles.iter().map(|angle| angle.sin()).collect(),
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_reference_and_ignores_neighbours(
        lengths in prop::collection::vec(0usize..150, 0..4),
        num_heads in 1usize..4,
        head_dim in 1usize..70,
        seed in any::<u32>(),
        bias in 0..3,
        max_distance in 1usize..200,
        window in prop::option::of(0usize..100),
        rotary_dim in prop::option::of(0usize..70),
    ) {
        let shape = AttentionShape { num_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() };
        let rotary_dim = rotary_dim.map(|dim| dim.min(head_dim) / 2 * 2);
        let tables = Tables::new(num_heads, max_distance, rotary_dim.unwrap_or_default(), 150);
        let options = AttentionOptions {
            bias: match bias {
                0 => None,
                1 => Some(PositionBias::Alibi { slopes: &tables.slopes }),
                _ => Some(PositionBias::Relative { table: &tables.relative, max_distance }),
            },
            window,
            rotary: rotary_dim.map(|dim| Rotary { cos: &tables.cos, sin: &tables.sin, dim }),
            ..AttentionOptions::default()
        };
        let width = 3 * num_heads * head_dim;
        let qkv = values(lengths.iter().sum::<usize>() * width, seed);
        let packed = run(&qkv, &lengths, shape, &options);
        let mut first = 0;
        for length in lengths {
            let rows = first..first + length;
            let own = &qkv[rows.start * width..rows.end * width];
            let found = &packed[rows.start * width / 3..rows.end * width / 3];
            prop_assert_eq!(found, run(own, &[length], shape, &options), "bit-identical alone");
            for (found, expected) in found.iter().zip(attention_reference(own, shape, &options)) {
                prop_assert!((f64::from(*found) - expected).abs() < 1e-5, "{} {}", found, expected);
            }
            first += length;
        }
    }
}

#[derive(Clone, Copy)]
struct OneHead<'a> {
    qkv: &'a [f32],
    seq_len: usize,
    shape: AttentionShape,
    options: AttentionOptions<'a>,
}

impl ProductKernel for OneHead<'_> {
    #[inline(always)]
    fn run<F: Factors>(self, factors: F) {
        let Self { qkv, seq_len, shape, options } = self;
        let mut found = vec![f32::NAN; seq_len * shape.head_dim];
        Head { shape, options: &options, qkv, seq_len, head: 0, out: found.as_mut_ptr() }.run(factors);
        for (found, expected) in found.iter().zip(attention_reference(qkv, shape, &options)) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
}

#[test]
fn every_instruction_set_agrees_with_reference() {
    for head_dim in [5, 8, 24, 32, 40, 64] {
        for seq_len in [1, 2, 8, 9, 16, 17, 31, 33, 129, 300] {
            let shape = AttentionShape { num_heads: 1, head_dim, scale: 1.0 / (head_dim as f32).sqrt() };
            let (qkv, tables) = (values(seq_len * 3 * head_dim, 3), Tables::new(1, 20, 4, seq_len));
            let everything = AttentionOptions {
                bias: Some(PositionBias::Alibi { slopes: &tables.slopes }),
                window: Some(64),
                rotary: Some(Rotary { cos: &tables.cos, sin: &tables.sin, dim: 4 }),
                ..AttentionOptions::default()
            };
            for options in [AttentionOptions::default(), everything] {
                with_all_lanes(InF32(OneHead { qkv: &qkv, seq_len, shape, options }));
            }
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let shape = AttentionShape { num_heads: 1, head_dim: 1, scale: 1.0 };
    // Scores of 1e8 and -1e8: the softmax is one-hot.
    let found = run(&[1e4, 1e4, 1.0, 1e4, -1e4, 2.0], &[2], shape, &AttentionOptions::default());
    assert_eq!(found, [1.0, 1.0]);
}

#[test]
fn nan_is_not_hidden() {
    let shape = AttentionShape { num_heads: 1, head_dim: 1, scale: 1.0 };
    // Token 1's key is not a number.
    let found = run(&[1.0, 1.0, 1.0, 1.0, f32::NAN, 1.0], &[2], shape, &AttentionOptions::default());
    assert!(found.iter().all(|value| value.is_nan()), "{found:?}");
}

#[test]
fn what_is_left_in_working_memory_does_not_matter() {
    let shape = AttentionShape { num_heads: 2, head_dim: 5, scale: 1.0 };
    let (qkv, tables) = (values(40 * 30, 7), Tables::new(2, 20, 4, 40));
    let options = AttentionOptions {
        bias: Some(PositionBias::Relative { table: &tables.relative, max_distance: 20 }),
        window: Some(7),
        rotary: Some(Rotary { cos: &tables.cos, sin: &tables.sin, dim: 4 }),
        ..AttentionOptions::default()
    };
    for options in [AttentionOptions::default(), options] {
        let expected = run(&qkv, &[3, 37], shape, &options);
        let mut scratch = Scratch::take();
        let [all] = scratch.slices([100_000]);
        all.fill(f32::NAN);
        drop(scratch);
        assert_eq!(run(&qkv, &[3, 37], shape, &options), expected);
    }
}

#[test]
fn a_window_hides_what_is_outside() {
    let shape = AttentionShape { num_heads: 1, head_dim: 1, scale: 1.0 };
    let mut qkv = values(3 * 200, 1);
    let options = AttentionOptions { window: Some(10), ..AttentionOptions::default() };
    let before = run(&qkv, &[200], shape, &options);
    // Key and value of token 100.
    qkv[301..303].fill(1.5);
    let after = run(&qkv, &[200], shape, &options);
    let differ: Vec<usize> = (0..200).filter(|token| before[*token] != after[*token]).collect();
    assert_eq!(differ, (90..=110).collect::<Vec<_>>());
}

#[test]
fn options_that_do_not_fit_are_errors() {
    let shape = AttentionShape { num_heads: 2, head_dim: 4, scale: 1.0 };
    let (two, three) = ([0.0; 2], [0.0; 3]);
    let bias = |bias| AttentionOptions { bias: Some(bias), ..AttentionOptions::default() };
    let rotary = |cos, sin, dim| AttentionOptions {
        rotary: Some(Rotary { cos, sin, dim }),
        ..AttentionOptions::default()
    };
    let wrong = [
        bias(PositionBias::Alibi { slopes: &three }),
        bias(PositionBias::Relative { table: &three, max_distance: 1 }),
        bias(PositionBias::Relative { table: &two, max_distance: 0 }),
        bias(PositionBias::Relative { table: &two, max_distance: usize::MAX }),
        rotary(&two, &three, 2),
        rotary(&two, &two, 2),
        rotary(&two, &two, 1),
        rotary(&two, &two, 6),
    ];
    let batch = Batch::from_sequences([[0; 3].as_slice()]).unwrap();
    let qkv = Tensor::zeros((3, 24), candle_core::DType::F32, &Device::Cpu).unwrap();
    for options in &wrong {
        assert!(attention_with(&qkv, &batch, shape, options).is_err(), "{options:?}");
    }
    let no_heads = AttentionShape { num_heads: 0, ..shape };
    let no_columns = Tensor::zeros((3, 0), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(attention(&no_columns, &batch, no_heads).is_err());
    let right = rotary(&three, &three, 2);
    assert!(attention_with(&qkv, &batch, shape, &right).is_ok());
}
