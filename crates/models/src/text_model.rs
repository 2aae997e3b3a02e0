//! What all models of texts are made of: tokenizer, encoder, and a head that makes the results.
//!
//! Loading resolves three voices, in this order: the caller's options, the registry's row, the folder's own
//! files. Everything but the weights is read and checked at once, so that `lazy_load` only delays the bytes,
//! not the errors that configuration can cause.

use std::path::PathBuf;
#[cfg(test)]
use std::sync::Arc;
use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::Tensor;
#[cfg(test)]
use candlewick_engine::TextEncoder;
use candlewick_engine::{Batch, ThreadPool, Weights};

use crate::backbone::{Backbone, Encoders};
use crate::checkpoint::{Checkpoint, engine_error};
use crate::registry::{Kind, ModelSpec, Registry, State};
use crate::text::{Encoding, Pipeline, TextTokenizer};
use crate::{Error, LoadOptions, Result, TextRole, source};

/// Makes results from hidden states.
pub(crate) trait Head: Sized + Send + Sync + std::fmt::Debug {
    /// What a sequence becomes.
    type Output: Send;

    /// What about a head is known and checked before weights are read.
    type Config: Send + Sync + std::fmt::Debug;

    /// Reads the head's weights: `weights` are those of the encoder, unless that is a graph.
    fn load(config: &Self::Config, checkpoint: &Checkpoint, weights: Option<&Weights>) -> Result<Self>;

    /// The encoder's rows, `[total_tokens, hidden_size]` (`[batch_size, hidden_size]` from a graph that pools), to
    /// one result per sequence; `None` where one is not finite.
    fn forward(
        &self,
        hidden_states: &Tensor,
        batch: &Batch,
    ) -> candlewick_engine::Result<Vec<Option<Self::Output>>>;
}

/// A model of texts with the head `H`.
#[derive(Debug)]
pub(crate) struct TextModel<H: Head> {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) pool: ThreadPool,
    head_config: H::Config,
    network: OnceLock<Network<H>>,
    loading: Mutex<()>,
}

/// The part of a model that holds weights.
pub(crate) struct Network<H> {
    pub(crate) encoders: Encoders,
    pub(crate) head: H,
}

/// The folder and the row of a registry model, whose files are fetched if need be.
///
/// # Errors
///
/// When the id is unknown, or of another kind, or of a model that cannot be loaded yet; when the files cannot be had.
pub(crate) fn fetch(kind: Kind, id: &str, options: &LoadOptions) -> Result<(PathBuf, ModelSpec)> {
    let registry = options.registry.as_deref().unwrap_or(Registry::built_in());
    let spec = registry.get_preferring(kind, id)?.clone();
    if let State::NotYet { missing } = spec.state() {
        return Err(Error::NotLoadable { model: spec.id, missing });
    }
    // A hybrid model has a head of each of these kinds.
    let is_of_hybrid = matches!(kind, Kind::Dense | Kind::Sparse | Kind::LateInteraction);
    if spec.kind != kind && !(spec.kind == Kind::Hybrid && is_of_hybrid) {
        return Err(Error::WrongKind { model: spec.id, found: spec.kind, expected: kind });
    }
    let folder = source::resolve(&spec, &options.source_options())?;
    Ok((folder, spec))
}

impl<H: Head> TextModel<H> {
    /// Reads the tokenizer and, unless they are to be read later, the weights.
    pub(crate) fn open(checkpoint: Checkpoint, head_config: H::Config) -> Result<Self> {
        candlewick_engine::runtime::keep_freed_memory();
        let max_length = checkpoint.max_length()?;
        let pool = checkpoint.options.pool().map_err(|source| engine_error(&checkpoint.name, source))?;
        let read_network = || {
            let files = checkpoint.weights_files()?;
            if checkpoint.options.lazy_load {
                return Ok(OnceLock::new());
            }
            read_network(&checkpoint, &files, &head_config, &pool).map(OnceLock::from)
        };
        let (read, tokenizer) = pool.join(read_network, || read_tokenizer(&checkpoint, max_length));
        // Small files' errors come first, whichever was found first.
        let (tokenizer, network) = (tokenizer?, read?);
        Ok(Self { checkpoint, tokenizer, pool, head_config, network, loading: Mutex::new(()) })
    }

    /// The registry's id, or the folder.
    pub(crate) fn name(&self) -> &str {
        &self.checkpoint.name
    }

    /// One result per text, in input order, each with the prompt of its role before it.
    pub(crate) fn run<S: AsRef<str> + Sync>(&self, texts: &[S], role: TextRole) -> Result<Vec<H::Output>> {
        self.run_encoded(texts, role, |text| text.as_ref().len(), self.encode(role))
    }

    /// Tokenizes a text, with the prompt of its role before it; the index is for errors.
    pub(crate) fn encode<S: AsRef<str>>(&self, role: TextRole) -> impl Fn(usize, &S) -> Result<Encoding> {
        let prompt = self.checkpoint.prompt(role);
        move |index, text| match prompt {
            "" => self.tokenizer.encode(index, text.as_ref()),
            prompt => self.tokenizer.encode(index, &format!("{prompt}{}", text.as_ref())),
        }
    }

    /// One result per item, in input order. `bytes` is about how long an item is, `encode` gets its index too.
    pub(crate) fn run_encoded<T: Sync>(
        &self,
        items: &[T],
        role: TextRole,
        bytes: impl Fn(&T) -> usize,
        encode: impl Fn(usize, &T) -> Result<Encoding> + Sync,
    ) -> Result<Vec<H::Output>> {
        self.run_with(items, role, bytes, encode, H::forward)
    }

