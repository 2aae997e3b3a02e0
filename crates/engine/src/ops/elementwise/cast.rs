//! `Cast` and `CastLike`: elements of one type as another.

use half::{bf16, f16};

use super::each_into;
use crate::graph::{Array, DataType, Dim, Element, Info, Operands, Operator, Problem, problem};
use crate::ops::{Entry, NodeReader};

pub(in crate::ops) const OPERATORS: &[Entry] = &[
    Entry::new("Cast", 1..=1, |node| {
        let Some(number) = node.attributes.int("to")? else {
            problem!("attribute `to` is missing");
        };
        let number = i32::try_from(number).map_err(|_| Problem::new(format!("{number} is not a type")))?;
        read(node, Some(DataType::from_number(number)?))
    }),
    Entry::new("CastLike", 2..=2, |node| read(node, None)),
];

/// `Cast`, or `CastLike`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cast {
    /// `None` for the second input's type.
    pub(crate) to: Option<DataType>,
}

fn read(node: &NodeReader, to: Option<DataType>) -> Result<Box<dyn Operator>, Problem> {
    // What these say is about types below 16 bits alone.
    node.attributes.ignore(&["saturate", "round_mode"]);
    Ok(Box::new(Cast { to }))
}

impl Operator for Cast {
    fn name(&self) -> &str {
        if self.to.is_some() { "Cast" } else { "CastLike" }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        let dtype = match self.to {
            Some(dtype) => dtype,
            None => inputs.get(1)?.dtype,
        };
        check(input.dtype, dtype)?;
        let ints = input.ints.as_ref().and_then(|ints| cast_dims(ints, dtype));
        Ok(vec![Info { dtype, shape: input.shape.clone(), ints, constant: None }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let dtype = match self.to {
            Some(dtype) => dtype,
            None => inputs.get(1)?.dtype(),
        };
        Ok(vec![cast(inputs.take(0)?, dtype)?])
    }
}

/// Sizes as another type of integers; those that it may not hold become unknown.
fn cast_dims(ints: &[Dim], dtype: DataType) -> Option<Vec<Dim>> {
    let fits = |dim: &Dim| match (dtype, dim.known()) {
        // Sizes fit, whatever they are.
        (DataType::I64 | DataType::U64 | DataType::I32 | DataType::U32, None) => Some(dim.clone()),
        (DataType::I64, Some(_)) => Some(dim.clone()),
        (DataType::I32, Some(number)) => i32::try_from(number).ok().map(|_| dim.clone()),
        (DataType::U32, Some(number)) => u32::try_from(number).ok().map(|_| dim.clone()),
        (DataType::U64, Some(number)) => u64::try_from(number).ok().map(|_| dim.clone()),
        (DataType::Bool, Some(number)) => Some(i64::from(number != 0).into()),
        _ => None,
    };
    let is_kept = dtype == DataType::Bool || (dtype.is_int() && dtype.size() >= 4);
    is_kept.then(|| ints.iter().map(|dim| fits(dim).unwrap_or_else(Dim::unknown_int)).collect())
}

fn check(from: DataType, to: DataType) -> Result<(), Problem> {
    if from != to
        && matches!((from, to), (DataType::String, DataType::Bool) | (DataType::Bool, DataType::String))
    {
        problem!("{from} cannot become {to}");
    }
    Ok(())
}

/// Evaluates `$body` with `$T` standing for a type that Rust's `as` converts to, or what follows for others.
macro_rules! for_native {
    ($dtype:expr, $T:ident => $body:expr, $($other:pat => $rest:expr),* $(,)?) => {
        match $dtype {
            DataType::F32 => { type $T = f32; $body }
            DataType::F64 => { type $T = f64; $body }
            DataType::I8 => { type $T = i8; $body }
            DataType::I16 => { type $T = i16; $body }
            DataType::I32 => { type $T = i32; $body }
            DataType::I64 => { type $T = i64; $body }
            DataType::U8 => { type $T = u8; $body }
            DataType::U16 => { type $T = u16; $body }
            DataType::U32 => { type $T = u32; $body }
            DataType::U64 => { type $T = u64; $body }
            $($other => $rest,)*
        }
    };
}

/// The elements as another type: floating-point numbers are rounded to nearest, integers lose high bits, and what
/// becomes an integer loses its fraction.
pub(crate) fn cast(array: Array, to: DataType) -> Result<Array, Problem> {
    let from = array.dtype();
    if from == to {
        return Ok(array);
    }
    check(from, to)?;
    macro_rules! from_native {
        ($S:ty) => {
            for_native!(
                to,
                D => each_into(&array, |value: &$S| *value as D),
                DataType::F16 => each_into(&array, |value: &$S| f16::from_f32(*value as f32)),
                DataType::Bf16 => each_into(&array, |value: &$S| bf16::from_f32(*value as f32)),
                DataType::Bool => each_into(&array, |value: &$S| *value != 0 as $S),
                DataType::String => each_into(&array, |value: &$S| print(value)),
            )
        };
    }
    match from {
        DataType::F32 => from_native!(f32),
        DataType::F64 => from_native!(f64),
        DataType::I64 => from_native!(i64),
        DataType::U64 => from_native!(u64),
        DataType::String => parse(&array, to),
        // What is smaller becomes one of those without loss.
        DataType::F16 => cast(each_into(&array, |value: &f16| value.to_f32())?, to),
        DataType::Bf16 => cast(each_into(&array, |value: &bf16| value.to_f32())?, to),
        _ => cast(Array::new(array.shape(), array.to_ints()?)?, to),
    }
}

/// A number in the fewest digits that identify it.
fn print(value: &impl ToString) -> String {
    match value.to_string().as_str() {
        "inf" => "INF".into(),
        "-inf" => "-INF".into(),
        other => other.into(),
    }
}

fn parse(array: &Array, to: DataType) -> Result<Array, Problem> {
    let text = array.values::<String>()?;
    match to {
        DataType::F16 | DataType::Bf16 => cast(parse(array, DataType::F32)?, to),
        _ => for_native!(
            to,
            D => Array::new(array.shape(), text.iter().map(|text| parse_one::<D>(text)).collect::<Result<_, _>>()?),
            other => problem!("{} cannot become {other}", DataType::String),
        ),
    }
}

fn parse_one<T: Element + std::str::FromStr>(text: &str) -> Result<T, Problem> {
    text.trim().parse().map_err(|_| Problem::new(format!("`{text}` is not {}", T::DTYPE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: [DataType; 14] = [
        DataType::F32,
        DataType::F64,
        DataType::F16,
        DataType::Bf16,
        DataType::I8,
        DataType::I16,
        DataType::I32,
        DataType::I64,
        DataType::U8,
        DataType::U16,
        DataType::U32,
        DataType::U64,
        DataType::Bool,
        DataType::String,
    ];

    #[test]
    fn every_type_becomes_every_other() {
        for from in TYPES {
            for to in TYPES {
                let ones = cast(Array::vector(vec![0i64, 1]), DataType::U8).unwrap();
                let Ok(values) = cast(ones, from) else { continue };
                match cast(values.clone(), to) {
                    Ok(cast_values) => assert_eq!(cast(cast_values, from).unwrap(), values, "{from} {to}"),
                    Err(_) => assert!(check(from, to).is_err(), "{from} {to}"),
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_does_not_panic() {
        let floats = Array::vector(vec![f32::NAN, f32::INFINITY, -1e30, 300.7, -0.0]);
        assert_eq!(cast(floats.clone(), DataType::U8).unwrap(), Array::vector(vec![0u8, 255, 0, 255, 0]));
        let strings = cast(floats, DataType::String).unwrap();
        assert_eq!(strings.values::<String>().unwrap()[..2], ["NaN", "INF"]);
        assert!(cast(strings, DataType::I32).is_err());
        assert!(cast(Array::vector(vec!["1e3".to_owned()]), DataType::F16).is_ok());
    }

    #[test]
    fn sizes_stay_known() {
        let sizes = Info::vector(DataType::I64, vec![Dim::symbol("batch"), (1i64 << 40).into()]);
        let cast_to = |to| {
            let inputs = Operands::new(vec![Some(&sizes)]);
            Cast { to: Some(to) }.infer(&inputs).unwrap().remove(0).ints
        };
        let ints = cast_to(DataType::I32).unwrap();
        assert_eq!((&ints[0], ints[1].known()), (&Dim::symbol("batch"), None));
        assert_eq!(cast_to(DataType::F32), None);
    }
}
