//! How texts are read.

use serde_json::{Value, json};

use crate::support::{embed, objects, run, run_with, text};

/// The embeddings of lines, as text, are those of the same texts as arguments.
#[track_caller]
fn check_lines(input: &str, texts: &[&str]) {
    let from_stdin = run_with(&mut embed("bert-mean", &[]), input).embeddings();
    let expected = run(&mut embed("bert-mean", &[&["--"], texts].concat())).embeddings();
    assert_eq!(from_stdin, expected, "{input:?}");
}

#[test]
fn a_line_is_a_text() {
    check_lines("hello\nworld\n", &["hello", "world"]);
    check_lines("hello\nworld", &["hello", "world"]);
    check_lines("hello\n\nworld\n\n", &["hello", "", "world", ""]);
    check_lines("hello\r\nworld\r\n", &["hello", "world"]);
    check_lines("\u{feff}hello\n", &["hello"]);
    check_lines("\n", &[""]);
}

#[test]
fn no_lines_no_output() {
    assert_eq!(run_with(&mut embed("bert-mean", &[]), "").ok(), b"");
    assert_eq!(run_with(&mut embed("bert-mean", &["--input-format", "jsonl"]), "\n \n").ok(), b"");
}

#[test]
fn input_may_be_a_file_or_a_dash() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts");
    std::fs::write(&file, "hello\nworld\n").unwrap();
    let from_file = run(&mut embed("bert-mean", &["-i", text(&file)])).ok();
    assert_eq!(from_file, run_with(&mut embed("bert-mean", &["--input", "-"]), "hello\nworld\n").ok());
    assert_eq!(from_file, run(&mut embed("bert-mean", &["hello", "world"])).ok());
}

#[test]
fn very_long_line_is_cut_like_any_other_text() {
    let long = "hello ".repeat(1 << 20);
    let lines = format!("{long}\nworld\n");
    let embeddings = run_with(&mut embed("bert-mean", &[]), lines).embeddings();
    let expected = run(&mut embed("bert-mean", &[&long[..1000], "world"])).embeddings();
    assert_eq!(embeddings, expected);
}

#[test]
fn fields_of_json_lines_pass_through_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.jsonl");
    let input = concat!(
        r#"{"z": 1.50, "text": "hello", "id": "first", "a": {"c": [], "b": 12345678901234567890123}}"#,
        "\n\n",
        r#"{"text": "w\u00f6rld\n", "id": 2}"#,
        "\r\n",
    );
    std::fs::write(&file, input).unwrap();
    let output = run(&mut embed("bert-mean", &["-i", text(&file)])).ok();
    let lines: Vec<&str> = std::str::from_utf8(&output).unwrap().lines().collect();
    let start = r#"{"z":1.50,"id":"first","a":{"c": [], "b": 12345678901234567890123},"embedding":[-0."#;
    assert!(lines[0].starts_with(start), "{}", lines[0]);
    assert!(lines[1].starts_with(r#"{"id":2,"embedding":["#), "{}", lines[1]);

    let expected = objects(&run(&mut embed("bert-mean", &["hello", "wörld\n"])).ok());
    let embeddings = |objects: &[serde_json::Map<String, Value>]| {
        objects.iter().map(|object| object["embedding"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(embeddings(&objects(&output)), embeddings(&expected));
}

#[test]
fn text_field_may_have_another_name() {
    let input = r#"{"text": 1, "body": "hello"}"#;
    let output =
        run_with(&mut embed("bert-mean", &["--input-format", "jsonl", "--text-field", "body"]), input);
    assert_eq!(objects(&output.ok())[0]["text"], json!(1));
}

#[test]
fn input_format_overrules_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.jsonl");
    std::fs::write(&file, "{\n").unwrap();
    let as_text = run(&mut embed("bert-mean", &["-i", text(&file), "--input-format", "text"])).ok();
    assert_eq!(as_text, run(&mut embed("bert-mean", &["{"])).ok());
}

/// A wrong third line: the first two have their embeddings, the error names file and line.
#[track_caller]
fn check_bad_line(name: &str, lines: &[&[u8]], expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let input = lines.join(&b'\n');
    std::fs::write(folder.path().join(name), &input).unwrap();
    let run_of_file = run(embed("bert-mean", &["-i", name]).current_dir(&folder));
    let run_of_file = run_of_file.fails(1, &[&format!("error: {name}: line 3: {expected}")]);
    assert_eq!(objects(&run_of_file.stdout).len(), 2);

    let format = if name.ends_with(".jsonl") { "jsonl" } else { "text" };
    let run_of_stdin = run_with(&mut embed("bert-mean", &["--input-format", format]), &input);
    let run_of_stdin = run_of_stdin.fails(1, &[&format!("error: standard input: line 3: {expected}")]);
    assert_eq!(run_of_stdin.stdout, run_of_file.stdout);
}

#[test]
fn invalid_utf8_names_the_line() {
    check_bad_line("in.txt", &[b"a", b"b", b"caf\xe9 noir", b"d"], "not valid UTF-8 at byte 4");
    check_bad_line(
        "in.jsonl",
        &[br#"{"text":"a"}"#, br#"{"text":"b"}"#, b"\xff"],
        "not valid UTF-8 at byte 1",
    );
}

#[test]
fn bad_json_names_the_line() {
    let check = |line: &str, expected: &str| {
        let good = br#"{"text": "a"}"#;
        check_bad_line("in.jsonl", &[good, good, line.as_bytes(), good], expected);
    };
    check(r#"{"text": "a""#, "column 12: EOF");
    check(r#"{"id": 7}"#, "no field `text`");
    check(r#"{"text": 7}"#, "the field `text` is not a string");
    check(r#"["text"]"#, "column 0: invalid type: sequence, expected a JSON object");
    check(r#"{"text": "a", "embedding": []}"#, "a field `embedding` is there already");
}
