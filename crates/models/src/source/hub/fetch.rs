//! Fetching a model from the hub into the shared cache.
//!
//! Files are downloaded next to the cache proper and verified; only then do they become blobs. A snapshot is
//! linked once all of its blobs are there, and a reference is written once its snapshot is complete. So
//! whatever is visible is whole, wherever a run is killed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
#[cfg(unix)]
use std::os::unix::fs::symlink;
#[cfg(windows)]
use std::os::windows::fs::symlink_file as symlink;
use std::path::{Path, PathBuf};

use super::client::{Client, Description};
use super::{Hub, is_commit};
use crate::source::Source;
use crate::source::cache::{self, At};
use crate::source::checksum::Checksum;
use crate::{Error, Result};

impl Hub<'_> {
    pub(super) fn fetch_under_lock(&self) -> Result<PathBuf> {
        let _lock = cache::lock(&self.lock, self.context.reporter)?;
        if let Some(folder) = self.cached() {
            return Ok(folder);
        }
        let fetched = self.fetch_snapshot();
        // A broken connection leaves something to continue from; nothing else does.
        if !matches!(fetched, Err(Error::Hub { .. })) {
            let _ = cache::remove(&self.staging());
        }
        fetched
    }

    fn fetch_snapshot(&self) -> Result<PathBuf> {
        let client = Client::new(self.context.env, self.repo)?;
        let commit = self.current_commit(&client)?;

        // Optional files first, the weights last: a snapshot that has all required files, as a killed run may
        // leave it, then has the optional ones too.
        let optional = self.spec.optional_files.iter().map(String::as_str);
        let mut required: Vec<&str> = self.spec.required_files().collect();
        required.reverse();
        let mut blobs = Vec::new();
        for file in optional {
            if let Some(blob) = self.fetch_blob(&client, &commit, file)? {
                blobs.push((file, blob));
            }
        }
        for file in required {
            let missing = || not_there(client.url(&commit, file));
            blobs.push((file, self.fetch_blob(&client, &commit, file)?.ok_or_else(missing)?));
        }

        let snapshot = self.snapshot(&commit);
        for (file, blob) in &blobs {
            self.point(&snapshot, file, blob)?;
        }
        if self.revision != commit {
            replace_file(&self.reference(), commit.as_bytes())?;
        }
        Ok(snapshot)
    }

    /// The commit that the revision is now. All files come from this one, even when the branch moves on
    /// while they are being fetched.
    fn current_commit(&self, client: &Client) -> Result<String> {
        if is_commit(self.revision) {
            return Ok(self.revision.to_owned());
        }
        let file = self.spec.required_files().next().unwrap_or("config.json");
        let url = || client.url(self.revision, file);
        let description = client.describe(self.revision, file)?.ok_or_else(|| not_there(url()))?;
        description.commit.filter(|commit| is_commit(commit)).ok_or_else(|| Error::Hub {
            url: url(),
            reason: "the answer does not say which commit it is from".into(),
            source: None,
        })
    }

    /// Makes sure that a file's content is among the blobs, and returns the blob's name; `None` when the
    /// repository does not have the file.
    fn fetch_blob(&self, client: &Client, commit: &str, file: &str) -> Result<Option<String>> {
        let Some(description) = client.describe(commit, file)? else { return Ok(None) };
        let checksums = self.checksums(commit, file, &description)?;
        let name = description.checksum.hex().to_owned();
        let blob = self.folder.join("blobs").join(&name);
        if blob.is_file() && self.verify(&blob, file, &checksums).is_ok() {
            return Ok(Some(name));
        }

        let part = self.staging().join(&name);
        let continued = part.exists();
        let url = client.url(commit, file);
        let mut fetched = self.download(client, &url, file, &part, &description, &checksums);
        // The fault may be in what an earlier run had left, so a continued download gets a second chance.
        if continued && matches!(fetched, Err(Error::Checksum { .. })) {
            fetched = self.download(client, &url, file, &part, &description, &checksums);
        }
        fetched?;
        sync(&part)?;
        cache::create_parent(&blob)?;
        fs::rename(&part, &blob).at(&blob)?;
        self.context.reporter.finished(file);
        Ok(Some(name))
    }

    /// What a file must match: the hub's checksum and, where there is one, the registry's.
    fn checksums(&self, commit: &str, file: &str, description: &Description) -> Result<Vec<Checksum>> {
        if let Some(found) = description.commit.as_deref().filter(|found| *found != commit) {
            let reason = format!("{file} was asked for at commit {commit} and comes from {found}");
            return Err(Error::Hub { url: format!("hub {}", self.repo), reason, source: None });
        }
        let announced = description.checksum.clone();
        let pinned = self.spec.weights.iter().find(|weights| weights.path == file);
        let Some(pinned) = pinned.and_then(|weights| weights.sha256.clone()).map(Checksum::Sha256) else {
            return Ok(vec![announced]);
        };
        match &announced {
            Checksum::Sha256(_) if announced == pinned => Ok(vec![announced]),
            Checksum::Sha256(_) => Err(Error::Checksum {
                file: self.describe(file),
                expected: pinned.to_string(),
                found: announced.to_string(),
            }),
            Checksum::GitBlob(_) => Ok(vec![announced, pinned]),
        }
    }

    /// Downloads into `part` and verifies what is there then. What fails to verify is deleted.
    fn download(
        &self,
        client: &Client,
        url: &str,
        file: &str,
        part: &Path,
        description: &Description,
        checksums: &[Checksum],
    ) -> Result<()> {
        let reporter = self.context.reporter;
        reporter.started(file, description.size);
        client.download(url, part, description.size, &mut |bytes| {
            reporter.advanced(file, bytes, description.size);
        })?;
        self.verify(part, file, checksums).inspect_err(|_| {
            let _ = cache::remove(part);
        })
    }

    fn verify(&self, path: &Path, file: &str, checksums: &[Checksum]) -> Result<()> {
        checksums.iter().try_for_each(|checksum| checksum.verify(path, &self.describe(file)))
    }

    /// Links a file of a snapshot to its blob, replacing what is there.
    fn point(&self, snapshot: &Path, file: &str, blob: &str) -> Result<()> {
        let pointer = snapshot.join(file);
        let new = sibling(&pointer);
        cache::create_parent(&pointer)?;
        cache::remove(&new)?;
        let mut target = PathBuf::from("../..");
        target.extend(Path::new(file).components().skip(1).map(|_| ".."));
        target.extend(["blobs", blob]);
        let content = self.folder.join("blobs").join(blob);
        // Not every file system, nor every Windows account, can have symbolic links.
        symlink(&target, &new)
            .or_else(|_| fs::hard_link(&content, &new))
            .or_else(|_| fs::copy(&content, &new).map(drop))
            .and_then(|()| fs::rename(&new, &pointer))
            .at(&pointer)
            .inspect_err(|_| {
                let _ = cache::remove(&new);
            })
    }

    fn staging(&self) -> PathBuf {
        self.folder.join(".candlewick")
    }

    fn describe(&self, file: &str) -> String {
        format!("{file} of {}", self.repo)
    }
}

fn not_there(url: String) -> Error {
    Error::Hub { url, reason: "HTTP 404: no such file".into(), source: None }
}

/// Writes a small file such that readers see the old content or the new one.
fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    cache::create_parent(path)?;
    let temporary = sibling(path);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&temporary, path)).at(path).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// Makes sure that a file's content outlives a power failure that its name outlives.
fn sync(path: &Path) -> Result<()> {
    OpenOptions::new().write(true).open(path).and_then(|file| file.sync_all()).at(path)
}

/// A name next to `path` for something that will replace it. The lock makes it unique.
fn sibling(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".incomplete");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_file_has_the_new_content_and_no_company() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("refs/pr/main");
        replace_file(&path, b"one").unwrap();
        replace_file(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
