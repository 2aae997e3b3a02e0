//! Copies of elements in another order: what transposing, slicing and repeating have in common.

use crate::graph::{Array, Element, Problem, checked_len, for_type};

/// Which elements of an array another array has: the one at `index` is at `offset + sum(index * strides)`.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<isize>,
}

impl View {
    /// All elements in their order.
    pub(super) fn whole(shape: &[usize]) -> Self {
        let mut strides = vec![0; shape.len()];
        let mut stride = 1isize;
        for (at, &size) in strides.iter_mut().zip(shape).rev() {
            *at = stride;
            stride = stride.saturating_mul(size.max(1).cast_signed());
        }
        Self { offset: 0, shape: shape.to_vec(), strides }
    }

    /// The dimensions in another order.
    pub(super) fn permuted(&self, order: &[usize]) -> Self {
        Self {
            offset: self.offset,
            shape: order.iter().map(|&axis| self.shape[axis]).collect(),
            strides: order.iter().map(|&axis| self.strides[axis]).collect(),
        }
    }

    /// The array that has these elements of `array`.
    pub(super) fn copy(&self, array: Array) -> Result<Array, Problem> {
        let len = checked_len(&self.shape, array.dtype().size())?;
        if len == 0 {
            // The strides of empty arrays may be anything.
            return for_type!(array.dtype(), T => Array::new(self.shape.clone(), Vec::<T>::new()));
        }
        let merged = self.merged();
        if len == array.len() && self.offset == 0 && matches!(merged.strides.as_slice(), [] | [1]) {
            return array.with_shape(self.shape.clone());
        }
        for_type!(array.dtype(), T => {
            Array::new(self.shape.clone(), merged.gather(array.values::<T>()?, len))
        })
    }

    /// The same elements with as few dimensions as possible.
    fn merged(&self) -> Self {
        let mut merged = Self { offset: self.offset, shape: Vec::new(), strides: Vec::new() };
        for (&size, &stride) in self.shape.iter().zip(&self.strides).filter(|(size, _)| **size != 1) {
            match (merged.shape.last_mut(), merged.strides.last_mut()) {
                (Some(outer), Some(outer_stride)) if *outer_stride == stride * size.cast_signed() => {
                    *outer *= size;
                    *outer_stride = stride;
                }
                _ => {
                    merged.shape.push(size);
                    merged.strides.push(stride);
                }
            }
        }
        merged
    }

    fn gather<T: Element>(&self, from: &[T], len: usize) -> Vec<T> {
        let (Some((&run, outer)), Some((&stride, outer_strides))) =
            (self.shape.split_last(), self.strides.split_last())
        else {
            return vec![from[self.offset].clone()];
        };
        if stride > 1
            && let Some(axis) = outer_strides.iter().position(|&stride| stride == 1)
        {
            return self.gather_transposed(from, len, axis);
        }
        let mut values = Vec::with_capacity(len);
        for_each_offset(outer, outer_strides, self.offset, |at| match stride {
            1 => values.extend_from_slice(&from[at..at + run]),
            0 => values.resize(values.len() + run, from[at].clone()),
            _ => values
                .extend((0..run.cast_signed()).map(|i| from[at.wrapping_add_signed(i * stride)].clone())),
        });
        values
    }

    /// Squares of elements that are in order along `axis` before and along the last axis after.
    fn gather_transposed<T: Element>(&self, from: &[T], len: usize, axis: usize) -> Vec<T> {
        const SQUARE: usize = 16;
        let last = self.shape.len() - 1;
        let (rows, columns) = (self.shape[axis], self.shape[last]);
        let from_stride = self.strides[last].unsigned_abs();
        let to = Self::whole(&self.shape);
        let to_stride = to.strides[axis].unsigned_abs();
        let other: Vec<usize> = (0..last).filter(|&other| other != axis).collect();
        let mut targets = Vec::new();
        let other_to = to.permuted(&other);
        for_each_offset(&other_to.shape, &other_to.strides, 0, |at| targets.push(at));
        let mut targets = targets.into_iter();
        let mut values = vec![T::default(); len];
        let other_from = self.permuted(&other);
        for_each_offset(&other_from.shape, &other_from.strides, self.offset, |source| {
            let target = targets.next().expect("both walk through the same shape");
            for row in (0..rows).step_by(SQUARE) {
                for column in (0..columns).step_by(SQUARE) {
                    let width = SQUARE.min(columns - column);
                    for row in row..rows.min(row + SQUARE) {
                        let to = target + row * to_stride + column;
                        let from = &from[source + row + column * from_stride..];
                        for (to, from) in
                            values[to..to + width].iter_mut().zip(from.iter().step_by(from_stride))
                        {
                            to.clone_from(from);
                        }
                    }
                }
            }
        });
        values
    }
}

