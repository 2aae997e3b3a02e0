//! What a model's folder says about itself, in the files that sentence-transformers writes.
//!
//! `modules.json` lists what follows the encoder; what its entries mean is for each kind of model to say. A module or
//! a setting that is not understood is an error, because skipping it would change the results.

mod dense;
mod kind;
mod projection;
mod transformers;

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

pub(crate) use self::dense::DenseModules;
pub(crate) use self::projection::{Projection, layer_file, need_layer_file, read_layer, read_projection};
pub(crate) use self::transformers::Transformers;
use crate::json::read_json_if_there;
use crate::registry::Prompts;
use crate::{Error, Result};

/// The facts of a model's folder; what the folder does not state is `None`.
#[derive(Debug, Default)]
pub(crate) struct FolderConfig {
    /// What modules.json lists.
    pub(crate) modules: Option<Vec<Module>>,
    pub(crate) prompts: Prompts,
    pub(crate) max_length: Option<usize>,
    pub(crate) lowercase: bool,
    pub(crate) truncate_left: bool,
}

/// An entry of modules.json.
#[derive(Debug)]
pub(crate) struct Module {
    /// The Python class, with its path.
    class: String,
    /// The folder of its files.
    pub(crate) folder: PathBuf,
}

impl Module {
    /// The Python class without its path: paths differ between versions.
    pub(crate) fn name(&self) -> &str {
        self.class.rsplit('.').next().unwrap_or_default()
    }

    /// The error for a module that has no place where it is.
    pub(crate) fn unsupported(&self, folder: &Path, index: usize) -> Error {
        let problem = format!("module `{}` at place {index} is not supported", self.class);
        unsupported(&folder.join("modules.json"), "type", problem)
    }
}

impl FolderConfig {
    /// Reads the folder's configuration files, all of which may be absent.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::FolderMissing { path: folder.to_owned() });
        }
        let mut config = FolderConfig::default();
        config.read_lengths(folder)?;
        config.read_prompts(folder)?;
        config.read_modules(folder)?;
        Ok(config)
    }

    /// sentence_bert_config.json's `max_seq_length` if stated, else tokenizer_config.json's
    /// `model_max_length` or `max_length`, of which the absurd ones (1e30) stand for "no limit".
    fn read_lengths(&mut self, folder: &Path) -> Result<()> {
        #[derive(Default, Deserialize)]
        struct SentenceBertConfig {
            max_seq_length: Option<usize>,
            #[serde(default)]
            do_lower_case: bool,
        }
        #[derive(Default, Deserialize)]
        struct TokenizerConfig {
            model_max_length: Option<f64>,
            max_length: Option<f64>,
            truncation_side: Option<String>,
        }
        let sentence: SentenceBertConfig =
            read_json_if_there(&folder.join("sentence_bert_config.json"))?.unwrap_or_default();
        let path = folder.join("tokenizer_config.json");
        let tokenizer: TokenizerConfig = read_json_if_there(&path)?.unwrap_or_default();
        let length = tokenizer.model_max_length.or(tokenizer.max_length);
        let stated = length.filter(|length| (1.0..1e9).contains(length)).map(|length| length as usize);
        self.max_length = sentence.max_seq_length.or(stated);
        self.lowercase = sentence.do_lower_case;
        self.truncate_left = match tokenizer.truncation_side.as_deref() {
            None | Some("right") => false,
            Some("left") => true,
            Some(other) => {
                return Err(unsupported(
                    &path,
                    "truncation_side",
                    format!("`{other}` is neither left nor right"),
                ));
            }
        };
        Ok(())
    }

    /// The prompts that sentence-transformers' `encode_query` and `encode_document` would choose.
    fn read_prompts(&mut self, folder: &Path) -> Result<()> {
        #[derive(Default, Deserialize)]
        struct Config {
            #[serde(default)]
            prompts: std::collections::BTreeMap<String, String>,
            default_prompt_name: Option<String>,
        }
        let path = folder.join("config_sentence_transformers.json");
        let config: Config = read_json_if_there(&path)?.unwrap_or_default();
        let fallback = config.default_prompt_name.as_deref();
        let choose = |names: &[&str]| {
            let names = names.iter().copied().chain(fallback);
            names.filter_map(|name| config.prompts.get(name)).next().cloned().unwrap_or_default()
        };
        self.prompts.query = choose(&["query"]);
        self.prompts.passage = choose(&["document", "passage", "corpus"]);
        Ok(())
    }

    fn read_modules(&mut self, folder: &Path) -> Result<()> {
        #[derive(Deserialize)]
        struct Entry {
            path: String,
            r#type: String,
        }
        let path = folder.join("modules.json");
        let Some(modules) = read_json_if_there::<Vec<Entry>>(&path)? else {
            return Ok(());
        };
        let read = |module: Entry| {
            let inside =
                Path::new(&module.path).components().all(|part| matches!(part, Component::Normal(_)));
            if !inside {
                return Err(unsupported(&path, "path", format!("`{}` leaves the folder", module.path)));
            }
            Ok(Module { folder: folder.join(&module.path), class: module.r#type })
        };
        self.modules = Some(modules.into_iter().map(read).collect::<Result<_>>()?);
        Ok(())
    }
}

/// The token that tokenizer_config.json names as its `mask_token`, `cls_token`...
///
/// # Errors
///
/// When the file cannot be read.
pub(crate) fn special_token(folder: &Path, key: &str) -> Result<Option<String>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Token {
        Text(String),
        Added { content: String },
    }
    let path = folder.join("tokenizer_config.json");
    let config: Option<serde_json::Map<String, serde_json::Value>> = read_json_if_there(&path)?;
    let named = config.and_then(|mut config| config.remove(key)).filter(|named| !named.is_null());
    let Some(named) = named else {
        return Ok(None);
    };
    match serde_json::from_value(named).map_err(|source| Error::ParseJson { path, source })? {
        Token::Text(token) | Token::Added { content: token } => Ok(Some(token)),
    }
}

