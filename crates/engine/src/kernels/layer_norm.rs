//! Layer normalisation (Ba, Kiros and Hinton, arXiv:1607.06450), alone or of a layer's output plus its input.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, bail};

use super::{contiguous_f32, share_rows, simd};

/// Normalises rows to mean 0 and variance 1, then scales and shifts them. As a custom operation of one tensor
/// it normalises that; of two, their sum.
#[derive(Debug)]
pub struct LayerNormOp<'a> {
    /// `[hidden_size]`
    pub weight: &'a [f32],
    /// `[hidden_size]`
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

impl CustomOp1 for LayerNormOp<'_> {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    /// `[rows, hidden_size]` to the same.
    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, hidden_size) = layout.shape().dims2()?;
        let y = self.normalize(contiguous_f32(x, layout, "layer_norm")?, None, hidden_size)?;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}

impl CustomOp2 for LayerNormOp<'_> {
    fn name(&self) -> &'static str {
        "add_layer_norm"
    }

    /// `[rows, hidden_size]` twice to the same.
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if x_layout.shape() != residual_layout.shape() {
            bail!("add_layer_norm: {:?} + {:?}", x_layout.shape(), residual_layout.shape());
        }
        let residual = contiguous_f32(residual, residual_layout, "add_layer_norm")?;
        let (_, hidden_size) = x_layout.shape().dims2()?;
        let y =
            self.normalize(contiguous_f32(x, x_layout, "add_layer_norm")?, Some(residual), hidden_size)?;
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }
}

impl LayerNormOp<'_> {
    /// Rows of `hidden_size` of `x`, or of `x + residual`.
    pub(crate) fn normalize(
        &self,
        x: &[f32],
        residual: Option<&[f32]>,
        hidden_size: usize,
    ) -> Result<Vec<f32>> {
        if hidden_size != self.weight.len() || hidden_size != self.bias.len() || hidden_size == 0 {
            bail!("layer_norm: rows of {hidden_size} with a weight of {}", self.weight.len());
        }
        Ok(self.normalize_rows(x, residual))
    }

    /// Rows of as many elements as the weight has, at least one.
    ///
    /// # Panics
    ///
    /// When weight and bias are not of one size, or `x` and `residual`.
    pub(crate) fn normalize_rows(&self, x: &[f32], residual: Option<&[f32]>) -> Vec<f32> {
        let hidden_size = self.weight.len();
        assert!(self.bias.len() == hidden_size && residual.is_none_or(|residual| residual.len() == x.len()));
        let mut y = Vec::with_capacity(x.len());
        let to = &mut y.spare_capacity_mut()[..x.len()];
        share_rows((to, hidden_size), (&mut [(); 0], 0), x.len() / hidden_size, |row, to, _| {
            let part = row * hidden_size..row * hidden_size + to.len();
            add_normalize_rows(to, &x[part.clone()], residual.map(|residual| &residual[part]), self);
        });
        // SAFETY: all rows were written.
        unsafe { y.set_len(x.len()) };
        y
    }
}

simd! {
    /// Writes every element of `y`.
    fn add_normalize_rows(
        y: &mut [MaybeUninit<f32>], x: &[f32], residual: Option<&[f32]>, op: &LayerNormOp
    ) = rows_loop
}

#[inline(always)]
fn rows_loop(y: &mut [MaybeUninit<f32>], x: &[f32], residual: Option<&[f32]>, op: &LayerNormOp) {
    let hidden_size = op.weight.len();
    for (index, (y, x)) in y.chunks_exact_mut(hidden_size).zip(x.chunks_exact(hidden_size)).enumerate() {
        match residual {
            Some(residual) => {
                let residual = &residual[index * hidden_size..(index + 1) * hidden_size];
                for ((y, x), residual) in y.iter_mut().zip(x).zip(residual) {
                    y.write(x + residual);
                }
            }
            None => y.iter_mut().zip(x).for_each(|(y, x)| {
                y.write(*x);
            }),
        }
        // SAFETY: the whole row has just been written, since `x` and `residual` have rows as long as it.
        let y = unsafe { std::slice::from_raw_parts_mut(y.as_mut_ptr().cast::<f32>(), hidden_size) };
        normalize_row(y, op);
    }
}

#[inline(always)]
fn normalize_row(row: &mut [f32], op: &LayerNormOp) {
    let mean = sum_of(row, |value| value) / row.len() as f32;
    let variance = sum_of(row, |value| (value - mean) * (value - mean)) / row.len() as f32;
    let scale = 1.0 / (variance + op.eps).sqrt();
    for ((value, weight), bias) in row.iter_mut().zip(op.weight).zip(op.bias) {
        *value = (*value - mean) * scale * weight + bias;
    }
}

