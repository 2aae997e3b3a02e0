//! `QAttention`: self-attention whose projection multiplies 8-bit integers.

use super::matmul::IntegerProduct;
use super::packed::{Factor, IntegerOperator};
use super::scale;
use crate::graph::{Array, Constant, DataType, Dim, Info, Operands, Operator, Prepared, Problem, problem};
use crate::ops::NodeReader;
use crate::ops::microsoft::{Context, SelfAttention, known_sizes, sizes};

/// `QAttention`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QAttention {
    pub(crate) attention: SelfAttention,
}

impl QAttention {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { attention: SelfAttention::read(node)? }))
    }
}

impl Operator for QAttention {
    fn name(&self) -> &str {
        "QAttention"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let [batch, seq, _] = known_sizes(inputs.get(0)?, "the input")?;
        let [_, columns] = known_sizes(inputs.get(1)?, "the weight")?;
        let value_size = columns.divided_by(&3i64.into()).unwrap_or_else(Dim::unknown);
        self.attention.infer(DataType::F32, [batch, seq], value_size, inputs.optional(8).copied())
    }

    fn prepare(&self, constants: &Operands<Option<&Constant>>) -> Result<Option<Prepared>, Problem> {
        self.pack(constants)
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        self.compute_unpacked(&inputs)
    }
}

impl IntegerOperator for QAttention {
    const FACTOR: usize = 1;
    const ZERO: usize = 7;

    fn compute(&self, inputs: &Operands<Array>, factor: &Factor) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        let [batch, seq, _] = sizes(x, "the input")?;
        let columns = match factor {
            Factor::Array(weight, _) => {
                let [_, columns] = sizes(weight, "the weight")?;
                columns
            }
            Factor::Packed(weight) => weight.out_features(),
        };
        if columns % 3 != 0 || columns == 0 {
            problem!("the weight's {columns} columns are not queries, keys and values");
        }
        let input_scale = scale(inputs.get(3)?, "input_scale")?;
        let scales: Vec<f32> =
            inputs.get(4)?.to_floats()?.iter().map(|weight_scale| input_scale * weight_scale).collect();
        let product = IntegerProduct::new(x, inputs.optional(6), factor)?;
        let qkv = product.scaled(&scales, Some(inputs.get(2)?))?;
        let context =
            Context { mask_index: inputs.optional(5), past: inputs.optional(8), attention_bias: None };
        let sizes = [columns / 3; 3];
        self.attention.run(qkv.values()?, [batch, seq], sizes, &context, DataType::F32)
    }
}
