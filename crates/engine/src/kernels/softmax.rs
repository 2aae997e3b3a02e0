//! Softmax of rows, and its logarithm.

use super::math::exp;
use super::{share_rows, simd};

/// e^x of each element of a row over their sum, in place, for rows of `width`.
pub(crate) fn softmax(values: &mut [f32], width: usize) {
    share(values, width, softmax_rows);
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
    fn log_softmax_rows(values: &mut [f32], width: usize) = log_softmax_loop
}

#[inline(always)]
fn softmax_loop(values: &mut [f32], width: usize) {
    for row in values.chunks_exact_mut(width) {
        let largest = largest(row);
        row.iter_mut().for_each(|value| *value = exp(*value - largest));
        let scale = 1.0 / sum(row, |value| value);
        row.iter_mut().for_each(|value| *value *= scale);
    }
}

#[inline(always)]
fn log_softmax_loop(values: &mut [f32], width: usize) {
    for row in values.chunks_exact_mut(width) {
        let largest = largest(row);
        let log = sum(row, |value| exp(value - largest)).ln();
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

/// Sixteen running sums: a fixed order of additions that vectorises, the same for every instruction set.
#[inline(always)]
pub(super) fn sum(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<16>();
    let mut sums = [0.0f32; 16];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += term(*value);
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += term(*value);
    }
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0]
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
}
