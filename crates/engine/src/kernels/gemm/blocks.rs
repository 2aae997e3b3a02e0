//! Products with weights of a few bits, in blocks of inputs that share a scale.
//!
//! The weights stay as small in memory as they are in a file. A panel of them at a time becomes f32 in a thread's
//! working memory, which a second-level cache holds, and meets all rows there: what it takes is far less than
//! reading weights of f32 from memory, and the numbers are those of f32.

use std::fmt;

use super::arithmetic::{Columns, Job, Kernel};
use super::best_kernel;
use crate::Precision;
use crate::kernels::scratch::Scratch;
use crate::kernels::{Disjoint, MIN_SHARED_PRODUCTS, simd};
use crate::runtime::share;

/// A weight in blocks, as files have it: `[out_features, in_features]` of integers, and for each row and block of
/// inputs a scale and a zero point.
#[derive(Debug)]
pub(crate) struct BlockedWeight<'a> {
    /// Rows of `row_bytes`, the first integer in a byte's lowest bits.
    pub(crate) bytes: &'a [u8],
    pub(crate) row_bytes: usize,
    /// 2, 4 or 8.
    pub(crate) bits: usize,
    pub(crate) in_features: usize,
    /// Blocks of a row.
    pub(crate) blocks: usize,
    /// Which block each input is in.
    pub(crate) block_of_input: Vec<usize>,
    /// `[out_features, blocks]`
    pub(crate) scales: &'a [f32],
    pub(crate) zeros: Zeros,
}

/// The zero points of blocks.
#[derive(Debug)]
pub(crate) enum Zeros {
    /// The same for all.
    Same(f32),
    /// `[out_features, blocks]`
    Integers(Vec<u8>),
    /// `[out_features, blocks]`
    Numbers(Vec<f32>),
}

/// A [`BlockedWeight`] and a bias, laid out for this CPU.
pub(crate) struct PackedBlocks {
    kernel: Kernel,
    bits: usize,
    blocks: usize,
    /// Runs of inputs in one block: where each ends, and which block it is.
    runs: Vec<(usize, usize)>,
    /// `[panels, in_features, width]`: a byte holds as many columns as fit, `width` from each other.
    integers: Vec<u8>,
    /// `[panels, blocks, columns]`
    scales: Vec<f32>,
    /// As the scales, if they are not all the same.
    zeros: Zeros,
    /// Padded to whole panels.
    bias: Vec<f32>,
    in_features: usize,
    out_features: usize,
}

/// Work to make f32 of a weight, in products of it with a row.
const ROWS_OF_DEQUANTIZATION: usize = 4;

impl PackedBlocks {
    /// # Panics
    ///
    /// When the sizes disagree, or there is no input.
    pub(crate) fn new(weight: BlockedWeight, bias: Vec<f32>) -> Self {
        Self::with_kernel(best_kernel(Precision::F32), weight, bias)
    }

    fn with_kernel(kernel: Kernel, weight: BlockedWeight, mut bias: Vec<f32>) -> Self {
        let BlockedWeight { bytes, row_bytes, bits, in_features, blocks, block_of_input, scales, zeros } =
            weight;
        let (out_features, columns, per_byte) = (bias.len(), kernel.columns, 8 / bits);
        assert!(matches!(bits, 2 | 4 | 8) && row_bytes * per_byte >= in_features && in_features > 0);
        assert!(bytes.len() == out_features * row_bytes && scales.len() == out_features * blocks);
        assert!(block_of_input.len() == in_features && block_of_input.iter().all(|&block| block < blocks));
        let panels = out_features.div_ceil(columns);
        let width = columns / per_byte;
        let mut integers = vec![0; panels * in_features * width];
        let panel_rows = bytes.chunks(columns * row_bytes);
        for (rows, panel) in panel_rows.zip(integers.chunks_exact_mut(in_features * width)) {
            for (column, row) in rows.chunks_exact(row_bytes).enumerate() {
                let (cell, shift) = (column % width, column / width * bits);
                let cells = panel[cell..].iter_mut().step_by(width);
                for (to, value) in cells.zip(unpacked(row, bits, in_features)) {
                    *to |= value << shift;
                }
            }
        }
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (input, block) in block_of_input.into_iter().enumerate() {
            match runs.last_mut() {
                Some((end, last)) if *last == block => *end = input + 1,
                _ => runs.push((input + 1, block)),
            }
        }
        let zeros = match zeros {
            Zeros::Same(zero) => Zeros::Same(zero),
            Zeros::Integers(zeros) => Zeros::Integers(by_panel(&zeros, out_features, blocks, columns)),
            Zeros::Numbers(zeros) => Zeros::Numbers(by_panel(&zeros, out_features, blocks, columns)),
        };
        let scales = by_panel(scales, out_features, blocks, columns);
        bias.resize(panels * columns, 0.0);
        Self { kernel, bits, blocks, runs, integers, scales, zeros, bias, in_features, out_features }
    }

