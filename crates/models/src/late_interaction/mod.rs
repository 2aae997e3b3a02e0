//! Late interaction (Khattab and Zaharia, ColBERT, arXiv:2004.12832): a vector for each token of a text, compared by
//! [`max_sim`](crate::max_sim).
//!
//! Queries and documents are marked by a token behind the first. Short queries are filled up with mask tokens, whose
//! vectors stand for words that the query lacks; punctuation in documents may have no vectors.

mod layout;

use std::path::Path;

use candlewick_engine::ImportOptions;

use self::layout::{Layout, TokenLayout};
use crate::checkpoint::Checkpoint;
use crate::head::{MultiVectorConfig, MultiVectorHead};
use crate::multi_vector::MultiVectorEmbedding;
use crate::registry::{Kind, ModelSpec};
use crate::text::Encoding;
use crate::text_model::{TextModel, fetch};
use crate::{LoadOptions, Result, TextRole};

/// A loaded late interaction model.
#[derive(Debug)]
pub struct LateInteractionModel {
    model: TextModel<MultiVectorHead>,
    tokens: TokenLayout,
    dim: usize,
}

impl LateInteractionModel {
    /// Loads a model of the registry, fetching its files if need be.
    ///
    /// # Errors
    ///
    /// When the id is unknown, or of a model of another kind, or that cannot be loaded yet; when the files cannot be
    /// had, or they are not what the registry says.
    pub fn load(id: &str, options: LoadOptions) -> Result<Self> {
        let (folder, spec) = fetch(Kind::LateInteraction, id, &options)?;
        Self::open(&folder, Some(spec), options)
    }

    /// Loads a folder as ColBERT (artifact.metadata), PyLate (config_sentence_transformers.json) or FlagEmbedding
    /// (colbert_linear.pt) writes it, or with a graph that gives BGE-M3's embeddings. Of another folder, every token has its hidden state, without markers.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken, or asks for something that is not supported.
    pub fn from_folder(folder: &Path, options: LoadOptions) -> Result<Self> {
        Self::open(folder, None, options)
    }

    fn open(folder: &Path, spec: Option<ModelSpec>, options: LoadOptions) -> Result<Self> {
        let mut import = ImportOptions::default();
        let mut layout = Layout::read(folder, spec.as_ref())?;
        let wanted = layout.wanted_embeddings(spec.as_ref());
        import.partly_attended = layout.leaves_filling_unattended();
        let mut checkpoint = Checkpoint::open_with(folder, spec, options, import, wanted)?;
        if checkpoint.backbone.embeddings().is_some() {
            layout = Layout::BgeM3;
        }
        let max_length = checkpoint.max_length()?;
        // Queries and documents are cut to lengths of their own afterwards.
        let lengths = layout.lengths(checkpoint.options.max_length, max_length);
        let longest = lengths.query.max(lengths.document);
        checkpoint.options.max_length = (longest < usize::MAX).then_some(longest);
        let normalize = checkpoint.options.normalize;
        let normalize = normalize.or(checkpoint.spec.as_ref().and_then(|spec| spec.normalize));
        let normalize = normalize.unwrap_or(layout.normalizes());
        let (projections, linear_dim) = layout.projections(&checkpoint)?;
        let head = MultiVectorConfig::new(&checkpoint, projections, linear_dim, normalize)?
            .skipping_first(layout.skips_first());
        let dim = head.dim();
        let model = TextModel::open(checkpoint, head)?;
        let tokens = layout.tokens(&model.checkpoint, &model.tokenizer, lengths)?;
        Ok(Self { model, tokens, dim })
    }

    /// The registry's id, or the folder.
    pub fn name(&self) -> &str {
        self.model.name()
    }

    /// Length of each of a text's vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Tokens of a document that are read, special tokens and marker included.
    pub fn max_length(&self) -> usize {
        self.tokens.max_length(TextRole::Passage)
    }

    /// The vectors of each text, in input order. A text that is no query is a document.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized, the device fails, or a vector is not finite.
    pub fn embed<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        role: TextRole,
    ) -> Result<Vec<MultiVectorEmbedding>> {
        let skipped = self.tokens.skipped_ids(role);
        let bytes = |text: &S| text.as_ref().len();
        self.model.run_with(texts, role, bytes, self.encode(role), |head, states, batch| {
            head.forward_without(skipped, states, batch)
        })
    }

    /// Number of tokens of all `texts` together as the encoder gets them: after truncation, special tokens, marker and
    /// filling included. Needs no weights.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized.
    pub fn token_count<S: AsRef<str> + Sync>(&self, texts: &[S], role: TextRole) -> Result<usize> {
        self.model.pipeline().count_tokens(texts, |text| text.as_ref().len(), self.encode(role))
    }

    fn encode<S: AsRef<str>>(&self, role: TextRole) -> impl Fn(usize, &S) -> Result<Encoding> {
        move |index, text| self.tokens.encode(&self.model.tokenizer, index, text.as_ref(), role)
    }
}
