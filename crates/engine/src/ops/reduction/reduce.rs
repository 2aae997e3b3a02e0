//! `ReduceSum` and its like: dimensions become one number.

use super::dimension;
use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, checked_len, problem, product};
use crate::ops::elementwise::cast;
use crate::ops::number::{Number, for_number, wide};
use crate::ops::permute::permute;
use crate::ops::{Entry, NodeReader};

pub(in crate::ops) const OPERATORS: &[Entry] = &[
    Entry::new("ReduceSum", 1..=2, |node| Reduce::read(node, Reduction::Sum)),
    Entry::new("ReduceMean", 1..=2, |node| Reduce::read(node, Reduction::Mean)),
    Entry::new("ReduceMax", 1..=2, |node| Reduce::read(node, Reduction::Max)),
    Entry::new("ReduceMin", 1..=2, |node| Reduce::read(node, Reduction::Min)),
    Entry::new("ReduceProd", 1..=2, |node| Reduce::read(node, Reduction::Prod)),
    Entry::new("ReduceL1", 1..=2, |node| Reduce::read(node, Reduction::L1)),
    Entry::new("ReduceL2", 1..=2, |node| Reduce::read(node, Reduction::L2)),
    Entry::new("ReduceLogSum", 1..=2, |node| Reduce::read(node, Reduction::LogSum)),
    Entry::new("ReduceLogSumExp", 1..=2, |node| Reduce::read(node, Reduction::LogSumExp)),
    Entry::new("ReduceSumSquare", 1..=2, |node| Reduce::read(node, Reduction::SumSquare)),
];

/// What becomes of many numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    LogSum,
    LogSumExp,
    SumSquare,
}

/// An operator such as `ReduceSum`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reduce {
    pub(crate) reduction: Reduction,
    /// `None` where they are an input, if they are given.
    pub(crate) axes: Option<Vec<i64>>,
    pub(crate) keepdims: bool,
    /// No axes mean that each element is reduced alone, not all together.
    pub(crate) noop_with_empty_axes: bool,
}

impl Reduce {
    fn read(node: &NodeReader, reduction: Reduction) -> Result<Box<dyn Operator>, Problem> {
        let keepdims = node.attributes.flag("keepdims")?.unwrap_or(true);
        let first_with_input = if reduction == Reduction::Sum { 13 } else { 18 };
        if node.opset >= first_with_input {
            let noop_with_empty_axes = node.attributes.flag("noop_with_empty_axes")?.unwrap_or(false);
            return Ok(Box::new(Self { reduction, axes: None, keepdims, noop_with_empty_axes }));
        }
        if node.num_inputs > 1 {
            problem!("axes cannot be an input before version {first_with_input}");
        }
        let axes = Some(node.attributes.ints("axes")?.unwrap_or_default());
        Ok(Box::new(Self { reduction, axes, keepdims, noop_with_empty_axes: false }))
    }

    /// Which dimensions are reduced.
    fn reduced(&self, axes: &[i64], rank: usize) -> Result<Vec<bool>, Problem> {
        if axes.is_empty() {
            return Ok(vec![!self.noop_with_empty_axes; rank]);
        }
        let mut reduced = vec![false; rank];
        for &axis in axes {
            if std::mem::replace(&mut reduced[dimension(axis, rank)?], true) {
                problem!("axis {axis} is given twice");
            }
        }
        Ok(reduced)
    }

    /// A shape with dimensions of size one for those that are reduced, or without them.
    fn shape<T: Clone>(&self, shape: &[T], reduced: &[bool], one: T) -> Vec<T> {
        let sizes = shape.iter().zip(reduced);
        sizes
            .filter(|(_, reduced)| self.keepdims || !**reduced)
            .map(|(size, reduced)| if *reduced { one.clone() } else { size.clone() })
            .collect()
    }

    fn dim(&self, ints: &[Dim]) -> Option<Dim> {
        let mut dims = ints.iter().cloned();
        match self.reduction {
            Reduction::Sum => Some(dims.fold(0i64.into(), |sum: Dim, dim| sum.plus(&dim))),
            Reduction::Prod => Some(product(ints)),
            Reduction::Max | Reduction::Min => {
                let first = dims.next()?;
                dims.all(|dim| dim == first).then_some(first)
            }
            _ => None,
        }
    }
}

