//! What operators that pick or place elements compute with them.

use half::{bf16, f16};

use crate::graph::Element;

/// An integer or a floating-point number. Integers wrap around.
pub(super) trait Number: Element + Copy + PartialOrd {
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// The larger; NaN if one is NaN.
    fn larger(self, other: Self) -> Self;
    /// The smaller; NaN if one is NaN.
    fn smaller(self, other: Self) -> Self;
}

macro_rules! numbers {
    ($($type:ty: |$a:ident, $b:ident| $plus:expr, $times:expr,)*) => {$(
        impl Number for $type {
            fn plus(self, other: Self) -> Self {
                let ($a, $b) = (self, other);
                $plus
            }

            fn times(self, other: Self) -> Self {
                let ($a, $b) = (self, other);
                $times
            }

            // What is unequal to itself is NaN.
            #[allow(clippy::eq_op)]
            fn larger(self, other: Self) -> Self {
                if self > other || self != self { self } else { other }
            }

            #[allow(clippy::eq_op)]
            fn smaller(self, other: Self) -> Self {
                if self < other || self != self { self } else { other }
            }
        }
    )*};
}

numbers! {
    f32: |a, b| a + b, a * b,
    f64: |a, b| a + b, a * b,
    f16: |a, b| a + b, a * b,
    bf16: |a, b| a + b, a * b,
    i8: |a, b| a.wrapping_add(b), a.wrapping_mul(b),
    i16: |a, b| a.wrapping_add(b), a.wrapping_mul(b),
    i32: |a, b| a.wrapping_add(b), a.wrapping_mul(b),
    i64: |a, b| a.wrapping_add(b), a.wrapping_mul(b),
    u8: |a, b| a.wrapping_add(b), a.wrapping_mul(b),
    u16: |a, b| a.wrapping_add(b), a.wrapping_mul(b),
    u32: |a, b| a.wrapping_add(b), a.wrapping_mul(b),
    u64: |a, b| a.wrapping_add(b), a.wrapping_mul(b),
}

/// Evaluates `$body` with `$T` standing for the Rust type of `$dtype`, which is a number's.
macro_rules! for_number {
    ($dtype:expr, $T:ident => $body:expr) => {{
        use crate::graph::DataType;
        match $dtype {
            DataType::F32 => {
                type $T = f32;
                $body
            }
            DataType::F64 => {
                type $T = f64;
                $body
            }
            DataType::F16 => {
                type $T = half::f16;
                $body
            }
            DataType::Bf16 => {
                type $T = half::bf16;
                $body
            }
            DataType::I8 => {
                type $T = i8;
                $body
            }
            DataType::I16 => {
                type $T = i16;
                $body
            }
            DataType::I32 => {
                type $T = i32;
                $body
            }
            DataType::I64 => {
                type $T = i64;
                $body
            }
            DataType::U8 => {
                type $T = u8;
                $body
            }
            DataType::U16 => {
                type $T = u16;
                $body
            }
            DataType::U32 => {
                type $T = u32;
                $body
            }
            DataType::U64 => {
                type $T = u64;
                $body
            }
            dtype => $crate::graph::problem!("{dtype} is not a type of numbers"),
        }
    }};
}
pub(super) use for_number;
