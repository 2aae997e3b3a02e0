//! A model that turns a text into one vector.
//!
//! Loading resolves three voices, in this order: the caller's options, the registry's row, the folder's own
//! files. Everything but the weights is read and checked at once, so that `lazy_load` only delays the bytes,
//! not the errors that configuration can cause.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use candlewick_engine::{TextEncoder, ThreadPool};

use crate::backbone::Backbone;
use crate::checkpoint::{Checkpoint, Network, engine_error};
use crate::folder::FolderConfig;
use crate::registry::{Kind, ModelSpec, Prompts, Registry, State};
use crate::text::{Pipeline, TextTokenizer};
use crate::{Error, LoadOptions, Result, source};

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
    checkpoint: Checkpoint,
    tokenizer: TextTokenizer,
    prompts: Prompts,
    dim: usize,
    pool: ThreadPool,
    network: OnceLock<Network>,
    loading: Mutex<()>,
}

impl DenseModel {
    /// Loads a model of the registry, fetching its files if need be.
    ///
    /// # Errors
    ///
    /// When the id is unknown, or of a model that cannot be loaded yet; when the files cannot be had, or they
    /// are not what the registry says.
    pub fn load(id: &str, options: LoadOptions) -> Result<Self> {
        let registry = options.registry.as_deref().unwrap_or(Registry::built_in());
        let spec = registry.get_preferring(Kind::Dense, id)?.clone();
        if let State::NotYet { missing } = spec.state() {
            return Err(Error::NotLoadable { model: spec.id, missing });
        }
        let folder = source::resolve(&spec, &options.source_options())?;
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
        let name = spec.as_ref().map_or_else(|| folder.display().to_string(), |spec| spec.id.clone());
        let engine_error = |source| engine_error(&name, source);
        let folder_config = FolderConfig::read(folder)?;
        let backbone = Backbone::read(&name, folder, spec.as_ref(), &options)?;
        check_pooling(&name, &backbone, &options)?;
        let full_dim = check_projections(folder, &folder_config, backbone.hidden_size())?;
        if let Some(spec) = &spec {
            check_row(spec, &backbone.file(folder), backbone.architecture(), full_dim)?;
        }
        let dim = check_dim(&name, options.dim, full_dim)?;
        let stated = folder_config.max_length.or(spec.as_ref().and_then(|spec| spec.max_length));
        let max_length = effective_max_length(&name, options.max_length, stated, backbone.max_positions())?;
        candlewick_engine::runtime::keep_freed_memory();
        let device = options.device.open().map_err(engine_error)?;
        check_device(&name, &backbone, &device)?;
        let pool = match &options.thread_pool {
            Some(pool) => pool.clone(),
            None => ThreadPool::new(options.threads).map_err(engine_error)?,
        };
        let prompts = spec.as_ref().map_or(&folder_config.prompts, |spec| &spec.prompts).clone();
        let folder = folder.to_owned();
        let checkpoint = Checkpoint { name, folder, backbone, folder_config, spec, options, device };

        let read_network = || {
            let weights = checkpoint.weights_files()?;
            if checkpoint.options.lazy_load {
                return Ok(OnceLock::new());
            }
            checkpoint.read(&weights, &pool).map(OnceLock::from)
        };
        let (read, tokenizer) = pool.join(read_network, || read_tokenizer(&checkpoint, max_length));
        // Small files' errors come first, whichever was found first.
        let (tokenizer, network) = (tokenizer?, read?);
        Ok(Self { checkpoint, tokenizer, prompts, dim, pool, network, loading: Mutex::new(()) })
    }

    /// The registry's id, or the folder.
    pub fn name(&self) -> &str {
        &self.checkpoint.name
    }

    /// Length of an embedding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Tokens of a text that are read, special tokens included.
    pub fn max_length(&self) -> usize {
        self.tokenizer.max_length()
    }

