//! Averages of 8-bit integers: of what is under a window, or of whole grids.

use super::{Quantized, for_quantized, saturate, scale, zero_point};
use crate::graph::{Array, DataType, Info, Operands, Operator, Problem, problem};
use crate::ops::NodeReader;
use crate::ops::vision::{GlobalPool, Pool};

/// `QLinearAveragePool` or `QLinearGlobalAveragePool`
#[derive(Debug)]
pub(crate) struct QLinearPool {
    name: &'static str,
    /// Of the numbers that the integers stand for.
    pool: Box<dyn Operator>,
}

impl QLinearPool {
    pub(super) fn read(node: &NodeReader, name: &'static str) -> Result<Box<dyn Operator>, Problem> {
        if node.attributes.flag("channels_last")? == Some(true) {
            problem!("attribute `channels_last` is not supported");
        }
        let pool = if name == "QLinearAveragePool" {
            Pool::read(node, "AveragePool")?
        } else {
            GlobalPool::read(node, "GlobalAveragePool")?
        };
        Ok(Box::new(Self { name, pool }))
    }
}

impl Operator for QLinearPool {
    fn name(&self) -> &str {
        self.name
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        for_quantized!(x.dtype, T => T::LOWEST);
        let numbers = Info { dtype: DataType::F32, shape: x.shape.clone(), ints: None, constant: None };
        let outputs = self.pool.infer(&Operands::new(vec![Some(&numbers)]))?;
        Ok(outputs.into_iter().map(|output| Info { dtype: x.dtype, ..output }).collect())
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        let (x_scale, x_zero) = (scale(inputs.get(1)?, "a scale")?, zero_point(inputs.optional(2))?);
        let (y_scale, y_zero) = (scale(inputs.get(3)?, "a scale")?, zero_point(inputs.optional(4))?);
        for_quantized!(x.dtype(), T => {
            let values = x.values::<T>()?;
            let numbers = values.iter().map(|value| (value.to_i32() - x_zero) as f32 * x_scale).collect();
            let numbers = Array::new(x.shape(), numbers)?;
            let outputs = self.pool.run(Operands::new(vec![Some(numbers)]))?;
            let quantized = |y: Array| {
                let values = y.values::<f32>()?.iter().map(|value| saturate::<T>(value / y_scale, y_zero));
                Array::new(y.shape(), values.collect())
            };
            outputs.into_iter().map(quantized).collect()
        })
    }
}
