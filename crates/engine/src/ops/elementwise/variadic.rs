//! Operators that combine any number of arrays.

use super::{cast, each, known, zip_dims};
use crate::graph::{Array, Dim, Info, Operands, Operator, Problem, problem};
use crate::ops::number::{Number, for_number, widen};
use crate::ops::{Entry, broadcast};

pub(in crate::ops) const OPERATORS: &[Entry] = &[
    Entry::new("Max", 1..=usize::MAX, |_| Ok(Box::new(Variadic { fold: Fold::Max }))),
    Entry::new("Min", 1..=usize::MAX, |_| Ok(Box::new(Variadic { fold: Fold::Min }))),
    Entry::new("Sum", 1..=usize::MAX, |_| Ok(Box::new(Variadic { fold: Fold::Sum }))),
    Entry::new("Mean", 1..=usize::MAX, |_| Ok(Box::new(Variadic { fold: Fold::Mean }))),
];

/// What becomes of elements at the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fold {
    Max,
    Min,
    Sum,
    Mean,
}

/// `Max`, `Min`, `Sum` or `Mean`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variadic {
    pub(crate) fold: Fold,
}

impl Variadic {
    fn dim(self, a: &Dim, b: &Dim) -> Dim {
        match self.fold {
            Fold::Max | Fold::Min if a == b => a.clone(),
            Fold::Max => known(a, b, |a, b| Some(a.max(b))),
            Fold::Min => known(a, b, |a, b| Some(a.min(b))),
            Fold::Sum => a.plus(b),
            Fold::Mean => Dim::unknown_like(&[a, b]),
        }
    }
}

impl Operator for Variadic {
    fn name(&self) -> &'static str {
        match self.fold {
            Fold::Max => "Max",
            Fold::Min => "Min",
            Fold::Sum => "Sum",
            Fold::Mean => "Mean",
        }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let dtype = inputs.get(0)?.dtype;
        let mut ints = inputs.get(0)?.ints.clone();
        for input in inputs.iter_from(1) {
            let Some(input) = input else { problem!("an input is missing") };
            if input.dtype != dtype {
                problem!("inputs are {dtype} and {}", input.dtype);
            }
            ints = match (&ints, &input.ints) {
                (Some(a), Some(b)) => zip_dims([a, b], |[a, b]| self.dim(a, b)),
                _ => None,
            };
        }
        Ok(vec![Info { dtype, shape: broadcast::dims(inputs)?, ints, constant: None }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let dtype = inputs.get(0)?.dtype();
        let mut result = widen(inputs.take(0)?)?;
        for index in 1..inputs.len() {
            let next = widen(inputs.take(index)?)?;
            result = for_number!(result.dtype(), T => match self.fold {
                Fold::Max => broadcast::zip::<T, T>(&result, &next, |a, b| a.larger(*b))?,
                Fold::Min => broadcast::zip::<T, T>(&result, &next, |a, b| a.smaller(*b))?,
                Fold::Sum | Fold::Mean => broadcast::zip::<T, T>(&result, &next, |a, b| a.plus(*b))?,
            });
        }
        if self.fold == Fold::Mean {
            let count = inputs.len() as f64;
            result =
                for_number!(result.dtype(), T => each(result, |sum: T| T::from_f64(sum.to_f64() / count))?);
        }
        Ok(vec![cast(result, dtype)?])
    }
}
