//! `Split`.

use crate::graph::{Array, Dim, Info, Operands, Operator, Problem, problem};
use crate::ops::strided::View;
use crate::ops::{NodeReader, axes};

/// `Split`: what [`Concat`](super::Concat) put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) axis: i64,
    pub(crate) sizes: SplitSizes,
    /// How many parts somebody expects.
    pub(crate) parts: usize,
}

/// Where the sizes of parts are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SplitSizes {
    /// In the attribute.
    Attribute(Vec<i64>),
    /// In the second input.
    Input,
    /// Nowhere: equal parts.
    Equal,
    /// Nowhere: parts of which the last may be smaller.
    Smaller,
}

impl Split {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let attribute = if node.opset < 13 { node.attributes.ints("split")? } else { None };
        let count = if node.opset >= 18 { node.attributes.int("num_outputs")? } else { None };
        if node.opset < 13 && node.num_inputs > 1 {
            problem!("{} inputs, expected 1 before version 13", node.num_inputs);
        }
        let sizes = match (attribute, count) {
            (Some(sizes), _) => SplitSizes::Attribute(sizes),
            (None, Some(count)) if usize::try_from(count) != Ok(node.num_outputs) => {
                problem!("attribute `num_outputs` is {count}, but there are {} outputs", node.num_outputs)
            }
            (None, Some(_)) if node.num_inputs > 1 => problem!("both sizes and their number are given"),
            (None, Some(_)) => SplitSizes::Smaller,
            (None, None) if node.num_inputs > 1 => SplitSizes::Input,
            (None, None) => SplitSizes::Equal,
        };
        let axis = node.attributes.int("axis")?.unwrap_or(0);
        Ok(Box::new(Self { axis, sizes, parts: node.num_outputs }))
    }

    /// Sizes of the parts of `size`.
    fn sizes(&self, size: usize, input: Option<&[i64]>) -> Result<Vec<usize>, Problem> {
        let given = match (&self.sizes, input) {
            (SplitSizes::Attribute(sizes), _) => sizes,
            (SplitSizes::Input, Some(sizes)) => sizes,
            (SplitSizes::Input, None) => problem!("input 1 is missing"),
            (SplitSizes::Equal, _) if self.parts == 0 || !size.is_multiple_of(self.parts) => {
                problem!("{size} cannot be split into {} equal parts", self.parts)
            }
            _ => {
                let part = size.div_ceil(self.parts.max(1));
                let start = |index: usize| index.saturating_mul(part).min(size);
                return Ok((0..self.parts).map(|index| start(index + 1) - start(index)).collect());
            }
        };
        let sizes: Vec<usize> = given.iter().filter_map(|&size| usize::try_from(size).ok()).collect();
        let sum = sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
        if sizes.len() != given.len() || sizes.len() != self.parts || sum != Some(size) {
            problem!("{size} cannot be split into {} parts of sizes {given:?}", self.parts);
        }
        Ok(sizes)
    }

    /// What is known about [`sizes`](Self::sizes).
    fn dims(&self, size: &Dim, input: Option<&Info>) -> Result<Vec<Dim>, Problem> {
        let given = match &self.sizes {
            SplitSizes::Attribute(sizes) => Some(sizes.iter().map(|&size| size.into()).collect()),
            SplitSizes::Input => input.and_then(|info| info.ints.clone()),
            _ => None,
        };
        let known: Option<Vec<i64>> =
            given.as_ref().and_then(|sizes: &Vec<Dim>| sizes.iter().map(Dim::known).collect());
        if let Some(size) = size.known_size()
            && (known.is_some() || self.sizes != SplitSizes::Input)
        {
            return Ok(self.sizes(size, known.as_deref())?.into_iter().map(Dim::from).collect());
        }
        let unknown = || (0..self.parts).map(|_| Dim::unknown()).collect();
        Ok(match given {
            Some(sizes) if sizes.len() != self.parts => {
                problem!("sizes {sizes:?} are not those of {} parts", self.parts)
            }
            Some(sizes) if sizes.iter().all(Dim::is_size) => sizes,
            Some(_) => unknown(),
            None if self.sizes == SplitSizes::Equal => match size.divided_by(&self.parts.into()) {
                Some(part) => vec![part; self.parts],
                None => unknown(),
            },
            None => unknown(),
        })
    }
}

