//! How numbers are laid out for a kernel: weights once at load, inputs on every call.

use std::borrow::Cow;

use half::{bf16, f16};

use super::arithmetic::RowScale;
use crate::kernels::lanes::{Kernel, Lanes, dispatch};
use crate::kernels::math::ROUND;
use crate::kernels::{share_rows, simd};

/// What a kernel multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// f32 inputs and weights.
    F32,
    /// f32 inputs, bf16 weights.
    Bf16,
    /// Pairs of bf16 inputs and weights.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 kernels take them so far"))]
    Bf16Pairs,
    /// f32 inputs, f16 weights.
    F16,
    /// Fours of unsigned 8-bit inputs and signed 8-bit weights.
    Int8,
    /// [`Format::Int8`] with 128 taken from the inputs and their zero point, for instructions that multiply
    /// signed with signed.
    SignedInt8,
}

impl Format {
    /// Consecutive inputs of a group.
    pub(super) fn group(self) -> usize {
        match self {
            Format::F32 | Format::Bf16 | Format::F16 => 1,
            Format::Bf16Pairs => 2,
            Format::Int8 | Format::SignedInt8 => 4,
        }
    }

    /// Bytes of a group of one column.
    fn bytes(self) -> usize {
        match self {
            Format::Bf16 | Format::F16 => 2,
            Format::F32 | Format::Bf16Pairs | Format::Int8 | Format::SignedInt8 => 4,
        }
    }
}

/// Weights as a kernel reads them.
pub(super) struct Panels {
    /// `[panels, groups, columns]`, aligned for vector loads.
    lines: Vec<Line>,
    /// For integers: what one stands for, by column, padded to whole panels.
    pub(super) scales: Vec<f32>,
    /// For integers: sums by column, padded to whole panels.
    pub(super) sums: Vec<i32>,
}

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Panels {
    /// Lays out `weight`, `[out_features, in_features]` in row-major order.
    ///
    /// Returns the index of a weight that the format cannot hold, if there is one.
    pub(super) fn pack(
        weight: &[f32],
        in_features: usize,
        columns: usize,
        format: Format,
    ) -> Result<Self, usize> {
        let out_features = weight.len() / in_features;
        let groups = in_features.div_ceil(format.group());
        let panel_bytes = groups * columns * format.bytes();
        let size = out_features.div_ceil(columns) * panel_bytes;
        let mut lines = vec![Line([0; 64]); size.div_ceil(64)];
        // SAFETY: lines are bytes without padding between them, and there are at least `size`.
        let bytes = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<u8>(), size) };
        let (mut scales, mut sums) = (Vec::new(), Vec::new());
        let panel_rows = weight.chunks(columns * in_features);
        for (panel, (rows, bytes)) in panel_rows.zip(bytes.chunks_exact_mut(panel_bytes)).enumerate() {
            match format {
                Format::F32 => transpose(as_words(rows), groups, columns, bytes),
                Format::Bf16 => {
                    interleave(rows, in_features, columns, bytes, |value| bf16::from_f32(value).to_bits())
                }
                Format::F16 => {
                    let too_large = |value: &f32| f16::from_f32(*value).is_infinite();
                    if let Some(index) = rows.iter().position(too_large) {
                        return Err(panel * columns * in_features + index);
                    }
                    interleave(rows, in_features, columns, bytes, |value| f16::from_f32(value).to_bits());
                }
                Format::Bf16Pairs => {
                    let mut words = vec![0; rows.len() / in_features * groups];
                    bf16_pairs(rows, in_features, &mut words);
                    transpose(&words, groups, columns, bytes);
                }
                Format::Int8 | Format::SignedInt8 => {
                    let words = quantize_rows(rows, in_features, &mut scales, &mut sums);
                    transpose(&words, groups, columns, bytes);
                    let padded = (panel + 1) * columns;
                    scales.resize(padded, 0.0);
                    sums.resize(padded, 0);
                }
            }
        }
        Ok(Self { lines, scales, sums })
    }

    /// Lays out integers, `[out_features, in_features]` in row-major order, as [`Format::Int8`]; they stand for
    /// themselves.
    pub(super) fn pack_integers(weight: &[i8], in_features: usize, columns: usize) -> Self {
        let out_features = weight.len() / in_features;
        let groups = in_features.div_ceil(4);
        let panel_bytes = groups * columns * 4;
        let size = out_features.div_ceil(columns) * panel_bytes;
        let mut lines = vec![Line([0; 64]); size.div_ceil(64)];
        // SAFETY: lines are bytes without padding between them, and there are at least `size`.
        let bytes = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<u8>(), size) };
        let mut words = Vec::with_capacity(columns * groups);
        let mut sums = Vec::with_capacity(out_features);
        for (rows, bytes) in weight.chunks(columns * in_features).zip(bytes.chunks_exact_mut(panel_bytes)) {
            words.clear();
            for row in rows.chunks_exact(in_features) {
                let (fours, rest) = row.as_chunks::<4>();
                let word = |four: [i8; 4]| u32::from_ne_bytes(four.map(|value| value as u8));
                words.extend(fours.iter().map(|&four| word(four)));
                if !rest.is_empty() {
                    let mut last = [0; 4];
                    last[..rest.len()].copy_from_slice(rest);
                    words.push(word(last));
                }
                sums.push(row.iter().map(|&value| i32::from(value)).sum());
            }
            transpose(&words, groups, columns, bytes);
        }
        Self { lines, scales: Vec::new(), sums }
    }

    /// Lays out `weight`, `[in_features, out_features]` in row-major order, as [`Format::F32`].
    pub(super) fn pack_columns(weight: &[f32], in_features: usize, columns: usize) -> Self {
        let out_features = weight.len() / in_features;
        let panels = out_features.div_ceil(columns);
        let lines_of_row = columns * 4 / 64;
        assert_eq!(lines_of_row * 64, columns * 4, "a panel's rows are whole lines");
        let mut lines = vec![Line([0; 64]); panels * in_features * lines_of_row];
        share_rows((&mut lines, in_features * lines_of_row), (&mut [(); 0], 0), panels, |panel, lines, _| {
            for (index, lines) in lines.chunks_exact_mut(in_features * lines_of_row).enumerate() {
                let first = (panel + index) * columns;
                let width = columns.min(out_features - first);
                for (row, lines) in lines.chunks_exact_mut(lines_of_row).enumerate() {
                    let words = &as_words(weight)[row * out_features + first..][..width];
                    // SAFETY: lines are bytes without padding between them, aligned for more than words.
                    let to =
                        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<u32>(), columns) };
                    to[..width].copy_from_slice(words);
                }
            }
        });
        Self { lines, scales: Vec::new(), sums: Vec::new() }
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.lines.as_ptr().cast()
    }
}