    /// One embedding per text, in input order.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized, the device fails, or an embedding is not finite.
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S], role: TextRole) -> Result<Vec<Embedding>> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let network = self.network()?;
        let head = |states: &_, batch: &_| network.head.forward(states, batch);
        self.pipeline().run(texts, self.prompt(role), network.encoders.get(role).as_ref(), head)
    }

    /// One embedding per sequence of token ids, in input order: [`embed`](Self::embed) for callers that have
    /// their own tokenizer. The ids are taken as they are, special tokens included; type ids are zero.
    ///
    /// # Errors
    ///
    /// When the encoder refuses a sequence (an id beyond its vocabulary, more tokens than it has positions),
    /// the device fails, or an embedding is not finite.
    pub fn embed_tokens<S: AsRef<[u32]>>(&self, sequences: &[S]) -> Result<Vec<Embedding>> {
        let network = self.network()?;
        let head = |states: &_, batch: &_| network.head.forward(states, batch);
        let sequences: Vec<_> = sequences.iter().map(|sequence| (sequence.as_ref(), None)).collect();
        self.pipeline().run_sequences(&sequences, 0, network.encoders.get(TextRole::Plain).as_ref(), &head)
    }

    /// Number of tokens of all `texts` together, special tokens included, after truncation. Needs no weights.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized.
    pub fn token_count<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<usize> {
        self.pipeline().count_tokens(texts)
    }

    /// The packed token ids of `texts` and where each text ends, as the encoder gets them.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized.
    pub fn tokenize<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<candlewick_engine::Batch> {
        let encodings = self.pipeline().tokenize(texts, 0, "")?;
        candlewick_engine::Batch::pack(
            encodings.iter().map(|e| (e.token_ids.as_slice(), e.type_ids.as_deref())),
        )
        .map_err(|source| engine_error(&self.checkpoint.name, source))
    }

    /// The encoder of plain texts, for those who want hidden states. Reads the weights if they have not been yet.
    ///
    /// # Errors
    ///
    /// When the weights cannot be read.
    pub fn encoder(&self) -> Result<&dyn TextEncoder> {
        Ok(self.network()?.encoders.get(TextRole::Plain).as_ref())
    }

    fn prompt(&self, role: TextRole) -> &str {
        match role {
            TextRole::Query if self.checkpoint.options.prompts => &self.prompts.query,
            TextRole::Passage if self.checkpoint.options.prompts => &self.prompts.passage,
            _ => "",
        }
    }

    fn pipeline(&self) -> Pipeline<'_> {
        Pipeline {
            name: &self.checkpoint.name,
            tokenizer: &self.tokenizer,
            pool: &self.pool,
            batch_tokens: self.checkpoint.options.batch_tokens.unwrap_or(LoadOptions::DEFAULT_BATCH_TOKENS),
        }
    }

    /// The weights in memory. Of several threads that need them first, one reads and the others wait; after a
    /// failure the next caller tries again.
    fn network(&self) -> Result<&Network> {
        if let Some(network) = self.network.get() {
            return Ok(network);
        }
        // The mutex guards no data, so a panic while it was held has broken nothing.
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(network) = self.network.get() {
            return Ok(network);
        }
        let network = self.checkpoint.read(&self.checkpoint.weights_files()?, &self.pool)?;
        Ok(self.network.get_or_init(|| network))
    }
}

/// Checks that each projection takes what the one before it gives; returns the last one's width.
fn check_projections(folder: &Path, config: &FolderConfig, hidden_size: usize) -> Result<usize> {
    let mut width = hidden_size;
    for projection in &config.projections {
        if projection.in_features != width {
            return Err(Error::UnsupportedConfig {
                path: folder.join("modules.json"),
                key: "in_features".into(),
                problem: format!("a Dense module takes {}, but gets {width}", projection.in_features),
            });
        }
        width = projection.out_features;
    }
    Ok(width)
}

/// A graph that pools has nothing left to pool.
fn check_pooling(name: &str, backbone: &Backbone, options: &LoadOptions) -> Result<()> {
    match options.pooling {
        Some(pooling) if backbone.is_pooled() => Err(Error::InvalidOption {
            model: name.to_owned(),
            option: "pooling",
            requested: pooling.to_string(),
            problem: "the graph gives one vector for each text already".to_owned(),
        }),
        _ => Ok(()),
    }
}

fn check_device(name: &str, backbone: &Backbone, device: &candle_core::Device) -> Result<()> {
    match backbone {
        Backbone::Imported { .. } if !device.is_cpu() => Err(Error::InvalidOption {
            model: name.to_owned(),
            option: "device",
            requested: format!("{:?}", device.location()),
            problem: "ONNX files run on the CPU only; safetensors run on this device".to_owned(),
        }),
        _ => Ok(()),
    }
}

fn check_row(spec: &ModelSpec, file: &Path, architecture: Option<&str>, dim: usize) -> Result<()> {
    let architecture = architecture.map(str::to_owned);
    let facts = [
        (
            "architecture",
            spec.architecture.clone().filter(|_| architecture.is_some()),
            architecture.unwrap_or_default(),
        ),
        ("dim", spec.dim.map(|dim| dim.to_string()), dim.to_string()),
    ];
    for (key, expected, found) in facts {
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            let (model, path) = (spec.id.clone(), file.to_owned());
            return Err(Error::RegistryMismatch { model, path, key, expected, found });
        }
    }
    Ok(())
}

fn check_dim(name: &str, requested: Option<usize>, full_dim: usize) -> Result<usize> {
    match requested {
        Some(dim) if dim == 0 || dim > full_dim => Err(Error::InvalidOption {
            model: name.into(),
            option: "dim",
            requested: dim.to_string(),
            problem: format!("the model's embeddings have {full_dim} dimensions"),
        }),
        dim => Ok(dim.unwrap_or(full_dim)),
    }
}

/// The caller's limit, which must not exceed the positions that exist, or the files', cut to them.
fn effective_max_length(
    name: &str,
    requested: Option<usize>,
    stated: Option<usize>,
    positions: Option<usize>,
) -> Result<usize> {
    let positions = positions.unwrap_or(usize::MAX);
    match requested {
        Some(length) if length > positions => Err(Error::InvalidOption {
            model: name.into(),
            option: "max_length",
            requested: length.to_string(),
            problem: format!("the model has {positions} positions"),
        }),
        Some(length) => Ok(length),
        None => Ok(stated.unwrap_or(usize::MAX).min(positions)),
    }
}

fn read_tokenizer(checkpoint: &Checkpoint, max_length: usize) -> Result<TextTokenizer> {
    let Checkpoint { name, folder, backbone, folder_config, .. } = checkpoint;
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
        return Err(Error::InvalidOption {
            model: name.clone(),
            option: "max_length",
            requested: tokenizer.max_length().to_string(),
            problem: format!("special tokens alone are {}", tokenizer.special_tokens()),
        });
    }
    Ok(tokenizer)
}