impl Operator for Reduce {
    fn name(&self) -> &'static str {
        match self.reduction {
            Reduction::Sum => "ReduceSum",
            Reduction::Mean => "ReduceMean",
            Reduction::Max => "ReduceMax",
            Reduction::Min => "ReduceMin",
            Reduction::Prod => "ReduceProd",
            Reduction::L1 => "ReduceL1",
            Reduction::L2 => "ReduceL2",
            Reduction::LogSum => "ReduceLogSum",
            Reduction::LogSumExp => "ReduceLogSumExp",
            Reduction::SumSquare => "ReduceSumSquare",
        }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        let is_extreme = matches!(self.reduction, Reduction::Max | Reduction::Min);
        if !(is_extreme && input.dtype == DataType::Bool) {
            wide(input.dtype)?;
        }
        let axes = match (&self.axes, inputs.optional(1)) {
            (Some(axes), _) => Some(axes.clone()),
            (None, Some(axes)) => axes.known_ints(),
            (None, None) => Some(Vec::new()),
        };
        let info = match (&input.shape, axes) {
            (None, _) => Info::unknown(input.dtype),
            (Some(shape), Some(axes)) => {
                let reduced = self.reduced(&axes, shape.len())?;
                let info = Info::new(input.dtype, self.shape(shape, &reduced, 1i64.into()));
                // All elements of a vector of sizes, above all their product.
                let ints = input.ints.as_ref().filter(|_| reduced == [true]);
                Info { ints: ints.and_then(|ints| Some(vec![self.dim(ints)?])), ..info }
            }
            (Some(shape), None) if self.keepdims => Info::with_rank(input.dtype, shape.len()),
            (Some(_), None) => Info::unknown(input.dtype),
        };
        Ok(vec![info])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let input = inputs.take(0)?;
        let (dtype, input_len) = (input.dtype(), input.len());
        let axes = match (&self.axes, inputs.optional(1)) {
            (Some(axes), _) => axes.clone(),
            (None, Some(axes)) => axes.to_ints()?,
            (None, None) => Vec::new(),
        };
        let reduced = self.reduced(&axes, input.rank())?;
        let shape = self.shape(input.shape(), &reduced, 1);
        let len = checked_len(&shape, size_of::<u64>())?;
        let wide = if dtype == DataType::Bool { DataType::I64 } else { wide(dtype)? };
        let result = for_number!(wide, T => {
            let (input, blocks) = blocks::<T>(cast(input, wide)?, &reduced)?;
            let mut values = reduce(self.reduction, input.into_values::<T>()?, blocks);
            // Of nothing there is still a number where no other dimension is empty.
            if blocks.len == 0 {
                values = reduce(self.reduction, Vec::new(), Blocks { outer: len, len: 0, inner: 1 });
            }
            Array::new(shape, values)?
        });
        // The extremes of nothing are those of the type, to which this rounds.
        let is_of_nothing = len > 0 && input_len == 0 && dtype.is_int() && dtype != wide;
        let result = if dtype == DataType::Bool {
            // No element is true, however small the number that stands for none.
            to_truth(result)?
        } else if is_of_nothing {
            cast(result, DataType::F64)?
        } else {
            result
        };
        Ok(vec![cast(result, dtype)?])
    }
}

/// Truth values from integers: what is not larger than zero is false.
fn to_truth(result: Array) -> Result<Array, Problem> {
    let shape = result.shape().to_vec();
    Array::new(shape, result.values::<i64>()?.iter().map(|value| *value > 0).collect())
}

/// An array `[outer, len, inner]` of which the middle is reduced.
#[derive(Clone, Copy, Debug)]
struct Blocks {
    outer: usize,
    len: usize,
    inner: usize,
}

/// The array such that dimensions that are reduced are neighbours.
fn blocks<T: Number>(array: Array, reduced: &[bool]) -> Result<(Array, Blocks), Problem> {
    let shape = array.shape();
    // Dimensions of size one are wherever they are wanted.
    let is_reduced = |&dimension: &usize| reduced[dimension] && shape[dimension] != 1;
    let first = (0..shape.len()).find(is_reduced);
    let last = (0..shape.len()).rfind(is_reduced);
    let (Some(first), Some(last)) = (first, last) else {
        let outer = array.len();
        return Ok((array, Blocks { outer, len: 1, inner: 1 }));
    };
    if (first..=last).all(|dimension| reduced[dimension] || shape[dimension] == 1) {
        let size = |dimensions: &[usize]| dimensions.iter().product();
        let (outer, len, inner) =
            (size(&shape[..first]), size(&shape[first..=last]), size(&shape[last + 1..]));
        return Ok((array, Blocks { outer, len, inner }));
    }
    let (to_reduce, kept): (Vec<usize>, Vec<usize>) =
        (0..shape.len()).partition(|&dimension| reduced[dimension]);
    let size = |dimensions: &[usize]| dimensions.iter().map(|&dimension| shape[dimension]).product();
    let blocks = Blocks { outer: size(&kept), len: size(&to_reduce), inner: 1 };
    Ok((permute::<T>(&array, &[kept, to_reduce].concat())?, blocks))
}

