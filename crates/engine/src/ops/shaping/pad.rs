//! `Pad`.

use super::shaped;
use crate::graph::{
    Array, Dim, Element, Info, Operands, Operator, Problem, checked_len, element_count, for_computed_type,
    problem,
};
use crate::ops::strided::View;
use crate::ops::{NodeReader, axes};

/// `Pad`: elements before and after an array along its axes, or, by negative numbers, fewer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pad {
    pub(crate) mode: PadMode,
    /// Before version 11, pads and value are attributes.
    pub(crate) attributes: Option<(Vec<i64>, f32)>,
}

/// What the elements beyond an end are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PadMode {
    /// One value.
    Constant,
    /// Those before the end, backwards.
    Reflect,
    /// The last.
    Edge,
    /// Those from the other end on.
    Wrap,
}

impl Pad {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let modes = [("constant", PadMode::Constant), ("reflect", PadMode::Reflect), ("edge", PadMode::Edge)];
        let wrap = [("wrap", PadMode::Wrap)];
        let modes = if node.opset >= 19 { [&modes[..], &wrap].concat() } else { modes.to_vec() };
        let mode = node.attributes.choice("mode", &modes)?.unwrap_or(PadMode::Constant);
        let most = if node.opset < 11 { 1..=1 } else { 2..=if node.opset < 18 { 3 } else { 4 } };
        if !most.contains(&node.num_inputs) {
            problem!("{} inputs, expected {} to {}", node.num_inputs, most.start(), most.end());
        }
        if node.opset >= 11 {
            return Ok(Box::new(Self { mode, attributes: None }));
        }
        let Some(pads) = node.attributes.ints("pads")? else {
            problem!("attribute `pads` is missing");
        };
        let value = node.attributes.float("value")?.unwrap_or(0.0);
        Ok(Box::new(Self { mode, attributes: Some((pads, value)) }))
    }

    fn source(&self, index: i64, size: i64) -> Option<usize> {
        let place = match self.mode {
            PadMode::Constant => return usize::try_from(index).ok().filter(|_| index < size),
            PadMode::Edge => index.clamp(0, size - 1),
            PadMode::Wrap => index.rem_euclid(size),
            PadMode::Reflect if size == 1 => 0,
            PadMode::Reflect => {
                let place = index.rem_euclid(2 * (size - 1));
                place.min(2 * (size - 1) - place)
            }
        };
        Some(place as usize)
    }

    fn run_axis<T: Element>(
        &self,
        array: &Array,
        axis: usize,
        (before, after): (i64, i64),
        value: &T,
    ) -> Result<Array, Problem> {
        let size = array.shape()[axis] as i64;
        if size == 0 && self.mode != PadMode::Constant && (before > 0 || after > 0) {
            problem!("axis {axis} has no elements to pad with");
        }
        let mut shape = array.shape().to_vec();
        shape[axis] = padded(size, before, after)?;
        let len = checked_len(&shape, size_of::<T>())?;
        let from = array.values::<T>()?;
        let mut values = Vec::with_capacity(len);
        if len > 0 {
            let run = element_count(&shape[axis + 1..])?;
            for outer in 0..element_count(&shape[..axis])? {
                let from = &from[outer * run * size as usize..];
                for index in -before..size + after {
                    match self.source(index, size) {
                        Some(place) => values.extend_from_slice(&from[place * run..(place + 1) * run]),
                        None => values.resize(values.len() + run, value.clone()),
                    }
                }
            }
        }
        Array::new(shape, values)
    }

    /// All axes, those that lose elements first: no array on the way is larger than the result.
    fn run_axes<T: Element>(
        &self,
        mut array: Array,
        pads: &[(i64, i64)],
        value: &T,
    ) -> Result<Array, Problem> {
        let mut view = View::whole(array.shape());
        for (axis, &(before, after)) in pads.iter().enumerate() {
            let (before, after) = (before.min(0), after.min(0));
            let size = view.shape[axis];
            view.shape[axis] = padded(size as i64, before, after)?;
            if !array.is_empty() {
                view.offset += before.unsigned_abs() as usize * view.strides[axis].unsigned_abs();
            }
        }
        array = view.copy(array)?;
        for (axis, &(before, after)) in pads.iter().enumerate() {
            if before > 0 || after > 0 {
                array = self.run_axis(&array, axis, (before.max(0), after.max(0)), value)?;
            }
        }
        Ok(array)
    }
}

/// The value to pad with.
fn padding<T: Element>(value: Option<&Array>) -> Result<T, Problem> {
    match value.map(Array::values::<T>).transpose()? {
        None => Ok(T::default()),
        Some([value]) => Ok(value.clone()),
        Some(values) => problem!("{} values to pad with, expected one", values.len()),
    }
}

fn padded(size: i64, before: i64, after: i64) -> Result<usize, Problem> {
    let padded = size.checked_add(before).and_then(|size| size.checked_add(after));
    match padded.map(usize::try_from) {
        Some(Ok(padded)) => Ok(padded),
        _ => problem!("size {size} cannot be padded by {before} and {after}"),
    }
}

