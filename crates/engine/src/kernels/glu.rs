//! Gated linear units (Shazeer, arXiv:2002.05202): one half of each row, activated, times the other. GEGLU,
//! SwiGLU and ReGLU, by the activation.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, bail};

use super::{Activation, contiguous_f32};

/// `[rows, 2 * width]` to `[rows, width]`, as a custom operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GluOp {
    /// What one half goes through.
    pub activation: Activation,
    /// Which half that is.
    pub activated: GluHalf,
}

/// Half of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GluHalf {
    /// The first, as in ModernBERT.
    First,
    /// The second, as in GTE.
    Second,
}

impl CustomOp1 for GluOp {
    fn name(&self) -> &'static str {
        "glu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous_f32(storage, layout, self.name())?;
        let (rows, columns) = layout.shape().dims2()?;
        if columns % 2 != 0 {
            bail!("glu: rows of {columns} have no halves");
        }
        let width = columns / 2;
        let mut y = vec![0.0; rows * width];
        if width > 0 {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(columns)) {
                let (first, second) = x.split_at(width);
                match self.activated {
                    GluHalf::First => self.activation.gate(y, first, second),
                    GluHalf::Second => self.activation.gate(y, second, first),
                }
            }
        }
        Ok((CpuStorage::F32(y), Shape::from((rows, width))))
    }
}

/// What [`GluOp`] with SiLU on the first half (SwiGLU) computes for one row, in f64.
pub fn swiglu_reference(row: &[f32]) -> Vec<f64> {
    let (first, second) = row.split_at(row.len() / 2);
    first.iter().zip(second).map(|(gate, value)| super::silu_reference(*gate) * f64::from(*value)).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_reference(rows in 0usize..4, width in 0usize..70, step in 0.1f32..3.0) {
            let values: Vec<f32> = (0..rows * 2 * width).map(|i| (i as f32 * step).sin() * 9.0).collect();
            let x = Tensor::from_slice(&values, (rows, 2 * width), &Device::Cpu).unwrap();
            let run = |x: &Tensor, activated| {
                let op = GluOp { activation: Activation::Silu, activated };
                x.apply_op1_no_bwd(&op).unwrap().to_vec2::<f32>().unwrap()
            };
            let found = run(&x, GluHalf::First);
            prop_assert_eq!(found.len(), rows);
            for (found, row) in found.iter().zip(values.chunks_exact((2 * width).max(1))) {
                for (found, expected) in found.iter().zip(swiglu_reference(row)) {
                    prop_assert!((f64::from(*found) - expected).abs() < 3e-5, "{} {}", found, expected);
                }
            }
            let halves = x.chunk(2, 1).unwrap();
            if let [first, second] = halves.as_slice() {
                let exchanged = Tensor::cat(&[second, first], 1).unwrap();
                prop_assert_eq!(run(&exchanged, GluHalf::Second), found);
            }
        }
    }

    #[test]
    fn odd_rows_are_errors() {
        let op = GluOp { activation: Activation::Relu, activated: GluHalf::First };
        let odd = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(odd.apply_op1_no_bwd(&op).is_err());
    }
}
