//! `QEmbedLayerNormalization`: `EmbedLayerNormalization` of 8-bit tables.

use super::{scale, zero_point};
use crate::graph::{Array, DataType, Info, Operands, Operator, Problem, problem};
use crate::kernels::{LayerNormOp, layer_norm};
use crate::ops::NodeReader;
use crate::ops::microsoft::{Embeddings, MaskIndex, Table, known_sizes, sizes};

/// `QEmbedLayerNormalization`
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct QEmbedLayerNormalization {
    pub(crate) epsilon: f32,
}

impl QEmbedLayerNormalization {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        match node.attributes.float("epsilon")?.unwrap_or(1e-12) {
            epsilon if epsilon >= 0.0 => Ok(Box::new(Self { epsilon })),
            epsilon => problem!("attribute `epsilon` is {epsilon}"),
        }
    }
}

/// Which inputs are the scale and the zero point of input `index`; those of tables and vectors follow each other.
fn parameters(inputs: &Operands<Array>, index: usize) -> Result<(f32, i32), Problem> {
    Ok((scale(inputs.get(index + 6)?, "a scale")?, zero_point(Some(inputs.get(index + 11)?))?))
}

fn vector(inputs: &Operands<Array>, index: usize, len: usize) -> Result<Vec<f32>, Problem> {
    let array = inputs.get(index)?;
    // After the tables' scales and the mask's place.
    let (scale, zero) = parameters(inputs, index)?;
    if array.shape() != [len] {
        problem!("gamma or beta has shape {:?}, expected [{len}]", array.shape());
    }
    Ok(array.to_ints()?.into_iter().map(|value| (value - i64::from(zero)) as f32 * scale).collect())
}

impl Operator for QEmbedLayerNormalization {
    fn name(&self) -> &str {
        "QEmbedLayerNormalization"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let [batch, seq] = known_sizes(inputs.get(0)?, "input_ids")?;
        let [_, hidden] = known_sizes(inputs.get(2)?, "the word embedding")?;
        Ok(vec![
            Info::new(DataType::F32, vec![batch.clone(), seq, hidden]),
            Info::new(DataType::I32, vec![batch]),
        ])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let table =
            |index: usize, what| Table::new(inputs.get(index)?, Some(parameters(&inputs, index)?), what);
        let embeddings = Embeddings {
            ids: inputs.get(0)?,
            segments: inputs.optional(1),
            positions: None,
            words: table(2, "the word embedding")?,
            position_table: table(3, "the position embedding")?,
            segment_table: match inputs.optional(4) {
                Some(_) => Some(table(4, "the segment embedding")?),
                None => None,
            },
        };
        let mut values = embeddings.sum()?;
        let hidden = embeddings.words.hidden();
        let (gamma, beta) = (vector(&inputs, 5, hidden)?, vector(&inputs, 6, hidden)?);
        layer_norm(&mut values, &LayerNormOp { weight: &gamma, bias: &beta, eps: self.epsilon });
        let [batch, seq] = sizes(embeddings.ids, "input_ids")?;
        let mask = MaskIndex { mask: inputs.optional(7), batch, seq }.array()?;
        Ok(vec![Array::new([batch, seq, hidden], values)?, mask])
    }
}
