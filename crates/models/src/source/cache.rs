//! Where fetched files live, and how they get there: under a lock, and visible only when they are complete.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::SourceOptions;
use super::environment::Environment;
use super::progress::{Progress, Reporter};
use crate::{Error, Result};

/// The folders that caches are kept in; `None` where neither an option nor the environment names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// The hub's cache, in the layout that all of the hub's tools share.
    pub(super) hub: Option<PathBuf>,
    /// Our own cache of unpacked wheels.
    pub(super) wheels: Option<PathBuf>,
}

impl Places {
    pub(super) fn new(options: &SourceOptions) -> Places {
        let (hub, wheels) = match &options.cache_dir {
            Some(folder) => (Some(folder.clone()), Some(folder.join("wheels"))),
            None => (hub_cache(&options.environment), wheel_cache(&options.environment)),
        };
        Places { hub: hub.map(absolute), wheels: wheels.map(absolute) }
    }
}

/// The folder of huggingface_hub's settings, `HF_HOME`: the cache and the token are in it.
pub(super) fn hub_home(env: &Environment) -> Option<PathBuf> {
    env.path("HF_HOME").or_else(|| Some(user_cache(env)?.join("huggingface")))
}

fn hub_cache(env: &Environment) -> Option<PathBuf> {
    env.path("HF_HUB_CACHE").or_else(|| Some(hub_home(env)?.join("hub")))
}

fn wheel_cache(env: &Environment) -> Option<PathBuf> {
    let ours = env.path("CANDLEWICK_CACHE").or_else(|| Some(user_cache(env)?.join("candlewick")));
    Some(ours?.join("wheels"))
}

fn user_cache(env: &Environment) -> Option<PathBuf> {
    env.path("XDG_CACHE_HOME").or_else(|| Some(env.home()?.join(".cache")))
}

/// Paths are handed to child processes, which may change folder.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// Whether a folder has all of these files. An empty file, or a link to one that is gone, is not a file that
/// a model could be loaded from.
pub(super) fn holds<'a>(folder: &Path, mut files: impl Iterator<Item = &'a str>) -> bool {
    files.all(|file| {
        fs::metadata(folder.join(file)).is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
    })
}

/// Waits until this process alone may change what `path` guards. The lock ends with the returned file.
///
/// Lock files are never deleted: a process that waits on a deleted one would not keep out a third that
/// creates it anew.
pub(super) fn lock(path: &Path, reporter: Reporter<'_>) -> Result<File> {
    create_parent(path)?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).at(path)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => reporter.report(Progress::Waiting { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(source).at(path),
    }
    file.lock().at(path)?;
    Ok(file)
}

/// Creates the folder that `path` will be in.
pub(super) fn create_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).at(parent),
        None => Ok(()),
    }
}

/// Deletes a file or a whole folder, if it is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.at(path),
    }
}

/// Gives failed writes to the cache their path.
pub(super) trait At<T> {
    fn at(self, path: &Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T> {
        self.map_err(|source| Error::WriteCache { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::source::ProgressFn;

    #[track_caller]
    fn check_places(cache_dir: Option<&str>, env: &[(&str, &str)], hub: Option<&str>, wheels: Option<&str>) {
        let options = SourceOptions {
            cache_dir: cache_dir.map(PathBuf::from),
            environment: env.iter().copied().collect(),
            ..SourceOptions::default()
        };
        let expected = Places { hub: hub.map(PathBuf::from), wheels: wheels.map(PathBuf::from) };
        assert_eq!(Places::new(&options), expected);
    }

    #[test]
    #[cfg(unix)]
    fn places_follow_options_then_the_environment() {
        let home = ("HOME", "/h");
        let xdg = ("XDG_CACHE_HOME", "/x");
        let hf_home = ("HF_HOME", "~/hf");
        let hub_cache = ("HF_HUB_CACHE", "/hub");
        let own = ("CANDLEWICK_CACHE", "/own");
        check_places(None, &[], None, None);
        check_places(None, &[hub_cache], Some("/hub"), None);
        check_places(None, &[home], Some("/h/.cache/huggingface/hub"), Some("/h/.cache/candlewick/wheels"));
        check_places(None, &[home, xdg], Some("/x/huggingface/hub"), Some("/x/candlewick/wheels"));
        check_places(None, &[home, hf_home], Some("/h/hf/hub"), Some("/h/.cache/candlewick/wheels"));
        check_places(None, &[home, hf_home, hub_cache, own], Some("/hub"), Some("/own/wheels"));
        check_places(Some("/c"), &[home, hub_cache, own], Some("/c"), Some("/c/wheels"));
    }

    #[test]
    fn empty_files_and_folders_are_not_held() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("full"), "x").unwrap();
        fs::write(folder.path().join("empty"), "").unwrap();
        fs::create_dir(folder.path().join("folder")).unwrap();
        let held = |file| holds(folder.path(), [file].into_iter());
        assert!(held("full"));
        assert!(!held("empty"));
        assert!(!held("folder"));
        assert!(!held("absent"));
        assert!(!holds(folder.path(), ["full", "absent"].into_iter()));
    }

    #[test]
    fn second_lock_waits_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/folder/x.lock");
        let held = lock(&path, Reporter(None)).unwrap();

        let (sender, reports) = mpsc::channel();
        let listener = ProgressFn::new(move |progress| sender.send(progress.clone()).unwrap());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| lock(&path, Reporter(Some(&listener))));
            assert_eq!(reports.recv().unwrap(), Progress::Waiting { path: path.clone() });
            drop(held);
            second.join().unwrap().unwrap();
        });
    }

    #[test]
    fn unwritable_places_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a-file");
        fs::write(&file, "x").unwrap();
        let inside = file.join("x.lock");
        let error = lock(&inside, Reporter(None)).unwrap_err();
        assert!(matches!(&error, Error::WriteCache { path, .. } if *path == file), "{error}");
        remove(&folder.path().join("absent")).unwrap();
    }
}