    /// `x W^T + b`: `[rows, in_features]` to `[rows, out_features]`.
    pub(crate) fn multiply(&self, x: &[f32]) -> Vec<f32> {
        let Self { in_features, out_features, .. } = *self;
        let columns = self.kernel.columns;
        let rows = x.len() / in_features;
        assert_eq!(x.len(), rows * in_features, "rows are whole");
        let size = rows * out_features;
        let mut out = Vec::<f32>::with_capacity(size);
        let to = Disjoint(out.as_mut_ptr());
        let panels = if rows == 0 { 0 } else { out_features.div_ceil(columns) };
        let panels_of_part =
            MIN_SHARED_PRODUCTS.div_ceil((rows + ROWS_OF_DEQUANTIZATION) * in_features * columns);
        share(panels.div_ceil(panels_of_part), |part| {
            let mut scratch = Scratch::take();
            let [weights] = scratch.slices([in_features * columns]);
            let first = part * panels_of_part;
            for panel in first..panels.min(first + panels_of_part) {
                self.dequantize(panel, weights);
                let first_column = panel * columns;
                let job = Job {
                    rows,
                    groups: in_features,
                    inputs: x.as_ptr().cast(),
                    weights: weights.as_ptr().cast(),
                    columns: Columns { bias: &self.bias[first_column..][..columns], scales: &[], sums: &[] },
                    row_scales: &[],
                    activation: None,
                    writes_sums: false,
                    // SAFETY: the column is one of the first row's.
                    out: unsafe { to.add(first_column) },
                    out_features: columns.min(out_features - first_column),
                    out_stride: out_features,
                };
                // SAFETY: the kernel is available. The inputs are `[rows, in_features]`, the weights one panel;
                // rows of `out` have room for its columns, which no other part writes.
                unsafe { (self.kernel.run)(&job, 0..1) };
            }
        });
        // SAFETY: the panels' columns are all columns, and each was written for every row.
        unsafe { out.set_len(size) };
        out
    }

    /// The numbers of a panel, `[in_features, columns]`.
    fn dequantize(&self, panel: usize, to: &mut [f32]) {
        let columns = self.kernel.columns;
        let width = columns * self.bits / 8;
        let integers = &self.integers[panel * self.in_features * width..][..self.in_features * width];
        let (mut scales, mut zeros) = ([0.0; MAX_COLUMNS], [0.0; MAX_COLUMNS]);
        let mut start = 0;
        for &(end, block) in &self.runs {
            let parameters =
                (panel * self.blocks + block) * columns..(panel * self.blocks + block + 1) * columns;
            scales[..columns].copy_from_slice(&self.scales[parameters.clone()]);
            match &self.zeros {
                Zeros::Same(zero) => zeros = [*zero; MAX_COLUMNS],
                Zeros::Integers(integers) => {
                    let integers = &integers[parameters];
                    zeros.iter_mut().zip(integers).for_each(|(zero, &integer)| *zero = f32::from(integer));
                }
                Zeros::Numbers(numbers) => zeros[..columns].copy_from_slice(&numbers[parameters]),
            }
            let (from, to) = (&integers[start * width..end * width], &mut to[start * columns..end * columns]);
            dequantize_run(from, self.bits, columns, &scales, &zeros, to);
            start = end;
        }
    }

    /// The width of its input rows.
    pub(crate) fn in_features(&self) -> usize {
        self.in_features
    }

    /// The width of its output rows.
    pub(crate) fn out_features(&self) -> usize {
        self.out_features
    }
}

impl fmt::Debug for PackedBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedBlocks")
            .field("kernel", &self.kernel.name)
            .field("bits", &self.bits)
            .field("in_features", &self.in_features)
            .field("out_features", &self.out_features)
            .finish()
    }
}

/// Integers of a few bits, the first in a byte's lowest.
pub(crate) fn unpacked(bytes: &[u8], bits: usize, len: usize) -> impl Iterator<Item = u8> {
    let mask = 0xFFu8 >> (8 - bits);
    bytes
        .iter()
        .flat_map(move |&byte| (0..8 / bits).map(move |part| (byte >> (part * bits)) & mask))
        .take(len)
}

/// `[rows, blocks]` to `[panels, blocks, columns]`.
fn by_panel<T: Copy + Default>(values: &[T], rows: usize, blocks: usize, columns: usize) -> Vec<T> {
    assert_eq!(values.len(), rows * blocks, "there is one for each row and block");
    let mut out = vec![T::default(); rows.div_ceil(columns) * blocks * columns];
    for (row, values) in values.chunks_exact(blocks).enumerate() {
        let (panel, column) = (row / columns, row % columns);
        let cells = out[panel * blocks * columns + column..].iter_mut().step_by(columns);
        cells.zip(values).for_each(|(to, value)| *to = *value);
    }
    out
}

/// Of a panel, at most.
const MAX_COLUMNS: usize = 64;

