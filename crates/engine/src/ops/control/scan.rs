//! `Scan`.

use super::{Body, Stack, either, info, stacked};
use crate::graph::{Array, Dim, Info, Operands, Operator, Problem, problem};
use crate::ops::strided::View;
use crate::ops::{NodeReader, axes};

/// `Scan`: a graph on values that it gives to itself and on one part after another of further inputs.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    pub(crate) body: Body,
    /// Values that the graph gives to itself.
    pub(crate) carried: usize,
    /// How each further input is taken apart.
    pub(crate) inputs: Vec<Sequence>,
    /// How each further output is put together.
    pub(crate) outputs: Vec<Sequence>,
    /// Before version 9, all inputs and outputs have a batch's dimension before their own.
    pub(crate) has_batch: bool,
}

/// An axis, and the direction along it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) axis: i64,
    pub(crate) is_backward: bool,
}

fn sequences(
    axes: Option<Vec<i64>>,
    directions: Option<Vec<i64>>,
    len: usize,
) -> Result<Vec<Sequence>, Problem> {
    let (axes, directions) =
        (axes.unwrap_or_else(|| vec![0; len]), directions.unwrap_or_else(|| vec![0; len]));
    if axes.len() != len || directions.len() != len {
        problem!("{} axes and {} directions for {len} sequences", axes.len(), directions.len());
    }
    let sequence = |(axis, direction)| match direction {
        0 | 1 => Ok(Sequence { axis, is_backward: direction == 1 }),
        _ => problem!("{direction} is no direction"),
    };
    axes.into_iter().zip(directions).map(sequence).collect()
}

impl Scan {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let given = node.attributes;
        let (Some(graph), Some(count)) = (given.graph("body")?, given.int("num_scan_inputs")?) else {
            problem!("attribute `body` or `num_scan_inputs` is missing");
        };
        let has_batch = node.opset < 9;
        let arguments = node.num_inputs - usize::from(has_batch);
        let scanned = usize::try_from(count).ok().filter(|count| (1..=arguments).contains(count));
        let Some(scanned) = scanned else {
            problem!("{count} of {arguments} inputs are sequences");
        };
        let carried = arguments - scanned;
        let body = Body::new(graph, arguments)?;
        let Some(stacks) = body.outputs().checked_sub(carried) else {
            problem!("the graph inside has {} outputs, expected {carried} or more", body.outputs());
        };
        let (inputs, outputs) = if has_batch {
            (sequences(None, given.ints("directions")?, scanned)?, sequences(None, None, stacks)?)
        } else {
            let directions = given.ints("scan_input_directions")?;
            let inputs = sequences(given.ints("scan_input_axes")?, directions, scanned)?;
            let directions = given.ints("scan_output_directions")?;
            (inputs, sequences(given.ints("scan_output_axes")?, directions, stacks)?)
        };
        Ok(Box::new(Self { body, carried, inputs, outputs, has_batch }))
    }

    fn scan(
        &self,
        mut carried: Vec<Array>,
        sequences: &[Array],
        captured: &[Option<&Array>],
    ) -> Result<Vec<Array>, Problem> {
        let parts = self.inputs.iter().zip(sequences).map(|(sequence, array)| Parts::new(*sequence, array));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let count = parts[0].count;
        if let Some(other) = parts.iter().find(|parts| parts.count != count) {
            problem!("sequences have {count} and {} parts", other.count);
        }
        let mut stacks: Vec<Stack> = Vec::new();
        stacks.resize_with(self.outputs.len(), Stack::default);
        let initial: Vec<Info> = carried.iter().map(info).collect();
        for index in 0..count {
            for parts in &parts {
                carried.push(parts.get(index)?);
            }
            let mut outputs = self.body.run(carried, captured)?.into_iter();
            carried = outputs.by_ref().take(self.carried).collect();
            for (stack, output) in stacks.iter_mut().zip(outputs) {
                stack.push(output)?;
            }
        }
        let elements = if count == 0 && !stacks.is_empty() {
            let elements = parts.iter().map(|parts| Info::new(parts.array.dtype(), parts.dims()));
            let arguments: Vec<_> = initial.into_iter().chain(elements).map(Some).collect();
            let captured: Vec<Option<Info>> = captured.iter().map(|array| array.map(info)).collect();
            self.body.infer(&arguments, &captured.iter().map(Option::as_ref).collect::<Vec<_>>())?
        } else {
            Vec::new()
        };
        for (index, (mut stack, output)) in stacks.into_iter().zip(&self.outputs).enumerate() {
            if output.is_backward {
                stack.arrays.reverse();
            }
            let stacked = stack.finish(elements.get(self.carried + index).and_then(Option::as_ref))?;
            let axis = axes::axis(output.axis, stacked.rank())?;
            let order: Vec<usize> = (1..=axis).chain([0]).chain(axis + 1..stacked.rank()).collect();
            carried.push(View::whole(stacked.shape()).permuted(&order).copy(stacked)?);
        }
        Ok(carried)
    }

    /// Each of a batch on its own.
    fn scan_batch(&self, inputs: &[Array], captured: &[Option<&Array>]) -> Result<Vec<Array>, Problem> {
        let sequence = Sequence { axis: 0, is_backward: false };
        let parts = inputs.iter().map(|array| Parts::new(sequence, array)).collect::<Result<Vec<_>, _>>()?;
        let batch = parts[0].count;
        if batch == 0 || parts.iter().any(|parts| parts.count != batch) {
            problem!("the inputs are not of one batch");
        }
        let mut stacks: Vec<Stack> = Vec::new();
        stacks.resize_with(self.body.outputs(), Stack::default);
        for index in 0..batch {
            let mut inputs = parts.iter().map(|parts| parts.get(index)).collect::<Result<Vec<_>, _>>()?;
            let sequences = inputs.split_off(self.carried);
            for (stack, output) in stacks.iter_mut().zip(self.scan(inputs, &sequences, captured)?) {
                stack.push(output)?;
            }
        }
        stacks.into_iter().map(|stack| stack.finish(None)).collect()
    }
}

