//! What an instruction set contributes to a matrix product: registers, and how they multiply.

use std::ops::Range;

use super::format::Format;
use crate::kernels::{Activation, MIN_SHARED_PRODUCTS};
use crate::runtime::share;

/// A register file that multiplies inputs with a panel of weights.
///
/// All kinds share one shape. Inputs come in groups of 32 bits: one f32, two bf16 or four 8-bit integers that
/// are consecutive in a row. A step takes one group of an input row and the same group of every column of the
/// panel, and adds their products to one 32-bit sum per column. A sum is built in the order of the groups,
/// whatever rows and columns are computed beside it, so its bits depend on its row and column alone.
pub(super) trait Arithmetic {
    /// A group of one input row.
    type Input: Copy;
    /// What a panel holds for one group of one column.
    type Weight: Copy;
    /// f32 or i32.
    type Sum: Sum;
    /// Sums of `LANES` columns.
    type Sums: Copy;
    /// Weights of `LANES` columns.
    type Weights: Copy;
    /// Columns of a register.
    const LANES: usize;

    /// # Safety
    ///
    /// The CPU has the instructions.
    unsafe fn zero() -> Self::Sums;

    /// # Safety
    ///
    /// The CPU has the instructions, and `LANES` weights are behind `from`.
    unsafe fn load(from: *const Self::Weight) -> Self::Weights;

    /// `sums` plus the products of one row's group with `weights`.
    ///
    /// # Safety
    ///
    /// The CPU has the instructions.
    unsafe fn add_products(sums: Self::Sums, input: Self::Input, weights: Self::Weights) -> Self::Sums;

    /// # Safety
    ///
    /// The CPU has the instructions, and `LANES` sums fit behind `to`.
    unsafe fn store(to: *mut Self::Sum, sums: Self::Sums);
}

/// A product to compute.
pub(super) struct Job<'a> {
    /// Input rows.
    pub(super) rows: usize,
    /// Groups of a row.
    pub(super) groups: usize,
    /// `[rows, groups]`
    pub(super) inputs: *const u32,
    /// `[panels, groups, columns of a panel]`
    pub(super) weights: *const u8,
    /// Of all panels' columns.
    pub(super) columns: Columns<'a>,
    /// For each row what its integers stand for; empty when inputs are not integers.
    pub(super) row_scales: &'a [RowScale],
    pub(super) activation: Option<Activation>,
    /// Whether the outputs are the sums themselves, in place of f32, to which nothing is done then.
    pub(super) writes_sums: bool,
    /// `[rows, out_features]`, a row every `out_stride` elements.
    pub(super) out: *mut f32,
    pub(super) out_features: usize,
    pub(super) out_stride: usize,
}

// SAFETY: inputs and weights are only read, and threads that share a job compute different panels, whose outputs
// are different elements.
unsafe impl Sync for Job<'_> {}

/// What happens to the sums of a column, padded to whole panels.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub(super) bias: &'a [f32],
    /// What an integer weight stands for; empty when weights are not integers.
    pub(super) scales: &'a [f32],
    /// Sums of integer weights; empty when weights are not integers.
    pub(super) sums: &'a [i32],
}

/// An input row of integers `q` stands for `scale * (q - zero)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RowScale {
    pub(super) scale: f32,
    pub(super) zero: i32,
}

/// A sum, and what it becomes in the output.
///
/// It has the size of an f32.
pub(super) trait Sum: Copy + Default {
    /// Turns the sums of one row and one panel into outputs.
    fn finish(sums: &[Self], job: &Job, row: usize, first_column: usize, to: &mut [f32]);
}

impl Sum for f32 {
    #[inline(always)]
    fn finish(sums: &[f32], job: &Job, _: usize, first_column: usize, to: &mut [f32]) {
        let bias = &job.columns.bias[first_column..first_column + sums.len()];
        for ((to, sum), bias) in to.iter_mut().zip(sums).zip(bias) {
            *to = sum + bias;
        }
    }
}

impl Sum for i32 {
    #[inline(always)]
    fn finish(sums: &[i32], job: &Job, row: usize, first_column: usize, to: &mut [f32]) {
        let columns = first_column..first_column + sums.len();
        let RowScale { scale, zero } = job.row_scales[row];
        let Columns { bias, scales, sums: weight_sums } = job.columns;
        let (bias, scales) = (&bias[columns.clone()], &scales[columns.clone()]);
        let parameters = bias.iter().zip(scales).zip(&weight_sums[columns]);
        for ((to, sum), ((bias, column_scale), weight_sum)) in to.iter_mut().zip(sums).zip(parameters) {
            // sum of (q - zero) w: at most 255 * 127 * in_features, which `MAX_IN_FEATURES` keeps below 2^31.
            *to = (sum - zero * weight_sum) as f32 * (scale * column_scale) + bias;
        }
    }
}

/// A compiled way to compute products.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub(super) name: &'static str,
    /// Columns of a panel.
    pub(super) columns: usize,
    pub(super) format: Format,
    /// Computes some panels. Needs the instructions that `is_available` asks for, a job whose pointers are valid
    /// for its sizes, and that nobody else uses the outputs of these panels.
    pub(super) run: unsafe fn(&Job, Range<usize>),
    pub(super) is_available: fn() -> bool,
}

impl Kernel {
    /// Computes all panels of `job`, with the team's help; of whole inputs a row has `in_features`.
    ///
    /// # Safety
    ///
    /// The kernel is available; the pointers of `job` are valid for its sizes; nobody else uses its outputs.
    pub(super) unsafe fn run_shared(&self, job: &Job, in_features: usize) {
        let panels = job.out_features.div_ceil(self.columns);
        let panels_of_part = MIN_SHARED_PRODUCTS.div_ceil((job.rows * in_features * self.columns).max(1));
        share(panels.div_ceil(panels_of_part), |part| {
            let first = part * panels_of_part;
            // SAFETY: the caller's promise; parts have different panels, whose outputs are different elements.
            unsafe { (self.run)(job, first..panels.min(first + panels_of_part)) };
        });
    }
}

