//! Running the user's own pip, which knows the user's mirrors, proxies and certificates.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use super::cache::At;
use super::environment::Environment;
use crate::{Error, Result};

/// The ways to call pip, tried until one is there.
const COMMANDS: [&str; 4] = ["python3 -m pip", "python -m pip", "pip3", "pip"];
/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How many lines of pip's output an error shows.
const SHOWN_LINES: usize = 6;

/// Downloads the wheel of `requirement` and returns its path. Everything that pip writes is inside `staging`,
/// except its own cache. `tick` is called now and then with the bytes that have arrived.
pub(super) fn download(
    requirement: &str,
    staging: &Path,
    env: &Environment,
    tick: &mut dyn FnMut(u64),
) -> Result<PathBuf> {
    let chosen = env.text("CANDLEWICK_PIP");
    let commands = chosen.as_ref().map_or(COMMANDS.as_slice(), std::slice::from_ref);
    let mut absent = None;
    for command in commands {
        let mut run = Run::new(command, requirement, staging, env)?;
        match run.finish(tick) {
            Ok(status) if status.success() => return run.wheel(),
            Ok(_) if chosen.is_none() && run.output().contains("No module named pip") => {}
            Ok(status) => return Err(run.failed(status)),
            Err(error) => absent = Some(error),
        }
    }
    Err(Error::Pip {
        command: commands.join("`, `"),
        problem: "could not be run; install pip, or set CANDLEWICK_PIP to a command that works like it"
            .into(),
        source: absent,
    })
}

/// One call of pip.
struct Run {
    command: Command,
    words: String,
    wheels: PathBuf,
    temporary: PathBuf,
    log: PathBuf,
}

impl Run {
    fn new(command: &str, requirement: &str, staging: &Path, env: &Environment) -> Result<Run> {
        let [wheels, temporary] = ["wheels", "tmp"].map(|name| staging.join(name));
        let log = staging.join("pip.log");
        for folder in [&wheels, &temporary] {
            fs::create_dir_all(folder).at(folder)?;
        }
        let output = File::create(&log).at(&log)?;
        let errors = output.try_clone().at(&log)?;

        let mut words = command.split_whitespace();
        let mut pip = Command::new(words.next().unwrap_or("pip"));
        pip.args(words)
            .args(["download", "--no-deps", "--only-binary", ":all:", "--progress-bar", "off"])
            .args(["--disable-pip-version-check", "--no-input", "--dest"])
            .arg(&wheels)
            .arg(requirement)
            .env_clear()
            .envs(env.variables())
            .envs(["TMPDIR", "TEMP", "TMP"].map(|name| (name, &temporary)))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        let words = format!("{command} download {requirement}");
        Ok(Run { command: pip, words, wheels, temporary, log })
    }

    fn finish(&mut self, tick: &mut dyn FnMut(u64)) -> io::Result<ExitStatus> {
        let mut child = self.command.spawn()?;
        let mut reported = 0;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let arrived = largest_file(&self.temporary).max(largest_file(&self.wheels));
            if arrived > reported {
                reported = arrived;
                tick(arrived);
            }
            std::thread::sleep(TICK);
        }
    }

    fn wheel(&self) -> Result<PathBuf> {
        let entries = fs::read_dir(&self.wheels)
            .map_err(|source| Error::ReadFile { path: self.wheels.clone(), source })?;
        let mut wheels: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        wheels.retain(|path| path.extension().is_some_and(|extension| extension == "whl"));
        match <[PathBuf; 1]>::try_from(wheels) {
            Ok([wheel]) => Ok(wheel),
            Err(wheels) => Err(Error::Pip {
                command: self.words.clone(),
                problem: format!("left {} wheels where one was expected", wheels.len()),
                source: None,
            }),
        }
    }

    fn failed(&self, status: ExitStatus) -> Error {
        let output = self.output();
        let lines: Vec<&str> = output.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let last: String = lines[lines.len().saturating_sub(SHOWN_LINES)..]
            .iter()
            .map(|line| format!("\n      {line}"))
            .collect();
        let problem = format!("failed ({status}){}{last}", if last.is_empty() { "" } else { ":" });
        Error::Pip { command: self.words.clone(), problem, source: None }
    }

    fn output(&self) -> String {
        fs::read(&self.log).map(|output| String::from_utf8_lossy(&output).into_owned()).unwrap_or_default()
    }
}

