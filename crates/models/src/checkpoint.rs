//! The weights of a model: which files they are in, and how they become a network.

use std::path::{Path, PathBuf};

use candle_core::Device;
use candlewick_engine::{Pooling, ThreadPool};
use serde::Deserialize;

use crate::backbone::{Backbone, Encoders};
use crate::folder::FolderConfig;
use crate::head::DenseHead;
use crate::json::{file_missing, read_json};
use crate::registry::ModelSpec;
use crate::{Error, LoadOptions, Result};

/// A model's folder with all that was said about it, before the weights are read.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The registry's id, or the folder.
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) backbone: Backbone,
    pub(crate) folder_config: FolderConfig,
    pub(crate) spec: Option<ModelSpec>,
    pub(crate) options: LoadOptions,
    pub(crate) device: Device,
}

/// The part of a model that holds weights.
pub(crate) struct Network {
    pub(crate) encoders: Encoders,
    pub(crate) head: DenseHead,
}

impl Checkpoint {
    /// Reads `weights`, the files of the checkpoint, with the threads of `pool`.
    pub(crate) fn read(&self, weights: &[PathBuf], pool: &ThreadPool) -> Result<Network> {
        let engine_error = |source| engine_error(&self.name, source);
        let encoders =
            self.backbone.load(weights, &self.options, pool, &self.device).map_err(engine_error)?;
        let projections = DenseHead::load_projections(&self.folder_config.projections, &self.device);
        let (options, spec) = (&self.options, self.spec.as_ref());
        let pooling = options.pooling.or(spec.and_then(|spec| spec.pooling)).or(self.folder_config.pooling);
        let normalize =
            options.normalize.or(spec.and_then(|spec| spec.normalize)).or(self.folder_config.normalize);
        let head = DenseHead {
            // sentence-transformers' own defaults for a folder that does not say.
            pooling: (!self.backbone.is_pooled()).then(|| pooling.unwrap_or(Pooling::Mean)),
            normalize: normalize.unwrap_or(false),
            projections: projections.map_err(engine_error)?,
            dim: options.dim,
        };
        Ok(Network { encoders, head })
    }

    /// The file or files of the checkpoint.
    pub(crate) fn weights_files(&self) -> Result<Vec<PathBuf>> {
        let missing =
            |file: &str| Err(Error::FileMissing { folder: self.folder.clone(), file: file.to_owned() });
        if let Backbone::Imported { path, .. } = &self.backbone {
            return Ok(vec![path.clone()]);
        }
        if let Some(path) = &self.options.weights {
            if !path.is_file() {
                return Err(file_missing(path));
            }
            return shards(path);
        }
        if let Some(weights) = self.spec.as_ref().and_then(ModelSpec::chosen_weights) {
            let path = &weights.path;
            let file = self.folder.join(path);
            return if file.is_file() { shards(&file) } else { missing(path) };
        }
        for name in ["model.safetensors", "model.safetensors.index.json"] {
            let path = self.folder.join(name);
            if path.is_file() {
                return shards(&path);
            }
        }
        missing("model.safetensors")
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("head", &self.head).finish_non_exhaustive()
    }
}

pub(crate) fn engine_error(model: &str, source: candlewick_engine::Error) -> Error {
    Error::Engine { model: model.to_owned(), source: Box::new(source) }
}

/// The files that an `.index.json` lists, or the file itself.
fn shards(path: &Path) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    if path.extension().is_none_or(|extension| extension != "json") {
        return Ok(vec![path.to_owned()]);
    }
    let index: Index = read_json(path)?;
    let names: std::collections::BTreeSet<String> = index.weight_map.into_values().collect();
    names
        .into_iter()
        .map(|name| {
            let is_plain = Path::new(&name).file_name() == Some(name.as_ref());
            if is_plain {
                return Ok(path.with_file_name(name));
            }
            let problem = format!("`{name}` is not a file name");
            Err(Error::UnsupportedConfig { path: path.to_owned(), key: "weight_map".into(), problem })
        })
        .collect()
}
