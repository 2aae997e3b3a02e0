//! What the benchmarks share, beside the workloads of `xtask`: the model, and input tensors.

use candle_core::{Device, Tensor};
use candlewick_models::{DenseModel, LoadOptions, Result};

/// all-MiniLM-L6-v2 on one thread: a benchmark of one thread is the least noisy.
///
/// # Errors
///
/// When the weights cannot be had.
pub fn minilm() -> Result<DenseModel> {
    DenseModel::load("all-MiniLM-L6-v2", LoadOptions::new().threads(1))
}

/// A tensor `[rows, cols]` of random numbers.
pub fn matrix(rows: usize, cols: usize) -> Tensor {
    let values = xtask::workload::values(rows * cols, 1);
    Tensor::from_vec(values, (rows, cols), &Device::Cpu).expect("as many values as elements")
}
