//! SPLADE: a text as weights of a language model's vocabulary entries, those it contains and those it could contain.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use candlewick_engine::ImportOptions;

use super::SparseEmbedding;
use crate::checkpoint::Checkpoint;
use crate::head::{SpladeActivation, SpladeConfig, SpladeHead};
use crate::json::read_json_if_there;
use crate::registry::ModelSpec;
use crate::text_model::TextModel;
use crate::{Error, LoadOptions, Result, TextRole};

/// A loaded SPLADE model.
#[derive(Debug)]
pub struct SpladeModel {
    model: TextModel<SpladeHead>,
    vocab_size: usize,
    /// What queries are made of where they need no network.
    query_table: Option<QueryTable>,
}

/// Weights of tokens in queries.
#[derive(Debug)]
struct QueryTable {
    /// By token id.
    weights: HashMap<u32, f32>,
    special_ids: BTreeSet<u32>,
}

impl SpladeModel {
    /// Loads a folder: tokenizer.json, config.json and the weights of a masked language model. With an idf.json beside
    /// them, which has the weights of tokens, queries are looked up there.
    pub(crate) fn open(folder: &Path, spec: Option<ModelSpec>, options: LoadOptions) -> Result<Self> {
        let idf: Option<HashMap<String, f32>> = read_json_if_there(&folder.join("idf.json"))?;
        let mut import = ImportOptions::default();
        import.vocabulary_max = true;
        let checkpoint = Checkpoint::open(folder, spec, options, import)?;
        let activation = if idf.is_some() { SpladeActivation::LogLog } else { SpladeActivation::Log };
        let head = SpladeConfig::new(&checkpoint, activation)?;
        let vocab_size = head.vocab_size();
        checkpoint.check_fact(
            "vocab_size",
            checkpoint.spec.as_ref().and_then(|spec| spec.vocab_size),
            vocab_size,
        )?;
        let model = TextModel::open(checkpoint, head)?;
        if model.tokenizer.vocab_size() > vocab_size {
            return Err(Error::UnsupportedConfig {
                path: folder.join("tokenizer.json"),
                key: "vocab".into(),
                problem: format!(
                    "{} tokens, but the model weighs only {vocab_size} entries",
                    model.tokenizer.vocab_size()
                ),
            });
        }
        let query_table = idf.map(|idf| QueryTable::new(&model, idf)).transpose()?;
        Ok(Self { model, vocab_size, query_table })
    }

    /// The registry's id, or the folder.
    pub fn name(&self) -> &str {
        self.model.name()
    }

    /// How many indices there are.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Tokens of a text that are read, special tokens included.
    pub fn max_length(&self) -> usize {
        self.model.tokenizer.max_length()
    }

    /// One embedding per text, in input order, with indices in ascending order.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized, the device fails, or a weight is not finite.
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S], role: TextRole) -> Result<Vec<SparseEmbedding>> {
        let options = &self.model.checkpoint.options;
        let limit = |embedding: SparseEmbedding| embedding.limited(options.top_k, options.threshold);
        let Some(table) = &self.query_table else {
            return Ok(self.run(texts, role)?.into_iter().map(limit).collect());
        };
        if role == TextRole::Query {
            let encode = |index: usize, text: &S| {
                let encoding = self.model.tokenizer.encode(index, text.as_ref())?;
                Ok(limit(table.look_up(&encoding.token_ids)))
            };
            return self.model.pipeline().map(texts, encode);
        }
        let drop_special = |embedding: SparseEmbedding| {
            let entries = embedding.indices.into_iter().zip(embedding.values);
            limit(entries.filter(|(index, _)| !table.special_ids.contains(index)).collect())
        };
        Ok(self.run(texts, role)?.into_iter().map(drop_special).collect())
    }

    /// Without a prompt, as the original models.
    fn run<S: AsRef<str> + Sync>(&self, texts: &[S], role: TextRole) -> Result<Vec<SparseEmbedding>> {
        let encode = self.model.encode(TextRole::Plain);
        self.model.run_encoded(texts, role, |text| text.as_ref().len(), encode)
    }

    /// Number of tokens of all `texts` together, special tokens included, after truncation. Needs no weights.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized.
    pub fn token_count<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<usize> {
        self.model.count_tokens(texts)
    }
}

impl QueryTable {
    fn new(model: &TextModel<SpladeHead>, idf: HashMap<String, f32>) -> Result<Self> {
        let mut weights = HashMap::with_capacity(idf.len());
        for (token, weight) in idf {
            if !weight.is_finite() {
                return Err(Error::UnsupportedConfig {
                    path: model.checkpoint.folder.join("idf.json"),
                    key: token,
                    problem: format!("{weight} is not a finite weight"),
                });
            }
            weights.extend(model.tokenizer.token_id(&token).map(|id| (id, weight)));
        }
        Ok(Self { weights, special_ids: model.tokenizer.special_ids() })
    }

    /// The weights of a query's tokens, each once, in ascending order.
    fn look_up(&self, token_ids: &[u32]) -> SparseEmbedding {
        let ids: BTreeSet<u32> = token_ids.iter().copied().collect();
        let known = ids.difference(&self.special_ids);
        known.filter_map(|id| Some((*id, *self.weights.get(id)?))).collect()
    }
}
