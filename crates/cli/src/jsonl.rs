//! One JSON object per line: the text is taken out of it, everything else is kept exactly as it is written.

use std::fmt;
use std::io::{self, Write};

use anyhow::{Result, anyhow, bail};
use serde::Deserializer;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// The field that the output adds.
const EMBEDDING: &str = "embedding";

/// An object's fields in order. Values are unparsed, so that no digit of a number is lost.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<(String, Box<RawValue>)>);

/// Takes the text out of a line.
pub(crate) fn parse(line: &str, text_field: &str) -> Result<(String, Fields)> {
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let object = deserializer.deserialize_map(ObjectVisitor);
    let object = object.and_then(|object| deserializer.end().map(|()| object));
    let mut fields = object.map_err(|error| malformed(&error))?;
    let Some(index) = fields.iter().position(|(name, _)| name == text_field) else {
        bail!("no field `{text_field}`");
    };
    let (_, text) = fields.remove(index);
    if fields.iter().any(|(name, _)| name == text_field) {
        bail!("two fields `{text_field}`");
    }
    if text_field != EMBEDDING && fields.iter().any(|(name, _)| name == EMBEDDING) {
        bail!("a field `{EMBEDDING}` is there already");
    }
    if !text.get().starts_with('"') {
        bail!("the field `{text_field}` is not a string");
    }
    let text = serde_json::from_str(text.get())
        .map_err(|error| anyhow!("the field `{text_field}`: {}", without_position(&error)))?;
    Ok((text, Fields(fields)))
}

/// Writes a line: the fields, then the embedding.
pub(crate) fn write(out: &mut impl Write, fields: &Fields, embedding: &[f32]) -> io::Result<()> {
    out.write_all(b"{")?;
    for (name, value) in &fields.0 {
        serde_json::to_writer(&mut *out, name)?;
        write!(out, ":{value},")?;
    }
    write!(out, "\"{EMBEDDING}\":")?;
    serde_json::to_writer(&mut *out, embedding)?;
    out.write_all(b"}\n")
}

fn malformed(error: &serde_json::Error) -> anyhow::Error {
    anyhow!("column {}: {}", error.column(), without_position(error))
}

/// The parser's account less its line number, which is always 1 and not the number in the file.
fn without_position(error: &serde_json::Error) -> String {
    let account = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    account.strip_suffix(&position).unwrap_or(&account).to_owned()
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Vec<(String, Box<RawValue>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, text: &str, output: &str) {
        let (found, fields) = parse(line, "text").unwrap();
        assert_eq!(found, text);
        let mut written = Vec::new();
        write(&mut written, &fields, &[0.1, -1.0, 1e-9]).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), format!("{output}\n"));
    }

    #[track_caller]
    fn check_error(line: &str, expected: &str) {
        let error = parse(line, "text").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn other_fields_pass_through_as_they_are() {
        check(r#"{"text": "a\"\u00e9"}"#, "a\"é", r#"{"embedding":[0.1,-1.0,1e-9]}"#);
        check(
            r#"{"z": 12345678901234567890123.10, "text": "", "\"a": {"deep" : [1, null]}, "z": "\ud83d"}"#,
            "",
            r#"{"z":12345678901234567890123.10,"\"a":{"deep" : [1, null]},"z":"\ud83d","embedding":[0.1,-1.0,1e-9]}"#,
        );
    }

    #[test]
    fn what_is_wrong_with_a_line() {
        check_error("{", "column 1: EOF while parsing an object");
        check_error(r#"{"text": "a"} x"#, "column 15: trailing characters");
        check_error(r#"{"text": nope}"#, "expected ident");
        check_error("[1]", "expected a JSON object");
        check_error("7", "expected a JSON object");
        check_error(r#"{"id": 1}"#, "no field `text`");
        check_error(r#"{"text": 1}"#, "the field `text` is not a string");
        check_error(r#"{"text": null}"#, "the field `text` is not a string");
        check_error(r#"{"text": "\ud83d"}"#, "the field `text`:");
        check_error(r#"{"text": "a", "text": "b"}"#, "two fields `text`");
        check_error(r#"{"embedding": [], "text": "a"}"#, "a field `embedding` is there already");
    }

    #[test]
    fn text_may_be_in_any_field() {
        let (text, fields) = parse(r#"{"text": 1, "body": "b"}"#, "body").unwrap();
        assert_eq!((text.as_str(), fields.0.len()), ("b", 1));
        assert_eq!(parse(r#"{"embedding": "b"}"#, "embedding").unwrap().0, "b");
    }
}
