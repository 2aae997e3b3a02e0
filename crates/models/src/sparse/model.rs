//! The sparse models of the registry, whatever they make their values of.

use std::path::Path;

use candlewick_engine::ThreadPool;

use super::{Bm25, SparseEmbedding, SpladeModel};
use crate::checkpoint::engine_error;
use crate::registry::{Kind, ModelSpec, Registry, SparseMethod};
use crate::text_model::fetch;
use crate::{Error, LoadOptions, Result, TextRole};

/// A loaded sparse model.
#[derive(Debug)]
pub struct SparseModel {
    method: Method,
    name: String,
    top_k: Option<usize>,
    threshold: Option<f32>,
}

#[derive(Debug)]
enum Method {
    Splade(Box<SpladeModel>),
    Bm25(Box<Bm25>),
}

impl SparseModel {
    /// Loads a model of the registry, fetching its files if need be. BM25 has none.
    ///
    /// # Errors
    ///
    /// When the id is unknown, or of a model of another kind, or that cannot be loaded yet; when the files cannot be
    /// had, or they are not what the registry says.
    pub fn load(id: &str, options: LoadOptions) -> Result<Self> {
        let registry = options.registry.as_deref().unwrap_or(Registry::built_in());
        let spec = registry.get_preferring(Kind::Sparse, id)?;
        if spec.method == Some(SparseMethod::Bm25) {
            return Self::bm25(spec.id.clone(), &options);
        }
        let (folder, spec) = fetch(Kind::Sparse, id, &options)?;
        Self::open(&folder, Some(spec), options)
    }

    /// Loads a folder: tokenizer.json, config.json and the weights of a masked language model.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken, or asks for something that is not supported.
    pub fn from_folder(folder: &Path, options: LoadOptions) -> Result<Self> {
        Self::open(folder, None, options)
    }

    fn open(folder: &Path, spec: Option<ModelSpec>, options: LoadOptions) -> Result<Self> {
        let name = spec.as_ref().map_or_else(|| folder.display().to_string(), |spec| spec.id.clone());
        check_options(&name, &options)?;
        let LoadOptions { top_k, threshold, .. } = options;
        let method = Method::Splade(Box::new(SpladeModel::open(folder, spec, options)?));
        Ok(Self { method, name, top_k, threshold })
    }

    fn bm25(name: String, options: &LoadOptions) -> Result<Self> {
        check_options(&name, options)?;
        let pool = match &options.thread_pool {
            Some(pool) => pool.clone(),
            None => ThreadPool::new(options.threads).map_err(|source| engine_error(&name, source))?,
        };
        let bm25 = options.bm25.clone().unwrap_or_default();
        let method = Method::Bm25(Box::new(Bm25::new(bm25, pool)?));
        Ok(Self { method, name, top_k: options.top_k, threshold: options.threshold })
    }

    /// The registry's id, or the folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One embedding per text, in input order. A text that is no query is a document.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized, the device fails, or a value is not finite.
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S], role: TextRole) -> Result<Vec<SparseEmbedding>> {
        let embeddings = match &self.method {
            // It limits each embedding as it makes it, because the whole ones are long.
            Method::Splade(model) => return model.embed(texts, role),
            Method::Bm25(model) if role == TextRole::Query => model.query_embed(texts),
            Method::Bm25(model) => model.embed(texts),
        };
        Ok(embeddings.into_iter().map(|embedding| embedding.limited(self.top_k, self.threshold)).collect())
    }

    /// Number of tokens of all `texts` together: with special tokens and after truncation where there is a network,
    /// words before stop words are left out where there is none.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized.
    pub fn token_count<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<usize> {
        match &self.method {
            Method::Splade(model) => model.token_count(texts),
            Method::Bm25(model) => Ok(model.token_count(texts)),
        }
    }
}

/// Refuses a threshold that nothing can be above.
fn check_options(name: &str, options: &LoadOptions) -> Result<()> {
    match options.threshold {
        Some(threshold) if !threshold.is_finite() => Err(Error::InvalidOption {
            model: name.to_owned(),
            option: "threshold",
            requested: threshold.to_string(),
            problem: "it is not finite".into(),
        }),
        _ => Ok(()),
    }
}
