//! Operators that give the same elements another shape.

use super::shaped;
use crate::graph::{Array, Dim, Info, Operands, Operator, Problem, element_count, problem, product};
use crate::ops::{NodeReader, axes};

/// `Reshape`: a shape from the second input, with `0` for a size of the input and one `-1` for what remains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reshape {
    /// Whether `0` is a size.
    pub(crate) allow_zero: bool,
}

impl Reshape {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let allow_zero = if node.opset >= 14 { node.attributes.flag("allowzero")? } else { None };
        Ok(Box::new(Self { allow_zero: allow_zero.unwrap_or(false) }))
    }

    /// The shape that an array of shape `from` gets.
    pub(crate) fn target(self, from: &[usize], target: &[i64]) -> Result<Vec<usize>, Problem> {
        let mut sizes = Vec::with_capacity(target.len());
        let mut inferred = None;
        for (axis, &size) in target.iter().enumerate() {
            sizes.push(match size {
                0 if !self.allow_zero => match from.get(axis) {
                    Some(&size) => size,
                    None => problem!("shape {target:?} keeps axis {axis} of shape {from:?}"),
                },
                -1 if inferred.replace(axis).is_none() => 1,
                _ => match usize::try_from(size) {
                    Ok(size) => size,
                    Err(_) => problem!("{target:?} is not a shape"),
                },
            });
        }
        if let Some(axis) = inferred {
            if self.allow_zero && target.contains(&0) {
                problem!("{target:?} has both 0 and -1");
            }
            let (len, others) = (element_count(from)?, element_count(&sizes)?);
            if others == 0 || len % others != 0 {
                problem!("shape {from:?} cannot become {target:?}");
            }
            sizes[axis] = len / others;
        }
        Ok(sizes)
    }

    /// What is known about [`target`](Self::target).
    fn dims(self, from: Option<&[Dim]>, target: &[Dim]) -> Result<Vec<Dim>, Problem> {
        let len = from.map(product);
        let mut dims = Vec::with_capacity(target.len());
        // What may be -1: what is, or else integers that nobody knows to be sizes.
        let (mut inferred, mut uncertain) = (Vec::new(), Vec::new());
        for (axis, size) in target.iter().enumerate() {
            dims.push(match size.known() {
                Some(0) if !self.allow_zero => match from.map(|from| from.get(axis)) {
                    Some(Some(size)) => size.clone(),
                    Some(None) => problem!("shape {target:?} keeps axis {axis} of shape {from:?}"),
                    None => Dim::unknown(),
                },
                Some(-1) => {
                    inferred.push(axis);
                    1i64.into()
                }
                Some(size) if size < 0 => problem!("{target:?} is not a shape"),
                Some(_) => size.clone(),
                None if size.is_size() => size.clone(),
                None => {
                    uncertain.push(axis);
                    size.clone()
                }
            });
        }
        match (inferred.as_slice(), uncertain.as_slice()) {
            ([], []) => {
                if let (Some(from), Some(to)) = (len.and_then(|len| len.known()), product(&dims).known())
                    && from != to
                {
                    problem!("{from} elements cannot have shape {target:?}");
                }
            }
            ([axis], []) | ([], [axis]) => {
                dims[*axis] = 1i64.into();
                let quotient = len.and_then(|len| len.divided_by(&product(&dims)));
                dims[*axis] = quotient.unwrap_or_else(Dim::unknown);
            }
            ([] | [_], _) => {
                for &axis in inferred.iter().chain(&uncertain) {
                    dims[axis] = Dim::unknown();
                }
            }
            _ => problem!("{target:?} is not a shape"),
        }
        Ok(dims)
    }
}

impl Operator for Reshape {
    fn name(&self) -> &str {
        "Reshape"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (input, target) = (inputs.get(0)?, inputs.get(1)?);
        let dims = match (&target.ints, target.shape.as_deref()) {
            (Some(ints), _) => Some(self.dims(input.shape.as_deref(), ints)?),
            (None, Some([rank])) => match rank.known_size() {
                // No graph of a use has such a rank; one that claims to shall not take memory for it.
                Some(rank) if rank <= 64 => Some((0..rank).map(|_| Dim::unknown()).collect()),
                _ => None,
            },
            (None, None) => None,
            (None, Some(shape)) => problem!("the new shape has shape {shape:?}, expected a vector"),
        };
        Ok(vec![same_elements(input, dims)])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (array, target) = (inputs.take(0)?, inputs.get(1)?.to_ints()?);
        let shape = self.target(array.shape(), &target)?;
        Ok(vec![array.with_shape(shape)?])
    }
}

/// What is known about the elements of `input` in another shape.
fn same_elements(input: &Info, shape: Option<Vec<Dim>>) -> Info {
    let ints = input.ints.clone().filter(|_| shape.as_ref().is_some_and(|shape| shape.len() <= 1));
    Info { ints, ..shaped(input.dtype, shape) }
}

/// `Flatten`: a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flatten {
    /// The first axis that belongs to the columns.
    pub(crate) axis: i64,
}

