//! `Gather`, `GatherElements` and `GatherND`.

use crate::graph::{
    Array, Dim, Element, Info, Operands, Operator, Problem, checked_len, element_count, for_type, problem,
};
use crate::ops::{NodeReader, axes};

/// `Gather`: parts of an array by their index along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gather {
    pub(crate) axis: i64,
}

impl Gather {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { axis: node.attributes.int("axis")?.unwrap_or(0) }))
    }
}

impl Operator for Gather {
    fn name(&self) -> &str {
        "Gather"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (data, indices) = (inputs.get(0)?, inputs.get(1)?);
        let (Some(shape), Some(picked)) = (&data.shape, &indices.shape) else {
            return Ok(vec![Info::unknown(data.dtype)]);
        };
        let axis = axes::axis(self.axis, shape.len())?;
        let dims = [&shape[..axis], picked, &shape[axis + 1..]].concat();
        let ints = match (&data.ints, indices.known_ints()) {
            (Some(ints), Some(indices)) if shape.len() == 1 => Some(pick(ints, &indices)?),
            _ => None,
        };
        Ok(vec![Info { ints, ..Info::new(data.dtype, dims) }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (data, indices) = (inputs.get(0)?, inputs.get(1)?);
        let axis = axes::axis(self.axis, data.rank())?;
        let size = data.shape()[axis];
        let places = places(&indices.to_ints()?, size)?;
        let (outer, inner) = (&data.shape()[..axis], &data.shape()[axis + 1..]);
        let shape = [outer, indices.shape(), inner].concat();
        if checked_len(&shape, data.dtype().size())? == 0 {
            return Ok(vec![for_type!(data.dtype(), T => Array::new(shape, Vec::<T>::new())?)]);
        }
        let (outer, run) = (element_count(outer)?, element_count(inner)?);
        Ok(vec![for_type!(data.dtype(), T => {
            Array::new(shape, gather(data.values::<T>()?, [outer, size, run], &places))?
        })])
    }
}

/// The runs of elements at `places` of each block of `size` runs.
fn gather<T: Element>(values: &[T], [outer, size, run]: [usize; 3], places: &[usize]) -> Vec<T> {
    let mut picked = Vec::with_capacity(outer * places.len() * run);
    for start in (0..outer).map(|outer| outer * size) {
        if run == 1 {
            picked.extend(places.iter().map(|place| values[start + place].clone()));
            continue;
        }
        for place in places {
            let at = (start + place) * run;
            picked.extend_from_slice(&values[at..at + run]);
        }
    }
    picked
}

fn pick(ints: &[Dim], indices: &[i64]) -> Result<Vec<Dim>, Problem> {
    Ok(places(indices, ints.len())?.into_iter().map(|place| ints[place].clone()).collect())
}

/// Indices into a dimension, counted from its start.
pub(super) fn places(indices: &[i64], size: usize) -> Result<Vec<usize>, Problem> {
    let place = |&index| match axes::index(index, size) {
        Some(place) => Ok(place),
        None => problem!("index {index} is not inside {size}"),
    };
    indices.iter().map(place).collect()
}

/// `GatherElements`: each element by its own index along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GatherElements {
    pub(crate) axis: i64,
}

impl GatherElements {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { axis: node.attributes.int("axis")?.unwrap_or(0) }))
    }
}

