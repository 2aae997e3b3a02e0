//! What is measured: the sizes of the models that matter, jobs of given lengths, and numbers to fill them with.
//!
//! Speed depends on sizes, not on what the weights say, so one checkpoint with real weights is enough: the
//! larger models are written with random ones, which saves downloading gigabytes to measure them.

mod checkpoint;

use anyhow::{Context, Result};
use candlewick_engine::{Batch, plan};
use candlewick_models::{DenseModel, LoadOptions};

/// The sizes of a BERT encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// What tables call it.
    pub name: &'static str,
    /// Number of layers.
    pub layers: usize,
    /// Width of a hidden state.
    pub hidden_size: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width between the two linear layers of the MLP.
    pub intermediate_size: usize,
    /// The registry's id of a model with these sizes whose real weights are used; random ones otherwise.
    pub id: Option<&'static str>,
}

/// all-MiniLM-L6-v2, and the sizes of BERT base and large, which BGE, E5 and GTE have too.
pub const SHAPES: [ModelShape; 3] = [
    ModelShape {
        name: "MiniLM",
        layers: 6,
        hidden_size: 384,
        heads: 12,
        intermediate_size: 1536,
        id: Some("sentence-transformers/all-MiniLM-L6-v2"),
    },
    ModelShape { name: "base", layers: 12, hidden_size: 768, heads: 12, intermediate_size: 3072, id: None },
    ModelShape { name: "large", layers: 24, hidden_size: 1024, heads: 16, intermediate_size: 4096, id: None },
];

impl ModelShape {
    /// Input and output width of a layer's linear layers: queries, keys and values side by side, the output
    /// projection of attention, and the MLP's up and down.
    pub fn linears(&self) -> [(usize, usize); 4] {
        let (hidden_size, intermediate_size) = (self.hidden_size, self.intermediate_size);
        [
            (hidden_size, 3 * hidden_size),
            (hidden_size, hidden_size),
            (hidden_size, intermediate_size),
            (intermediate_size, hidden_size),
        ]
    }

    /// Multiplications and additions of all linear layers for this many tokens: 2 m n k each.
    pub fn linear_flops(&self, tokens: usize) -> f64 {
        let products: usize = self.linears().iter().map(|(width_in, width_out)| width_in * width_out).sum();
        (2 * self.layers * tokens * products) as f64
    }

    /// Multiplications and additions of attention for sequences of these lengths: two products of
    /// `len * len * hidden_size` in every layer. There is no padding to count.
    pub fn attention_flops(&self, lengths: &[usize]) -> f64 {
        let squares: usize = lengths.iter().map(|length| length * length).sum();
        (4 * self.layers * squares * self.hidden_size) as f64
    }

    /// All of the above; what is elementwise is left out.
    pub fn flops(&self, lengths: &[usize]) -> f64 {
        self.linear_flops(lengths.iter().sum()) + self.attention_flops(lengths)
    }

    /// A model of this shape. Random weights are written to target/ the first time.
    ///
    /// # Errors
    ///
    /// When the weights can neither be had nor written.
    pub fn load(&self, options: LoadOptions) -> Result<DenseModel> {
        let model = match self.id {
            Some(id) => DenseModel::load(id, options),
            None => DenseModel::from_folder(&checkpoint::random(self)?, options),
        };
        model.with_context(|| format!("could not load a model of the shape {}", self.name))
    }
}

/// Sequences of these many tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// What tables call it: number of sequences x tokens of each.
    pub name: &'static str,
    /// Tokens of each sequence.
    pub lengths: Vec<usize>,
}

/// One query, passages, the longest that BERT reads, and documents as they come.
pub fn jobs() -> Vec<Job> {
    vec![
        Job { name: "1x16", lengths: vec![16] },
        Job { name: "32x128", lengths: vec![128; 32] },
        Job { name: "8x512", lengths: vec![512; 8] },
        Job { name: "64 log-normal", lengths: log_normal_lengths(64, 512) },
    ]
}

impl Job {
    /// Tokens of all sequences together.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The lengths that are computed together, as the library groups them by default.
    pub fn plan(&self) -> Vec<Vec<usize>> {
        let batches = plan(&self.lengths, LoadOptions::DEFAULT_BATCH_TOKENS);
        let lengths = |batch: Vec<usize>| batch.into_iter().map(|index| self.lengths[index]).collect();
        batches.into_iter().map(lengths).collect()
    }

