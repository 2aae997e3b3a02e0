//! How embeddings are written, and what is left behind when they can't be.

use std::path::Path;
use std::process::Command;

use crate::support::{candlewick, embed, fixture, isolate, names, npy, run, run_with, text};

#[test]
fn numbers_are_the_shortest_that_read_back_the_same() {
    let output = String::from_utf8(run(&mut embed("bert-mean", &["hello"])).ok()).unwrap();
    let numbers = output.trim_end().strip_prefix("{\"embedding\":[").unwrap().strip_suffix("]}").unwrap();
    for number in numbers.split(',') {
        assert_eq!(number.parse::<f32>().unwrap().to_string(), number);
    }
}

#[test]
fn npy_holds_the_same_values() {
    let folder = tempfile::tempdir().unwrap();
    for lines in ["", "hello\n", "hello\n\nworld\n"] {
        let expected = run_with(&mut embed("bert-mean", &[]), lines).embeddings();
        let (columns, rows) = npy(&run_with(&mut embed("bert-mean", &["--format", "npy"]), lines).ok());
        assert_eq!((columns, &rows), (32, &expected));

        let file = folder.path().join("out.npy");
        let output = run_with(&mut embed("bert-mean", &["-o", text(&file)]), lines).ok();
        assert_eq!(output, b"");
        assert_eq!(npy(&std::fs::read(&file).unwrap()), (columns, rows));
        assert_eq!(names(folder.path()), ["out.npy"]);
    }
}

#[test]
fn npy_is_as_wide_as_dim() {
    let output = run(&mut embed("bert-mean", &["--format", "npy", "--dim", "5", "a", "b"])).ok();
    let (columns, rows) = npy(&output);
    assert_eq!((columns, rows.len()), (5, 2));
}

#[test]
fn format_overrules_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(embed("bert-mean", &["-o", "out.npy", "--format", "jsonl", "a"]).current_dir(&folder));
    assert_eq!(output.ok(), b"");
    let written = std::fs::read(folder.path().join("out.npy")).unwrap();
    assert_eq!(written, run(&mut embed("bert-mean", &["a"])).ok());
}

#[test]
fn file_is_replaced_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.jsonl");
    std::fs::write(&file, "old".repeat(10_000)).unwrap();
    let output = run(embed("bert-mean", &["-o", "out.jsonl", "hello"]).current_dir(&folder)).ok();
    assert_eq!(output, b"");
    assert_eq!(std::fs::read(&file).unwrap(), run(&mut embed("bert-mean", &["hello"])).ok());
    assert_eq!(names(folder.path()), ["out.jsonl"]);
}

#[test]
fn dash_is_standard_output() {
    let expected = run(&mut embed("bert-mean", &["hello"])).ok();
    assert_eq!(run(&mut embed("bert-mean", &["-o", "-", "hello"])).ok(), expected);
    #[cfg(unix)]
    assert_eq!(run(&mut embed("bert-mean", &["-o", "/dev/stdout", "hello"])).ok(), expected);
}

/// A run into out.jsonl that fails leaves the old file, and nothing else.
#[track_caller]
fn check_old_file_survives(command: &mut Command, input: &str, folder: &Path, code: i32, expected: &[&str]) {
    let old = "old\n";
    std::fs::write(folder.join("out.jsonl"), old).unwrap();
    let run = run_with(command.current_dir(folder), input).fails(code, expected);
    assert_eq!(run.stdout, b"");
    assert_eq!(std::fs::read_to_string(folder.join("out.jsonl")).unwrap(), old);
    assert_eq!(names(folder), ["out.jsonl"]);
}

#[test]
fn old_file_survives_bad_input_and_bad_options() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["-o", "out.jsonl", "--input-format", "jsonl"];
    let lines = "{\"text\": \"a\"}\n{\n";
    check_old_file_survives(&mut embed("bert-mean", &args), lines, folder.path(), 1, &["line 2"]);
    let args = ["-o", "out.jsonl", "--dim", "33"];
    check_old_file_survives(&mut embed("bert-mean", &args), "a\n", folder.path(), 2, &["dim 33"]);
    let command = &mut candlewick(["embed", "-o", "out.jsonl", "--model", "nope"]);
    check_old_file_survives(command, "a\n", folder.path(), 2, &["unknown model `nope`"]);
}

