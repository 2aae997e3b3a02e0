//! `Expand` and `Tile`: elements more than once.

use super::shaped;
use crate::graph::{Array, Dim, Info, Operands, Operator, Problem, problem};
use crate::ops::strided::View;
use crate::ops::{NodeReader, broadcast};

/// `Expand`: an array broadcast together with a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expand;

impl Expand {
    pub(super) fn read(_: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self))
    }
}

impl Operator for Expand {
    fn name(&self) -> &str {
        "Expand"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (input, target) = (inputs.get(0)?, inputs.get(1)?);
        let target = match (&target.ints, target.shape.as_deref()) {
            (Some(ints), _) => ints.iter().map(size).collect::<Result<Vec<Dim>, _>>()?,
            (None, Some([rank])) => match rank.known_size() {
                Some(rank) if rank <= 64 => (0..rank).map(|_| Dim::unknown()).collect(),
                _ => return Ok(vec![Info::unknown(input.dtype)]),
            },
            _ => return Ok(vec![Info::unknown(input.dtype)]),
        };
        let dims = input.shape.as_ref().map(|shape| broadcast::dims_of(&[shape, &target])).transpose()?;
        let ints = input.ints.as_ref().and_then(|ints| match (dims.as_deref(), ints.as_slice()) {
            (Some([len]), [int]) => {
                len.known_size().filter(|len| *len <= 64).map(|len| vec![int.clone(); len])
            }
            (Some([len]), ints) if len.is(ints.len() as i64) => Some(ints.to_vec()),
            _ => None,
        });
        Ok(vec![Info { ints, ..shaped(input.dtype, dims) }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (array, target) = (inputs.take(0)?, sizes(inputs.get(1)?)?);
        let shape = broadcast::shape(&[array.shape(), &target])?;
        let strides = broadcast::strides(array.shape(), &shape);
        let strides = strides.into_iter().map(usize::cast_signed).collect();
        Ok(vec![View { offset: 0, shape, strides }.copy(array)?])
    }
}

/// `Tile`: an array side by side with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile;

impl Tile {
    pub(super) fn read(_: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self))
    }
}

impl Operator for Tile {
    fn name(&self) -> &str {
        "Tile"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (input, repeats) = (inputs.get(0)?, inputs.get(1)?);
        let (Some(shape), Some(repeats)) = (&input.shape, &repeats.ints) else {
            let rank = input.rank();
            return Ok(vec![
                rank.map_or(Info::unknown(input.dtype), |rank| Info::with_rank(input.dtype, rank)),
            ]);
        };
        if repeats.len() != shape.len() {
            problem!("{} repeats for rank {}", repeats.len(), shape.len());
        }
        let repeats = repeats.iter().map(size).collect::<Result<Vec<Dim>, _>>()?;
        let dims: Vec<Dim> = shape.iter().zip(&repeats).map(|(dim, repeats)| dim.times(repeats)).collect();
        let ints = match (&input.ints, dims.as_slice(), repeats.as_slice()) {
            (Some(ints), [len], [repeats]) => {
                let len = len.known_size().filter(|len| *len <= 64);
                len.zip(repeats.known_size()).map(|(_, repeats)| vec![ints.as_slice(); repeats].concat())
            }
            (ints, [], _) => ints.clone(),
            _ => None,
        };
        Ok(vec![Info { ints, ..shaped(input.dtype, Some(dims)) }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (array, repeats) = (inputs.take(0)?, sizes(inputs.get(1)?)?);
        if repeats.len() != array.rank() {
            problem!("{} repeats for rank {}", repeats.len(), array.rank());
        }
        let whole = View::whole(array.shape());
        let shape: Vec<usize> =
            whole.shape.iter().zip(&repeats).map(|(size, repeats)| size.saturating_mul(*repeats)).collect();
        let repeated = View {
            offset: 0,
            shape: repeats.iter().zip(&whole.shape).flat_map(|(&repeats, &size)| [repeats, size]).collect(),
            strides: whole.strides.iter().flat_map(|&stride| [0, stride]).collect(),
        };
        Ok(vec![repeated.copy(array)?.with_shape(shape)?])
    }
}

/// A size that an input gives.
pub(super) fn size(dim: &Dim) -> Result<Dim, Problem> {
    match dim.known() {
        Some(size) if size < 0 => problem!("{size} is not a size"),
        _ => Ok(dim.as_size()),
    }
}

/// A shape that an input gives.
pub(super) fn sizes(array: &Array) -> Result<Vec<usize>, Problem> {
    let size = |size| usize::try_from(size).map_err(|_| Problem::new(format!("{size} is not a size")));
    array.to_ints()?.into_iter().map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DataType;

    #[test]
    fn repeated_dimensions_keep_their_symbols() {
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        let mask = Info::new(DataType::F32, vec![batch.clone(), 1i64.into(), 1i64.into(), seq.clone()]);
        let target = Info::vector(DataType::I64, vec![batch.clone(), 1i64.into(), seq.clone(), seq.clone()]);
        let output = Expand.infer(&Operands::new(vec![Some(&mask), Some(&target)])).unwrap().remove(0);
        assert_eq!(output.shape, target.ints);
        let repeats = Info::constant(&Array::vector(vec![1i64, 3, 2, 1]));
        let output = Tile.infer(&Operands::new(vec![Some(&mask), Some(&repeats)])).unwrap().remove(0);
        assert_eq!(output.shape.unwrap(), [batch, 3i64.into(), 2i64.into(), seq]);
    }

    #[test]
    fn hostile_sizes_are_problems() {
        let run = |operator: &dyn Operator, sizes: Vec<i64>| {
            let array = Array::new([2, 1], vec![1.0f32, 2.0]).unwrap();
            operator
                .run(Operands::new(vec![Some(array), Some(Array::vector(sizes))]))
                .map(|mut all| all.remove(0))
        };
        assert_eq!(run(&Expand, vec![3, 1, 2]).unwrap().shape(), [3, 2, 2]);
        assert_eq!(run(&Expand, vec![2, 0]).unwrap().shape(), [2, 0]);
        assert_eq!(run(&Tile, vec![2, 2]).unwrap().shape(), [4, 2]);
        assert_eq!(run(&Tile, vec![0, 2]).unwrap().shape(), [0, 2]);
        for sizes in [vec![1 << 40, 1, 1], vec![3, 1], vec![-1, 1], vec![i64::MAX, 2, 9]] {
            assert!(run(&Expand, sizes).is_err());
        }
        for sizes in [vec![1 << 40, 1], vec![1], vec![-1, 1], vec![i64::MAX, i64::MAX]] {
            assert!(run(&Tile, sizes).is_err());
        }
    }
}
