//! Weights of vocabulary entries: SPLADE (Formal et al., arXiv:2109.10086) and its kin whose queries need no network
//! (Geng et al., arXiv:2411.04403).
//!
//! A masked language model's logits say which words a text could contain at each token's place; an entry's weight is
//! made of the largest. The logarithm is monotonic, so it is taken of maxima alone.

use candle_core::Tensor;
use candlewick_engine::kernels::splade_max;
use candlewick_engine::nn::{LayerNorm, Linear, LinearConfig, VocabularyMax};
use candlewick_engine::{Batch, Weights};

use crate::arch::MaskedLmNames;
use crate::backbone::Backbone;
use crate::checkpoint::{Checkpoint, engine_error};
use crate::sparse::SparseEmbedding;
use crate::text_model::Head;
use crate::{Error, Result};

/// What a SPLADE head is made of, before its weights are read.
#[derive(Debug)]
pub(crate) struct SpladeConfig {
    vocab_size: usize,
    activation: SpladeActivation,
    decoder: Decoder<MaskedLmNames>,
}

/// What an entry's largest logit becomes, if it is above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpladeActivation {
    /// `ln(1 + x)`
    Log,
    /// `ln(1 + ln(1 + x))`
    LogLog,
}

/// Where logits come from; `M` is what is known of the checkpoint's own head.
#[derive(Debug)]
enum Decoder<M> {
    /// This head.
    MaskedLm(M),
    /// The graph gives each token's.
    OfTokens,
    /// The graph gives each sequence's largest.
    Maxima,
    /// The graph gives each sequence's weights.
    Weights,
}

/// From hidden states, or what a graph makes of them, to weights of vocabulary entries.
#[derive(Debug)]
pub(crate) struct SpladeHead {
    vocab_size: usize,
    activation: SpladeActivation,
    decoder: Decoder<MaskedLm>,
}

/// From hidden states to each sequence's largest logits.
#[derive(Debug)]
struct MaskedLm {
    transform: Linear,
    norm: LayerNorm,
    decoder: VocabularyMax,
}

impl SpladeConfig {
    /// What the folder says.
    ///
    /// # Errors
    ///
    /// When the architecture has no such head.
    pub(crate) fn new(checkpoint: &Checkpoint, activation: SpladeActivation) -> Result<Self> {
        let (vocab_size, decoder) = match &checkpoint.backbone {
            Backbone::Imported { plan, .. } => {
                let decoder = match (plan.is_vocabulary_max(), plan.is_pooled()) {
                    (true, _) => Decoder::Maxima,
                    (false, false) => Decoder::OfTokens,
                    (false, true) => Decoder::Weights,
                };
                (plan.hidden_size(), decoder)
            }
            Backbone::Native(config) => match config.masked_lm() {
                Some(names) => (config.vocab_size(), Decoder::MaskedLm(names)),
                None => {
                    return Err(Error::UnsupportedConfig {
                        path: checkpoint.folder.join("config.json"),
                        key: "model_type".into(),
                        problem: format!("`{}` has no head for masked tokens", config.architecture()),
                    });
                }
            },
        };
        Ok(Self { vocab_size, activation, decoder })
    }

    /// How many indices there are.
    pub(crate) fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}

impl Head for SpladeHead {
    type Output = SparseEmbedding;
    type Config = SpladeConfig;

    fn load(config: &SpladeConfig, checkpoint: &Checkpoint, weights: Option<&Weights>) -> Result<Self> {
        let decoder = match &config.decoder {
            Decoder::MaskedLm(names) => {
                let weights = weights.expect("only an architecture has such a head of its own");
                let masked_lm = MaskedLm::load(names, checkpoint, weights, config.vocab_size);
                Decoder::MaskedLm(masked_lm.map_err(|source| engine_error(&checkpoint.name, source))?)
            }
            Decoder::OfTokens => Decoder::OfTokens,
            Decoder::Maxima => Decoder::Maxima,
            Decoder::Weights => Decoder::Weights,
        };
        Ok(Self { vocab_size: config.vocab_size, activation: config.activation, decoder })
    }

    /// The entries whose weights are above zero, in ascending order.
    fn forward(
        &self,
        hidden_states: &Tensor,
        batch: &Batch,
    ) -> candlewick_engine::Result<Vec<Option<SparseEmbedding>>> {
        let maxima = match &self.decoder {
            Decoder::MaskedLm(masked_lm) => masked_lm.forward(hidden_states, batch)?,
            _ => hidden_states.clone(),
        };
        let values = maxima.flatten_all()?.to_vec1::<f32>()?;
        let embedding = |maxima: &[f32]| {
            let weights = maxima.iter().enumerate().filter(|(_, max)| **max > 0.0 || max.is_nan());
            let weights = weights.map(|(index, max)| (index as u32, self.weight(*max)));
            let embedding: SparseEmbedding = weights.collect();
            embedding.values.iter().all(|value| value.is_finite()).then_some(embedding)
        };
        if !matches!(self.decoder, Decoder::OfTokens) {
            return Ok(values.chunks_exact(self.vocab_size.max(1)).map(embedding).collect());
        }
        let of_sequence = |rows: std::ops::Range<usize>| {
            let mut maxima = vec![0.0; self.vocab_size];
            splade_max(&mut maxima, &values[rows.start * self.vocab_size..rows.end * self.vocab_size]);
            embedding(&maxima)
        };
        Ok(batch.sequences().map(of_sequence).collect())
    }
}

impl SpladeHead {
    /// The weight of an entry whose largest logit is this.
    fn weight(&self, max: f32) -> f32 {
        match (&self.decoder, self.activation) {
            (Decoder::Weights, _) => max,
            (_, SpladeActivation::Log) => max.ln_1p(),
            (_, SpladeActivation::LogLog) => max.ln_1p().ln_1p(),
        }
    }
}

impl MaskedLm {
    fn load(
        names: &MaskedLmNames,
        checkpoint: &Checkpoint,
        weights: &Weights,
        vocab_size: usize,
    ) -> candlewick_engine::Result<Self> {
        let (root, device) = (weights.root(), &checkpoint.device);
        let hidden_size = checkpoint.backbone.hidden_size();
        let mut transform = LinearConfig::new(hidden_size, hidden_size);
        transform.activation = Some(names.activation);
        // What is missing is reported under its last name: that which all such checkpoints have.
        let first = |names: &[&'static str]| {
            let found = names.iter().find(|name| weights.contains(name));
            found.or(names.last()).copied().expect("a tensor has a name")
        };
        let table = root.read_f32(first(names.decoder), &[vocab_size, hidden_size])?;
        let bias = root.read_f32(first(names.bias), &[vocab_size])?;
        Ok(Self {
            transform: Linear::load(&root.pp(names.transform), transform, device)?,
            norm: LayerNorm::load(&root.pp(names.norm), hidden_size, names.norm_eps, device)?,
            decoder: VocabularyMax::new(&table, bias, hidden_size, root.precision(), device)?,
        })
    }

    fn forward(&self, hidden_states: &Tensor, batch: &Batch) -> candlewick_engine::Result<Tensor> {
        self.decoder.forward(&self.norm.forward(&self.transform.forward(hidden_states)?)?, batch)
    }
}
