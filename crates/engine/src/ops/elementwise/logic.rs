//! Operators of truth values: comparisons, logic, choice.

use super::{cast, each, each_into, infer_pair, known, truth, zip_dims};
use crate::graph::{
    Array, DataType, Dim, Element, Info, Operands, Operator, Problem, for_computed_type, problem,
};
use crate::ops::number::{for_number, widen};
use crate::ops::{Entry, NodeReader, broadcast};

pub(in crate::ops) const OPERATORS: &[Entry] = &[
    Entry::new("Equal", 2..=2, |_| Comparison::boxed(Relation::Equal)),
    Entry::new("Less", 2..=2, |_| Comparison::boxed(Relation::Less)),
    Entry::new("LessOrEqual", 2..=2, |_| Comparison::boxed(Relation::LessOrEqual)),
    Entry::new("Greater", 2..=2, |_| Comparison::boxed(Relation::Greater)),
    Entry::new("GreaterOrEqual", 2..=2, |_| Comparison::boxed(Relation::GreaterOrEqual)),
    Entry::new("And", 2..=2, |_| Ok(Box::new(Logic { connective: Connective::And }))),
    Entry::new("Or", 2..=2, |_| Ok(Box::new(Logic { connective: Connective::Or }))),
    Entry::new("Xor", 2..=2, |_| Ok(Box::new(Logic { connective: Connective::Xor }))),
    Entry::new("Not", 1..=1, |_| Ok(Box::new(Not))).since(1),
    Entry::new("IsNaN", 1..=1, |_| Ok(Box::new(FloatClass { nan: true, negative: false, positive: false }))),
    Entry::new("IsInf", 1..=1, read_is_inf),
    Entry::new("Where", 3..=3, |_| Ok(Box::new(Where))),
];

/// How two elements compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// `Equal`, `Less`, `LessOrEqual`, `Greater` or `GreaterOrEqual`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Comparison {
    pub(crate) relation: Relation,
}

impl Comparison {
    fn boxed(relation: Relation) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { relation }))
    }

    #[inline(always)]
    fn holds<T: PartialOrd>(self, a: &T, b: &T) -> bool {
        match self.relation {
            Relation::Equal => a == b,
            Relation::Less => a < b,
            Relation::LessOrEqual => a <= b,
            Relation::Greater => a > b,
            Relation::GreaterOrEqual => a >= b,
        }
    }

    fn dim(self, a: &Dim, b: &Dim) -> Dim {
        if a == b {
            return truth(Some(self.holds(&0, &0)));
        }
        if self.relation == Relation::Equal {
            return truth(a.is_never(b).then_some(false));
        }
        known(a, b, |a, b| Some(self.holds(&a, &b).into()))
    }
}

impl Operator for Comparison {
    fn name(&self) -> &'static str {
        match self.relation {
            Relation::Equal => "Equal",
            Relation::Less => "Less",
            Relation::LessOrEqual => "LessOrEqual",
            Relation::Greater => "Greater",
            Relation::GreaterOrEqual => "GreaterOrEqual",
        }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        infer_pair(inputs, DataType::Bool, |a, b| self.dim(a, b))
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (mut a, mut b) = (inputs.take(0)?, inputs.take(1)?);
        if a.dtype() != b.dtype() {
            problem!("inputs are {} and {}", a.dtype(), b.dtype());
        }
        if a.dtype().is_int() || a.dtype().is_float() {
            (a, b) = (widen(a)?, widen(b)?);
        }
        // The relation is matched outside the loops.
        macro_rules! zip {
            ($T:ty) => {
                match self.relation {
                    Relation::Equal => broadcast::zip(&a, &b, |a: &$T, b| a == b)?,
                    Relation::Less => broadcast::zip(&a, &b, |a: &$T, b| a < b)?,
                    Relation::LessOrEqual => broadcast::zip(&a, &b, |a: &$T, b| a <= b)?,
                    Relation::Greater => broadcast::zip(&a, &b, |a: &$T, b| a > b)?,
                    Relation::GreaterOrEqual => broadcast::zip(&a, &b, |a: &$T, b| a >= b)?,
                }
            };
        }
        let result = match a.dtype() {
            DataType::Bool if self.relation == Relation::Equal => {
                broadcast::zip(&a, &b, |a: &bool, b| a == b)?
            }
            DataType::String if self.relation == Relation::Equal => {
                broadcast::zip(&a, &b, |a: &String, b| a == b)?
            }
            dtype => for_number!(dtype, T => zip!(T)),
        };
        Ok(vec![result])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connective {
    And,
    Or,
    Xor,
}

/// `And`, `Or` or `Xor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Logic {
    connective: Connective,
}

