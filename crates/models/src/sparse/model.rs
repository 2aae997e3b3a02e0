//! The sparse models of the registry, whatever they make their values of.

use std::path::Path;

use super::word_models::{MATRICES, STOP_WORDS};
use super::{Bm25, Bm42Model, MiniCoilModel, SparseEmbedding, SpladeModel};
use crate::checkpoint::engine_error;
use crate::folder::layer_file;
use crate::hybrid::{HybridModel, HybridOutputs};
use crate::registry::{Kind, ModelSpec, Registry, SparseMethod};
use crate::text_model::fetch;
use crate::{Error, LoadOptions, Result, TextRole};

/// A loaded sparse model.
#[derive(Debug)]
pub struct SparseModel {
    method: Method,
    name: String,
}

#[derive(Debug)]
enum Method {
    Splade(Box<SpladeModel>),
    /// The sparse head of a hybrid model.
    TokenWeights(Box<HybridModel>),
    /// Without the limits of the options, which the others apply themselves.
    Bm25 {
        model: Box<Bm25>,
        top_k: Option<usize>,
        threshold: Option<f32>,
    },
    Bm42(Box<Bm42Model>),
    MiniCoil(Box<MiniCoilModel>),
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

    /// Loads a folder: tokenizer.json, config.json and the weights of a masked language model, or of an encoder with
    /// sparse_linear.pt beside it, as BGE-M3's, or a graph that gives BGE-M3's embeddings. With stopwords.txt it is BM42, whose graph gives attention's
    /// probabilities; with minicoil.triplet.model.npy, too, miniCOIL.
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
        let is_hybrid = match &spec {
            Some(spec) => spec.kind == Kind::Hybrid,
            None => layer_file(folder, "sparse_linear").is_some() || HybridModel::is_graph(folder, &options)?,
        };
        if is_hybrid {
            let model = HybridModel::open(folder, spec, options, HybridOutputs::SPARSE)?;
            return Ok(Self { method: Method::TokenWeights(Box::new(model)), name });
        }
        let method = match spec.as_ref().and_then(|spec| spec.method).unwrap_or_else(|| method_of(folder)) {
            SparseMethod::Splade => Method::Splade(Box::new(SpladeModel::open(folder, spec, options)?)),
            SparseMethod::Bm25 => return Self::bm25(name, &options),
            SparseMethod::Bm42 => Method::Bm42(Box::new(Bm42Model::open(folder, spec, options)?)),
            SparseMethod::Minicoil => Method::MiniCoil(Box::new(MiniCoilModel::open(folder, spec, options)?)),
        };
        Ok(Self { method, name })
    }

    fn bm25(name: String, options: &LoadOptions) -> Result<Self> {
        check_options(&name, options)?;
        let pool = options.pool().map_err(|source| engine_error(&name, source))?;
        let model = Box::new(Bm25::new(options.bm25.clone().unwrap_or_default(), pool)?);
        let LoadOptions { top_k, threshold, .. } = *options;
        Ok(Self { method: Method::Bm25 { model, top_k, threshold }, name })
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
        match &self.method {
            Method::Splade(model) => model.embed(texts, role),
            Method::TokenWeights(model) => {
                let embeddings = model.embed_some(texts, role, HybridOutputs::SPARSE)?.into_iter();
                Ok(embeddings.map(|embedding| embedding.sparse.expect("it was asked for")).collect())
            }
            Method::Bm25 { model, top_k, threshold } => {
                let embeddings =
                    if role == TextRole::Query { model.query_embed(texts) } else { model.embed(texts) };
                Ok(embeddings.into_iter().map(|embedding| embedding.limited(*top_k, *threshold)).collect())
            }
            Method::Bm42(model) => model.embed(texts, role),
            Method::MiniCoil(model) => model.embed(texts, role),
        }
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
            Method::TokenWeights(model) => model.token_count(texts),
            Method::Bm25 { model, .. } => Ok(model.token_count(texts)),
            Method::Bm42(model) => model.token_count(texts),
            Method::MiniCoil(model) => model.token_count(texts),
        }
    }
}

/// What a folder without a registry row holds, by files that only one method has.
fn method_of(folder: &Path) -> SparseMethod {
    let has = |name: &str| folder.join(name).is_file();
    match (has(MATRICES), has(STOP_WORDS)) {
        (true, _) => SparseMethod::Minicoil,
        (false, true) => SparseMethod::Bm42,
        (false, false) => SparseMethod::Splade,
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
