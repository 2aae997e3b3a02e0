//! How a pair is laid out for a cross-encoder that is made of a language model, and which tokens are its answer: what a
//! registry row says, or else the folder.

use std::path::Path;

use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::folder::{FolderConfig, Transformers};
use crate::json::{read_json, read_json_if_there};
use crate::registry::{LogitScoreSpec, ModelSpec, PairTemplate};
use crate::text::{PairPrompt, TextTokenizer, find_tokens};
use crate::{Error, Result};

/// What is said of a model's pairs and scores.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// None where the tokenizer joins the two texts.
    template: Option<PairTemplate>,
    /// Of a causal language model: the token that says yes and, if there is one, the one that says no.
    answers: Vec<u32>,
}

impl Layout {
    /// What the row says, or else the folder. Without either, `Qwen3ForCausalLM` is Qwen3-Reranker, and so is
    /// `Qwen3ForSequenceClassification` with one label, as which it is converted.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or names tokens or modules that are not supported.
    pub(super) fn read(folder: &Path, spec: Option<&ModelSpec>) -> Result<Self> {
        let row_template = spec.and_then(|spec| spec.pair_template.clone());
        let row_score = spec.and_then(|spec| spec.logit_score.clone());
        if row_template.is_some() || row_score.is_some() {
            let answers = row_score.map_or(Ok(Vec::new()), |score| token_ids(folder, &score))?;
            return Ok(Self { template: row_template, answers });
        }
        let config: Transformers = read_json_if_there(&folder.join("config.json"))?.unwrap_or_default();
        let is = |name: &str| config.architectures.iter().any(|architecture| architecture == name);
        let answers = match () {
            () if is("Qwen3ForCausalLM") => token_ids(folder, &LogitScoreSpec::yes_or_no())?,
            () if is("Qwen3ForSequenceClassification") && config.num_labels() == Some(1) => Vec::new(),
            () => return Ok(Self::default()),
        };
        if !answers.is_empty() {
            check_modules(folder, &answers)?;
        }
        Ok(Self { template: Some(PairTemplate::qwen3_reranker()), answers })
    }

    /// Of a causal language model: the tokens whose logits are wanted.
    pub(super) fn answers(&self) -> &[u32] {
        &self.answers
    }

    /// Whether the original gives probabilities, not logits.
    pub(super) fn gives_probabilities(&self) -> bool {
        self.template.is_some() || !self.answers.is_empty()
    }

    /// The prompt, if pairs are put into one.
    ///
    /// # Errors
    ///
    /// When the caller has an instruction that has no place, or no room is left for the texts.
    pub(super) fn prompt(
        &self,
        checkpoint: &Checkpoint,
        tokenizer: &TextTokenizer,
    ) -> Result<Option<PairPrompt>> {
        let given = checkpoint.options.instruction.as_deref();
        let template = self.template.as_ref().filter(|_| checkpoint.options.prompts);
        let own = template.and_then(|template| template.instruction.as_deref());
        if let Some(given) = given.filter(|_| own.is_none()) {
            return Err(checkpoint.invalid_option("instruction", given, "the model takes none"));
        }
        let Some(template) = template else {
            return Ok(None);
        };
        let pieces = template.pieces().map_err(|problem| {
            let path = checkpoint.folder.join("config.json");
            Error::UnsupportedConfig { path, key: "pair_template".into(), problem }
        })?;
        let instruction = given.or(own).unwrap_or_default();
        let prompt = PairPrompt::new(tokenizer, [&template.prefix, &template.suffix], &pieces, instruction)?;
        let (fixed, max_length) = (prompt.fixed_tokens(tokenizer), tokenizer.max_length());
        if max_length <= fixed {
            let problem = format!("the prompt alone is {fixed} tokens");
            return Err(checkpoint.invalid_option("max_length", max_length, problem));
        }
        Ok(Some(prompt))
    }
}

/// The ids of the tokens.
fn token_ids(folder: &Path, score: &LogitScoreSpec) -> Result<Vec<u32>> {
    let path = folder.join("tokenizer.json");
    let tokens: Vec<&str> =
        std::iter::once(&score.true_token).chain(&score.false_token).map(String::as_str).collect();
    let found = find_tokens(&path, &tokens)?;
    let id = |(token, id): (&&str, Option<u32>)| {
        let problem = format!("there is no token `{token}`");
        id.ok_or_else(|| Error::UnsupportedConfig { path: path.clone(), key: "vocab".into(), problem })
    };
    tokens.iter().zip(found).map(id).collect()
}

/// That the folder's modules, if it has a list, are those of Qwen3-Reranker: another model's prompt is not known.
fn check_modules(folder: &Path, answers: &[u32]) -> Result<()> {
    #[derive(Deserialize)]
    struct LogitScore {
        true_token_id: u32,
        false_token_id: Option<u32>,
    }
    let config = FolderConfig::read(folder)?;
    for (index, module) in config.modules.iter().flatten().enumerate() {
        match module.name() {
            "Transformer" if index == 0 => {}
            "LogitScore" => {
                let path = module.folder.join("config.json");
                let score: LogitScore = read_json(&path)?;
                let stated: Vec<u32> =
                    std::iter::once(score.true_token_id).chain(score.false_token_id).collect();
                if stated != answers {
                    let problem = format!(
                        "the answers are tokens {stated:?}, not \"yes\" and \"no\" as Qwen3-Reranker's; a registry row \
                         with pair_template and logit_score can describe the model"
                    );
                    return Err(Error::UnsupportedConfig { path, key: "true_token_id".into(), problem });
                }
            }
            _ => return Err(module.unsupported(folder, index)),
        }
    }
    Ok(())
}
