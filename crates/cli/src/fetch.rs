//! What commands that fetch share: which registry to look names up in, and how to fetch.

use std::path::Path;
use std::sync::Arc;

use candlewick::{LoadOptions, Registry};

use crate::args::FetchArgs;
use crate::progress;

/// The user's own registry, or the built-in one.
pub(crate) fn registry(file: Option<&Path>) -> candlewick::Result<Arc<Registry>> {
    match file {
        Some(file) => Ok(Arc::new(Registry::from_file(file)?)),
        None => Ok(Arc::new(Registry::built_in().clone())),
    }
}

/// Options to fetch a model that has so many `sources`.
pub(crate) fn options(args: &FetchArgs, registry: Arc<Registry>, sources: usize) -> LoadOptions {
    // Offline, sources fail at once and together, and the error that follows tells it all.
    let sources = if args.offline { 0 } else { sources };
    let mut options = LoadOptions::new().offline(args.offline).registry(registry);
    options.cache_dir.clone_from(&args.cache_dir);
    options.progress(progress::downloads(sources, progress::bars_are_wanted(args.no_progress)))
}
