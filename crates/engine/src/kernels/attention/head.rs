//! One head of one sequence.
//!
//! Scores are computed transposed, keys in rows and queries in lanes: then the maximum and the sum of the softmax
//! go down columns and need no shuffles, a relative bias is a plain load, and what the values are multiplied by
//! is read along cache lines. A block of queries is as many as fill two registers; its scores with all keys stay
//! in cache. The softmax is exact: a pass over the block's scores finds each query's maximum before any is raised to
//! a power, and the division by the sum is left to the end, when the weighted sums of the values are written.
//!
//! The factors of both products are [`Factors`] of one kind: of the scores, keys and queries in groups of
//! columns; of the weighted sums, powers and values in groups of keys, which count from the sequence's first.
//!
//! Every sum goes in order of keys or of columns, in steps that depend on the sequence alone.

use std::ops::Range;

use super::super::factors::{Factors, MAX_GROUP, ProductKernel, Register};
use super::super::lanes::{Lanes, MAX_LANES};
use super::super::scratch::Scratch;
use super::super::tile::{for_tiles, product_tile, transpose_rows};
use super::{AttentionOptions, AttentionShape, bias};

/// Keys whose powers and values stay in the first-level cache between the softmax and the weighted sum. Sums over
/// chunks rather than over all keys are also more accurate.
const CHUNK: usize = 128;

const _: () = assert!(CHUNK.is_multiple_of(MAX_GROUP), "chunks are whole groups of keys");

/// How many tokens ahead of a copy a head's columns are fetched: they are too far apart for the CPU to guess.
const PREFETCHED: usize = 16;

/// Registers of queries in a block.
const WIDE: usize = 2;

/// Which head of which sequence, and where its result goes.
pub(super) struct Head<'a> {
    pub(super) shape: AttentionShape,
    pub(super) options: &'a AttentionOptions<'a>,
    /// The sequence's rows of queries, keys and values of all heads.
    pub(super) qkv: &'a [f32],
    pub(super) seq_len: usize,
    /// How many of the sequence's first tokens are attended to, not zero.
    pub(super) keys: usize,
    pub(super) head: usize,
    /// Where the head's first column of the sequence's first row of results is. Rows are
    /// `num_heads * head_dim` apart; nobody else uses the head's columns of these rows while this runs.
    pub(super) out: *mut f32,
}

/// The head's working memory.
struct Buffers<'a> {
    /// `[seq_len, groups of columns]`
    keys: &'a [f32],
    /// `[groups of keys, padded head_dim]`
    values: &'a [f32],
    /// By query minus key, as [`bias::fill`] says; empty where there is none.
    bias: &'a [f32],
    /// `[queries, padded groups of columns]`: scaled and rotated.
    rows: &'a mut [f32],
    /// `[padded groups of columns, queries]`
    queries: &'a mut [f32],
    /// `[keys, queries]`, of whole groups of keys.
    scores: &'a mut [f32],
    /// `[queries, padded head_dim]`: the weighted sums of the chunks so far.
    sums: &'a mut [f32],
}

impl ProductKernel for Head<'_> {
    #[inline(always)]
    fn run<F: Factors>(self, factors: F) {
        let lanes = F::Lanes::LANES;
        let (seq_len, sizes) = (self.seq_len, Sizes::new::<F>(self.shape.head_dim));
        let queries = WIDE * lanes;
        let bias_len = if bias::is_needed(self.options, seq_len) { bias::len(seq_len, queries) } else { 0 };
        // Rows of f32 are written where their groups come to lie, and are longer.
        let lens = [
            seq_len * sizes.depth + self.shape.head_dim,
            (seq_len.div_ceil(F::GROUP) + F::GROUP - 1) * sizes.padded_dim,
            bias_len,
            queries * sizes.padded_depth + self.shape.head_dim,
            queries * sizes.padded_depth,
            seq_len.next_multiple_of(F::GROUP) * queries,
            queries * sizes.padded_dim,
        ];
        let mut scratch = Scratch::take();
        let [keys, values, bias, rows, queries, scores, sums] = scratch.slices(lens);
        self.load_keys(factors, keys);
        self.load_values(factors, values);
        if !bias.is_empty() {
            bias::fill(bias, self.options, self.head, seq_len);
        }
        let mut buffers = Buffers { keys, values, bias, rows, queries, scores, sums };
        for first in (0..seq_len).step_by(WIDE * lanes) {
            let block = first..seq_len.min(first + WIDE * lanes);
            // A block that fits one register is not computed as two.
            if block.len() > lanes {
                self.block::<F, WIDE>(factors, block, &mut buffers);
            } else {
                self.block::<F, 1>(factors, block, &mut buffers);
            }
        }
    }
}

