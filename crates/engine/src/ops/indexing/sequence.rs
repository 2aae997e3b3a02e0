//! `CumSum` and `ReverseSequence`: along one axis.

use super::number::{Number, for_number};
use crate::graph::{Array, Info, Operands, Operator, Problem, element_count, for_computed_type, problem};
use crate::ops::{NodeReader, axes};

/// `CumSum`: the sums of all elements up to each one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CumSum {
    /// Whether an element is not part of its own sum.
    pub(crate) exclusive: bool,
    /// Whether sums begin at the end.
    pub(crate) reverse: bool,
}

impl CumSum {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let flag = |name| Ok(node.attributes.flag(name)?.unwrap_or(false));
        Ok(Box::new(Self { exclusive: flag("exclusive")?, reverse: flag("reverse")? }))
    }

    fn sums<T: Number>(self, values: &mut [T], size: usize, run: usize) {
        let row = |index: usize| if self.reverse { size - 1 - index } else { index } * run;
        for block in values.chunks_exact_mut(size * run) {
            if self.exclusive {
                // Each is moved on by one, and the first is nothing.
                for index in (1..size).rev() {
                    block.copy_within(row(index - 1)..row(index - 1) + run, row(index));
                }
                block[row(0)..row(0) + run].fill(T::default());
            }
            for index in 1..size {
                let (before, at) = (row(index - 1), row(index));
                for i in 0..run {
                    block[at + i] = block[before + i].plus(block[at + i]);
                }
            }
        }
    }
}

impl Operator for CumSum {
    fn name(&self) -> &str {
        "CumSum"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        Ok(vec![Info { shape: input.shape.clone(), ..Info::unknown(input.dtype) }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let array = inputs.take(0)?;
        let axis = match inputs.get(1)?.to_ints()?.as_slice() {
            &[axis] => axes::axis(axis, array.rank())?,
            ints => problem!("{} axes, expected one", ints.len()),
        };
        if array.is_empty() {
            return Ok(vec![array]);
        }
        let shape = array.shape().to_vec();
        let (size, run) = (shape[axis], element_count(&shape[axis + 1..])?);
        Ok(vec![for_number!(array.dtype(), T => {
            let mut values = array.into_values::<T>()?;
            self.sums(&mut values, size, run);
            Array::new(shape, values)?
        })])
    }
}

/// `ReverseSequence`: the first elements of each sequence of a batch, backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReverseSequence {
    /// Whether the batch's axis is the first and time's the second, or the other way around.
    pub(crate) batch_first: bool,
}

impl ReverseSequence {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let axis = |name, default| Ok(node.attributes.int(name)?.unwrap_or(default));
        match (axis("batch_axis", 1)?, axis("time_axis", 0)?) {
            (0, 1) => Ok(Box::new(Self { batch_first: true })),
            (1, 0) => Ok(Box::new(Self { batch_first: false })),
            (batch, time) => problem!("axes {batch} and {time} are not 0 and 1"),
        }
    }
}

impl Operator for ReverseSequence {
    fn name(&self) -> &str {
        "ReverseSequence"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        Ok(vec![Info { shape: input.shape.clone(), ..Info::unknown(input.dtype) }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (array, lens) = (inputs.get(0)?, inputs.get(1)?.to_ints()?);
        let &[first, second, ref rest @ ..] = array.shape() else {
            problem!("shape {:?} has no batch of sequences", array.shape());
        };
        let (batch, time) = if self.batch_first { (first, second) } else { (second, first) };
        let lens: Vec<usize> = lens.iter().filter_map(|&len| usize::try_from(len).ok()).collect();
        if lens.len() != batch || lens.iter().any(|&len| len > time) {
            problem!("lengths {lens:?} are not those of a batch of {batch} with up to {time} elements");
        }
        let run = element_count(rest)?;
        Ok(vec![for_computed_type!(array.dtype(), T => {
            let values = array.values::<T>()?;
            let mut reversed = Vec::with_capacity(values.len());
            if !values.is_empty() {
                for (i, j) in (0..first).flat_map(|i| (0..second).map(move |j| (i, j))) {
                    let (sequence, step) = if self.batch_first { (i, j) } else { (j, i) };
                    let step = if step < lens[sequence] { lens[sequence] - 1 - step } else { step };
                    let (i, j) = if self.batch_first { (sequence, step) } else { (step, sequence) };
                    let at = (i * second + j) * run;
                    reversed.extend_from_slice(&values[at..at + run]);
                }
            }
            Array::new(array.shape(), reversed)?
        })])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_go_along_any_axis_in_both_directions() {
        let run = |exclusive, reverse, axis: i64| {
            let array = Array::new([2, 3], vec![1i32, 2, 3, 4, 5, 6]).unwrap();
            let inputs = Operands::new(vec![Some(array), Some(Array::scalar(axis))]);
            CumSum { exclusive, reverse }.run(inputs).map(|arrays| arrays[0].to_ints().unwrap())
        };
        assert_eq!(run(false, false, 1).unwrap(), [1, 3, 6, 4, 9, 15]);
        assert_eq!(run(true, false, -1).unwrap(), [0, 1, 3, 0, 4, 9]);
        assert_eq!(run(true, true, 1).unwrap(), [5, 3, 0, 11, 6, 0]);
        assert_eq!(run(false, true, 0).unwrap(), [5, 7, 9, 4, 5, 6]);
        assert!(run(false, false, 2).is_err());
        assert!(run(false, false, i64::MIN).is_err());
    }

    #[test]
    fn lengths_that_do_not_fit_are_problems() {
        let run = |lens: Vec<i64>| {
            let array = Array::new([2, 2], vec![1i32, 2, 3, 4]).unwrap();
            let inputs = Operands::new(vec![Some(array), Some(Array::vector(lens))]);
            ReverseSequence { batch_first: true }.run(inputs).map(|arrays| arrays[0].to_ints().unwrap())
        };
        assert_eq!(run(vec![2, 1]).unwrap(), [2, 1, 3, 4]);
        assert_eq!(run(vec![0, 2]).unwrap(), [1, 2, 4, 3]);
        for lens in [vec![3, 1], vec![-1, 1], vec![1], vec![1, 1, 1]] {
            assert!(run(lens).is_err());
        }
    }
}
