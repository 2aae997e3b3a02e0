//! `ArgMax` and `ArgMin`: where a dimension has its extreme.

use super::{around, dimension};
use crate::graph::{Array, DataType, Info, Operands, Operator, Problem, problem};
use crate::ops::number::{Number, for_number, wide, widen};
use crate::ops::{Entry, NodeReader};

pub(in crate::ops) const OPERATORS: &[Entry] = &[
    Entry::new("ArgMax", 1..=1, |node| ArgExtreme::read(node, true)),
    Entry::new("ArgMin", 1..=1, |node| ArgExtreme::read(node, false)),
];

/// `ArgMax` or `ArgMin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ArgExtreme {
    largest: bool,
    axis: i64,
    keepdims: bool,
    /// Of equal elements the last one is it, not the first.
    select_last: bool,
}

impl ArgExtreme {
    fn read(node: &NodeReader, largest: bool) -> Result<Box<dyn Operator>, Problem> {
        let axis = node.attributes.int("axis")?.unwrap_or(0);
        let keepdims = node.attributes.flag("keepdims")?.unwrap_or(true);
        let select_last = node.attributes.flag("select_last_index")?.unwrap_or(false);
        Ok(Box::new(Self { largest, axis, keepdims, select_last }))
    }

    fn shape<T: Clone>(self, shape: &[T], dimension: usize, one: T) -> Vec<T> {
        let middle = self.keepdims.then_some(one);
        let (before, after) = (shape[..dimension].iter().cloned(), shape[dimension + 1..].iter().cloned());
        before.chain(middle).chain(after).collect()
    }

    /// Whether an element takes the place of an earlier one. NaN is more extreme than any number.
    fn beats<T: Number>(self, value: T, best: T) -> bool {
        if best.is_nan() || value.is_nan() {
            return value.is_nan() && (self.select_last || !best.is_nan());
        }
        let is_better = if self.largest { value > best } else { value < best };
        is_better || (self.select_last && value == best)
    }
}

impl Operator for ArgExtreme {
    fn name(&self) -> &'static str {
        if self.largest { "ArgMax" } else { "ArgMin" }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        wide(input.dtype)?;
        let Some(shape) = &input.shape else {
            return Ok(vec![Info::unknown(DataType::I64)]);
        };
        let dimension = dimension(self.axis, shape.len())?;
        Ok(vec![Info::new(DataType::I64, self.shape(shape, dimension, 1i64.into()))])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let input = widen(inputs.take(0)?)?;
        let dimension = dimension(self.axis, input.rank())?;
        let shape = self.shape(input.shape(), dimension, 1);
        let (outer, len, inner) = around(input.shape(), dimension);
        if len == 0 && outer * inner > 0 {
            problem!("a dimension of size 0 has no extreme");
        }
        let mut places = vec![0i64; outer * inner];
        for_number!(input.dtype(), T => {
            let values = input.values::<T>()?;
            for outer in 0..if inner > 0 { outer } else { 0 } {
                let block = &values[outer * len * inner..(outer + 1) * len * inner];
                let places = &mut places[outer * inner..(outer + 1) * inner];
                let mut best = block[..inner].to_vec();
                for (index, row) in block.chunks_exact(inner).enumerate().skip(1) {
                    for ((place, best), value) in places.iter_mut().zip(&mut best).zip(row) {
                        if self.beats(*value, *best) {
                            (*place, *best) = (index as i64, *value);
                        }
                    }
                }
            }
        });
        Ok(vec![Array::new(shape, places)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_are_found_and_emptiness_has_none() {
        let arg = ArgExtreme { largest: true, axis: -1, keepdims: false, select_last: false };
        let run = |arg: ArgExtreme, shape: &[usize], values: &[f32]| {
            arg.run(Operands::new(vec![Some(Array::new(shape, values.to_vec()).unwrap())]))
        };
        let values = [1.0, 3.0, 3.0, f32::NAN, 9.0, f32::NAN];
        assert_eq!(run(arg, &[2, 3], &values).unwrap(), [Array::vector(vec![1i64, 0])]);
        let last = ArgExtreme { select_last: true, ..arg };
        assert_eq!(run(last, &[2, 3], &values).unwrap(), [Array::vector(vec![2i64, 2])]);
        let least = ArgExtreme { largest: false, axis: 0, ..arg };
        assert_eq!(
            run(least, &[3, 2], &[1.0, 3.0, 3.0, 2.0, 0.0, 2.0]).unwrap(),
            [Array::vector(vec![2i64, 1])]
        );
        assert!(run(arg, &[2, 0], &[]).is_err());
        assert!(run(arg, &[0, 2], &[]).unwrap()[0].is_empty());
        assert!(run(arg, &[], &[1.0]).is_err());
    }
}