impl Operator for Logic {
    fn name(&self) -> &'static str {
        match self.connective {
            Connective::And => "And",
            Connective::Or => "Or",
            Connective::Xor => "Xor",
        }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        expect_bool(inputs.get(0)?)?;
        infer_pair(inputs, DataType::Bool, |a, b| {
            known(a, b, |a, b| {
                Some(match self.connective {
                    Connective::And => a & b,
                    Connective::Or => a | b,
                    Connective::Xor => a ^ b,
                })
            })
        })
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (a, b) = (inputs.take(0)?, inputs.take(1)?);
        let result = match self.connective {
            Connective::And => broadcast::zip(&a, &b, |a: &bool, b: &bool| a & b),
            Connective::Or => broadcast::zip(&a, &b, |a: &bool, b: &bool| a | b),
            Connective::Xor => broadcast::zip(&a, &b, |a: &bool, b: &bool| a ^ b),
        };
        Ok(vec![result?])
    }
}

fn expect_bool(info: &Info) -> Result<(), Problem> {
    match info.dtype {
        DataType::Bool => Ok(()),
        other => problem!("expected {}, got {other}", DataType::Bool),
    }
}

/// `Not`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Not;

impl Operator for Not {
    fn name(&self) -> &'static str {
        "Not"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        expect_bool(input)?;
        let not = |dim: &Dim| truth(dim.known().map(|value| value == 0));
        let ints = input.ints.as_ref().map(|ints| ints.iter().map(not).collect());
        Ok(vec![Info { ints, constant: None, ..(*input).clone() }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        Ok(vec![each(inputs.take(0)?, |value: bool| !value)?])
    }
}

/// `IsNaN` or `IsInf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FloatClass {
    nan: bool,
    negative: bool,
    positive: bool,
}

fn read_is_inf(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
    let flag = |name| Ok(node.attributes.flag(name)?.unwrap_or(true));
    let (negative, positive) = (flag("detect_negative")?, flag("detect_positive")?);
    Ok(Box::new(FloatClass { nan: false, negative, positive }))
}