fn unsupported(path: &Path, key: &str, problem: String) -> Error {
    Error::UnsupportedConfig { path: path.to_owned(), key: key.into(), problem }
}

#[cfg(test)]
mod tests {
    use candlewick_engine::Pooling;
    use tempfile::TempDir;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = TempDir::new().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    #[track_caller]
    fn check_error(files: &[(&str, &str)], expected: &[&str]) {
        let folder = folder(files);
        let read = FolderConfig::read(folder.path());
        let modules = read.and_then(|config| DenseModules::read(folder.path(), &config));
        let error = modules.expect_err("must be refused").to_string();
        for expected in expected {
            assert!(error.contains(expected), "{error}");
        }
    }

    const MODULES: &str = r#"[{"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"},
        {"idx":1,"name":"1","path":"1_Pooling","type":"sentence_transformers.models.Pooling"}]"#;

    #[test]
    fn an_empty_folder_states_nothing() {
        let config = FolderConfig::read(folder(&[]).path()).unwrap();
        assert!(config.modules.is_none() && config.max_length.is_none());
    }

    #[test]
    fn lengths_are_read_in_order() {
        let length = |sentence: &str, tokenizer: &str| {
            let files = [("sentence_bert_config.json", sentence), ("tokenizer_config.json", tokenizer)];
            FolderConfig::read(folder(&files).path()).unwrap().max_length
        };
        assert_eq!(length(r#"{"max_seq_length": 256}"#, r#"{"model_max_length": 512}"#), Some(256));
        assert_eq!(length(r#"{"max_seq_length": null}"#, r#"{"model_max_length": 512}"#), Some(512));
        assert_eq!(length("{}", r#"{"max_length": 64}"#), Some(64));
        assert_eq!(length("{}", r#"{"model_max_length": 1000000000000000019884624838656}"#), None);
    }

    #[test]
    fn both_spellings_of_pooling() {
        let pooling = |config: &str| {
            let files = [("modules.json", MODULES), ("1_Pooling/config.json", config)];
            let folder = folder(&files);
            let config = FolderConfig::read(folder.path()).unwrap();
            DenseModules::read(folder.path(), &config).unwrap().pooling
        };
        assert_eq!(pooling(r#"{"pooling_mode": "cls"}"#), Some(Pooling::Cls));
        assert_eq!(pooling(r#"{"pooling_mode": ["lasttoken"]}"#), Some(Pooling::LastToken));
        assert_eq!(
            pooling(r#"{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false}"#),
            Some(Pooling::Mean)
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let pooling = |config| [("modules.json", MODULES), ("1_Pooling/config.json", config)];
        check_error(&pooling(r#"{"pooling_mode_max_tokens": true}"#), &["1_Pooling", "`max_tokens`"]);
        check_error(&pooling(r#"{"pooling_mode": ["cls", "mean"]}"#), &["concatenation of cls, mean"]);
        check_error(&pooling(r#"{"pooling_mode": "mean", "include_prompt": false}"#), &["include_prompt"]);
        check_error(&pooling("{"), &["1_Pooling", "line 1"]);
        check_error(&[("modules.json", MODULES)], &["1_Pooling has no config.json"]);
        let lstm = MODULES.replace("models.Pooling", "models.LSTM");
        check_error(&[("modules.json", &lstm)], &["modules.json", "models.LSTM"]);
        let outside = MODULES.replace("1_Pooling", "../1_Pooling");
        check_error(&[("modules.json", &outside)], &["leaves the folder"]);
        check_error(&[("tokenizer_config.json", r#"{"truncation_side": "middle"}"#)], &["middle"]);
    }

    #[test]
    fn prompts_are_chosen_as_sentence_transformers_does() {
        let prompts = |config: &str| {
            FolderConfig::read(folder(&[("config_sentence_transformers.json", config)]).path())
                .unwrap()
                .prompts
        };
        let named = prompts(r#"{"prompts": {"query": "q: ", "passage": "p: ", "corpus": "c: "}}"#);
        assert_eq!((named.query.as_str(), named.passage.as_str()), ("q: ", "p: "));
        let default = prompts(r#"{"prompts": {"all": "x: ", "query": ""}, "default_prompt_name": "all"}"#);
        assert_eq!((default.query.as_str(), default.passage.as_str()), ("", "x: "));
    }
}
