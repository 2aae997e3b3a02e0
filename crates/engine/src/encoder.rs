//! The contract between an architecture and everything that runs it.

use candle_core::Tensor;

use crate::{Batch, Result};

/// Turns token sequences into hidden states.
///
/// An implementation never pads, pools or reads configuration in `forward`, and a sequence's hidden states do
/// not depend on the other sequences of its batch.
pub trait TextEncoder: Send + Sync {
    /// Length of one hidden state.
    fn hidden_size(&self) -> usize;

    /// One hidden state per token, `[total_tokens, hidden_size]`, in the order of `batch`.
    ///
    /// # Errors
    ///
    /// When a token id or a length is out of range, or the device fails.
    fn forward(&self, batch: &Batch) -> Result<Tensor>;

    /// What an imported graph gives that was loaded with several outputs, in their order, all of one run: each a matrix of
    /// rows for tokens or for sequences. Other encoders have one output, their hidden states. Never empty.
    ///
    /// Where a graph has no row for the first token of a sequence, there is one of zeros.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward).
    fn forward_outputs(&self, batch: &Batch) -> Result<Vec<Tensor>> {
        Ok(vec![self.forward(batch)?])
    }
}