    /// The job's batches.
    pub fn batches(&self) -> Vec<Batch> {
        self.plan().iter().map(|lengths| batch(lengths)).collect()
    }
}

/// A batch of sequences of these lengths; the tokens are ordinary words.
pub fn batch(lengths: &[usize]) -> Batch {
    let sequences: Vec<Vec<u32>> = lengths
        .iter()
        .map(|&length| (0..length as u32).map(|token| 2000 + token * 37 % 20_000).collect())
        .collect();
    Batch::from_sequences(sequences.iter().map(Vec::as_slice)).expect("far fewer than u32::MAX tokens")
}

/// Lengths as real documents have them: log-normal, with a mean of about 80 and a tail to `max_length`.
pub fn log_normal_lengths(count: usize, max_length: usize) -> Vec<usize> {
    // exp(4.1) = 60 tokens is the median; 1 % are beyond exp(4.1 + 2.33 * 0.7) = 308.
    const MU: f64 = 4.1;
    const SIGMA: f64 = 0.7;
    let mut uniform = uniform_numbers(2026);
    (0..count)
        .map(|_| {
            // Box and Muller, 1958.
            let radius = (-2.0 * uniform().ln()).sqrt();
            let normal = radius * (std::f64::consts::TAU * uniform()).cos();
            ((MU + SIGMA * normal).exp() as usize).clamp(3, max_length)
        })
        .collect()
}

/// `count` numbers in (-1, 1], the same on every run.
pub fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut uniform = uniform_numbers(seed);
    (0..count).map(|_| (2.0 * uniform() - 1.0) as f32).collect()
}

/// `count` English sentences of 8 to 40 words, the same on every run.
pub fn sentences(count: usize) -> Vec<String> {
    const WORDS: [&str; 24] = [
        "candle",
        "wax",
        "the",
        "of",
        "flame",
        "burns",
        "slowly",
        "in",
        "a",
        "quiet",
        "room",
        "its",
        "light",
        "flickers",
        "paraffin",
        "wick",
        "capillary",
        "rises",
        "and",
        "evaporates",
        "embeddings",
        "near",
        "1860",
        "Faraday's",
    ];
    let mut uniform = uniform_numbers(1860);
    let mut below = |limit: usize| ((uniform() * limit as f64) as usize).min(limit - 1);
    let sentence = |_| {
        let words: Vec<&str> = (0..8 + below(33)).map(|_| WORDS[below(WORDS.len())]).collect();
        words.join(" ") + "."
    };
    (0..count).map(sentence).collect()
}

/// Numbers in (0, 1], the same on every run (Knuth's MMIX generator).
fn uniform_numbers(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_look_like_documents() {
        let lengths = log_normal_lengths(10_000, 512);
        let mean = lengths.iter().sum::<usize>() as f64 / 10_000.0;
        assert!((70.0..85.0).contains(&mean), "{mean}");
        assert!(lengths.iter().filter(|&&length| length > 300).count() > 50);
        assert_eq!(lengths, log_normal_lengths(10_000, 512));
    }

    #[test]
    fn flops_are_those_of_the_paper_formula() {
        // 24 h^2 per token and layer, where the MLP is four times as wide as a hidden state.
        let base = SHAPES[1];
        assert_eq!(base.linear_flops(10), 10.0 * 12.0 * 24.0 * 768.0 * 768.0);
        assert_eq!(base.attention_flops(&[3, 4]), 12.0 * 4.0 * 25.0 * 768.0);
        assert_eq!(base.flops(&[3, 4]), base.linear_flops(7) + base.attention_flops(&[3, 4]));
    }

    #[test]
    fn a_plan_holds_every_sequence_of_the_job() {
        for job in jobs() {
            let mut planned = job.plan().concat();
            planned.sort_unstable();
            let mut lengths = job.lengths.clone();
            lengths.sort_unstable();
            assert_eq!(planned, lengths, "{}", job.name);
            assert_eq!(job.batches().iter().map(Batch::total_tokens).sum::<usize>(), job.tokens());
        }
    }

    #[test]
    fn numbers_and_sentences_are_the_same_on_every_run() {
        assert_eq!(values(100, 7), values(100, 7));
        assert!(values(1000, 7).iter().all(|value| value.abs() <= 1.0));
        assert_eq!(sentences(3), sentences(5)[..3]);
    }
}
