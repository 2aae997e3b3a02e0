//! Operators on each element alone, with broadcasting where there are several inputs.

pub(super) mod arithmetic;
pub(super) mod cast;
pub(super) mod clip;
pub(super) mod function;
pub(super) mod logic;
pub(super) mod variadic;

pub(crate) use arithmetic::{Arithmetic, Operation};
pub(crate) use cast::{Cast, cast};

use super::broadcast;
use crate::graph::{Array, DataType, Dim, Element, Info, Operands, Problem, problem};

/// An array of the results of a function, in the array's own memory where it can be had.
fn each<T: Element + Copy>(array: Array, function: impl Fn(T) -> T) -> Result<Array, Problem> {
    let shape = array.shape().to_vec();
    let mut values = array.into_values::<T>()?;
    values.iter_mut().for_each(|value| *value = function(*value));
    Array::new(shape, values)
}

/// [`each`] of a function to another type.
fn each_into<T: Element, U: Element>(array: &Array, function: impl Fn(&T) -> U) -> Result<Array, Problem> {
    let values = array.values::<T>()?.iter().map(function).collect();
    Array::new(array.shape(), values)
}

/// What is known about a result of two arrays of one type.
fn infer_pair(
    inputs: &Operands<&Info>,
    dtype: DataType,
    operation: impl Fn(&Dim, &Dim) -> Dim,
) -> Result<Vec<Info>, Problem> {
    let (a, b) = (inputs.get(0)?, inputs.get(1)?);
    if a.dtype != b.dtype {
        problem!("inputs are {} and {}", a.dtype, b.dtype);
    }
    let ints = match (&a.ints, &b.ints) {
        (Some(a), Some(b)) => zip_dims([a, b], |[a, b]| operation(a, b)),
        _ => None,
    };
    Ok(vec![Info { dtype, shape: broadcast::dims(inputs)?, ints, constant: None }])
}

/// An operation on sizes: vectors of one length and scalars.
fn zip_dims<const N: usize>(dims: [&[Dim]; N], operation: impl Fn([&Dim; N]) -> Dim) -> Option<Vec<Dim>> {
    let len = dims.iter().map(|dims| dims.len()).find(|&len| len != 1).unwrap_or(1);
    if dims.iter().any(|dims| dims.len() != 1 && dims.len() != len) {
        return None;
    }
    let at = |index: usize| dims.map(|dims| if dims.len() == 1 { &dims[0] } else { &dims[index] });
    Some((0..len).map(|index| operation(at(index))).collect())
}

/// An operation on numbers where both are known.
fn known(a: &Dim, b: &Dim, operation: impl Fn(i64, i64) -> Option<i64>) -> Dim {
    let numbers = a.known().zip(b.known());
    numbers.and_then(|(a, b)| operation(a, b)).map_or_else(Dim::unknown_int, Dim::from)
}

/// Whether something is true, as an element of [`Info::ints`].
fn truth(value: Option<bool>) -> Dim {
    value.map_or_else(Dim::unknown, |value| i64::from(value).into())
}
