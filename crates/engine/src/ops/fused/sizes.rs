//! What encoders compute from the shape of their inputs.

use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, problem};

/// The place of each token in its padded sequence: `[batch_size, seq_len]` to `[1, seq_len]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PositionIds;

impl Operator for PositionIds {
    fn name(&self) -> &str {
        "PositionIds"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        match inputs.get(0)?.shape.as_deref() {
            Some([_, seq_len]) => Ok(vec![Info::new(DataType::I64, vec![1i64.into(), seq_len.clone()])]),
            Some(shape) => problem!("ids have shape {shape:?}, expected two dimensions"),
            None => Ok(vec![Info::new(DataType::I64, vec![1i64.into(), Dim::unknown()])]),
        }
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let &[_, seq_len] = inputs.get(0)?.shape() else {
            problem!("ids have shape {:?}, expected two dimensions", inputs.get(0)?.shape());
        };
        Ok(vec![Array::new([1, seq_len], (0..seq_len as i64).collect())?])
    }
}

/// How many numbers of a row are not zero: `[batch_size, seq_len]` to `[batch_size]`, of 32 bits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CountOnes;

impl Operator for CountOnes {
    fn name(&self) -> &str {
        "CountOnes"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let batch_size = match inputs.get(0)?.shape.as_deref() {
            Some([batch_size, _]) => batch_size.clone(),
            Some(shape) => problem!("a mask of shape {shape:?}, expected two dimensions"),
            None => Dim::unknown(),
        };
        Ok(vec![Info::new(DataType::I32, vec![batch_size])])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let mask = inputs.get(0)?;
        let &[batch_size, seq_len] = mask.shape() else {
            problem!("a mask of shape {:?}, expected two dimensions", mask.shape());
        };
        let values = mask.to_ints()?;
        let count =
            |row: usize| values[row * seq_len..][..seq_len].iter().filter(|value| **value != 0).count();
        Ok(vec![Array::new([batch_size], (0..batch_size).map(|row| count(row) as i32).collect())?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_counts_are_of_rows() {
        let mask = Array::new([2, 3], vec![1i64, 1, 0, 1, 0, 0]).unwrap();
        let run = |operator: &dyn Operator| {
            operator.run(Operands::new(vec![Some(mask.clone())])).unwrap().remove(0)
        };
        assert_eq!(run(&PositionIds), Array::new([1, 3], vec![0i64, 1, 2]).unwrap());
        assert_eq!(run(&CountOnes), Array::vector(vec![2i32, 1]));
        let vector = Array::vector(vec![1i64]);
        assert!(PositionIds.run(Operands::new(vec![Some(vector)])).is_err());
    }
}