/// The command with files limited to a few hundred bytes, which fails in the middle as a full disk does.
#[cfg(unix)]
fn with_little_space(args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\"";
    isolate(&mut command).args(["-c", script, env!("CARGO_BIN_EXE_candlewick"), "embed"]);
    command.args(["--model-dir", &fixture("bert-mean")]).args(args);
    command
}

#[test]
#[cfg(unix)]
fn old_file_survives_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let expected = ["could not write out.jsonl: File too large"];
    for format in ["jsonl", "npy"] {
        // One window, and more than one: the failure is met at the end, and on the way.
        for lines in ["hello\n".repeat(20), "hello\n".repeat(10_000)] {
            let mut command = with_little_space(&["-o", "out.jsonl", "--format", format]);
            check_old_file_survives(&mut command, &lines, folder.path(), 1, &expected);
        }
    }
}

#[test]
#[cfg(unix)]
fn full_disk_leaves_no_new_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = with_little_space(&["-o", "out.jsonl", "a", "b", "c", "d", "e"]);
    run(command.current_dir(&folder)).fails(1, &["could not write out.jsonl: File too large"]);
    assert_eq!(names(folder.path()), [""; 0]);
    let mut command = with_little_space(&["--format", "npy", "a", "b", "c", "d", "e", "f", "g", "h", "i"]);
    let run = run(&mut command).fails(1, &["could not write a temporary file in "]);
    assert_eq!(run.stdout, b"");
}

#[test]
#[cfg(unix)]
fn old_file_survives_a_signal() {
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("out.jsonl"), "old").unwrap();
    for (name, number) in [("INT", 2), ("TERM", 15)] {
        let mut command = embed("bert-mean", &["-o", "out.jsonl"]);
        command.current_dir(&folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // More than the pipe and both windows hold: once it is written, the command is at work.
        stdin.write_all(&b"hello\n".repeat(50_000)).unwrap();
        assert_eq!(names(folder.path()).len(), 2);
        let kill = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        assert_eq!(child.wait().unwrap().signal(), Some(number));
        assert_eq!(names(folder.path()), ["out.jsonl"]);
        assert_eq!(std::fs::read_to_string(folder.path().join("out.jsonl")).unwrap(), "old");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn full_device() {
    for format in ["jsonl", "npy"] {
        let args = ["-o", "/dev/full", "--format", format, "hello"];
        run(&mut embed("bert-mean", &args)).fails(1, &["could not write /dev/full: No space left"]);

        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = embed("bert-mean", &["--format", format, "hello"]);
        let output = command.stdout(full).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr.starts_with("error: could not write standard output: No space left"), "{stderr}");
    }
}

#[test]
#[cfg(unix)]
fn fifo_is_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for format in ["jsonl", "npy"] {
        let read = std::thread::spawn({
            let fifo = fifo.clone();
            move || std::fs::read(fifo).unwrap()
        });
        let args = ["-o", text(&fifo), "--format", format, "hello"];
        assert_eq!(run(&mut embed("bert-mean", &args)).ok(), b"");
        let expected = run(&mut embed("bert-mean", &["--format", format, "hello"])).ok();
        assert_eq!(read.join().unwrap(), expected);
    }
    assert_eq!(names(folder.path()), ["fifo"]);
}

#[test]
fn output_that_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["-o", "no/out.jsonl", "hello"];
    run(embed("bert-mean", &args).current_dir(&folder)).fails(1, &["could not write no/out.jsonl: "]);
    let args = ["-o", ".", "hello"];
    run(embed("bert-mean", &args).current_dir(&folder)).fails(1, &["could not write .: Is a directory"]);
}