fn reduce<T: Number>(reduction: Reduction, values: Vec<T>, blocks: Blocks) -> Vec<T> {
    let finish = |mut values: Vec<T>, function: fn(f64, f64) -> f64| {
        let len = blocks.len as f64;
        values.iter_mut().for_each(|value| *value = T::from_f64(function(value.to_f64(), len)));
        values
    };
    let sum = |values: &[T]| fold(values, blocks, T::ZERO, |sum, x| sum.plus(x), T::plus);
    let sum_square = |values: &[T]| fold(values, blocks, T::ZERO, |sum, x| sum.plus(x.times(x)), T::plus);
    match reduction {
        Reduction::Sum => sum(&values),
        Reduction::Mean => finish(sum(&values), |sum, len| sum / len),
        Reduction::Max => fold(&values, blocks, T::LEAST, T::larger, T::larger),
        Reduction::Min => fold(&values, blocks, T::GREATEST, T::smaller, T::smaller),
        Reduction::Prod => fold(&values, blocks, T::ONE, T::times, T::times),
        Reduction::L1 => fold(&values, blocks, T::ZERO, |sum, x| sum.plus(x.magnitude()), T::plus),
        Reduction::SumSquare => sum_square(&values),
        Reduction::L2 => finish(sum_square(&values), |sum, _| sum.sqrt()),
        Reduction::LogSum => finish(sum(&values), |sum, _| sum.ln()),
        Reduction::LogSumExp => {
            let largest = fold(&values, blocks, T::LEAST, T::larger, T::larger);
            log_sum_exp(&values, blocks, largest)
        }
    }
}

fn log_sum_exp<T: Number>(values: &[T], blocks: Blocks, mut largest: Vec<T>) -> Vec<T> {
    let finite = |value: T| if value.to_f64().is_finite() { value.to_f64() } else { 0.0 };
    let mut sums = vec![0.0; largest.len()];
    let Blocks { len, inner, .. } = blocks;
    if len * inner > 0 {
        for (outer, block) in values.chunks_exact(len * inner).enumerate() {
            for row in block.chunks_exact(inner) {
                for (index, value) in row.iter().enumerate() {
                    let at = outer * inner + index;
                    sums[at] += (value.to_f64() - finite(largest[at])).exp();
                }
            }
        }
    }
    for (largest, sum) in largest.iter_mut().zip(sums) {
        *largest = T::from_f64(sum.ln() + finite(*largest));
    }
    largest
}

/// One number for each place outside the middle: `step` adds an element to it, `merge` two of them.
fn fold<T: Copy>(
    values: &[T],
    Blocks { outer, len, inner }: Blocks,
    start: T,
    step: impl Fn(T, T) -> T,
    merge: impl Fn(T, T) -> T,
) -> Vec<T> {
    let mut folded = vec![start; outer * inner];
    if len == 0 {
        return folded;
    }
    if inner == 1 {
        for (to, row) in folded.iter_mut().zip(values.chunks_exact(len)) {
            *to = fold_row(row, start, &step, &merge);
        }
    } else if inner > 0 {
        for (to, block) in folded.chunks_exact_mut(inner).zip(values.chunks_exact(len * inner)) {
            for row in block.chunks_exact(inner) {
                to.iter_mut().zip(row).for_each(|(to, value)| *to = step(*to, *value));
            }
        }
    }
    folded
}

