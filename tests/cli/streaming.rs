//! Input and output as streams: order, and what happens when one end waits or goes away.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use candlewick::TextEmbedding;

use crate::support::{embed, embeddings, fixture, jsonl, objects, run_with};

fn spawn(mut command: std::process::Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn order_is_kept_over_many_windows() {
    let words = ["hello", "world", "the", "river", "quick", "fox", "a", "sea", "brown", "dog"];
    let word = |number: usize| words[number % words.len()];
    let texts: Vec<String> = (0..7000)
        .map(|number| {
            let letters = [number / 1000, number / 100, number / 10, number].map(word);
            letters[number % 3..].join(" ")
        })
        .collect();
    let output = run_with(&mut embed("bert-mean", &["--input-format", "jsonl"]), jsonl(&texts)).ok();
    let ids: Vec<usize> =
        objects(&output).iter().map(|object| object["id"].as_u64().unwrap() as usize).collect();
    assert_eq!(ids, Vec::from_iter(0..texts.len()));
    let expected = TextEmbedding::from_folder(fixture("bert-mean")).unwrap().embed(&texts).unwrap();
    assert_eq!(embeddings(&output), expected);
}

/// Sends the lines of a child's standard output, so that a test can give up waiting for one.
fn lines(child: &mut Child) -> Receiver<String> {
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || stdout.lines().try_for_each(|line| sender.send(line.unwrap())));
    receiver
}

#[test]
fn each_line_is_answered_at_once() {
    let mut child = spawn(embed("bert-mean", &[]));
    let answers = lines(&mut child);
    let mut stdin = child.stdin.take().unwrap();
    let mut ask = |line: &str| {
        stdin.write_all(line.as_bytes()).unwrap();
        answers.recv_timeout(Duration::from_secs(60)).unwrap()
    };
    let hello = ask("hello\n");
    let world = ask("world\n");
    assert_ne!(hello, world);
    // A line is complete only with its end.
    stdin.write_all(b"hel").unwrap();
    assert!(answers.recv_timeout(Duration::from_millis(50)).is_err());
    stdin.write_all(b"lo").unwrap();
    drop(stdin);
    assert_eq!(answers.recv_timeout(Duration::from_secs(60)).unwrap(), hello);
    assert!(child.wait().unwrap().success());
}

#[test]
fn reader_that_goes_away_ends_it_quietly() {
    let mut child = spawn(embed("bert-mean", &[]));
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || while stdin.write_all(&b"hello\n".repeat(1000)).is_ok() {});
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"embedding\":["), "{line}");
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn reader_that_goes_away_before_a_list_ends_it_quietly() {
    for args in [&["models"][..], &["models", "--json"]] {
        let mut child = spawn(crate::support::candlewick(args));
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    }
}
