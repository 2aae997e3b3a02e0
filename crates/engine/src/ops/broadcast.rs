//! Multidimensional broadcasting: <https://onnx.ai/onnx/repo-docs/Broadcasting.html>.

use crate::graph::{Array, Dim, Element, Info, Operands, Problem, checked_len, problem};

/// The shape that arrays of these shapes have together.
pub(super) fn shape(shapes: &[&[usize]]) -> Result<Vec<usize>, Problem> {
    let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
    let mut sizes = vec![1; rank];
    for shape in shapes {
        for (size, &other) in sizes[rank - shape.len()..].iter_mut().zip(*shape) {
            if *size == 1 {
                *size = other;
            } else if other != 1 && other != *size {
                problem!("shapes {shapes:?} cannot be broadcast");
            }
        }
    }
    Ok(sizes)
}

/// What is known about [`shape`]; `None` if not even the number of dimensions is.
pub(super) fn dims(inputs: &Operands<&Info>) -> Result<Option<Vec<Dim>>, Problem> {
    let mut shapes = Vec::new();
    for info in inputs.iter_from(0).flatten() {
        match &info.shape {
            Some(shape) => shapes.push(shape.as_slice()),
            None => return Ok(None),
        }
    }
    dims_of(&shapes).map(Some)
}

/// [`dims`] of shapes that are known.
pub(super) fn dims_of(shapes: &[&[Dim]]) -> Result<Vec<Dim>, Problem> {
    let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
    let mut sizes: Vec<Dim> = vec![1i64.into(); rank];
    for shape in shapes {
        for (size, other) in sizes[rank - shape.len()..].iter_mut().zip(*shape) {
            if other.is(1) || other == size {
                continue;
            }
            *size = match (size.known(), other.known()) {
                (Some(1), _) => other.clone(),
                (Some(a), Some(b)) if a != b => problem!("shapes {shapes:?} cannot be broadcast"),
                // Either the other is one, or equal to this one.
                (Some(_), None) => size.clone(),
                (None, Some(_)) => other.clone(),
                // If the limit was reached, these cannot be broadcast.
                _ if other.is_limited(size) => size.clone(),
                _ if size.is_limited(other) => other.clone(),
                _ => Dim::unknown(),
            };
        }
    }
    Ok(sizes)
}

/// How to walk through an array of shape `from` as if it had shape `to`: a stride for each dimension of `to`.
pub(super) fn strides(from: &[usize], to: &[usize]) -> Vec<usize> {
    let mut strides = vec![0; to.len()];
    let mut stride = 1;
    for (index, &size) in from.iter().enumerate().rev() {
        if size != 1 {
            strides[to.len() - from.len() + index] = stride;
        }
        stride *= size;
    }
    strides
}

/// `operation` of the elements of two arrays.
pub(super) fn zip<T: Element, U: Element>(
    a: Array,
    b: &Array,
    operation: impl Fn(&T, &T) -> U,
) -> Result<Array, Problem> {
    let shape = shape(&[a.shape(), b.shape()])?;
    let len = checked_len(&shape, size_of::<U>())?;
    let (x, y) = (a.values::<T>()?, b.values::<T>()?);
    let mut values = Vec::with_capacity(len);
    if len == 0 {
        return Array::new(shape, values);
    }
    // The innermost run: as many last dimensions as both arrays have in full, or not at all.
    let inner = |from: &[usize]| {
        let same = from.iter().rev().zip(shape.iter().rev()).take_while(|(a, b)| a == b).count();
        let ones = from.iter().rev().take_while(|size| **size == 1).count();
        if ones >= from.len() { shape.len() } else { same.max(ones) }
    };
    let split = shape.len() - inner(a.shape()).min(inner(b.shape()));
    let run: usize = shape[split..].iter().product();
    let is_constant =
        |from: &[usize]| from[from.len().saturating_sub(shape.len() - split)..].iter().all(|&s| s == 1);
    let (x_constant, y_constant) = (is_constant(a.shape()), is_constant(b.shape()));
    let (x_strides, y_strides) = (strides(a.shape(), &shape), strides(b.shape(), &shape));
    for_each_index(&shape[..split], |index| {
        let offset =
            |strides: &[usize]| index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>();
        let (x_at, y_at) = (offset(&x_strides), offset(&y_strides));
        match (x_constant, y_constant) {
            (true, true) => values.extend((0..run).map(|_| operation(&x[x_at], &y[y_at]))),
            (true, false) => values.extend(y[y_at..y_at + run].iter().map(|y| operation(&x[x_at], y))),
            (false, true) => values.extend(x[x_at..x_at + run].iter().map(|x| operation(x, &y[y_at]))),
            (false, false) => {
                let pairs = x[x_at..x_at + run].iter().zip(&y[y_at..y_at + run]);
                values.extend(pairs.map(|(x, y)| operation(x, y)));
            }
        }
    });
    Array::new(shape, values)
}

