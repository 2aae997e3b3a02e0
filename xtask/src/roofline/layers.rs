//! The kinds of layers of an encoder, each alone: where a job's time goes, and how close to the peak each is.
//!
//! Every layer has weights of its own, as in the model, so that on short inputs they come from memory and not
//! from a cache that a loop over one layer would have warmed.

use std::time::Instant;

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor};
use candlewick_engine::Precision;
use candlewick_engine::kernels::{
    AttentionOptions, AttentionShape, LayerNormOp, PackedLinear, attention_with, gelu_erf,
};

use crate::workload::{self, ModelShape};

/// Multiplications and additions of matrix products, or how many of them can be done in a second. Those of linear
/// layers and of attention may be of different precision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Operations {
    pub(super) linear: f64,
    pub(super) attention: f64,
}

impl Operations {
    /// All that a job on this shape has.
    pub(super) fn of(shape: &ModelShape, lengths: &[usize]) -> Self {
        Self { linear: shape.linear_flops(lengths.iter().sum()), attention: shape.attention_flops(lengths) }
    }

    pub(super) fn sum(self) -> f64 {
        self.linear + self.attention
    }

    /// Seconds that these operations take at these rates.
    pub(super) fn seconds_at(self, rates: Operations) -> f64 {
        self.linear / rates.linear + self.attention / rates.attention
    }
}

/// What a layer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Linear,
    Attention,
    Gelu,
    LayerNorm,
}

impl Kind {
    pub(super) const ALL: [Kind; 4] = [Kind::Linear, Kind::Attention, Kind::Gelu, Kind::LayerNorm];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Linear => "linear",
            Kind::Attention => "attention",
            Kind::Gelu => "gelu",
            Kind::LayerNorm => "layer norm",
        }
    }

    /// The part of a job's operations that these layers do; `None` where there are no matrix products.
    pub(super) fn part(self, all: Operations) -> Option<Operations> {
        match self {
            Kind::Linear => Some(Operations { attention: 0.0, ..all }),
            Kind::Attention => Some(Operations { linear: 0.0, ..all }),
            Kind::Gelu | Kind::LayerNorm => None,
        }
    }
}

/// The layers of a shape, with random weights.
pub(super) struct Layers {
    shape: ModelShape,
    precision: Precision,
    /// Four for each layer.
    linears: Vec<PackedLinear>,
    norm_weight: Vec<f32>,
    norm_bias: Vec<f32>,
}

impl Layers {
    pub(super) fn new(shape: &ModelShape, precision: Precision) -> Result<Self> {
        // Every layer gets the same numbers, since making them takes longer than most measurements.
        let weights = shape.linears().map(|(width_in, width_out)| workload::values(width_in * width_out, 3));
        let mut linears = Vec::new();
        for _ in 0..shape.layers {
            for ((width_in, width_out), weight) in shape.linears().into_iter().zip(&weights) {
                let linear = PackedLinear::new(weight, vec![0.0; width_out], width_in, None, precision);
                linears.push(linear.map_err(|error| anyhow!("{width_in} to {width_out}: {error:?}"))?);
            }
        }
        Ok(Self {
            shape: *shape,
            precision,
            linears,
            norm_weight: vec![1.0; shape.hidden_size],
            norm_bias: vec![0.0; shape.hidden_size],
        })
    }

    /// Seconds that all layers of a kind take for all batches, given the lengths of each batch's sequences.
    /// Each of several equal batches is supposed to take as long as the first.
    pub(super) fn seconds(&self, kind: Kind, batches: &[Vec<usize>]) -> Result<f64> {
        let mut seconds = 0.0;
        let mut seen: Vec<&Vec<usize>> = Vec::new();
        for batch in batches {
            if seen.contains(&batch) {
                continue;
            }
            seen.push(batch);
            let times = batches.iter().filter(|other| *other == batch).count();
            seconds += times as f64 * self.batch_seconds(kind, batch)?;
        }
        Ok(seconds)
    }

