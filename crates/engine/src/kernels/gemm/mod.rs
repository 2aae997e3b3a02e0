//! Products of activations with weights that were laid out for this CPU at load.
//!
//! Weights are packed once into panels, all inputs of a few columns together, in the order in which a kernel
//! reads them; activations are read where they lie, or converted once per call where the format asks for it.
//! Bias and activation function are applied to a tile of sums while it is in the first-level cache, and the
//! output is written once, into memory that was never cleared.
//!
//! Kernels are written once, over the trait [`Arithmetic`](arithmetic::Arithmetic), and chosen at run time. An output is a
//! function of its row and its column's weights alone, whatever tile it falls into.

mod arithmetic;
mod blocks;
mod format;
mod integers;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;
use std::mem::MaybeUninit;

use arithmetic::{Columns, Job, Kernel};
use format::{Format, Inputs, Panels};

pub(crate) use blocks::{BlockedWeight, PackedBlocks, Zeros, unpacked};
pub(crate) use integers::PackedIntegers;

use super::Activation;
use crate::Precision;

/// So that sums of products of 8-bit integers fit i32.
pub(super) const MAX_IN_FEATURES: usize = 65_536;

/// The weight and the bias of a linear layer as a kernel reads them.
pub(super) struct PackedWeight {
    kernel: Kernel,
    panels: Panels,
    /// Padded to whole panels.
    bias: Vec<f32>,
    in_features: usize,
    out_features: usize,
}

impl PackedWeight {
    /// Takes a weight `[out_features, in_features]` in row-major order and a bias `[out_features]`.
    ///
    /// Returns the index of a weight that the precision cannot hold, if there is one.
    pub(super) fn new(
        weight: &[f32],
        bias: Vec<f32>,
        in_features: usize,
        precision: Precision,
    ) -> Result<Self, usize> {
        Self::with_kernel(best_kernel(precision), weight, bias, in_features)
    }

    fn with_kernel(
        kernel: Kernel,
        weight: &[f32],
        mut bias: Vec<f32>,
        in_features: usize,
    ) -> Result<Self, usize> {
        let out_features = bias.len();
        assert_eq!(weight.len(), in_features * out_features, "a weight is [out_features, in_features]");
        let panels = Panels::pack(weight, in_features, kernel.columns, kernel.format)?;
        bias.resize(out_features.next_multiple_of(kernel.columns), 0.0);
        Ok(Self { kernel, panels, bias, in_features, out_features })
    }

    /// Takes a weight `[in_features, out_features]` in row-major order and a bias `[out_features]`, in f32.
    pub(super) fn from_columns(weight: &[f32], mut bias: Vec<f32>, in_features: usize) -> Self {
        let out_features = bias.len();
        assert_eq!(weight.len(), in_features * out_features, "a weight is [in_features, out_features]");
        let kernel = best_kernel(Precision::F32);
        let panels = Panels::pack_columns(weight, in_features, kernel.columns);
        bias.resize(out_features.next_multiple_of(kernel.columns), 0.0);
        Self { kernel, panels, bias, in_features, out_features }
    }

    pub(super) fn in_features(&self) -> usize {
        self.in_features
    }

    pub(super) fn out_features(&self) -> usize {
        self.out_features
    }

    /// `activation(x W^T + b)`: `[rows, in_features]` to `[rows, out_features]`.
    pub(super) fn multiply(&self, x: &[f32], activation: Option<Activation>) -> Vec<f32> {
        let size = x.len() / self.in_features * self.out_features;
        let mut out = Vec::with_capacity(size);
        self.multiply_into(x, activation, &mut out.spare_capacity_mut()[..size]);
        // SAFETY: all elements were written.
        unsafe { out.set_len(size) };
        out
    }

    /// [`multiply`](Self::multiply) that writes all of `out`.
    pub(super) fn multiply_into(
        &self,
        x: &[f32],
        activation: Option<Activation>,
        out: &mut [MaybeUninit<f32>],
    ) {
        let rows = x.len() / self.in_features;
        assert_eq!(x.len(), rows * self.in_features, "rows are whole");
        assert_eq!(out.len(), rows * self.out_features, "there is room for the product");
        let inputs = Inputs::new(x, self.in_features, self.kernel.format);
        let job = Job {
            rows,
            groups: self.in_features.div_ceil(self.kernel.format.group()),
            inputs: inputs.groups.as_ptr(),
            weights: self.panels.as_ptr(),
            columns: Columns { bias: &self.bias, scales: &self.panels.scales, sums: &self.panels.sums },
            row_scales: &inputs.scales,
            activation,
            writes_sums: false,
            out: out.as_mut_ptr().cast(),
            out_features: self.out_features,
            out_stride: self.out_features,
        };
        // SAFETY: the kernel is available. The inputs are `[rows, groups]`, the panels hold all columns, and so do
        // the parameters of columns; `out` is `[rows, out_features]`, which they cover, and borrowed mutably.
        unsafe { self.kernel.run_shared(&job, self.in_features) };
    }
}

impl fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedWeight")
            .field("kernel", &self.kernel.name)
            .field("format", &self.kernel.format)
            .field("in_features", &self.in_features)
            .field("out_features", &self.out_features)
            .finish()
    }
}

/// What this CPU can run, the best first.
fn kernels(precision: Precision) -> impl Iterator<Item = Kernel> {
    #[cfg(target_arch = "x86_64")]
    let native = x86::KERNELS;
    #[cfg(target_arch = "aarch64")]
    let native = neon::KERNELS;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let native: &[Kernel] = &[];
    let holds = move |kernel: &Kernel| match kernel.format {
        Format::F32 => precision == Precision::F32,
        Format::Bf16 | Format::Bf16Pairs => precision == Precision::Bf16,
        Format::F16 => precision == Precision::F16,
        Format::Int8 | Format::SignedInt8 => precision == Precision::Int8,
    };
    native.iter().chain(portable::KERNELS).copied().filter(holds).filter(|kernel| (kernel.is_available)())
}

fn best_kernel(precision: Precision) -> Kernel {
    kernels(precision).next().expect("there is a portable kernel for each precision")
}

#[cfg(test)]
mod tests;
