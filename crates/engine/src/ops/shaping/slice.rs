//! `Slice`.

use super::shaped;
use crate::graph::{Array, Dim, Info, Operands, Operator, Problem, problem};
use crate::ops::strided::View;
use crate::ops::{NodeReader, axes};

/// `Slice`: a range of each of some dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Starts, ends and axes, where they are attributes; otherwise they are inputs.
    pub(crate) attributes: Option<Ranges<i64>>,
}

/// Ranges by axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranges<T> {
    pub(crate) starts: Vec<T>,
    pub(crate) ends: Vec<T>,
    /// The first ones if there are none.
    pub(crate) axes: Option<Vec<i64>>,
    /// 1 if there are none.
    pub(crate) steps: Option<Vec<i64>>,
}

impl<T> Ranges<T> {
    /// Axis, start, end and step of each range.
    fn iter(&self, rank: usize) -> Result<impl Iterator<Item = (usize, &T, &T, i64)>, Problem> {
        let len = self.starts.len();
        let given = match &self.axes {
            Some(given) => axes::axes(given, rank)?,
            None => (0..len).collect(),
        };
        let steps = self.steps.clone().unwrap_or_else(|| vec![1; len]);
        if self.ends.len() != len || given.len() != len || steps.len() != len || len > rank {
            let (ends, axes, steps) = (self.ends.len(), given.len(), steps.len());
            problem!("{len} starts, {ends} ends, {axes} axes and {steps} steps for rank {rank}");
        }
        if steps.contains(&0) {
            problem!("a step is 0");
        }
        let ranges = self.starts.iter().zip(&self.ends).zip(given.into_iter().zip(steps));
        Ok(ranges.map(|((start, end), (axis, step))| (axis, start, end, step)))
    }
}

/// The first index and the number of indices of a range in a dimension.
fn range(size: usize, start: i64, end: i64, step: i64) -> (usize, usize) {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let from_start = |index: i64| if index < 0 { index.saturating_add(size) } else { index };
    let (start, end) = (from_start(start), from_start(end));
    let (start, distance) = if step > 0 {
        let start = start.clamp(0, size);
        (start, end.clamp(0, size) - start)
    } else {
        // One before the first is where a range backwards ends.
        let start = start.clamp(-1, size - 1);
        (start, start - end.clamp(-1, size - 1))
    };
    let count = if distance <= 0 { 0 } else { distance.unsigned_abs().div_ceil(step.unsigned_abs()) };
    (usize::try_from(start).unwrap_or(0), count as usize)
}

/// What is known about the number of indices of a range.
fn range_dim(size: &Dim, start: &Dim, end: &Dim, step: i64) -> Dim {
    // Exporters write either for "to the end".
    const END: i64 = i32::MAX as i64;
    const BEFORE: i64 = -END;
    let (known_start, known_end) = (start.known(), end.known());
    match (size.known_size(), known_start, known_end) {
        (Some(size), Some(start), Some(end)) => range(size, start, end, step).1.into(),
        (_, Some(0), Some(END..)) if step == 1 => size.clone(),
        (_, None | Some(0), Some(0)) if step > 0 => 0i64.into(),
        // Backwards from the end past the start.
        (None, Some(-1 | END..), Some(..=BEFORE)) if step == -1 => size.clone(),
        (Some(size @ 2..), Some(0), None) if step == 1 && end.is_size() => end.limited(size as i64),
        (None, Some(0), None) if step == 1 && end == size => size.clone(),
        (None, Some(some @ 1..END), Some(END..)) if step == 1 => size.without(some),
        (None, Some(some @ 1..END), None) if step == 1 && end == size => size.without(some),
        (None, Some(0), Some(left @ BEFORE..0)) if step == 1 => size.without(-left),
        _ => Dim::unknown(),
    }
}

