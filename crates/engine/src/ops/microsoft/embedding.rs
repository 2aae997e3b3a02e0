//! `EmbedLayerNormalization`: the sum of word, position and segment embeddings, normalised.

use half::f16;

use super::{expect_float, known_sizes, sizes, vector_of_len};
use crate::graph::{Array, DataType, Info, Operands, Operator, Problem, checked_len, problem};
use crate::kernels::{LayerNormOp, layer_norm};
use crate::ops::NodeReader;

/// `EmbedLayerNormalization`
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct EmbedLayerNormalization {
    pub(crate) epsilon: f32,
}

impl EmbedLayerNormalization {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        // It tells shape inference what the second output is; that follows from the inputs.
        node.attributes.ignore(&["mask_index_type"]);
        Ok(Box::new(Self { epsilon: epsilon(node)? }))
    }
}

/// What is added to the variance.
pub(super) fn epsilon(node: &NodeReader) -> Result<f32, Problem> {
    match node.attributes.float("epsilon")?.unwrap_or(1e-12) {
        epsilon if epsilon >= 0.0 => Ok(epsilon),
        epsilon => problem!("attribute `epsilon` is {epsilon}"),
    }
}

impl Operator for EmbedLayerNormalization {
    fn name(&self) -> &str {
        "EmbedLayerNormalization"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (ids, words) = (inputs.get(0)?, inputs.get(2)?);
        expect_float(words, "the word embedding")?;
        let [batch, seq] = known_sizes(ids, "input_ids")?;
        let [_, hidden] = known_sizes(words, "the word embedding")?;
        let embeddings = Info::new(words.dtype, vec![batch.clone(), seq, hidden]);
        Ok(vec![embeddings.clone(), Info::new(DataType::I32, vec![batch]), embeddings])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let words = inputs.get(2)?;
        let embeddings = Embeddings {
            ids: inputs.get(0)?,
            segments: inputs.optional(1),
            positions: inputs.optional(8),
            words: Table::new(words, None, "the word embedding")?,
            position_table: Table::new(inputs.get(3)?, None, "the position embedding")?,
            segment_table: match inputs.optional(4) {
                Some(table) => Some(Table::new(table, None, "the segment embedding")?),
                None => None,
            },
        };
        let sum = embeddings.sum()?;
        let hidden = embeddings.words.hidden;
        let gamma = vector_of_len(inputs.get(5)?, hidden, "gamma")?;
        let beta = vector_of_len(inputs.get(6)?, hidden, "beta")?;
        let mut normalized = sum.clone();
        layer_norm(&mut normalized, &LayerNormOp { weight: &gamma, bias: &beta, eps: self.epsilon });
        let [batch, seq] = sizes(embeddings.ids, "input_ids")?;
        let shape = [batch, seq, hidden];
        Ok(vec![
            Array::from_floats(words.dtype(), shape, normalized)?,
            MaskIndex { mask: inputs.optional(7), batch, seq }.array()?,
            Array::from_floats(words.dtype(), shape, sum)?,
        ])
    }
}

/// How many tokens of each sequence count; zeros where there is no mask.
pub(crate) struct MaskIndex<'a> {
    pub(crate) mask: Option<&'a Array>,
    pub(crate) batch: usize,
    pub(crate) seq: usize,
}

impl MaskIndex<'_> {
    pub(crate) fn array(&self) -> Result<Array, Problem> {
        let Some(mask) = self.mask else {
            return Array::full([self.batch], 0i32);
        };
        if mask.shape() != [self.batch, self.seq] {
            problem!("the mask has shape {:?}, expected [{}, {}]", mask.shape(), self.batch, self.seq);
        }
        checked_len(&[self.batch], size_of::<i32>())?;
        let values = mask.to_ints()?;
        let count = |row: usize| {
            values[row * self.seq..(row + 1) * self.seq].iter().filter(|&&value| value == 1).count()
        };
        let counts = (0..self.batch).map(|row| i32::try_from(count(row)));
        match counts.collect() {
            Ok(counts) => Ok(Array::vector::<i32>(counts)),
            Err(_) => problem!("sequences of {} tokens are too long", self.seq),
        }
    }
}

/// Three embeddings of each token.
pub(crate) struct Embeddings<'a> {
    /// `[batch, seq]`
    pub(crate) ids: &'a Array,
    /// As `ids`.
    pub(crate) segments: Option<&'a Array>,
    /// As `ids`, or of one sequence for all; from 0 upwards where `None`.
    pub(crate) positions: Option<&'a Array>,
    pub(crate) words: Table<'a>,
    pub(crate) position_table: Table<'a>,
    pub(crate) segment_table: Option<Table<'a>>,
}

