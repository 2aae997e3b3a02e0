//! The three heads of BGE-M3 over the same hidden states, or what a graph makes of these itself.

use std::collections::HashSet;

use candle_core::Tensor;
use candlewick_engine::{Batch, OutputRows, Weights};

use super::{
    DenseConfig, DenseHead, MultiVectorConfig, MultiVectorHead, TokenWeightsConfig, TokenWeightsHead,
};
use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::folder::{need_layer_file, read_layer};
use crate::hybrid::{HybridEmbedding, HybridOutputs};
use crate::text_model::Head;

/// The heads that a model has, before their weights are read.
#[derive(Debug)]
pub(crate) struct HybridConfig {
    dense: Option<DenseConfig>,
    sparse: Option<TokenWeightsConfig>,
    multi_vector: Option<MultiVectorConfig>,
}

/// The heads that a model has.
#[derive(Debug)]
pub(crate) struct HybridHead {
    dense: Option<Part<DenseHead>>,
    sparse: Option<Part<TokenWeightsHead>>,
    multi_vector: Option<Part<MultiVectorHead>>,
}

/// A head, and which of the encoder's outputs it reads.
#[derive(Debug)]
struct Part<H> {
    head: H,
    output: usize,
}

impl HybridConfig {
    /// The heads of `outputs`.
    ///
    /// # Errors
    ///
    /// When the file of one is missing or broken, or does not fit the encoder.
    pub(crate) fn new(checkpoint: &Checkpoint, outputs: HybridOutputs) -> Result<Self> {
        let of_row = checkpoint.spec.as_ref().and_then(|spec| spec.normalize);
        let normalize = checkpoint.options.normalize.or(of_row).unwrap_or(true);
        let of_graph = checkpoint.backbone.embeddings();
        if of_graph.is_none() {
            super::check_has_tokens(checkpoint)?;
        }
        let multi_vector = || {
            let config = match of_graph.and_then(<[OutputRows]>::last) {
                Some(rows) => MultiVectorConfig::of_graph(checkpoint, rows.size, normalize)?,
                None => {
                    let path = need_layer_file(&checkpoint.folder, "colbert_linear")?;
                    let projections = vec![read_layer(&path, &checkpoint.name)?];
                    MultiVectorConfig::new(checkpoint, projections, None, normalize)?
                }
            };
            Ok(config.skipping_first(true))
        };
        Ok(Self {
            dense: outputs.dense.then(|| DenseConfig::new(checkpoint)).transpose()?,
            sparse: outputs.sparse.then(|| TokenWeightsConfig::new(checkpoint)).transpose()?,
            multi_vector: outputs.multi_vector.then(multi_vector).transpose()?,
        })
    }

    /// Length of a dense embedding.
    pub(crate) fn dim(&self) -> Option<usize> {
        self.dense.as_ref().map(DenseConfig::dim)
    }

    /// Length of each token's vector.
    pub(crate) fn multi_vector_dim(&self) -> Option<usize> {
        self.multi_vector.as_ref().map(MultiVectorConfig::dim)
    }
}

impl Head for HybridHead {
    type Output = HybridEmbedding;
    type Config = HybridConfig;

    fn load(config: &HybridConfig, checkpoint: &Checkpoint, weights: Option<&Weights>) -> Result<Self> {
        let HybridConfig { dense, sparse, multi_vector } = config;
        let dense = dense.as_ref().map(|config| DenseHead::load(config, checkpoint, weights));
        let sparse = sparse.as_ref().map(|config| TokenWeightsHead::load(config, checkpoint, weights));
        let multi_vector = multi_vector.as_ref();
        let multi_vector = multi_vector.map(|config| MultiVectorHead::load(config, checkpoint, weights));
        // A graph gives an output for each head, in this order; all heads read the same hidden states otherwise.
        let is_graph = checkpoint.backbone.embeddings().is_some();
        let of_sparse = usize::from(is_graph && dense.is_some());
        let of_multi_vector = of_sparse + usize::from(is_graph && sparse.is_some());
        Ok(Self {
            dense: Part::new(dense, 0)?,
            sparse: Part::new(sparse, of_sparse)?,
            multi_vector: Part::new(multi_vector, of_multi_vector)?,
        })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        batch: &Batch,
    ) -> candlewick_engine::Result<Vec<Option<HybridEmbedding>>> {
        self.forward_some(HybridOutputs::ALL, &HashSet::new(), std::slice::from_ref(hidden_states), batch)
    }
}

impl HybridHead {
    /// [`forward`](Head::forward) of some heads, from all that the encoder gives; tokens of `skipped_ids` have no weights.
    pub(crate) fn forward_some(
        &self,
        outputs: HybridOutputs,
        skipped_ids: &HashSet<u32>,
        found: &[Tensor],
        batch: &Batch,
    ) -> candlewick_engine::Result<Vec<Option<HybridEmbedding>>> {
        let dense = self.dense.as_ref().filter(|_| outputs.dense);
        let dense = dense.map(|part| part.head.forward(part.rows(found), batch)).transpose()?;
        let sparse = self.sparse.as_ref().filter(|_| outputs.sparse);
        let sparse = sparse.map(|part| part.head.forward_without(skipped_ids, part.rows(found), batch));
        let sparse = sparse.transpose()?;
        let multi_vector = self.multi_vector.as_ref().filter(|_| outputs.multi_vector);
        let multi_vector = multi_vector.map(|part| part.head.forward(part.rows(found), batch)).transpose()?;
        let (mut dense, mut sparse, mut multi_vector) = (parts(dense), parts(sparse), parts(multi_vector));
        let embedding = |_| {
            // All are taken before any is looked at, or they would be of different texts from then on.
            let (dense, sparse, multi_vector) = (dense(), sparse(), multi_vector());
            Some(HybridEmbedding { dense: dense?, sparse: sparse?, multi_vector: multi_vector? })
        };
        Ok((0..batch.batch_size()).map(embedding).collect())
    }
}

impl<H> Part<H> {
    fn new(head: Option<Result<H>>, output: usize) -> Result<Option<Self>> {
        head.map(|head| Ok(Self { head: head?, output })).transpose()
    }

    fn rows<'a>(&self, found: &'a [Tensor]) -> &'a Tensor {
        found.get(self.output).expect("the graph was loaded with an output for each head")
    }
}

/// One head's result for one text after the other: `None` where it is not finite, `Some(None)` where there is no head.
fn parts<T>(results: Option<Vec<Option<T>>>) -> impl FnMut() -> Option<Option<T>> {
    let mut results = results.map(Vec::into_iter);
    move || match &mut results {
        Some(results) => results.next().flatten().map(Some),
        None => Some(None),
    }
}
