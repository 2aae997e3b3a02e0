//! Operators that read integers, compute with the numbers that they stand for, and write integers.

use super::{Quantized, saturate, scale, zero_point};
use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, checked_len, problem};
use crate::kernels::sigmoid;
use crate::ops::{NodeReader, broadcast};

/// 8-bit integers, as an operator reads them.
struct Input<'a> {
    array: &'a Array,
    scale: f32,
    zero: i32,
}

impl<'a> Input<'a> {
    /// Inputs `first` and the two after it.
    fn new(inputs: &'a Operands<Array>, first: usize) -> Result<Self, Problem> {
        Ok(Self {
            array: inputs.get(first)?,
            scale: scale(inputs.get(first + 1)?, "a scale")?,
            zero: zero_point(inputs.optional(first + 2))?,
        })
    }
}

/// Evaluates `$body` with `$T` standing for an 8-bit type.
macro_rules! for_bytes {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DataType::U8 => {
                type $T = u8;
                $body
            }
            DataType::I8 => {
                type $T = i8;
                $body
            }
            dtype => problem!("expected 8-bit integers, got {dtype}"),
        }
    };
}

/// `QLinearAdd` or `QLinearMul`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QLinearArithmetic {
    pub(crate) is_product: bool,
}

impl QLinearArithmetic {
    pub(super) fn read(_: &NodeReader, is_product: bool) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { is_product }))
    }
}

impl Operator for QLinearArithmetic {
    fn name(&self) -> &str {
        if self.is_product { "QLinearMul" } else { "QLinearAdd" }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (a, b) = (inputs.get(0)?, inputs.get(3)?);
        if a.dtype != b.dtype {
            problem!("inputs are {} and {}", a.dtype, b.dtype);
        }
        let shape = match (&a.shape, &b.shape) {
            (Some(a), Some(b)) => Some(broadcast::dims_of(&[a, b])?),
            _ => None,
        };
        Ok(vec![Info { dtype: a.dtype, shape, ints: None, constant: None }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (a, b) = (Input::new(&inputs, 0)?, Input::new(&inputs, 3)?);
        let (y_scale, y_zero) = (scale(inputs.get(6)?, "a scale")?, zero_point(inputs.optional(7))?);
        let y = for_bytes!(a.array.dtype(), T => {
            if self.is_product {
                let ratio = a.scale * b.scale / y_scale;
                broadcast::zip::<T, T>(a.array, b.array, |x, y| {
                    let product = (x.to_i32() - a.zero) * (y.to_i32() - b.zero);
                    saturate(product as f32 * ratio, y_zero)
                })?
            } else {
                let (x_ratio, y_ratio) = (a.scale / y_scale, b.scale / y_scale);
                // Zero points are not integers in the sum: what is left of them is rounded with the rest.
                let fixed = y_zero as f32 - (x_ratio * a.zero as f32 + y_ratio * b.zero as f32);
                broadcast::zip::<T, T>(a.array, b.array, |x, y| {
                    let sum = y.to_i32() as f32 * y_ratio + (x.to_i32() as f32 * x_ratio + fixed);
                    saturate(sum, 0)
                })?
            }
        });
        Ok(vec![y])
    }
}

/// `QLinearSigmoid` or `QLinearLeakyRelu`
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct QLinearFunction {
    /// Of `QLinearLeakyRelu`.
    pub(crate) slope: Option<f32>,
}

impl QLinearFunction {
    pub(super) fn read_sigmoid(_: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { slope: None }))
    }

    pub(super) fn read_leaky_relu(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { slope: Some(node.attributes.float("alpha")?.unwrap_or(0.01)) }))
    }
}

