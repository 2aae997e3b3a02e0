//! `ScatterElements`, once called `Scatter`, and `ScatterND`.

use super::gather::{element_places, vector_places};
use super::number::{Number, for_number};
use crate::graph::{
    Array, Element, Info, Operands, Operator, Problem, element_count, for_computed_type, problem,
};
use crate::ops::NodeReader;

/// What becomes of an element and its update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    /// The update.
    None,
    Add,
    Mul,
    Max,
    Min,
}

impl Reduction {
    fn read(node: &NodeReader) -> Result<Self, Problem> {
        if node.opset < 16 {
            return Ok(Self::None);
        }
        let words = [
            ("none", Self::None),
            ("add", Self::Add),
            ("mul", Self::Mul),
            ("max", Self::Max),
            ("min", Self::Min),
        ];
        let words = if node.opset >= 18 { &words[..] } else { &words[..3] };
        Ok(node.attributes.choice("reduction", words)?.unwrap_or(Self::None))
    }

    fn of<T: Number>(self) -> fn(T, T) -> T {
        match self {
            Self::None => |_, update| update,
            Self::Add => T::plus,
            Self::Mul => T::times,
            Self::Max => T::larger,
            Self::Min => T::smaller,
        }
    }
}

/// Writes runs of updates to the places where they start.
fn scatter(
    data: Array,
    places: &[usize],
    run: usize,
    updates: &Array,
    reduction: Reduction,
) -> Result<Array, Problem> {
    if updates.dtype() != data.dtype() {
        problem!("updates of {} are for data of {}", updates.dtype(), data.dtype());
    }
    let shape = data.shape().to_vec();
    if reduction == Reduction::None {
        return for_computed_type!(data.dtype(), T => {
            let mut values = data.into_values::<T>()?;
            write(&mut values, places, run, updates.values::<T>()?, |to, from| to.clone_from_slice(from));
            Array::new(shape, values)
        });
    }
    for_number!(data.dtype(), T => {
        let mut values = data.into_values::<T>()?;
        let operation = reduction.of::<T>();
        write(&mut values, places, run, updates.values::<T>()?, |to, from| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = operation(*to, *from));
        });
        Array::new(shape, values)
    })
}

fn write<T: Element>(to: &mut [T], places: &[usize], run: usize, from: &[T], write: impl Fn(&mut [T], &[T])) {
    if run > 0 {
        for (&place, from) in places.iter().zip(from.chunks_exact(run)) {
            write(&mut to[place * run..(place + 1) * run], from);
        }
    }
}

/// `ScatterElements`: each update to its own index along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScatterElements {
    pub(crate) axis: i64,
    pub(crate) reduction: Reduction,
}

impl ScatterElements {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let axis = node.attributes.int("axis")?.unwrap_or(0);
        Ok(Box::new(Self { axis, reduction: Reduction::read(node)? }))
    }
}

impl Operator for ScatterElements {
    fn name(&self) -> &str {
        "ScatterElements"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let data = inputs.get(0)?;
        Ok(vec![Info { shape: data.shape.clone(), ..Info::unknown(data.dtype) }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let data = inputs.take(0)?;
        let (indices, updates) = (inputs.get(1)?, inputs.get(2)?);
        if indices.shape() != updates.shape() {
            problem!("updates of shape {:?} have indices of shape {:?}", updates.shape(), indices.shape());
        }
        let places = element_places(data.shape(), indices, self.axis)?;
        Ok(vec![scatter(data, &places, 1, updates, self.reduction)?])
    }
}

/// `ScatterND`: parts of an array to vectors of indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScatterNd {
    pub(crate) reduction: Reduction,
}

impl ScatterNd {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { reduction: Reduction::read(node)? }))
    }
}

impl Operator for ScatterNd {
    fn name(&self) -> &str {
        "ScatterND"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let data = inputs.get(0)?;
        Ok(vec![Info { shape: data.shape.clone(), ..Info::unknown(data.dtype) }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let data = inputs.take(0)?;
        let (indices, updates) = (inputs.get(1)?, inputs.get(2)?);
        let Some((&width, vectors)) = indices.shape().split_last() else {
            problem!("the indices are no vectors");
        };
        if width > data.rank() {
            problem!("indices with {width} numbers do not fit data of rank {}", data.rank());
        }
        let (picked, part) = data.shape().split_at(width);
        if updates.shape() != [vectors, part].concat() {
            let (updates, indices, data) = (updates.shape(), indices.shape(), data.shape());
            problem!("updates of shape {updates:?} do not fit indices of {indices:?} into {data:?}");
        }
        let places = vector_places(picked, indices)?;
        let run = element_count(part)?;
        Ok(vec![scatter(data, &places, run, updates, self.reduction)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(shape: &[usize], values: &[i64]) -> Option<Array> {
        Some(Array::new(shape, values.to_vec()).unwrap())
    }

    #[test]
    fn what_does_not_fit_is_a_problem() {
        let elements = ScatterElements { axis: 0, reduction: Reduction::Add };
        let run = |operator: &dyn Operator, indices, updates| {
            let inputs = vec![ints(&[3], &[1, 2, i64::MAX]), indices, updates];
            operator.run(Operands::new(inputs)).map(|arrays| arrays[0].to_ints().unwrap())
        };
        assert_eq!(
            run(&elements, ints(&[3], &[0, 0, -1]), ints(&[3], &[5, 6, 1])).unwrap(),
            [12, 2, i64::MIN]
        );
        for index in [3, -4, i64::MIN, i64::MAX] {
            assert!(run(&elements, ints(&[1], &[index]), ints(&[1], &[0])).is_err());
            let nd = ScatterNd { reduction: Reduction::None };
            assert!(run(&nd, ints(&[1, 1], &[index]), ints(&[1], &[0])).is_err());
        }
        assert!(run(&elements, ints(&[2], &[0, 0]), ints(&[1], &[0])).is_err());
        let nd = ScatterNd { reduction: Reduction::Max };
        assert_eq!(run(&nd, ints(&[2, 1], &[1, 1]), ints(&[2], &[4, 3])).unwrap(), [1, 4, i64::MAX]);
        // No number at all is the whole.
        assert_eq!(run(&nd, ints(&[1, 0], &[]), ints(&[1, 3], &[7, 0, 0])).unwrap(), [7, 2, i64::MAX]);
        assert!(run(&nd, ints(&[1, 2], &[0, 0]), ints(&[1], &[0])).is_err());
        assert!(run(&nd, ints(&[2, 1], &[0, 1]), ints(&[1], &[0])).is_err());
        assert!(run(&nd, ints(&[], &[0]), ints(&[1], &[0])).is_err());
    }
}
