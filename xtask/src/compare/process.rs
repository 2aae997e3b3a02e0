//! A contestant's process, seen from outside.
//!
//! The protocol is lines: a worker says `{"loaded": true}` when its model is in memory, and `{"warm": true}`
//! after it has computed its input once, or the beginning that the job names. Then it answers `embed` by
//! `{"seconds": [...]}`, one number per call of a pass; `write FILE` by `{"dim": ...}` when the last call's
//! embeddings are in the file, as rows of little-endian f32, sparse ones with all their zeros; and `versions` by
//! `{"versions": [[PACKAGE, VERSION], ...]}`. When its input ends, so does it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candlewick::Embedding;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::machine::{self, TICKS_PER_SECOND};
use super::stats::median;
use crate::python::last_words;

/// One turn of a contestant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    /// Of a call: the median of the pass.
    pub(super) seconds: f64,
    /// Of the whole pass.
    pub(super) wall_seconds: f64,
    /// Of all threads together, where the system tells.
    pub(super) cpu_seconds: Option<f64>,
    /// Of everything else on the machine meanwhile, and what its host took away, where the system tells.
    pub(super) others_cpu_seconds: Option<f64>,
}

impl Pass {
    /// How many cores other programs kept busy meanwhile.
    pub(super) fn others_cores(&self) -> Option<f64> {
        Some(self.others_cpu_seconds? / self.wall_seconds)
    }
}

/// CPU seconds used so far, by a process and by the whole machine.
struct Account {
    own: Option<f64>,
    all: Option<f64>,
    at: Instant,
}

impl Account {
    /// What a pass cost that began now; a process that is yet to start has used nothing.
    fn begin(own: Option<f64>) -> Self {
        Self { own, all: machine::cpu_seconds(), at: Instant::now() }
    }

    fn end(&self, own: Option<f64>, seconds: f64) -> Pass {
        let wall_seconds = self.at.elapsed().as_secs_f64();
        let difference = |after: Option<f64>, before: Option<f64>| Some(after? - before?);
        let cpu_seconds = difference(own, self.own);
        let all = difference(machine::cpu_seconds(), self.all);
        // The accounts are rounded, each for itself.
        let others_cpu_seconds = difference(all, cpu_seconds).map(|seconds| seconds.max(0.0));
        Pass { seconds, wall_seconds, cpu_seconds, others_cpu_seconds }
    }
}

/// A contestant's process.
pub(super) struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    log: PathBuf,
    load_seconds: f64,
}

#[derive(Deserialize)]
struct Loaded {
    #[serde(rename = "loaded")]
    _loaded: bool,
}

#[derive(Deserialize)]
struct Warm {
    #[serde(rename = "warm")]
    _warm: bool,
}

#[derive(Deserialize)]
struct Embedded {
    seconds: Vec<f64>,
}

#[derive(Deserialize)]
struct Written {
    dim: usize,
}

#[derive(Deserialize)]
struct Versions {
    versions: Vec<(String, String)>,
}

