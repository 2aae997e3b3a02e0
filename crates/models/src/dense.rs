//! A model that turns a text into one vector.

use std::path::Path;

use candlewick_engine::{ImportOptions, TextEncoder};

use crate::checkpoint::{Checkpoint, engine_error};
use crate::head::{DenseConfig, DenseHead};
use crate::hybrid::{HybridOutputs, WantedEmbeddings};
use crate::registry::{Kind, ModelSpec};
use crate::text::{Encoding, pack};
use crate::text_model::{TextModel, fetch};
use crate::{LoadOptions, Result};

/// The vector of one text.
pub type Embedding = Vec<f32>;

/// What a text is to a search: decides which of the model's prompts is put before it, and what a graph is given that has
/// an input for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextRole {
    /// Neither; no prompt.
    Plain,
    /// What is searched for.
    Query,
    /// What is searched in.
    Passage,
}

/// A loaded model: text to vector.
#[derive(Debug)]
pub struct DenseModel {
    model: TextModel<DenseHead>,
    dim: usize,
}

impl DenseModel {
    /// Loads a model of the registry, fetching its files if need be.
    ///
    /// # Errors
    ///
    /// When the id is unknown, or of a model of another kind, or that cannot be loaded yet; when the files cannot be
    /// had, or they are not what the registry says.
    pub fn load(id: &str, options: LoadOptions) -> Result<Self> {
        let (folder, spec) = fetch(Kind::Dense, id, &options)?;
        Self::open(&folder, Some(spec), options)
    }

    /// Loads a folder: tokenizer.json, config.json, weights, and whatever sentence-transformers puts beside.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken, or asks for something that is not supported.
    pub fn from_folder(folder: &Path, options: LoadOptions) -> Result<Self> {
        Self::open(folder, None, options)
    }

    fn open(folder: &Path, spec: Option<ModelSpec>, options: LoadOptions) -> Result<Self> {
        let are_needed = spec.as_ref().is_some_and(|spec| spec.kind == Kind::Hybrid);
        let wanted = WantedEmbeddings { outputs: HybridOutputs::DENSE, are_needed };
        let import = ImportOptions::default();
        let checkpoint = Checkpoint::open_with(folder, spec, options, import, Some(wanted))?;
        let head = DenseConfig::new(&checkpoint)?;
        let dim = head.dim();
        Ok(Self { model: TextModel::open(checkpoint, head)?, dim })
    }

    /// The registry's id, or the folder.
    pub fn name(&self) -> &str {
        self.model.name()
    }

    /// Length of an embedding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Tokens of a text that are read, special tokens included.
    pub fn max_length(&self) -> usize {
        self.model.tokenizer.max_length()
    }

    /// One embedding per text, in input order.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized, the device fails, or an embedding is not finite.
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S], role: TextRole) -> Result<Vec<Embedding>> {
        self.model.run(texts, role)
    }

    /// One embedding per sequence of token ids, in input order: [`embed`](Self::embed) for callers that have
    /// their own tokenizer. The ids are taken as they are, special tokens included; type ids are zero.
    ///
    /// # Errors
    ///
    /// When the encoder refuses a sequence (an id beyond its vocabulary, more tokens than it has positions),
    /// the device fails, or an embedding is not finite.
    pub fn embed_tokens<S: AsRef<[u32]>>(&self, sequences: &[S]) -> Result<Vec<Embedding>> {
        let encoding =
            |ids: &S| Encoding { token_ids: ids.as_ref().to_vec(), type_ids: None, attended: None };
        self.model.run_sequences(&sequences.iter().map(encoding).collect::<Vec<_>>(), TextRole::Plain)
    }

    /// Number of tokens of all `texts` together, special tokens included, after truncation. Needs no weights.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized.
    pub fn token_count<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<usize> {
        self.model.count_tokens(texts)
    }

    /// The packed token ids of `texts` and where each text ends, as the encoder gets them.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized.
    pub fn tokenize<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<candlewick_engine::Batch> {
        let encodings = self.model.pipeline().encode(texts, 0, &self.model.encode(TextRole::Plain))?;
        pack(&encodings).map_err(|source| engine_error(self.model.name(), source))
    }

    /// The encoder of plain texts, for those who want hidden states. Reads the weights if they have not been yet.
    ///
    /// # Errors
    ///
    /// When the weights cannot be read.
    pub fn encoder(&self) -> Result<&dyn TextEncoder> {
        Ok(self.model.network()?.encoders.get(TextRole::Plain).as_ref())
    }
}
