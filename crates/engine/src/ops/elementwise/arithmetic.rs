//! `Add` and its like, of two arrays of numbers.

use super::{cast, each, infer_pair, known};
use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, problem};
use crate::ops::number::{Number, for_int, for_number, widen};
use crate::ops::{Entry, NodeReader, broadcast};

pub(in crate::ops) const OPERATORS: &[Entry] = &[
    Entry::new("Add", 2..=2, |_| Arithmetic::boxed(Operation::Add)),
    Entry::new("Sub", 2..=2, |_| Arithmetic::boxed(Operation::Sub)),
    Entry::new("Mul", 2..=2, |_| Arithmetic::boxed(Operation::Mul)),
    Entry::new("Div", 2..=2, |_| Arithmetic::boxed(Operation::Div)),
    Entry::new("Mod", 2..=2, read_mod),
    Entry::new("Pow", 2..=2, |_| Ok(Box::new(Pow))),
    Entry::new("BitShift", 2..=2, read_shift),
    Entry::new("BitwiseAnd", 2..=2, |_| Arithmetic::boxed(Operation::BitwiseAnd)),
    Entry::new("BitwiseOr", 2..=2, |_| Arithmetic::boxed(Operation::BitwiseOr)),
    Entry::new("BitwiseXor", 2..=2, |_| Arithmetic::boxed(Operation::BitwiseXor)),
];

/// An operation on two numbers of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Sub,
    Mul,
    Div,
    /// The remainder of division: rounded down, so that it has the divisor's sign, or `truncated`.
    Mod {
        truncated: bool,
    },
    BitShift {
        left: bool,
    },
    BitwiseAnd,
    BitwiseOr,
    BitwiseXor,
}

/// `Add`, `Sub`, `Mul`, `Div`, `Mod`, `BitShift`, `BitwiseAnd`, `BitwiseOr` or `BitwiseXor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arithmetic {
    pub(crate) operation: Operation,
}

fn read_mod(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
    Arithmetic::boxed(Operation::Mod { truncated: node.attributes.flag("fmod")?.unwrap_or(false) })
}

fn read_shift(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
    match node.attributes.choice("direction", &[("LEFT", true), ("RIGHT", false)])? {
        Some(left) => Arithmetic::boxed(Operation::BitShift { left }),
        None => problem!("attribute `direction` is missing"),
    }
}

impl Arithmetic {
    fn boxed(operation: Operation) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { operation }))
    }

    /// The operation on sizes.
    fn dim(self, a: &Dim, b: &Dim) -> Dim {
        match self.operation {
            Operation::Add => a.plus(b),
            Operation::Sub => a.plus(&b.negated()),
            Operation::Mul => a.times(b),
            Operation::Div => match (a.known(), b.known()) {
                (Some(_), Some(_)) => known(a, b, Number::divided_by),
                _ => a.divided_by(b).unwrap_or_else(|| Dim::unknown_like(&[a, b])),
            },
            Operation::Mod { truncated: false } => known(a, b, Number::modulo),
            Operation::Mod { truncated: true } => known(a, b, Number::remainder),
            _ => Dim::unknown_int(),
        }
    }
}

impl Operator for Arithmetic {
    fn name(&self) -> &str {
        match self.operation {
            Operation::Add => "Add",
            Operation::Sub => "Sub",
            Operation::Mul => "Mul",
            Operation::Div => "Div",
            Operation::Mod { .. } => "Mod",
            Operation::BitShift { .. } => "BitShift",
            Operation::BitwiseAnd => "BitwiseAnd",
            Operation::BitwiseOr => "BitwiseOr",
            Operation::BitwiseXor => "BitwiseXor",
        }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        infer_pair(inputs, inputs.get(0)?.dtype, |a, b| self.dim(a, b))
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (a, b) = (inputs.take(0)?, inputs.take(1)?);
        let dtype = a.dtype();
        if dtype != b.dtype() {
            problem!("inputs are {dtype} and {}", b.dtype());
        }
        if dtype == DataType::F32 {
            return Ok(vec![self.run_f32(a, b)?]);
        }
        let (a, b) = (widen(a)?, widen(b)?);
        let wide = a.dtype();
        let result = match self.operation {
            Operation::Add => for_number!(wide, T => zip(&a, &b, T::plus)),
            Operation::Sub => for_number!(wide, T => zip(&a, &b, T::minus)),
            Operation::Mul => for_number!(wide, T => zip(&a, &b, T::times)),
            Operation::Div => for_number!(wide, T => zip_by(&a, &b, T::divided_by)),
            Operation::Mod { truncated: false } => for_number!(wide, T => zip_by(&a, &b, T::modulo)),
            Operation::Mod { truncated: true } => for_number!(wide, T => zip_by(&a, &b, T::remainder)),
            Operation::BitShift { left: true } => for_int!(wide, T => zip(&a, &b, shift_left::<T>)),
            Operation::BitShift { left: false } => for_int!(wide, T => zip(&a, &b, shift_right::<T>)),
            Operation::BitwiseAnd => for_int!(wide, T => zip(&a, &b, |a: T, b: T| a & b)),
            Operation::BitwiseOr => for_int!(wide, T => zip(&a, &b, |a: T, b: T| a | b)),
            Operation::BitwiseXor => for_int!(wide, T => zip(&a, &b, |a: T, b: T| a ^ b)),
        };
        Ok(vec![cast(result?, dtype)?])
    }
}

