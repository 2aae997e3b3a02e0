//! `Clip`: numbers between bounds.

use super::{cast, each};
use crate::graph::{Array, Info, Operands, Operator, Problem, problem};
use crate::ops::number::{Number, for_number, widen};
use crate::ops::{Entry, NodeReader};

pub(in crate::ops) const OPERATORS: &[Entry] = &[Entry::new("Clip", 1..=3, read)];

/// `Clip`. Bounds are inputs, or attributes up to version 10.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Clip {
    pub(crate) least: Option<f32>,
    pub(crate) greatest: Option<f32>,
}

fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
    if node.opset >= 11 {
        return Ok(Box::new(Clip { least: None, greatest: None }));
    }
    if node.num_inputs > 1 {
        problem!("bounds cannot be inputs before version 11");
    }
    let (least, greatest) = (node.attributes.float("min")?, node.attributes.float("max")?);
    Ok(Box::new(Clip { least, greatest }))
}

impl Operator for Clip {
    fn name(&self) -> &'static str {
        "Clip"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        for bound in inputs.iter_from(1).flatten() {
            if bound.dtype != input.dtype {
                problem!("a bound is {}, expected {}", bound.dtype, input.dtype);
            }
        }
        Ok(vec![Info { constant: None, ints: None, ..(*input).clone() }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let input = inputs.take(0)?;
        let dtype = input.dtype();
        let mut bounds = [1, 2].map(|index| inputs.take_optional(index).map(widen));
        let input = widen(input)?;
        let clipped = for_number!(input.dtype(), T => {
            let mut bound = |index: usize, attribute: Option<f32>, default| match bounds[index].take().transpose()? {
                Some(bound) => match bound.values::<T>()? {
                    [bound] => Ok(*bound),
                    values => problem!("a bound has {} elements, expected 1", values.len()),
                },
                None => Ok(attribute.map_or(default, |bound| T::from_f64(bound.into()))),
            };
            let least: T = bound(0, self.least, T::LEAST)?;
            let greatest: T = bound(1, self.greatest, T::GREATEST)?;
            each(input, |value: T| {
                let value = if value < least { least } else { value };
                if value > greatest { greatest } else { value }
            })?
        });
        Ok(vec![cast(clipped, dtype)?])
    }
}
