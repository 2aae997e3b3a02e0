//! Operators that say where something is, or keep only that: `OneHot`, `NonZero`, `Compress`, `Unique`.

use std::cmp::Ordering;

use super::top_k::Ordered;
use crate::graph::{
    Array, DataType, Dim, Element, Info, Operands, Operator, Problem, checked_len, element_count,
    for_computed_type, problem,
};
use crate::ops::{NodeReader, axes};

/// `OneHot`: one of two values, by index along a new axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OneHot {
    pub(crate) axis: i64,
}

impl OneHot {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { axis: node.attributes.int("axis")?.unwrap_or(-1) }))
    }
}

/// An array's elements as integers, those of floating-point numbers without what is behind the point.
fn truncated(array: &Array) -> Result<Vec<i64>, Problem> {
    if array.dtype().is_float() {
        return Ok(array.to_floats()?.iter().map(|&value| value as i64).collect());
    }
    array.to_ints()
}

impl Operator for OneHot {
    fn name(&self) -> &str {
        "OneHot"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (indices, depth, values) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        let Some(mut dims) = indices.shape.clone() else {
            return Ok(vec![Info::unknown(values.dtype)]);
        };
        let depth = depth.ints.as_ref().and_then(|ints| ints.first().cloned()).filter(Dim::is_size);
        dims.insert(axes::axis(self.axis, dims.len() + 1)?, depth.unwrap_or_else(Dim::unknown));
        Ok(vec![Info::new(values.dtype, dims)])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (indices, values) = (inputs.get(0)?, inputs.get(2)?);
        let depth = match truncated(inputs.get(1)?)?.as_slice() {
            &[depth] => usize::try_from(depth).map_err(|_| Problem::new(format!("the depth is {depth}")))?,
            ints => problem!("{} depths, expected one", ints.len()),
        };
        let axis = axes::axis(self.axis, indices.rank() + 1)?;
        let (outer, inner) = indices.shape().split_at(axis);
        let shape = [outer, &[depth], inner].concat();
        checked_len(&shape, values.dtype().size())?;
        let (run, indices) = (element_count(inner)?, truncated(indices)?);
        let place = |(place, &index): (usize, &i64)| {
            axes::index(index, depth).map(|index| (place / run * depth + index) * run + place % run)
        };
        let places: Vec<usize> = indices.iter().enumerate().filter_map(place).collect();
        Ok(vec![for_computed_type!(values.dtype(), T => one_hot::<T>(shape, values, &places)?)])
    }
}

/// The second of two values at `places`, the first elsewhere.
fn one_hot<T: Element>(shape: Vec<usize>, values: &Array, places: &[usize]) -> Result<Array, Problem> {
    let [off, on] = values.values::<T>()? else {
        problem!("{} values, expected two", values.len());
    };
    let mut hot = vec![off.clone(); checked_len(&shape, size_of::<T>())?];
    places.iter().for_each(|&place| hot[place] = on.clone());
    Array::new(shape, hot)
}

/// `NonZero`: the indices of all elements that are not zero, by axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NonZero;

impl NonZero {
    pub(super) fn read(_: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self))
    }
}

impl Operator for NonZero {
    fn name(&self) -> &str {
        "NonZero"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let rank = inputs.get(0)?.rank().map_or_else(Dim::unknown, Dim::from);
        Ok(vec![Info::new(DataType::I64, vec![rank, Dim::unknown()])])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let array = inputs.get(0)?;
        let places: Vec<usize> = for_computed_type!(array.dtype(), T => {
            let zero = T::default();
            let values = array.values::<T>()?.iter().enumerate();
            values.filter(|(_, value)| **value != zero).map(|(place, _)| place).collect()
        });
        let shape = [array.rank(), places.len()];
        let mut indices = Vec::with_capacity(checked_len(&shape, size_of::<i64>())?);
        for axis in 0..if places.is_empty() { 0 } else { array.rank() } {
            let run: usize = array.shape()[axis + 1..].iter().product();
            indices.extend(places.iter().map(|place| (place / run % array.shape()[axis]) as i64));
        }
        Ok(vec![Array::new(shape, indices)?])
    }
}