impl Arithmetic {
    /// The type that is hot, in the inputs' own memory where it can be had.
    fn run_f32(self, a: Array, b: Array) -> Result<Array, Problem> {
        match self.operation {
            Operation::Add => broadcast::zip_into(a, b, |a: &f32, b| a + b),
            Operation::Sub => broadcast::zip_into(a, b, |a: &f32, b| a - b),
            Operation::Mul => broadcast::zip_into(a, b, |a: &f32, b| a * b),
            Operation::Div => broadcast::zip_into(a, b, |a: &f32, b| a / b),
            Operation::Mod { truncated: false } => zip_by(&a, &b, f32::modulo),
            Operation::Mod { truncated: true } => zip_by(&a, &b, f32::remainder),
            _ => problem!("{} is not supported", DataType::F32),
        }
    }
}

fn zip<T: Number>(a: &Array, b: &Array, operation: impl Fn(T, T) -> T) -> Result<Array, Problem> {
    broadcast::zip(a, b, |a, b| operation(*a, *b))
}

/// [`zip`] of an operation that does not take every divisor.
fn zip_by<T: Number>(a: &Array, b: &Array, operation: impl Fn(T, T) -> Option<T>) -> Result<Array, Problem> {
    // C++ leaves it undefined, and a panic would be worse than an error.
    if T::DTYPE.is_int() && b.values::<T>()?.contains(&T::ZERO) {
        problem!("division by zero");
    }
    zip(a, b, |a, b| operation(a, b).unwrap_or(T::ZERO))
}

/// All bits are shifted out by as many as there are, or by a negative number: what is left is the sign.
fn shift_left<T: Shift>(value: T, by: T) -> T {
    T::bits(by).and_then(|by| value.left(by)).unwrap_or(T::ZERO)
}

fn shift_right<T: Shift>(value: T, by: T) -> T {
    match T::bits(by).and_then(|by| value.right(by)) {
        Some(shifted) => shifted,
        None if value < T::ZERO => T::ZERO.minus(T::ONE),
        None => T::ZERO,
    }
}

trait Shift: Number {
    fn bits(by: Self) -> Option<u32>;
    fn left(self, by: u32) -> Option<Self>;
    fn right(self, by: u32) -> Option<Self>;
}

macro_rules! shift {
    ($($type:ty)*) => {$(
        impl Shift for $type {
            fn bits(by: Self) -> Option<u32> {
                by.try_into().ok()
            }
            fn left(self, by: u32) -> Option<Self> {
                self.checked_shl(by)
            }
            fn right(self, by: u32) -> Option<Self> {
                self.checked_shr(by)
            }
        }
    )*};
}

shift!(i64 u64);

/// `Pow`: the exponent may be of another type than the base, whose type the result has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pow;