impl Slice {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        if node.opset >= 10 {
            if node.num_inputs < 3 {
                problem!("{} inputs, expected 3 to 5", node.num_inputs);
            }
            return Ok(Box::new(Self { attributes: None }));
        }
        if node.num_inputs > 1 {
            problem!("{} inputs, expected 1 before version 10", node.num_inputs);
        }
        let (Some(starts), Some(ends)) = (node.attributes.ints("starts")?, node.attributes.ints("ends")?)
        else {
            problem!("attribute `starts` or `ends` is missing");
        };
        let axes = node.attributes.ints("axes")?;
        Ok(Box::new(Self { attributes: Some(Ranges { starts, ends, axes, steps: None }) }))
    }

    fn ranges(&self, inputs: &Operands<Array>) -> Result<Ranges<i64>, Problem> {
        if let Some(ranges) = &self.attributes {
            return Ok(ranges.clone());
        }
        let optional = |index| inputs.optional(index).map(Array::to_ints).transpose();
        let (starts, ends) = (inputs.get(1)?.to_ints()?, inputs.get(2)?.to_ints()?);
        Ok(Ranges { starts, ends, axes: optional(3)?, steps: optional(4)? })
    }

    /// What is known about [`ranges`](Self::ranges), if axes and steps are.
    fn range_dims(&self, inputs: &Operands<&Info>) -> Result<Option<Ranges<Dim>>, Problem> {
        let dims = |ints: &[i64]| ints.iter().map(|&int| int.into()).collect::<Vec<Dim>>();
        if let Some(Ranges { starts, ends, axes, steps }) = &self.attributes {
            let (axes, steps) = (axes.clone(), steps.clone());
            return Ok(Some(Ranges { starts: dims(starts), ends: dims(ends), axes, steps }));
        }
        let known = |index| inputs.optional(index).map(|info| info.known_ints());
        let (axes, steps) = (known(3), known(4));
        if axes == Some(None) || steps == Some(None) {
            return Ok(None);
        }
        let (axes, steps) = (axes.flatten(), steps.flatten());
        let (starts, ends) = (inputs.get(1)?, inputs.get(2)?);
        // As many as the others are, if they are not known.
        let vectors = [starts, ends];
        let lens = vectors.into_iter().filter_map(|info| match (&info.ints, info.shape.as_deref()) {
            (Some(ints), _) => Some(ints.len()),
            (None, Some([len])) => len.known_size(),
            _ => None,
        });
        let Some(len) = lens.chain(axes.as_ref().map(Vec::len)).next().filter(|len| *len <= 64) else {
            return Ok(None);
        };
        let [starts, ends] = vectors.map(|info| match &info.ints {
            Some(ints) => ints.clone(),
            None => (0..len).map(|_| Dim::unknown_int()).collect(),
        });
        Ok(Some(Ranges { starts, ends, axes, steps }))
    }
}

