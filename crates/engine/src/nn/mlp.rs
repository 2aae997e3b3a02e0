//! The feed-forward block of a transformer layer.

use candle_core::Tensor;

use crate::Result;
use crate::kernels::MlpOp;
use crate::nn::Linear;

/// Two linear layers; the first carries the activation.
#[derive(Debug)]
pub struct Mlp {
    /// `hidden_size` to `intermediate_size`, with activation.
    pub up: Linear,
    /// `intermediate_size` to `hidden_size`.
    pub down: Linear,
}

impl Mlp {
    /// `[total_tokens, hidden_size]` to the same.
    ///
    /// # Errors
    ///
    /// When `x` has another width, or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match (self.up.packed(), self.down.packed()) {
            (Some(up), Some(down)) => Ok(x.apply_op1_no_bwd(&MlpOp { up, down })?),
            _ => self.down.forward(&self.up.forward(x)?),
        }
    }
}