impl Operator for QLinearFunction {
    fn name(&self) -> &str {
        if self.slope.is_some() { "QLinearLeakyRelu" } else { "QLinearSigmoid" }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        Ok(vec![Info { dtype: x.dtype, shape: x.shape.clone(), ints: None, constant: None }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = Input::new(&inputs, 0)?;
        let (y_scale, y_zero) = (scale(inputs.get(3)?, "a scale")?, zero_point(inputs.optional(4))?);
        let function = |x: f32| match self.slope {
            Some(slope) if x < 0.0 => slope * x,
            Some(_) => x,
            None => sigmoid(x),
        };
        let y = for_bytes!(x.array.dtype(), T => {
            let table = table::<T>(&x, |value| saturate(function(value) / y_scale, y_zero));
            let values: Vec<T> = x.array.values::<T>()?.iter().map(|&value| looked_up(&table, value)).collect();
            Array::new(x.array.shape(), values)?
        });
        Ok(vec![y])
    }
}

/// The results for all integers, from the lowest on.
fn table<T: Quantized>(x: &Input, f: impl Fn(f32) -> T) -> Vec<T> {
    (T::LOWEST..=T::HIGHEST).map(|value| f((value - x.zero) as f32 * x.scale)).collect()
}

fn looked_up<T: Quantized>(table: &[T], value: T) -> T {
    table[(value.to_i32() - T::LOWEST) as usize]
}

/// `QLinearConcat`: of a scale and a zero point, and of inputs with theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QLinearConcat {
    pub(crate) axis: i64,
}

impl QLinearConcat {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let Some(axis) = node.attributes.int("axis")? else {
            problem!("attribute `axis` is missing");
        };
        if node.num_inputs < 5 || node.num_inputs % 3 != 2 {
            problem!("{} inputs are not a scale, a zero point and threes", node.num_inputs);
        }
        Ok(Box::new(Self { axis }))
    }

    fn axis(&self, rank: usize) -> Result<usize, Problem> {
        let axis = if self.axis < 0 { self.axis.saturating_add_unsigned(rank as u64) } else { self.axis };
        match usize::try_from(axis) {
            Ok(axis) if axis < rank => Ok(axis),
            _ => problem!("axis {} is not inside rank {rank}", self.axis),
        }
    }
}

impl Operator for QLinearConcat {
    fn name(&self) -> &str {
        "QLinearConcat"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let first = inputs.get(2)?;
        let Some(mut shape) = first.shape.clone() else {
            return Ok(vec![Info::unknown(first.dtype)]);
        };
        let axis = self.axis(shape.len())?;
        for index in (5..inputs.len()).step_by(3) {
            let other = inputs.get(index)?;
            shape[axis] = match &other.shape {
                Some(other) if other.len() == shape.len() => shape[axis].plus(&other[axis]),
                Some(other) => problem!("inputs have shapes {shape:?} and {other:?}"),
                None => Dim::unknown(),
            };
        }
        Ok(vec![Info::new(first.dtype, shape)])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (y_scale, y_zero) = (scale(inputs.get(0)?, "a scale")?, zero_point(inputs.optional(1))?);
        let parts: Vec<Input> =
            (2..inputs.len()).step_by(3).map(|index| Input::new(&inputs, index)).collect::<Result<_, _>>()?;
        let mut shape = parts[0].array.shape().to_vec();
        let axis = self.axis(shape.len())?;
        for part in &parts[1..] {
            let other = part.array.shape();
            let fits = other.len() == shape.len()
                && (0..shape.len()).all(|d| d == axis || other[d] == shape[d])
                && part.array.dtype() == parts[0].array.dtype();
            if !fits {
                problem!("inputs of shapes {shape:?} and {other:?} cannot be joined");
            }
            shape[axis] = shape[axis].saturating_add(other[axis]);
        }
        let len = checked_len(&shape, 1)?;
        let outer: usize = shape[..axis].iter().product();
        for_bytes!(parts[0].array.dtype(), T => {
            let requantized = |part: &Input| -> Result<Vec<T>, Problem> {
                let values = part.array.values::<T>()?;
                if part.scale == y_scale && part.zero == y_zero {
                    return Ok(values.to_vec());
                }
                let table = table::<T>(part, |value| saturate(value / y_scale, y_zero));
                Ok(values.iter().map(|&value| looked_up(&table, value)).collect())
            };
            let parts = parts.iter().map(requantized).collect::<Result<Vec<_>, _>>()?;
            let mut values = Vec::with_capacity(len);
            for index in 0..outer {
                for part in &parts {
                    let run = part.len() / outer;
                    values.extend_from_slice(&part[index * run..(index + 1) * run]);
                }
            }
            Ok(vec![Array::new(shape, values)?])
        })
    }
}
