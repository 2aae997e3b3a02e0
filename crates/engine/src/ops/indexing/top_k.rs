//! `TopK`.

use std::cmp::Ordering;

use half::{bf16, f16};

use crate::graph::{
    Array, DataType, Dim, Element, Info, Operands, Operator, Problem, checked_len, element_count,
    for_computed_type, problem,
};
use crate::ops::{NodeReader, axes};

/// `TopK`: the largest or smallest elements along an axis, and where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopK {
    pub(crate) axis: i64,
    pub(crate) largest: bool,
    /// How many, where it is an attribute.
    pub(crate) k: Option<i64>,
}

impl TopK {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let axis = node.attributes.int("axis")?.unwrap_or(-1);
        let mut largest = None;
        if node.opset >= 11 {
            largest = node.attributes.flag("largest")?;
            // Sorted is one of the orders that may be without it.
            node.attributes.ignore(&["sorted"]);
        }
        let k = if node.opset < 10 { node.attributes.int("k")? } else { None };
        if k.is_none() == (node.num_inputs < 2) {
            problem!("{} inputs and attribute `k` {k:?}", node.num_inputs);
        }
        Ok(Box::new(Self { axis, largest: largest.unwrap_or(true), k }))
    }

    fn top<T: Ordered>(self, array: &Array, axis: usize, k: usize) -> Result<Vec<Array>, Problem> {
        let mut shape = array.shape().to_vec();
        let size = std::mem::replace(&mut shape[axis], k);
        let len = checked_len(&shape, size_of::<T>().max(size_of::<i64>()))?;
        let values = array.values::<T>()?;
        let (mut top, mut indices) = (vec![T::default(); len], vec![0i64; len]);
        if len > 0 {
            let run = element_count(&shape[axis + 1..])?;
            let mut order: Vec<usize> = Vec::new();
            for (outer, inner) in
                (0..len / k / run).flat_map(|outer| (0..run).map(move |inner| (outer, inner)))
            {
                let value = |index: usize| &values[(outer * size + index) * run + inner];
                let compare = |&a: &usize, &b: &usize| {
                    let by_value = value(a).order(value(b));
                    let by_value = if self.largest { by_value.reverse() } else { by_value };
                    by_value.then(a.cmp(&b))
                };
                order.clear();
                order.extend(0..size);
                if k < size {
                    order.select_nth_unstable_by(k - 1, compare);
                    order.truncate(k);
                }
                order.sort_unstable_by(compare);
                for (rank, &index) in order.iter().enumerate() {
                    let at = (outer * k + rank) * run + inner;
                    top[at] = value(index).clone();
                    indices[at] = index as i64;
                }
            }
        }
        Ok(vec![Array::new(shape.as_slice(), top)?, Array::new(shape, indices)?])
    }
}

/// Elements in a total order: NaN is the largest number.
pub(super) trait Ordered: Element {
    fn order(&self, other: &Self) -> Ordering;
}

macro_rules! ordered {
    ($($type:ty)*) => {$(
        impl Ordered for $type {
            fn order(&self, other: &Self) -> Ordering {
                self.cmp(other)
            }
        }
    )*};
}

ordered!(i8 i16 i32 i64 u8 u16 u32 u64 bool String);

macro_rules! ordered_floats {
    ($($type:ty)*) => {$(
        impl Ordered for $type {
            fn order(&self, other: &Self) -> Ordering {
                self.partial_cmp(other).unwrap_or_else(|| self.is_nan().cmp(&other.is_nan()))
            }
        }
    )*};
}

ordered_floats!(f32 f64 f16 bf16);

impl Operator for TopK {
    fn name(&self) -> &str {
        "TopK"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        let k = match self.k {
            Some(k) => Some(k.into()),
            None => inputs.get(1)?.ints.as_ref().and_then(|ints| ints.first().cloned()),
        };
        let Some(mut dims) = input.shape.clone() else {
            return Ok(vec![Info::unknown(input.dtype), Info::unknown(DataType::I64)]);
        };
        let axis = axes::axis(self.axis, dims.len())?;
        dims[axis] = k.filter(Dim::is_size).unwrap_or_else(Dim::unknown);
        Ok(vec![Info::new(input.dtype, dims.clone()), Info::new(DataType::I64, dims)])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let array = inputs.get(0)?;
        let axis = axes::axis(self.axis, array.rank())?;
        let given = match self.k {
            Some(k) => vec![k],
            None => inputs.get(1)?.to_ints()?,
        };
        let k = match given.as_slice() {
            &[k] => usize::try_from(k).ok().filter(|k| *k <= array.shape()[axis]),
            _ => None,
        };
        let Some(k) = k else {
            problem!("{given:?} of {} elements are wanted", array.shape()[axis]);
        };
        for_computed_type!(array.dtype(), T => self.top::<T>(array, axis, k))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(largest: bool, values: Vec<f32>, k: i64) -> Result<(Vec<f32>, Vec<i64>), Problem> {
        let inputs = Operands::new(vec![Some(Array::vector(values)), Some(Array::vector(vec![k]))]);
        let outputs = TopK { axis: 0, largest, k: None }.run(inputs)?;
        Ok((outputs[0].to_floats()?.into_owned(), outputs[1].to_ints()?))
    }

    #[test]
    fn equal_elements_come_in_order() {
        assert_eq!(run(true, vec![1., 3., 2., 3., 3.], 3).unwrap(), (vec![3., 3., 3.], vec![1, 3, 4]));
        assert_eq!(run(false, vec![1., 3., 1., 3., 3.], 3).unwrap(), (vec![1., 1., 3.], vec![0, 2, 1]));
        let (values, indices) = run(true, vec![1., f32::NAN, f32::INFINITY], 2).unwrap();
        assert!(values[0].is_nan());
        assert_eq!(indices, [1, 2]);
        assert_eq!(run(true, vec![1.], 0).unwrap().0.len(), 0);
        for k in [2, -1, i64::MAX, i64::MIN] {
            assert!(run(true, vec![1.], k).is_err());
        }
    }
}
