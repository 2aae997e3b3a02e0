//! A hybrid model: one pass over a text gives a dense embedding, a sparse one and one vector for each token, as
//! BGE-M3 does (Chen et al., arXiv:2402.03216).
//!
//! Original: `FlagEmbedding/inference/embedder/encoder_only/m3.py`.

use std::collections::HashSet;
use std::path::Path;

use candlewick_engine::ImportOptions;
use serde::Serialize;

use crate::backbone::Backbone;
use crate::checkpoint::Checkpoint;
use crate::folder::special_token;
use crate::head::{HybridConfig, HybridHead};
use crate::multi_vector::{MultiVectorEmbedding, max_sim};
use crate::registry::{Kind, ModelSpec};
use crate::sparse::SparseEmbedding;
use crate::text_model::{TextModel, fetch};
use crate::{Embedding, Error, LoadOptions, Result, TextRole};

mod graph;

pub(crate) use graph::{WantedEmbeddings, embeddings};

/// A loaded hybrid model.
#[derive(Debug)]
pub struct HybridModel {
    model: TextModel<HybridHead>,
    /// Tokens that have no weights.
    skipped_ids: HashSet<u32>,
    dim: Option<usize>,
    multi_vector_dim: Option<usize>,
}

/// What one pass over a text gave; `None` is what was left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HybridEmbedding {
    /// The first token's state, at unit length.
    pub dense: Option<Embedding>,
    /// The weights of the text's tokens, above zero, by ascending id.
    pub sparse: Option<SparseEmbedding>,
    /// The vectors of all tokens but the first, at unit length.
    pub multi_vector: Option<MultiVectorEmbedding>,
}

/// What is to be computed besides hidden states, which are the most of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HybridOutputs {
    /// [`HybridEmbedding::dense`].
    pub dense: bool,
    /// [`HybridEmbedding::sparse`].
    pub sparse: bool,
    /// [`HybridEmbedding::multi_vector`].
    pub multi_vector: bool,
}

/// How much each output counts in [`HybridEmbedding::score`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HybridWeights {
    /// Of the dense embeddings' dot product.
    pub dense: f32,
    /// Of the sparse embeddings' dot product.
    pub sparse: f32,
    /// Of the mean, over the query's tokens, of the largest dot product with a token of the document.
    pub multi_vector: f32,
}

impl HybridOutputs {
    /// All three.
    pub const ALL: Self = Self { dense: true, sparse: true, multi_vector: true };

    pub(crate) const DENSE: Self = Self { dense: true, sparse: false, multi_vector: false };
    pub(crate) const SPARSE: Self = Self { dense: false, sparse: true, multi_vector: false };
    pub(crate) const MULTI_VECTOR: Self = Self { dense: false, sparse: false, multi_vector: true };
}

impl Default for HybridOutputs {
    fn default() -> Self {
        Self::ALL
    }
}

impl Default for HybridWeights {
    /// All alike, as FlagEmbedding's `compute_score`.
    fn default() -> Self {
        Self { dense: 1.0, sparse: 1.0, multi_vector: 1.0 }
    }
}

impl HybridModel {
    /// Loads a model of the registry, fetching its files if need be.
    ///
    /// # Errors
    ///
    /// When the id is unknown, or of a model of another kind, or that cannot be loaded yet; when the files cannot be
    /// had, or they are not what the registry says.
    pub fn load(id: &str, options: LoadOptions) -> Result<Self> {
        let (folder, spec) = fetch(Kind::Hybrid, id, &options)?;
        Self::open(&folder, Some(spec), options, HybridOutputs::ALL)
    }

    /// Loads a folder as FlagEmbedding writes it: an encoder, with sparse_linear.pt and colbert_linear.pt (or the same as
    /// `.safetensors`) beside it. The encoder may be an ONNX graph that gives hidden states; one that gives the three
    /// embeddings themselves needs no such files.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken, or asks for something that is not supported.
    pub fn from_folder(folder: &Path, options: LoadOptions) -> Result<Self> {
        Self::open(folder, None, options, HybridOutputs::ALL)
    }

    /// Loads a model with the heads of `outputs` only.
    pub(crate) fn open(
        folder: &Path,
        spec: Option<ModelSpec>,
        options: LoadOptions,
        outputs: HybridOutputs,
    ) -> Result<Self> {
        let wanted = Some(WantedEmbeddings { outputs, are_needed: true });
        let checkpoint = Checkpoint::open_with(folder, spec, options, ImportOptions::default(), wanted)?;
        let head = HybridConfig::new(&checkpoint, outputs)?;
        let (dim, multi_vector_dim) = (head.dim(), head.multi_vector_dim());
        let model = TextModel::open(checkpoint, head)?;
        let mut skipped_ids = HashSet::new();
        for (key, usual) in SKIPPED_TOKENS {
            let named = special_token(folder, key)?;
            skipped_ids.extend(model.tokenizer.token_id(named.as_deref().unwrap_or(usual)));
        }
        Ok(Self { model, skipped_ids, dim, multi_vector_dim })
    }