simd! {
    /// Inputs that are in one block: `[inputs, columns * bits / 8]` to `[inputs, columns]`.
    fn dequantize_run(
        integers: &[u8],
        bits: usize,
        columns: usize,
        scales: &[f32; MAX_COLUMNS],
        zeros: &[f32; MAX_COLUMNS],
        to: &mut [f32],
    ) = dequantize_run_loop
}

#[inline(always)]
fn dequantize_run_loop(
    integers: &[u8],
    bits: usize,
    columns: usize,
    scales: &[f32; MAX_COLUMNS],
    zeros: &[f32; MAX_COLUMNS],
    to: &mut [f32],
) {
    match (bits, columns) {
        (2, 16) => dequantize_inputs::<2, 4>(integers, scales, zeros, to),
        (4, 16) => dequantize_inputs::<4, 8>(integers, scales, zeros, to),
        (8, 16) => dequantize_inputs::<8, 16>(integers, scales, zeros, to),
        (2, 64) => dequantize_inputs::<2, 16>(integers, scales, zeros, to),
        (4, 64) => dequantize_inputs::<4, 32>(integers, scales, zeros, to),
        (8, 64) => dequantize_inputs::<8, 64>(integers, scales, zeros, to),
        _ => unreachable!("panels of f32 have 16 or 64 columns, and weights 2, 4 or 8 bits"),
    }
}

#[inline(always)]
fn dequantize_inputs<const BITS: usize, const WIDTH: usize>(
    integers: &[u8],
    scales: &[f32; MAX_COLUMNS],
    zeros: &[f32; MAX_COLUMNS],
    to: &mut [f32],
) {
    let (per_byte, mask) = (8 / BITS, 0xFFu8 >> (8 - BITS));
    let (inputs, _) = integers.as_chunks::<WIDTH>();
    for (bytes, to) in inputs.iter().zip(to.chunks_exact_mut(WIDTH * per_byte)) {
        for (part, to) in to.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
            for cell in 0..WIDTH {
                let integer = (bytes[cell] >> (part * BITS)) & mask;
                let column = part * WIDTH + cell;
                to[cell] = (f32::from(integer) - zeros[column]) * scales[column];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PackedWeight, kernels};
    use super::*;
    use crate::kernels::math::tests::noise;

    /// What the integers stand for, `[out_features, in_features]`.
    fn numbers(weight: &BlockedWeight, out_features: usize) -> Vec<f32> {
        let mut numbers = Vec::new();
        for row in 0..out_features {
            let bytes = &weight.bytes[row * weight.row_bytes..][..weight.row_bytes];
            for input in 0..weight.in_features {
                let at = row * weight.blocks + weight.block_of_input[input];
                let per_byte = 8 / weight.bits;
                let integer = bytes[input / per_byte] as usize >> (input % per_byte * weight.bits);
                let zero = match &weight.zeros {
                    Zeros::Same(zero) => *zero,
                    Zeros::Integers(zeros) => f32::from(zeros[at]),
                    Zeros::Numbers(zeros) => zeros[at],
                };
                numbers.push(((integer & ((1 << weight.bits) - 1)) as f32 - zero) * weight.scales[at]);
            }
        }
        numbers
    }

    #[test]
    fn products_are_those_of_the_numbers_in_f32() {
        for bits in [2, 4, 8] {
            for [rows, in_features, out_features] in
                [[0, 5, 3], [1, 32, 64], [3, 70, 130], [7, 33, 17], [5, 1, 1]]
            {
                for kind in 0..3 {
                    let blocks = usize::div_ceil(in_features, 16);
                    let row_bytes = blocks * 16 * bits / 8;
                    let bytes: Vec<u8> =
                        (0..out_features * row_bytes).map(|i| (i * 151 % 256) as u8).collect();
                    let len = out_features * blocks;
                    let scales: Vec<f32> = noise(len, 5);
                    let zeros = || match kind {
                        0 => Zeros::Same(8.0),
                        1 => Zeros::Integers((0..len).map(|i| (i % 200) as u8).collect()),
                        _ => Zeros::Numbers(noise(len, 9)),
                    };
                    let block_of_input =
                        |input: usize| if kind == 2 { input * 7 % blocks } else { input / 16 };
                    let weight = || BlockedWeight {
                        bytes: &bytes,
                        row_bytes,
                        bits,
                        in_features,
                        blocks,
                        block_of_input: (0..in_features).map(block_of_input).collect(),
                        scales: &scales,
                        zeros: zeros(),
                    };
                    let (x, bias) = (noise(rows * in_features, 1), noise(out_features, 2));
                    let numbers = numbers(&weight(), out_features);
                    for kernel in kernels(Precision::F32) {
                        let expected =
                            PackedWeight::with_kernel(kernel, &numbers, bias.clone(), in_features).unwrap();
                        let packed = PackedBlocks::with_kernel(kernel, weight(), bias.clone());
                        assert_eq!(packed.multiply(&x), expected.multiply(&x, None), "{packed:?}");
                    }
                }
            }
        }
    }
}
