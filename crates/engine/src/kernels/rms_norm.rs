//! Root mean square normalisation (Zhang and Sennrich, arXiv:1910.07467).

use super::layer_norm::sum_of;
use super::{share_rows, simd};

/// Divides rows by the root of their mean square plus `eps` and multiplies them with `weight`, in place.
///
/// # Panics
///
/// When the rows are not whole.
pub(crate) fn rms_norm(values: &mut [f32], weight: &[f32], eps: f32) {
    let width = weight.len();
    let Some(rows) = values.len().checked_div(width) else { return };
    share_rows((values, width), (&mut [(); 0], 0), rows, |_, values, _| normalize_rows(values, weight, eps));
}

simd! {
    fn normalize_rows(values: &mut [f32], weight: &[f32], eps: f32) = rows_loop
}

#[inline(always)]
fn rows_loop(values: &mut [f32], weight: &[f32], eps: f32) {
    for row in values.chunks_exact_mut(weight.len()) {
        let scale = 1.0 / (sum_of(row, |value| value * value) / row.len() as f32 + eps).sqrt();
        for (value, weight) in row.iter_mut().zip(weight) {
            *value = *value * scale * weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::math::tests::noise;
    use super::*;

    #[test]
    fn agrees_with_reference() {
        for width in [1, 7, 16, 100] {
            let (x, weight) = (noise(3 * width, 1), noise(width, 2));
            let (mut found, mut same) = (x.clone(), x.clone());
            rms_norm(&mut found, &weight, 1e-5);
            rows_loop(&mut same, &weight, 1e-5);
            assert_eq!(found, same);
            for (x, found) in x.chunks(width).zip(found.chunks(width)) {
                let square = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / width as f64;
                for ((x, weight), found) in x.iter().zip(&weight).zip(found) {
                    let expected = f64::from(*x) / (square + 1e-5).sqrt() * f64::from(*weight);
                    assert!((f64::from(*found) - expected).abs() < 1e-5);
                }
            }
        }
    }
}
