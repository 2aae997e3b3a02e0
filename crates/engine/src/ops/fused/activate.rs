//! Activation functions that files spell as several nodes.

use crate::graph::{Array, Info, Operands, Operator, Problem};
use crate::kernels::Activation;

/// An activation function, element by element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Activate {
    pub(crate) activation: Activation,
}

impl Operator for Activate {
    fn name(&self) -> &str {
        "Activate"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        Ok(vec![Info { dtype: x.dtype, shape: x.shape.clone(), ints: None, constant: None }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.take(0)?;
        let (dtype, shape) = (x.dtype(), x.shape().to_vec());
        let mut values = x.into_floats()?;
        self.activation.apply(&mut values);
        Ok(vec![Array::from_floats(dtype, shape, values)?])
    }
}
