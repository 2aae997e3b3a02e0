//! What a fetch reports while it runs, so that a front end can draw bars and say why it has to wait.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A function that is told how a fetch gets on. It runs on the thread that called
/// [`resolve`](super::resolve), between two reads, so it should be quick.
#[derive(Clone)]
pub struct ProgressFn(Arc<dyn Fn(&Progress) + Send + Sync>);

/// One step of a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Another process fetches the same model; this one waits for it.
    Waiting {
        /// The lock that the other process holds.
        path: PathBuf,
    },
    /// A download begins.
    Started {
        /// The file, relative to the model's folder, or the wheel.
        file: String,
        /// Its size, where the source announces one.
        total_bytes: Option<u64>,
    },
    /// More of a file has arrived.
    Advanced {
        /// The file, as in [`Progress::Started`].
        file: String,
        /// What has arrived so far, what an earlier attempt left included.
        bytes: u64,
        /// Its size, where the source announces one.
        total_bytes: Option<u64>,
    },
    /// A file is complete and verified.
    Finished {
        /// The file, as in [`Progress::Started`].
        file: String,
    },
    /// A source did not work; the next one, if there is one, is tried.
    SourceFailed {
        /// The source, in words: `hub sentence-transformers/all-MiniLM-L6-v2`.
        source: String,
        /// Why it failed.
        reason: String,
    },
}

impl ProgressFn {
    /// Wraps a function.
    pub fn new(report: impl Fn(&Progress) + Send + Sync + 'static) -> ProgressFn {
        ProgressFn(Arc::new(report))
    }
}

impl fmt::Debug for ProgressFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressFn")
    }
}

/// Where a source sends its reports; nowhere when nobody listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reporter<'a>(pub(super) Option<&'a ProgressFn>);

impl Reporter<'_> {
    pub(super) fn report(self, progress: Progress) {
        if let Some(ProgressFn(report)) = self.0 {
            report(&progress);
        }
    }

    pub(super) fn started(self, file: &str, total_bytes: Option<u64>) {
        self.report(Progress::Started { file: file.into(), total_bytes });
    }

    pub(super) fn advanced(self, file: &str, bytes: u64, total_bytes: Option<u64>) {
        self.report(Progress::Advanced { file: file.into(), bytes, total_bytes });
    }

    pub(super) fn finished(self, file: &str) {
        self.report(Progress::Finished { file: file.into() });
    }
}
