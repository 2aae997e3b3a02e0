//! One head of one sequence.
//!
//! Scores are computed transposed, keys in rows and queries in lanes: then the maximum and the sum of the softmax
//! go down columns and need no shuffles, a relative bias is a plain load, and what the values are multiplied by
//! is read along cache lines. A block of queries is as many as fill two registers; its scores with all keys stay
//! in cache. The softmax is exact: a pass over the block's scores finds each query's maximum before any is raised to
//! a power, and the division by the sum is left to the end, when the weighted sums of the values are written.
//!
//! Every sum goes in order of keys or of columns, in steps that depend on the sequence alone.

use std::ops::Range;

use super::super::lanes::{Kernel, Lanes, MAX_LANES};
use super::super::tile::product_tile;
use super::scratch::Scratch;
use super::{AttentionOptions, AttentionShape, bias};

/// Keys whose powers and values stay in the first-level cache between the softmax and the weighted sum. Sums over
/// chunks rather than over all keys are also more accurate.
const CHUNK: usize = 128;

/// Registers of queries in a block.
const WIDE: usize = 2;

/// Which head of which sequence, and where its result goes.
pub(super) struct Head<'a> {
    pub(super) shape: AttentionShape,
    pub(super) options: &'a AttentionOptions<'a>,
    /// The sequence's rows of queries, keys and values of all heads.
    pub(super) qkv: &'a [f32],
    pub(super) seq_len: usize,
    pub(super) head: usize,
    /// Where the head's first column of the sequence's first row of results is. Rows are
    /// `num_heads * head_dim` apart; nobody else uses the head's columns of these rows while this runs.
    pub(super) out: *mut f32,
}

/// The head's working memory.
struct Buffers<'a> {
    /// `[seq_len, head_dim]`
    keys: &'a [f32],
    /// `[seq_len, padded head_dim]`
    values: &'a [f32],
    /// By query minus key, as [`bias::fill`] says; empty where there is none.
    bias: &'a [f32],
    /// `[queries, padded head_dim]`: scaled and rotated.
    rows: &'a mut [f32],
    /// `[padded head_dim, queries]`
    queries: &'a mut [f32],
    /// `[keys, queries]`
    scores: &'a mut [f32],
    /// `[queries, padded head_dim]`: the weighted sums of the chunks so far.
    sums: &'a mut [f32],
}

/// Runs `$body` for tiles of `$rows` rows, a constant, from `$first` on, that make up a range.
macro_rules! for_tiles {
    ($lanes:ty, $range:expr, |$first:ident, $rows:ident| $body:expr) => {{
        let Range { start: mut $first, end } = $range;
        while $first < end {
            let left = (end - $first).min(<$lanes as Lanes>::TILE_ROWS);
            for_tiles!(@arms left, $first, $rows, $body, 8 6 4 2 1);
        }
    }};
    (@arms $left:ident, $first:ident, $rows:ident, $body:expr, $($count:literal)*) => {
        $(if $left >= $count {
            const $rows: usize = $count;
            $body;
            $first += $rows;
        } else)* {}
    };
}

impl Kernel for Head<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let AttentionShape { head_dim, .. } = self.shape;
        let (seq_len, padded_dim) = (self.seq_len, head_dim.next_multiple_of(L::LANES));
        let queries = WIDE * L::LANES;
        let bias_len = if bias::is_needed(self.options, seq_len) { bias::len(seq_len, queries) } else { 0 };
        let lens = [
            seq_len * head_dim,
            seq_len * padded_dim,
            bias_len,
            queries * padded_dim,
            queries * padded_dim,
            seq_len * queries,
            queries * padded_dim,
        ];
        let mut scratch = Scratch::take();
        let [keys, values, bias, rows, queries, scores, sums] = scratch.slices(lens);
        for token in 0..seq_len {
            self.copy_rotated(1, token, 1.0, &mut keys[token * head_dim..(token + 1) * head_dim]);
            self.copy_row(2, token, 1.0, &mut values[token * padded_dim..token * padded_dim + head_dim]);
        }
        if !bias.is_empty() {
            bias::fill(bias, self.options, self.head, seq_len);
        }
        let mut buffers = Buffers { keys, values, bias, rows, queries, scores, sums };
        for first in (0..seq_len).step_by(WIDE * L::LANES) {
            let block = first..seq_len.min(first + WIDE * L::LANES);
            // A block that fits one register is not computed as two.
            if block.len() > L::LANES {
                self.block::<L, WIDE>(lanes, block, &mut buffers);
            } else {
                self.block::<L, 1>(lanes, block, &mut buffers);
            }
        }
    }
}

