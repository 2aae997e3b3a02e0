//! The arithmetic instruction of AArch64 that Rust offers as a stable intrinsic, in a loop that does nothing
//! else. Those for dot products of bf16 (`bfdot`) and int8 (`sdot`) are not stable yet.

use std::arch::aarch64::*;
use std::hint::black_box;

use super::peak::{Arithmetic, Unit};

/// Enough for four units with a latency of four cycles, of 32 registers.
const CHAINS: usize = 16;

/// The instructions that this processor has.
pub(super) fn units() -> Vec<Unit> {
    let mut units = Vec::new();
    if std::arch::is_aarch64_feature_detected!("neon") {
        units.push(Unit {
            name: "fmla, NEON",
            arithmetic: Arithmetic::F32,
            operations: (2 * 4 * CHAINS) as f64,
            run: fma_128,
        });
    }
    units
}

/// x = 0.5 x + 0.5 in every chain. They start at 0, 1, 2, ... so that they are not one computation. Returns the
/// sum of their first elements.
#[target_feature(enable = "neon")]
fn fma_128(iterations: u64) -> f64 {
    let half = black_box(vdupq_n_f32(0.5));
    let mut chains = [vdupq_n_f32(0.0); CHAINS];
    for (index, chain) in chains.iter_mut().enumerate() {
        *chain = vdupq_n_f32(index as f32);
    }
    for _ in 0..iterations {
        for chain in &mut chains {
            *chain = vfmaq_f32(half, *chain, half);
        }
    }
    let chains = black_box(chains);
    let mut sum = 0.0;
    for chain in chains {
        sum += f64::from(vgetq_lane_f32::<0>(chain));
    }
    sum
}