/// pip may hold a download in several copies, so that a sum would say too much.
fn largest_file(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => Some(largest_file(&entry.path())),
        Ok(metadata) => Some(metadata.len()),
        Err(_) => None,
    });
    sizes.max().unwrap_or(0)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    /// Runs a shell script in pip's place.
    fn download_with(script: &str) -> Result<Vec<u8>> {
        let staging = tempfile::tempdir().unwrap();
        let pip = staging.path().join("pip.sh");
        fs::write(&pip, script).unwrap();
        let command = format!("sh {}", pip.display());
        let env = Environment::from_iter([("PATH", "/usr/bin:/bin"), ("CANDLEWICK_PIP", command.as_str())]);
        let wheel = download("tiny==1.0", staging.path(), &env, &mut |_| ())?;
        Ok(fs::read(wheel).unwrap())
    }

    /// Puts shell scripts of these names into a folder and lets that be the whole PATH.
    fn download_from_path(commands: &[(&str, &str)]) -> Result<Vec<u8>> {
        let staging = tempfile::tempdir().unwrap();
        let bin = staging.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for (name, script) in commands {
            let text = staging.path().join(name);
            fs::write(&text, format!("#!/bin/sh\n{script}")).unwrap();
            // A file that this process had open for writing might still be so in a child of another test, and
            // could not be executed then.
            let installed = Command::new("install").arg("-m755").args([&text, &bin]).status();
            assert!(installed.unwrap().success());
        }
        let env = Environment::from_iter([("PATH", &bin)]);
        let wheel = download("tiny==1.0", staging.path(), &env, &mut |_| ())?;
        Ok(fs::read(wheel).unwrap())
    }

    const ANSWER_ALL: &str = r#"for last; do case $previous in --dest) dest=$last;; esac; previous=$last; done
        echo "$@" > "$dest/tiny.whl""#;

    #[test]
    fn pip_is_told_what_to_do() {
        let arguments = String::from_utf8(download_with(ANSWER_ALL).unwrap()).unwrap();
        assert!(arguments.starts_with("download --no-deps --only-binary :all: "), "{arguments}");
        assert!(arguments.contains(" --no-input --dest /"), "{arguments}");
        assert!(arguments.ends_with(" tiny==1.0\n"), "{arguments}");
    }

    #[test]
    fn temporary_files_stay_inside_staging() {
        let script = format!("{ANSWER_ALL}\necho $TMPDIR > $dest/tiny.whl");
        let folder = String::from_utf8(download_with(&script).unwrap()).unwrap();
        assert!(folder.trim_end().ends_with("/tmp"), "{folder}");
        assert!(!Path::new(folder.trim_end()).exists(), "{folder}");
    }

    #[test]
    fn failure_shows_the_last_lines() {
        let script = "for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done; echo ERROR: no matching >&2; exit 1";
        let error = download_with(script).unwrap_err().to_string();
        assert!(error.contains("download tiny==1.0` failed (exit status: 1):"), "{error}");
        assert!(error.contains("line 9\n      ERROR: no matching"), "{error}");
        assert!(!error.contains("line 4\n"), "{error}");
    }

    #[test]
    fn success_without_a_wheel_is_an_error() {
        let error = download_with("exit 0").unwrap_err().to_string();
        assert!(error.contains("left 0 wheels"), "{error}");
    }

    #[test]
    fn other_commands_are_tried_where_pip_is_missing() {
        let without_pip = "echo /usr/bin/python3: No module named pip >&2; exit 1";
        let found = download_from_path(&[("python3", without_pip), ("pip", ANSWER_ALL)]).unwrap();
        assert!(!found.is_empty());
        assert!(download_from_path(&[("python", ANSWER_ALL)]).is_ok());

        let error = download_from_path(&[]).unwrap_err();
        assert!(error.to_string().starts_with("`python3 -m pip`, `python -m pip`"), "{error}");
        assert!(error.to_string().contains("could not be run"), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }

    #[test]
    fn failing_pip_is_not_passed_over() {
        let broken = "echo ERROR: HTTP error 503 >&2; exit 1";
        let error = download_from_path(&[("python3", broken), ("pip", ANSWER_ALL)]).unwrap_err().to_string();
        assert!(error.contains("HTTP error 503"), "{error}");
    }
}
