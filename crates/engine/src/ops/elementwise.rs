//! Arithmetic on elements, with broadcasting.

use half::{bf16, f16};

use super::{Entry, NodeReader, broadcast};
use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, problem};

pub(super) const OPERATORS: &[Entry] = &[
    Entry::new("Add", 2..=2, |node| Arithmetic::read(node, "Add")),
    Entry::new("Sub", 2..=2, |node| Arithmetic::read(node, "Sub")),
    Entry::new("Mul", 2..=2, |node| Arithmetic::read(node, "Mul")),
    Entry::new("Div", 2..=2, |node| Arithmetic::read(node, "Div")),
];

/// `Add`, `Sub`, `Mul` or `Div`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arithmetic {
    name: &'static str,
}

impl Arithmetic {
    fn read(_: &NodeReader, name: &'static str) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { name }))
    }
}

impl Operator for Arithmetic {
    fn name(&self) -> &str {
        self.name
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        if a.dtype != b.dtype {
            problem!("inputs are {} and {}", a.dtype, b.dtype);
        }
        let ints = match (&a.ints, &b.ints) {
            (Some(a), Some(b)) => dim_arithmetic(self.name, a, b),
            _ => None,
        };
        Ok(vec![Info { dtype: a.dtype, shape: broadcast::dims(inputs)?, ints, constant: None }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (a, b) = (inputs.take(0)?, inputs.take(1)?);
        let dtype = a.dtype();
        macro_rules! floats {
            ($operator:tt) => {
                match dtype {
                    DataType::F32 => broadcast::zip::<f32, f32>(a, &b, |a, b| a $operator b)?,
                    DataType::F64 => broadcast::zip::<f64, f64>(a, &b, |a, b| a $operator b)?,
                    DataType::F16 => broadcast::zip::<f16, f16>(a, &b, |a, b| a $operator b)?,
                    DataType::Bf16 => broadcast::zip::<bf16, bf16>(a, &b, |a, b| a $operator b)?,
                    _ => problem!("{dtype} is not a type of numbers"),
                }
            };
        }
        macro_rules! ints {
            ($method:ident, $operator:tt) => {
                match dtype {
                    DataType::I8 => broadcast::zip::<i8, i8>(a, &b, |a, b| a.$method(*b))?,
                    DataType::I16 => broadcast::zip::<i16, i16>(a, &b, |a, b| a.$method(*b))?,
                    DataType::I32 => broadcast::zip::<i32, i32>(a, &b, |a, b| a.$method(*b))?,
                    DataType::I64 => broadcast::zip::<i64, i64>(a, &b, |a, b| a.$method(*b))?,
                    DataType::U8 => broadcast::zip::<u8, u8>(a, &b, |a, b| a.$method(*b))?,
                    DataType::U16 => broadcast::zip::<u16, u16>(a, &b, |a, b| a.$method(*b))?,
                    DataType::U32 => broadcast::zip::<u32, u32>(a, &b, |a, b| a.$method(*b))?,
                    DataType::U64 => broadcast::zip::<u64, u64>(a, &b, |a, b| a.$method(*b))?,
                    _ => floats!($operator),
                }
            };
        }
        Ok(vec![match self.name {
            "Add" => ints!(wrapping_add, +),
            "Sub" => ints!(wrapping_sub, -),
            "Mul" => ints!(wrapping_mul, *),
            _ => {
                // C++ leaves it undefined; a panic would be worse than an error.
                if dtype.is_int() && b.to_ints().is_ok_and(|values| values.contains(&0)) {
                    problem!("division by zero");
                }
                ints!(wrapping_div, /)
            }
        }])
    }
}

/// Arithmetic on sizes: vectors of one length, or a vector and a scalar.
fn dim_arithmetic(name: &str, a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let len = a.len().max(b.len());
    let at = |dims: &[Dim], index: usize| -> Option<Dim> {
        if dims.len() == 1 { Some(dims[0].clone()) } else { dims.get(index).cloned() }
    };
    let one = |index| {
        let (a, b) = (at(a, index)?, at(b, index)?);
        match name {
            "Add" => Some(a.plus(&b)),
            "Sub" => Some(a.plus(&b.negated())),
            "Mul" => Some(a.times(&b)),
            _ => match (a.known(), b.known()) {
                (Some(a), Some(b)) if b != 0 => Some(a.wrapping_div(b).into()),
                _ => Some(a.divided_by(&b).unwrap_or_else(Dim::unknown)),
            },
        }
    };
    (0..len).map(one).collect()
}