    fn batch_seconds(&self, kind: Kind, lengths: &[usize]) -> Result<f64> {
        let ModelShape { layers, hidden_size, heads, intermediate_size, .. } = self.shape;
        let rows = lengths.iter().sum();
        match kind {
            Kind::Linear => {
                let inputs = self.shape.linears().map(|(width, _)| matrix(rows, width));
                let inputs = inputs.into_iter().collect::<Result<Vec<Tensor>>>()?;
                fastest(|| {
                    for (linear, x) in self.linears.iter().zip(inputs.iter().cycle()) {
                        x.apply_op1_no_bwd(linear)?;
                    }
                    Ok(())
                })
            }
            Kind::Attention => {
                let head_dim = hidden_size / heads;
                let shape =
                    AttentionShape { num_heads: heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() };
                let (qkv, batch) = (matrix(rows, 3 * hidden_size)?, workload::batch(lengths));
                let options = AttentionOptions { precision: self.precision, ..AttentionOptions::default() };
                let attention = |_| Ok(attention_with(&qkv, &batch, shape, &options).map(drop)?);
                fastest(|| (0..layers).try_for_each(attention))
            }
            Kind::Gelu => {
                // 0 is what GELU leaves as it is: anything else becomes too small to be normal, and slow, when
                // it is done in place again and again. The kernel has no branch that 0 could take.
                let mut values = vec![0.0; rows * intermediate_size];
                fastest(|| {
                    (0..layers).for_each(|_| gelu_erf(std::hint::black_box(&mut values)));
                    Ok(())
                })
            }
            Kind::LayerNorm => {
                let (x, residual) = (matrix(rows, hidden_size)?, matrix(rows, hidden_size)?);
                let op = LayerNormOp { weight: &self.norm_weight, bias: &self.norm_bias, eps: 1e-12 };
                // After attention and after the MLP.
                fastest(|| {
                    (0..2 * layers).try_for_each(|_| Ok(x.apply_op2_no_bwd(&residual, &op).map(drop)?))
                })
            }
        }
    }
}

/// Seconds of `run`: once if that takes long, else the shortest of as many times as fit a moment. What this
/// thread spends waiting for a processor while other programs have it is no part of them.
pub(super) fn fastest(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    const MOMENT: f64 = 0.05;
    let (begun, mut shortest) = (Instant::now(), f64::INFINITY);
    loop {
        let (outer, waited) = (Instant::now(), seconds_waited());
        let inner = Instant::now();
        run()?;
        let seconds = inner.elapsed().as_secs_f64();
        let waited = seconds_waited() - waited;
        // Asking takes microseconds in which one may wait too. The outer time includes all waiting that is
        // subtracted from it, so this is never too short.
        let seconds = if waited > 0.0 { outer.elapsed().as_secs_f64() - waited } else { seconds };
        shortest = shortest.min(seconds);
        if begun.elapsed().as_secs_f64() > MOMENT {
            return Ok(shortest);
        }
    }
}

/// How long this thread was ready to run without a processor since it started; 0 where Linux does not tell. The
/// second field of schedstat is nanoseconds on a run queue:
/// <https://docs.kernel.org/scheduler/sched-stats.html>.
fn seconds_waited() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let waited = stat.split_whitespace().nth(1).and_then(|field| field.parse::<f64>().ok());
    waited.map_or(0.0, |nanoseconds| nanoseconds / 1e9)
}

fn matrix(rows: usize, cols: usize) -> Result<Tensor> {
    Ok(Tensor::from_vec(workload::values(rows * cols, 5), (rows, cols), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_can_be_measured() {
        let shape =
            ModelShape { name: "tiny", layers: 2, hidden_size: 8, heads: 2, intermediate_size: 16, id: None };
        for precision in Precision::ALL {
            let layers = Layers::new(&shape, precision).unwrap();
            for kind in Kind::ALL {
                assert!(layers.seconds(kind, &[vec![3, 5], vec![8], vec![3, 5]]).unwrap() > 0.0, "{kind:?}");
            }
        }
    }

    #[test]
    fn operations_are_split_among_kinds() {
        let all = Operations::of(&crate::workload::SHAPES[0], &[3, 5]);
        let parts = Kind::ALL.into_iter().filter_map(|kind| kind.part(all));
        assert_eq!(parts.map(Operations::sum).sum::<f64>(), all.sum());
        assert_eq!(all.sum(), crate::workload::SHAPES[0].flops(&[3, 5]));
        // Twice as fast in linear layers only.
        let operations = Operations { linear: 8.0, attention: 3.0 };
        assert_eq!(operations.seconds_at(Operations { linear: 2.0, attention: 1.0 }), 7.0);
    }
}
