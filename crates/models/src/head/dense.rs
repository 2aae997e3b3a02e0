//! One vector per text: pool, project, truncate, normalise.

use candle_core::{Device, Tensor};
use candlewick_engine::nn::{Linear, LinearConfig};
use candlewick_engine::{Batch, Pooling, Result, Weights, pooling};

use crate::folder::Projection;

/// Pooling, then projections, then the first `dim` components, then unit length.
#[derive(Debug)]
pub(crate) struct DenseHead {
    /// `None` where the encoder gives one row per text already.
    pub(crate) pooling: Option<Pooling>,
    pub(crate) projections: Vec<Linear>,
    pub(crate) dim: Option<usize>,
    pub(crate) normalize: bool,
}

impl DenseHead {
    /// Reads the weights of `Dense` modules.
    pub(crate) fn load_projections(projections: &[Projection], device: &Device) -> Result<Vec<Linear>> {
        projections
            .iter()
            .map(|projection| {
                let weights = Weights::open([&projection.weights])?;
                let Projection { in_features, out_features, bias, activation, .. } = *projection;
                let config = LinearConfig { in_features, out_features, bias, activation };
                let linear = Linear::load(&weights.root().pp("linear"), config, device)?;
                weights.root().finish(&[])?;
                Ok(linear)
            })
            .collect()
    }

    /// `[total_tokens, hidden_size]`, or `[batch_size, hidden_size]` if that is pooled, to one embedding per sequence; `None` where one is not finite.
    pub(crate) fn forward(&self, hidden_states: &Tensor, batch: &Batch) -> Result<Vec<Option<Vec<f32>>>> {
        let mut vectors = match self.pooling {
            Some(pooling) => pooling.forward(hidden_states, batch)?,
            None => hidden_states.clone(),
        };
        for projection in &self.projections {
            vectors = projection.forward(&vectors)?;
        }
        if let Some(dim) = self.dim {
            vectors = pooling::truncate_dimensions(&vectors, dim)?;
        }
        if self.normalize {
            vectors = pooling::normalize(&vectors)?;
        }
        let rows = vectors.to_vec2::<f32>()?;
        Ok(rows.into_iter().map(|row| row.iter().all(|value| value.is_finite()).then_some(row)).collect())
    }
}