/// Writes `words`, `[up to columns, groups]`, as `[groups, columns]`.
fn transpose(words: &[u32], groups: usize, columns: usize, bytes: &mut [u8]) {
    assert!(bytes.len() == groups * columns * 4 && words.len() <= groups * columns);
    dispatch(Transpose { words, groups, columns, to: bytes.as_mut_ptr().cast() });
}

struct Transpose<'a> {
    /// `[up to columns, groups]`
    words: &'a [u32],
    groups: usize,
    columns: usize,
    /// `[groups, columns]`, of at least 4-byte alignment and nobody else's.
    to: *mut f32,
}

impl Kernel for Transpose<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { words, groups, columns, to } = self;
        let rows = words.len() / groups;
        let (whole_rows, whole_groups) = (rows / L::LANES * L::LANES, groups / L::LANES * L::LANES);
        let from = words.as_ptr().cast::<f32>();
        // SAFETY: all indices are of rows and groups that exist, in `words` and in `to`.
        unsafe {
            for group in (0..whole_groups).step_by(L::LANES) {
                for row in (0..whole_rows).step_by(L::LANES) {
                    lanes.transpose(
                        from.add(row * groups + group),
                        groups,
                        to.add(group * columns + row),
                        columns,
                    );
                }
            }
            for row in 0..rows {
                for group in if row < whole_rows { whole_groups } else { 0 }..groups {
                    to.add(group * columns + row).cast::<u32>().write(words[row * groups + group]);
                }
            }
        }
    }
}

/// [`transpose`] of single inputs that become 16 bits each.
fn interleave(
    rows: &[f32],
    in_features: usize,
    columns: usize,
    bytes: &mut [u8],
    encode: impl Fn(f32) -> u16,
) {
    // Columns in the inner loop write whole lines; sixteen rows at a time stay in cache.
    for first_column in (0..columns).step_by(16) {
        let columns_here = first_column..columns.min(first_column + 16);
        for (input, bytes) in bytes.chunks_exact_mut(columns * 2).enumerate() {
            let cells = &mut bytes.as_chunks_mut::<2>().0[columns_here.clone()];
            for (column, cell) in columns_here.clone().zip(cells) {
                let Some(value) = rows.get(column * in_features + input) else { break };
                *cell = encode(*value).to_ne_bytes();
            }
        }
    }
}