/// `Compress`: the parts of an array for which a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compress {
    /// The elements themselves are the parts if there is none.
    pub(crate) axis: Option<i64>,
}

impl Compress {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { axis: node.attributes.int("axis")? }))
    }
}

impl Operator for Compress {
    fn name(&self) -> &str {
        "Compress"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        let Some(axis) = self.axis else {
            return Ok(vec![Info::with_rank(input.dtype, 1)]);
        };
        let Some(mut dims) = input.shape.clone() else {
            return Ok(vec![Info::unknown(input.dtype)]);
        };
        let axis = axes::axis(axis, dims.len())?;
        dims[axis] = Dim::unknown();
        Ok(vec![Info::new(input.dtype, dims)])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (array, condition) = (inputs.get(0)?, inputs.get(1)?.values::<bool>()?);
        let flat = [array.len()];
        let (shape, axis) = match self.axis {
            Some(axis) => (array.shape(), axes::axis(axis, array.rank())?),
            None => (&flat[..], 0),
        };
        if condition.len() > shape[axis] {
            problem!("a condition of {} elements is for {}", condition.len(), shape[axis]);
        }
        let kept = condition.iter().enumerate().filter(|(_, holds)| **holds).map(|(index, _)| index);
        Ok(vec![parts(array, shape, axis, &kept.collect::<Vec<_>>())?])
    }
}

/// The parts with these indices of an array that is taken to have this shape.
fn parts(array: &Array, shape: &[usize], axis: usize, indices: &[usize]) -> Result<Array, Problem> {
    let mut sizes = shape.to_vec();
    sizes[axis] = indices.len();
    let len = checked_len(&sizes, array.dtype().size())?;
    for_computed_type!(array.dtype(), T => {
        let values = array.values::<T>()?;
        let mut kept = Vec::with_capacity(len);
        if len > 0 {
            let run = element_count(&shape[axis + 1..])?;
            for outer in 0..element_count(&shape[..axis])? {
                for index in indices {
                    let at = (outer * shape[axis] + index) * run;
                    kept.extend_from_slice(&values[at..at + run]);
                }
            }
        }
        Array::new(sizes, kept)
    })
}

/// `Unique`: each different part of an array once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unique {
    /// The elements themselves are the parts if there is none.
    pub(crate) axis: Option<i64>,
    /// Whether the parts are sorted, and not in the order in which they come.
    pub(crate) sorted: bool,
}

impl Unique {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let sorted = node.attributes.flag("sorted")?.unwrap_or(true);
        Ok(Box::new(Self { axis: node.attributes.int("axis")?, sorted }))
    }
}