/// Calls `visit` with the offset of every index of a shape, the last dimension the fastest.
pub(super) fn for_each_offset(
    shape: &[usize],
    strides: &[isize],
    offset: usize,
    mut visit: impl FnMut(usize),
) {
    if shape.contains(&0) {
        return;
    }
    let mut index = vec![0; shape.len()];
    let mut at = offset;
    loop {
        visit(at);
        let mut dimension = shape.len();
        loop {
            let Some(next) = dimension.checked_sub(1) else {
                return;
            };
            dimension = next;
            index[dimension] += 1;
            if index[dimension] < shape[dimension] {
                at = at.wrapping_add_signed(strides[dimension]);
                break;
            }
            let back = strides[dimension] * (shape[dimension] - 1).cast_signed();
            at = at.wrapping_add_signed(-back);
            index[dimension] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(view: &View, from: &[f32]) -> Vec<f32> {
        let mut values = Vec::new();
        for_each_offset(&view.shape, &view.strides, view.offset, |at| values.push(from[at]));
        values
    }

    #[test]
    fn every_order_of_dimensions_is_copied() {
        let shape = [2, 19, 3, 33];
        let from: Vec<f32> = (0..2 * 19 * 3 * 33).map(|i| i as f32).collect();
        let array = Array::new(shape, from.clone()).unwrap();
        let whole = View::whole(&shape);
        for order in [[0, 2, 1, 3], [0, 2, 3, 1], [3, 2, 1, 0], [1, 0, 3, 2], [0, 1, 2, 3], [2, 3, 0, 1]] {
            let view = whole.permuted(&order);
            let copy = view.copy(array.clone()).unwrap();
            assert_eq!(copy.values::<f32>().unwrap(), naive(&view, &from), "{order:?}");
            assert_eq!(copy.shape(), view.shape);
        }
    }

    #[test]
    fn strides_may_be_zero_or_negative() {
        let array = Array::new([2, 3], vec![1., 2., 3., 4., 5., 6.0f32]).unwrap();
        let view = View { offset: 5, shape: vec![2, 3], strides: vec![-3, -1] };
        assert_eq!(*view.copy(array.clone()).unwrap().to_floats().unwrap(), [6., 5., 4., 3., 2., 1.]);
        let view = View { offset: 0, shape: vec![2, 2, 3], strides: vec![3, 0, 1] };
        let repeated = [1., 2., 3., 1., 2., 3., 4., 5., 6., 4., 5., 6.];
        assert_eq!(*view.copy(array.clone()).unwrap().to_floats().unwrap(), repeated);
        let view = View { offset: 1, shape: vec![2, 2], strides: vec![3, 0] };
        assert_eq!(*view.copy(array.clone()).unwrap().to_floats().unwrap(), [2., 2., 5., 5.]);
        let view = View { offset: 0, shape: vec![2, 0], strides: vec![3, 1] };
        assert_eq!(view.copy(array).unwrap().shape(), [2, 0]);
    }

    #[test]
    fn elements_in_order_are_not_copied() {
        let array = Array::new([1, 4, 1, 3], vec![0.5f32; 12]).unwrap();
        let address = array.values::<f32>().unwrap().as_ptr();
        let copy = View::whole(array.shape()).permuted(&[2, 1, 0, 3]).copy(array).unwrap();
        assert_eq!(copy.shape(), [1, 4, 1, 3]);
        assert_eq!(copy.values::<f32>().unwrap().as_ptr(), address);
    }
}
