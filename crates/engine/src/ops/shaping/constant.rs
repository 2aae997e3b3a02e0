//! Values that are made of nothing, or of sizes: `Constant`, `ConstantOfShape` and `Range`.

use half::{bf16, f16};

use super::repeat::{size, sizes};
use super::shaped;
use crate::graph::{
    Array, DataType, Dim, Element, Info, Operands, Operator, Problem, checked_len, for_type, problem,
};
use crate::ops::NodeReader;

/// Elements that are known of one vector: vectors of sizes are shorter.
const MAX_INTS: i64 = 1024;

/// `Constant`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Value {
    pub(crate) value: Array,
}

impl Value {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let given = node.attributes;
        let values = [
            given.tensor("value")?,
            given.int("value_int")?.map(Array::scalar),
            given.ints("value_ints")?.map(Array::vector),
            given.float("value_float")?.map(Array::scalar),
            given.floats("value_floats")?.map(Array::vector),
            given.string("value_string")?.map(Array::scalar),
            given.strings("value_strings")?.map(Array::vector),
        ];
        let mut values = values.into_iter().flatten();
        match (values.next(), values.next()) {
            (Some(value), None) => Ok(Box::new(Self { value })),
            _ => problem!("expected one attribute with the value"),
        }
    }
}

impl Operator for Value {
    fn name(&self) -> &str {
        "Constant"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, _: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        Ok(vec![Info::constant(&self.value)])
    }

    fn run(&self, _: Operands<Array>) -> Result<Vec<Array>, Problem> {
        Ok(vec![self.value.clone()])
    }
}

/// `ConstantOfShape`: one value everywhere.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ConstantOfShape {
    /// An array of one element.
    pub(crate) value: Array,
}

impl ConstantOfShape {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let value = node.attributes.tensor("value")?.unwrap_or_else(|| Array::scalar(0.0f32));
        if value.len() != 1 {
            problem!("attribute `value` has {} elements, expected one", value.len());
        }
        Ok(Box::new(Self { value }))
    }
}

