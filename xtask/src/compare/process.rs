//! A contestant's process, seen from outside.
//!
//! The protocol is lines: a worker says `{"loaded": ...}` with its packages' versions when its model is in
//! memory, and `{"warm": ...}` after a first pass over the corpus. Then it answers `embed` by
//! `{"seconds": ...}`, and `write FILE` by `{"dim": ...}` when the last pass's embeddings are in the file, as
//! little-endian f32. When its input ends, so does it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candlewick::Embedding;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::machine::TICKS_PER_SECOND;

/// One pass over the corpus.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    pub(super) seconds: f64,
    /// Of all threads together, where the system tells.
    pub(super) cpu_seconds: Option<f64>,
}

/// A contestant's process.
pub(super) struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    log: PathBuf,
    load_seconds: f64,
    versions: Vec<(String, String)>,
    /// Used when it was warm, and during all passes since.
    busy_cpu_seconds: Option<f64>,
}

#[derive(Deserialize)]
struct Loaded {
    loaded: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Warm {
    #[serde(rename = "warm")]
    _warm: bool,
}

#[derive(Deserialize)]
struct Embedded {
    seconds: f64,
}

#[derive(Deserialize)]
struct Written {
    dim: usize,
}

impl Worker {
    /// Starts it and waits until it is warm. What it writes to stderr goes to `log`.
    pub(super) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log_file = File::create(log).with_context(|| format!("could not write {}", log.display()))?;
        let started = Instant::now();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log_file);
        let mut child = command
            .spawn()
            .with_context(|| format!("could not start {}", command.get_program().display()))?;
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("its output is piped"));
        let mut worker = Self {
            child,
            input,
            output: BufReader::new(output),
            log: log.to_owned(),
            load_seconds: 0.0,
            versions: Vec::new(),
            busy_cpu_seconds: None,
        };
        worker.versions = worker.answer::<Loaded>()?.loaded;
        worker.load_seconds = started.elapsed().as_secs_f64();
        worker.answer::<Warm>()?;
        worker.busy_cpu_seconds = worker.cpu_seconds();
        Ok(worker)
    }

    /// Lets it embed the corpus once.
    pub(super) fn pass(&mut self) -> Result<Pass> {
        let before = self.cpu_seconds();
        let Embedded { seconds } = self.ask("embed")?;
        let cpu_seconds = self.cpu_seconds().zip(before).map(|(after, before)| after - before);
        self.busy_cpu_seconds = self.busy_cpu_seconds.zip(cpu_seconds).map(|(busy, pass)| busy + pass);
        Ok(Pass { seconds, cpu_seconds })
    }

    /// The embeddings of its last pass, through the file at `path`.
    pub(super) fn embeddings(&mut self, path: &Path) -> Result<Vec<Embedding>> {
        let Written { dim } = self.ask(&format!("write {}", path.display()))?;
        let bytes = std::fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
        let (values, rest) = bytes.as_chunks::<4>();
        ensure!(dim > 0 && rest.is_empty() && values.len().is_multiple_of(dim), "not rows of {dim} numbers");
        let values: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
        Ok(values.chunks(dim).map(<[f32]>::to_vec).collect())
    }

    /// From the start of the process to a model in memory.
    pub(super) fn load_seconds(&self) -> f64 {
        self.load_seconds
    }

    /// Of the packages that do the work.
    pub(super) fn versions(&self) -> &[(String, String)] {
        &self.versions
    }

    /// The largest amount of memory that was resident so far, in bytes. Only Linux tells.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        peak_memory(&std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?)
    }

    /// CPU seconds used since it was warm, but not in a pass.
    pub(super) fn idle_cpu_seconds(&self) -> Option<f64> {
        Some(self.cpu_seconds()? - self.busy_cpu_seconds?)
    }

    /// CPU seconds used so far by all threads. Only Linux tells.
    fn cpu_seconds(&self) -> Option<f64> {
        cpu_seconds(&std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?)
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &str) -> Result<T> {
        let input = self.input.as_mut().context("its input is closed")?;
        if writeln!(input, "{request}").and_then(|()| input.flush()).is_err() {
            bail!("{}", self.cause_of_death());
        }
        self.answer()
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("could not read its answer")?;
        if line.is_empty() {
            bail!("{}", self.cause_of_death());
        }
        serde_json::from_str(&line).with_context(|| format!("it answered {:?}", line.trim()))
    }

    /// How it ended, and the last thing it said.
    fn cause_of_death(&mut self) -> String {
        self.input = None;
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        format!("{status}: {}", last.trim())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.input = None;
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `VmHWM` of /proc/PID/status, in bytes.
fn peak_memory(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// User and system time of /proc/PID/stat. The second field is a name in parentheses, of any characters.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_accounts_are_read() {
        assert_eq!(peak_memory("Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t   12 kB\n"), Some(12 * 1024));
        assert_eq!(peak_memory("Name:\tx\n"), None);
        let stat = "7 (a) name) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds(""), None);
    }

    #[test]
    fn a_worker_that_dies_leaves_its_last_words() {
        let log = std::env::temp_dir().join(format!("candlewick-compare-{}.log", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo first >&2; echo last words >&2; exit 3"]);
        let error = Worker::start(command, &log).err().expect("it dies").to_string();
        std::fs::remove_file(&log).unwrap();
        assert!(error.contains('3') && error.ends_with("last words"), "{error}");
    }
}
