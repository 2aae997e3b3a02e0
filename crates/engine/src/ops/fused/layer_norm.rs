//! Layer normalisation with a constant weight and bias.

use crate::graph::{Array, DataType, Info, Operands, Operator, Problem, problem};
use crate::kernels::LayerNormOp;

/// Inputs are `x`, weight, bias and, if there is one, what is added to `x` before. `[..., hidden_size]` to the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LayerNorm {
    pub(crate) epsilon: f32,
}

impl Operator for LayerNorm {
    fn name(&self) -> &str {
        "LayerNorm"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        Ok(vec![Info { dtype: x.dtype, shape: x.shape.clone(), ints: None, constant: None }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (x, weight, bias) = (inputs.get(0)?, inputs.get(1)?.to_floats()?, inputs.get(2)?.to_floats()?);
        let residual = inputs.optional(3);
        if residual.is_some_and(|residual| residual.shape() != x.shape()) {
            problem!("inputs of shapes {:?} and {:?}", x.shape(), residual.map(Array::shape));
        }
        let residual = residual.map(Array::to_floats).transpose()?;
        let Some(&hidden_size) = x.shape().last() else {
            problem!("the input is a scalar");
        };
        let norm = LayerNormOp { weight: &weight, bias: &bias, eps: self.epsilon };
        let y = norm.normalize(&x.to_floats()?, residual.as_deref(), hidden_size);
        let y = y.map_err(|error| Problem::new(error.to_string()))?;
        let dtype = if x.dtype().is_float() { x.dtype() } else { DataType::F32 };
        Ok(vec![Array::from_floats(dtype, x.shape(), y)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_normalised_after_the_addition() {
        let norm = LayerNorm { epsilon: 0.0 };
        let some = |shape: &[usize], values: &[f32]| Some(Array::new(shape, values.to_vec()).unwrap());
        let (weight, bias) = (some(&[2], &[2.0, 1.0]), some(&[2], &[0.0, 5.0]));
        let inputs =
            vec![some(&[1, 2], &[1.0, 2.0]), weight.clone(), bias.clone(), some(&[1, 2], &[0.0, 7.0])];
        let y = norm.run(Operands::new(inputs)).unwrap().swap_remove(0);
        assert_eq!(y.values::<f32>().unwrap(), [-2.0, 6.0]);
        let other = vec![some(&[1, 2], &[1.0, 2.0]), weight, bias, some(&[2], &[0.0, 7.0])];
        assert!(norm.run(Operands::new(other)).is_err());
    }
}
