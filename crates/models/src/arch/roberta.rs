//! RoBERTa (Liu et al., arXiv:1907.11692) and XLM-RoBERTa (Conneau et al., arXiv:1911.02116), the encoder of
//! multilingual E5, BGE-M3 and its rerankers: BERT, whose positions count from behind the padding token's id.
//!
//! Original: `transformers/models/{roberta,xlm_roberta}/modeling_*.py`, which are the same.

use std::path::Path;

use candle_core::Device;
use candlewick_engine::nn::{Activation, Embeddings};
use candlewick_engine::{Result, TextEncoder, Weights};
use serde::Deserialize;

use super::bert::{self, Bert};
use super::{EncoderConfig, MaskedLmNames};
use crate::Error;
use crate::json::read_json;

/// The keys of config.json that take part in the computation.
#[derive(Debug)]
pub(super) struct Config {
    architecture: &'static str,
    bert: bert::Config,
    pad_token_id: u32,
}

impl Config {
    pub(super) fn read(path: &Path, architecture: &'static str) -> crate::Result<Self> {
        #[derive(Deserialize)]
        struct Keys {
            #[serde(flatten)]
            bert: bert::Config,
            #[serde(default = "default_pad_token_id")]
            pad_token_id: u32,
        }
        let Keys { bert, pad_token_id } = read_json(path)?;
        bert.check(path)?;
        if bert.max_position_embeddings <= pad_token_id as usize + 1 {
            return Err(Error::UnsupportedConfig {
                path: path.to_owned(),
                key: "max_position_embeddings".into(),
                problem: format!(
                    "{} leaves no position behind pad_token_id {pad_token_id}",
                    bert.max_position_embeddings
                ),
            });
        }
        Ok(Self { architecture, bert, pad_token_id })
    }
}

impl EncoderConfig for Config {
    fn architecture(&self) -> &'static str {
        self.architecture
    }

    fn hidden_size(&self) -> usize {
        self.bert.hidden_size
    }

    fn vocab_size(&self) -> usize {
        self.bert.vocab_size
    }

    fn max_positions(&self) -> Option<usize> {
        Some(self.bert.max_position_embeddings - self.pad_token_id as usize - 1)
    }

    fn masked_lm(&self) -> Option<MaskedLmNames> {
        Some(MaskedLmNames {
            transform: "lm_head.dense",
            activation: Activation::GeluErf,
            norm: "lm_head.layer_norm",
            norm_eps: self.bert.layer_norm_eps,
            decoder: &["lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"],
            bias: &["lm_head.bias", "lm_head.decoder.bias"],
        })
    }

    fn classifier(&self) -> Option<Vec<(&'static str, Option<Activation>)>> {
        Some(vec![("classifier.dense", Some(Activation::Tanh)), ("classifier.out_proj", None)])
    }

    fn load(&self, weights: &Weights, device: &Device) -> Result<Box<dyn TextEncoder>> {
        let root = weights.root();
        // Checkpoints of a model with a head keep the encoder below `roberta.`, XLM-RoBERTa's too.
        let is_nested = weights.contains("roberta.embeddings.word_embeddings.weight");
        let view = if is_nested { root.pp("roberta") } else { root };
        let below = view.pp("embeddings");
        let embeddings = Embeddings::load(&below, self.bert.vocab_size, self.bert.hidden_size, device)?
            .with_positions_behind(&below, self.bert.max_position_embeddings, self.pad_token_id)?;
        Ok(Box::new(Bert::load(&view, embeddings, &self.bert, device)?))
    }
}

fn default_pad_token_id() -> u32 {
    1
}