/// Lengths of rows.
#[derive(Clone, Copy)]
struct Sizes {
    /// Groups of `head_dim` columns.
    depth: usize,
    /// `depth` in whole registers.
    padded_depth: usize,
    /// `head_dim` in whole registers.
    padded_dim: usize,
}

impl Sizes {
    #[inline(always)]
    fn new<F: Factors>(head_dim: usize) -> Self {
        let (depth, lanes) = (head_dim.div_ceil(F::GROUP), F::Lanes::LANES);
        Self {
            depth,
            padded_depth: depth.next_multiple_of(lanes),
            padded_dim: head_dim.next_multiple_of(lanes),
        }
    }
}

impl Head<'_> {
    /// Copies the head's columns of one token's queries (part 0), keys (1) or values (2), times `scale`.
    #[inline(always)]
    fn copy_row<L: Lanes>(&self, lanes: L, part: usize, token: usize, scale: f32, to: &mut [f32]) {
        let AttentionShape { num_heads, head_dim, .. } = self.shape;
        let start = (token * 3 + part) * num_heads * head_dim + self.head * head_dim;
        let ahead = self.qkv.as_ptr().wrapping_add(start + PREFETCHED * 3 * num_heads * head_dim);
        (0..head_dim).step_by(16).for_each(|column| lanes.prefetch(ahead.wrapping_add(column)));
        let from = &self.qkv[start..start + head_dim];
        let (mut to, mut from) = (to.chunks_exact_mut(L::LANES), from.chunks_exact(L::LANES));
        for (to, from) in to.by_ref().zip(from.by_ref()) {
            // SAFETY: both are a register long.
            unsafe { lanes.store(to.as_mut_ptr(), lanes.mul(lanes.load(from.as_ptr()), lanes.splat(scale))) };
        }
        for (to, from) in to.into_remainder().iter_mut().zip(from.remainder()) {
            *to = from * scale;
        }
    }

    /// [`copy_row`](Self::copy_row) of a query or key, rotated by its position.
    #[inline(always)]
    fn copy_rotated<L: Lanes>(&self, lanes: L, part: usize, token: usize, scale: f32, to: &mut [f32]) {
        self.copy_row(lanes, part, token, scale, to);
        if let Some(rotary) = &self.options.rotary {
            let (cos, sin) = rotary.at(token);
            let (low, high) = to[..rotary.dim].split_at_mut(rotary.dim / 2);
            for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
            }
        }
    }

    #[inline(always)]
    fn load_keys<F: Factors>(&self, factors: F, keys: &mut [f32]) {
        let head_dim = self.shape.head_dim;
        for token in 0..self.seq_len {
            let row = &mut keys[token * Sizes::new::<F>(head_dim).depth..][..head_dim];
            self.copy_rotated(factors.lanes(), 1, token, 1.0, row);
            factors.join_neighbours(row);
        }
    }

    #[inline(always)]
    fn load_values<F: Factors>(&self, factors: F, values: &mut [f32]) {
        let Sizes { padded_dim, .. } = Sizes::new::<F>(self.shape.head_dim);
        for first in (0..self.seq_len).step_by(F::GROUP) {
            let rows = &mut values[first / F::GROUP * padded_dim..][..F::GROUP * padded_dim];
            for (token, row) in (first..).zip(rows.chunks_exact_mut(padded_dim)) {
                if token < self.seq_len {
                    self.copy_row(factors.lanes(), 2, token, 1.0, &mut row[..self.shape.head_dim]);
                } else {
                    row.fill(0.0);
                }
            }
            factors.join_rows(rows);
        }
    }

    /// The keys that a block of queries attends to, in whole groups if what is attended to does not end before: the
    /// bias hides those that are outside the window.
    #[inline(always)]
    fn keys_of<F: Factors>(&self, block: &Range<usize>) -> Range<usize> {
        let window = self.options.window.unwrap_or(self.seq_len);
        let first = block.start.saturating_sub(window);
        let end = self.keys.min(block.end.saturating_add(window));
        first - first % F::GROUP..self.keys.min(end.next_multiple_of(F::GROUP))
    }

    /// A block of queries, at most `COLS` registers of them.
    #[inline(always)]
    fn block<F: Factors, const COLS: usize>(&self, factors: F, block: Range<usize>, buffers: &mut Buffers) {
        let (lanes, width) = (factors.lanes(), COLS * F::Lanes::LANES);
        let Sizes { padded_depth, padded_dim, .. } = Sizes::new::<F>(self.shape.head_dim);
        // The softmax is computed with powers of two.
        let scale = self.shape.scale * std::f32::consts::LOG2_E;
        for (row, token) in block.clone().enumerate() {
            let row = &mut buffers.rows[row * padded_depth..][..self.shape.head_dim];
            self.copy_rotated(lanes, 0, token, scale, row);
            factors.join_neighbours(row);
        }
        // What is left in rows past the last query makes lanes that are computed and never written.
        transpose_rows::<F::Lanes, COLS>(lanes, buffers.rows, buffers.queries, padded_depth);

        let keys = self.keys_of::<F>(&block);
        let mut maxima = [lanes.splat(f32::NEG_INFINITY); COLS];
        assert!(buffers.scores.len() >= keys.len().next_multiple_of(F::GROUP) * width);
        for_tiles!(F::Lanes, keys.clone(), |key, ROWS| {
            let to = (key - keys.start) * width;
            // SAFETY: `key + ROWS <= keys.end`, for which the scores have room.
            unsafe {
                let scores = buffers.scores.as_mut_ptr().add(to);
                self.score_tile::<F, ROWS, COLS>(factors, key, block.start, buffers, scores, &mut maxima);
            }
        });
        // What the last group lacks weighs nothing.
        buffers.scores[keys.len() * width..keys.len().next_multiple_of(F::GROUP) * width]
            .fill(f32::NEG_INFINITY);

        let mut totals = [lanes.splat(0.0); COLS];
        for first in keys.clone().step_by(CHUNK) {
            let chunk = first..keys.end.min(first + CHUNK);
            let groups = first / F::GROUP..chunk.end.div_ceil(F::GROUP);
            let start = (chunk.start - keys.start) * width;
            let scores = &mut buffers.scores[start..start + groups.len() * F::GROUP * width];
            let sums = powers(factors, scores, &maxima);
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = lanes.add(*total, sum);
            }
            let is_last = chunk.end == keys.end;
            let mut weighted = Weighted {
                queries: block.clone(),
                powers: &scores[..groups.len() * width],
                values: &buffers.values[groups.start * padded_dim..groups.end * padded_dim],
                sums: buffers.sums,
                is_first: first == keys.start,
                inverses: if is_last { Some(inverses(lanes, totals)) } else { None },
            };
            self.weighted_sums::<F, COLS>(factors, &mut weighted);
        }
    }

    /// The scores of `ROWS` keys with a block of queries, which are also folded into `maxima`.
    ///
    /// # Safety
    ///
    /// `key + ROWS <= seq_len`, and `scores` is valid for writing `ROWS * COLS` registers.
    #[inline(always)]
    unsafe fn score_tile<F: Factors, const ROWS: usize, const COLS: usize>(
        &self,
        factors: F,
        key: usize,
        query: usize,
        buffers: &Buffers,
        scores: *mut f32,
        maxima: &mut [Register<F>; COLS],
    ) {
        let (lanes, width) = (factors.lanes(), COLS * F::Lanes::LANES);
        let Sizes { depth, .. } = Sizes::new::<F>(self.shape.head_dim);
        // SAFETY: the keys' and the queries' sizes, see `Buffers`.
        let tile: [[Register<F>; COLS]; ROWS] = unsafe {
            let keys = buffers.keys.as_ptr().add(key * depth);
            let zero = [[lanes.splat(0.0); COLS]; ROWS];
            product_tile(factors, zero, keys, (depth, 1), buffers.queries.as_ptr(), width, depth)
        };
        for (row, sums) in tile.into_iter().enumerate() {
            for (col, mut score) in sums.into_iter().enumerate() {
                if !buffers.bias.is_empty() {
                    let at = query + col * F::Lanes::LANES + self.seq_len - 1 - (key + row);
                    // SAFETY: `bias::len` has room for any difference, and a block more.
                    score = lanes.add(score, unsafe { lanes.load(buffers.bias.as_ptr().add(at)) });
                }
                maxima[col] = lanes.max(score, maxima[col]);
                // SAFETY: the caller's promise.
                unsafe { lanes.store(scores.add(row * width + col * F::Lanes::LANES), score) };
            }
        }
    }

    /// The sums of a chunk's values weighted by their powers, added to those of earlier chunks; written out,
    /// divided by the sums of powers, at the last chunk.
    #[inline(always)]
    fn weighted_sums<F: Factors, const COLS: usize>(&self, factors: F, weighted: &mut Weighted) {
        let lanes = F::Lanes::LANES;
        let padded_dim = self.shape.head_dim.next_multiple_of(lanes);
        let groups = weighted.powers.len() / (COLS * lanes);
        assert!(weighted.queries.len() <= COLS * lanes && weighted.values.len() == groups * padded_dim);
        assert!(weighted.sums.len() >= weighted.queries.len() * padded_dim);
        for_tiles!(F::Lanes, 0..weighted.queries.len(), |row, ROWS| {
            let mut column = 0;
            while column < padded_dim {
                // SAFETY: the tile's rows are among the queries and its columns within `padded_dim`; sizes were
                // just checked.
                unsafe {
                    if column + WIDE * lanes <= padded_dim {
                        self.value_tile::<F, ROWS, COLS, WIDE>(factors, weighted, row, column);
                        column += WIDE * lanes;
                    } else {
                        self.value_tile::<F, ROWS, COLS, 1>(factors, weighted, row, column);
                        column += lanes;
                    }
                }
            }
        });
    }

    /// # Safety
    ///
    /// `row + ROWS` is at most the number of queries, `column + WIDTH * LANES` at most the padded `head_dim`, and
    /// `weighted` has sizes as its fields say.
    #[inline(always)]
    unsafe fn value_tile<F: Factors, const ROWS: usize, const COLS: usize, const WIDTH: usize>(
        &self,
        factors: F,
        weighted: &mut Weighted,
        row: usize,
        column: usize,
    ) {
        let AttentionShape { num_heads, head_dim, .. } = self.shape;
        let (lanes, width) = (factors.lanes(), COLS * F::Lanes::LANES);
        let Sizes { padded_dim, .. } = Sizes::new::<F>(head_dim);
        let mut tile = [[lanes.splat(0.0); WIDTH]; ROWS];
        // SAFETY: rows and columns are those of the tile.
        unsafe {
            let earlier = weighted.sums.as_mut_ptr().add(row * padded_dim + column);
            if !weighted.is_first {
                for (r, sums) in tile.iter_mut().enumerate() {
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum = lanes.load(earlier.add(r * padded_dim + c * F::Lanes::LANES));
                    }
                }
            }
            let powers = weighted.powers.as_ptr().add(row);
            let values = weighted.values.as_ptr().add(column);
            let groups = weighted.powers.len() / width;
            let tile = product_tile(factors, tile, powers, (1, width), values, padded_dim, groups);
            let Some(inverses) = &weighted.inverses else {
                for (r, sums) in tile.into_iter().enumerate() {
                    for (c, sum) in sums.into_iter().enumerate() {
                        lanes.store(earlier.add(r * padded_dim + c * F::Lanes::LANES), sum);
                    }
                }
                return;
            };
            for (r, sums) in tile.into_iter().enumerate() {
                let inverse = lanes.splat(inverses[row + r]);
                let out = self.out.add((weighted.queries.start + row + r) * num_heads * head_dim);
                for (c, sum) in sums.into_iter().enumerate() {
                    let (mean, at) = (lanes.mul(sum, inverse), column + c * F::Lanes::LANES);
                    if at + F::Lanes::LANES <= head_dim {
                        lanes.store(out.add(at), mean);
                    } else {
                        lanes.store_first(out.add(at), mean, head_dim - at);
                    }
                }
            }
        }
    }
}

