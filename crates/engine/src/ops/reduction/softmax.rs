//! `Softmax`, its logarithm, and its limit.

use super::{around, dimension};
use crate::graph::{Array, DataType, Info, Operands, Operator, Problem, problem};
use crate::kernels;
use crate::ops::permute::permute;
use crate::ops::{Entry, NodeReader};

pub(in crate::ops) const OPERATORS: &[Entry] = &[
    Entry::new("Softmax", 1..=1, |node| Softmax::read(node, Normalisation::Softmax)),
    Entry::new("LogSoftmax", 1..=1, |node| Softmax::read(node, Normalisation::LogSoftmax)),
    Entry::new("Hardmax", 1..=1, |node| Softmax::read(node, Normalisation::Hardmax)),
];

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Normalisation {
    Softmax,
    LogSoftmax,
    /// One for the first of the largest elements, zero for the others.
    Hardmax,
}

/// `Softmax`, `LogSoftmax` or `Hardmax`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Softmax {
    pub(crate) normalisation: Normalisation,
    pub(crate) axis: i64,
    /// A row is what all dimensions from `axis` on hold: the semantics up to version 12.
    pub(crate) flattened: bool,
}

impl Softmax {
    fn read(node: &NodeReader, normalisation: Normalisation) -> Result<Box<dyn Operator>, Problem> {
        let flattened = node.opset < 13;
        let axis = node.attributes.int("axis")?.unwrap_or(if flattened { 1 } else { -1 });
        Ok(Box::new(Self { normalisation, axis, flattened }))
    }

    fn rows(self, values: &mut [f32], width: usize) {
        match self.normalisation {
            Normalisation::Softmax => kernels::softmax(values, width),
            Normalisation::LogSoftmax => kernels::log_softmax(values, width),
            Normalisation::Hardmax => {
                values.chunks_exact_mut(width.max(1)).for_each(|row| hardmax(row, 0.0, 1.0))
            }
        }
    }

    fn rows_f64(self, values: &mut [f64], width: usize) {
        for row in values.chunks_exact_mut(width.max(1)) {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|value| (value - largest).exp()).sum();
            match self.normalisation {
                Normalisation::Softmax => {
                    row.iter_mut().for_each(|value| *value = (*value - largest).exp() / sum)
                }
                Normalisation::LogSoftmax => row.iter_mut().for_each(|value| *value -= largest + sum.ln()),
                Normalisation::Hardmax => hardmax(row, 0.0, 1.0),
            }
        }
    }

    /// Normalises what is consecutive in memory.
    fn run_rows(self, array: Array, width: usize) -> Result<Array, Problem> {
        let (dtype, shape) = (array.dtype(), array.shape().to_vec());
        if dtype == DataType::F64 {
            let mut values = array.into_values()?;
            self.rows_f64(&mut values, width);
            return Array::new(shape, values);
        }
        let mut values = array.into_floats()?;
        self.rows(&mut values, width);
        Array::from_floats(dtype, shape, values)
    }
}

fn hardmax<T: PartialOrd + Copy>(row: &mut [T], zero: T, one: T) {
    let mut place = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[place] {
            place = index;
        }
    }
    row.fill(zero);
    if let Some(value) = row.get_mut(place) {
        *value = one;
    }
}

impl Operator for Softmax {
    fn name(&self) -> &'static str {
        match self.normalisation {
            Normalisation::Softmax => "Softmax",
            Normalisation::LogSoftmax => "LogSoftmax",
            Normalisation::Hardmax => "Hardmax",
        }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        if !input.dtype.is_float() {
            problem!("expected a floating-point type, got {}", input.dtype);
        }
        if let Some(rank) = input.rank() {
            self.split(rank)?;
        }
        Ok(vec![Info { shape: input.shape.clone(), ..Info::unknown(input.dtype) }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let input = inputs.take(0)?;
        let at = self.split(input.rank())?;
        if self.flattened {
            let width = input.shape()[at..].iter().product();
            return Ok(vec![self.run_rows(input, width)?]);
        }
        let (_, width, inner) = around(input.shape(), at);
        if inner == 1 {
            return Ok(vec![self.run_rows(input, width)?]);
        }
        let mut order: Vec<usize> = (0..input.rank()).collect();
        let last = order.len() - 1;
        order.swap(at, last);
        Ok(vec![crate::ops::number::for_float!(input.dtype(), T => {
            let rows = self.run_rows(permute::<T>(&input, &order)?, width)?;
            permute::<T>(&rows, &order)?
        })])
    }
}

impl Softmax {
    /// The dimension of the axis, which may be behind the last one where dimensions are flattened.
    fn split(self, rank: usize) -> Result<usize, Problem> {
        if self.flattened && usize::try_from(self.axis) == Ok(rank) {
            Ok(rank)
        } else {
            dimension(self.axis, rank)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(softmax: Softmax, array: Array) -> Result<Array, Problem> {
        softmax.run(Operands::new(vec![Some(array)])).map(|mut outputs| outputs.remove(0))
    }

    #[test]
    fn rows_are_along_a_dimension_or_flattened() {
        let zeros = Array::full(vec![2, 3, 4], 0f32).unwrap();
        let softmax = Softmax { normalisation: Normalisation::Softmax, axis: 1, flattened: false };
        let third = Array::full(vec![2, 3, 4], 1f32 / 3.0).unwrap();
        assert_eq!(run(softmax, zeros.clone()).unwrap(), third);
        let twelfth = Array::full(vec![2, 3, 4], 1f32 / 12.0).unwrap();
        assert_eq!(run(Softmax { flattened: true, ..softmax }, zeros.clone()).unwrap(), twelfth);
        let ones = Array::full(vec![2, 3, 4], 1f32).unwrap();
        assert_eq!(run(Softmax { flattened: true, axis: 3, ..softmax }, zeros).unwrap(), ones);
    }

    #[test]
    fn axes_and_sizes_are_checked() {
        let softmax = Softmax { normalisation: Normalisation::Hardmax, axis: -1, flattened: false };
        assert!(run(softmax, Array::scalar(1f32)).is_err());
        assert!(run(Softmax { axis: i64::MIN, ..softmax }, Array::vector(vec![1f32])).is_err());
        assert!(run(softmax, Array::full(vec![3, 0], 0f32).unwrap()).unwrap().is_empty());
        let rows = Array::new(vec![3, 2], vec![1.0, 5.0, 5.0, 5.0, 0.0, -1.0f64]).unwrap();
        let expected = Array::new(vec![3, 2], vec![0.0, 1.0, 1.0, 0.0, 1.0, 0.0f64]).unwrap();
        assert_eq!(run(softmax, rows).unwrap(), expected);
    }
}
