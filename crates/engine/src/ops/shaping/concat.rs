//! `Concat`.

use super::shaped;
use crate::graph::{Array, Dim, Info, Operands, Operator, Problem, checked_len, for_type, problem};
use crate::ops::{NodeReader, axes};

/// `Concat`: arrays one after another along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Concat {
    pub(crate) axis: i64,
}

impl Concat {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        match node.attributes.int("axis")? {
            Some(axis) => Ok(Box::new(Self { axis })),
            None => problem!("attribute `axis` is missing"),
        }
    }

    fn dims(self, shapes: &[&[Dim]]) -> Result<Vec<Dim>, Problem> {
        let mut dims = shapes[0].to_vec();
        let axis = axes::axis(self.axis, dims.len())?;
        for shape in &shapes[1..] {
            if shape.len() != dims.len() {
                problem!("shapes {shapes:?} have different ranks");
            }
            for (index, (dim, other)) in dims.iter_mut().zip(*shape).enumerate() {
                match (dim.known(), other.known()) {
                    _ if index == axis => *dim = dim.plus(other),
                    (Some(a), Some(b)) if a != b => problem!("shapes {shapes:?} differ beyond axis {axis}"),
                    (None, Some(_)) => *dim = other.clone(),
                    _ => {}
                }
            }
        }
        Ok(dims)
    }
}

impl Operator for Concat {
    fn name(&self) -> &str {
        "Concat"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let dtype = inputs.get(0)?.dtype;
        let (mut shapes, mut ints) = (Vec::new(), Some(Vec::new()));
        for index in 0..inputs.len() {
            let input = inputs.get(index)?;
            if input.dtype != dtype {
                problem!("inputs are {dtype} and {}", input.dtype);
            }
            shapes.extend(input.shape.as_deref());
            ints = ints.zip(elements(input)).map(|(mut all, ints)| {
                all.extend(ints);
                all
            });
        }
        if shapes.len() < inputs.len() {
            let rank = shapes.first().map(|shape| shape.len());
            return Ok(vec![rank.map_or(Info::unknown(dtype), |rank| Info::with_rank(dtype, rank))]);
        }
        let dims = self.dims(&shapes)?;
        let ints = ints.filter(|_| dims.len() == 1);
        Ok(vec![Info { ints, ..shaped(dtype, Some(dims)) }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let arrays = (0..inputs.len()).map(|index| inputs.get(index)).collect::<Result<Vec<_>, _>>()?;
        Ok(vec![concat(&arrays, self.axis)?])
    }
}

/// The elements of a vector of integers; where they are not known, which numbers they are.
fn elements(info: &Info) -> Option<Vec<Dim>> {
    match (&info.ints, info.shape.as_deref()) {
        (Some(ints), _) => Some(ints.clone()),
        (None, Some([len])) if info.dtype.is_int() => {
            let len = len.known_size().filter(|len| *len <= 8)?;
            Some((0..len).map(|_| Dim::unknown_int()).collect())
        }
        _ => None,
    }
}

/// Arrays one after another along an axis.
pub(crate) fn concat(arrays: &[&Array], axis: i64) -> Result<Array, Problem> {
    let Some(first) = arrays.first() else {
        problem!("input 0 is missing");
    };
    if let [array] = arrays {
        axes::axis(axis, array.rank())?;
        return Ok((*array).clone());
    }
    let axis = axes::axis(axis, first.rank())?;
    let mut shape = first.shape().to_vec();
    shape[axis] = 0;
    for array in arrays {
        let sizes = array.shape();
        let fits = sizes.len() == shape.len()
            && (0..axis).chain(axis + 1..shape.len()).all(|i| sizes[i] == shape[i]);
        if !fits {
            problem!("shapes {:?} and {sizes:?} differ beyond axis {axis}", first.shape());
        }
        shape[axis] = shape[axis].saturating_add(sizes[axis]);
    }
    let len = checked_len(&shape, first.dtype().size())?;
    for_type!(first.dtype(), T => {
        let values = arrays.iter().map(|array| array.values::<T>()).collect::<Result<Vec<_>, _>>()?;
        let mut joined = Vec::with_capacity(len);
        if len > 0 {
            let run = |array: &Array| array.shape()[axis..].iter().product::<usize>();
            let runs: Vec<usize> = arrays.iter().map(|array| run(array)).collect();
            for outer in 0..shape[..axis].iter().product() {
                for (values, run) in values.iter().zip(&runs) {
                    joined.extend_from_slice(&values[outer * run..(outer + 1) * run]);
                }
            }
        }
        Array::new(shape, joined)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DataType;

    #[test]
    fn shapes_are_put_together_from_symbols() {
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        let (a, b) = (
            Info::vector(DataType::I64, vec![batch.clone()]),
            Info::vector(DataType::I64, vec![seq.clone(), 12i64.into()]),
        );
        let unknown = Info::new(DataType::I64, vec![1i64.into()]);
        let inputs = Operands::new(vec![Some(&a), Some(&b), Some(&unknown)]);
        let ints = Concat { axis: -1 }.infer(&inputs).unwrap().remove(0).ints.unwrap();
        assert_eq!(ints[..3], [batch, seq, 12i64.into()]);
        assert!(!ints[3].is_size());
    }

    #[test]
    fn other_dimensions_are_the_same() {
        let (batch, two) = (Dim::symbol("batch"), Dim::from(2i64));
        let concat = Concat { axis: 1 };
        let (a, b) = ([batch.clone(), two.clone()], [4i64.into(), two.clone()]);
        assert_eq!(concat.dims(&[&a, &b]).unwrap(), [4i64.into(), 4i64.into()]);
        assert!(concat.dims(&[&a, &a[..1]]).is_err());
        let (a, b) = (Array::full([2, 1], 0i8).unwrap(), Array::full([3, 1], 0i8).unwrap());
        assert!(super::concat(&[&a, &b], 1).is_err());
        assert!(super::concat(&[&a, &b], 2).is_err());
        assert_eq!(super::concat(&[&a, &b], -2).unwrap().shape(), [5, 1]);
        let empty = Array::full([0, 1], 0i8).unwrap();
        assert_eq!(super::concat(&[&empty, &a], 0).unwrap(), a);
    }
}