/// Calls `visit` with every index of a shape, the last dimension the fastest.
pub(super) fn for_each_index(shape: &[usize], mut visit: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut index = vec![0; shape.len()];
    loop {
        visit(&index);
        let Some(dimension) = (0..shape.len()).rev().find(|&d| index[d] + 1 < shape[d]) else {
            return;
        };
        index[dimension] += 1;
        index[dimension + 1..].fill(0);
    }
}

/// An array repeated to a shape that it can be broadcast to.
pub(super) fn expand<T: Element>(array: &Array, to: &[usize]) -> Result<Array, Problem> {
    if shape(&[array.shape(), to])? != to {
        problem!("shape {:?} cannot be broadcast to {to:?}", array.shape());
    }
    let len = checked_len(to, size_of::<T>())?;
    let (from, strides) = (array.values::<T>()?, strides(array.shape(), to));
    let mut values = Vec::with_capacity(len);
    for_each_index(to, |index| {
        let offset: usize = index.iter().zip(&strides).map(|(i, stride)| i * stride).sum();
        values.push(from[offset].clone());
    });
    Array::new(to, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subtract(a: (&[usize], Vec<f32>), b: (&[usize], Vec<f32>)) -> Array {
        let (a, b) = (Array::new(a.0, a.1).unwrap(), Array::new(b.0, b.1).unwrap());
        zip::<f32, f32>(a, &b, |a, b| a - b).unwrap()
    }

    #[test]
    fn arrays_are_broadcast_from_the_right() {
        let ten = (1..=6).map(|i| 10.0 * i as f32).collect::<Vec<_>>();
        let check = |a, b, shape: &[usize], values: &[f32]| {
            assert_eq!(subtract(a, b), Array::new(shape, values.to_vec()).unwrap());
        };
        check((&[2, 3], ten.clone()), (&[], vec![1.0]), &[2, 3], &[9., 19., 29., 39., 49., 59.]);
        check((&[2, 3], ten.clone()), (&[3], vec![1., 2., 3.]), &[2, 3], &[9., 18., 27., 39., 48., 57.]);
        check((&[2, 3], ten.clone()), (&[2, 1], vec![1., 2.]), &[2, 3], &[9., 19., 29., 38., 48., 58.]);
        check((&[2, 1], vec![1., 2.]), (&[1, 2], vec![5., 7.]), &[2, 2], &[-4., -6., -3., -5.]);
        check((&[1], vec![1.]), (&[2, 1, 1], vec![5., 7.]), &[2, 1, 1], &[-4., -6.]);
        check((&[0, 3], vec![]), (&[3], vec![1., 2., 3.]), &[0, 3], &[]);
        check(
            (&[2, 1, 2], vec![1., 2., 3., 4.]),
            (&[2, 1], vec![0., 1.]),
            &[2, 2, 2],
            &[1., 2., 0., 1., 3., 4., 2., 3.],
        );
        assert!(shape(&[&[2], &[3]]).is_err());
    }
}
