//! The work whose instructions are counted.

use anyhow::{Context, Result, anyhow};
use candle_core::{Device, Tensor};
use candlewick_engine::Precision;
use candlewick_engine::kernels::{AttentionShape, LayerNormOp, PackedLinear, attention, gelu_erf};
use candlewick_models::{DenseModel, LoadOptions};

use super::callgrind::start_instrumentation;
use crate::workload::{ModelShape, SHAPES, batch, sentences, values};

/// Work of fixed size, with MiniLM's widths.
pub(super) struct Work {
    pub(super) name: &'static str,
    prepare: fn() -> Result<Prepared>,
}

/// Work with its inputs in memory.
type Prepared = Box<dyn FnMut() -> Result<()>>;

impl Work {
    pub(super) fn all() -> [Work; 9] {
        [
            Work { name: "linear f32 16x384x1536", prepare: || linear(Precision::F32) },
            Work { name: "linear bf16 16x384x1536", prepare: || linear(Precision::Bf16) },
            Work { name: "linear int8 16x384x1536", prepare: || linear(Precision::Int8) },
            Work { name: "attention 1x128", prepare: self_attention },
            Work { name: "layer norm 128x384", prepare: layer_norm },
            Work { name: "gelu 128x1536", prepare: gelu },
            Work { name: "tokenize 100 texts", prepare: tokenize },
            Work { name: "two layers 1x16", prepare: || forward(&[16]) },
            Work { name: "two layers 1x128", prepare: || forward(&[128]) },
        ]
    }

    pub(super) fn find(name: &str) -> Result<Work> {
        let mut all = Self::all().into_iter();
        all.find(|work| work.name == name).with_context(|| format!("there is no work `{name}`"))
    }

    /// Has whatever the work needs fetched and written, which would take long under callgrind.
    pub(super) fn provide(&self) -> Result<()> {
        (self.prepare)().map(drop)
    }

    /// Does the work twice, the second time inside [`candlewick_counted_work`].
    pub(super) fn run(&self) -> Result<()> {
        let mut work = (self.prepare)()?;
        work()?;
        start_instrumentation();
        candlewick_counted_work(&mut work)
    }
}

/// The function inside which callgrind collects; its name in the symbol table is part of the command line.
pub(super) const COUNTED_SYMBOL: &str = "candlewick_counted_work";

// SAFETY of `no_mangle`: the name has the project's prefix, so no library that is linked defines it as well.
#[unsafe(no_mangle)]
#[inline(never)]
fn candlewick_counted_work(work: &mut Prepared) -> Result<()> {
    // An instruction after the call keeps it from becoming a jump, which callgrind would not see returning.
    std::hint::black_box(work())
}

fn matrix(rows: usize, cols: usize) -> Result<Tensor> {
    Ok(Tensor::from_vec(values(rows * cols, 1), (rows, cols), &Device::Cpu)?)
}

fn linear(precision: Precision) -> Result<Prepared> {
    let linear = PackedLinear::new(&values(384 * 1536, 2), values(1536, 3), 384, None, precision);
    let linear = linear.map_err(|error| anyhow!("{error:?}"))?;
    let x = matrix(16, 384)?;
    Ok(Box::new(move || Ok(x.apply_op1_no_bwd(&linear).map(drop)?)))
}

fn self_attention() -> Result<Prepared> {
    let shape = AttentionShape { num_heads: 12, head_dim: 32, scale: 1.0 / 32f32.sqrt() };
    let (qkv, batch) = (matrix(128, 3 * 384)?, batch(&[128]));
    Ok(Box::new(move || Ok(attention(&qkv, &batch, shape).map(drop)?)))
}

fn layer_norm() -> Result<Prepared> {
    let (x, residual) = (matrix(128, 384)?, matrix(128, 384)?);
    let (weight, bias) = (values(384, 2), values(384, 3));
    Ok(Box::new(move || {
        let op = LayerNormOp { weight: &weight, bias: &bias, eps: 1e-12 };
        Ok(x.apply_op2_no_bwd(&residual, &op).map(drop)?)
    }))
}

fn gelu() -> Result<Prepared> {
    let mut x = values(128 * 1536, 1);
    Ok(Box::new(move || {
        gelu_erf(&mut x);
        Ok(())
    }))
}

fn tokenize() -> Result<Prepared> {
    let options = LoadOptions::new().threads(1).lazy_load(true);
    let model = DenseModel::load("all-MiniLM-L6-v2", options).context("the work needs all-MiniLM-L6-v2")?;
    let texts = sentences(100);
    Ok(Box::new(move || Ok(model.tokenize(&texts).map(drop)?)))
}

/// MiniLM with two of its layers and random weights: layers are alike, and valgrind takes its time.
fn forward(lengths: &[usize]) -> Result<Prepared> {
    let shape = ModelShape { name: "two layers", layers: 2, id: None, ..SHAPES[0] };
    let (model, batch) = (shape.load(LoadOptions::new().threads(1))?, batch(lengths));
    Ok(Box::new(move || Ok(model.encoder()?.forward(&batch).map(drop)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_can_be_found_and_done() {
        // The others need a model.
        for name in ["linear f32 16x384x1536", "linear int8 16x384x1536", "attention 1x128", "gelu 128x1536"]
        {
            Work::find(name).unwrap().run().unwrap();
        }
        assert!(Work::find("nothing").is_err());
    }

    #[test]
    fn errors_of_the_work_are_returned() {
        let failing = Work { name: "failing", prepare: || Ok(Box::new(|| anyhow::bail!("no"))) };
        assert_eq!(failing.run().unwrap_err().to_string(), "no");
    }
}