    /// Whether a folder's encoder is a graph that gives the three embeddings, and no output is named by the options.
    pub(crate) fn is_graph(folder: &Path, options: &LoadOptions) -> Result<bool> {
        let wanted = WantedEmbeddings { outputs: HybridOutputs::ALL, are_needed: false };
        Backbone::gives_embeddings(folder, options, wanted)
    }

    /// The registry's id, or the folder.
    pub fn name(&self) -> &str {
        self.model.name()
    }

    /// Length of a dense embedding.
    pub fn dim(&self) -> usize {
        self.dim.expect("what users load has all heads")
    }

    /// Length of each token's vector.
    pub fn multi_vector_dim(&self) -> usize {
        self.multi_vector_dim.expect("what users load has all heads")
    }

    /// Tokens of a text that are read, special tokens included.
    pub fn max_length(&self) -> usize {
        self.model.tokenizer.max_length()
    }

    /// One embedding per text, in input order, with all three outputs of one pass.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized, the device fails, or a number is not finite.
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S], role: TextRole) -> Result<Vec<HybridEmbedding>> {
        self.embed_some(texts, role, HybridOutputs::ALL)
    }

    /// [`embed`](Self::embed) without the outputs that `outputs` leaves out: they are not computed, unless a graph gives
    /// all.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed).
    pub fn embed_some<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        role: TextRole,
        outputs: HybridOutputs,
    ) -> Result<Vec<HybridEmbedding>> {
        let encode = self.model.encode(role);
        let bytes = |text: &S| text.as_ref().len();
        let mut embeddings = self.model.run_outputs(texts, role, bytes, encode, |head, found, batch| {
            head.forward_some(outputs, &self.skipped_ids, found, batch)
        })?;
        let options = &self.model.checkpoint.options;
        for sparse in embeddings.iter_mut().filter_map(|embedding| embedding.sparse.as_mut()) {
            *sparse = std::mem::take(sparse).limited(options.top_k, options.threshold);
        }
        Ok(embeddings)
    }

    /// Number of tokens of all `texts` together, special tokens included, after truncation. Needs no weights.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized.
    pub fn token_count<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<usize> {
        self.model.count_tokens(texts)
    }
}

impl HybridEmbedding {
    /// How well `document` answers this query: the mean of the scores of what both have, weighted.
    ///
    /// ```
    /// use candlewick_models::{HybridEmbedding, HybridWeights, SparseEmbedding};
    ///
    /// let sparse = |weight| Some(SparseEmbedding { indices: vec![7], values: vec![weight] });
    /// let query = HybridEmbedding { dense: Some(vec![1.0, 0.0]), sparse: sparse(0.5), multi_vector: None };
    /// let document = HybridEmbedding { dense: Some(vec![0.6, 0.8]), sparse: sparse(0.4), multi_vector: None };
    /// let weights = HybridWeights { dense: 3.0, ..HybridWeights::default() };
    /// let expected: f32 = (3.0 * 0.6 + 0.5 * 0.4) / 4.0;
    /// assert!((query.score(&document, weights)? - expected).abs() < 1e-6);
    /// # Ok::<(), candlewick_models::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::DimMismatch`] when vectors differ in length; [`Error::NothingToCompare`] when the weights of what both have
    /// do not sum up to something above zero.
    pub fn score(&self, document: &Self, weights: HybridWeights) -> Result<f32> {
        let (mut sum, mut weight) = (0.0, 0.0);
        let mut add = |score: f32, by: f32| {
            sum += f64::from(score) * f64::from(by);
            weight += f64::from(by);
        };
        if let (Some(query), Some(document)) = (&self.dense, &document.dense) {
            add(dot(query, document)?, weights.dense);
        }
        if let (Some(query), Some(document)) = (&self.sparse, &document.sparse) {
            add(query.dot(document), weights.sparse);
        }
        if let (Some(query), Some(document)) = (&self.multi_vector, &document.multi_vector) {
            add(max_sim(query, document)? / query.len().max(1) as f32, weights.multi_vector);
        }
        match weight > 0.0 {
            true => Ok((sum / weight) as f32),
            false => Err(Error::NothingToCompare),
        }
    }
}

/// The tokens that FlagEmbedding gives no weight, as tokenizer_config.json calls them, and what XLM-RoBERTa's are where
/// it names none.
const SKIPPED_TOKENS: [(&str, &str); 4] =
    [("cls_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>"), ("unk_token", "<unk>")];

/// Summed in f64.
fn dot(a: &[f32], b: &[f32]) -> Result<f32> {
    if a.len() != b.len() {
        let what = "the document's dense embedding".to_owned();
        return Err(Error::DimMismatch { what, expected: a.len(), found: b.len() });
    }
    Ok(a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32)
}

#[cfg(test)]
mod tests;
