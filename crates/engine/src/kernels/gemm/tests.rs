//! Every kernel that this CPU can run, against the reference in f64.

use proptest::prelude::*;

use super::*;
use crate::kernels::linear_reference;
use crate::kernels::math::tests::noise;

/// The numbers that a format makes of the rows of a weight (`of_weight`) or of inputs.
fn held(values: &[f32], in_features: usize, format: Format, of_weight: bool) -> Vec<f32> {
    let symmetric = |row: &[f32]| {
        let largest = row.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let scale = largest / 127.0;
        row.iter().map(|value| scale * (value / scale).round()).collect::<Vec<_>>()
    };
    let asymmetric = |row: &[f32]| {
        let low = row.iter().copied().fold(0.0, f32::min);
        let scale = (row.iter().copied().fold(0.0, f32::max) - low) / 255.0;
        row.iter().map(|value| scale * (value / scale).round()).collect::<Vec<_>>()
    };
    match (format, of_weight) {
        (Format::F32, _) | (Format::Bf16 | Format::F16, false) => values.to_vec(),
        (Format::Bf16, true) | (Format::Bf16Pairs, _) => {
            values.iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect()
        }
        (Format::F16, true) => values.iter().map(|value| half::f16::from_f32(*value).to_f32()).collect(),
        (Format::Int8 | Format::SignedInt8, true) => values.chunks(in_features).flat_map(symmetric).collect(),
        (Format::Int8 | Format::SignedInt8, false) => {
            values.chunks(in_features).flat_map(asymmetric).collect()
        }
    }
}

proptest! {
    #[test]
    fn kernels_agree_with_the_reference(
        rows in 0usize..20,
        in_features in 1usize..70,
        out_features in 1usize..150,
        seed in any::<u32>(),
    ) {
        let x = noise(rows * in_features, seed);
        let weight = noise(in_features * out_features, !seed);
        let bias = noise(out_features, seed.rotate_left(7));
        for kernel in Precision::ALL.into_iter().flat_map(kernels) {
            let packed = PackedWeight::with_kernel(kernel, &weight, bias.clone(), in_features).unwrap();
            let found = packed.multiply(&x, None);
            let x = held(&x, in_features, kernel.format, false);
            let reference = linear_reference(&x, &held(&weight, in_features, kernel.format, true), &bias);
            prop_assert_eq!(found.len(), reference.len());
            // Rounding of sums; of integers, also values between two steps that rounded to the other side.
            let integers = matches!(kernel.format, Format::Int8 | Format::SignedInt8);
            let tolerance = if integers { 0.02 } else { 2e-6 * (in_features as f64).sqrt() };
            for (found, expected) in found.iter().zip(&reference) {
                prop_assert!((f64::from(*found) - expected).abs() < tolerance, "{:?}: {} {}", packed, found, expected);
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_others(rows in 1usize..40, in_features in 1usize..40, seed in any::<u32>()) {
        let out_features = 70;
        let x = noise(rows * in_features, seed);
        let weight = noise(in_features * out_features, !seed);
        for kernel in Precision::ALL.into_iter().flat_map(kernels) {
            let packed = PackedWeight::with_kernel(kernel, &weight, noise(out_features, 3), in_features).unwrap();
            let together = packed.multiply(&x, Some(Activation::GeluErf));
            for (x, together) in x.chunks(in_features).zip(together.chunks(out_features)) {
                prop_assert_eq!(&packed.multiply(x, Some(Activation::GeluErf)), together, "{:?}", packed);
            }
        }
    }
}

#[test]
fn integers_are_exact_at_the_ends_of_their_range() {
    // The largest products of the largest sums: 255 * 127 * in_features, either sign.
    for in_features in [4, 1000, MAX_IN_FEATURES] {
        let x = vec![1.0; in_features];
        for weight in [0.5, -0.5] {
            let expected = f64::from(weight) * in_features as f64;
            for kernel in kernels(Precision::Int8) {
                let weight = vec![weight; in_features];
                let packed = PackedWeight::with_kernel(kernel, &weight, vec![0.0], in_features).unwrap();
                let found = f64::from(packed.multiply(&x, None)[0]);
                assert!((found / expected - 1.0).abs() < 1e-5, "{packed:?}: {found} {expected}");
            }
        }
    }
}

#[test]
fn integer_kernels_agree_to_the_bit() {
    let (x, weight) = (noise(13 * 77, 1), noise(77 * 130, 2));
    let outputs = kernels(Precision::Int8).map(|kernel| {
        PackedWeight::with_kernel(kernel, &weight, noise(130, 3), 77).unwrap().multiply(&x, None)
    });
    let outputs: Vec<Vec<f32>> = outputs.collect();
    assert!(outputs.len() >= 2 || cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64"))));
    assert!(outputs.iter().all(|output| *output == outputs[0]));
}

#[test]
fn nan_and_infinity_are_not_lost() {
    for poison in [f32::NAN, f32::INFINITY] {
        let mut x = noise(2 * 9, 1);
        x[13] = poison;
        for kernel in Precision::ALL.into_iter().flat_map(kernels) {
            let packed = PackedWeight::with_kernel(kernel, &noise(9 * 20, 2), vec![0.0; 20], 9).unwrap();
            let y = packed.multiply(&x, None);
            assert!(
                y[..20].iter().all(|y| y.is_finite()) && y[20..].iter().all(|y| !y.is_finite()),
                "{packed:?}"
            );
        }
    }
}

#[test]
fn what_f16_cannot_hold_is_refused() {
    let mut weight = noise(300, 1);
    weight[137] = 7e4;
    assert_eq!(PackedWeight::new(&weight, vec![0.0; 100], 3, Precision::F16).unwrap_err(), 137);
    PackedWeight::new(&weight, vec![0.0; 100], 3, Precision::Bf16).unwrap();
}

#[test]
fn zeros_stay_zeros() {
    for kernel in Precision::ALL.into_iter().flat_map(kernels) {
        let packed = PackedWeight::with_kernel(kernel, &[0.0; 12], vec![0.25; 4], 3).unwrap();
        assert_eq!(packed.multiply(&[0.0, 0.0, 0.0, 1.0, 2.0, 3.0], None), [0.25; 8], "{packed:?}");
    }
}
