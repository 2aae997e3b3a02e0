//! A cross-encoder: a model that reads a query and a document together and says how well they fit.

mod layout;

use std::path::Path;

use candlewick_engine::ImportOptions;

use self::layout::Layout;
use crate::checkpoint::Checkpoint;
use crate::head::{ScoreConfig, ScoreHead};
use crate::registry::{Kind, ModelSpec};
use crate::text::{Encoding, PairPrompt};
use crate::text_model::{TextModel, fetch};
use crate::{LoadOptions, Result, TextRole, multi_vector};

/// A loaded cross-encoder.
#[derive(Debug)]
pub struct RerankModel {
    model: TextModel<ScoreHead>,
    num_labels: usize,
    /// Where pairs are put into one.
    prompt: Option<PairPrompt>,
    activation: ScoreActivation,
}

/// What a score is made of a pair's logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScoreActivation {
    /// The logit itself.
    #[default]
    Raw,
    /// `1 / (1 + exp(-logit))`, between 0 and 1.
    Sigmoid,
    /// The label's share of `exp(logit)` of all labels.
    Softmax,
}

/// How pairs are scored.
///
/// ```
/// use candlewick_models::{ScoreActivation, ScoreOptions};
///
/// let options = ScoreOptions::new().activation(ScoreActivation::Sigmoid).window_overlap(32);
/// assert_eq!(options.label, 0);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScoreOptions {
    /// What is made of the logits. Default: what the original makes of them, see [`RerankModel::activation`].
    pub activation: Option<ScoreActivation>,
    /// Which label is the score. Default: the first.
    pub label: usize,
    /// Read documents that are too long whole, in parts that share this many tokens; the best part's score is the
    /// document's. Default: what is too long is cut off.
    pub window_overlap: Option<usize>,
}

impl ScoreOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`activation`](ScoreOptions::activation).
    #[must_use]
    pub fn activation(mut self, activation: ScoreActivation) -> Self {
        self.activation = Some(activation);
        self
    }

    /// Sets [`label`](ScoreOptions::label).
    #[must_use]
    pub fn label(mut self, label: usize) -> Self {
        self.label = label;
        self
    }

    /// Sets [`window_overlap`](ScoreOptions::window_overlap).
    #[must_use]
    pub fn window_overlap(mut self, tokens: usize) -> Self {
        self.window_overlap = Some(tokens);
        self
    }
}

/// A document's place in a ranking.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// The document's position in the input.
    pub index: usize,
    /// Its score.
    pub score: f32,
}

impl RerankModel {
    /// Loads a model of the registry, fetching its files if need be.
    ///
    /// # Errors
    ///
    /// When the id is unknown, or of a model of another kind, or that cannot be loaded yet; when the files cannot be
    /// had, or they are not what the registry says.
    pub fn load(id: &str, options: LoadOptions) -> Result<Self> {
        let (folder, spec) = fetch(Kind::CrossEncoder, id, &options)?;
        Self::open(&folder, Some(spec), options)
    }

    /// Loads a folder: tokenizer.json, config.json and the weights of a sequence classifier; or of a language model that
    /// is asked whether the document answers the query, as Qwen3-Reranker, in an ONNX file.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken, or asks for something that is not supported.
    pub fn from_folder(folder: &Path, options: LoadOptions) -> Result<Self> {
        Self::open(folder, None, options)
    }

    fn open(folder: &Path, spec: Option<ModelSpec>, options: LoadOptions) -> Result<Self> {
        let layout = Layout::read(folder, spec.as_ref())?;
        let mut import = ImportOptions::default();
        import.next_tokens = layout.answers().to_vec();
        let checkpoint = Checkpoint::open(folder, spec, options, import)?;
        let head = match layout.answers() {
            [] => ScoreConfig::new(&checkpoint)?,
            answers => ScoreConfig::of_answers(&checkpoint, answers.len())?,
        };
        let num_labels = head.num_labels();
        let mut model = TextModel::open(checkpoint, head)?;
        model.tokenizer.take_pairs();
        let prompt = layout.prompt(&model.checkpoint, &model.tokenizer)?;
        let activation = match layout.gives_probabilities() {
            true => ScoreActivation::Sigmoid,
            false => ScoreActivation::Raw,
        };
        let special_tokens = model.tokenizer.pair_special_tokens();
        if prompt.is_none() && model.tokenizer.max_length() <= special_tokens {
            let problem = format!("a pair's special tokens alone are {special_tokens}");
            return Err(model.checkpoint.invalid_option("max_length", model.tokenizer.max_length(), problem));
        }
        Ok(Self { model, num_labels, prompt, activation })
    }

    /// The registry's id, or the folder.
    pub fn name(&self) -> &str {
        self.model.name()
    }

    /// How many labels a pair has logits of: one, for a reranker. Of a language model that answers yes or no, the one logit
    /// is that of "yes" less that of "no", as sentence-transformers has it.
    pub fn num_labels(&self) -> usize {
        self.num_labels
    }

    /// What scores are made of logits unless [`ScoreOptions`] say: a language model's are probabilities, by the sigmoid,
    /// which of the difference of two logits is the first's share of both; others are raw.
    pub fn activation(&self) -> ScoreActivation {
        self.activation
    }

    /// Tokens of a pair that are read, special tokens included.
    pub fn max_length(&self) -> usize {
        self.model.tokenizer.max_length()
    }

    /// The logits of every pair of a query and a document, `[num_labels]` each, in input order.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized, the device fails, or a logit is not finite.
    pub fn logits<Q, D>(&self, pairs: &[(Q, D)]) -> Result<Vec<Vec<f32>>>
    where
        Q: AsRef<str> + Sync,
        D: AsRef<str> + Sync,
    {
        self.model.run_encoded(pairs, TextRole::Plain, bytes, self.encode())
    }

