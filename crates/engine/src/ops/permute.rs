//! Arrays with their dimensions in another order.

use crate::graph::{Array, Element, Problem, checked_len};

use super::broadcast::for_each_index;

/// The array whose dimension `i` is dimension `order[i]` of this one; `order` has each dimension once.
pub(super) fn permute<T: Element>(array: &Array, order: &[usize]) -> Result<Array, Problem> {
    let from = array.values::<T>()?;
    let shape: Vec<usize> = order.iter().map(|&dimension| array.shape()[dimension]).collect();
    let mut values = Vec::with_capacity(checked_len(&shape, size_of::<T>())?);
    if from.is_empty() {
        return Array::new(shape, values);
    }
    let (sizes, strides) = merged(array.shape(), order);
    let Some((&inner, outer)) = sizes.split_last() else {
        return Array::new(shape, from.to_vec());
    };
    let stride = strides[outer.len()];
    for_each_index(outer, |index| {
        let start: usize = index.iter().zip(&strides).map(|(index, stride)| index * stride).sum();
        if stride == 1 {
            values.extend_from_slice(&from[start..start + inner]);
        } else {
            values.extend(from[start..].iter().step_by(stride).take(inner).cloned());
        }
    });
    Array::new(shape, values)
}

/// Sizes and strides of the result's dimensions; those that stay neighbours are one.
fn merged(shape: &[usize], order: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let stride_of = |dimension: usize| shape[dimension + 1..].iter().product::<usize>();
    let (mut sizes, mut strides): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    for &dimension in order.iter().filter(|&&dimension| shape[dimension] != 1) {
        let (size, stride) = (shape[dimension], stride_of(dimension));
        match (sizes.last_mut(), strides.last_mut()) {
            (Some(last_size), Some(last_stride)) if *last_stride == size * stride => {
                *last_size *= size;
                *last_stride = stride;
            }
            _ => {
                sizes.push(size);
                strides.push(stride);
            }
        }
    }
    (sizes, strides)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_change_places() {
        let array = Array::new(vec![2, 1, 3, 2], (0..12).collect::<Vec<i64>>()).unwrap();
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [0, 2, 1, 3], [1, 3, 0, 2]] {
            let found = permute::<i64>(&array, &order).unwrap();
            let mut expected = Vec::new();
            for_each_index(found.shape(), |index| {
                let mut from = [0; 4];
                order.iter().zip(index).for_each(|(&dimension, &index)| from[dimension] = index);
                expected.push((from[0] * 6 + from[2] * 2 + from[3]) as i64);
            });
            assert_eq!(found.values::<i64>().unwrap(), expected);
        }
        assert_eq!(permute::<i64>(&Array::scalar(1i64), &[]).unwrap(), Array::scalar(1i64));
        let empty = Array::new(vec![2, 0], Vec::<f32>::new()).unwrap();
        assert_eq!(permute::<f32>(&empty, &[1, 0]).unwrap().shape(), [0, 2]);
    }
}