    /// [`run_encoded`](Self::run_encoded) with another forward of the head.
    pub(crate) fn run_with<T: Sync, R: Send>(
        &self,
        items: &[T],
        role: TextRole,
        bytes: impl Fn(&T) -> usize,
        encode: impl Fn(usize, &T) -> Result<Encoding> + Sync,
        forward: impl Fn(&H, &Tensor, &Batch) -> candlewick_engine::Result<Vec<Option<R>>> + Sync,
    ) -> Result<Vec<R>> {
        self.run_outputs(items, role, bytes, encode, |head, outputs, batch| {
            forward(head, hidden_states(outputs), batch)
        })
    }

    /// [`run_with`](Self::run_with) where the head reads all outputs of the encoder.
    pub(crate) fn run_outputs<T: Sync, R: Send>(
        &self,
        items: &[T],
        role: TextRole,
        bytes: impl Fn(&T) -> usize,
        encode: impl Fn(usize, &T) -> Result<Encoding> + Sync,
        forward: impl Fn(&H, &[Tensor], &Batch) -> candlewick_engine::Result<Vec<Option<R>>> + Sync,
    ) -> Result<Vec<R>> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let network = self.network()?;
        let head = |outputs: &[Tensor], batch: &_| forward(&network.head, outputs, batch);
        self.pipeline().run(items, bytes, encode, network.encoders.get(role).as_ref(), head)
    }

    /// One result per sequence of tokens, in input order.
    pub(crate) fn run_sequences(&self, sequences: &[Encoding], role: TextRole) -> Result<Vec<H::Output>> {
        let network = self.network()?;
        let head = |outputs: &[Tensor], batch: &_| network.head.forward(hidden_states(outputs), batch);
        self.pipeline().run_sequences(sequences, 0, network.encoders.get(role).as_ref(), &head)
    }

    /// Puts something around the encoders, which are in memory.
    #[cfg(test)]
    pub(crate) fn wrap_encoders(&mut self, wrap: impl Fn(Arc<dyn TextEncoder>) -> Arc<dyn TextEncoder>) {
        let network = self.network.get_mut().expect("the weights were read");
        network.encoders = network.encoders.clone().map(wrap);
    }

    pub(crate) fn pipeline(&self) -> Pipeline<'_> {
        Pipeline {
            name: &self.checkpoint.name,
            pool: &self.pool,
            batch_tokens: self.checkpoint.options.batch_tokens.unwrap_or(LoadOptions::DEFAULT_BATCH_TOKENS),
        }
    }

    /// Number of tokens of all `texts` together, after truncation. Needs no weights.
    pub(crate) fn count_tokens<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<usize> {
        self.pipeline().count_tokens(texts, |text| text.as_ref().len(), self.encode(TextRole::Plain))
    }

    /// The weights in memory. Of several threads that need them first, one reads and the others wait; after a
    /// failure the next caller tries again.
    pub(crate) fn network(&self) -> Result<&Network<H>> {
        if let Some(network) = self.network.get() {
            return Ok(network);
        }
        // The mutex guards no data, so a panic while it was held has broken nothing.
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(network) = self.network.get() {
            return Ok(network);
        }
        let files = self.checkpoint.weights_files()?;
        let network = read_network(&self.checkpoint, &files, &self.head_config, &self.pool)?;
        Ok(self.network.get_or_init(|| network))
    }
}

impl<H: std::fmt::Debug> std::fmt::Debug for Network<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("head", &self.head).finish_non_exhaustive()
    }
}

/// The one output that most encoders have.
fn hidden_states(outputs: &[Tensor]) -> &Tensor {
    outputs.first().expect("an encoder has an output")
}

/// Reads `files`, those of the checkpoint, with the threads of `pool`.
fn read_network<H: Head>(
    checkpoint: &Checkpoint,
    files: &[PathBuf],
    head_config: &H::Config,
    pool: &ThreadPool,
) -> Result<Network<H>> {
    let engine_error = |source| engine_error(&checkpoint.name, source);
    let weights = match &checkpoint.backbone {
        Backbone::Native(_) => {
            let weights = Weights::open(files).map_err(engine_error)?;
            Some(weights.with_precision(checkpoint.options.precision).with_threads(pool))
        }
        Backbone::Imported { .. } => None,
    };
    let encoders =
        checkpoint.backbone.load(weights.as_ref(), pool, &checkpoint.device).map_err(engine_error)?;
    let head = H::load(head_config, checkpoint, weights.as_ref())?;
    Ok(Network { encoders, head })
}

fn read_tokenizer(checkpoint: &Checkpoint, max_length: usize) -> Result<TextTokenizer> {
    let Checkpoint { folder, backbone, folder_config, .. } = checkpoint;
    let tokenizer = TextTokenizer::load(folder, folder_config, max_length)?;
    if let Some(vocab_size) = backbone.vocab_size()
        && tokenizer.vocab_size() > vocab_size
    {
        return Err(Error::UnsupportedConfig {
            path: folder.join("tokenizer.json"),
            key: "vocab".into(),
            problem: format!("{} tokens, but the encoder knows only {vocab_size}", tokenizer.vocab_size()),
        });
    }
    if tokenizer.max_length() <= tokenizer.special_tokens() {
        let problem = format!("special tokens alone are {}", tokenizer.special_tokens());
        return Err(checkpoint.invalid_option("max_length", tokenizer.max_length(), problem));
    }
    Ok(tokenizer)
}