impl Operator for GatherElements {
    fn name(&self) -> &str {
        "GatherElements"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (data, indices) = (inputs.get(0)?, inputs.get(1)?);
        if let (Some(a), Some(b)) = (data.rank(), indices.rank()) {
            axes::axis(self.axis, a)?;
            if a != b {
                problem!("the data has rank {a}, the indices {b}");
            }
        }
        Ok(vec![Info { shape: indices.shape.clone(), ..Info::unknown(data.dtype) }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (data, indices) = (inputs.get(0)?, inputs.get(1)?);
        let places = element_places(data.shape(), indices, self.axis)?;
        Ok(vec![for_type!(data.dtype(), T => {
            Array::new(indices.shape(), gather(data.values::<T>()?, [1, 0, 1], &places))?
        })])
    }
}

/// For each element of `indices` the place in an array of this shape that it stands for: its own, but for `axis`.
pub(super) fn element_places(shape: &[usize], indices: &Array, axis: i64) -> Result<Vec<usize>, Problem> {
    let axis = axes::axis(axis, shape.len())?;
    let sizes = indices.shape();
    let fits = sizes.len() == shape.len() && (0..shape.len()).all(|i| i == axis || sizes[i] <= shape[i]);
    if !fits {
        problem!("indices of shape {sizes:?} do not fit shape {shape:?}");
    }
    let mut places = places(&indices.to_ints()?, shape[axis])?;
    if places.is_empty() {
        return Ok(places);
    }
    // All places exist, so the products of the sizes do, too.
    let strides: Vec<usize> = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
    let run: usize = sizes[axis + 1..].iter().product();
    let mut starts = Vec::new();
    let mut own = strides.clone();
    own[axis] = 0;
    let own: Vec<isize> = own.into_iter().map(usize::cast_signed).collect();
    crate::ops::strided::for_each_offset(&sizes[..=axis], &own[..=axis], 0, |at| starts.push(at));
    let mut inner = Vec::with_capacity(run);
    crate::ops::strided::for_each_offset(&sizes[axis + 1..], &own[axis + 1..], 0, |at| inner.push(at));
    for (places, start) in places.chunks_exact_mut(run).zip(starts) {
        for (place, inner) in places.iter_mut().zip(&inner) {
            *place = start + *place * strides[axis] + inner;
        }
    }
    Ok(places)
}

/// `GatherND`: parts of an array by vectors of indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GatherNd {
    /// Leading dimensions that data and indices share.
    pub(crate) batch_dims: usize,
}

impl GatherNd {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let batch_dims = if node.opset >= 12 { node.attributes.int("batch_dims")? } else { None };
        match usize::try_from(batch_dims.unwrap_or(0)) {
            Ok(batch_dims) => Ok(Box::new(Self { batch_dims })),
            Err(_) => problem!("attribute `batch_dims` is negative"),
        }
    }

    /// The shape of the output: the indices' without vectors, and what a vector leaves of the data's.
    fn shape<T: Clone>(self, data: &[T], indices: &[T], width: usize) -> Result<Vec<T>, Problem> {
        let fits = indices.len() > self.batch_dims && self.batch_dims.saturating_add(width) <= data.len();
        if !fits {
            let (data, indices) = (data.len(), indices.len());
            problem!("indices of rank {indices} with {width} numbers do not fit data of rank {data}");
        }
        Ok([&indices[..indices.len() - 1], &data[self.batch_dims + width..]].concat())
    }
}

impl Operator for GatherNd {
    fn name(&self) -> &str {
        "GatherND"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (data, indices) = (inputs.get(0)?, inputs.get(1)?);
        let (Some(shape), Some(picked)) = (&data.shape, &indices.shape) else {
            return Ok(vec![Info::unknown(data.dtype)]);
        };
        match picked.last().map(Dim::known_size) {
            Some(Some(width)) => Ok(vec![Info::new(data.dtype, self.shape(shape, picked, width)?)]),
            Some(None) => Ok(vec![Info::unknown(data.dtype)]),
            None => problem!("the indices are no vectors"),
        }
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (data, indices) = (inputs.get(0)?, inputs.get(1)?);
        let Some(&width) = indices.shape().last() else {
            problem!("the indices are no vectors");
        };
        let shape = self.shape(data.shape(), indices.shape(), width)?;
        let (batch, rest) = data.shape().split_at(self.batch_dims);
        if *batch != indices.shape()[..self.batch_dims] {
            problem!(
                "shapes {:?} and {:?} do not share {} dimensions",
                data.shape(),
                indices.shape(),
                batch.len()
            );
        }
        let len = checked_len(&shape, data.dtype().size())?;
        let starts = vector_places(&rest[..width], indices)?;
        Ok(vec![for_type!(data.dtype(), T => {
            let values = data.values::<T>()?;
            let mut picked = Vec::with_capacity(len);
            if len > 0 {
                let run = element_count(&rest[width..])?;
                let of_batch = element_count(rest)?;
                let per_batch = starts.len() / element_count(batch)?;
                for (index, start) in starts.into_iter().enumerate() {
                    let at = index / per_batch * of_batch + start * run;
                    picked.extend_from_slice(&values[at..at + run]);
                }
            }
            Array::new(shape, picked)?
        })])
    }
}

