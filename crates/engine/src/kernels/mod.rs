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
pub(crate) mod elementwise;
mod factors;
mod gelu;
mod gemm;
mod glu;
mod group_sums;
mod lanes;
mod layer_norm;
mod linear;
mod math;
mod matmul;
mod max_sim;
mod pooling;
mod product;
mod rms_norm;
mod scratch;
mod softmax;
mod splade;
mod tile;

pub use activation::{Activation, relu, silu, silu_reference};
pub(crate) use attention::attention_of_rows;
pub use attention::{
    AttentionOptions, AttentionShape, PositionBias, Rotary, attention, attention_reference, attention_with,
};
pub use gelu::{
    gelu_erf, gelu_erf_reference, gelu_tanh, gelu_tanh_reference, quick_gelu, quick_gelu_reference,
};
pub(crate) use gemm::{BlockedWeight, PackedBlocks, PackedIntegers, Zeros, unpacked};
pub use glu::{GluHalf, GluOp, swiglu_reference};
pub use group_sums::{add_to_groups, project_f64};
pub(crate) use layer_norm::layer_norm;
pub use layer_norm::{LayerNormOp, layer_norm_reference};
pub use linear::{MlpOp, PackError, PackedLinear, linear_reference};
pub(crate) use math::erf_reference;
pub use math::{exp, sigmoid, tanh};
pub(crate) use matmul::{ProductShape, matmul};
pub use max_sim::{max_sim, max_sim_reference};
pub use pooling::{mean_pool, mean_pool_reference};
pub use product::product;
pub(crate) use product::{integer_product, transposed};
pub(crate) use rms_norm::rms_norm;
pub(crate) use softmax::{log_softmax, softmax, softmax_or_zeros};
pub use splade::{SpladeDecoder, SpladeOp, splade_max, splade_reference, splade_weights};

use candle_core::{CpuStorage, Layout, Result, bail};

use crate::runtime::share;

/// Products that are worth another thread's attention: a few microseconds.
const MIN_SHARED_PRODUCTS: usize = 1 << 18;

/// Elements of rows that are worth another thread's attention, where each takes about a nanosecond.
const MIN_SHARED_ELEMENTS: usize = 1 << 13;

/// Cuts `first` and `second`, matrices with rows of these widths, into the same runs of rows, and lets the team work
/// on them: `work` gets the index of a run's first row, and its rows of both.
fn share_rows<T: Send, U: Send>(
    (first, first_width): (&mut [T], usize),
    (second, second_width): (&mut [U], usize),
    rows: usize,
    work: impl Fn(usize, &mut [T], &mut [U]) + Sync,
) {
    assert!(first.len() == rows * first_width && second.len() == rows * second_width, "rows are whole");
    let rows_of_part = MIN_SHARED_ELEMENTS.div_ceil(first_width.max(1));
    let (first, second) = (Disjoint(first.as_mut_ptr()), Disjoint(second.as_mut_ptr()));
    share(rows.div_ceil(rows_of_part), |part| {
        let start = part * rows_of_part;
        let count = rows_of_part.min(rows - start);
        // SAFETY: the rows are inside both matrices, which are borrowed mutably here, and are this part's alone.
        let (first, second) = unsafe {
            (
                std::slice::from_raw_parts_mut(first.add(start * first_width), count * first_width),
                std::slice::from_raw_parts_mut(second.add(start * second_width), count * second_width),
            )
        };
        work(start, first, second);
    });
}

/// The start of memory of which threads use different parts.
struct Disjoint<T>(*mut T);

// SAFETY: whoever dereferences what `add` returns promises that no other thread uses the same elements; elements may
// be handed to another thread.
unsafe impl<T: Send> Sync for Disjoint<T> {}

impl<T> Disjoint<T> {
    /// # Safety
    ///
    /// `offset` is inside the memory.
    unsafe fn add(&self, offset: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

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
                if $crate::kernels::lanes::x86::Avx512::detect().is_some() {
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