/// Eight results side by side: a fixed order that vectorises.
fn fold_row<T: Copy>(row: &[T], start: T, step: impl Fn(T, T) -> T, merge: impl Fn(T, T) -> T) -> T {
    let (chunks, rest) = row.as_chunks::<8>();
    let mut lanes = [start; 8];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = step(*lane, *value);
        }
    }
    let folded = rest.iter().fold(start, |folded, value| step(folded, *value));
    lanes.into_iter().fold(folded, merge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduce_of(reduction: Reduction, axes: &[i64], keepdims: bool) -> Reduce {
        Reduce { reduction, axes: Some(axes.to_vec()), keepdims, noop_with_empty_axes: false }
    }

    fn run(operator: &Reduce, input: Array) -> Result<Array, Problem> {
        operator.run(Operands::new(vec![Some(input)])).map(|mut outputs| outputs.remove(0))
    }

    #[test]
    fn any_dimensions_are_reduced() {
        let array = Array::new(vec![2, 3, 2], (1..=12).map(|i| i as f32).collect()).unwrap();
        let check = |axes: &[i64], shape: &[usize], values: &[f32]| {
            let found = run(&reduce_of(Reduction::Sum, axes, false), array.clone()).unwrap();
            assert_eq!(found, Array::new(shape, values.to_vec()).unwrap());
        };
        check(&[], &[], &[78.]);
        check(&[-1], &[2, 3], &[3., 7., 11., 15., 19., 23.]);
        check(&[1], &[2, 2], &[9., 12., 27., 30.]);
        check(&[0, 2], &[3], &[18., 26., 34.]);
        check(&[1, 2], &[2], &[21., 57.]);
        for axes in [&[3][..], &[-4], &[i64::MIN], &[i64::MAX], &[1, -2]] {
            assert!(run(&reduce_of(Reduction::Sum, axes, false), array.clone()).is_err());
        }
    }

    #[test]
    fn nothing_is_reduced_to_what_changes_nothing() {
        let empty = Array::new(vec![2, 0], Vec::<f32>::new()).unwrap();
        for (reduction, expected) in [
            (Reduction::Sum, 0.0),
            (Reduction::Prod, 1.0),
            (Reduction::Max, f32::NEG_INFINITY),
            (Reduction::LogSumExp, f32::NEG_INFINITY),
        ] {
            let found = run(&reduce_of(reduction, &[1], true), empty.clone()).unwrap();
            assert_eq!(found, Array::new(vec![2, 1], vec![expected; 2]).unwrap());
            assert!(run(&reduce_of(reduction, &[0], true), empty.clone()).unwrap().is_empty());
        }
    }

    #[test]
    fn extremes_of_nothing_are_those_of_the_type() {
        let empty = Array::new(vec![0], Vec::<i8>::new()).unwrap();
        assert_eq!(
            run(&reduce_of(Reduction::Max, &[0], false), empty.clone()).unwrap(),
            Array::scalar(i8::MIN)
        );
        assert_eq!(run(&reduce_of(Reduction::Min, &[0], false), empty).unwrap(), Array::scalar(i8::MAX));
        let empty = Array::new(vec![0], Vec::<bool>::new()).unwrap();
        assert_eq!(run(&reduce_of(Reduction::Max, &[], false), empty.clone()).unwrap(), Array::scalar(false));
        assert_eq!(run(&reduce_of(Reduction::Min, &[], false), empty).unwrap(), Array::scalar(true));
        // As the standard's test has it.
        let empty = Array::new(vec![2, 0, 4], Vec::<bool>::new()).unwrap();
        let max = run(&reduce_of(Reduction::Max, &[1], true), empty).unwrap();
        assert_eq!(max, Array::new(vec![2, 1, 4], vec![false; 8]).unwrap());
    }

    #[test]
    fn shapes_are_known_as_far_as_axes_are() {
        let batch = Dim::symbol("batch");
        let input = Info::new(DataType::F32, vec![batch.clone(), 7i64.into(), 3i64.into()]);
        let reduce = Reduce { axes: None, ..reduce_of(Reduction::Mean, &[], true) };
        let axes = Info::constant(&Array::vector(vec![1i64]));
        let info = reduce.infer(&Operands::new(vec![Some(&input), Some(&axes)])).unwrap().remove(0);
        assert_eq!(info.shape.unwrap(), [batch.clone(), 1i64.into(), 3i64.into()]);
        let axes = Info::with_rank(DataType::I64, 1);
        let info = reduce.infer(&Operands::new(vec![Some(&input), Some(&axes)])).unwrap().remove(0);
        assert_eq!(info.rank(), Some(3));
        let shape = Info::vector(DataType::I64, vec![batch.clone(), 6i64.into()]);
        let info = reduce_of(Reduction::Prod, &[0], false)
            .infer(&Operands::new(vec![Some(&shape)]))
            .unwrap()
            .remove(0);
        assert_eq!((info.ints, info.shape), (Some(vec![batch.times(&6i64.into())]), Some(vec![])));
    }
}