impl Operator for ConstantOfShape {
    fn name(&self) -> &str {
        "ConstantOfShape"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (target, dtype) = (inputs.get(0)?, self.value.dtype());
        let Some(ints) = &target.ints else {
            let rank = target.shape.as_deref().and_then(|shape| shape.first()?.known_size());
            let rank = rank.filter(|rank| *rank <= 64);
            return Ok(vec![rank.map_or(Info::unknown(dtype), |rank| Info::with_rank(dtype, rank))]);
        };
        let dims = ints.iter().map(size).collect::<Result<Vec<Dim>, _>>()?;
        let len = match dims.as_slice() {
            [] => Some(1),
            [len] => len.known().filter(|len| *len <= MAX_INTS),
            _ => None,
        };
        let ints = len.and_then(|len| Some(vec![self.value.to_ints().ok()?[0].into(); len as usize]));
        Ok(vec![Info { ints, ..shaped(dtype, Some(dims)) }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let shape = sizes(inputs.get(0)?)?;
        Ok(vec![for_type!(self.value.dtype(), T => full::<T>(shape, &self.value)?)])
    }
}

fn full<T: Element>(shape: Vec<usize>, value: &Array) -> Result<Array, Problem> {
    Array::full(shape, value.values::<T>()?[0].clone())
}

/// `Range`: numbers at equal distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range;

impl Range {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        // Half-precision numbers are computed in f32, which is what 1 stands for.
        match node.attributes.int("stash_type")? {
            None | Some(1) => Ok(Box::new(Self)),
            Some(other) => problem!("attribute `stash_type` is {other}, only 1 is supported"),
        }
    }
}

fn count_ints(start: i64, limit: i64, delta: i64) -> Result<usize, Problem> {
    if delta == 0 {
        problem!("the distance is 0");
    }
    let (distance, delta) = (i128::from(limit) - i128::from(start), i128::from(delta));
    // Rounded up: both signs are the same.
    let count = if (distance > 0) != (delta > 0) { 0 } else { (distance + delta - delta.signum()) / delta };
    usize::try_from(count).map_err(|_| Problem::new("the range is too large"))
}

fn count_floats(start: f64, limit: f64, delta: f64) -> Result<usize, Problem> {
    let count = ((limit - start) / delta).ceil();
    // Of NaN and infinities, too.
    if !(count.is_finite() && count < 1e15) {
        problem!("the range from {start} to {limit} by {delta} has no end");
    }
    Ok(count.max(0.0) as usize)
}

impl Operator for Range {
    fn name(&self) -> &str {
        "Range"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let dtype = inputs.get(0)?.dtype;
        let int = |index| Ok(inputs.get(index)?.ints.as_ref().and_then(|ints| ints.first().cloned()));
        let (start, limit, delta) = (int(0)?, int(1)?, int(2)?);
        let (Some(start), Some(limit), Some(delta)) = (start, limit, delta) else {
            return Ok(vec![Info::with_rank(dtype, 1)]);
        };
        if let (Some(start), Some(limit), Some(delta)) = (start.known(), limit.known(), delta.known()) {
            let count = count_ints(start, limit, delta)?;
            let ints = (count as i64 <= MAX_INTS && dtype.is_int()).then(|| {
                (0..count as i64).map(|i| start.wrapping_add(i.wrapping_mul(delta)).into()).collect()
            });
            return Ok(vec![Info { ints, ..Info::new(dtype, vec![count.into()]) }]);
        }
        let is_size = start.is(0) && delta.is(1) && limit.is_size();
        Ok(vec![Info::new(dtype, vec![if is_size { limit } else { Dim::unknown() }])])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let arrays = [inputs.get(0)?, inputs.get(1)?, inputs.get(2)?];
        let dtype = arrays[0].dtype();
        if let Some(array) = arrays.iter().find(|array| array.len() != 1 || array.dtype() != dtype) {
            problem!("{array:?} is no scalar of {dtype}");
        }
        macro_rules! ints {
            ($type:ty) => {{
                let [start, limit, delta] =
                    [arrays[0].to_ints()?[0], arrays[1].to_ints()?[0], arrays[2].to_ints()?[0]];
                let count = checked_len(&[count_ints(start, limit, delta)?], size_of::<$type>())?;
                // All are between two numbers of the type.
                let at = |i| start.wrapping_add((i as i64).wrapping_mul(delta)) as $type;
                Array::vector((0..count).map(at).collect())
            }};
        }
        macro_rules! floats {
            ($type:ty, $wide:ty, $round:expr) => {{
                let wide = |array: &Array| array.values::<$type>().map(|values| <$wide>::from(values[0]));
                let [start, limit, delta] = [wide(arrays[0])?, wide(arrays[1])?, wide(arrays[2])?];
                let count = count_floats(start.into(), limit.into(), delta.into())?;
                let count = checked_len(&[count], size_of::<$type>())?;
                Array::vector((0..count).map(|i| $round(start + i as $wide * delta)).collect::<Vec<$type>>())
            }};
        }
        Ok(vec![match dtype {
            DataType::I64 => ints!(i64),
            DataType::I32 => ints!(i32),
            DataType::I16 => ints!(i16),
            DataType::F64 => floats!(f64, f64, |value| value),
            DataType::F32 => floats!(f32, f32, |value| value),
            DataType::F16 => floats!(f16, f32, f16::from_f32),
            DataType::Bf16 => floats!(bf16, f32, bf16::from_f32),
            _ => problem!("ranges of {dtype} are not supported"),
        }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_counted() {
        assert_eq!(count_ints(0, 10, 3).unwrap(), 4);
        assert_eq!(count_ints(10, 4, -2).unwrap(), 3);
        assert_eq!(count_ints(0, 10, -1).unwrap(), 0);
        assert_eq!(count_ints(5, 5, 1).unwrap(), 0);
        assert_eq!(count_ints(i64::MIN, i64::MAX, i64::MAX).unwrap(), 3);
        assert_eq!(count_ints(0, 0, i64::MIN).unwrap(), 0);
        assert!(count_ints(0, 1, 0).is_err());
        assert_eq!(count_floats(0.0, 1.0, 0.3).unwrap(), 4);
        assert_eq!(count_floats(1.0, 0.0, 0.3).unwrap(), 0);
        for delta in [0.0, f64::NAN, 1e-300] {
            assert!(count_floats(0.0, 1.0, delta).is_err());
        }
        let range = |limit: i64| {
            let ints = [0, limit, 1].map(|int| Some(Array::scalar(int)));
            Range.run(Operands::new(ints.into()))
        };
        assert_eq!(range(3).unwrap(), [Array::vector(vec![0i64, 1, 2])]);
        assert!(range(i64::MAX).is_err());
    }

    #[test]
    fn sizes_make_ranges() {
        let seq = Info { ints: Some(vec![Dim::symbol("seq")]), ..Info::new(DataType::I64, vec![]) };
        let [zero, one] = [0i64, 1].map(|int| Info::constant(&Array::scalar(int)));
        let output =
            Range.infer(&Operands::new(vec![Some(&zero), Some(&seq), Some(&one)])).unwrap().remove(0);
        assert_eq!(output.shape.unwrap(), [Dim::symbol("seq")]);
    }

    #[test]
    fn constants_have_shapes_of_symbols() {
        let value = Array::vector(vec![1i64]);
        let constant = ConstantOfShape { value };
        let shape = Info::vector(DataType::I64, vec![Dim::symbol("batch"), 4i64.into()]);
        let output = constant.infer(&Operands::new(vec![Some(&shape)])).unwrap().remove(0);
        assert_eq!(output.shape, shape.ints);
        let shape = Info::constant(&Array::vector(vec![2i64]));
        let output = constant.infer(&Operands::new(vec![Some(&shape)])).unwrap().remove(0);
        assert_eq!(output.known_ints().unwrap(), [1, 1]);
        for shape in [vec![-1i64], vec![i64::MAX], vec![1 << 20, 1 << 20]] {
            assert!(constant.run(Operands::new(vec![Some(Array::vector(shape))])).is_err());
        }
    }
}
