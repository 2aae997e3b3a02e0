//! Runs a graph that does not run packed: sequences of equal length together, so that there is no padding either.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{ImportedEncoder, OutputRows, into_floats};
use crate::graph::{Array, DataType, Graph, Node, ValueId};
use crate::ops::normalisation::BatchNormalization;
use crate::packing::{OutputLayout, Roles};
use crate::{Batch, Error, Result};

/// How a graph runs that does not run packed.
#[derive(Clone, Debug)]
pub(super) struct Padded {
    /// Why it does not.
    pub(super) reason: String,
    inputs: PaddedInputs,
    /// Whether a text's result would depend on the other texts of its batch.
    one_by_one: bool,
}

/// Names and types of the inputs of a padded graph.
#[derive(Clone, Debug)]
struct PaddedInputs {
    token_ids: (String, DataType),
    attention_mask: Option<(String, DataType)>,
    type_ids: Option<(String, DataType)>,
    positions: Option<(String, DataType)>,
}

/// Tokens that run at a time where a graph runs padded.
const PADDED_TOKENS: usize = 4096;

/// Operators of which [`mixes`] is always true.
const MIXING: &[&str] =
    &["DynamicQuantizeLinear", "DynamicQuantizeMatMul", "QAttention", "QEmbedLayerNormalization"];

/// Whether a node's results for one text depend on the other texts of its batch.
fn mixes(node: &Node) -> bool {
    let takes_statistics =
        node.operator::<BatchNormalization>().is_some_and(|operator| operator.momentum.is_some());
    takes_statistics || MIXING.contains(&node.operator.name())
}

impl Padded {
    pub(super) fn new(graph: &Graph, roles: &Roles, reason: String) -> Self {
        let one_by_one = graph.nodes.iter().any(mixes);
        Self { reason, inputs: PaddedInputs::new(graph, roles), one_by_one }
    }

    /// The values of each of the encoder's outputs.
    pub(super) fn run(&self, encoder: &ImportedEncoder, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let sequences: Vec<_> = batch.sequences().collect();
        let mut by_len: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, sequence) in sequences.iter().enumerate() {
            by_len.entry(sequence.len()).or_default().push(index);
        }
        let mut all: Vec<Vec<f32>> = encoder.outputs.iter().map(|rows| vec![0.0; rows.len(batch)]).collect();
        for (seq_len, indices) in by_len {
            let at_once = if self.one_by_one { 1 } else { (PADDED_TOKENS / seq_len.max(1)).max(1) };
            for indices in indices.chunks(at_once) {
                let some: Vec<_> = indices.iter().map(|index| sequences[*index].clone()).collect();
                let attended = indices.iter().map(|index| batch.attended().map(|all| all[*index] as usize));
                let attended: Vec<usize> = attended.map(|length| length.unwrap_or(seq_len)).collect();
                let texts = self.inputs.arrays(batch, &some, &attended, seq_len)?;
                let given = texts.into_iter().chain(encoder.given.iter().cloned());
                let found = encoder.session.run(given)?;
                for ((values, rows), found) in all.iter_mut().zip(&*encoder.outputs).zip(found) {
                    rows.place(values, &into_floats(found, &rows.name)?, indices, &sequences, seq_len)?;
                }
            }
        }
        Ok(all)
    }
}

impl OutputRows {
    /// Puts what was found for sequences of one length, those of `indices`, where it belongs in `values`.
    fn place(
        &self,
        values: &mut [f32],
        found: &[f32],
        indices: &[usize],
        sequences: &[Range<usize>],
        seq_len: usize,
    ) -> Result<()> {
        let rows_each = match self.layout {
            OutputLayout::Tokens => seq_len,
            OutputLayout::TokensButFirst => seq_len.saturating_sub(1),
            OutputLayout::Sequences => 1,
        };
        if found.len() != indices.len() * rows_each * self.size {
            let problem = format!("has {} values for {} rows", found.len(), indices.len() * rows_each);
            return Err(Error::GraphInput { input: self.name.clone(), problem });
        }
        let size = rows_each * self.size;
        for (place, index) in indices.iter().enumerate() {
            let first = match self.layout {
                OutputLayout::Tokens => sequences[*index].start,
                OutputLayout::TokensButFirst => sequences[*index].end - rows_each,
                OutputLayout::Sequences => *index,
            };
            values[first * self.size..][..size].copy_from_slice(&found[place * size..][..size]);
        }
        Ok(())
    }
}

impl PaddedInputs {
    fn new(graph: &Graph, roles: &Roles) -> Self {
        let input = |id: ValueId| {
            let value = graph.value(id);
            (value.name.clone(), value.declared_dtype())
        };
        Self {
            token_ids: input(roles.token_ids),
            attention_mask: roles.attention_mask.map(input),
            type_ids: roles.type_ids.map(input),
            positions: roles.positions.map(input),
        }
    }

    /// The inputs for sequences of one length, of which the first tokens, `attended` of each, are attended to.
    fn arrays(
        &self,
        batch: &Batch,
        sequences: &[Range<usize>],
        attended: &[usize],
        seq_len: usize,
    ) -> Result<Vec<(String, Array)>> {
        let gather = |ids: &[u32]| {
            sequences
                .iter()
                .flat_map(|rows| ids[rows.clone()].iter().map(|id| i64::from(*id)))
                .collect::<Vec<_>>()
        };
        let count = sequences.len() * seq_len;
        let types = batch.type_ids().map_or_else(|| vec![0; count], gather);
        let positions = (0..count).map(|index| (index % seq_len.max(1)) as i64).collect();
        let ones = |length: usize| (0..seq_len).map(move |place| i64::from(place < length));
        let mask = attended.iter().copied().flat_map(ones).collect();
        let given = [
            (Some(&self.token_ids), gather(batch.token_ids())),
            (self.attention_mask.as_ref(), mask),
            (self.type_ids.as_ref(), types),
            (self.positions.as_ref(), positions),
        ];
        let mut arrays = Vec::new();
        for (input, values) in given {
            let Some((name, dtype)) = input else {
                continue;
            };
            let shape = [sequences.len(), seq_len];
            let array = Array::from_ints(*dtype, shape, values)
                .map_err(|problem| Error::GraphInput { input: name.clone(), problem: problem.to_string() })?;
            arrays.push((name.clone(), array));
        }
        Ok(arrays)
    }
}