fn as_words(values: &[f32]) -> &[u32] {
    // SAFETY: f32 and u32 have the same size and alignment, and all bits are valid for both.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

/// Each row symmetrically to -127..=127, in fours; appends what 1 stands for, and the sum of the integers.
fn quantize_rows(rows: &[f32], in_features: usize, scales: &mut Vec<f32>, sums: &mut Vec<i32>) -> Vec<u32> {
    let mut words = Vec::with_capacity(rows.len() / in_features * in_features.div_ceil(4));
    let mut quantized = Vec::with_capacity(in_features.next_multiple_of(4));
    for row in rows.chunks_exact(in_features) {
        let largest = row.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        // A row of zeros, or of numbers so small that their scale would be 0, stands for zeros.
        let scale = largest / 127.0;
        let inverse = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
        quantized.clear();
        quantized.extend(row.iter().map(|value| (value * inverse + ROUND).to_bits() as i8));
        scales.push(scale);
        sums.push(quantized.iter().map(|&value| i32::from(value)).sum());
        quantized.resize(in_features.next_multiple_of(4), 0);
        words.extend(
            quantized.as_chunks().0.iter().map(|four| u32::from_ne_bytes(four.map(|value| value as u8))),
        );
    }
    words
}

/// Inputs as a kernel reads them: `[rows, groups]` of 32 bits.
pub(super) struct Inputs<'a> {
    pub(super) groups: Cow<'a, [u32]>,
    /// For integers: of each row.
    pub(super) scales: Vec<RowScale>,
}

impl<'a> Inputs<'a> {
    /// Lays out `x`, `[rows, in_features]`.
    pub(super) fn new(x: &'a [f32], in_features: usize, format: Format) -> Self {
        let words = in_features.div_ceil(format.group());
        let rows = x.len() / in_features;
        let mut scales = Vec::new();
        let groups = match format {
            Format::F32 | Format::Bf16 | Format::F16 => Cow::Borrowed(as_words(x)),
            Format::Bf16Pairs => {
                let mut groups = vec![0; rows * words];
                share_rows((&mut groups, words), (&mut [(); 0], 0), rows, |row, groups, _| {
                    let rows = groups.len() / words;
                    bf16_pairs(&x[row * in_features..(row + rows) * in_features], in_features, groups);
                });
                Cow::Owned(groups)
            }
            Format::Int8 | Format::SignedInt8 => {
                let mut groups = vec![0; rows * words];
                scales.resize(rows, RowScale { scale: 0.0, zero: 0 });
                let offset = if format == Format::SignedInt8 { 128 } else { 0 };
                share_rows((&mut groups, words), (&mut scales, 1), rows, |row, groups, scales| {
                    let x = &x[row * in_features..(row + scales.len()) * in_features];
                    quantize_inputs(x, in_features, offset, groups, scales);
                });
                Cow::Owned(groups)
            }
        };
        Self { groups, scales }
    }
}

simd! {
    /// Rounds to nearest bf16, ties to even; NaN stays NaN.
    fn bf16_pairs(x: &[f32], in_features: usize, groups: &mut [u32]) = bf16_pairs_loop
}

#[inline(always)]
fn bf16_pairs_loop(x: &[f32], in_features: usize, groups: &mut [u32]) {
    let words = in_features.div_ceil(2);
    for (row, groups) in x.chunks_exact(in_features).zip(groups.chunks_exact_mut(words)) {
        let (pairs, last) = row.as_chunks::<2>();
        for (group, [low, high]) in groups.iter_mut().zip(pairs) {
            *group = to_bf16(*low) | to_bf16(*high) << 16;
        }
        if let [last] = last {
            groups[words - 1] = to_bf16(*last);
        }
    }
}

#[inline(always)]
fn to_bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

simd! {
    /// Quantizes each row to 0..=255 less `offset`, over the range of its elements and 0: 0 is exact, since
    /// much of what passes through a network is.
    fn quantize_inputs(
        x: &[f32], in_features: usize, offset: i32, groups: &mut [u32], scales: &mut [RowScale]
    ) = quantize_inputs_loop
}

