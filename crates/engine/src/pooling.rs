//! From hidden states to one vector per sequence: pooling, truncation, normalisation.
//!
//! What happens to an empty sequence is defined too: its vector is zero, and stays zero when normalised.

use std::str::FromStr;

use candle_core::Tensor;

use crate::{Batch, Error, Result, kernels};

/// Which token states make a sequence's vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pooling {
    /// The first token's state.
    Cls,
    /// The mean of all tokens' states.
    Mean,
    /// The last token's state.
    LastToken,
}

impl Pooling {
    /// `[total_tokens, hidden_size]` to `[batch_size, hidden_size]`.
    ///
    /// # Errors
    ///
    /// When `hidden_states` does not have one row per token of `batch`, or the device fails.
    pub fn forward(self, hidden_states: &Tensor, batch: &Batch) -> Result<Tensor> {
        let (rows, hidden_size) = hidden_states.dims2()?;
        if rows != batch.total_tokens() {
            let problem = format!("{rows} hidden states for {} tokens", batch.total_tokens());
            return Err(Error::InvalidBatch { problem });
        }
        if self == Pooling::Mean && hidden_states.device().is_cpu() {
            return Ok(kernels::mean_pool(hidden_states, batch)?);
        }
        let mut pooled = Vec::with_capacity(batch.batch_size());
        for rows in batch.sequences() {
            pooled.push(match self {
                _ if rows.is_empty() => {
                    Tensor::zeros((1, hidden_size), hidden_states.dtype(), hidden_states.device())?
                }
                Pooling::Cls => hidden_states.narrow(0, rows.start, 1)?,
                Pooling::LastToken => hidden_states.narrow(0, rows.end - 1, 1)?,
                Pooling::Mean => hidden_states.narrow(0, rows.start, rows.len())?.mean_keepdim(0)?,
            });
        }
        if pooled.is_empty() {
            return Ok(Tensor::zeros((0, hidden_size), hidden_states.dtype(), hidden_states.device())?);
        }
        Ok(Tensor::cat(&pooled, 0)?)
    }
}

impl FromStr for Pooling {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cls" => Ok(Pooling::Cls),
            "mean" => Ok(Pooling::Mean),
            "last" => Ok(Pooling::LastToken),
            _ => {
                Err(Error::UnknownName { what: "pooling", name: name.into(), expected: "cls, mean or last" })
            }
        }
    }
}

impl std::fmt::Display for Pooling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Pooling::Cls => "cls",
            Pooling::Mean => "mean",
            Pooling::LastToken => "last",
        })
    }
}

/// Scales each row of `[batch_size, dim]` to unit length: `x / max(||x||, 1e-12)`, as torch's `normalize`.
///
/// # Errors
///
/// When the device fails.
pub fn normalize(vectors: &Tensor) -> Result<Tensor> {
    let norms = vectors.sqr()?.sum_keepdim(1)?.sqrt()?.clamp(1e-12, f32::MAX)?;
    Ok(vectors.broadcast_div(&norms)?)
}

/// Keeps the first `dim` components of each row (Kusupati et al., Matryoshka representation learning,
/// arXiv:2205.13147). Normalise afterwards, not before.
///
/// # Errors
///
/// When rows have fewer components than `dim`.
pub fn truncate_dimensions(vectors: &Tensor, dim: usize) -> Result<Tensor> {
    Ok(vectors.narrow(1, 0, dim)?.contiguous()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn each_pooling_takes_its_rows() {
        let states = Tensor::new(&[[1f32, 2.], [3., 6.], [5., 7.]], &Device::Cpu).unwrap();
        let batch = Batch::new(vec![0; 3], None, vec![0, 2, 2, 3]).unwrap();
        let pooled = |pooling: Pooling| pooling.forward(&states, &batch).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(pooled(Pooling::Cls), [[1., 2.], [0., 0.], [5., 7.]]);
        assert_eq!(pooled(Pooling::Mean), [[2., 4.], [0., 0.], [5., 7.]]);
        assert_eq!(pooled(Pooling::LastToken), [[3., 6.], [0., 0.], [5., 7.]]);
        assert!(Pooling::Cls.forward(&states, &Batch::from_sequences([]).unwrap()).is_err());
    }

    #[test]
    fn an_empty_batch_pools_to_nothing() {
        let states = Tensor::zeros((0, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        let batch = Batch::from_sequences([]).unwrap();
        for pooling in [Pooling::Cls, Pooling::Mean, Pooling::LastToken] {
            assert_eq!(pooling.forward(&states, &batch).unwrap().dims(), [0, 4]);
        }
    }

    #[test]
    fn truncate_then_normalize() {
        let vectors = Tensor::new(&[[3f32, 4., 100.], [0., 0., 0.]], &Device::Cpu).unwrap();
        let unit = normalize(&truncate_dimensions(&vectors, 2).unwrap()).unwrap();
        assert_eq!(unit.to_vec2::<f32>().unwrap(), [[0.6, 0.8], [0., 0.]]);
        assert!(truncate_dimensions(&vectors, 4).is_err());
    }
}
