//! How the factors of a product are held: as f32 in any register, or as pairs of bf16 where the CPU
//! multiplies them.
//!
//! All kinds share one shape, as in `gemm`: a factor is made of groups of 32 bits, each of elements that are
//! consecutive in depth, and a step multiplies a group of one factor with a group of the other and adds the
//! products to one f32 sum. So buffers are of f32 whatever they hold, and groups pass through the registers
//! of [`Lanes`].

use super::lanes::{Kernel, Lanes, dispatch};

/// Elements of the largest group.
pub(super) const MAX_GROUP: usize = 2;

/// A register of sums, or of groups.
pub(super) type Register<F> = <<F as Factors>::Lanes as Lanes>::V;

/// A kind of factors, and proof that this CPU multiplies it.
pub(super) trait Factors: Copy {
    /// The registers that hold groups and sums.
    type Lanes: Lanes;

    /// Elements of a group.
    const GROUP: usize;

    /// The registers.
    fn lanes(self) -> Self::Lanes;

    /// `sums` plus, in each lane, the products of the elements of two groups.
    fn add_products(self, a: Register<Self>, b: Register<Self>, sums: Register<Self>) -> Register<Self>;

    /// `sums` plus, in each lane, the elements of a group.
    fn add_groups(self, groups: Register<Self>, sums: Register<Self>) -> Register<Self>;

    /// Two to the power of `x`, which is at most 0, as exact as a group holds it. NaN stays NaN.
    fn exp2(self, x: Register<Self>) -> Register<Self>;

    /// Makes a group of the f32 in a lane of the first `GROUP` rows, which it may round.
    fn join(self, rows: [Register<Self>; MAX_GROUP]) -> Register<Self>;

    /// Makes groups of neighbours in a row of f32, in place: they are the first `row.len().div_ceil(GROUP)`
    /// words. What the last one lacks is zero.
    fn join_neighbours(self, row: &mut [f32]);

    /// [`join`](Self::join) of whole rows of f32, whose width is a multiple of `LANES`, in place: groups come
    /// to lie in the first row.
    #[inline(always)]
    fn join_rows(self, rows: &mut [f32]) {
        if Self::GROUP == 1 {
            return;
        }
        let (lanes, width) = (self.lanes(), rows.len() / Self::GROUP);
        assert!(width.is_multiple_of(Self::Lanes::LANES));
        for column in (0..width).step_by(Self::Lanes::LANES) {
            let mut group = [lanes.splat(0.0); MAX_GROUP];
            // SAFETY: the column begins a register of every row.
            unsafe {
                for (row, lane) in group.iter_mut().enumerate().take(Self::GROUP) {
                    *lane = lanes.load(rows.as_ptr().add(row * width + column));
                }
                lanes.store(rows.as_mut_ptr().add(column), self.join(group));
            }
        }
    }
}

/// f32, each a group of its own.
impl<L: Lanes> Factors for L {
    type Lanes = L;

    const GROUP: usize = 1;

    #[inline(always)]
    fn lanes(self) -> L {
        self
    }

    #[inline(always)]
    fn add_products(self, a: L::V, b: L::V, sums: L::V) -> L::V {
        self.mul_add(a, b, sums)
    }

    #[inline(always)]
    fn add_groups(self, groups: L::V, sums: L::V) -> L::V {
        self.add(sums, groups)
    }

    #[inline(always)]
    fn exp2(self, x: L::V) -> L::V {
        Lanes::exp2(self, x)
    }

    #[inline(always)]
    fn join(self, rows: [L::V; MAX_GROUP]) -> L::V {
        rows[0]
    }

    #[inline(always)]
    fn join_neighbours(self, _: &mut [f32]) {}
}

/// A computation written once for all kinds of factors.
pub(super) trait ProductKernel {
    /// Computes with `factors`; to be marked `#[inline(always)]`, as everything that it calls.
    fn run<F: Factors>(self, factors: F);
}

/// Runs `kernel` with f32 in the widest registers that this CPU has; or, where they `may_round`, with pairs
/// of bf16 if it multiplies them.
#[inline]
pub(super) fn dispatch_product(kernel: impl ProductKernel, may_round: bool) {
    #[cfg(target_arch = "x86_64")]
    if may_round && let Some(pairs) = bf16_pairs::Bf16Pairs::detect() {
        return pairs.run(kernel);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = may_round;
    dispatch(InF32(kernel));
}

/// A kernel with f32 as factors.
#[derive(Clone, Copy)]
pub(super) struct InF32<K>(pub(super) K);

impl<K: ProductKernel> Kernel for InF32<K> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        self.0.run(lanes);
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod bf16_pairs;