/// Pads by axis from those of some axes: all that come before, then all that come after.
fn pads_by_axis(pads: &[i64], given: Option<&[i64]>, rank: usize) -> Result<Vec<(i64, i64)>, Problem> {
    let padded = match given {
        Some(given) => axes::axes(given, rank)?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * padded.len() {
        problem!("{} pads for {} axes", pads.len(), padded.len());
    }
    let mut by_axis = vec![(0, 0); rank];
    let (before, after) = pads.split_at(padded.len());
    for ((axis, &before), &after) in padded.into_iter().zip(before).zip(after) {
        by_axis[axis] = (before, after);
    }
    Ok(by_axis)
}

impl Operator for Pad {
    fn name(&self) -> &str {
        "Pad"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        let Some(shape) = &input.shape else {
            return Ok(vec![Info::unknown(input.dtype)]);
        };
        let pads = match &self.attributes {
            Some((pads, _)) => Some(pads.clone()),
            None => inputs.get(1)?.known_ints(),
        };
        let given = inputs.optional(3).map(|info| info.known_ints());
        let (Some(pads), false) = (pads, given == Some(None)) else {
            return Ok(vec![Info::with_rank(input.dtype, shape.len())]);
        };
        let pads = pads_by_axis(&pads, given.flatten().as_deref(), shape.len())?;
        let dim = |(size, &(before, after)): (&Dim, &(i64, i64))| match size.known() {
            _ if before == 0 && after == 0 => Ok(size.clone()),
            Some(size) => padded(size, before, after).map(Dim::from),
            None => Ok(Dim::unknown()),
        };
        let dims = shape.iter().zip(&pads).map(dim).collect::<Result<_, _>>()?;
        Ok(vec![shaped(input.dtype, Some(dims))])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let array = inputs.take(0)?;
        let (pads, value) = match &self.attributes {
            Some((pads, value)) => {
                (pads.clone(), Some(Array::from_floats(array.dtype(), [1], vec![*value])?))
            }
            None => (inputs.get(1)?.to_ints()?, inputs.take_optional(2)),
        };
        let given = inputs.optional(3).map(Array::to_ints).transpose()?;
        let pads = pads_by_axis(&pads, given.as_deref(), array.rank())?;
        Ok(vec![for_computed_type!(array.dtype(), T => {
            self.run_axes::<T>(array, &pads, &padding(value.as_ref())?)?
        })])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DataType;

    fn run(mode: PadMode, values: &[i64], pads: &[i64]) -> Result<Vec<i64>, Problem> {
        let inputs = [values, pads].map(|values| Some(Array::vector(values.to_vec())));
        Pad { mode, attributes: None }.run(Operands::new(inputs.into()))?.remove(0).to_ints()
    }

    #[test]
    fn ends_are_continued() {
        let values = [1, 2, 3];
        assert_eq!(run(PadMode::Constant, &values, &[1, 2]).unwrap(), [0, 1, 2, 3, 0, 0]);
        assert_eq!(run(PadMode::Edge, &values, &[1, 2]).unwrap(), [1, 1, 2, 3, 3, 3]);
        assert_eq!(run(PadMode::Wrap, &values, &[4, 1]).unwrap(), [3, 1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(run(PadMode::Reflect, &values, &[5, 1]).unwrap(), [2, 1, 2, 3, 2, 1, 2, 3, 2]);
        assert_eq!(run(PadMode::Reflect, &[7], &[1, 1]).unwrap(), [7, 7, 7]);
        assert_eq!(run(PadMode::Constant, &values, &[-1, 1]).unwrap(), [2, 3, 0]);
        assert_eq!(run(PadMode::Constant, &[], &[1, 0]).unwrap(), [0]);
    }

    #[test]
    fn hostile_pads_are_problems() {
        for pads in
            [&[1][..], &[-2, -2], &[i64::MIN, 0], &[i64::MIN, i64::MIN], &[i64::MAX, i64::MAX], &[1 << 40, 0]]
        {
            for mode in [PadMode::Constant, PadMode::Edge, PadMode::Wrap, PadMode::Reflect] {
                assert!(run(mode, &[1, 2, 3], pads).is_err(), "{pads:?}");
            }
        }
        assert!(run(PadMode::Edge, &[], &[1, 0]).is_err());
    }

    #[test]
    fn dimensions_that_are_not_padded_keep_their_symbols() {
        let batch = Dim::symbol("batch");
        let info = Info::new(DataType::F32, vec![batch.clone(), 3i64.into()]);
        let pad = Pad { mode: PadMode::Constant, attributes: Some((vec![0, 1, 0, 1], 0.0)) };
        let output = pad.infer(&Operands::new(vec![Some(&info)])).unwrap().remove(0);
        assert_eq!(output.shape.unwrap(), [batch, 5i64.into()]);
    }
}
