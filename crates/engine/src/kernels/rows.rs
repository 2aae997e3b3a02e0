//! Loops over the rows of a matrix, in place: normalisation and softmax.

use super::layer_norm::sum_of;
use super::math::exp;
use super::{share_rows, simd};

/// Normalises rows to mean 0 and variance 1, then scales and shifts them. Rows are as long as `weight` and `bias`.
pub(crate) fn normalize_rows(values: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    assert_eq!(weight.len(), bias.len(), "weight and bias are as long as a row");
    in_runs(values, weight.len(), |run| normalize(run, weight, bias, eps));
}

/// Divides rows by their root mean square, then scales them. Rows are as long as `weight`.
pub(crate) fn rms_normalize_rows(values: &mut [f32], weight: &[f32], eps: f32) {
    in_runs(values, weight.len(), |run| rms_normalize(run, weight, eps));
}

/// Softmax of each row of `width`; of a row of negative infinities, zeros.
pub(crate) fn softmax_rows(values: &mut [f32], width: usize) {
    in_runs(values, width, |run| softmax(run, width));
}

fn in_runs(values: &mut [f32], width: usize, work: impl Fn(&mut [f32]) + Sync) {
    if values.is_empty() {
        return;
    }
    let rows = values.len() / width;
    share_rows((values, width), (&mut [(); 0], 0), rows, |_, run, _| work(run));
}

simd! {
    fn normalize(values: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) = normalize_loop
}

#[inline(always)]
fn normalize_loop(values: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let width = weight.len();
    for row in values.chunks_exact_mut(width) {
        let mean = sum_of(row, |value| value) / width as f32;
        let variance = sum_of(row, |value| (value - mean) * (value - mean)) / width as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for ((value, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
            *value = (*value - mean) * scale * weight + bias;
        }
    }
}

simd! {
    fn rms_normalize(values: &mut [f32], weight: &[f32], eps: f32) = rms_normalize_loop
}

#[inline(always)]
fn rms_normalize_loop(values: &mut [f32], weight: &[f32], eps: f32) {
    let width = weight.len();
    for row in values.chunks_exact_mut(width) {
        let scale = 1.0 / (sum_of(row, |value| value * value) / width as f32 + eps).sqrt();
        for (value, weight) in row.iter_mut().zip(weight) {
            *value = *value * scale * weight;
        }
    }
}

simd! {
    fn softmax(values: &mut [f32], width: usize) = softmax_loop
}

#[inline(always)]
fn softmax_loop(values: &mut [f32], width: usize) {
    for row in values.chunks_exact_mut(width) {
        let mut largest = [f32::NEG_INFINITY; 16];
        let (chunks, rest) = row.as_chunks::<16>();
        for chunk in chunks {
            for (largest, &value) in largest.iter_mut().zip(chunk) {
                *largest = if value > *largest { value } else { *largest };
            }
        }
        let largest = largest.iter().chain(rest).fold(f32::NEG_INFINITY, |largest, &v| largest.max(v));
        if largest == f32::NEG_INFINITY {
            // A row of NaN stays one.
            row.iter_mut().for_each(|value| *value = if value.is_nan() { *value } else { 0.0 });
            continue;
        }
        row.iter_mut().for_each(|value| *value = exp(*value - largest));
        let inverse = 1.0 / sum_of(row, |value| value);
        row.iter_mut().for_each(|value| *value *= inverse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_sum_to_one_whatever_their_size() {
        for width in [1, 3, 16, 37] {
            let mut values: Vec<f32> = (0..width * 3).map(|i| (i * 7 % 23) as f32 * 11.0 - 90.0).collect();
            values[..width].fill(f32::NEG_INFINITY);
            softmax_rows(&mut values, width);
            assert!(values[..width].iter().all(|&value| value == 0.0));
            for row in values[width..].chunks(width) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            }
        }
        softmax_rows(&mut [], 0);
        normalize_rows(&mut [], &[], &[], 1e-5);
    }

    #[test]
    fn rows_are_normalized() {
        let mut values = [1.0, 3.0, 5.0, 5.0];
        normalize_rows(&mut values, &[1.0, 2.0], &[0.0, 10.0], 0.0);
        assert_eq!(values[..2], [-1.0, 12.0]);
        let mut values = [3.0, 4.0];
        rms_normalize_rows(&mut values, &[1.0, 1.0], 0.0);
        assert!((values[0] - 0.848_528_1).abs() < 1e-6 && (values[1] - 1.131_370_8).abs() < 1e-6);
    }
}
