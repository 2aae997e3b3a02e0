//! Models by id or by folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candlewick::{LoadOptions, Registry, Result, SparseEmbedding};

/// How models are loaded.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadArgs {
    /// Never touch the network.
    #[arg(long, global = true)]
    pub offline: bool,
    /// Where models are cached.
    #[arg(long, global = true, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Threads to compute with. Default: all cores.
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
}

impl LoadArgs {
    /// The same for the library.
    pub fn options(&self) -> LoadOptions {
        let mut options = LoadOptions::new().offline(self.offline);
        options.cache_dir.clone_from(&self.cache_dir);
        match self.threads {
            Some(threads) => options.threads(threads),
            None => options,
        }
    }

    /// Loads a model: `load` for an id of the registry, `from_folder` for a folder.
    ///
    /// # Errors
    ///
    /// As those.
    pub fn open<T>(
        &self,
        model: &str,
        load: fn(&str, LoadOptions) -> Result<T>,
        from_folder: fn(PathBuf, LoadOptions) -> Result<T>,
    ) -> Result<T> {
        if Path::new(model).is_dir() {
            from_folder(model.into(), self.options())
        } else {
            load(model, self.options())
        }
    }
}

/// Whether a sparse model leaves the inverse document frequency to the search engine. A folder's does not.
pub fn requires_idf(model: &str) -> bool {
    Registry::built_in().get(model).is_ok_and(|spec| spec.requires_idf)
}

/// Multiplies a query by the inverse document frequency, which is a search engine's part of BM25:
/// `ln(1 + (n - df + 0.5) / (df + 0.5))` of `n` documents, `df` of which have the word.
pub fn weigh_by_rarity(query: &mut SparseEmbedding, documents: &[SparseEmbedding]) {
    let mut frequencies: HashMap<u32, f32> = query.indices.iter().map(|index| (*index, 0.0)).collect();
    for index in documents.iter().flat_map(|document| &document.indices) {
        if let Some(frequency) = frequencies.get_mut(index) {
            *frequency += 1.0;
        }
    }
    for (index, value) in query.indices.iter().zip(&mut query.values) {
        let frequency = frequencies[index];
        *value *= (1.0 + (documents.len() as f32 - frequency + 0.5) / (frequency + 0.5)).ln();
    }
}