/// The place in an array of this shape of each vector of indices.
pub(super) fn vector_places(shape: &[usize], indices: &Array) -> Result<Vec<usize>, Problem> {
    let ints = indices.to_ints()?;
    if shape.is_empty() {
        // Vectors of no indices, each of which is the whole.
        let vectors = &indices.shape()[..indices.rank() - 1];
        return Ok(vec![0; checked_len(vectors, size_of::<usize>())?]);
    }
    let place = |vector: &[i64]| {
        vector.iter().zip(shape).try_fold(0usize, |place, (&index, &size)| match axes::index(index, size) {
            // Too large a place is none of an array that exists.
            Some(index) => Ok(place.saturating_mul(size).saturating_add(index)),
            None => problem!("index {index} is not inside {size}"),
        })
    };
    ints.chunks_exact(shape.len()).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DataType;

    fn run(operator: &dyn Operator, data: &Array, indices: Array) -> Result<Array, Problem> {
        operator
            .run(Operands::new(vec![Some(data.clone()), Some(indices)]))
            .map(|mut arrays| arrays.remove(0))
    }

    #[test]
    fn sizes_are_gathered_as_values() {
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        let shape = Info::vector(DataType::I64, vec![batch, seq.clone()]);
        let gather = Gather { axis: 0 };
        let scalar = Info::constant(&Array::scalar(-1i64));
        let output = gather.infer(&Operands::new(vec![Some(&shape), Some(&scalar)])).unwrap().remove(0);
        assert_eq!((output.shape.unwrap(), output.ints.unwrap()), (vec![], vec![seq]));
        let outside = Info::constant(&Array::scalar(2i64));
        assert!(gather.infer(&Operands::new(vec![Some(&shape), Some(&outside)])).is_err());
        let table = Info::new(DataType::F32, vec![30522i64.into(), 384i64.into()]);
        let ids = Info::new(DataType::I64, vec![Dim::symbol("batch"), Dim::symbol("seq")]);
        let output = gather.infer(&Operands::new(vec![Some(&table), Some(&ids)])).unwrap().remove(0);
        assert_eq!(output.shape.unwrap(), [Dim::symbol("batch"), Dim::symbol("seq"), 384i64.into()]);
    }

    #[test]
    fn indices_outside_are_problems() {
        let data = Array::new([2, 3], vec![1i64, 2, 3, 4, 5, 6]).unwrap();
        for index in [3, -4, i64::MIN, i64::MAX] {
            assert!(run(&Gather { axis: 1 }, &data, Array::scalar(index)).is_err());
            let indices = Array::new([1, 1], vec![index]).unwrap();
            assert!(run(&GatherElements { axis: 1 }, &data, indices.clone()).is_err());
            assert!(run(&GatherNd { batch_dims: 0 }, &data, indices).is_err());
        }
        assert!(run(&Gather { axis: 0 }, &data, Array::scalar(0.0f32)).is_err());
        assert!(run(&GatherElements { axis: 1 }, &data, Array::vector(vec![0i64])).is_err());
        assert!(run(&GatherNd { batch_dims: 0 }, &data, Array::scalar(0i64)).is_err());
        assert!(run(&GatherNd { batch_dims: 2 }, &data, Array::full([2, 3, 1], 0i64).unwrap()).is_err());
        let empty = Array::new([0, 3], Vec::<i64>::new()).unwrap();
        assert!(run(&Gather { axis: 0 }, &empty, Array::scalar(0i64)).is_err());
        let none = Array::vector(Vec::<i64>::new());
        assert_eq!(run(&Gather { axis: 0 }, &empty, none).unwrap().shape(), [0, 3]);
        let wide = Array::new([1, 0], Vec::<i64>::new()).unwrap();
        assert_eq!(run(&GatherNd { batch_dims: 0 }, &data, wide).unwrap().shape(), [1, 2, 3]);
    }
}
