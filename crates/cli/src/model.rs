//! Which model a command line names, and how it is loaded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candlewick::{Kind, LoadOptions, ModelSpec, Registry, Result};

use crate::args::{ComputeArgs, FetchArgs, ModelArgs};
use crate::fetch;

/// Where a model is.
pub(crate) enum Place {
    Registry { registry: Arc<Registry>, spec: Box<ModelSpec> },
    Folder(PathBuf),
}

impl Place {
    /// The folder that is given, or else the row with this name. Of several rows, which may share a name, the one of kind
    /// `preferred`.
    pub(crate) fn find(id: &str, preferred: Kind, model: &ModelArgs, fetch: &FetchArgs) -> Result<Place> {
        if let Some(folder) = &model.model_dir {
            return Ok(Place::Folder(folder.clone()));
        }
        let registry = fetch::registry(fetch.registry.as_deref())?;
        let spec = Box::new(registry.get_preferring(preferred, id)?.clone());
        Ok(Place::Registry { registry, spec })
    }

    /// What the model makes, as far as it is known.
    pub(crate) fn kind(&self) -> Result<Option<Kind>> {
        match self {
            Place::Registry { spec, .. } => Ok(Some(spec.kind)),
            Place::Folder(folder) => Kind::of_folder(folder),
        }
    }

    /// As errors call it.
    pub(crate) fn name(&self) -> String {
        match self {
            Place::Registry { spec, .. } => spec.id.clone(),
            Place::Folder(folder) => folder.display().to_string(),
        }
    }

    /// Options that all kinds of models have.
    pub(crate) fn options(&self, model: &ModelArgs, compute: &ComputeArgs, fetch: &FetchArgs) -> LoadOptions {
        let mut options = match self {
            Place::Registry { registry, spec } => {
                fetch::options(fetch, registry.clone(), spec.chosen_sources().count())
            }
            Place::Folder(_) => LoadOptions::new(),
        };
        if let (Place::Folder(folder), Some(file)) = (self, &model.weights) {
            options.weights = Some(if file.exists() { file.clone() } else { folder.join(file) });
        }
        options.max_length = model.max_length.map(Into::into);
        options.output.clone_from(&model.output_name);
        options.inputs = model.graph_input.iter().cloned().collect();
        let ComputeArgs { batch_tokens, threads, device, precision, int8 } = compute;
        options.batch_tokens = batch_tokens.map(Into::into);
        options.threads = threads.map(Into::into);
        options.device(*device).precision(*precision).int8(*int8)
    }

    /// Loads it by one of the constructors of its type.
    pub(crate) fn load<'a, M>(
        &'a self,
        options: LoadOptions,
        by_id: impl FnOnce(&str, LoadOptions) -> Result<M>,
        from_folder: impl FnOnce(&'a Path, LoadOptions) -> Result<M>,
    ) -> Result<M> {
        match self {
            Place::Registry { spec, .. } => by_id(&spec.id, options),
            Place::Folder(folder) => from_folder(folder, options),
        }
    }
}