impl Flatten {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { axis: node.attributes.int("axis")?.unwrap_or(1) }))
    }

    fn axis(self, rank: usize) -> Result<usize, Problem> {
        // The end counts, too.
        if self.axis == rank as i64 { Ok(rank) } else { axes::axis(self.axis, rank) }
    }
}

impl Operator for Flatten {
    fn name(&self) -> &str {
        "Flatten"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        let Some(shape) = &input.shape else {
            return Ok(vec![Info::with_rank(input.dtype, 2)]);
        };
        let (rows, columns) = shape.split_at(self.axis(shape.len())?);
        Ok(vec![Info::new(input.dtype, vec![product(rows), product(columns)])])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let array = inputs.take(0)?;
        let (rows, columns) = array.shape().split_at(self.axis(array.rank())?);
        let shape = [element_count(rows)?, element_count(columns)?];
        Ok(vec![array.with_shape(shape)?])
    }
}

/// Where axes are given: an attribute in old versions, an input in new ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Axes {
    /// In the attribute, or nowhere.
    Attribute(Option<Vec<i64>>),
    /// In the second input, if it is there.
    Input,
}

impl Axes {
    fn read(node: &NodeReader) -> Result<Self, Problem> {
        if node.opset >= 13 {
            return Ok(Self::Input);
        }
        if node.num_inputs > 1 {
            problem!("{} inputs, expected 1 before version 13", node.num_inputs);
        }
        Ok(Self::Attribute(node.attributes.ints("axes")?))
    }

    /// `Err(())` if they are computed from inputs.
    fn known(&self, inputs: &Operands<&Info>) -> Result<Option<Vec<i64>>, ()> {
        match self {
            Self::Attribute(axes) => Ok(axes.clone()),
            Self::Input => match inputs.optional(1) {
                None => Ok(None),
                Some(info) => info.known_ints().map(Some).ok_or(()),
            },
        }
    }

    fn value(&self, inputs: &Operands<Array>) -> Result<Option<Vec<i64>>, Problem> {
        match self {
            Self::Attribute(axes) => Ok(axes.clone()),
            Self::Input => inputs.optional(1).map(Array::to_ints).transpose(),
        }
    }
}

/// `Squeeze`: fewer dimensions of size 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Squeeze {
    pub(crate) axes: Axes,
}

impl Squeeze {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { axes: Axes::read(node)? }))
    }
}

/// What remains without `axes`, or without all sizes that are one.
fn squeezed<T: Clone>(
    shape: &[T],
    given: Option<&[i64]>,
    is_one: impl Fn(&T) -> bool,
) -> Result<Vec<T>, Problem> {
    let given = given.map(|given| axes::axes(given, shape.len())).transpose()?;
    let is_dropped = |axis: &usize, size: &T| match &given {
        Some(axes) => axes.contains(axis),
        None => is_one(size),
    };
    let kept = shape.iter().enumerate().filter(|(axis, size)| !is_dropped(axis, size));
    Ok(kept.map(|(_, size)| size.clone()).collect())
}

impl Operator for Squeeze {
    fn name(&self) -> &str {
        "Squeeze"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        let dims = match (&input.shape, self.axes.known(inputs)) {
            (Some(shape), Ok(Some(given))) => {
                let dims = squeezed(shape, Some(&given), |_| false)?;
                for axis in axes::axes(&given, shape.len())? {
                    if shape[axis].known().is_some_and(|size| size != 1) {
                        problem!("axis {axis} of shape {shape:?} is not 1");
                    }
                }
                Some(dims)
            }
            (Some(shape), Ok(None)) if shape.iter().all(|size| size.known().is_some()) => {
                Some(squeezed(shape, None, |size| size.is(1))?)
            }
            _ => None,
        };
        Ok(vec![same_elements(input, dims)])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let given = self.axes.value(&inputs)?;
        let array = inputs.take(0)?;
        let shape = squeezed(array.shape(), given.as_deref(), |&size| size == 1)?;
        Ok(vec![array.with_shape(shape)?])
    }
}

/// `Unsqueeze`: more dimensions of size 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsqueeze {
    pub(crate) axes: Axes,
}

impl Unsqueeze {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let axes = Axes::read(node)?;
        if axes == Axes::Attribute(None) {
            problem!("attribute `axes` is missing");
        }
        Ok(Box::new(Self { axes }))
    }
}

fn unsqueezed<T: Clone>(shape: &[T], given: &[i64], one: &T) -> Result<Vec<T>, Problem> {
    let rank = shape.len() + given.len();
    let added = axes::axes(given, rank)?;
    let mut sizes = shape.iter();
    let mut is_added = vec![false; rank];
    added.into_iter().for_each(|axis| is_added[axis] = true);
    let size = |is_added| if is_added { one } else { sizes.next().expect("axes are different") };
    Ok(is_added.into_iter().map(size).cloned().collect())
}

