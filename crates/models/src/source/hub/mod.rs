//! The Hugging Face hub and the cache that all of its tools share.
//!
//! The layout is huggingface_hub's: `models--owner--name/blobs/<etag>` holds contents, `snapshots/<commit>/`
//! links to them by file name, `refs/<revision>` says which commit a branch or tag was when it was last
//! fetched. What Python tools have fetched is found here, and the other way round. Two things are added in
//! places that those tools pass over: a lock in `.locks/`, and `.candlewick/` in the model's folder, where
//! downloads stay until they are verified.
//!
//! Looking into the cache needs no network and no `hub` feature; that is this file.

#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod fetch;

use std::fs;
use std::path::{Path, PathBuf};

use super::checksum::is_hex;
use super::{Context, Source, cache};
use crate::{Error, ModelSpec, Result};

/// One model of the hub.
#[derive(Debug)]
#[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "what only a fetch needs"))]
pub(super) struct Hub<'a> {
    spec: &'a ModelSpec,
    repo: &'a str,
    revision: &'a str,
    /// `models--owner--name` in the cache.
    folder: PathBuf,
    lock: PathBuf,
    context: Context<'a>,
}

impl<'a> Hub<'a> {
    pub(super) fn new(
        spec: &'a ModelSpec,
        repo: &'a str,
        revision: &'a str,
        context: Context<'a>,
    ) -> Result<Hub<'a>> {
        let invalid = |what: &str, problem: &str| {
            let reason = format!("`{what}` {problem}");
            Error::Hub { url: format!("hub {repo}"), reason, source: None }
        };
        if !is_plain(repo) || repo.split('/').count() > 2 {
            return Err(invalid(repo, "is not the name of a repository"));
        }
        if !is_plain(revision) {
            return Err(invalid(revision, "is not a revision"));
        }
        let cache = context.places.hub.as_deref().ok_or(Error::NoCacheFolder)?;
        let name = format!("models--{}", repo.replace('/', "--"));
        let lock = cache.join(".locks").join(&name).join("candlewick.lock");
        Ok(Hub { spec, repo, revision, folder: cache.join(name), lock, context })
    }

    /// The commit that the revision stands for, as far as the cache knows.
    fn known_commit(&self) -> Option<String> {
        if is_commit(self.revision) {
            return Some(self.revision.to_owned());
        }
        let commit = fs::read_to_string(self.reference()).ok()?.trim().to_owned();
        is_commit(&commit).then_some(commit)
    }

    fn reference(&self) -> PathBuf {
        self.folder.join("refs").join(self.revision)
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }
}

impl Source for Hub<'_> {
    fn place(&self) -> &Path {
        &self.folder
    }

    fn cached(&self) -> Option<PathBuf> {
        let snapshot = self.snapshot(&self.known_commit()?);
        cache::holds(&snapshot, self.spec.required_files()).then_some(snapshot)
    }

    #[cfg(not(feature = "hub"))]
    fn fetch(&self) -> Result<PathBuf> {
        let reason = "this program was built without the feature `hub`".into();
        Err(Error::Hub { url: format!("hub {}", self.repo), reason, source: None })
    }

    #[cfg(feature = "hub")]
    fn fetch(&self) -> Result<PathBuf> {
        self.fetch_under_lock()
    }
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

/// Whether a name consists of parts that stay what they are in a path and in a URL.
fn is_plain(name: &str) -> bool {
    name.split('/').all(|part| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::cache::Places;
    use crate::source::tests::{CONFIG, WEIGHTS, row};
    use crate::source::{Environment, Reporter};

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    struct Fixture {
        cache: tempfile::TempDir,
        places: Places,
        env: Environment,
        spec: ModelSpec,
    }

    impl Fixture {
        /// A cache with one complete snapshot, as huggingface_hub leaves it, except that files are not links.
        fn new() -> Fixture {
            let cache = tempfile::tempdir().unwrap();
            let places = Places { hub: Some(cache.path().to_owned()), wheels: None };
            let fixture = Fixture { cache, places, env: Environment::from_iter([("", "")]), spec: row("") };
            fixture.write("refs/main", COMMIT);
            fixture.write(&format!("snapshots/{COMMIT}/{CONFIG}"), "{}");
            fixture.write(&format!("snapshots/{COMMIT}/{WEIGHTS}"), "weights");
            fixture
        }

        fn path(&self, file: &str) -> PathBuf {
            self.cache.path().join("models--owner--tiny").join(file)
        }

        fn write(&self, file: &str, content: &str) {
            fs::create_dir_all(self.path(file).parent().unwrap()).unwrap();
            fs::write(self.path(file), content).unwrap();
        }

        fn hub<'a>(&'a self, repo: &'a str, revision: &'a str) -> Result<Hub<'a>> {
            let context = Context { places: &self.places, env: &self.env, reporter: Reporter(None) };
            Hub::new(&self.spec, repo, revision, context)
        }

        fn cached(&self, revision: &str) -> Option<PathBuf> {
            self.hub("owner/tiny", revision).unwrap().cached()
        }
    }

    #[test]
    fn complete_snapshots_are_found_by_branch_and_by_commit() {
        let fixture = Fixture::new();
        let snapshot = fixture.path("snapshots").join(COMMIT);
        assert_eq!(fixture.cached("main").as_deref(), Some(snapshot.as_path()));
        assert_eq!(fixture.cached(COMMIT).as_deref(), Some(snapshot.as_path()));
        assert_eq!(fixture.cached("v1"), None);
        fixture.write("refs/refs/pr/1", &format!("{COMMIT}\n"));
        assert_eq!(fixture.cached("refs/pr/1").as_deref(), Some(snapshot.as_path()));
    }

    #[test]
    fn garbage_in_refs_is_not_followed() {
        let fixture = Fixture::new();
        fixture.write(CONFIG, "{}");
        fixture.write(WEIGHTS, "weights");
        for garbage in ["", "..", "../../models--owner--tiny", "/", &COMMIT[..39], "\0\n", &"ä".repeat(20)] {
            fixture.write("refs/main", garbage);
            assert_eq!(fixture.cached("main"), None, "{garbage:?}");
        }
    }

    #[test]
    fn incomplete_snapshots_do_not_count() {
        let fixture = Fixture::new();
        fixture.write(&format!("snapshots/{COMMIT}/{WEIGHTS}"), "");
        assert_eq!(fixture.cached("main"), None);
        fs::remove_file(fixture.path("snapshots").join(COMMIT).join(WEIGHTS)).unwrap();
        assert_eq!(fixture.cached("main"), None);
    }

    #[test]
    #[cfg(unix)]
    fn link_to_a_missing_blob_does_not_count() {
        let fixture = Fixture::new();
        let pointer = fixture.path("snapshots").join(COMMIT).join(WEIGHTS);
        fs::remove_file(&pointer).unwrap();
        std::os::unix::fs::symlink("../../blobs/gone", &pointer).unwrap();
        assert_eq!(fixture.cached("main"), None);
    }

    #[test]
    fn names_that_leave_the_cache_are_refused() {
        let fixture = Fixture::new();
        for repo in ["", "..", "a/../b", "/a", "a/b/c", "a b", "a\\b", "a?b/c"] {
            let error = fixture.hub(repo, "main").unwrap_err().to_string();
            assert!(error.contains("is not the name of a repository"), "{error}");
        }
        for revision in ["", "..", "../../x", "/etc", "a//b", "a#b"] {
            let error = fixture.hub("owner/tiny", revision).unwrap_err().to_string();
            assert!(error.contains("is not a revision"), "{error}");
        }
    }
}
