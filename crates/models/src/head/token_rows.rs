//! Rows of tokens as the encoder gives them, and the matrices by which those of a word become a few numbers: for models
//! that put tokens together to words.

use candle_core::Tensor;
use candlewick_engine::{Batch, Weights};

use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::npy::NpyFile;
use crate::text_model::Head;

/// What a head of token rows is made of, before its weights are read.
#[derive(Debug)]
pub(crate) struct TokenRowsConfig {
    /// `[words, hidden_size, word_dim]`
    matrices: Option<NpyFile>,
}

/// From the encoder's rows to those of each sequence.
#[derive(Debug)]
pub(crate) struct TokenRowsHead {
    hidden_size: usize,
    word_dim: usize,
    /// `[words, hidden_size, word_dim]`; empty where there are none.
    matrices: Vec<f32>,
}

impl TokenRowsConfig {
    /// `matrices` is a file with one for each word, as of miniCOIL.
    ///
    /// # Errors
    ///
    /// When the encoder gives no row for each token, or matrices are not for its rows.
    pub(crate) fn new(checkpoint: &Checkpoint, matrices: Option<NpyFile>) -> Result<Self> {
        super::check_has_tokens(checkpoint)?;
        let hidden_size = checkpoint.backbone.hidden_size();
        if let Some(matrices) = &matrices
            && matrices.shape()[1] != hidden_size
        {
            let problem = format!(
                "matrices for rows of {} numbers, but those of {} have {hidden_size}",
                matrices.shape()[1],
                checkpoint.backbone.file(&checkpoint.folder).display()
            );
            return Err(matrices.invalid(problem));
        }
        Ok(Self { matrices })
    }
}

impl Head for TokenRowsHead {
    /// `[tokens, hidden_size]`
    type Output = Vec<f32>;
    type Config = TokenRowsConfig;

    fn load(config: &TokenRowsConfig, checkpoint: &Checkpoint, _weights: Option<&Weights>) -> Result<Self> {
        let hidden_size = checkpoint.backbone.hidden_size();
        let (word_dim, matrices) = match &config.matrices {
            Some(file) => (file.shape()[2], file.read()?),
            None => (0, Vec::new()),
        };
        Ok(Self { hidden_size, word_dim, matrices })
    }

    fn forward(
        &self,
        hidden_states: &Tensor,
        batch: &Batch,
    ) -> candlewick_engine::Result<Vec<Option<Vec<f32>>>> {
        let values = hidden_states.flatten_all()?.to_vec1::<f32>()?;
        let of_sequence = |rows: std::ops::Range<usize>| {
            let rows = &values[rows.start * self.hidden_size..rows.end * self.hidden_size];
            rows.iter().all(|value| value.is_finite()).then(|| rows.to_vec())
        };
        Ok(batch.sequences().map(of_sequence).collect())
    }
}

impl TokenRowsHead {
    /// The hyperbolic tangent of the mean of some rows of `rows`, those at `positions`, by the matrix of a word that there is.
    pub(crate) fn word_vector(&self, word: u32, rows: &[f32], positions: &[usize]) -> Vec<f32> {
        let mut mean = vec![0.0f32; self.hidden_size];
        for position in positions {
            let row = &rows[position * self.hidden_size..][..self.hidden_size];
            mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value);
        }
        mean.iter_mut().for_each(|mean| *mean /= positions.len() as f32);
        let size = self.hidden_size * self.word_dim;
        let matrix = &self.matrices[word as usize * size..][..size];
        let mut sums = vec![0.0f64; self.word_dim];
        for (mean, row) in mean.iter().zip(matrix.chunks_exact(self.word_dim)) {
            sums.iter_mut().zip(row).for_each(|(sum, weight)| *sum += f64::from(*mean) * f64::from(*weight));
        }
        sums.into_iter().map(|sum| sum.tanh() as f32).collect()
    }
}
