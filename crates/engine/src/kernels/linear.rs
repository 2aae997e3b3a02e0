//! A linear layer: `y = x W^T + b`, with the activation that follows it.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, bail};

use super::gemm::{MAX_IN_FEATURES, PackedWeight};
use super::{Activation, contiguous_f32};
use crate::Precision;

/// The parameters of a linear layer, laid out for this CPU.
#[derive(Debug)]
pub struct PackedLinear {
    weight: PackedWeight,
    activation: Option<Activation>,
}

/// Why a layer cannot be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackError {
    /// The weight at this index of `[out_features, in_features]` is beyond the precision's range.
    OutOfRange(usize),
    /// Integer sums over this many inputs could overflow.
    TooWide,
}

impl PackedLinear {
    /// Takes a weight `[out_features, in_features]` in row-major order and a bias `[out_features]`.
    ///
    /// # Errors
    ///
    /// When the precision cannot hold the weight.
    ///
    /// # Panics
    ///
    /// When `in_features` is 0 or the sizes disagree.
    pub fn new(
        weight: &[f32],
        bias: Vec<f32>,
        in_features: usize,
        activation: Option<Activation>,
        precision: Precision,
    ) -> std::result::Result<Self, PackError> {
        if precision == Precision::Int8 && in_features > MAX_IN_FEATURES {
            return Err(PackError::TooWide);
        }
        let weight =
            PackedWeight::new(weight, bias, in_features, precision).map_err(PackError::OutOfRange)?;
        Ok(Self { weight, activation })
    }

    /// [`new`](Self::new) of a weight `[in_features, out_features]`, in f32.
    ///
    /// # Panics
    ///
    /// As there.
    pub(crate) fn from_columns(
        weight: &[f32],
        bias: Vec<f32>,
        in_features: usize,
        activation: Option<Activation>,
    ) -> Self {
        Self { weight: PackedWeight::from_columns(weight, bias, in_features), activation }
    }

    /// Rows of `in_features` to rows of `out_features`.
    ///
    /// # Errors
    ///
    /// When `x` is not whole rows.
    pub fn forward_rows(&self, x: &[f32]) -> Result<Vec<f32>> {
        if !x.len().is_multiple_of(self.weight.in_features()) {
            bail!("linear: {} values are no rows of {}", x.len(), self.weight.in_features());
        }
        Ok(self.weight.multiply(x, self.activation))
    }

    /// The width of its rows.
    pub(crate) fn out_features(&self) -> usize {
        self.weight.out_features()
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
        if in_features != self.weight.in_features() {
            bail!("linear: expected rows of {}, got {in_features}", self.weight.in_features());
        }
        let y = self.weight.multiply(x, self.activation);
        Ok((CpuStorage::F32(y), Shape::from((rows, self.weight.out_features()))))
    }
}

/// Two linear layers, one after the other, without the rows between them ever being in memory all at once.
#[derive(Debug)]
pub struct MlpOp<'a> {
    /// The first.
    pub up: &'a PackedLinear,
    /// The second.
    pub down: &'a PackedLinear,
}

/// Rows whose intermediate results stay in a second-level cache, between a layer that widens them fourfold and one
/// that takes them back.
const MLP_ROWS: usize = 128;

impl CustomOp1 for MlpOp<'_> {
    fn name(&self) -> &'static str {
        "mlp"
    }

    /// `[rows, in_features]` of the first to `[rows, out_features]` of the second.
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous_f32(storage, layout, self.name())?;
        let (rows, in_features) = layout.shape().dims2()?;
        let y = self.forward_rows(x, in_features)?;
        Ok((CpuStorage::F32(y), Shape::from((rows, self.down.out_features()))))
    }
}

impl MlpOp<'_> {
    /// Rows of `in_features` to rows of the second layer's width.
    pub(crate) fn forward_rows(&self, x: &[f32], in_features: usize) -> Result<Vec<f32>> {
        let (up, down) = (&self.up.weight, &self.down.weight);
        if in_features != up.in_features() || up.out_features() != down.in_features() {
            let (first, second) = (up.in_features(), down.in_features());
            bail!("mlp: rows of {in_features} to layers of {first} and {second}");
        }
        let rows = x.len() / in_features;
        if x.len() != rows * in_features {
            bail!("mlp: {} values are no rows of {in_features}", x.len());
        }
        let size = rows * down.out_features();
        let mut y = Vec::with_capacity(size);
        let blocks = y.spare_capacity_mut()[..size].chunks_mut(MLP_ROWS * down.out_features());
        for (x, y) in x.chunks(MLP_ROWS * in_features).zip(blocks) {
            down.multiply_into(&up.multiply(x, self.up.activation), self.down.activation, y);
        }
        // SAFETY: there is a block of `x` for each of `y`, and each was written.
        unsafe { y.set_len(size) };
        Ok(y)
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn wrong_inputs_are_errors() {
        let packed = PackedLinear::new(&[1.0; 6], vec![0.0; 2], 3, None, Precision::F32).unwrap();
        let wrong_width = Tensor::zeros((1, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        let wrong_dtype = Tensor::zeros((1, 3), candle_core::DType::F64, &Device::Cpu).unwrap();
        for wrong in [wrong_width, wrong_dtype] {
            assert!(wrong.apply_op1_no_bwd(&packed).is_err());
        }
    }

    #[test]
    fn the_activation_follows() {
        let packed = PackedLinear::new(&[1.0, -1.0], vec![0.5; 2], 1, Some(Activation::Relu), Precision::F32);
        let x = Tensor::new(&[[2.0f32], [-3.0]], &Device::Cpu).unwrap();
        let y = x.apply_op1_no_bwd(&packed.unwrap()).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(y, [[2.5, 0.0], [0.0, 3.5]]);
    }

    #[test]
    fn integer_sums_must_not_overflow() {
        let wide = MAX_IN_FEATURES + 1;
        let packed = PackedLinear::new(&vec![1.0; wide], vec![0.0], wide, None, Precision::Int8);
        assert_eq!(packed.unwrap_err(), PackError::TooWide);
    }

    #[test]
    fn layers_in_one_go_give_the_bits_of_two() {
        let values = |count: usize| (0..count).map(|i| (i as f32 * 0.71).sin()).collect::<Vec<_>>();
        let layer = |inputs: usize, outputs: usize, activation| {
            PackedLinear::new(&values(inputs * outputs), values(outputs), inputs, activation, Precision::F32)
        };
        let up = layer(5, 20, Some(Activation::GeluErf)).unwrap();
        let down = layer(20, 7, None).unwrap();
        for rows in [0, 1, MLP_ROWS, 2 * MLP_ROWS + 3] {
            let x = Tensor::from_vec(values(rows * 5), (rows, 5), &Device::Cpu).unwrap();
            let at_once = x.apply_op1_no_bwd(&MlpOp { up: &up, down: &down }).unwrap();
            let separately = x.apply_op1_no_bwd(&up).unwrap().apply_op1_no_bwd(&down).unwrap();
            assert_eq!(at_once.to_vec2::<f32>().unwrap(), separately.to_vec2::<f32>().unwrap());
        }
        let x = Tensor::zeros((1, 5), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(x.apply_op1_no_bwd(&MlpOp { up: &up, down: &up }).is_err());
    }
}