impl Embeddings<'_> {
    /// `[batch * seq, hidden]`
    pub(crate) fn sum(&self) -> Result<Vec<f32>, Problem> {
        let [batch, seq] = sizes(self.ids, "input_ids")?;
        let hidden = self.words.hidden;
        let mut out = vec![0.0; checked_len(&[batch, seq, hidden], size_of::<f32>())?];
        if out.is_empty() {
            return Ok(out);
        }
        for table in [Some(&self.position_table), self.segment_table.as_ref()].into_iter().flatten() {
            if table.hidden != hidden {
                problem!("rows of {} have {} numbers, the words' {hidden}", table.what, table.hidden);
            }
        }
        self.words.add(&mut out, self.ids.to_ints()?.into_iter())?;
        match self.positions {
            None => {
                let position = |token| i64::try_from(token % seq).unwrap_or(i64::MAX);
                self.position_table.add(&mut out, (0..batch * seq).map(position))?;
            }
            Some(positions) if positions.shape() == [1, seq] || positions.shape() == [batch, seq] => {
                let positions = positions.to_ints()?;
                self.position_table.add(&mut out, positions.iter().copied().cycle())?;
            }
            Some(positions) => {
                problem!("position_ids have shape {:?}, expected [{batch}, {seq}]", positions.shape())
            }
        }
        match (self.segments, &self.segment_table) {
            (None, _) => {}
            (Some(segments), Some(table)) if segments.shape() == self.ids.shape() => {
                table.add(&mut out, segments.to_ints()?.into_iter())?;
            }
            (Some(_), None) => problem!("there are segment_ids, but no segment embedding"),
            (Some(segments), _) => {
                problem!("segment_ids have shape {:?}, expected [{batch}, {seq}]", segments.shape())
            }
        }
        Ok(out)
    }
}

/// Rows to be looked up.
pub(crate) struct Table<'a> {
    rows: usize,
    hidden: usize,
    values: Values<'a>,
    what: &'static str,
}

enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    /// With scale and zero point.
    U8(&'a [u8], f32, i32),
    I8(&'a [i8], f32, i32),
}

impl<'a> Table<'a> {
    /// `quantization` is scale and zero point of integers.
    pub(crate) fn new(
        array: &'a Array,
        quantization: Option<(f32, i32)>,
        what: &'static str,
    ) -> Result<Self, Problem> {
        let [rows, hidden] = sizes(array, what)?;
        let values = match (array.dtype(), quantization) {
            (DataType::F32, None) => Values::F32(array.values()?),
            (DataType::F16, None) => Values::F16(array.values()?),
            (DataType::U8, Some((scale, zero))) => Values::U8(array.values()?, scale, zero),
            (DataType::I8, Some((scale, zero))) => Values::I8(array.values()?, scale, zero),
            (dtype, _) => problem!("{what} of {dtype} is not supported"),
        };
        Ok(Self { rows, hidden, values, what })
    }

    /// Numbers of a row.
    pub(crate) fn hidden(&self) -> usize {
        self.hidden
    }

    /// Adds a row to each row of `out`.
    fn add(&self, out: &mut [f32], ids: impl Iterator<Item = i64>) -> Result<(), Problem> {
        for (row, id) in out.chunks_exact_mut(self.hidden).zip(ids) {
            let Some(index) = usize::try_from(id).ok().filter(|&index| index < self.rows) else {
                problem!("{id} is not a row of {}, which has {}", self.what, self.rows);
            };
            let range = index * self.hidden..(index + 1) * self.hidden;
            match &self.values {
                Values::F32(values) => add(row, &values[range], |value| value),
                Values::F16(values) => add(row, &values[range], f16::to_f32),
                Values::U8(values, scale, zero) => {
                    add(row, &values[range], |value| (i32::from(value) - zero) as f32 * scale);
                }
                Values::I8(values, scale, zero) => {
                    add(row, &values[range], |value| (i32::from(value) - zero) as f32 * scale);
                }
            }
        }
        Ok(())
    }
}

fn add<T: Copy>(row: &mut [f32], values: &[T], to_f32: impl Fn(T) -> f32) {
    for (sum, value) in row.iter_mut().zip(values) {
        *sum += to_f32(*value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ids: Vec<i32>, rows: usize) -> Result<Vec<Array>, Problem> {
        let len = ids.len();
        let inputs = [
            Array::new([1, len], ids).ok(),
            None,
            Array::full([3, 2], 1.0f32).ok(),
            Array::full([rows, 2], 1.0f32).ok(),
            None,
            Array::full([2], 1.0f32).ok(),
            Array::full([2], 1.0f32).ok(),
        ];
        EmbedLayerNormalization { epsilon: 1e-12 }.run(Operands::new(inputs.to_vec()))
    }

    #[test]
    fn ids_are_rows() {
        assert!(run(vec![0, 2], 2).is_ok());
        assert!(run(vec![0, 3], 2).is_err());
        assert!(run(vec![-1], 2).is_err());
        assert!(run(vec![0, 0, 0], 2).is_err());
        assert_eq!(run(Vec::new(), 0).unwrap()[0].shape(), [1, 0, 2]);
        let mask = Array::full([1 << 40, 0], 1i32).unwrap();
        assert!(MaskIndex { mask: Some(&mask), batch: 1 << 40, seq: 0 }.array().is_err());
    }
}