/// The parts of an array along an axis.
struct Parts<'a> {
    array: &'a Array,
    axis: usize,
    count: usize,
    is_backward: bool,
}

impl<'a> Parts<'a> {
    fn new(sequence: Sequence, array: &'a Array) -> Result<Self, Problem> {
        let axis = axes::axis(sequence.axis, array.rank())?;
        Ok(Self { array, axis, count: array.shape()[axis], is_backward: sequence.is_backward })
    }

    fn get(&self, index: usize) -> Result<Array, Problem> {
        let index = if self.is_backward { self.count - 1 - index } else { index };
        let mut view = View::whole(self.array.shape());
        view.shape.remove(self.axis);
        let stride = view.strides.remove(self.axis).unsigned_abs();
        view.offset = index.saturating_mul(stride);
        view.copy(self.array.clone())
    }

    fn dims(&self) -> Vec<Dim> {
        let mut dims: Vec<Dim> = self.array.shape().iter().map(|&size| size.into()).collect();
        dims.remove(self.axis);
        dims
    }
}

impl Operator for Scan {
    fn name(&self) -> &str {
        "Scan"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        if self.has_batch {
            return Ok(Vec::new());
        }
        let captured = self.body.captured(inputs, self.carried + self.inputs.len());
        let captured: Vec<_> = captured.into_iter().map(|info| info.copied()).collect();
        let mut arguments = Vec::new();
        for index in 0..self.carried {
            // The shape of a carried value stays.
            arguments.push(Some(Info { ints: None, constant: None, ..(*inputs.get(index)?).clone() }));
        }
        let mut iterations = Dim::unknown();
        for (index, sequence) in self.inputs.iter().enumerate() {
            let input = *inputs.get(self.carried + index)?;
            let mut element = Info::unknown(input.dtype);
            if let Some(shape) = &input.shape {
                let mut dims = shape.clone();
                iterations = dims.remove(axes::axis(sequence.axis, shape.len())?);
                element.shape = Some(dims);
            }
            arguments.push(Some(element));
        }
        let outputs = self.body.infer(&arguments, &captured)?;
        let mut infos = Vec::new();
        for (index, info) in outputs.into_iter().enumerate() {
            let Some(info) = info else {
                return Ok(Vec::new());
            };
            infos.push(
                match (
                    index.checked_sub(self.carried).map(|index| self.outputs[index]),
                    &arguments[index.min(arguments.len() - 1)],
                ) {
                    (None, Some(before)) => either(before, &info)?,
                    (Some(Sequence { axis: 0, .. }), _) => stacked(&info, iterations.clone()),
                    _ => Info::unknown(info.dtype),
                },
            );
        }
        Ok(infos)
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let first = usize::from(self.has_batch);
        if self.has_batch && inputs.optional(0).is_some() {
            problem!("lengths of sequences are not supported before version 9");
        }
        let arguments = self.carried + self.inputs.len();
        let mut carried =
            (0..arguments).map(|index| inputs.take(first + index)).collect::<Result<Vec<_>, _>>()?;
        let captured = self.body.captured(&inputs, first + arguments);
        if self.has_batch {
            return self.scan_batch(&carried, &captured);
        }
        let sequences = carried.split_off(self.carried);
        self.scan(carried, &sequences, &captured)
    }
}