impl Operator for FloatClass {
    fn name(&self) -> &'static str {
        if self.nan { "IsNaN" } else { "IsInf" }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        if !input.dtype.is_float() {
            problem!("expected a floating-point type, got {}", input.dtype);
        }
        Ok(vec![Info { shape: input.shape.clone(), ..Info::unknown(DataType::Bool) }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let input = inputs.get(0)?;
        let is = |is_nan, value: f64| {
            (self.nan && is_nan)
                || (self.negative && value == f64::NEG_INFINITY)
                || (self.positive && value == f64::INFINITY)
        };
        let input = cast(input.clone(), DataType::F64)?;
        Ok(vec![each_into(&input, |value: &f64| is(value.is_nan(), *value))?])
    }
}

/// `Where`: elements of the second input where the first is true, of the third elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Where;

impl Operator for Where {
    fn name(&self) -> &'static str {
        "Where"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (condition, a, b) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        expect_bool(condition)?;
        if a.dtype != b.dtype {
            problem!("inputs are {} and {}", a.dtype, b.dtype);
        }
        let ints = match (&condition.ints, &a.ints, &b.ints) {
            (Some(condition), Some(a), Some(b)) => {
                zip_dims([condition, a, b], |[condition, a, b]| match condition.known() {
                    Some(0) => b.clone(),
                    Some(_) => a.clone(),
                    None if a == b => a.clone(),
                    None => Dim::unknown_like(&[a, b]),
                })
            }
            _ => None,
        };
        Ok(vec![Info { dtype: a.dtype, shape: broadcast::dims(inputs)?, ints, constant: None }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (condition, a, b) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        Ok(vec![for_computed_type!(a.dtype(), T => choose::<T>(condition, a, b)?)])
    }
}

fn choose<T: Element>(condition: &Array, a: &Array, b: &Array) -> Result<Array, Problem> {
    let runs = broadcast::Runs::new([condition.shape(), a.shape(), b.shape()])?;
    let (conditions, x, y) = (condition.values::<bool>()?, a.values::<T>()?, b.values::<T>()?);
    let mut values = Vec::with_capacity(crate::graph::checked_len(&runs.shape, size_of::<T>())?);
    runs.for_each(|[condition, x_at, y_at]| {
        let [condition_stays, x_stays, y_stays] = runs.stays;
        if condition_stays {
            let (from, at, stays) =
                if conditions[condition] { (x, x_at, x_stays) } else { (y, y_at, y_stays) };
            if stays {
                values.resize(values.len() + runs.len, from[at].clone());
            } else {
                values.extend_from_slice(&from[at..at + runs.len]);
            }
            return;
        }
        let conditions = &conditions[condition..condition + runs.len];
        let (x, y) = (&x[x_at..], &y[y_at..]);
        let pick = |is: &bool, x: &T, y: &T| if *is { x.clone() } else { y.clone() };
        match (x_stays, y_stays) {
            (true, true) => values.extend(conditions.iter().map(|is| pick(is, &x[0], &y[0]))),
            (true, false) => values.extend(conditions.iter().zip(y).map(|(is, y)| pick(is, &x[0], y))),
            (false, true) => values.extend(conditions.iter().zip(x).map(|(is, x)| pick(is, x, &y[0]))),
            (false, false) => {
                values.extend(conditions.iter().zip(x).zip(y).map(|((is, x), y)| pick(is, x, y)));
            }
        }
    });
    Array::new(runs.shape, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PyTorch exports for `expand`: -1 in a shape means that the dimension stays.
    #[test]
    fn the_shape_of_an_expansion_is_known() {
        let (batch, minus_one) = (Dim::symbol("batch"), Dim::from(-1i64));
        let shape = Info::vector(DataType::I64, vec![batch.clone(), minus_one.clone(), 7i64.into()]);
        let wanted = Info::vector(DataType::I64, vec![minus_one; 3]);
        let ones = Info::vector(DataType::I64, vec![1i64.into(); 3]);
        let infer = |operator: &dyn Operator, inputs: &[&Info]| {
            operator.infer(&Operands::new(inputs.iter().copied().map(Some).collect())).unwrap().remove(0)
        };
        let equal = infer(&Comparison { relation: Relation::Equal }, &[&shape, &wanted]);
        assert_eq!(equal.known_ints(), Some(vec![0, 1, 0]));
        let chosen = infer(&Where, &[&equal, &ones, &shape]);
        assert_eq!(chosen.ints, Some(vec![batch, 1i64.into(), 7i64.into()]));
        // What was read from an input may be -1.
        let read = Info::vector(DataType::I64, vec![Dim::unknown_int(); 3]);
        let equal = infer(&Comparison { relation: Relation::Equal }, &[&read, &wanted]);
        assert_eq!(equal.known_ints(), None);
        assert_eq!(infer(&Not, &[&equal]).known_ints(), None);
    }

    #[test]
    fn elements_are_chosen_whatever_is_broadcast() {
        let array = |shape: &[usize], values: &[i32]| Array::new(shape, values.to_vec()).unwrap();
        let (column, row) = (array(&[2, 1], &[1, 2]), array(&[3], &[10, 20, 30]));
        let full = array(&[2, 3], &[4, 5, 6, 7, 8, 9]);
        let conditions: [(&[usize], &[bool]); 4] = [
            (&[], &[true]),
            (&[3], &[true, false, true]),
            (&[2, 1], &[false, true]),
            (&[2, 3], &[true, false, false, true, true, false]),
        ];
        for (shape, condition) in conditions {
            let condition = Array::new(shape, condition.to_vec()).unwrap();
            for a in [&column, &row, &full] {
                for b in [&column, &row, &full] {
                    let to = broadcast::shape(&[condition.shape(), a.shape(), b.shape()]).unwrap();
                    let expand = |array: &Array| broadcast::expand::<i32>(array, &to).unwrap();
                    let (x, y) = (expand(a), expand(b));
                    let picks = broadcast::expand::<bool>(&condition, &to).unwrap();
                    let (x, y) = (x.values::<i32>().unwrap(), y.values::<i32>().unwrap());
                    let picks = picks.values::<bool>().unwrap().iter().enumerate();
                    let expected = picks.map(|(i, &is)| if is { x[i] } else { y[i] }).collect::<Vec<_>>();
                    let found = choose::<i32>(&condition, a, b).unwrap();
                    assert_eq!(found, Array::new(to, expected).unwrap());
                }
            }
        }
    }
}