impl Operator for Split {
    fn name(&self) -> &str {
        "Split"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        let Some(shape) = &input.shape else {
            return Ok(vec![Info::unknown(input.dtype); self.parts]);
        };
        let axis = axes::axis(self.axis, shape.len())?;
        let sizes = self.dims(&shape[axis], inputs.optional(1).copied())?;
        let mut ints = input.ints.as_deref().filter(|_| shape.len() == 1);
        let part = |size: Dim| {
            let mut dims = shape.clone();
            let parts = ints.zip(size.known_size()).and_then(|(ints, size)| ints.split_at_checked(size));
            ints = parts.map(|(_, rest)| rest);
            dims[axis] = size;
            Info { ints: parts.map(|(part, _)| part.to_vec()), ..Info::new(input.dtype, dims) }
        };
        Ok(sizes.into_iter().map(part).collect())
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let given = match self.sizes {
            SplitSizes::Input => inputs.optional(1).map(Array::to_ints).transpose()?,
            _ => None,
        };
        let array = inputs.take(0)?;
        let axis = axes::axis(self.axis, array.rank())?;
        let mut view = View::whole(array.shape());
        let part = |size| {
            view.shape[axis] = size;
            let part = view.copy(array.clone());
            // An empty part at the end starts behind the last element, which its copy never reads.
            view.offset = view.offset.saturating_add(view.strides[axis].unsigned_abs().saturating_mul(size));
            part
        };
        self.sizes(array.shape()[axis], given.as_deref())?.into_iter().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DataType;

    fn split(sizes: SplitSizes, parts: usize) -> Split {
        Split { axis: -1, sizes, parts }
    }

    #[test]
    fn sizes_that_do_not_fit_are_problems() {
        assert_eq!(split(SplitSizes::Smaller, 3).sizes(7, None).unwrap(), [3, 3, 1]);
        assert_eq!(split(SplitSizes::Smaller, 4).sizes(5, None).unwrap(), [2, 2, 1, 0]);
        assert!(split(SplitSizes::Equal, 2).sizes(7, None).is_err());
        assert!(split(SplitSizes::Equal, 0).sizes(7, None).is_err());
        for sizes in [&[3, 3][..], &[8, -1], &[7], &[i64::MAX, 7]] {
            assert!(split(SplitSizes::Input, 2).sizes(7, Some(sizes)).is_err());
        }
    }

    #[test]
    fn parts_have_known_sizes() {
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        let info = Info::new(DataType::F32, vec![batch.clone(), seq.times(&6i64.into())]);
        let parts = split(SplitSizes::Equal, 3).infer(&Operands::new(vec![Some(&info)])).unwrap();
        assert_eq!(parts, vec![Info::new(DataType::F32, vec![batch.clone(), seq.times(&2i64.into())]); 3]);
        let vector = Info::vector(DataType::I64, vec![batch.clone(), seq.clone(), 3i64.into()]);
        let sizes = SplitSizes::Attribute(vec![1, 2]);
        let parts = split(sizes, 2).infer(&Operands::new(vec![Some(&vector)])).unwrap();
        assert_eq!(parts[0].ints.as_deref().unwrap(), [batch]);
        assert_eq!(parts[1].ints.as_deref().unwrap(), [seq, 3i64.into()]);
    }

    #[test]
    fn empty_parts_are_possible() {
        let array = Array::new([2, 2], vec![1., 2., 3., 4.0f32]).unwrap();
        let parts =
            split(SplitSizes::Attribute(vec![2, 0]), 2).run(Operands::new(vec![Some(array)])).unwrap();
        assert_eq!((parts[0].shape(), parts[1].shape()), (&[2, 2][..], &[2, 0][..]));
    }
}
