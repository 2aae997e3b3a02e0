//! A linear layer: `y = x W^T + b`, with the activation that follows it.
//!
//! The weight is transposed once at load. Checkpoints store `[out_features, in_features]`, whose columns a
//! product would have to gather on every call; that costs a factor of two on short inputs.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, bail};

use super::gemm::{Matrix, gemm};
use super::{Activation, contiguous_f32};

/// The parameters of a linear layer, laid out for the CPU.
#[derive(Debug)]
pub struct PackedLinear {
    /// `[in_features, out_features]`
    weight: Vec<f32>,
    /// `[out_features]`
    bias: Vec<f32>,
    in_features: usize,
    activation: Option<Activation>,
}

impl PackedLinear {
    /// Takes a weight `[out_features, in_features]` in row-major order and a bias `[out_features]`.
    pub fn new(weight: &[f32], bias: Vec<f32>, in_features: usize, activation: Option<Activation>) -> Self {
        let out_features = bias.len();
        assert_eq!(weight.len(), in_features * out_features, "a weight is [out_features, in_features]");
        Self { weight: transpose(weight, out_features, in_features), bias, in_features, activation }
    }
}

impl CustomOp1 for PackedLinear {
    fn name(&self) -> &'static str {
        "linear"
    }

    /// `[rows, in_features]` to `[rows, out_features]`.
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous_f32(storage, layout, self.name())?;
        let (rows, in_features) = layout.shape().dims2()?;
        if in_features != self.in_features {
            bail!("linear: expected rows of {}, got {in_features}", self.in_features);
        }
        let out_features = self.bias.len();
        let mut y = Vec::with_capacity(rows * out_features);
        for _ in 0..rows {
            y.extend_from_slice(&self.bias);
        }
        let x = Matrix::new(x, rows, in_features, in_features);
        let weight = Matrix::new(&self.weight, in_features, out_features, out_features);
        gemm(&mut y, out_features, x, weight, true);
        if let Some(activation) = self.activation {
            activation.apply(&mut y);
        }
        Ok((CpuStorage::F32(y), Shape::from((rows, out_features))))
    }
}

/// What a linear layer without activation computes, in f64: `x` is `[rows, in_features]`, `weight`
/// `[out_features, in_features]`.
pub fn linear_reference(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let in_features = weight.len() / bias.len();
    let mut y = Vec::new();
    for row in x.chunks(in_features) {
        for (weights, bias) in weight.chunks(in_features).zip(bias) {
            let products = row.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w));
            y.push(f64::from(*bias) + products.sum::<f64>());
        }
    }
    y
}

/// Tiles keep both sides of the copy in cache.
fn transpose(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let mut transposed = vec![0.0; values.len()];
    for first_row in (0..rows).step_by(TILE) {
        for first_col in (0..cols).step_by(TILE) {
            for row in first_row..rows.min(first_row + TILE) {
                for col in first_col..cols.min(first_col + TILE) {
                    transposed[col * rows + row] = values[row * cols + col];
                }
            }
        }
    }
    transposed
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_reference(rows in 0usize..70, in_features in 1usize..40, out_features in 1usize..70, seed in any::<u32>()) {
            let values = |count: usize, salt: u32| -> Vec<f32> {
                (0..count as u32).map(|i| ((i ^ seed ^ salt).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
            };
            let (x, weight, bias) = (values(rows * in_features, 1), values(in_features * out_features, 2), values(out_features, 3));
            let packed = PackedLinear::new(&weight, bias.clone(), in_features, None);
            let y = Tensor::from_slice(&x, (rows, in_features), &Device::Cpu).unwrap();
            let y = y.apply_op1_no_bwd(&packed).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (found, expected) in y.iter().zip(linear_reference(&x, &weight, &bias)) {
                prop_assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }

    #[test]
    fn wrong_inputs_are_errors() {
        let packed = PackedLinear::new(&[1.0; 6], vec![0.0; 2], 3, None);
        let wrong_width = Tensor::zeros((1, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        let wrong_dtype = Tensor::zeros((1, 3), candle_core::DType::F64, &Device::Cpu).unwrap();
        for wrong in [wrong_width, wrong_dtype] {
            assert!(wrong.apply_op1_no_bwd(&packed).is_err());
        }
    }
}
