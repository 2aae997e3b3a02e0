//! One JSON object per line: the text is taken out of it, everything else is kept exactly as it is written.

use std::fmt;
use std::io::{self, Write};

use anyhow::{Result, anyhow, bail};
use candlewick::{Embedding, HybridEmbedding, MultiVectorEmbedding, SparseEmbedding};
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// What a model makes of one text: the fields that its line gets.
#[derive(Debug)]
pub(crate) enum Computed {
    Dense(Embedding),
    Sparse(SparseEmbedding),
    LateInteraction(MultiVectorEmbedding),
    Hybrid(HybridEmbedding),
    Score(f32),
    /// A score out of the input's order, with the text's place there.
    Ranked {
        index: usize,
        score: f32,
    },
}

/// The names of those fields.
pub(crate) mod added {
    pub(crate) const DENSE: &[&str] = &["embedding"];
    pub(crate) const SPARSE: &[&str] = &["indices", "values"];
    pub(crate) const LATE_INTERACTION: &[&str] = &["embeddings"];
    pub(crate) const HYBRID: &[&str] = &["embedding", "indices", "values", "embeddings"];
    pub(crate) const SCORE: &[&str] = &["score"];
    pub(crate) const RANKED: &[&str] = &["index", "score"];
}

/// An object's fields in order. Values are unparsed, so that no digit of a number is lost.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<(String, Box<RawValue>)>);

/// Takes the text out of a line to which the fields `added` will be added.
pub(crate) fn parse(line: &str, text_field: &str, added: &[&str]) -> Result<(String, Fields)> {
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
    if let Some((name, _)) = fields.iter().find(|(name, _)| added.contains(&name.as_str())) {
        bail!("a field `{name}` is there already");
    }
    if !text.get().starts_with('"') {
        bail!("the field `{text_field}` is not a string");
    }
    let text = serde_json::from_str(text.get())
        .map_err(|error| anyhow!("the field `{text_field}`: {}", without_position(&error)))?;
    Ok((text, Fields(fields)))
}

/// Writes a line: the fields, then what was computed.
pub(crate) fn write(out: &mut impl Write, fields: &Fields, computed: &Computed) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Line { fields, computed })?;
    out.write_all(b"\n")
}

struct Line<'a> {
    fields: &'a Fields,
    computed: &'a Computed,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_map(None)?;
        for (name, value) in &self.fields.0 {
            line.serialize_entry(name, value)?;
        }
        match self.computed {
            Computed::Dense(embedding) => line.serialize_entry("embedding", embedding)?,
            Computed::Sparse(embedding) => {
                line.serialize_entry("indices", &embedding.indices)?;
                line.serialize_entry("values", &embedding.values)?;
            }
            Computed::LateInteraction(embedding) => line.serialize_entry("embeddings", embedding)?,
            Computed::Hybrid(embedding) => {
                if let Some(dense) = &embedding.dense {
                    line.serialize_entry("embedding", dense)?;
                }
                if let Some(sparse) = &embedding.sparse {
                    line.serialize_entry("indices", &sparse.indices)?;
                    line.serialize_entry("values", &sparse.values)?;
                }
                if let Some(multi_vector) = &embedding.multi_vector {
                    line.serialize_entry("embeddings", multi_vector)?;
                }
            }
            Computed::Score(score) => line.serialize_entry("score", score)?,
            Computed::Ranked { index, score } => {
                line.serialize_entry("index", index)?;
                line.serialize_entry("score", score)?;
            }
        }
        line.end()
    }
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
        let (found, fields) = parse(line, "text", added::DENSE).unwrap();
        assert_eq!(found, text);
        let mut written = Vec::new();
        write(&mut written, &fields, &Computed::Dense(vec![0.1, -1.0, 1e-9])).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), format!("{output}\n"));
    }

    #[track_caller]
    fn check_error(line: &str, expected: &str) {
        let error = parse(line, "text", added::DENSE).unwrap_err().to_string();
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
        let (text, fields) = parse(r#"{"text": 1, "body": "b"}"#, "body", added::DENSE).unwrap();
        assert_eq!((text.as_str(), fields.0.len()), ("b", 1));
        assert_eq!(parse(r#"{"embedding": "b"}"#, "embedding", added::DENSE).unwrap().0, "b");
    }

    #[test]
    fn what_each_kind_adds() {
        let multi_vector = MultiVectorEmbedding::new(2, vec![0.5, 1.0, -1.5, 2.0]).unwrap();
        let hybrid = HybridEmbedding {
            dense: Some(vec![0.5]),
            sparse: Some([(7, 0.5)].into_iter().collect()),
            multi_vector: Some(MultiVectorEmbedding::new(1, vec![1.0]).unwrap()),
        };
        for (computed, names, expected) in [
            (
                Computed::Sparse([(7, 0.5), (u32::MAX, 1.0)].into_iter().collect()),
                added::SPARSE,
                r#"{"id":1,"indices":[7,4294967295],"values":[0.5,1.0]}"#,
            ),
            (
                Computed::LateInteraction(multi_vector),
                added::LATE_INTERACTION,
                r#"{"id":1,"embeddings":[[0.5,1.0],[-1.5,2.0]]}"#,
            ),
            (
                Computed::Hybrid(hybrid),
                added::HYBRID,
                r#"{"id":1,"embedding":[0.5],"indices":[7],"values":[0.5],"embeddings":[[1.0]]}"#,
            ),
            (Computed::Score(-0.25), added::SCORE, r#"{"id":1,"score":-0.25}"#),
            (Computed::Ranked { index: 3, score: 0.1 }, added::RANKED, r#"{"id":1,"index":3,"score":0.1}"#),
        ] {
            let (_, fields) = parse(r#"{"id": 1, "text": ""}"#, "text", names).unwrap();
            let mut written = Vec::new();
            write(&mut written, &fields, &computed).unwrap();
            assert_eq!(String::from_utf8(written.clone()).unwrap(), format!("{expected}\n"));
            // What it adds is what it refuses.
            let again = parse(expected, "id", names).unwrap_err().to_string();
            assert!(again.contains("is there already"), "{again}");
            let line: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&written).unwrap();
            assert!(line.keys().all(|name| name == "id" || names.contains(&name.as_str())));
        }
    }
}
