//! CPU kernels, as Candle custom operations.
//!
//! Each file holds one operation: the kernel, and beside it a `reference` in plain scalar Rust that says what
//! it computes and that its tests compare with. Kernels run on the calling thread. Elementwise loops are
//! written so that the compiler vectorises them, and compiled once per instruction set by the macro `simd`; they
//! use no fused multiply-add, so the bits do not depend on which of these runs. Products of matrices are register
//! tiles (`tile`) of explicit registers (`lanes`) with fused multiply-add: their bits depend on the instruction set,
//! never on the batch.

mod activation;
mod attention;
mod elementwise;
mod gelu;
mod gemm;
mod glu;
mod lanes;
mod layer_norm;
mod linear;
mod math;
mod pooling;
mod tile;

pub use activation::{Activation, relu, silu, silu_reference};
pub use attention::{
    AttentionOptions, AttentionShape, PositionBias, Rotary, attention, attention_reference, attention_with,
};
pub use gelu::{
    gelu_erf, gelu_erf_reference, gelu_tanh, gelu_tanh_reference, quick_gelu, quick_gelu_reference,
};
pub use glu::{GluHalf, GluOp, swiglu_reference};
pub use layer_norm::{LayerNormOp, layer_norm_reference};
pub use linear::{PackError, PackedLinear, linear_reference};
pub use math::{exp, sigmoid, tanh};
pub use pooling::{mean_pool, mean_pool_reference};

use candle_core::{CpuStorage, Layout, Result, bail};

/// Products that are worth another thread's attention: a few microseconds.
const MIN_SHARED_PRODUCTS: usize = 1 << 19;

/// Defines `$name` as `$body` compiled for AVX-512, for AVX2 and for the baseline, chosen at run time.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $body:path) => {
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
                fn avx512($($arg: $type),*) {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) {
                    $body($($arg),*)
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                {
                    // SAFETY: the features that the function is compiled for were just detected.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the feature that the function is compiled for was just detected.
                    return unsafe { avx2($($arg),*) };
                }
            }
            $body($($arg),*)
        }
    };
}
use simd;

/// The elements of a contiguous f32 tensor.
fn contiguous_f32<'a>(storage: &'a CpuStorage, layout: &Layout, op: &'static str) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        bail!("{op}: expected f32, got {:?}", candle_core::backend::BackendStorage::dtype(storage));
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("{op}: expected a contiguous tensor, got {layout:?}"),
    }
}