    /// The score of every pair, in input order.
    ///
    /// # Errors
    ///
    /// As [`logits`](Self::logits), and when the model has no such label.
    pub fn scores<Q, D>(&self, pairs: &[(Q, D)], options: &ScoreOptions) -> Result<Vec<f32>>
    where
        Q: AsRef<str> + Sync,
        D: AsRef<str> + Sync,
    {
        if options.label >= self.num_labels {
            let problem = format!("the model has {} labels, counted from 0", self.num_labels);
            return Err(self.model.checkpoint.invalid_option("label", options.label, problem));
        }
        let activation = options.activation.unwrap_or(self.activation);
        let score = |logits: &Vec<f32>| activation.score(logits, options.label);
        match options.window_overlap {
            None => Ok(self.logits(pairs)?.iter().map(score).collect()),
            Some(overlap) => self.windowed(pairs, overlap, score),
        }
    }

    /// Number of tokens of all pairs together, special tokens included, after truncation. Needs no weights.
    ///
    /// # Errors
    ///
    /// When a text cannot be tokenized.
    pub fn token_count<Q, D>(&self, pairs: &[(Q, D)]) -> Result<usize>
    where
        Q: AsRef<str> + Sync,
        D: AsRef<str> + Sync,
    {
        self.model.pipeline().count_tokens(pairs, bytes, self.encode())
    }

    fn encode<Q: AsRef<str>, D: AsRef<str>>(&self) -> impl Fn(usize, &(Q, D)) -> Result<Encoding> {
        |index, (query, document)| {
            let (tokenizer, query, document) = (&self.model.tokenizer, query.as_ref(), document.as_ref());
            match &self.prompt {
                Some(prompt) => prompt.encode(tokenizer, index, query, document),
                None => tokenizer.encode_pair(index, query, document),
            }
        }
    }

    /// The best score of each pair's parts.
    fn windowed<Q, D>(
        &self,
        pairs: &[(Q, D)],
        overlap: usize,
        score: impl Fn(&Vec<f32>) -> f32,
    ) -> Result<Vec<f32>>
    where
        Q: AsRef<str> + Sync,
        D: AsRef<str> + Sync,
    {
        let mut best = Vec::with_capacity(pairs.len());
        // Some pairs at a time, so that not all parts of all documents are in memory.
        for (chunk, pairs) in pairs.chunks(WINDOWED_PAIRS).enumerate() {
            let encode = |offset: usize, (query, document): &(Q, D)| {
                let index = chunk * WINDOWED_PAIRS + offset;
                let (tokenizer, query, document) = (&self.model.tokenizer, query.as_ref(), document.as_ref());
                match &self.prompt {
                    Some(prompt) => prompt.encode_windows(tokenizer, index, query, document, overlap),
                    None => tokenizer.encode_windows(index, query, document, overlap),
                }
            };
            let parts = self.model.pipeline().map(pairs, encode)?;
            let mut logits = self.model.run_sequences(&parts.concat(), TextRole::Plain)?.into_iter();
            best.extend(parts.iter().map(|parts| {
                let scores = logits.by_ref().take(parts.len()).map(|logits| score(&logits));
                scores.fold(f32::NEG_INFINITY, f32::max)
            }));
        }
        Ok(best)
    }
}

/// Pairs whose parts are in memory at a time.
const WINDOWED_PAIRS: usize = 64;

impl ScoreActivation {
    /// The score of a label; `label` is below the number of logits.
    fn score(self, logits: &[f32], label: usize) -> f32 {
        let logit = logits[label];
        match self {
            Self::Raw => logit,
            Self::Sigmoid => (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32,
            Self::Softmax => {
                // Of differences, so that no power overflows.
                let sum: f64 = logits.iter().map(|other| f64::from(other - logit).exp()).sum();
                (1.0 / sum) as f32
            }
        }
    }
}

/// Documents by falling score; equal ones in input order. `top_k` of them, or all.
pub fn rank(scores: &[f32], top_k: Option<usize>) -> Vec<Ranked> {
    let best = multi_vector::top_k(scores, top_k.unwrap_or(scores.len()));
    best.into_iter().map(|index| Ranked { index, score: scores[index] }).collect()
}

fn bytes<Q: AsRef<str>, D: AsRef<str>>((query, document): &(Q, D)) -> usize {
    query.as_ref().len() + document.as_ref().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_of_large_logits() {
        let score = |activation: ScoreActivation, logits: &[f32]| activation.score(logits, 0);
        assert_eq!(score(ScoreActivation::Raw, &[-3.5]), -3.5);
        assert_eq!(score(ScoreActivation::Sigmoid, &[0.0]), 0.5);
        assert_eq!(score(ScoreActivation::Sigmoid, &[500.0]), 1.0);
        assert_eq!(score(ScoreActivation::Sigmoid, &[-500.0]), 0.0);
        assert_eq!(score(ScoreActivation::Softmax, &[1000.0, 1000.0]), 0.5);
        assert_eq!(score(ScoreActivation::Softmax, &[-1000.0, 1000.0]), 0.0);
        assert_eq!(score(ScoreActivation::Softmax, &[7.0]), 1.0);
    }

    #[test]
    fn ranking_is_stable_and_cut() {
        let ranked = rank(&[0.5, 2.0, -1.0, 2.0], Some(3));
        let places: Vec<usize> = ranked.iter().map(|ranked| ranked.index).collect();
        assert_eq!(places, [1, 3, 0]);
        assert_eq!(rank(&[], None), []);
    }
}