/// A chunk of keys' part in a block's weighted sums.
struct Weighted<'a> {
    queries: Range<usize>,
    /// `[groups of the chunk's keys, queries]`
    powers: &'a [f32],
    /// `[groups of the chunk's keys, padded head_dim]`
    values: &'a [f32],
    /// `[queries, padded head_dim]`
    sums: &'a mut [f32],
    is_first: bool,
    /// What the sums are multiplied by in the end, if this is the last chunk.
    inverses: Option<[f32; WIDE * MAX_LANES]>,
}

/// Replaces scores by two to the power of their difference to the maximum, in groups of keys, which come to
/// lie at the start. Returns their sums for each query: of what groups hold, so that the weights of the
/// values add up to one.
#[inline(always)]
fn powers<F: Factors, const COLS: usize>(
    factors: F,
    scores: &mut [f32],
    maxima: &[Register<F>; COLS],
) -> [Register<F>; COLS] {
    let (lanes, width) = (factors.lanes(), COLS * F::Lanes::LANES);
    let mut sums = [lanes.splat(0.0); COLS];
    for group in 0..scores.len() / (F::GROUP * width) {
        for (col, sum) in sums.iter_mut().enumerate() {
            let mut powers = [lanes.splat(0.0); MAX_GROUP];
            // SAFETY: the group's rows are among the scores, and `COLS` registers long.
            unsafe {
                let column = scores.as_mut_ptr().add(col * F::Lanes::LANES);
                for (row, power) in (group * F::GROUP..).zip(&mut powers[..F::GROUP]) {
                    *power = factors.exp2(lanes.sub(lanes.load(column.add(row * width)), maxima[col]));
                }
                let powers = factors.join(powers);
                *sum = factors.add_groups(powers, *sum);
                lanes.store(column.add(group * width), powers);
            }
        }
    }
    sums
}

#[inline(always)]
fn inverses<L: Lanes, const COLS: usize>(lanes: L, totals: [L::V; COLS]) -> [f32; WIDE * MAX_LANES] {
    let mut inverses = [1.0; WIDE * MAX_LANES];
    for (col, total) in totals.into_iter().enumerate() {
        // SAFETY: `COLS` is at most `WIDE`, and `LANES` at most `MAX_LANES`.
        unsafe { lanes.store(inverses.as_mut_ptr().add(col * L::LANES), total) };
    }
    inverses.map(|total| 1.0 / total)
}
