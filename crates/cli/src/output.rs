//! Where data goes: standard output, a file that appears only when it is complete, or a device.
//!
//! Every failure to write names what could not be written. A reader of standard output that goes away is not
//! a failure; see [`WriteError::is_broken_pipe`].

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Data could not be written.
#[derive(Debug)]
pub(crate) struct WriteError {
    name: String,
    source: io::Error,
}

impl WriteError {
    pub(crate) fn new(name: impl Into<String>, source: io::Error) -> WriteError {
        WriteError { name: name.into(), source }
    }

    /// Whether the reader went away, as `head` does when it has enough.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.source.kind() == io::ErrorKind::BrokenPipe
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not write {}: {}", self.name, self.source)
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Writes to standard output, to the last byte.
pub(crate) fn to_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), WriteError> {
    let mut stdout = io::stdout().lock();
    write(&mut stdout).and_then(|()| stdout.flush()).map_err(|source| WriteError::new(STDOUT, source))
}

const STDOUT: &str = "standard output";

/// An open output.
#[derive(Debug)]
pub(crate) struct Destination {
    name: String,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Stdout(io::Stdout),
    /// Something that is there and is not a regular file, such as a FIFO.
    Device(File),
    /// A file next to `path` that takes its place at the end, and vanishes if the end is not reached.
    Replacement {
        file: NamedTempFile,
        path: PathBuf,
    },
}

impl Destination {
    /// Opens `path`, or standard output for `None` and `-`.
    pub(crate) fn open(path: Option<&Path>) -> Result<Destination, WriteError> {
        match path.filter(|path| ![Path::new("-"), Path::new("/dev/stdout")].contains(path)) {
            None => Ok(Destination { name: STDOUT.into(), sink: Sink::Stdout(io::stdout()) }),
            Some(path) => {
                let name = path.display().to_string();
                match open_sink(path) {
                    Ok(sink) => Ok(Destination { name, sink }),
                    Err(source) => Err(WriteError::new(name, source)),
                }
            }
        }
    }

    pub(crate) fn is_stdout(&self) -> bool {
        matches!(self.sink, Sink::Stdout(_))
    }

    /// Names this output in an error.
    pub(crate) fn error(&self, source: io::Error) -> WriteError {
        WriteError::new(&self.name, source)
    }

    /// The file, if what has been written can be changed before anybody sees it.
    pub(crate) fn unseen_file(&self) -> Option<&File> {
        match &self.sink {
            Sink::Replacement { file, .. } => Some(file.as_file()),
            Sink::Stdout(_) | Sink::Device(_) => None,
        }
    }

    /// Makes the output visible under its name.
    pub(crate) fn finish(mut self) -> Result<(), WriteError> {
        self.flush().map_err(|source| self.error(source))?;
        let Destination { name, sink } = self;
        let Sink::Replacement { file, path } = sink else { return Ok(()) };
        // Some file systems tell only now that the disk is full; the old file must still be there then.
        file.as_file().sync_all().map_err(|source| WriteError::new(&name, source))?;
        file.persist(path).map_err(|error| WriteError::new(name, error.error))?;
        Ok(())
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Stdout(stdout) => stdout.write(bytes),
            Sink::Device(file) => file.write(bytes),
            Sink::Replacement { file, .. } => file.as_file_mut().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Stdout(stdout) => stdout.flush(),
            Sink::Device(_) | Sink::Replacement { .. } => Ok(()),
        }
    }
}

fn open_sink(path: &Path) -> io::Result<Sink> {
    // Opened for writing, so that a file that must not be written is not replaced either.
    match OpenOptions::new().write(true).open(path) {
        Ok(file) => {
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Ok(Sink::Device(file));
            }
            // What a symbolic link points to is replaced, not the link.
            let path = fs::canonicalize(path)?;
            let file = new_file_near(&path)?;
            file.as_file().set_permissions(metadata.permissions())?;
            Ok(Sink::Replacement { file, path })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.file_name().is_some() => {
            Ok(Sink::Replacement { file: new_file_near(path)?, path: path.to_owned() })
        }
        Err(error) => Err(error),
    }
}

/// An empty file in the same folder, hence on the same file system, as a rename needs.
fn new_file_near(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".candlewick-").suffix(".partial");
    if let Some(permissions) = usual_permissions() {
        builder.permissions(permissions);
    }
    let file = builder.tempfile_in(folder)?;
    #[cfg(unix)]
    remove_when_killed(file.path().to_owned())?;
    Ok(file)
}

/// A signal ends the process without running any destructor, so that nobody else would remove the file. If it
/// has got its final name meanwhile, there is nothing to remove.
#[cfg(unix)]
fn remove_when_killed(path: PathBuf) -> io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let _ = fs::remove_file(&path);
            // The process dies of the signal, as it would have, which is how a shell knows to end a loop.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    });
    Ok(())
}

/// What files that anybody creates have, less the umask; temporary files would be their owner's alone.
fn usual_permissions() -> Option<Permissions> {
    #[cfg(unix)]
    return Some(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    #[cfg(not(unix))]
    return None;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn file_appears_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut destination = Destination::open(Some(&path)).unwrap();
        destination.write_all(b"new").unwrap();
        assert!(!path.exists());
        destination.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn abandoned_output_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "old").unwrap();
        let mut destination = Destination::open(Some(&path)).unwrap();
        destination.write_all(b"new").unwrap();
        drop(destination);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    #[cfg(unix)]
    fn mode_and_symbolic_link_survive() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("out"), folder.path().join("link"));
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut destination = Destination::open(Some(&link)).unwrap();
        destination.write_all(b"new").unwrap();
        destination.finish().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("no/out")] {
            let error = Destination::open(Some(&path)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("could not write {}: ", path.display())), "{error}");
        }
    }
}