impl Operator for Unsqueeze {
    fn name(&self) -> &str {
        "Unsqueeze"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        let dims = match (&input.shape, self.axes.known(inputs)) {
            (Some(shape), Ok(Some(given))) => Some(unsqueezed(shape, &given, &1i64.into())?),
            _ => None,
        };
        Ok(vec![same_elements(input, dims)])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let Some(given) = self.axes.value(&inputs)? else {
            problem!("input 1 is missing");
        };
        let array = inputs.take(0)?;
        let shape = unsqueezed(array.shape(), &given, &1)?;
        Ok(vec![array.with_shape(shape)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DataType;

    fn dims(from: &[Dim], target: &[Dim]) -> Result<Vec<Dim>, Problem> {
        Reshape { allow_zero: false }.dims(Some(from), target)
    }

    fn int(value: i64) -> Dim {
        value.into()
    }

    #[test]
    fn new_shapes_keep_symbols() {
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        let hidden = [batch.clone(), seq.clone(), int(768)];
        let heads = [batch.clone(), seq.clone(), int(12), int(64)];
        assert_eq!(dims(&hidden, &[int(0), int(0), int(12), int(64)]).unwrap(), heads);
        assert_eq!(dims(&hidden, &[batch.clone(), int(-1), int(12), int(64)]).unwrap(), heads);
        assert_eq!(dims(&hidden, &[int(0), int(0), int(12), int(-1)]).unwrap(), heads);
        assert_eq!(dims(&hidden, &[int(-1), int(768)]).unwrap(), [batch.times(&seq), int(768)]);
        assert_eq!(dims(&[batch.times(&seq), int(768)], &[int(-1), seq.clone(), int(768)]).unwrap(), hidden);
        assert_eq!(dims(&heads, &[batch.clone(), seq.clone(), int(-1)]).unwrap(), hidden);
        // A number that may be -1 is what remains, if anything is.
        let maybe = Dim::unknown_int();
        assert_eq!(dims(&hidden, &[maybe.clone(), seq.clone(), int(768)]).unwrap(), hidden);
        let unknown = dims(&hidden, &[maybe.clone(), int(-1), int(768)]).unwrap();
        assert!(unknown[0] != maybe && unknown[0] != batch && unknown[0].is_size());
        assert!(dims(&[int(6)], &[int(4), int(2)]).is_err());
        assert!(dims(&[int(6)], &[int(-1), int(-1)]).is_err());
        assert!(dims(&[int(6)], &[int(6), int(0)]).is_err());
        assert!(dims(&[int(6)], &[int(-2)]).is_err());
    }

    #[test]
    fn shapes_that_do_not_fit_are_problems() {
        let reshape = Reshape { allow_zero: false };
        assert_eq!(reshape.target(&[2, 3, 4], &[0, -1]).unwrap(), [2, 12]);
        assert_eq!(reshape.target(&[0, 3], &[3, -1]).unwrap(), [3, 0]);
        assert_eq!(Reshape { allow_zero: true }.target(&[2, 0], &[0, 7]).unwrap(), [0, 7]);
        for target in [&[-1, -1][..], &[-2], &[5, -1], &[0, 0, 0, 0], &[i64::MIN], &[i64::MAX, i64::MAX, -1]]
        {
            assert!(reshape.target(&[2, 3, 4], target).is_err(), "{target:?}");
        }
        assert!(reshape.target(&[0, 3], &[0, -1]).is_err());
        assert!(Reshape { allow_zero: true }.target(&[0, 3], &[0, -1]).is_err());
    }

    #[test]
    fn vectors_of_sizes_stay_known() {
        let batch = Dim::symbol("batch");
        let scalar = Info { ints: Some(vec![batch.clone()]), ..Info::new(DataType::I64, vec![]) };
        let zero = Info::constant(&Array::vector(vec![0i64]));
        let unsqueeze = Unsqueeze { axes: Axes::Input };
        let vector = unsqueeze.infer(&Operands::new(vec![Some(&scalar), Some(&zero)])).unwrap().remove(0);
        assert_eq!(
            (vector.shape.as_deref(), vector.ints.as_deref()),
            (Some(&[int(1)][..]), Some(&[batch][..]))
        );
        let squeeze = Squeeze { axes: Axes::Input };
        let back = squeeze.infer(&Operands::new(vec![Some(&vector), Some(&zero)])).unwrap().remove(0);
        assert_eq!(back, scalar);
    }

    #[test]
    fn axes_that_do_not_fit_are_problems() {
        assert_eq!(unsqueezed(&[2, 3], &[0, -1], &1).unwrap(), [1, 2, 3, 1]);
        assert!(unsqueezed(&[2, 3], &[4], &1).is_err());
        assert!(unsqueezed(&[2, 3], &[0, -4], &1).is_err());
        assert!(squeezed(&[1, 3], Some(&[i64::MIN]), |_| true).is_err());
        let array = Array::full([1, 3], 0.0f32).unwrap();
        let squeeze = Squeeze { axes: Axes::Attribute(Some(vec![1])) };
        assert!(squeeze.run(Operands::new(vec![Some(array)])).is_err());
        assert!(Flatten { axis: 3 }.axis(2).is_err());
        assert_eq!(Flatten { axis: 2 }.axis(2).unwrap(), 2);
        assert_eq!(Flatten { axis: -2 }.axis(2).unwrap(), 0);
    }
}
