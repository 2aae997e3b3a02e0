//! Softmax of rows, and its logarithm.

use super::layer_norm::sum_of;
use super::math::exp;
use super::{share_rows, simd};

/// e^x of each element of a row over their sum, in place, for rows of `width`.
pub(crate) fn softmax(values: &mut [f32], width: usize) {
    share(values, width, softmax_rows);
}

/// [`softmax`], but zeros of a row of negative infinities, whose elements are all masked.
pub(crate) fn softmax_or_zeros(values: &mut [f32], width: usize) {
    share(values, width, softmax_or_zeros_rows);
}

/// The logarithm of [`softmax`], in place.
pub(crate) fn log_softmax(values: &mut [f32], width: usize) {
    share(values, width, log_softmax_rows);
}

fn share(values: &mut [f32], width: usize, rows: fn(&mut [f32], usize)) {
    let Some(count) = values.len().checked_div(width) else { return };
    share_rows((values, width), (&mut [(); 0], 0), count, |_, values, _| rows(values, width));
}

simd! {
    fn softmax_rows(values: &mut [f32], width: usize) = softmax_loop
}

simd! {
    fn softmax_or_zeros_rows(values: &mut [f32], width: usize) = softmax_or_zeros_loop
}

simd! {
    fn log_softmax_rows(values: &mut [f32], width: usize) = log_softmax_loop
}

#[inline(always)]
fn softmax_loop(values: &mut [f32], width: usize) {
    for row in values.chunks_exact_mut(width) {
        softmax_row(row, largest(row));
    }
}

#[inline(always)]
fn softmax_or_zeros_loop(values: &mut [f32], width: usize) {
    for row in values.chunks_exact_mut(width) {
        let largest = largest(row);
        if largest == f32::NEG_INFINITY {
            // A row of NaN stays one.
            row.iter_mut().for_each(|value| *value = if value.is_nan() { *value } else { 0.0 });
        } else {
            softmax_row(row, largest);
        }
    }
}

#[inline(always)]
fn softmax_row(row: &mut [f32], largest: f32) {
    row.iter_mut().for_each(|value| *value = exp(*value - largest));
    let scale = 1.0 / sum_of(row, |value| value);
    row.iter_mut().for_each(|value| *value *= scale);
}

#[inline(always)]
fn log_softmax_loop(values: &mut [f32], width: usize) {
    for row in values.chunks_exact_mut(width) {
        let largest = largest(row);
        let log = sum_of(row, |value| exp(value - largest)).ln();
        row.iter_mut().for_each(|value| *value = *value - largest - log);
    }
}

/// The largest number of a row. NaN is passed over; it will be found again.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let (chunks, rest) = row.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, f32::max)
}

/// What [`softmax`] computes for one row, in f64.
#[cfg(test)]
fn softmax_reference(row: &[f32]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = row.iter().map(|value| (f64::from(*value) - f64::from(largest)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::super::math::tests::noise;
    use super::*;

    #[test]
    fn agrees_with_reference() {
        for width in [1, 5, 16, 100] {
            let mut values: Vec<f32> = noise(3 * width, 7).into_iter().map(|value| value * 30.0).collect();
            values[0] = f32::NEG_INFINITY;
            if width == 1 {
                values[0] = 1.0;
            }
            let expected: Vec<f64> = values.chunks(width).flat_map(softmax_reference).collect();
            let (mut found, mut logs) = (values.clone(), values.clone());
            softmax(&mut found, width);
            log_softmax(&mut logs, width);
            for ((found, log), expected) in found.into_iter().zip(logs).zip(expected) {
                assert!((f64::from(found) - expected).abs() < 1e-6);
                assert!(log == f32::NEG_INFINITY || (f64::from(log) - expected.ln()).abs() < 1e-4);
            }
            let mut same = values.clone();
            softmax_loop(&mut same, width);
            softmax(&mut values, width);
            assert_eq!(same, values);
        }
        let mut poisoned = [0.0, f32::NAN, 1.0];
        softmax(&mut poisoned, 3);
        assert!(poisoned.iter().all(|value| value.is_nan()));
    }

    #[test]
    fn a_masked_row_becomes_zeros() {
        for width in [1, 3, 16, 37] {
            let mut values: Vec<f32> = (0..width * 3).map(|i| (i * 7 % 23) as f32 * 11.0 - 90.0).collect();
            let mut expected = values.clone();
            softmax(&mut expected, width);
            expected[..width].fill(0.0);
            values[..width].fill(f32::NEG_INFINITY);
            softmax_or_zeros(&mut values, width);
            assert_eq!(values, expected);
        }
        softmax_or_zeros(&mut [], 0);
    }
}
