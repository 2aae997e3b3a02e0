//! One vector per text: pool, project, truncate, normalise.

use candle_core::Tensor;
use candlewick_engine::{Batch, Pooling, Weights, pooling};

use super::projection::{ProjectionLayer, check_projections};
use crate::Result;
use crate::checkpoint::{Checkpoint, engine_error};
use crate::folder::{DenseModules, Projection};
use crate::text_model::Head;

/// What a dense head does, before its weights are read.
#[derive(Debug)]
pub(crate) struct DenseConfig {
    /// `None` where the encoder gives one row per text already.
    pooling: Option<Pooling>,
    normalize: bool,
    projections: Vec<Projection>,
    /// How many components are kept, where the caller wants fewer.
    truncated: Option<usize>,
    full_dim: usize,
}

/// Pooling, then projections, then the first components, then unit length.
#[derive(Debug)]
pub(crate) struct DenseHead {
    pooling: Option<Pooling>,
    projections: Vec<ProjectionLayer>,
    dim: Option<usize>,
    normalize: bool,
}

impl DenseConfig {
    /// What the options, the row or the folder say.
    ///
    /// # Errors
    ///
    /// When they contradict each other or the encoder.
    pub(crate) fn new(checkpoint: &Checkpoint) -> Result<Self> {
        let Checkpoint { folder, backbone, folder_config, spec, options, .. } = checkpoint;
        let (spec, modules) = (spec.as_ref(), DenseModules::read(folder, folder_config)?);
        if let Some(pooling) = options.pooling.filter(|_| backbone.is_pooled()) {
            let problem = "the graph gives one vector for each text already";
            return Err(checkpoint.invalid_option("pooling", pooling, problem));
        }
        let pooling = options.pooling.or(spec.and_then(|spec| spec.pooling)).or(modules.pooling);
        let normalize = options.normalize.or(spec.and_then(|spec| spec.normalize)).or(modules.normalize);
        let full_dim = check_projections(checkpoint, &modules.projections)?;
        checkpoint.check_fact("dim", spec.and_then(|spec| spec.dim), full_dim)?;
        if let Some(dim) = options.dim.filter(|dim| *dim == 0 || *dim > full_dim) {
            let problem = format!("the model's embeddings have {full_dim} dimensions");
            return Err(checkpoint.invalid_option("dim", dim, problem));
        }
        Ok(Self {
            // sentence-transformers' own defaults for a folder that does not say.
            pooling: (!backbone.is_pooled()).then(|| pooling.unwrap_or(Pooling::Mean)),
            // A hybrid model's vectors are at unit length.
            normalize: normalize.unwrap_or(backbone.embeddings().is_some()),
            projections: modules.projections,
            truncated: options.dim,
            full_dim,
        })
    }

    /// Length of a vector.
    pub(crate) fn dim(&self) -> usize {
        self.truncated.unwrap_or(self.full_dim)
    }
}

impl Head for DenseHead {
    type Output = Vec<f32>;
    type Config = DenseConfig;

    fn load(config: &DenseConfig, checkpoint: &Checkpoint, _: Option<&Weights>) -> Result<Self> {
        let projections = ProjectionLayer::load_all(&config.projections, &checkpoint.device)
            .map_err(|source| engine_error(&checkpoint.name, source))?;
        let DenseConfig { pooling, normalize, truncated, .. } = *config;
        Ok(Self { pooling, projections, dim: truncated, normalize })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        batch: &Batch,
    ) -> candlewick_engine::Result<Vec<Option<Vec<f32>>>> {
        let mut vectors = super::pooled(self.pooling, hidden_states, batch)?;
        for projection in &self.projections {
            vectors = projection.forward(&vectors)?;
        }
        if let Some(dim) = self.dim {
            vectors = pooling::truncate_dimensions(&vectors, dim)?;
        }
        if self.normalize {
            vectors = pooling::normalize(&vectors)?;
        }
        super::finite_rows(&vectors)
    }
}
