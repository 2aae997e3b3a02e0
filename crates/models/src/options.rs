//! How a model is loaded: plain data, every field of which has a default.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candlewick_engine::{DeviceChoice, Int8Scales, Pooling, Precision, ThreadPool};

use crate::registry::Registry;
use crate::source::{ProgressFn, SourceOptions};
use crate::sparse::{Bm25Options, MiniCoilOptions};

/// How a model is fetched, loaded and run.
///
/// ```
/// use candlewick_models::LoadOptions;
///
/// let options = LoadOptions::new().threads(2).dim(128).offline(true);
/// assert_eq!(options.dim, Some(128));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Where downloads are kept. Default: the hub's standard cache, `~/.cache/candlewick` for wheels.
    pub cache_dir: Option<PathBuf>,
    /// Never touch the network; what is not cached is an error. Default: only if `HF_HUB_OFFLINE` says so.
    pub offline: bool,
    /// Called as downloads proceed, from the downloading thread.
    pub progress: Option<ProgressFn>,
    /// Where ids are looked up. Default: the registry that is built in.
    pub registry: Option<Arc<Registry>>,
    /// Threads of the model's own pool. Default: as many as this process may use.
    pub threads: Option<usize>,
    /// A pool to share with other models or with the rest of the program; `threads` is ignored then.
    pub thread_pool: Option<ThreadPool>,
    /// Where to compute. Default: the CPU.
    pub device: DeviceChoice,
    /// What linear layers are held and multiplied in. Default: f32, as the original computes.
    pub precision: Precision,
    /// The weights file, safetensors, PyTorch's or ONNX. Default: the registry's choice; of a folder, `model.safetensors`,
    /// or else `pytorch_model.bin`, or else the ONNX file that is there.
    pub weights: Option<PathBuf>,
    /// The output of an ONNX file to take, by its name. Default: the first with a row for each token, or else for
    /// each text; of BM42 what the registry says, or the last attention.
    pub output: Option<String>,
    /// Values of an ONNX graph's inputs that are a single number, by name: which adapter it takes, for one. Where the
    /// registry's row has the input, this is for texts that are neither queries nor passages, else for all. Default: the
    /// row's.
    pub inputs: BTreeMap<String, f64>,
    /// How an ONNX file runs that was quantised dynamically. Default: with a scale for each token.
    pub int8: Int8Scales,
    /// Default: what the registry or the folder says, else the mean.
    pub pooling: Option<Pooling>,
    /// Default: what the registry or the folder says, else no.
    pub normalize: Option<bool>,
    /// Tokens of a text that are read, special tokens included. Default: the model's own limit.
    pub max_length: Option<usize>,
    /// Keep only the first components of embeddings, for models trained so (Matryoshka). Vectors are
    /// normalised after the cut.
    pub dim: Option<usize>,
    /// Of sparse embeddings, keep only so many of the largest values. Default: all.
    pub top_k: Option<usize>,
    /// Of sparse embeddings, keep only values above this. Default: all, which are above 0.
    pub threshold: Option<f32>,
    /// What a reranker that takes an instruction is told to judge documents by. Default: the model's own.
    pub instruction: Option<String>,
    /// How BM25 splits and weighs. Default: as fastembed, English.
    pub bm25: Option<Bm25Options>,
    /// Of BM42, what weights are raised to: the less, the more alike they are; 0 or more. Default: 0.5.
    pub bm42_alpha: Option<f64>,
    /// How miniCOIL weighs. Default: as fastembed.
    pub minicoil: Option<MiniCoilOptions>,
    /// Tokens that are computed together, about. Default: [`LoadOptions::DEFAULT_BATCH_TOKENS`].
    pub batch_tokens: Option<usize>,
    /// Read the weights at the first embedding instead of now. Files are fetched and configuration is
    /// checked now all the same.
    pub lazy_load: bool,
    /// Whether `query_embed` and `passage_embed` put the model's prompts before texts, and a reranker that is made of a
    /// language model puts pairs into its own. Default: yes.
    pub prompts: bool,
}

impl LoadOptions {
    /// Activations of this many tokens fit a core's cache for the usual hidden sizes.
    pub const DEFAULT_BATCH_TOKENS: usize = 256;

    /// The defaults.
    pub fn new() -> Self {
        Self {
            cache_dir: None,
            offline: false,
            progress: None,
            registry: None,
            threads: None,
            thread_pool: None,
            device: DeviceChoice::Cpu,
            precision: Precision::F32,
            weights: None,
            output: None,
            inputs: BTreeMap::new(),
            int8: Int8Scales::PerToken,
            pooling: None,
            normalize: None,
            max_length: None,
            dim: None,
            top_k: None,
            threshold: None,
            instruction: None,
            bm25: None,
            bm42_alpha: None,
            minicoil: None,
            batch_tokens: None,
            lazy_load: false,
            prompts: true,
        }
    }

    /// Adds one of [`inputs`](LoadOptions::inputs).
    #[must_use]
    pub fn input(mut self, name: impl Into<String>, value: f64) -> Self {
        self.inputs.insert(name.into(), value);
        self
    }

    /// The threads to work with: those that are shared, or a pool of the model's own.
    pub(crate) fn pool(&self) -> candlewick_engine::Result<ThreadPool> {
        match &self.thread_pool {
            Some(pool) => Ok(pool.clone()),
            None => ThreadPool::new(self.threads),
        }
    }

    /// The part that concerns fetching.
    pub fn source_options(&self) -> SourceOptions {
        SourceOptions {
            cache_dir: self.cache_dir.clone(),
            offline: self.offline,
            progress: self.progress.clone(),
            ..SourceOptions::default()
        }
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// One chainable setter per field.
macro_rules! setters {
    ($($field:ident: $type:ty => $value:expr;)*) => {
        impl LoadOptions {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](LoadOptions::", stringify!($field), ").")]
                #[must_use]
                pub fn $field(mut self, $field: $type) -> Self {
                    self.$field = $value;
                    self
                }
            )*
        }
    };
}

setters! {
    cache_dir: impl Into<PathBuf> => Some(cache_dir.into());
    offline: bool => offline;
    progress: ProgressFn => Some(progress);
    registry: Arc<Registry> => Some(registry);
    threads: usize => Some(threads);
    thread_pool: ThreadPool => Some(thread_pool);
    device: DeviceChoice => device;
    precision: Precision => precision;
    weights: impl Into<PathBuf> => Some(weights.into());
    output: impl Into<String> => Some(output.into());
    int8: Int8Scales => int8;
    pooling: Pooling => Some(pooling);
    normalize: bool => Some(normalize);
    max_length: usize => Some(max_length);
    dim: usize => Some(dim);
    top_k: usize => Some(top_k);
    threshold: f32 => Some(threshold);
    instruction: impl Into<String> => Some(instruction.into());
    bm25: Bm25Options => Some(bm25);
    bm42_alpha: f64 => Some(bm42_alpha);
    minicoil: MiniCoilOptions => Some(minicoil);
    batch_tokens: usize => Some(batch_tokens);
    lazy_load: bool => lazy_load;
    prompts: bool => prompts;
}
