//! Arithmetic that is the same for all types of numbers.
//!
//! Operators are compiled for four types, since each costs time to compile and only one is ever hot: what is smaller
//! becomes the next of them and, after the operation, itself again, which rounds and wraps around as the operation
//! would have.

use crate::graph::{Array, DataType, Element, Problem, problem};
use crate::ops::elementwise::cast;

/// f32, f64, i64 or u64. Integers wrap around.
pub(super) trait Number: Element + Copy + PartialOrd {
    const ZERO: Self;
    const ONE: Self;
    /// The smallest number, or negative infinity.
    const LEAST: Self;
    /// The largest number, or infinity.
    const GREATEST: Self;

    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// `None` for an integer divided by zero.
    fn divided_by(self, other: Self) -> Option<Self>;
    /// The remainder of a quotient that is rounded towards zero; `None` as above.
    fn remainder(self, other: Self) -> Option<Self>;
    /// The remainder of a quotient that is rounded down: it has the divisor's sign. `None` as above.
    fn modulo(self, other: Self) -> Option<Self>;
    fn magnitude(self) -> Self;
    fn negated(self) -> Self;
    /// -1, 0 or 1; NaN of NaN.
    fn sign(self) -> Self;
    fn is_nan(self) -> bool;
    fn to_f64(self) -> f64;
    /// Rounded to the type; to an integer towards zero.
    fn from_f64(value: f64) -> Self;

    /// The larger; NaN if one is NaN.
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other || self.is_nan() { self } else { other }
    }

    /// The smaller; NaN if one is NaN.
    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        if self < other || self.is_nan() { self } else { other }
    }
}

macro_rules! ints {
    ($($type:ident: $magnitude:expr,)*) => {$(
        impl Number for $type {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            const LEAST: Self = $type::MIN;
            const GREATEST: Self = $type::MAX;

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn divided_by(self, other: Self) -> Option<Self> {
                (other != 0).then(|| self.wrapping_div(other))
            }
            #[inline(always)]
            fn remainder(self, other: Self) -> Option<Self> {
                (other != 0).then(|| self.wrapping_rem(other))
            }
            #[inline(always)]
            fn modulo(self, other: Self) -> Option<Self> {
                let rest = self.remainder(other)?;
                let has_other_sign = rest != 0 && (rest < Self::ZERO) != (other < Self::ZERO);
                Some(if has_other_sign { rest.wrapping_add(other) } else { rest })
            }
            #[inline(always)]
            fn magnitude(self) -> Self {
                $magnitude(self)
            }
            #[inline(always)]
            fn negated(self) -> Self {
                self.wrapping_neg()
            }
            #[inline(always)]
            fn sign(self) -> Self {
                if self > 0 { 1 } else { Self::ZERO.minus((self != 0).into()) }
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                false
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as Self
            }
        }
    )*};
}

ints! {
    i64: i64::wrapping_abs,
    u64: std::convert::identity,
}

macro_rules! floats {
    ($($type:ident: $zero:expr, $one:expr, $abs:expr, $to:expr, $from:expr,)*) => {$(
        impl Number for $type {
            const ZERO: Self = $zero;
            const ONE: Self = $one;
            const LEAST: Self = $type::NEG_INFINITY;
            const GREATEST: Self = $type::INFINITY;

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self + other
            }
            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self - other
            }
            #[inline(always)]
            fn times(self, other: Self) -> Self {
                self * other
            }
            #[inline(always)]
            fn divided_by(self, other: Self) -> Option<Self> {
                Some(self / other)
            }
            #[inline(always)]
            fn remainder(self, other: Self) -> Option<Self> {
                Some(self % other)
            }
            #[inline(always)]
            fn modulo(self, other: Self) -> Option<Self> {
                let rest = self % other;
                Some(if rest == $zero {
                    if other.is_sign_negative() { -$zero } else { $zero }
                } else if (rest < $zero) != (other < $zero) {
                    rest + other
                } else {
                    rest
                })
            }
            #[inline(always)]
            fn magnitude(self) -> Self {
                $abs(self)
            }
            #[inline(always)]
            fn negated(self) -> Self {
                -self
            }
            #[inline(always)]
            fn sign(self) -> Self {
                if self > $zero {
                    $one
                } else if self < $zero {
                    -$one
                } else {
                    self
                }
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                self.is_nan()
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                $to(self)
            }
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                $from(value)
            }
        }
    )*};
}

