//! One register of f32 lanes, whatever the instruction set: what micro-kernels are written in.
//!
//! A micro-kernel is one generic `#[inline(always)]` function over [`Lanes`]; [`dispatch`] instantiates it inside
//! a function compiled for the best instruction set that this CPU has. The values that implement [`Lanes`] are
//! proofs: one exists only where its instruction set was detected, so arithmetic through it is safe.
//!
//! Products here may be fused multiply-adds, which not every CPU has, so results may differ in the last bits
//! between CPUs; never between two runs on one CPU.

/// An instruction set's widest register, as lanes of f32.
pub(super) trait Lanes: Copy {
    /// A register.
    type V: Copy;

    /// Lanes of a register.
    const LANES: usize;

    /// Rows of a tile of products two registers wide, such that the sums, a row of factors and one splatted
    /// factor fit the register file, and the sums hide the latency of a multiply-add.
    const TILE_ROWS: usize;

    /// All lanes `value`.
    fn splat(self, value: f32) -> Self::V;

    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;

    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;

    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;

    /// `a * b + c`, fused where there is such an instruction.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    /// The larger; where `b` is NaN, NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;

    /// The bits of each lane shifted left by 23, where the exponent is.
    fn shift_to_exponent(self, a: Self::V) -> Self::V;

    /// # Safety
    ///
    /// `from` is valid for reading `LANES` values.
    unsafe fn load(self, from: *const f32) -> Self::V;

    /// # Safety
    ///
    /// `to` is valid for writing `LANES` values.
    unsafe fn store(self, to: *mut f32, a: Self::V);

    /// Writes row `i` of a `LANES x LANES` matrix as column `i` of another.
    ///
    /// # Safety
    ///
    /// `from.add(i * from_stride)` is valid for reading and `to.add(i * to_stride)` for writing `LANES` values,
    /// for every `i < LANES`.
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);

    /// Fetches the cache line of `from`, which may be any address, where there is such an instruction.
    #[inline(always)]
    fn prefetch(self, _from: *const f32) {}

    /// Writes the first `count` lanes.
    ///
    /// # Safety
    ///
    /// `count <= LANES`, and `to` is valid for writing `count` values.
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, a: Self::V, count: usize) {
        let mut lanes = [0.0; MAX_LANES];
        // SAFETY: the array has room for any register, and the caller promises the rest.
        unsafe {
            self.store(lanes.as_mut_ptr(), a);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }

    /// 2 to the power of `x`, within 2e-7 relative, for `x` up to 127. Up to -126.5 it is zero. NaN stays NaN.
    ///
    /// Method: x = n + r with n an integer and |r| <= 1/2, the minimax polynomial for 2^r that is 1 at 0, and n
    /// put into the exponent bits.
    #[inline(always)]
    fn exp2(self, x: Self::V) -> Self::V {
        // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits; 127 is the exponent's
        // bias. At n = -127 the exponent bits are those of zero.
        const ROUND: f32 = super::math::ROUND + 127.0;
        const COEFFICIENTS: [f32; 7] = [
            1.559_468_7e-4,
            1.340_664_4e-3,
            9.617_693e-3,
            5.550_310_6e-2,
            2.402_265_3e-1,
            6.931_472_2e-1,
            1.0,
        ];
        let x = self.max(self.splat(-127.0), x);
        let rounded = self.add(x, self.splat(ROUND));
        let r = self.sub(x, self.sub(rounded, self.splat(ROUND)));
        let mut power = self.splat(COEFFICIENTS[0]);
        for coefficient in &COEFFICIENTS[1..] {
            power = self.mul_add(power, r, self.splat(*coefficient));
        }
        self.mul(power, self.shift_to_exponent(rounded))
    }
}

/// Lanes of the widest register of any instruction set.
pub(super) const MAX_LANES: usize = 16;

/// A computation written once for all instruction sets.
pub(super) trait Kernel {
    /// Computes with registers of `lanes`; to be marked `#[inline(always)]`, as everything that it calls.
    fn run<L: Lanes>(self, lanes: L);
}

/// Runs `kernel` with the widest registers that this CPU has.
#[inline]
pub(super) fn dispatch(kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(lanes) = x86::Avx512::detect() {
            return lanes.run(kernel);
        }
        if let Some(lanes) = x86::Avx2::detect() {
            return lanes.run(kernel);
        }
    }
    #[cfg(target_arch = "aarch64")]
    return kernel.run(neon::Neon);
    #[cfg(not(target_arch = "aarch64"))]
    kernel.run(Portable);
}

/// Arrays, for CPUs without a better implementation.
#[derive(Clone, Copy)]
#[cfg_attr(target_arch = "aarch64", allow(dead_code))]
pub(super) struct Portable;

#[inline(always)]
fn each<const N: usize>(mut f: impl FnMut(usize) -> f32) -> [f32; N] {
    let mut lanes = [0.0; N];
    for (index, lane) in lanes.iter_mut().enumerate() {
        *lane = f(index);
    }
    lanes
}

impl Lanes for Portable {
    type V = [f32; 8];

    const LANES: usize = 8;
    const TILE_ROWS: usize = 2;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; 8]
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] * b[i])
    }

    // Not `f32::mul_add`, which is a call into libm where the CPU cannot fuse.
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        each(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn shift_to_exponent(self, a: Self::V) -> Self::V {
        each(|i| f32::from_bits(a[i].to_bits() << 23))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: the caller's promise; an array of f32 is aligned as one.
        unsafe { from.cast::<Self::V>().read() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: Self::V) {
        // SAFETY: as in `load`.
        unsafe { to.cast::<Self::V>().write(a) }
    }

    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for row in 0..Self::LANES {
            for column in 0..Self::LANES {
                // SAFETY: row and column are below `LANES`, up to where the caller promises both.
                unsafe { *to.add(column * to_stride + row) = *from.add(row * from_stride + column) };
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86;

#[cfg(test)]
pub(super) mod tests;
