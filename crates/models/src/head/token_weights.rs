//! A weight for each token that a text has: the sparse half of BGE-M3 (Chen et al., arXiv:2402.03216).
//!
//! A linear layer to one number, and nothing below zero. A token that comes again has its largest weight.

use std::collections::{BTreeMap, HashSet};

use candle_core::Tensor;
use candlewick_engine::{Batch, Weights};

use super::projection::ProjectionLayer;
use crate::checkpoint::{Checkpoint, engine_error};
use crate::folder::{Projection, need_layer_file, read_layer};
use crate::sparse::SparseEmbedding;
use crate::text_model::Head;
use crate::{Error, Result};

/// What a head of token weights is made of, before its weights are read.
#[derive(Debug)]
pub(crate) struct TokenWeightsConfig {
    /// `None` where a graph gives the weights.
    linear: Option<Projection>,
}

/// From hidden states to weights of tokens.
#[derive(Debug)]
pub(crate) struct TokenWeightsHead {
    linear: Option<ProjectionLayer>,
}

impl TokenWeightsConfig {
    /// What the folder's sparse_linear says, unless a graph gives the weights.
    ///
    /// # Errors
    ///
    /// When it is missing or broken, or takes something else than the encoder gives.
    pub(crate) fn new(checkpoint: &Checkpoint) -> Result<Self> {
        let backbone = &checkpoint.backbone;
        if backbone.embeddings().is_some() {
            return Ok(Self { linear: None });
        }
        super::check_has_tokens(checkpoint)?;
        if backbone.architecture().is_none() && backbone.hidden_size() == 1 {
            return Ok(Self { linear: None });
        }
        let path = need_layer_file(&checkpoint.folder, "sparse_linear")?;
        let linear = read_layer(&path, &checkpoint.name)?;
        let (expected, found) = ([1, backbone.hidden_size()], [linear.out_features, linear.in_features]);
        if expected != found {
            let problem = format!("has shape {found:?}, expected {expected:?}");
            return Err(Error::UnsupportedConfig { path, key: "weight".into(), problem });
        }
        Ok(Self { linear: Some(linear) })
    }
}

impl Head for TokenWeightsHead {
    type Output = SparseEmbedding;
    type Config = TokenWeightsConfig;

    fn load(config: &TokenWeightsConfig, checkpoint: &Checkpoint, _: Option<&Weights>) -> Result<Self> {
        let load = |linear| ProjectionLayer::load(linear, &checkpoint.device);
        let linear = config.linear.as_ref().map(load).transpose();
        Ok(Self { linear: linear.map_err(|source| engine_error(&checkpoint.name, source))? })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        batch: &Batch,
    ) -> candlewick_engine::Result<Vec<Option<SparseEmbedding>>> {
        self.forward_without(&HashSet::new(), hidden_states, batch)
    }
}

impl TokenWeightsHead {
    /// The tokens with weights above zero in ascending order, without those of some ids.
    pub(crate) fn forward_without(
        &self,
        skipped_ids: &HashSet<u32>,
        hidden_states: &Tensor,
        batch: &Batch,
    ) -> candlewick_engine::Result<Vec<Option<SparseEmbedding>>> {
        let weights = match &self.linear {
            Some(linear) => linear.forward(hidden_states)?,
            None => hidden_states.clone(),
        };
        let weights = weights.flatten_all()?.to_vec1::<f32>()?;
        let embedding = |rows: std::ops::Range<usize>| {
            let (ids, weights) = (&batch.token_ids()[rows.clone()], &weights[rows]);
            if weights.iter().any(|weight| !weight.is_finite()) {
                return None;
            }
            let mut largest: BTreeMap<u32, f32> = BTreeMap::new();
            for (id, weight) in ids.iter().zip(weights) {
                if *weight > 0.0 && !skipped_ids.contains(id) {
                    let known = largest.entry(*id).or_insert(*weight);
                    *known = known.max(*weight);
                }
            }
            Some(largest.into_iter().collect())
        };
        Ok(batch.sequences().map(embedding).collect())
    }
}
