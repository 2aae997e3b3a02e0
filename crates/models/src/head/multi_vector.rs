//! One vector for each token: project, normalise, leave out tokens that have none.

use std::collections::HashSet;

use candle_core::Tensor;
use candlewick_engine::nn::{Linear, LinearConfig};
use candlewick_engine::{Batch, Weights, pooling};

use super::projection::{ProjectionLayer, check_projections};
use crate::Result;
use crate::checkpoint::{Checkpoint, engine_error};
use crate::folder::Projection;
use crate::multi_vector::MultiVectorEmbedding;
use crate::text_model::Head;

/// What a head of token vectors is made of, before its weights are read.
#[derive(Debug)]
pub(crate) struct MultiVectorConfig {
    /// Length of a vector.
    dim: usize,
    normalize: bool,
    /// Modules in files of their own.
    projections: Vec<Projection>,
    /// Whether `linear.weight` beside the encoder's weights makes `dim` numbers of a hidden state, as in ColBERT.
    has_linear: bool,
    /// Whether the first token has no vector, as in BGE-M3.
    skips_first: bool,
}

/// From hidden states to token vectors.
#[derive(Debug)]
pub(crate) struct MultiVectorHead {
    dim: usize,
    normalize: bool,
    projections: Vec<ProjectionLayer>,
    skips_first: bool,
}

impl MultiVectorConfig {
    /// `linear_dim` is the width of ColBERT's own layer, where the checkpoint has it.
    ///
    /// # Errors
    ///
    /// When layers do not fit each other, or the row, or the graph pools.
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        projections: Vec<Projection>,
        linear_dim: Option<usize>,
        normalize: bool,
    ) -> Result<Self> {
        super::check_has_tokens(checkpoint)?;
        let width = check_projections(checkpoint, &projections)?;
        // A graph has the layer in it.
        let linear_dim = linear_dim.filter(|_| checkpoint.backbone.architecture().is_some());
        let dim = linear_dim.unwrap_or(width);
        checkpoint.check_fact("dim", checkpoint.spec.as_ref().and_then(|spec| spec.dim), dim)?;
        Ok(Self { dim, normalize, projections, has_linear: linear_dim.is_some(), skips_first: false })
    }

    /// Vectors of `dim` numbers that a graph gives.
    ///
    /// # Errors
    ///
    /// When the row says something else.
    pub(crate) fn of_graph(checkpoint: &Checkpoint, dim: usize, normalize: bool) -> Result<Self> {
        checkpoint.check_fact("dim", checkpoint.spec.as_ref().and_then(|spec| spec.dim), dim)?;
        Ok(Self { dim, normalize, projections: Vec::new(), has_linear: false, skips_first: false })
    }

    /// Gives the first token of a text no vector if `skips_first`.
    pub(crate) fn skipping_first(self, skips_first: bool) -> Self {
        Self { skips_first, ..self }
    }

    /// Length of a vector.
    pub(crate) fn dim(&self) -> usize {
        self.dim
    }
}

impl Head for MultiVectorHead {
    type Output = MultiVectorEmbedding;
    type Config = MultiVectorConfig;

    fn load(config: &MultiVectorConfig, checkpoint: &Checkpoint, weights: Option<&Weights>) -> Result<Self> {
        let engine_error = |source| engine_error(&checkpoint.name, source);
        let device = &checkpoint.device;
        let mut projections = ProjectionLayer::load_all(&config.projections, device).map_err(engine_error)?;
        if let Some(weights) = weights.filter(|_| config.has_linear) {
            let hidden_size = checkpoint.backbone.hidden_size();
            let linear = LinearConfig { bias: false, ..LinearConfig::new(hidden_size, config.dim) };
            let linear = Linear::load(&weights.root().pp("linear"), linear, device).map_err(engine_error)?;
            projections.push(ProjectionLayer::new(linear));
        }
        let MultiVectorConfig { dim, normalize, skips_first, .. } = *config;
        Ok(Self { dim, normalize, projections, skips_first })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        batch: &Batch,
    ) -> candlewick_engine::Result<Vec<Option<MultiVectorEmbedding>>> {
        self.forward_without(&HashSet::new(), hidden_states, batch)
    }
}

impl MultiVectorHead {
    /// [`forward`](Head::forward) for texts in which tokens of some ids have no vectors.
    pub(crate) fn forward_without(
        &self,
        skipped_ids: &HashSet<u32>,
        hidden_states: &Tensor,
        batch: &Batch,
    ) -> candlewick_engine::Result<Vec<Option<MultiVectorEmbedding>>> {
        let mut vectors = hidden_states.clone();
        for projection in &self.projections {
            vectors = projection.forward(&vectors)?;
        }
        if self.normalize {
            vectors = pooling::normalize(&vectors)?;
        }
        let values = vectors.flatten_all()?.to_vec1::<f32>()?;
        let embedding = |rows: std::ops::Range<usize>| {
            let mut kept = Vec::with_capacity(rows.len() * self.dim);
            let rows = rows.skip(usize::from(self.skips_first));
            for row in rows.filter(|row| !skipped_ids.contains(&batch.token_ids()[*row])) {
                kept.extend_from_slice(&values[row * self.dim..(row + 1) * self.dim]);
            }
            MultiVectorEmbedding::new(self.dim, kept).ok()
        };
        Ok(batch.sequences().map(embedding).collect())
    }
}