/// The order of two parts of an array of this shape.
fn compare<T: Ordered>(values: &[T], [outer, size, run]: [usize; 3], a: usize, b: usize) -> Ordering {
    let part =
        |index: usize| (0..outer).flat_map(move |outer| &values[(outer * size + index) * run..][..run]);
    let mut pairs = part(a).zip(part(b)).map(|(a, b)| a.order(b));
    pairs.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

impl Operator for Unique {
    fn name(&self) -> &str {
        "Unique"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        let (count, all) = (Dim::unknown(), Dim::unknown());
        let vector = |len: &Dim| Info::new(DataType::I64, vec![len.clone()]);
        let values = match (self.axis, &input.shape) {
            (None, _) => Info::new(input.dtype, vec![count.clone()]),
            (Some(_), None) => Info::unknown(input.dtype),
            (Some(axis), Some(shape)) => {
                let mut dims = shape.clone();
                dims[axes::axis(axis, shape.len())?] = count.clone();
                Info::new(input.dtype, dims)
            }
        };
        Ok(vec![values, vector(&count), vector(&all), vector(&count)])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let array = inputs.get(0)?;
        let flat = [array.len()];
        let (shape, axis) = match self.axis {
            Some(axis) => (array.shape(), axes::axis(axis, array.rank())?),
            None => (&flat[..], 0),
        };
        let sizes = [element_count(&shape[..axis])?, shape[axis], element_count(&shape[axis + 1..])?];
        // As many parts without elements as a shape claims would take forever.
        if array.is_empty() && shape[axis] > 1 {
            problem!("the parts have no elements");
        }
        let mut order: Vec<usize> = (0..checked_len(&shape[axis..=axis], size_of::<usize>())?).collect();
        // For each part, in the order of their values, whether it is a new one.
        let is_new: Vec<bool> = for_computed_type!(array.dtype(), T => {
            let values = array.values::<T>()?;
            order.sort_by(|&a, &b| compare(values, sizes, a, b));
            let same = |at: usize| compare(values, sizes, order[at - 1], order[at]).is_eq();
            (0..order.len()).map(|at| at == 0 || !same(at)).collect()
        });
        let (mut first, mut counts, mut inverse) = (Vec::new(), Vec::new(), vec![0; order.len()]);
        for (&part, is_new) in order.iter().zip(is_new) {
            if is_new {
                // Sorting keeps the order of equal parts.
                first.push(part);
                counts.push(0i64);
            }
            inverse[part] = first.len() - 1;
            counts[first.len() - 1] += 1;
        }
        if !self.sorted {
            let mut places: Vec<usize> = (0..first.len()).collect();
            places.sort_by_key(|&place| first[place]);
            let mut rank = vec![0; first.len()];
            places.iter().enumerate().for_each(|(new, &old)| rank[old] = new);
            first.sort_unstable();
            counts = places.iter().map(|&place| counts[place]).collect();
            inverse.iter_mut().for_each(|place| *place = rank[*place]);
        }
        let ints = |indices: &[usize]| Array::vector(indices.iter().map(|&index| index as i64).collect());
        Ok(vec![parts(array, shape, axis, &first)?, ints(&first), ints(&inverse), Array::vector(counts)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(operator: &dyn Operator, inputs: Vec<Array>) -> Result<Array, Problem> {
        let inputs = Operands::new(inputs.into_iter().map(Some).collect());
        operator.run(inputs).map(|mut arrays| arrays.remove(0))
    }

    #[test]
    fn hostile_inputs_are_problems() {
        let (indices, values) = (Array::vector(vec![0i64, -1, 7, i64::MIN]), Array::vector(vec![0i8, 1]));
        let hot = |depth: i64| {
            run(&OneHot { axis: -1 }, vec![indices.clone(), Array::scalar(depth), values.clone()])
        };
        assert_eq!(hot(2).unwrap().to_ints().unwrap(), [1, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(hot(0).unwrap().shape(), [4, 0]);
        assert!(hot(-1).is_err());
        assert!(hot(i64::MAX).is_err());
        let condition = Array::vector(vec![true; 5]);
        assert!(run(&Compress { axis: None }, vec![indices.clone(), condition.clone()]).is_err());
        assert!(run(&Compress { axis: Some(1) }, vec![indices, condition]).is_err());
        let scalar = run(&NonZero, vec![Array::scalar(3.0f32)]).unwrap();
        assert_eq!(scalar.shape(), [0, 1]);
        let nothing = Array::new([0, usize::MAX], Vec::<f32>::new()).unwrap();
        assert_eq!(run(&NonZero, vec![nothing.clone()]).unwrap().shape(), [2, 0]);
        assert!(run(&Unique { axis: Some(1), sorted: true }, vec![nothing]).is_err());
        let empty = Array::vector(Vec::<f32>::new());
        assert_eq!(run(&Unique { axis: None, sorted: false }, vec![empty]).unwrap().len(), 0);
    }
}