#[inline(always)]
fn quantize_inputs_loop(
    x: &[f32],
    in_features: usize,
    offset: i32,
    groups: &mut [u32],
    scales: &mut [RowScale],
) {
    let words = in_features.div_ceil(4);
    for ((row, groups), scale) in x.chunks_exact(in_features).zip(groups.chunks_exact_mut(words)).zip(scales)
    {
        let (mut low, mut high, mut poison) = ([0.0f32; 16], [0.0f32; 16], [0.0f32; 16]);
        let mut see = |lane: usize, value: f32| {
            low[lane] = if value < low[lane] { value } else { low[lane] };
            high[lane] = if value > high[lane] { value } else { high[lane] };
            poison[lane] += value * 0.0;
        };
        let (chunks, rest) = row.as_chunks::<16>();
        for chunk in chunks {
            (0..16).for_each(|lane| see(lane, chunk[lane]));
        }
        rest.iter().enumerate().for_each(|(lane, value)| see(lane, *value));
        let (low, high) = (low.into_iter().fold(0.0, f32::min), high.into_iter().fold(0.0, f32::max));
        // Of NaN or infinity there is no range: the scale, and with it the whole row of outputs, is NaN.
        let poison: f32 = poison.iter().sum();
        let step = (high - low) / 255.0;
        let inverse = if step >= f32::MIN_POSITIVE { 1.0 / step } else { 0.0 };
        let zero = (-low * inverse).round_ties_even();
        *scale = RowScale { scale: step + poison, zero: zero as i32 - offset };
        // SAFETY: the words' bytes, all values of which are valid.
        let bytes = unsafe { std::slice::from_raw_parts_mut(groups.as_mut_ptr().cast::<u8>(), words * 4) };
        let (bytes, missing) = bytes.split_at_mut(in_features);
        for (byte, value) in bytes.iter_mut().zip(row) {
            // Rounding up both `zero` and the value can exceed the range by one. A NaN becomes anything.
            let steps = value * inverse;
            let steps = if steps < 255.0 - zero { steps } else { 255.0 - zero };
            let rounded = (if steps > -zero { steps } else { -zero }) + ROUND;
            *byte = rounded.to_bits().wrapping_add((zero as i32 - offset) as u32) as u8;
        }
        // The weights that these meet are 0.
        missing.fill(0);
    }
}

/// The ratio between what an exponent means in f32 and in f16.
pub(super) const TWO_TO_112: f32 = f32::from_bits((127 + 112) << 23);

/// The value of finite f16 bits; denormals are exact.
#[inline(always)]
pub(super) fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * TWO_TO_112;
    f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_are_those_of_half() {
        for bits in 0..=u16::MAX {
            let expected = f16::from_bits(bits);
            if expected.is_finite() {
                assert_eq!(f16_to_f32(bits).to_bits(), expected.to_f32().to_bits());
            }
        }
        for bits in (0..=u32::MAX).step_by(997) {
            let value = f32::from_bits(bits);
            let (found, expected) = (to_bf16(value), bf16::from_f32(value));
            if value.is_nan() {
                assert!(bf16::from_bits(found as u16).is_nan());
            } else {
                assert_eq!(found, u32::from(expected.to_bits()), "{value}");
            }
        }
    }

    #[test]
    fn inputs_are_within_half_a_step_and_zero_is_exact() {
        let rows: [&[f32]; 5] = [
            &[0.1, -0.7, 3.0, 0.0, 1e-3],
            &[1.0, 2.0, 3.0, 4.0, 5.0],
            &[-5.0, -1e-9, 0.0, -2.0, -3.0],
            &[0.0; 5],
            &[1e-40; 5],
        ];
        for offset in [0, 128] {
            let (mut groups, mut scales) = (vec![0; 10], vec![RowScale { scale: 0.0, zero: 0 }; 5]);
            quantize_inputs(&rows.concat(), 5, offset, &mut groups, &mut scales);
            for ((row, groups), scale) in rows.iter().zip(groups.chunks(2)).zip(scales) {
                let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_le_bytes()).collect();
                for (value, byte) in row.iter().zip(bytes) {
                    let integer = if offset == 0 { i32::from(byte) } else { i32::from(byte as i8) };
                    let found = scale.scale * (integer - scale.zero) as f32;
                    assert!(
                        (found - value).abs() <= scale.scale * 0.5001 + 1e-38,
                        "{found} {value} {scale:?}"
                    );
                    assert!(*value != 0.0 || found == 0.0);
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_has_no_scale() {
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![0.5; 40];
            x[27] = poison;
            let (mut groups, mut scales) = (vec![0; 10], vec![RowScale { scale: 0.0, zero: 0 }; 2]);
            quantize_inputs(&x, 20, 0, &mut groups, &mut scales);
            assert!(scales[0].scale.is_finite() && scales[1].scale.is_nan(), "{scales:?}");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let x: Vec<f32> = (0..3 * 101).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        let (mut found, mut expected) = (vec![0; 3 * 51], vec![0; 3 * 51]);
        bf16_pairs(&x, 101, &mut found);
        bf16_pairs_loop(&x, 101, &mut expected);
        assert_eq!(found, expected);
        let (mut found, mut expected) = (vec![0; 3 * 26], vec![0; 3 * 26]);
        let mut found_scales = vec![RowScale { scale: 0.0, zero: 0 }; 3];
        let mut expected_scales = found_scales.clone();
        quantize_inputs(&x, 101, 0, &mut found, &mut found_scales);
        quantize_inputs_loop(&x, 101, 0, &mut expected, &mut expected_scales);
        assert_eq!((found, found_scales), (expected, expected_scales));
    }
}
