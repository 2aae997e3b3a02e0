//! Linear layers that have files of their own.

use candle_core::{Device, Tensor};
use candlewick_engine::Weights;
use candlewick_engine::nn::{Linear, LinearConfig};

use crate::checkpoint::Checkpoint;
use crate::folder::Projection;
use crate::{Error, Result};

/// A linear layer, and its input added to its output if that was asked for.
#[derive(Debug)]
pub(crate) struct ProjectionLayer {
    linear: Linear,
    residual: Option<Residual>,
}

/// How an input is added to an output.
#[derive(Debug)]
enum Residual {
    AsItIs,
    /// Their widths differ.
    Through(Linear),
}

impl ProjectionLayer {
    /// A layer without a residual.
    pub(crate) fn new(linear: Linear) -> Self {
        Self { linear, residual: None }
    }

    /// Reads the weights of each layer.
    pub(crate) fn load_all(
        projections: &[Projection],
        device: &Device,
    ) -> candlewick_engine::Result<Vec<Self>> {
        projections.iter().map(|projection| Self::load(projection, device)).collect()
    }

    /// Reads the weights of a layer.
    pub(crate) fn load(projection: &Projection, device: &Device) -> candlewick_engine::Result<Self> {
        let weights = Weights::open([&projection.weights])?;
        let Projection { in_features, out_features, bias, activation, use_residual, .. } = *projection;
        let config = LinearConfig { in_features, out_features, bias, activation };
        let root = weights.root();
        let view = projection.prefix.map_or_else(|| root.clone(), |prefix| root.pp(prefix));
        let linear = Linear::load(&view, config, device)?;
        let residual = match use_residual {
            false => None,
            true if in_features == out_features => Some(Residual::AsItIs),
            true => {
                let config = LinearConfig { in_features, out_features, bias: false, activation: None };
                Some(Residual::Through(Linear::load(&root.pp("residual"), config, device)?))
            }
        };
        root.finish(&[])?;
        Ok(Self { linear, residual })
    }

    /// `[rows, in_features]` to `[rows, out_features]`.
    pub(crate) fn forward(&self, x: &Tensor) -> candlewick_engine::Result<Tensor> {
        let y = self.linear.forward(x)?;
        Ok(match &self.residual {
            None => y,
            Some(Residual::AsItIs) => (y + x)?,
            Some(Residual::Through(linear)) => (y + linear.forward(x)?)?,
        })
    }
}

/// Checks that each projection takes what the one before it gives; returns the last one's width.
pub(crate) fn check_projections(checkpoint: &Checkpoint, projections: &[Projection]) -> Result<usize> {
    let mut width = checkpoint.backbone.hidden_size();
    for projection in projections {
        if projection.in_features != width {
            return Err(Error::UnsupportedConfig {
                path: projection.weights.clone(),
                key: "in_features".into(),
                problem: format!("the layer takes {}, but gets {width}", projection.in_features),
            });
        }
        width = projection.out_features;
    }
    Ok(width)
}
