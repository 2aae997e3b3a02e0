//! `Trilu` and `EyeLike`: matrices around a diagonal.

use super::shaped;
use crate::graph::{
    Array, DataType, Info, Operands, Operator, Problem, checked_len, for_computed_type, problem,
};
use crate::ops::NodeReader;

/// `Trilu`: matrices with zeros below or above a diagonal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trilu {
    /// Whether what is above the diagonal is kept.
    pub(crate) upper: bool,
}

impl Trilu {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { upper: node.attributes.flag("upper")?.unwrap_or(true) }))
    }
}

impl Operator for Trilu {
    fn name(&self) -> &str {
        "Trilu"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        if input.rank().is_some_and(|rank| rank < 2) {
            problem!("shape {:?} has no matrices", input.shape.as_deref().unwrap_or_default());
        }
        Ok(vec![shaped(input.dtype, input.shape.clone())])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let diagonal = match inputs.optional(1).map(Array::to_ints).transpose()?.as_deref() {
            None => 0,
            Some(&[diagonal]) => diagonal,
            Some(ints) => problem!("{} diagonals, expected one", ints.len()),
        };
        let array = inputs.take(0)?;
        let &[.., rows, columns] = array.shape() else {
            problem!("shape {:?} has no matrices", array.shape());
        };
        if array.is_empty() {
            return Ok(vec![array]);
        }
        let shape = array.shape().to_vec();
        Ok(vec![for_computed_type!(array.dtype(), T => {
            let mut values = array.into_values::<T>()?;
            for (index, row) in values.chunks_exact_mut(columns).enumerate() {
                // The first column on the diagonal, or the first one behind it.
                let on = ((index % rows) as i64).saturating_add(diagonal);
                let column = |place: i64| usize::try_from(place.max(0)).map_or(columns, |place| place.min(columns));
                let zeros = if self.upper { 0..column(on) } else { column(on.saturating_add(1))..columns };
                row[zeros].fill(T::default());
            }
            Array::new(shape, values)?
        })])
    }
}

/// `EyeLike`: ones on a diagonal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EyeLike {
    pub(crate) dtype: Option<DataType>,
    pub(crate) diagonal: i64,
}

impl EyeLike {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let dtype = match node.attributes.int("dtype")? {
            Some(number) => match i32::try_from(number) {
                Ok(number) => Some(DataType::from_number(number)?),
                Err(_) => problem!("{number} is not a type of elements"),
            },
            None => None,
        };
        Ok(Box::new(Self { dtype, diagonal: node.attributes.int("k")?.unwrap_or(0) }))
    }
}

impl Operator for EyeLike {
    fn name(&self) -> &str {
        "EyeLike"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        if input.rank().is_some_and(|rank| rank != 2) {
            problem!("shape {:?} is no matrix's", input.shape.as_deref().unwrap_or_default());
        }
        Ok(vec![shaped(self.dtype.unwrap_or(input.dtype), input.shape.clone())])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let input = inputs.get(0)?;
        let &[rows, columns] = input.shape() else {
            problem!("shape {:?} is no matrix's", input.shape());
        };
        let dtype = self.dtype.unwrap_or(input.dtype());
        macro_rules! eye {
            ($zero:expr, $one:expr) => {{
                let mut values = vec![$zero; checked_len(&[rows, columns], dtype.size())?];
                let place = |row: usize| {
                    let column = usize::try_from((row as i64).checked_add(self.diagonal)?).ok()?;
                    (column < columns).then(|| row * columns + column)
                };
                (0..if columns == 0 { 0 } else { rows })
                    .filter_map(place)
                    .for_each(|place| values[place] = $one);
                Array::new([rows, columns], values)?
            }};
        }
        Ok(vec![match dtype {
            DataType::F32 => eye!(0.0f32, 1.0),
            DataType::F64 => eye!(0.0f64, 1.0),
            DataType::F16 => eye!(half::f16::ZERO, half::f16::ONE),
            DataType::Bf16 => eye!(half::bf16::ZERO, half::bf16::ONE),
            DataType::I8 => eye!(0i8, 1),
            DataType::I16 => eye!(0i16, 1),
            DataType::I32 => eye!(0i32, 1),
            DataType::I64 => eye!(0i64, 1),
            DataType::U8 => eye!(0u8, 1),
            DataType::U16 => eye!(0u16, 1),
            DataType::U32 => eye!(0u32, 1),
            DataType::U64 => eye!(0u64, 1),
            DataType::Bool => eye!(false, true),
            dtype => problem!("there are no ones of type {dtype}"),
        }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagonals_may_be_far_away() {
        let run = |upper, diagonal: i64| {
            let array = Array::full([2, 2], 1i64).unwrap();
            let inputs = Operands::new(vec![Some(array), Some(Array::scalar(diagonal))]);
            Trilu { upper }.run(inputs).unwrap()[0].to_ints().unwrap()
        };
        assert_eq!(run(true, 0), [1, 1, 0, 1]);
        assert_eq!(run(false, 0), [1, 0, 1, 1]);
        for (upper, diagonal, kept) in
            [(true, i64::MAX, 0), (true, i64::MIN, 1), (false, i64::MAX, 1), (false, i64::MIN, 0)]
        {
            assert_eq!(run(upper, diagonal), [kept; 4]);
        }
        let eye = |diagonal| {
            let inputs = Operands::new(vec![Some(Array::full([2, 2], 0i64).unwrap())]);
            EyeLike { dtype: None, diagonal }.run(inputs).unwrap()[0].to_ints().unwrap()
        };
        assert_eq!(eye(-1), [0, 0, 1, 0]);
        assert_eq!(eye(i64::MIN), [0; 4]);
        assert_eq!(eye(i64::MAX), [0; 4]);
        let vector = Array::vector(vec![1.0f32]);
        assert!(Trilu { upper: true }.run(Operands::new(vec![Some(vector)])).is_err());
    }
}
