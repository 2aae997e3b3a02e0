//! What a folder's model makes of texts, where its files leave no doubt.

use std::path::Path;

use serde::Deserialize;

use super::{FolderConfig, Transformers, layer_file};
use crate::json::read_json_if_there;
use crate::registry::Kind;
use crate::{Error, Result};

/// config_sentence_transformers.json, as sentence-transformers and PyLate write it.
#[derive(Default, Deserialize)]
struct SentenceTransformers {
    model_type: Option<String>,
    /// PyLate's.
    query_prefix: Option<String>,
}

impl Kind {
    /// The kind of the model in a folder; `None` where its files leave it open. A language model leaves it open: SPLADE is a
    /// masked one, Qwen3-Reranker a causal one, and so is what many dense models are made of.
    ///
    /// # Errors
    ///
    /// When there is no such folder, or a file in it cannot be read.
    pub fn of_folder(folder: impl AsRef<Path>) -> Result<Option<Kind>> {
        let folder = folder.as_ref();
        if !folder.is_dir() {
            return Err(Error::FolderMissing { path: folder.to_owned() });
        }
        let has = |file: &str| folder.join(file).is_file();
        let config: Option<SentenceTransformers> =
            read_json_if_there(&folder.join("config_sentence_transformers.json"))?;
        let config = config.unwrap_or_default();
        if config.query_prefix.is_some() || has("artifact.metadata") {
            return Ok(Some(Kind::LateInteraction));
        }
        match config.model_type.as_deref() {
            Some("SparseEncoder") => return Ok(Some(Kind::Sparse)),
            Some("CrossEncoder") => return Ok(Some(Kind::CrossEncoder)),
            Some("SentenceTransformer") => return Ok(Some(Kind::Dense)),
            _ => {}
        }
        if ["sparse_linear", "colbert_linear"].iter().all(|name| layer_file(folder, name).is_some()) {
            return Ok(Some(Kind::Hybrid));
        }
        // Weights of tokens in queries, for sparse models that look queries up; what models of words leave out.
        if has("idf.json") || has("stopwords.txt") {
            return Ok(Some(Kind::Sparse));
        }
        let mut modules = FolderConfig::default();
        modules.read_modules(folder)?;
        let has_module = |name| modules.modules.iter().flatten().any(|module| module.name() == name);
        if has_module("SpladePooling") {
            return Ok(Some(Kind::Sparse));
        }
        if has_module("Pooling") {
            return Ok(Some(Kind::Dense));
        }
        if has_module("LogitScore") {
            return Ok(Some(Kind::CrossEncoder));
        }
        let config: Option<Transformers> = read_json_if_there(&folder.join("config.json"))?;
        let classifies = |name: &String| name.ends_with("ForSequenceClassification");
        let is_classifier = config.unwrap_or_default().architectures.iter().any(classifies);
        Ok(is_classifier.then_some(Kind::CrossEncoder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_files(files: &[(&str, &str)]) -> Result<Option<Kind>> {
        let folder = tempfile::TempDir::new().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Kind::of_folder(folder.path())
    }

    #[test]
    fn kinds_are_told_from_files() {
        let config = |model_type: &str| {
            let config = format!(r#"{{"model_type": "{model_type}"}}"#);
            of_files(&[("config_sentence_transformers.json", &config)]).unwrap()
        };
        assert_eq!(config("SparseEncoder"), Some(Kind::Sparse));
        assert_eq!(config("CrossEncoder"), Some(Kind::CrossEncoder));
        assert_eq!(config("SentenceTransformer"), Some(Kind::Dense));
        assert_eq!(config("Quantum"), None);
        let module = |class: &str| {
            let modules = format!(r#"[{{"path": "1", "type": "sentence_transformers.{class}"}}]"#);
            of_files(&[("modules.json", &modules)]).unwrap()
        };
        assert_eq!(module("sparse_encoder.models.SpladePooling"), Some(Kind::Sparse));
        assert_eq!(module("models.Pooling"), Some(Kind::Dense));
        assert_eq!(module("cross_encoder.modules.LogitScore"), Some(Kind::CrossEncoder));
        assert_eq!(module("models.Normalize"), None);
        let architecture = |name: &str| {
            let config = format!(r#"{{"architectures": ["{name}"]}}"#);
            of_files(&[("config.json", &config)]).unwrap()
        };
        assert_eq!(architecture("BertForSequenceClassification"), Some(Kind::CrossEncoder));
        assert_eq!(architecture("BertForMaskedLM"), None);
        assert_eq!(of_files(&[]).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = of_files(&[("modules.json", "{")]).unwrap_err().to_string();
        assert!(error.contains("modules.json"), "{error}");
        assert!(matches!(Kind::of_folder("/gone"), Err(Error::FolderMissing { .. })));
    }

    #[test]
    fn fixtures_are_told_apart() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        for (name, expected) in [
            ("bert-mean", Some(Kind::Dense)),
            ("heads/if-splade", Some(Kind::Sparse)),
            ("heads/splade-bert", None),
            ("heads/colbert-v2", Some(Kind::LateInteraction)),
            ("heads/colbert-jina", Some(Kind::LateInteraction)),
            ("heads/pylate", Some(Kind::LateInteraction)),
            ("heads/bge-m3", Some(Kind::Hybrid)),
            ("heads/minicoil", Some(Kind::Sparse)),
            ("heads/bm42", Some(Kind::Sparse)),
            ("heads/rerank-bert", Some(Kind::CrossEncoder)),
            ("heads/rerank-xlm-roberta", Some(Kind::CrossEncoder)),
            ("heads/rerank-qwen3", None),
            ("heads/rerank-qwen3-seq-cls", Some(Kind::CrossEncoder)),
        ] {
            assert_eq!(Kind::of_folder(root.join(name)).unwrap(), expected, "{name}");
        }
    }
}