impl Worker {
    /// Starts it and waits until it is warm. What it writes to stderr goes to `log`.
    pub(super) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log_file = File::create(log).with_context(|| format!("could not write {}", log.display()))?;
        let started = Instant::now();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log_file);
        let mut child = command
            .spawn()
            .with_context(|| format!("could not start {}", command.get_program().display()))?;
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("its output is piped"));
        let output = BufReader::new(output);
        let mut worker = Self { child, input, output, log: log.to_owned(), load_seconds: 0.0 };
        worker.answer::<Loaded>()?;
        worker.load_seconds = started.elapsed().as_secs_f64();
        worker.answer::<Warm>()?;
        Ok(worker)
    }

    /// Lets it compute its input, as often as a pass does.
    pub(super) fn pass(&mut self) -> Result<Pass> {
        let account = Account::begin(self.cpu_seconds());
        let Embedded { seconds } = self.ask("embed")?;
        ensure!(!seconds.is_empty(), "it did nothing");
        Ok(account.end(self.cpu_seconds(), median(&seconds)))
    }

    /// Ends it and takes a new one, until that is warm.
    pub(super) fn restart(&mut self, command: &mut Command) -> Result<Pass> {
        self.end();
        let account = Account::begin(Some(0.0));
        *self = Self::start(command, &self.log.clone())?;
        let seconds = account.at.elapsed().as_secs_f64();
        Ok(account.end(self.cpu_seconds(), seconds))
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
    pub(super) fn versions(&mut self) -> Result<Vec<(String, String)>> {
        Ok(self.ask::<Versions>("versions")?.versions)
    }

    /// The largest amount of memory that was resident so far, in bytes. Only Linux tells.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        peak_memory(&std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?)
    }

    /// CPU seconds used so far by all threads. Only Linux tells.
    fn cpu_seconds(&self) -> Option<f64> {
        cpu_seconds(&std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?)
    }

    fn end(&mut self) {
        self.input = None;
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
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
        let log = std::fs::read(&self.log).unwrap_or_default();
        match self.child.wait() {
            Ok(status) if is_killed(status) => {
                format!("{status}, as Linux does where memory runs out; its last words: {}", last_words(&log))
            }
            Ok(status) => format!("{status}: {}", last_words(&log)),
            Err(error) => format!("{error}: {}", last_words(&log)),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// By a signal that no program sends itself.
#[cfg(unix)]
fn is_killed(status: ExitStatus) -> bool {
    const SIGKILL: i32 = 9;
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(SIGKILL)
}

#[cfg(not(unix))]
fn is_killed(_: ExitStatus) -> bool {
    false
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
    fn others_are_those_whose_turn_it_was_not() {
        let pass =
            Pass { seconds: 0.1, wall_seconds: 2.0, cpu_seconds: Some(3.0), others_cpu_seconds: Some(0.5) };
        assert_eq!(pass.others_cores(), Some(0.25));
        assert_eq!(Pass { others_cpu_seconds: None, ..pass }.others_cores(), None);
        let unknown = Account { own: None, all: Some(1.0), at: Instant::now() }.end(Some(1.0), 0.1);
        assert!(unknown.cpu_seconds.is_none() && unknown.others_cpu_seconds.is_none());
    }

    #[test]
    fn a_worker_answers_and_is_replaced() {
        let log = std::env::temp_dir().join(format!("candlewick-compare-ok-{}.log", std::process::id()));
        let mut command = Command::new("sh");
        let answers =
            r#"echo '{"loaded":true}'; echo '{"warm":true}'; read x; echo '{"seconds":[3,1,2]}'; read x"#;
        command.args(["-c", answers]);
        let mut worker = Worker::start(&mut command, &log).unwrap();
        assert_eq!(worker.pass().unwrap().seconds, 2.0);
        let restart = worker.restart(&mut command).unwrap();
        assert!(restart.seconds > 0.0 && worker.load_seconds() <= restart.seconds);
        assert_eq!(worker.pass().unwrap().seconds, 2.0);
        drop(worker);
        std::fs::remove_file(&log).unwrap();
    }

    #[test]
    fn a_worker_that_dies_leaves_its_last_words() {
        let log = std::env::temp_dir().join(format!("candlewick-compare-{}.log", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo first >&2; echo last words >&2; exit 3"]);
        let error = Worker::start(&mut command, &log).err().expect("it dies").to_string();
        std::fs::remove_file(&log).unwrap();
        assert!(error.contains('3') && error.ends_with("last words"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_killed_worker_is_a_reason_and_no_end_of_the_race() {
        let log = std::env::temp_dir().join(format!("candlewick-compare-killed-{}.log", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo '{"loaded":true}'; echo '{"warm":true}'; read x; kill -KILL $$"#]);
        let mut worker = Worker::start(&mut command, &log).unwrap();
        let error = worker.pass().unwrap_err().to_string();
        std::fs::remove_file(&log).unwrap();
        assert!(error.contains("memory"), "{error}");
    }
}