floats! {
    f32: 0.0, 1.0, f32::abs, f64::from, |value: f64| value as f32,
    f64: 0.0, 1.0, f64::abs, std::convert::identity, std::convert::identity,
}

/// The type that numbers of this type are computed in.
pub(super) fn wide(dtype: DataType) -> Result<DataType, Problem> {
    Ok(match dtype {
        DataType::F32 | DataType::F64 | DataType::I64 | DataType::U64 => dtype,
        DataType::F16 | DataType::Bf16 => DataType::F32,
        _ if dtype.is_int() => DataType::I64,
        _ => problem!("{dtype} is not a type of numbers"),
    })
}

/// The array in the type that its numbers are computed in.
pub(super) fn widen(array: Array) -> Result<Array, Problem> {
    let wide = wide(array.dtype())?;
    cast(array, wide)
}

/// Evaluates `$body` with the type alias `$T` standing for the Rust type of `$dtype`, a [`wide`] type; otherwise
/// returns a problem.
macro_rules! for_number {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::graph::DataType::F32 => {
                type $T = f32;
                $body
            }
            $crate::graph::DataType::F64 => {
                type $T = f64;
                $body
            }
            dtype => $crate::ops::number::for_int!(dtype, $T => $body),
        }
    };
}
pub(super) use for_number;

/// Evaluates `$body` with the type alias `$T` standing for the Rust type of `$dtype`, any floating-point type;
/// otherwise returns a problem.
macro_rules! for_float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::graph::DataType::F32 => {
                type $T = f32;
                $body
            }
            $crate::graph::DataType::F64 => {
                type $T = f64;
                $body
            }
            $crate::graph::DataType::F16 => {
                type $T = half::f16;
                $body
            }
            $crate::graph::DataType::Bf16 => {
                type $T = half::bf16;
                $body
            }
            dtype => $crate::graph::problem!("expected a floating-point type, got {dtype}"),
        }
    };
}
pub(super) use for_float;

/// [`for_number`] of integers.
macro_rules! for_int {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::graph::DataType::I64 => {
                type $T = i64;
                $body
            }
            $crate::graph::DataType::U64 => {
                type $T = u64;
                $body
            }
            dtype => $crate::graph::problem!("{dtype} is not supported here"),
        }
    };
}
pub(super) use for_int;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_have_the_sign_of_one_or_the_other() {
        let cases = [(7i64, 3, 1, 1), (-7, 3, -1, 2), (7, -3, 1, -2), (-7, -3, -1, -1), (-6, 3, 0, 0)];
        for (a, b, remainder, modulo) in cases {
            assert_eq!((a.remainder(b), a.modulo(b)), (Some(remainder), Some(modulo)));
            let (a, b) = (a as f32, b as f32);
            assert_eq!((a.remainder(b), a.modulo(b)), (Some(remainder as f32), Some(modulo as f32)));
        }
        assert_eq!(
            (1i64.modulo(0), i64::MIN.divided_by(-1), i64::MIN.magnitude()),
            (None, Some(i64::MIN), i64::MIN)
        );
        assert_eq!(1f32.modulo(f32::NEG_INFINITY), Some(f32::NEG_INFINITY));
    }

    #[test]
    fn not_a_number_is_never_hidden() {
        assert!(f32::NAN.larger(1.0).is_nan() && 1f32.larger(f32::NAN).is_nan());
        assert!(f64::NAN.smaller(1.0).is_nan() && f32::NAN.sign().is_nan());
        assert_eq!([(-3i64).sign(), 0i64.sign(), 5i64.sign()], [-1, 0, 1]);
    }
}
