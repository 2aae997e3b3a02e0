//! Scores of a pair of texts: the labels of a sequence classifier, of which a reranker has one, or what a language model
//! would answer.

use candle_core::Tensor;
use candlewick_engine::nn::{Activation, Linear, LinearConfig};
use candlewick_engine::{Batch, Pooling, Weights};

use crate::backbone::Backbone;
use crate::checkpoint::{Checkpoint, engine_error};
use crate::folder::Transformers;
use crate::json::read_json;
use crate::text_model::Head;
use crate::{Error, Result};

/// What a head of labels is made of, before its weights are read.
#[derive(Debug)]
pub(crate) struct ScoreConfig {
    num_labels: usize,
    /// Names of the layers and what follows them; none where the graph has them.
    layers: Vec<(&'static str, Option<Activation>)>,
    /// Of a causal language model.
    answers: Option<Answers>,
}

/// What the graph of a causal language model gives: logits of the tokens that are its answers.
#[derive(Clone, Copy, Debug)]
struct Answers {
    /// Whether the first is one's own and the second is to be subtracted.
    has_opposite: bool,
}

/// Logits of labels from the first token of a sequence, or of a language model from its last.
#[derive(Debug)]
pub(crate) struct ScoreHead {
    /// Of the hidden states; `None` where the encoder gives one row per sequence already.
    pooling: Option<Pooling>,
    layers: Vec<Linear>,
    answers: Option<Answers>,
}

impl ScoreConfig {
    /// What the folder says.
    ///
    /// # Errors
    ///
    /// When the model does not classify sequences.
    pub(crate) fn new(checkpoint: &Checkpoint) -> Result<Self> {
        let unsupported = |key: &str, problem: String| {
            let path = checkpoint.backbone.file(&checkpoint.folder);
            Err(Error::UnsupportedConfig { path, key: key.into(), problem })
        };
        match &checkpoint.backbone {
            Backbone::Imported { plan, .. } if plan.is_pooled() => {
                Ok(Self { num_labels: plan.hidden_size(), layers: Vec::new(), answers: None })
            }
            Backbone::Imported { .. } => {
                unsupported("outputs", "no output has one row of labels for each pair of texts".into())
            }
            Backbone::Native(config) => {
                let Some(layers) = config.classifier() else {
                    let problem = format!("`{}` has no head for labels", config.architecture());
                    return unsupported("model_type", problem);
                };
                Ok(Self { num_labels: read_num_labels(checkpoint)?, layers, answers: None })
            }
        }
    }

    /// Of a causal language model whose answers are one token or two, the first of which says yes. The score is its
    /// logit, or its logit less the other's, of which the sigmoid is its share of the two.
    ///
    /// # Errors
    ///
    /// When the model is no graph, of which only the answers' logits were asked for.
    pub(crate) fn of_answers(checkpoint: &Checkpoint, answers: usize) -> Result<Self> {
        match &checkpoint.backbone {
            Backbone::Imported { plan, .. } if plan.hidden_size() == answers => Ok(Self {
                num_labels: 1,
                layers: Vec::new(),
                answers: Some(Answers { has_opposite: answers == 2 }),
            }),
            _ => Err(Error::UnsupportedConfig {
                path: checkpoint.backbone.file(&checkpoint.folder),
                key: "architectures".into(),
                problem: "causal language models are read from ONNX files only".into(),
            }),
        }
    }

    /// How many labels a pair gets.
    pub(crate) fn num_labels(&self) -> usize {
        self.num_labels
    }
}

impl Head for ScoreHead {
    type Output = Vec<f32>;
    type Config = ScoreConfig;

    fn load(config: &ScoreConfig, checkpoint: &Checkpoint, weights: Option<&Weights>) -> Result<Self> {
        let hidden_size = checkpoint.backbone.hidden_size();
        let mut layers = Vec::new();
        if let Some(weights) = weights {
            let count = config.layers.len();
            for (index, (name, activation)) in config.layers.iter().enumerate() {
                let out_features = if index + 1 == count { config.num_labels } else { hidden_size };
                let mut layer = LinearConfig::new(hidden_size, out_features);
                layer.activation = *activation;
                let layer = Linear::load(&weights.root().pp(name), layer, &checkpoint.device)
                    .map_err(|source| engine_error(&checkpoint.name, source))?;
                layers.push(layer);
            }
        }
        let pooling = if config.answers.is_some() { Pooling::LastToken } else { Pooling::Cls };
        let pooling = (!checkpoint.backbone.is_pooled()).then_some(pooling);
        Ok(Self { pooling, layers, answers: config.answers })
    }

    /// One row of logits, `[num_labels]`, for each sequence.
    fn forward(
        &self,
        hidden_states: &Tensor,
        batch: &Batch,
    ) -> candlewick_engine::Result<Vec<Option<Vec<f32>>>> {
        let mut logits = super::pooled(self.pooling, hidden_states, batch)?;
        for layer in &self.layers {
            logits = layer.forward(&logits)?;
        }
        if self.answers.is_some_and(|answers| answers.has_opposite) {
            logits = (logits.narrow(1, 0, 1)? - logits.narrow(1, 1, 1)?)?;
        }
        super::finite_rows(&logits)
    }
}

/// How many labels config.json names, as transformers counts them.
fn read_num_labels(checkpoint: &Checkpoint) -> Result<usize> {
    let path = checkpoint.folder.join("config.json");
    let config: Transformers = read_json(&path)?;
    match config.num_labels().unwrap_or(2) {
        0 => {
            let problem = "there is no label".to_owned();
            Err(Error::UnsupportedConfig { path, key: "id2label".into(), problem })
        }
        labels => Ok(labels),
    }
}
