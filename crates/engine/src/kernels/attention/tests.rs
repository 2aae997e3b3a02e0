//! Heads of all shapes and options, with every kind of register, against the reference in f64.

use candle_core::Device;
use half::bf16;
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

fn rounds(precision: Precision) -> bool {
    #[cfg(target_arch = "x86_64")]
    let has_pairs = super::super::factors::bf16_pairs::Bf16Pairs::detect().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    let has_pairs = false;
    has_pairs && matches!(precision, Precision::Bf16 | Precision::Int8)
}

/// `qkv` of one sequence with queries and keys rotated, and all rounded to bf16 as the kernel does.
fn rounded(qkv: &[f32], shape: AttentionShape, options: &AttentionOptions) -> Vec<f32> {
    let scale = shape.scale * std::f32::consts::LOG2_E;
    let mut rounded = qkv.to_vec();
    for (index, head) in rounded.chunks_exact_mut(shape.head_dim).enumerate() {
        let (token, part) = (index / (3 * shape.num_heads), index / shape.num_heads % 3);
        let scale = if part == 0 { scale } else { 1.0 };
        head.iter_mut().for_each(|value| *value *= scale);
        if let (0 | 1, Some(rotary)) = (part, &options.rotary) {
            let (cos, sin) = rotary.at(token);
            for i in 0..rotary.dim / 2 {
                let (low, high) = (head[i], head[i + rotary.dim / 2]);
                head[i] = low * cos[i] - high * sin[i];
                head[i + rotary.dim / 2] = high * cos[i] + low * sin[i];
            }
        }
        head.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32() / scale);
    }
    rounded
}

/// What one sequence gives, and how far from it results may be.
fn reference(qkv: &[f32], shape: AttentionShape, options: &AttentionOptions) -> (Vec<f64>, f64) {
    if !rounds(options.precision) {
        return (attention_reference(qkv, shape, options), 1e-5);
    }
    // Powers are rounded too: each has a relative error of at most 2^-9 and what `exp2` adds. Weights that
    // add up to one change the mean of values by at most as much times their mean distance to it, which is no
    // more than half their range.
    let half_range = 2.0;
    let bound = (0.5f64.powi(9) + 1e-4) * 1.01 * half_range + 1e-5;
    let rotated = AttentionOptions { rotary: None, ..*options };
    (attention_reference(&rounded(qkv, shape, options), shape, &rotated), bound)
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
        precision in prop::sample::select(&Precision::ALL),
        attended in prop::option::of(1usize..150),
    ) {
        // Not together with a window.
        let attended = attended.filter(|_| window.is_none());
        let keys = |length: &usize| attended.map_or(*length, |keys| keys.min(*length)) as u32;
        let keys: Vec<u32> = lengths.iter().map(keys).collect();
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
            precision,
            attended: attended.map(|_| keys.as_slice()),
        };
        let width = 3 * num_heads * head_dim;
        let qkv = values(lengths.iter().sum::<usize>() * width, seed);
        let packed = run(&qkv, &lengths, shape, &options);
        let mut first = 0;
        for (length, keys) in lengths.into_iter().zip(&keys) {
            let options = AttentionOptions { attended: options.attended.map(|_| std::slice::from_ref(keys)), ..options };
            let rows = first..first + length;
            let own = &qkv[rows.start * width..rows.end * width];
            let found = &packed[rows.start * width / 3..rows.end * width / 3];
            prop_assert_eq!(found, run(own, &[length], shape, &options), "bit-identical alone");
            let (expected, bound) = reference(own, shape, &options);
            for (found, expected) in found.iter().zip(expected) {
                prop_assert!((f64::from(*found) - expected).abs() < bound, "{} {}", found, expected);
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
        Head { shape, options: &options, qkv, seq_len, keys: seq_len, head: 0, out: found.as_mut_ptr() }
            .run(factors);
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
fn pairs_of_bf16_agree_with_reference_and_with_f32() {
    for head_dim in [5, 20, 32, 48, 64] {
        for seq_len in [1, 2, 3, 17, 127, 128, 129, 300] {
            let shape = AttentionShape { num_heads: 2, head_dim, scale: 1.0 / (head_dim as f32).sqrt() };
            let qkv = values(seq_len * 6 * head_dim, 11);
            let tables = Tables::new(2, 20, 4, seq_len);
            let windowed = |window, bias| AttentionOptions {
                attended: None,
                bias: Some(bias),
                window: Some(window),
                rotary: Some(Rotary { cos: &tables.cos, sin: &tables.sin, dim: 4 }),
                precision: Precision::F32,
            };
            // Of 7, the first key of a block is odd.
            let alibi = windowed(7, PositionBias::Alibi { slopes: &tables.slopes });
            let relative = windowed(64, PositionBias::Relative { table: &tables.relative, max_distance: 20 });
            for options in [AttentionOptions::default(), alibi, relative] {
                let of = |precision| run(&qkv, &[seq_len], shape, &AttentionOptions { precision, ..options });
                let (exact, found) = (of(Precision::F32), of(Precision::Bf16));
                assert_eq!(of(Precision::F16), exact);
                assert_eq!(of(Precision::Int8), found);
                let options = AttentionOptions { precision: Precision::Bf16, ..options };
                let (expected, bound) = reference(&qkv, shape, &options);
                for ((found, expected), exact) in found.iter().zip(expected).zip(exact) {
                    assert!((f64::from(*found) - expected).abs() < bound, "{found} {expected}");
                    assert!((found - exact).abs() < 0.04, "{found} {exact}");
                }
            }
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let shape = AttentionShape { num_heads: 1, head_dim: 1, scale: 1.0 };
    // Scores of 1e8 and -1e8: the softmax is one-hot.
    for precision in Precision::ALL {
        let options = AttentionOptions { precision, ..AttentionOptions::default() };
        assert_eq!(run(&[1e4, 1e4, 1.0, 1e4, -1e4, 2.0], &[2], shape, &options), [1.0, 1.0]);
    }
}

#[test]
fn nan_is_not_hidden() {
    let shape = AttentionShape { num_heads: 1, head_dim: 1, scale: 1.0 };
    // Token 1's key is not a number.
    for precision in Precision::ALL {
        let options = AttentionOptions { precision, ..AttentionOptions::default() };
        let found = run(&[1.0, 1.0, 1.0, 1.0, f32::NAN, 1.0], &[2], shape, &options);
        assert!(found.iter().all(|value| value.is_nan()), "{precision}: {found:?}");
    }
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
    let rounded = AttentionOptions { precision: Precision::Bf16, ..options };
    for options in [AttentionOptions::default(), options, rounded] {
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
    for precision in Precision::ALL {
        let mut qkv = values(3 * 200, 1);
        let options = AttentionOptions { window: Some(10), precision, ..AttentionOptions::default() };
        let before = run(&qkv, &[200], shape, &options);
        // Key and value of token 100.
        qkv[301..303].fill(1.5);
        let after = run(&qkv, &[200], shape, &options);
        let differ: Vec<usize> = (0..200).filter(|token| before[*token] != after[*token]).collect();
        assert_eq!(differ, (90..=110).collect::<Vec<_>>(), "{precision}");
    }
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
