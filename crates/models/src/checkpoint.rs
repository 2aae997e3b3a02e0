//! A model as its files, the registry and the caller describe it, before tokenizer and weights are read.

use std::path::{Path, PathBuf};

use candle_core::Device;
use candlewick_engine::ImportOptions;
use serde::Deserialize;

use crate::backbone::{Backbone, CHECKPOINT_FILES};
use crate::folder::FolderConfig;
use crate::hybrid::WantedEmbeddings;
use crate::json::{file_missing, read_json};
use crate::registry::ModelSpec;
use crate::{Error, LoadOptions, Result, TextRole};

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

impl Checkpoint {
    /// Reads everything but the tokenizer and the weights. `import` says what the model wants of a graph.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken, or asks for something that is not supported, or the device cannot be had.
    pub(crate) fn open(
        folder: &Path,
        spec: Option<ModelSpec>,
        options: LoadOptions,
        import: ImportOptions,
    ) -> Result<Self> {
        Self::open_with(folder, spec, options, import, None)
    }

    /// [`open`](Self::open) for a model that takes embeddings of a graph that gives a hybrid model's.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and when the graph does not give what is wanted.
    pub(crate) fn open_with(
        folder: &Path,
        spec: Option<ModelSpec>,
        options: LoadOptions,
        import: ImportOptions,
        wanted: Option<WantedEmbeddings>,
    ) -> Result<Self> {
        let name = spec.as_ref().map_or_else(|| folder.display().to_string(), |spec| spec.id.clone());
        let folder_config = FolderConfig::read(folder)?;
        let backbone = Backbone::read(&name, folder, spec.as_ref(), &options, import, wanted)?;
        if let (Some(spec), Some(architecture)) = (&spec, backbone.architecture()) {
            check_row(spec, &backbone.file(folder), "architecture", spec.architecture.clone(), architecture)?;
        }
        let device = options.device.open().map_err(|source| engine_error(&name, source))?;
        check_device(&name, &backbone, &device)?;
        Ok(Self { name, folder: folder.to_owned(), backbone, folder_config, spec, options, device })
    }

    /// Tokens of a text that are read: the caller's limit, which must not exceed the positions that exist, or the
    /// files', cut to them.
    ///
    /// # Errors
    ///
    /// When the caller asks for more than there are positions.
    pub(crate) fn max_length(&self) -> Result<usize> {
        let positions = self.backbone.max_positions().unwrap_or(usize::MAX);
        let of_row = self.spec.as_ref().and_then(|spec| spec.max_length);
        match self.options.max_length {
            Some(length) if length > positions => {
                Err(self.invalid_option("max_length", length, format!("the model has {positions} positions")))
            }
            Some(length) => Ok(length),
            None => Ok(self.folder_config.max_length.or(of_row).unwrap_or(usize::MAX).min(positions)),
        }
    }

    /// What is put before a text of this role: what the row says, or else the folder; nothing where the caller wants none.
    pub(crate) fn prompt(&self, role: TextRole) -> &str {
        let prompts = self.spec.as_ref().map_or(&self.folder_config.prompts, |spec| &spec.prompts);
        match role {
            TextRole::Query if self.options.prompts => &prompts.query,
            TextRole::Passage if self.options.prompts => &prompts.passage,
            _ => "",
        }
    }

    /// Checks a fact that the registry's row may state.
    ///
    /// # Errors
    ///
    /// When the row states something else.
    pub(crate) fn check_fact(&self, key: &'static str, stated: Option<usize>, found: usize) -> Result<()> {
        let Some(spec) = &self.spec else {
            return Ok(());
        };
        let stated = stated.map(|stated| stated.to_string());
        check_row(spec, &self.backbone.file(&self.folder), key, stated, &found.to_string())
    }

    /// The error for an option that this model cannot have.
    pub(crate) fn invalid_option(
        &self,
        option: &'static str,
        requested: impl ToString,
        problem: impl Into<String>,
    ) -> Error {
        let (model, problem) = (self.name.clone(), problem.into());
        Error::InvalidOption { model, option, requested: requested.to_string(), problem }
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
        for name in CHECKPOINT_FILES {
            let path = self.folder.join(name);
            if path.is_file() {
                return shards(&path);
            }
        }
        missing("model.safetensors")
    }
}

pub(crate) fn engine_error(model: &str, source: candlewick_engine::Error) -> Error {
    Error::Engine { model: model.to_owned(), source: Box::new(source) }
}

fn check_row(
    spec: &ModelSpec,
    file: &Path,
    key: &'static str,
    stated: Option<String>,
    found: &str,
) -> Result<()> {
    match stated {
        Some(expected) if expected != found => {
            let (model, path, found) = (spec.id.clone(), file.to_owned(), found.to_owned());
            Err(Error::RegistryMismatch { model, path, key, expected, found })
        }
        _ => Ok(()),
    }
}

fn check_device(name: &str, backbone: &Backbone, device: &Device) -> Result<()> {
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
