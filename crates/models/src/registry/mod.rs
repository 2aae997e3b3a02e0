//! models.toml as data: one [`ModelSpec`] per row, looked up by id or alias.
//!
//! Parsing is strict. An unknown key, a doubled name, a path that leaves the model's folder or a malformed
//! checksum is an error that names the file and the row: a registry that half works is worse than none.
//! Which rows can be *loaded* is not stated in them: [`State`] follows from the code that is there.

mod check;
mod pairs;
mod spec;
mod state;

use std::path::Path;
use std::sync::OnceLock;

use serde::Deserialize;

pub(crate) use pairs::Piece;
pub use pairs::{LogitScoreSpec, PairTemplate};
pub use spec::{
    InputSpec, Kind, LateInteractionSpec, ModelSpec, OnnxDialect, Prompts, ReferenceFigures, ReferenceImage,
    SourceSpec, SparseMethod, WeightsFormat, WeightsSpec,
};
pub use state::{Missing, State};

use crate::{Error, Result};

const BUILT_IN: &str = include_str!("../../models.toml");
const BUILT_IN_ORIGIN: &str = "models.toml (built in)";

/// All models that are known by id.
#[derive(Clone, Debug, PartialEq)]
pub struct Registry {
    models: Vec<ModelSpec>,
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
        for (index, spec) in file.model.iter().enumerate() {
            let invalid =
                |problem| Error::InvalidRow { origin: origin.into(), model: spec.id.clone(), problem };
            spec.check().map_err(invalid)?;
            for (position, name) in spec.names().enumerate() {
                let is_same = |other: &str| other.to_lowercase() == name.to_lowercase();
                let is_taken = |row: &ModelSpec| {
                    is_same(&row.id) && position == 0 || row.kind == spec.kind && row.names().any(is_same)
                };
                if file.model[..index].iter().any(is_taken) || spec.names().take(position).any(is_same) {
                    return Err(invalid(format!("the name `{name}` is taken by an earlier row")));
                }
            }
        }
        Ok(Registry { models: file.model })
    }

    /// The rows, in the order of the file.
    pub fn models(&self) -> &[ModelSpec] {
        &self.models
    }

    /// Finds a row by id, or else by alias; letter case is ignored.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownModel`], with the nearest name.
    pub fn get(&self, id: &str) -> Result<&ModelSpec> {
        let wanted = id.to_lowercase();
        let is_wanted = |name: &str| name.to_lowercase() == wanted;
        let by_id = self.models.iter().find(|spec| is_wanted(&spec.id));
        by_id
            .or_else(|| self.models.iter().find(|spec| spec.names().any(is_wanted)))
            .ok_or_else(|| Error::UnknownModel { id: id.into(), nearest: self.nearest(&wanted) })
    }

    /// Finds a row of this kind if one has the name, else any: two models of different kinds may share one.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownModel`], with the nearest name.
    pub fn get_preferring(&self, kind: Kind, id: &str) -> Result<&ModelSpec> {
        let wanted = id.to_lowercase();
        let is_wanted = |spec: &&ModelSpec| spec.names().any(|name| name.to_lowercase() == wanted);
        let of_kind = self.models.iter().filter(|spec| spec.kind == kind).find(is_wanted);
        of_kind.map_or_else(|| self.get(id), Ok)
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
    fn first_loadable_weights_are_chosen_with_their_sources() {
        let onnx = "{ path = \"onnx/model.onnx\", format = \"onnx\", data = [\"onnx/model.onnx_data\"] }";
        let row = ROW.replace("weights = [", &format!("weights = [{onnx}, ")).replace(
            "sources = [",
            "sources = [{ type = \"hub\", repo = \"owner/graphs\", formats = [\"onnx\"] }, ",
        );
        let files = |row: &str| {
            let registry = Registry::parse(row, "my.toml").unwrap();
            let spec = &registry.models()[0];
            let repos: Vec<String> = spec.chosen_sources().map(|source| format!("{source:?}")).collect();
            let files: Vec<&str> = spec.required_files().collect();
            (files.join(" "), repos.iter().filter(|repo| repo.contains("owner/graphs")).count(), spec.state())
        };
        // Graphs need no architecture of ours, so the first weights are taken.
        let graphs = "onnx/model.onnx onnx/model.onnx_data config.json";
        assert_eq!(files(&row), (graphs.into(), 1, State::Loadable));
        let safetensors = "{ path = \"model.safetensors\", format = \"safetensors\" }";
        let safetensors_first =
            row.replace(&format!("{onnx}, {safetensors}"), &format!("{safetensors}, {onnx}"));
        assert_eq!(files(&safetensors_first), ("model.safetensors config.json".into(), 0, State::Loadable));
        let unknown = safetensors_first.replace("\"bert\"", "\"tree\"");
        assert_eq!(files(&unknown), (graphs.into(), 1, State::Loadable), "the first that can be loaded");
        let unknown = ROW.replace("\"bert\"", "\"tree\"");
        let State::NotYet { missing } = files(&unknown).2 else { panic!("there is no such architecture") };
        assert_eq!(missing[0].to_string(), "model.safetensors needs the architecture `tree`");
    }

    #[test]
    fn names_are_unique_within_a_kind_and_ids_in_all() {
        let image = ROW.replace("\"dense\"", "\"image\"");
        check_error(&format!("{ROW}{image}"), "`owner/tiny` is taken");
        let image = image.replace("\"owner/tiny\"\n", "\"owner/tiny-vision\"\n");
        let registry = Registry::parse(&format!("{image}{ROW}"), "my.toml").unwrap();
        assert_eq!(registry.get("tiny").unwrap().id, "owner/tiny-vision", "the first that has the alias");
        assert_eq!(registry.get("owner/tiny").unwrap().kind, Kind::Dense);
        assert_eq!(registry.get_preferring(Kind::Dense, "tiny").unwrap().id, "owner/tiny");
        check_error(&ROW.replace("[\"tiny\"]", "[\"tiny\", \"TINY\"]"), "`TINY` is taken");
    }

    #[test]
    fn figures_fit_the_kind() {
        let figures = |kind: &str, figures: &str| {
            let row = ROW.replace("\"dense\"", &format!("\"{kind}\""));
            let row = match kind {
                "sparse" => row.replace("dim = 8\n", "method = \"splade\"\n"),
                "cross-encoder" => row.replace("dim = 8\n", ""),
                _ => row,
            };
            format!("{row}reference = {{ {figures}, tolerance = 1e-3, source = \"x\" }}\n")
        };
        let image = format!("image = {{ name = \"a.png\", sha256 = \"{}\" }}", "0".repeat(64));
        let good = [
            ("dense", "text = \"a\", values = [1.0]"),
            ("sparse", "text = \"a\", values = [1.0, 2.0], indices = [3, 1]"),
            ("hybrid", "text = \"a\", values = [1.0]"),
            ("late-interaction", "text = \"a\", rows = [[1.0], [2.0]]"),
            ("image", &format!("{image}, values = [1.0]")),
            ("multimodal", &format!("{image}, rows = [[1.0]]")),
            ("cross-encoder", "text = \"a\", documents = [\"b\", \"c\"], values = [1.0, 2.0]"),
        ];
        for (kind, line) in good {
            Registry::parse(&figures(kind, line), "my.toml").unwrap();
            let is_like =
                |other: &str| ["dense", "hybrid"].contains(&kind) && ["dense", "hybrid"].contains(&other);
            for (other, _) in good.iter().filter(|(other, _)| *other != kind && !is_like(other)) {
                check_error(&figures(other, line), "reference: ");
            }
        }
        check_error(&figures("dense", "text = \"a\", values = [nan]"), "not finite");
        check_error(&figures("dense", "text = \"a\", values = []"), "dense models give values");
        check_error(&figures("late-interaction", "text = \"a\", rows = [[]]"), "give rows");
    }

    #[test]
    fn unknown_keys_are_errors() {
        check_error(&ROW.replace("licence", "license"), "unknown field `license`");
        check_error(&format!("{ROW}\n[extra]\n"), "unknown field `extra`");
        check_error(&ROW.replace("repo =", "branch = \"x\", repo ="), "unknown field `branch`");
    }

    #[test]
    fn inputs_are_of_onnx_files() {
        let inputs = "inputs = [{ name = \"task\", plain = 1, query = 0, passage = 2.5 }]\n";
        let onnx = ROW.replace("\"safetensors\"", "\"onnx\"");
        let registry = Registry::parse(&format!("{onnx}{inputs}"), "my.toml").unwrap();
        let expected = InputSpec { name: "task".to_owned(), plain: 1.0, query: 0.0, passage: 2.5 };
        assert_eq!(registry.models()[0].inputs, [expected]);
        check_error(&format!("{ROW}{inputs}"), "inputs are of onnx files");
        check_error(&format!("{ROW}output = \"x\"\n"), "output is of onnx files");
        check_error(&format!("{onnx}{}", inputs.replace("2.5", "inf")), "`task`");
        check_error(&format!("{onnx}{}", inputs.replace("passage = 2.5", "")), "missing field `passage`");
        let twice = inputs.replace("}]", "}, { name = \"task\", plain = 1, query = 0, passage = 2 }]");
        check_error(&format!("{onnx}{twice}"), "`task` is there twice");
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
        check_error(&ROW.replace("dim = 8\n", ""), "must state dim");
        check_error(&ROW.replace("dim = 8", "dim = 8\nvocab_size = 3"), "are of sparse models");
        check_error(
            &ROW.replace("weights = [{ path = \"model.safetensors\", format = \"safetensors\" }]", ""),
            "needs weights",
        );
        check_error(&ROW.replace("format =", "data = [\"x\"], format ="), "are of onnx files");
        check_error(
            &ROW.replace("\"safetensors\"", "\"onnx\", data = [\"/x\"]"),
            "`/x` is not a relative path",
        );
        check_error(
            &ROW.replace("\"owner/tiny\" }", "\"owner/tiny\", formats = [\"onnx\"] }"),
            "no source has",
        );
        let both = "sources = [{ type = \"hub\", repo = \"o/x\", formats = [\"onnx\"] }, ";
        check_error(&ROW.replace("sources = [", both), "a source has ONNX weights");
        check_error("[[model]\n", "line 1");
    }
}