impl Head<'_> {
    /// Copies the head's columns of one token's queries (part 0), keys (1) or values (2), times `scale`.
    #[inline(always)]
    fn copy_row(&self, part: usize, token: usize, scale: f32, to: &mut [f32]) {
        let AttentionShape { num_heads, head_dim, .. } = self.shape;
        let start = (token * 3 + part) * num_heads * head_dim + self.head * head_dim;
        for (to, from) in to.iter_mut().zip(&self.qkv[start..start + head_dim]) {
            *to = from * scale;
        }
    }

    /// [`copy_row`](Self::copy_row) of a query or key, rotated by its position.
    #[inline(always)]
    fn copy_rotated(&self, part: usize, token: usize, scale: f32, to: &mut [f32]) {
        self.copy_row(part, token, scale, to);
        if let Some(rotary) = &self.options.rotary {
            let (cos, sin) = rotary.at(token);
            let (low, high) = to[..rotary.dim].split_at_mut(rotary.dim / 2);
            for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
            }
        }
    }

    /// A block of queries, at most `COLS` registers of them.
    #[inline(always)]
    fn block<L: Lanes, const COLS: usize>(&self, lanes: L, block: Range<usize>, buffers: &mut Buffers) {
        let padded_dim = self.shape.head_dim.next_multiple_of(L::LANES);
        let width = COLS * L::LANES;
        // The softmax is computed with powers of two.
        let scale = self.shape.scale * std::f32::consts::LOG2_E;
        for (row, token) in buffers.rows.chunks_exact_mut(padded_dim).zip(block.clone()) {
            self.copy_rotated(0, token, scale, &mut row[..self.shape.head_dim]);
        }
        // What is left in rows past the last query makes lanes that are computed and never written.
        assert!(buffers.rows.len() >= width * padded_dim && buffers.queries.len() >= width * padded_dim);
        for row in (0..width).step_by(L::LANES) {
            for column in (0..padded_dim).step_by(L::LANES) {
                // SAFETY: `[width, padded_dim]` and `[padded_dim, width]` have room for this square of lanes.
                unsafe {
                    let from = buffers.rows.as_ptr().add(row * padded_dim + column);
                    let to = buffers.queries.as_mut_ptr().add(column * width + row);
                    lanes.transpose(from, padded_dim, to, width);
                }
            }
        }

        let keys = match self.options.window {
            Some(window) => {
                block.start.saturating_sub(window)..self.seq_len.min(block.end.saturating_add(window))
            }
            None => 0..self.seq_len,
        };
        let mut maxima = [lanes.splat(f32::NEG_INFINITY); COLS];
        assert!(buffers.scores.len() >= keys.len() * width);
        for_tiles!(L, keys.clone(), |key, ROWS| {
            let to = (key - keys.start) * width;
            // SAFETY: `key + ROWS <= keys.end`, for which the scores have room.
            unsafe {
                let scores = buffers.scores.as_mut_ptr().add(to);
                self.score_tile::<L, ROWS, COLS>(lanes, key, block.start, buffers, scores, &mut maxima);
            }
        });

        let mut totals = [lanes.splat(0.0); COLS];
        for first in keys.clone().step_by(CHUNK) {
            let chunk = first..keys.end.min(first + CHUNK);
            let start = (chunk.start - keys.start) * width;
            let scores = &mut buffers.scores[start..start + chunk.len() * width];
            let sums = powers(lanes, scores, &maxima);
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = lanes.add(*total, sum);
            }
            let mut weighted = Weighted {
                queries: block.clone(),
                powers: scores,
                values: &buffers.values[chunk.start * padded_dim..chunk.end * padded_dim],
                sums: buffers.sums,
                is_first: first == keys.start,
                inverses: (chunk.end == keys.end).then(|| inverses(lanes, totals)),
            };
            self.weighted_sums::<L, COLS>(lanes, &mut weighted);
        }
    }

    /// The scores of `ROWS` keys with a block of queries, which are also folded into `maxima`.
    ///
    /// # Safety
    ///
    /// `key + ROWS <= seq_len`, and `scores` is valid for writing `ROWS * COLS` registers.
    #[inline(always)]
    unsafe fn score_tile<L: Lanes, const ROWS: usize, const COLS: usize>(
        &self,
        lanes: L,
        key: usize,
        query: usize,
        buffers: &Buffers,
        scores: *mut f32,
        maxima: &mut [L::V; COLS],
    ) {
        let head_dim = self.shape.head_dim;
        let width = COLS * L::LANES;
        // SAFETY: the keys' and the queries' sizes, see `Buffers`.
        let tile: [[L::V; COLS]; ROWS] = unsafe {
            let keys = buffers.keys.as_ptr().add(key * head_dim);
            let zero = [[lanes.splat(0.0); COLS]; ROWS];
            product_tile(lanes, zero, keys, (head_dim, 1), buffers.queries.as_ptr(), width, head_dim)
        };
        for (row, sums) in tile.into_iter().enumerate() {
            for (col, mut score) in sums.into_iter().enumerate() {
                if !buffers.bias.is_empty() {
                    let at = query + col * L::LANES + self.seq_len - 1 - (key + row);
                    // SAFETY: `bias::len` has room for any difference, and a block more.
                    score = lanes.add(score, unsafe { lanes.load(buffers.bias.as_ptr().add(at)) });
                }
                maxima[col] = lanes.max(score, maxima[col]);
                // SAFETY: the caller's promise.
                unsafe { lanes.store(scores.add(row * width + col * L::LANES), score) };
            }
        }
    }

    /// The sums of a chunk's values weighted by their powers, added to those of earlier chunks; written out,
    /// divided by the sums of powers, at the last chunk.
    #[inline(always)]
    fn weighted_sums<L: Lanes, const COLS: usize>(&self, lanes: L, weighted: &mut Weighted) {
        let padded_dim = self.shape.head_dim.next_multiple_of(L::LANES);
        let count = weighted.powers.len() / (COLS * L::LANES);
        assert!(weighted.queries.len() <= COLS * L::LANES && weighted.values.len() == count * padded_dim);
        assert!(weighted.sums.len() >= weighted.queries.len() * padded_dim);
        for_tiles!(L, 0..weighted.queries.len(), |row, ROWS| {
            let mut column = 0;
            while column < padded_dim {
                // SAFETY: the tile's rows are among the queries and its columns within `padded_dim`; sizes were
                // just checked.
                unsafe {
                    if column + WIDE * L::LANES <= padded_dim {
                        self.value_tile::<L, ROWS, COLS, WIDE>(lanes, weighted, row, column);
                        column += WIDE * L::LANES;
                    } else {
                        self.value_tile::<L, ROWS, COLS, 1>(lanes, weighted, row, column);
                        column += L::LANES;
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
    unsafe fn value_tile<L: Lanes, const ROWS: usize, const COLS: usize, const WIDTH: usize>(
        &self,
        lanes: L,
        weighted: &mut Weighted,
        row: usize,
        column: usize,
    ) {
        let AttentionShape { num_heads, head_dim, .. } = self.shape;
        let padded_dim = head_dim.next_multiple_of(L::LANES);
        let width = COLS * L::LANES;
        let mut tile = [[lanes.splat(0.0); WIDTH]; ROWS];
        // SAFETY: rows and columns are those of the tile.
        unsafe {
            let earlier = weighted.sums.as_mut_ptr().add(row * padded_dim + column);
            if !weighted.is_first {
                for (r, sums) in tile.iter_mut().enumerate() {
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum = lanes.load(earlier.add(r * padded_dim + c * L::LANES));
                    }
                }
            }
            let powers = weighted.powers.as_ptr().add(row);
            let values = weighted.values.as_ptr().add(column);
            let count = weighted.powers.len() / width;
            let tile = product_tile(lanes, tile, powers, (1, width), values, padded_dim, count);
            let Some(inverses) = &weighted.inverses else {
                for (r, sums) in tile.into_iter().enumerate() {
                    for (c, sum) in sums.into_iter().enumerate() {
                        lanes.store(earlier.add(r * padded_dim + c * L::LANES), sum);
                    }
                }
                return;
            };
            for (r, sums) in tile.into_iter().enumerate() {
                let inverse = lanes.splat(inverses[row + r]);
                let out = self.out.add((weighted.queries.start + row + r) * num_heads * head_dim);
                for (c, sum) in sums.into_iter().enumerate() {
                    let (mean, at) = (lanes.mul(sum, inverse), column + c * L::LANES);
                    if at + L::LANES <= head_dim {
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
    /// `[keys of the chunk, queries]`
    powers: &'a [f32],
    /// `[keys of the chunk, padded head_dim]`
    values: &'a [f32],
    /// `[queries, padded head_dim]`
    sums: &'a mut [f32],
    is_first: bool,
    /// What the sums are multiplied by in the end, if this is the last chunk.
    inverses: Option<[f32; WIDE * MAX_LANES]>,
}

/// Replaces scores by two to the power of their difference to the maximum, and sums them for each query.
#[inline(always)]
fn powers<L: Lanes, const COLS: usize>(lanes: L, scores: &mut [f32], maxima: &[L::V; COLS]) -> [L::V; COLS] {
    let mut sums = [lanes.splat(0.0); COLS];
    for row in scores.chunks_exact_mut(COLS * L::LANES) {
        for (col, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the row is `COLS` registers long.
            unsafe {
                let at = row.as_mut_ptr().add(col * L::LANES);
                let power = lanes.exp2(lanes.sub(lanes.load(at), maxima[col]));
                *sum = lanes.add(*sum, power);
                lanes.store(at, power);
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