impl Operator for Slice {
    fn name(&self) -> &str {
        "Slice"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        let Some(shape) = &input.shape else {
            return Ok(vec![Info::unknown(input.dtype)]);
        };
        let Some(ranges) = self.range_dims(inputs)? else {
            return Ok(vec![Info::with_rank(input.dtype, shape.len())]);
        };
        let (mut dims, mut ints) = (shape.clone(), input.ints.clone());
        for (axis, start, end, step) in ranges.iter(shape.len())? {
            ints = ints.and_then(|ints| {
                let (first, count) = range(ints.len(), start.known()?, end.known()?, step);
                let index = |i: usize| first as i64 + i as i64 * step;
                (0..count).map(|i| ints.get(index(i) as usize).cloned()).collect()
            });
            dims[axis] = range_dim(&shape[axis], start, end, step);
        }
        Ok(vec![Info { ints, ..shaped(input.dtype, Some(dims)) }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let ranges = self.ranges(&inputs)?;
        let array = inputs.take(0)?;
        let mut view = View::whole(array.shape());
        for (axis, &start, &end, step) in ranges.iter(array.rank())? {
            let (first, count) = range(view.shape[axis], start, end, step);
            view.shape[axis] = count;
            // What has no elements has no place for them.
            if count > 0 && !array.is_empty() {
                view.offset += first * view.strides[axis].unsigned_abs();
            }
            // A step of one element is as long as any.
            view.strides[axis] = if count > 1 { view.strides[axis].saturating_mul(step as isize) } else { 0 };
        }
        Ok(vec![view.copy(array)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DataType;

    #[test]
    fn ranges_are_clamped() {
        assert_eq!(range(5, 1, 3, 1), (1, 2));
        assert_eq!(range(5, 0, i64::MAX, 2), (0, 3));
        assert_eq!(range(5, -1, i64::MIN, -1), (4, 5));
        assert_eq!(range(5, 10, -10, -2), (4, 3));
        assert_eq!(range(5, 3, 1, 1), (3, 0));
        assert_eq!(range(5, i64::MIN, i64::MAX, i64::MAX), (0, 1));
        assert_eq!(range(5, i64::MAX, i64::MIN, i64::MIN), (4, 1));
        assert_eq!(range(0, -1, i64::MIN, -1), (0, 0));
    }

    #[test]
    fn sizes_of_ranges_are_known() {
        let seq = Dim::symbol("seq");
        let dim = |size: &Dim, start: i64, end: Dim, step| range_dim(size, &start.into(), &end, step);
        assert_eq!(dim(&seq, 0, i64::MAX.into(), 1), seq);
        assert_eq!(dim(&seq, 0, seq.clone(), 1), seq);
        assert_eq!(dim(&seq, -1, i64::MIN.into(), -1), seq);
        assert_eq!(dim(&512i64.into(), 0, seq.clone(), 1), seq.limited(512));
        assert_eq!(dim(&512i64.into(), 1, 3i64.into(), 1), 2i64.into());
        for left_out in
            [dim(&seq, 3, i64::MAX.into(), 1), dim(&seq, 3, seq.clone(), 1), dim(&seq, 0, (-3i64).into(), 1)]
        {
            assert_eq!(left_out, seq.without(3));
        }
        for unknown in [
            dim(&seq, 1, (-1i64).into(), 1),
            dim(&seq, 1, i64::MAX.into(), 2),
            dim(&seq, -1, i64::MAX.into(), 1),
        ] {
            assert!(!unknown.is_named());
        }
        assert_ne!(dim(&512i64.into(), 0, seq.negated(), 1), seq.negated());
    }

    #[test]
    fn sizes_are_sliced_as_values() {
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        let shape = Info::vector(DataType::I64, vec![batch, seq.clone(), 768i64.into()]);
        let ranges = Ranges { starts: vec![1], ends: vec![2], axes: Some(vec![0]), steps: None };
        let slice = Slice { attributes: Some(ranges) };
        let output = slice.infer(&Operands::new(vec![Some(&shape)])).unwrap().remove(0);
        assert_eq!(output, Info::vector(DataType::I64, vec![seq]));
    }

    #[test]
    fn ranges_that_do_not_fit_are_problems() {
        let array = Array::full([2, 3], 0.0f32).unwrap();
        let run = |starts: &[i64], ends: &[i64], axes: Option<&[i64]>, steps: Option<&[i64]>| {
            let [starts, ends] = [starts, ends].map(<[i64]>::to_vec);
            let [axes, steps] = [axes, steps].map(|ints| ints.map(<[i64]>::to_vec));
            let slice = Slice { attributes: Some(Ranges { starts, ends, axes, steps }) };
            slice.run(Operands::new(vec![Some(array.clone())])).map(|mut arrays| arrays.remove(0))
        };
        assert_eq!(run(&[0], &[1], Some(&[-1]), None).unwrap().shape(), [2, 1]);
        assert_eq!(run(&[2, 9], &[2, 9], None, Some(&[i64::MIN, i64::MAX])).unwrap().shape(), [0, 0]);
        assert!(run(&[0], &[1], Some(&[2]), None).is_err());
        assert!(run(&[0, 0], &[1, 1], Some(&[1, -1]), None).is_err());
        assert!(run(&[0], &[1, 1], None, None).is_err());
        assert!(run(&[0, 0, 0], &[1, 1, 1], None, None).is_err());
        assert!(run(&[0], &[1], None, Some(&[0])).is_err());
    }
}
