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
    a: &Array,
    b: &Array,
    operation: impl Fn(&T, &T) -> U,
) -> Result<Array, Problem> {
    let runs = Runs::new([a.shape(), b.shape()])?;
    let (x, y) = (a.values::<T>()?, b.values::<T>()?);
    let mut values = Vec::with_capacity(checked_len(&runs.shape, size_of::<U>())?);
    runs.for_each(|[x_at, y_at]| match runs.stays {
        [true, true] => values.extend((0..runs.len).map(|_| operation(&x[x_at], &y[y_at]))),
        [true, false] => values.extend(y[y_at..y_at + runs.len].iter().map(|y| operation(&x[x_at], y))),
        [false, true] => values.extend(x[x_at..x_at + runs.len].iter().map(|x| operation(x, &y[y_at]))),
        [false, false] => {
            let pairs = x[x_at..x_at + runs.len].iter().zip(&y[y_at..y_at + runs.len]);
            values.extend(pairs.map(|(x, y)| operation(x, y)));
        }
    });
    Array::new(runs.shape, values)
}

/// [`zip`] into the memory of one of the arrays, if nobody else holds it and it has the result's shape.
pub(super) fn zip_into<T: Element>(
    a: Array,
    b: Array,
    operation: impl Fn(&T, &T) -> T,
) -> Result<Array, Problem> {
    let runs = Runs::new([a.shape(), b.shape()])?;
    if !a.is_shared() && a.shape() == runs.shape {
        let (mut x, y) = (a.into_values::<T>()?, b.values::<T>()?);
        overwrite(&runs, 0, &mut x, y, &operation);
        Array::new(runs.shape, x)
    } else if !b.is_shared() && b.shape() == runs.shape {
        let (x, mut y) = (a.values::<T>()?, b.into_values::<T>()?);
        overwrite(&runs, 1, &mut y, x, |y, x| operation(x, y));
        Array::new(runs.shape, y)
    } else {
        zip(&a, &b, operation)
    }
}

/// Overwrites the array `index`, which has the result's shape.
fn overwrite<T: Element>(
    runs: &Runs<2>,
    index: usize,
    to: &mut [T],
    other: &[T],
    operation: impl Fn(&T, &T) -> T,
) {
    runs.for_each(|at| {
        let to = &mut to[at[index]..at[index] + runs.len];
        let other = &other[at[1 - index]..];
        if runs.stays[1 - index] {
            to.iter_mut().for_each(|to| *to = operation(to, &other[0]));
        } else {
            to.iter_mut().zip(other).for_each(|(to, other)| *to = operation(to, other));
        }
    });
}

/// A walk through arrays as if all had the shape that they are broadcast to: in runs of elements that are
/// consecutive in the result, during which each array either goes along or stays at one element.
pub(super) struct Runs<const N: usize> {
    /// The result's shape.
    pub(super) shape: Vec<usize>,
    /// Elements of a run.
    pub(super) len: usize,
    /// Which arrays stay at one element.
    pub(super) stays: [bool; N],
    /// First dimension inside a run.
    split: usize,
    strides: [Vec<usize>; N],
}

impl<const N: usize> Runs<N> {
    pub(super) fn new(shapes: [&[usize]; N]) -> Result<Self, Problem> {
        let shape = shape(&shapes)?;
        // As many last dimensions as an array has in full, or not at all.
        let inner = |from: &[usize]| {
            let same = from.iter().rev().zip(shape.iter().rev()).take_while(|(a, b)| a == b).count();
            let ones = from.iter().rev().take_while(|size| **size == 1).count();
            if ones >= from.len() { shape.len() } else { same.max(ones) }
        };
        let inner = shapes.iter().map(|from| inner(from)).min().unwrap_or(0);
        let split = shape.len() - inner;
        let len = if shape.contains(&0) { 0 } else { shape[split..].iter().product() };
        let stays = shapes.map(|from| from[from.len().saturating_sub(inner)..].iter().all(|&size| size == 1));
        let strides = shapes.map(|from| strides(from, &shape));
        Ok(Self { len, stays, split, strides, shape })
    }

    /// Calls `visit` with where each run begins in each array.
    pub(super) fn for_each(&self, mut visit: impl FnMut([usize; N])) {
        if self.len == 0 {
            return;
        }
        for_each_index(&self.shape[..self.split], |index| {
            let offset =
                |strides: &Vec<usize>| index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>();
            visit(std::array::from_fn(|array| offset(&self.strides[array])));
        });
    }
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
    let runs = Runs::new([array.shape(), to])?;
    if runs.shape != to {
        problem!("shape {:?} cannot be broadcast to {to:?}", array.shape());
    }
    let from = array.values::<T>()?;
    let mut values = Vec::with_capacity(checked_len(to, size_of::<T>())?);
    runs.for_each(|[at, _]| {
        if runs.stays[0] {
            values.resize(values.len() + runs.len, from[at].clone());
        } else {
            values.extend_from_slice(&from[at..at + runs.len]);
        }
    });
    Array::new(to, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subtract(a: (&[usize], Vec<f32>), b: (&[usize], Vec<f32>)) -> Array {
        let (a, b) = (Array::new(a.0, a.1).unwrap(), Array::new(b.0, b.1).unwrap());
        let fresh = zip::<f32, f32>(&a, &b, |a, b| a - b).unwrap();
        assert_eq!(zip_into::<f32>(a.clone(), b, |a, b| a - b).unwrap(), fresh);
        fresh
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

    #[test]
    fn arrays_are_repeated() {
        let column = Array::new(vec![2, 1], vec![1i64, 2]).unwrap();
        let expected = Array::new(vec![2, 2, 2], vec![1i64, 1, 2, 2, 1, 1, 2, 2]).unwrap();
        assert_eq!(expand::<i64>(&column, &[2, 2, 2]).unwrap(), expected);
        assert!(expand::<i64>(&column, &[1]).is_err());
        assert!(expand::<i64>(&column, &[1 << 40, 2, 1]).is_err());
        assert!(expand::<i64>(&column, &[0, 2, 1]).unwrap().is_empty());
    }
}
