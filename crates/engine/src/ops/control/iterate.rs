//! `Loop`.

use std::collections::HashSet;

use super::{Body, Stack, condition, either, info, stacked};
use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, problem};
use crate::ops::NodeReader;

/// Iterations after which a loop is thought to have no end.
const MAX_ITERATIONS: i64 = 1 << 20;

/// `Loop`: a graph again and again, on values that it gives to itself.
#[derive(Clone, Debug)]
pub(crate) struct Loop {
    pub(crate) body: Body,
    /// Values that the graph gives to itself.
    pub(crate) carried: usize,
}

impl Loop {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let Some(graph) = node.attributes.graph("body")? else {
            problem!("attribute `body` is missing");
        };
        let carried = node.num_inputs - 2;
        let body = Body::new(graph, node.num_inputs)?;
        if body.outputs() < 1 + carried {
            problem!("the graph inside has {} outputs, expected {} or more", body.outputs(), 1 + carried);
        }
        Ok(Box::new(Self { body, carried }))
    }

    /// What is known of an iteration's outputs: of carried values what stays true however often they go round.
    fn infer_body(
        &self,
        initial: Vec<Info>,
        captured: &[Option<&Info>],
    ) -> Result<Vec<Option<Info>>, Problem> {
        let scalar = |dtype| Some(Info::new(dtype, Vec::new()));
        let mut carried: Vec<Option<Info>> =
            initial.into_iter().map(|info| Some(Info { ints: None, constant: None, ..info })).collect();
        let mut open = HashSet::new();
        // It ends: each dimension opens at most once.
        loop {
            let counters = [scalar(DataType::I64), scalar(DataType::Bool)];
            let arguments: Vec<_> = counters.into_iter().chain(carried.iter().cloned()).collect();
            let outputs = self.body.infer(&arguments, captured)?;
            let mut is_stable = true;
            for (before, after) in carried.iter_mut().zip(&outputs[1..]) {
                let wider = match (&*before, after) {
                    (Some(before), Some(after)) => Some(wider(before, after, &mut open)?),
                    _ => None,
                };
                is_stable &= wider == *before;
                *before = wider;
            }
            if is_stable {
                let mut outputs = outputs;
                outputs.splice(1..=self.carried, carried);
                return Ok(outputs);
            }
        }
    }
}

/// What is known of a value that was `before` and is `after`. A dimension that changes is one of `open`.
fn wider(before: &Info, after: &Info, open: &mut HashSet<Dim>) -> Result<Info, Problem> {
    let mut info = either(before, after)?;
    info.ints = None;
    for (dim, before) in info.shape.iter_mut().flatten().zip(before.shape.iter().flatten()) {
        if open.contains(before) {
            *dim = before.clone();
        } else if dim != before {
            open.insert(dim.clone());
        }
    }
    Ok(info)
}

impl Operator for Loop {
    fn name(&self) -> &str {
        "Loop"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let initial =
            (0..self.carried).map(|index| Ok((*inputs.get(2 + index)?).clone())).collect::<Result<_, _>>()?;
        let captured = self.body.captured(inputs, 2 + self.carried);
        let captured: Vec<_> = captured.into_iter().map(|info| info.copied()).collect();
        let outputs = self.infer_body(initial, &captured)?;
        let output = |(index, info): (usize, Option<Info>)| {
            let info = info?;
            Some(if index < self.carried { info } else { stacked(&info, Dim::unknown()) })
        };
        let outputs: Option<Vec<Info>> = outputs.into_iter().skip(1).enumerate().map(output).collect();
        Ok(outputs.unwrap_or_default())
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let trips = match inputs.optional(0).map(Array::to_ints).transpose()?.as_deref() {
            None => i64::MAX,
            Some(&[trips]) => trips,
            Some(ints) => problem!("{} trip counts, expected one", ints.len()),
        };
        let mut goes_on = inputs.optional(1).map(condition).transpose()?.unwrap_or(true);
        let mut carried =
            (0..self.carried).map(|index| inputs.take(2 + index)).collect::<Result<Vec<_>, _>>()?;
        let captured = self.body.captured(&inputs, 2 + self.carried);
        let mut stacks: Vec<Stack> = Vec::new();
        stacks.resize_with(self.body.outputs() - 1 - self.carried, Stack::default);
        let initial: Vec<Info> = carried.iter().map(info).collect();
        let mut trip = 0;
        while trip < trips && goes_on {
            if trip == MAX_ITERATIONS {
                problem!("it has not ended after {MAX_ITERATIONS} iterations");
            }
            let mut arguments = vec![Array::scalar(trip), Array::scalar(true)];
            arguments.append(&mut carried);
            let mut outputs = self.body.run(arguments, &captured)?.into_iter();
            goes_on = condition(&outputs.next().expect("the constructor counted the outputs"))?;
            carried.extend(outputs.by_ref().take(self.carried));
            for (stack, output) in stacks.iter_mut().zip(outputs) {
                stack.push(output)?;
            }
            trip += 1;
        }
        let elements = if trip == 0 && !stacks.is_empty() {
            let captured: Vec<Option<Info>> = captured.iter().map(|array| array.map(info)).collect();
            self.infer_body(initial, &captured.iter().map(Option::as_ref).collect::<Vec<_>>())?
        } else {
            Vec::new()
        };
        for (index, stack) in stacks.into_iter().enumerate() {
            let element = elements.get(1 + self.carried + index).and_then(Option::as_ref);
            carried.push(stack.finish(element)?);
        }
        Ok(carried)
    }
}