impl Operator for Pow {
    fn name(&self) -> &'static str {
        "Pow"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (base, exponent) = (inputs.get(0)?, inputs.get(1)?);
        for dtype in [base.dtype, exponent.dtype] {
            if !dtype.is_int() && !dtype.is_float() {
                problem!("{dtype} is not a type of numbers");
            }
        }
        Ok(vec![Info { shape: broadcast::dims(inputs)?, ..Info::unknown(base.dtype) }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (base, exponent) = (inputs.take(0)?, inputs.take(1)?);
        let dtype = base.dtype();
        let result = match dtype {
            DataType::F32 => pow_f32(base, cast(exponent, DataType::F32)?)?,
            DataType::F16 | DataType::Bf16 => {
                let power = pow_f32(cast(base, DataType::F32)?, cast(exponent, DataType::F32)?)?;
                cast(power, dtype)?
            }
            DataType::F64 => {
                broadcast::zip(&base, &cast(exponent, DataType::F64)?, |a: &f64, b: &f64| a.powf(*b))?
            }
            _ if dtype.is_int() && exponent.dtype().is_int() => {
                let power =
                    broadcast::zip(&cast(base, DataType::I64)?, &cast(exponent, DataType::I64)?, pow_int);
                cast(power?, dtype)?
            }
            _ => {
                let (base, exponent) = (cast(base, DataType::F64)?, cast(exponent, DataType::F64)?);
                cast(broadcast::zip(&base, &exponent, |a: &f64, b: &f64| a.powf(*b))?, dtype)?
            }
        };
        Ok(vec![result])
    }
}

fn pow_f32(base: Array, exponent: Array) -> Result<Array, Problem> {
    // Exponents that models write down, as in squares of differences.
    let constant = match exponent.values::<f32>()? {
        [constant] if exponent.rank() <= base.rank() => Some(*constant),
        _ => None,
    };
    match constant {
        Some(1.0) => Ok(base),
        Some(2.0) => each::<f32>(base, |x| x * x),
        Some(3.0) => each::<f32>(base, |x| x * x * x),
        Some(-1.0) => each::<f32>(base, |x| 1.0 / x),
        _ => broadcast::zip(&base, &exponent, |a: &f32, b: &f32| a.powf(*b)),
    }
}

/// Wraps around. An integer to a negative power is the reciprocal, rounded towards zero.
fn pow_int(base: &i64, exponent: &i64) -> i64 {
    match u64::try_from(*exponent) {
        Ok(mut exponent) => {
            let (mut power, mut square) = (1i64, *base);
            while exponent > 0 {
                if exponent & 1 == 1 {
                    power = power.wrapping_mul(square);
                }
                square = square.wrapping_mul(square);
                exponent >>= 1;
            }
            power
        }
        Err(_) => match base {
            1 => 1,
            -1 if exponent % 2 == 0 => 1,
            -1 => -1,
            _ => 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(operator: &dyn Operator, a: Array, b: Array) -> Result<Array, Problem> {
        operator.run(Operands::new(vec![Some(a), Some(b)])).map(|mut outputs| outputs.remove(0))
    }

    #[test]
    fn integers_never_panic() {
        let extremes = Array::vector(vec![i64::MIN, i64::MIN, i64::MAX]);
        let others = Array::vector(vec![-1i64, i64::MAX, i64::MAX]);
        for operation in [
            Operation::Add,
            Operation::Mul,
            Operation::Div,
            Operation::Mod { truncated: true },
            Operation::Mod { truncated: false },
            Operation::BitShift { left: true },
            Operation::BitShift { left: false },
        ] {
            assert!(run(&Arithmetic { operation }, extremes.clone(), others.clone()).is_ok());
        }
        let div = Arithmetic { operation: Operation::Div };
        assert!(run(&div, extremes.clone(), Array::scalar(0i64)).is_err());
        assert!(run(&div, extremes, Array::scalar(0.5f32)).is_err());
        assert!(run(&div, Array::scalar(true), Array::scalar(true)).is_err());
    }

    #[test]
    fn powers_of_integers_wrap_and_negative_ones_round() {
        let bases = Array::vector(vec![2i32, -1, 2, 3, 0]);
        let exponents = Array::vector(vec![-1i64, i64::MIN, 31, i64::MAX, -1]);
        let expected = Array::vector(vec![0, 1, i32::MIN, -1431655765, 0]);
        assert_eq!(run(&Pow, bases, exponents).unwrap(), expected);
        let squares = run(&Pow, Array::vector(vec![-3f32, 2.0]), Array::vector(vec![2i64])).unwrap();
        assert_eq!(squares, Array::vector(vec![9f32, 4.0]));
    }

    #[test]
    fn arithmetic_on_sizes_is_known() {
        let batch = Dim::symbol("batch");
        let (a, b) = (
            Info::vector(DataType::I64, vec![batch.times(&6i64.into()), 7i64.into()]),
            Info::vector(DataType::I64, vec![3i64.into()]),
        );
        let ints = |operation| {
            let inputs = Operands::new(vec![Some(&a), Some(&b)]);
            Arithmetic { operation }.infer(&inputs).unwrap()[0].ints.clone().unwrap()
        };
        assert_eq!(ints(Operation::Div), [batch.times(&2i64.into()), 2i64.into()]);
        assert_eq!(ints(Operation::Mul), [batch.times(&18i64.into()), 21i64.into()]);
        assert_eq!(ints(Operation::Mod { truncated: false })[1], 1i64.into());
    }
}
