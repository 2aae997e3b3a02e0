//! BERT (Devlin et al., arXiv:1810.04805), the encoder of MiniLM, BGE, E5, GTE and many more.
//!
//! Original: `transformers/models/bert/modeling_bert.py`. The pooler and the heads of pre-training are not
//! part of the encoder; checkpoints that hold them are fine.

use std::path::Path;

use candle_core::{Device, Tensor};
use candlewick_engine::nn::{Activation, Embeddings, LayerNorm, Linear, LinearConfig, Mlp, SelfAttention};
use candlewick_engine::{Batch, Result, TextEncoder, View, Weights};
use serde::Deserialize;

use super::{EncoderConfig, MaskedLmNames};
use crate::Error;
use crate::json::read_json;

/// The keys of config.json that take part in the computation. Defaults are those of the original.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    pub(super) max_position_embeddings: usize,
    #[serde(default = "default_hidden_act")]
    hidden_act: String,
    #[serde(default = "default_type_vocab_size")]
    type_vocab_size: usize,
    #[serde(default = "default_layer_norm_eps")]
    pub(super) layer_norm_eps: f64,
    #[serde(default = "default_position_embedding_type")]
    position_embedding_type: String,
    #[serde(default)]
    is_decoder: bool,
}

impl Config {
    pub(super) fn read(path: &Path) -> crate::Result<Self> {
        let config: Config = read_json(path)?;
        config.check(path)?;
        Ok(config)
    }

    /// Refuses what the architecture can do and this code cannot.
    pub(super) fn check(&self, path: &Path) -> crate::Result<()> {
        let config = self;
        let unsupported = |key: &str, problem: String| {
            Err(Error::UnsupportedConfig { path: path.to_owned(), key: key.into(), problem })
        };
        if let Err(error) = config.hidden_act.parse::<Activation>() {
            return unsupported("hidden_act", error.to_string());
        }
        if config.position_embedding_type != "absolute" {
            let problem = format!("`{}` is not supported, only absolute is", config.position_embedding_type);
            return unsupported("position_embedding_type", problem);
        }
        if config.is_decoder {
            return unsupported("is_decoder", "decoders are not supported".into());
        }
        let heads = config.num_attention_heads;
        if heads == 0 || !config.hidden_size.is_multiple_of(heads) {
            let problem = format!("{heads} heads do not divide hidden_size {}", config.hidden_size);
            return unsupported("num_attention_heads", problem);
        }
        Ok(())
    }

    /// The activation of the feed-forward layers.
    pub(super) fn activation(&self) -> Activation {
        self.hidden_act.parse().expect("it was parsed when the file was read")
    }
}

impl EncoderConfig for Config {
    fn architecture(&self) -> &'static str {
        "bert"
    }

    fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn max_positions(&self) -> Option<usize> {
        Some(self.max_position_embeddings)
    }

    fn masked_lm(&self) -> Option<MaskedLmNames> {
        Some(MaskedLmNames {
            transform: "cls.predictions.transform.dense",
            activation: self.activation(),
            norm: "cls.predictions.transform.LayerNorm",
            norm_eps: self.layer_norm_eps,
            decoder: &["cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"],
            bias: &["cls.predictions.bias", "cls.predictions.decoder.bias"],
        })
    }

    fn classifier(&self) -> Option<Vec<(&'static str, Option<Activation>)>> {
        Some(vec![("bert.pooler.dense", Some(Activation::Tanh)), ("classifier", None)])
    }

    fn load(&self, weights: &Weights, device: &Device) -> Result<Box<dyn TextEncoder>> {
        // Checkpoints of a model with a head keep the encoder below `bert.`.
        let root = weights.root();
        let is_nested = weights.contains("bert.embeddings.word_embeddings.weight");
        let view = if is_nested { root.pp("bert") } else { root };
        let below = view.pp("embeddings");
        let embeddings = Embeddings::load(&below, self.vocab_size, self.hidden_size, device)?
            .with_positions(&below, self.max_position_embeddings)?;
        Ok(Box::new(Bert::load(&view, embeddings, self, device)?))
    }
}

/// The encoder, without what tells positions: that is where its descendants differ.
#[derive(Debug)]
pub(super) struct Bert {
    embeddings: Embeddings,
    embeddings_norm: LayerNorm,
    layers: Vec<Layer>,
    hidden_size: usize,
}

impl Bert {
    /// `embeddings` are of tokens and positions.
    pub(super) fn load(
        view: &View,
        embeddings: Embeddings,
        config: &Config,
        device: &Device,
    ) -> Result<Self> {
        let below = view.pp("embeddings");
        let embeddings = embeddings.with_token_types(&below, config.type_vocab_size)?;
        let norm = below.pp("LayerNorm");
        let embeddings_norm = LayerNorm::load(&norm, config.hidden_size, config.layer_norm_eps, device)?;
        // A buffer that counts from 0, which older versions saved.
        below.finish(&["position_ids"])?;

        let below = view.pp("encoder");
        let load = |view| Layer::load(&view, config, device);
        let layers = below.pp("layer").load_each(config.num_hidden_layers, load)?;
        below.finish(&[])?;
        Ok(Self { embeddings, embeddings_norm, layers, hidden_size: config.hidden_size })
    }
}

impl TextEncoder for Bert {
    fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    fn forward(&self, batch: &Batch) -> Result<Tensor> {
        let mut hidden_states = self.embeddings_norm.forward(&self.embeddings.forward(batch)?)?;
        for layer in &self.layers {
            hidden_states = layer.forward(&hidden_states, batch)?;
        }
        Ok(hidden_states)
    }
}

#[derive(Debug)]
struct Layer {
    attention: SelfAttention,
    attention_norm: LayerNorm,
    mlp: Mlp,
    output_norm: LayerNorm,
}

impl Layer {
    fn load(view: &View, config: &Config, device: &Device) -> Result<Self> {
        let (hidden_size, intermediate_size) = (config.hidden_size, config.intermediate_size);
        let norm =
            |view: &View| LayerNorm::load(&view.pp("LayerNorm"), hidden_size, config.layer_norm_eps, device);

        let attention = view.pp("attention");
        let qkv = ["query", "key", "value"].map(|name| attention.pp("self").pp(name));
        let output = attention.pp("output");
        let mut up = LinearConfig::new(hidden_size, intermediate_size);
        up.activation = Some(config.activation());
        let down = LinearConfig::new(intermediate_size, hidden_size);
        Ok(Self {
            attention: SelfAttention::load(
                &qkv,
                &output.pp("dense"),
                hidden_size,
                config.num_attention_heads,
                device,
            )?,
            attention_norm: norm(&output)?,
            mlp: Mlp {
                up: Linear::load(&view.pp("intermediate").pp("dense"), up, device)?,
                down: Linear::load(&view.pp("output").pp("dense"), down, device)?,
            },
            output_norm: norm(&view.pp("output"))?,
        })
    }

    fn forward(&self, hidden_states: &Tensor, batch: &Batch) -> Result<Tensor> {
        let attended = self.attention.forward(hidden_states, batch)?;
        let attended = self.attention_norm.forward_add(&attended, hidden_states)?;
        self.output_norm.forward_add(&self.mlp.forward(&attended)?, &attended)
    }
}

fn default_hidden_act() -> String {
    "gelu".into()
}

fn default_type_vocab_size() -> usize {
    2
}

fn default_layer_norm_eps() -> f64 {
    1e-12
}

fn default_position_embedding_type() -> String {
    "absolute".into()
}