/// Rows that are multiplied with one panel after the other before the next rows' turn: few enough for a
/// second-level cache to hold them.
const BLOCK: usize = 168;

/// Computes some panels of `job` in tiles of `ROWS` by `VECTORS` registers.
///
/// # Safety
///
/// The CPU has the instructions of `A`; the pointers of `job` are valid for its sizes; nobody else uses the
/// outputs of these panels.
#[inline(always)]
pub(super) unsafe fn run<A: Arithmetic, const ROWS: usize, const VECTORS: usize, const TILE: usize>(
    job: &Job,
    panels: Range<usize>,
) {
    const { assert!(TILE == ROWS * VECTORS * A::LANES && ROWS <= 8) };
    let columns = VECTORS * A::LANES;
    let mut sums = [A::Sum::default(); TILE];
    let mut finished = [0.0f32; TILE];
    for block in (0..job.rows).step_by(BLOCK) {
        let block = block..job.rows.min(block + BLOCK);
        for panel in panels.clone() {
            // SAFETY: the panel is one of the job's.
            let weights = unsafe { job.weights.cast::<A::Weight>().add(panel * job.groups * columns) };
            let first_column = panel * columns;
            let width = columns.min(job.out_features - first_column);
            let mut first_row = block.start;
            while first_row < block.end {
                // Tiles of nearly equal height: 16 rows are 6 + 5 + 5, not 6 + 6 + 4.
                let left = block.end - first_row;
                let rows = left.div_ceil(left.div_ceil(ROWS));
                // SAFETY: the rows are among the job's, which has `groups` inputs for each.
                let inputs = unsafe { job.inputs.cast::<A::Input>().add(first_row * job.groups) };
                let to = sums.as_mut_ptr();
                // SAFETY: as above; `sums` has room for `ROWS` rows of a panel.
                unsafe {
                    match rows {
                        1 => tile::<A, 1, VECTORS>(job.groups, inputs, weights, to),
                        2 => tile::<A, 2, VECTORS>(job.groups, inputs, weights, to),
                        3 => tile::<A, 3, VECTORS>(job.groups, inputs, weights, to),
                        4 => tile::<A, 4, VECTORS>(job.groups, inputs, weights, to),
                        5 if ROWS >= 5 => tile::<A, 5, VECTORS>(job.groups, inputs, weights, to),
                        6 if ROWS >= 6 => tile::<A, 6, VECTORS>(job.groups, inputs, weights, to),
                        7 if ROWS >= 7 => tile::<A, 7, VECTORS>(job.groups, inputs, weights, to),
                        8 if ROWS >= 8 => tile::<A, 8, VECTORS>(job.groups, inputs, weights, to),
                        _ => unreachable!("a tile has at most {ROWS} rows"),
                    }
                }
                let (sums, finished) = (&sums[..rows * columns], &mut finished[..rows * columns]);
                // SAFETY: the rows are among the job's, and `width` columns of each belong to this panel.
                let out = unsafe { job.out.add(first_row * job.out_stride + first_column) };
                first_row += rows;
                if job.writes_sums {
                    // SAFETY: as above; a sum is as large as an f32.
                    unsafe { copy_rows(sums, columns, out.cast(), job.out_stride, width) };
                    continue;
                }
                let pairs = sums.chunks_exact(columns).zip(finished.chunks_exact_mut(columns));
                for (row, (sums, finished)) in pairs.enumerate() {
                    A::Sum::finish(sums, job, first_row - rows + row, first_column, finished);
                }
                if let Some(activation) = job.activation {
                    activation.apply(finished);
                }
                // SAFETY: as above.
                unsafe { copy_rows(finished, columns, out, job.out_stride, width) };
            }
        }
    }
}

/// Writes the first `width` of each of the rows of `tile`, `[_, columns]`.
///
/// # Safety
///
/// Behind `to` there are as many rows, one every `stride` elements, of at least `width`, which nobody else uses.
#[inline(always)]
unsafe fn copy_rows<T>(tile: &[T], columns: usize, to: *mut T, stride: usize, width: usize) {
    for (row, from) in tile.chunks_exact(columns).enumerate() {
        // SAFETY: the caller's promise; a tile's rows have `columns` elements, of which a panel's width is no more.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.add(row * stride), width) };
    }
}

/// The sums of `ROWS` rows and one panel, to `[ROWS, VECTORS * LANES]`.
///
/// # Safety
///
/// The CPU has the instructions of `A`; `inputs` is `[ROWS, groups]`, `weights` `[groups, VECTORS * LANES]`.
#[inline(always)]
unsafe fn tile<A: Arithmetic, const ROWS: usize, const VECTORS: usize>(
    groups: usize,
    inputs: *const A::Input,
    weights: *const A::Weight,
    to: *mut A::Sum,
) {
    // SAFETY: the caller's promise bounds every index below.
    unsafe {
        let mut sums = [[A::zero(); VECTORS]; ROWS];
        for group in 0..groups {
            let weights = weights.add(group * VECTORS * A::LANES);
            let weights: [A::Weights; VECTORS] =
                std::array::from_fn(|vector| A::load(weights.add(vector * A::LANES)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let input = *inputs.add(row * groups + group);
                for (sums, weights) in sums.iter_mut().zip(weights) {
                    *sums = A::add_products(*sums, input, weights);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (vector, sums) in sums.into_iter().enumerate() {
                A::store(to.add((row * VECTORS + vector) * A::LANES), sums);
            }
        }
    }
}