/// What [`LayerNormOp`] computes of one tensor, in place.
///
/// # Panics
///
/// When weight and bias are not of one size, or the rows not whole.
pub(crate) fn layer_norm(values: &mut [f32], op: &LayerNormOp) {
    let width = op.weight.len();
    assert_eq!(width, op.bias.len(), "weight and bias are as long as a row");
    let Some(rows) = values.len().checked_div(width) else { return };
    share_rows((values, width), (&mut [(); 0], 0), rows, |_, values, _| normalize_in_place(values, op));
}

simd! {
    fn normalize_in_place(values: &mut [f32], op: &LayerNormOp) = in_place_loop
}

#[inline(always)]
fn in_place_loop(values: &mut [f32], op: &LayerNormOp) {
    values.chunks_exact_mut(op.weight.len()).for_each(|row| normalize_row(row, op));
}

/// Sixteen running sums: a fixed order of additions that vectorises, the same for every instruction set.
#[inline(always)]
pub(super) fn sum_of(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<16>();
    let mut sums = [0.0f32; 16];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += f(*value);
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += f(*value);
    }
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0]
}

/// What [`LayerNormOp`] computes for one row of two tensors, in f64.
pub fn layer_norm_reference(x: &[f32], residual: &[f32], op: &LayerNormOp) -> Vec<f64> {
    let sum: Vec<f64> = x.iter().zip(residual).map(|(x, r)| f64::from(*x) + f64::from(*r)).collect();
    let mean = sum.iter().sum::<f64>() / sum.len() as f64;
    let variance = sum.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / sum.len() as f64;
    let normal = |value: &f64| (value - mean) / (variance + f64::from(op.eps)).sqrt();
    let scaled = sum.iter().map(normal).zip(op.weight.iter().zip(op.bias));
    scaled.map(|(value, (weight, bias))| value * f64::from(*weight) + f64::from(*bias)).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;

    use super::*;

    type Normalize = fn(&mut [MaybeUninit<f32>], &[f32], Option<&[f32]>, &LayerNormOp);

    proptest! {
        #[test]
        fn agrees_with_reference(
            values in prop::collection::vec((-9f32..9.0, -9f32..9.0, -2f32..2.0, -2f32..2.0), 2..70),
            rows in 0usize..4,
        ) {
            let column = |f: fn(&(f32, f32, f32, f32)) -> f32| values.iter().map(f).collect::<Vec<_>>();
            let (x, residual, weight, bias) = (column(|v| v.0), column(|v| v.1), column(|v| v.2), column(|v| v.3));
            let op = LayerNormOp { weight: &weight, bias: &bias, eps: 1e-5 };
            let tensor = |row: &[f32]| Tensor::from_vec(row.repeat(rows), (rows, row.len()), &Device::Cpu).unwrap();
            let y = tensor(&x).apply_op2_no_bwd(&tensor(&residual), &op).unwrap().to_vec2::<f32>().unwrap();
            prop_assert_eq!(y.len(), rows);
            let sum: Vec<f32> = x.iter().zip(&residual).map(|(x, residual)| x + residual).collect();
            let alone = tensor(&sum).apply_op1_no_bwd(&op).unwrap().to_vec2::<f32>().unwrap();
            prop_assert_eq!(&alone, &y, "adding first changes nothing");
            for row in y {
                for (found, expected) in row.into_iter().zip(layer_norm_reference(&x, &residual, &op)) {
                    prop_assert!((f64::from(found) - expected).abs() < 2e-4, "{} {}", found, expected);
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for hidden_size in [1, 15, 16, 17, 100] {
            let wave = |step: f32| (0..hidden_size).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>();
            let (weight, bias) = (wave(0.3), wave(0.7));
            let op = LayerNormOp { weight: &weight, bias: &bias, eps: 1e-5 };
            let (x, residual) = (wave(1.1).repeat(3), wave(2.3).repeat(3));
            let rows = |normalize: Normalize| {
                let mut y = vec![MaybeUninit::new(f32::NAN); x.len()];
                normalize(&mut y, &x, Some(&residual), &op);
                // SAFETY: they were initialised above, and then written.
                y.into_iter().map(|y| unsafe { y.assume_init() }).collect::<Vec<_>>()
            };
            let expected = rows(rows_loop);
            assert_eq!(rows(add_normalize_rows), expected);
            let mut sums: Vec<f32> = x.iter().zip(&residual).map(|(x, residual)| x + residual).collect();
            layer_norm(&mut sums, &op);
            assert_eq!(sums, expected);
        }
    }

    #[test]
    fn shapes_must_agree() {
        let op = LayerNormOp { weight: &[1.0; 3], bias: &[0.0; 3], eps: 1e-5 };
        let zeros = |rows: usize, cols: usize| {
            Tensor::zeros((rows, cols), candle_core::DType::F32, &Device::Cpu).unwrap()
        };
        assert!(zeros(2, 3).apply_op2_no_bwd(&zeros(1, 3), &op).is_err());
        assert!(zeros(2, 4).apply_op2_no_bwd(&zeros(2, 4), &op).is_err());
    }
}
