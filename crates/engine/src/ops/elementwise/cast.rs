//! `Cast` and `CastLike`: elements of one type as another.

use half::{bf16, f16};

use super::each_into;
use crate::graph::low_bit::{Conversion, Format, Rounding};
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
    /// To types of few bits alone.
    pub(crate) conversion: Conversion,
}

fn read(node: &NodeReader, to: Option<DataType>) -> Result<Box<dyn Operator>, Problem> {
    let roundings = [("up", Rounding::Up), ("down", Rounding::Down), ("nearest", Rounding::Nearest)];
    let conversion = Conversion {
        saturates: node.attributes.flag("saturate")?.unwrap_or(true),
        rounding: node.attributes.choice("round_mode", &roundings)?.unwrap_or(Rounding::Up),
    };
    Ok(Box::new(Cast { to, conversion }))
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
        let array = inputs.take(0)?;
        Ok(vec![match dtype.low_bit() {
            Some(format) if array.dtype() != dtype => encode(array, dtype, format, self.conversion)?,
            _ => cast(array, dtype)?,
        }])
    }

    fn takes_low_bit(&self) -> bool {
        true
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

/// The elements as another type, one that is computed with: floating-point numbers are rounded to nearest, integers lose high bits, and what
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
                _ => problem!("{from} cannot become {to} here"),
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
        _ => match from.low_bit() {
            Some(format) if !format.is_int() => {
                let numbers = format.numbers();
                let values = array.codes()?.into_iter().map(|code| numbers[usize::from(code)]);
                cast(Array::new(array.shape(), values.collect())?, to)
            }
            _ => cast(Array::new(array.shape(), array.to_ints()?)?, to),
        },
    }
}

/// The elements as a type of few bits. Numbers are rounded once, from f64: it has all others but large integers, which
/// lie beyond what these types have.
fn encode(array: Array, to: DataType, format: Format, conversion: Conversion) -> Result<Array, Problem> {
    let shape = array.shape().to_vec();
    if format.is_int() && (array.dtype().is_int() || array.dtype() == DataType::String) {
        let ints = cast(array, DataType::I64)?.into_values::<i64>()?;
        return Array::from_codes(to, shape, ints.into_iter().map(|value| format.encode_int(value)));
    }
    let values = cast(array, DataType::F64)?.into_values::<f64>()?;
    Array::from_codes(to, shape, values.into_iter().map(|value| format.encode(value, conversion)))
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
    use crate::graph::{Graph, Session, ValueId};
    use crate::ops::elementwise::{Arithmetic, Operation};

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

    const LOW_BIT: [DataType; 10] = [
        DataType::I4,
        DataType::U4,
        DataType::I2,
        DataType::U2,
        DataType::F8E4M3Fn,
        DataType::F8E4M3FnUz,
        DataType::F8E5M2,
        DataType::F8E5M2FnUz,
        DataType::F8E8M0,
        DataType::F4E2M1,
    ];

    fn cast_by(conversion: Conversion, array: Array, to: DataType) -> Result<Array, Problem> {
        let operator = Cast { to: Some(to), conversion };
        operator.run(Operands::new(vec![Some(array)])).map(|mut outputs| outputs.remove(0))
    }

    #[test]
    fn types_of_few_bits_become_every_other_and_come_from_it() {
        let convert = |array: &Array, to| cast_by(Conversion::default(), array.clone(), to).unwrap();
        let one = Array::vector(vec![1i64]);
        for low in LOW_BIT {
            let ones = convert(&one, low);
            assert_eq!(ones.dtype(), low);
            for other in TYPES.into_iter().chain(LOW_BIT) {
                let others = convert(&ones, other);
                assert_eq!(others.dtype(), other);
                assert_eq!(convert(&others, low), ones, "{low} {other}");
            }
        }
    }

    #[test]
    fn attributes_say_what_becomes_of_what_is_too_large() {
        let saturating = Conversion::default();
        let wrapping = Conversion { saturates: false, rounding: Rounding::Nearest };
        let codes = |conversion, to| {
            let values = Array::vector(vec![1e6f32, -1e6, f32::INFINITY, 0.0]);
            cast_by(conversion, values, to).unwrap().codes().unwrap()
        };
        assert_eq!(codes(saturating, DataType::F8E5M2), [0x7B, 0xFB, 0x7B, 0]);
        assert_eq!(codes(wrapping, DataType::F8E5M2), [0x7C, 0xFC, 0x7C, 0]);
        assert_eq!(codes(wrapping, DataType::F8E8M0), [0x93, 0xFF, 0xFF, 0xFF]);
        // Rounded once: f32 would have made it the half between two codes.
        let value = Array::vector(vec![1.0625f64.next_up()]);
        assert_eq!(cast_by(saturating, value, DataType::F8E4M3Fn).unwrap().codes().unwrap(), [0x39]);
    }

    #[test]
    fn operators_that_compute_refuse_types_of_few_bits_at_load() {
        fn load(build: impl Fn(&mut Graph, ValueId) -> ValueId) -> Result<(), String> {
            let mut graph = Graph::default();
            let input = graph.add_input("x", Some(Info::new(DataType::I4, vec![1i64.into()])));
            let output = build(&mut graph, input);
            graph.outputs = vec![output];
            Session::new(graph).map(|_| ()).map_err(|error| error.to_string())
        }
        let add = Arithmetic { operation: Operation::Add };
        let error = load(|graph, x| graph.add_node("add", add, &[x, x])).unwrap_err();
        assert!(error.contains("`add` (Add): int4 is not supported here"), "{error}");
        let cast = Cast { to: Some(DataType::F32), conversion: Conversion::default() };
        assert_eq!(load(|graph, x| graph.add_node("cast", cast, &[x])), Ok(()));
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
            Cast { to: Some(to), conversion: Conversion::default() }.infer(&inputs).unwrap().remove(0).ints
        };
        let ints = cast_to(DataType::I32).unwrap();
        assert_eq!((&ints[0], ints[1].known()), (&Dim::symbol("batch"), None));
        assert_eq!(cast_to(DataType::F32), None);
    }
}
