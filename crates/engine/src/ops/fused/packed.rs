//! Operators over sequences that lie end to end: axis 0 is 1, axis 1 goes over all tokens, `cu_seqlens` says where each
//! sequence ends.

use std::ops::Range;
use std::sync::Arc;

use crate::Precision;
use crate::graph::{
    Array, DataType, Dim, Element, Info, Operands, Operator, Problem, checked_len, for_computed_type, problem,
};
use crate::kernels::{AttentionOptions, AttentionShape, PositionBias, Rotary, attention_of_rows};

/// Self-attention: inputs are `[1, total_tokens, 3 * num_heads * head_dim]`, `cu_seqlens` and, if it was wanted, how many
/// of each sequence's first tokens are attended to, `[batch_size]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PackedAttention {
    pub(crate) shape: AttentionShape,
    pub(crate) precision: Precision,
    /// Tokens attend to those at most this far away.
    pub(crate) window: Option<usize>,
    pub(crate) bias: Option<DistanceTable>,
    pub(crate) rotary: Option<Arc<RotaryTable>>,
}

/// Rotations of queries and keys by position, as [`Rotary`] takes them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RotaryTable {
    /// `[max_positions, dim / 2]`
    pub(crate) cos: Vec<f32>,
    /// `[max_positions, dim / 2]`
    pub(crate) sin: Vec<f32>,
    pub(crate) dim: usize,
}

/// What is added to scores by key minus query.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DistanceTable {
    /// `[num_heads, 2 * max_distance - 1]`
    pub(crate) values: Vec<f32>,
    pub(crate) max_distance: usize,
    /// Whether larger distances take the first or last entry; otherwise sequences must not be longer.
    pub(crate) is_whole: bool,
}

impl Operator for PackedAttention {
    fn name(&self) -> &str {
        "PackedAttention"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let Some([one, tokens, _]) = inputs.get(0)?.shape.as_deref() else {
            problem!("packed tokens have three dimensions");
        };
        let hidden_size = Dim::from(self.shape.num_heads * self.shape.head_dim);
        Ok(vec![Info::new(inputs.get(0)?.dtype, vec![one.clone(), tokens.clone(), hidden_size])])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let qkv = inputs.get(0)?;
        let sequences = sequences(qkv, inputs.get(1)?)?;
        if let Some(DistanceTable { max_distance, is_whole: false, .. }) = &self.bias
            && let Some(longest) = sequences.iter().map(Range::len).max()
            && longest > *max_distance
        {
            problem!("a sequence of {longest} tokens, of at most {max_distance}");
        }
        let bias = self
            .bias
            .as_ref()
            .map(|bias| PositionBias::Relative { table: &bias.values, max_distance: bias.max_distance });
        let rotary =
            self.rotary.as_ref().map(|table| Rotary { cos: &table.cos, sin: &table.sin, dim: table.dim });
        let attended = match inputs.optional(2) {
            None => None,
            Some(lengths) => {
                Some(lengths.values::<i64>()?.iter().map(|length| *length as u32).collect::<Vec<_>>())
            }
        };
        let (window, precision, attended) = (self.window, self.precision, attended.as_deref());
        let options = AttentionOptions { bias, window, precision, rotary, attended };
        let values = attention_of_rows(&qkv.to_floats()?, &sequences, self.shape, &options);
        let values = values.map_err(|error| Problem::new(error.to_string()))?;
        let shape = [1, qkv.shape()[1], self.shape.num_heads * self.shape.head_dim];
        Ok(vec![Array::from_floats(qkv.dtype(), shape, values)?])
    }
}

/// Rows of a table by each token's place in its sequence: inputs are `[max_positions, ...]` and positions
/// `[total_tokens]`; the result is `[1, total_tokens, ...]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RowsByPosition;

impl Operator for RowsByPosition {
    fn name(&self) -> &str {
        "RowsByPosition"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let table = inputs.get(0)?;
        let (Some(rows), Some([tokens])) = (&table.shape, inputs.get(1)?.shape.as_deref()) else {
            problem!("a table and positions have known dimensions");
        };
        let shape = [&[1i64.into(), tokens.clone()], rows.get(1..).unwrap_or_default()].concat();
        Ok(vec![Info::new(table.dtype, shape)])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (table, positions) = (inputs.get(0)?, inputs.get(1)?.values::<i64>()?);
        let Some((&max_positions, rest)) = table.shape().split_first() else {
            problem!("the table is a scalar");
        };
        if let Some(position) =
            positions.iter().find(|position| !(0..max_positions as i64).contains(position))
        {
            problem!("a sequence of {} tokens, of at most {max_positions}", position.saturating_add(1));
        }
        let shape = [&[1, positions.len()], rest].concat();
        let width: usize = rest.iter().product();
        Ok(vec![for_computed_type!(table.dtype(), T => {
            let mut values: Vec<T> = Vec::with_capacity(checked_len(&shape, size_of::<T>())?);
            let rows = table.values::<T>()?;
            for &position in positions {
                values.extend_from_slice(&rows[position as usize * width..][..width]);
            }
            Array::new(shape, values)?
        })])
    }
}

/// The first token of every sequence: `[1, total_tokens, ...]` and `cu_seqlens` to `[batch_size, ...]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FirstTokens;

impl Operator for FirstTokens {
    fn name(&self) -> &str {
        "FirstTokens"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        Ok(vec![per_sequence(inputs.get(0)?, false)?])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        token_of_each(&inputs, |sequence| sequence.start)
    }
}

/// The last token of every sequence: `[1, total_tokens, ...]` and `cu_seqlens` to `[batch_size, ...]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LastTokens;

impl Operator for LastTokens {
    fn name(&self) -> &str {
        "LastTokens"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        Ok(vec![per_sequence(inputs.get(0)?, false)?])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        token_of_each(&inputs, |sequence| sequence.end - 1)
    }
}

/// One token of every sequence, none of which may be empty.
fn token_of_each(
    inputs: &Operands<Array>,
    choose: impl Fn(&Range<usize>) -> usize,
) -> Result<Vec<Array>, Problem> {
    let x = inputs.get(0)?;
    let sequences = sequences(x, inputs.get(1)?)?;
    if sequences.iter().any(Range::is_empty) {
        problem!("a sequence has no tokens");
    }
    let width: usize = x.shape()[2..].iter().product();
    let shape = [&[sequences.len()], &x.shape()[2..]].concat();
    Ok(vec![for_computed_type!(x.dtype(), T => {
        let mut values: Vec<T> = Vec::with_capacity(sequences.len() * width);
        let tokens = x.values::<T>()?;
        for sequence in &sequences {
            values.extend_from_slice(&tokens[choose(sequence) * width..][..width]);
        }
        Array::new(shape, values)?
    })])
}

/// How the tokens of a sequence become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    Sum,
    Mean,
    Max,
}

/// A reduction over the tokens of every sequence: `[1, total_tokens, ...]` and `cu_seqlens` to `[batch_size, ...]`, or
/// `[batch_size, 1, ...]` where the axis is kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReduceSequences {
    pub(crate) reduction: Reduction,
    pub(crate) keep_axis: bool,
}

impl Operator for ReduceSequences {
    fn name(&self) -> &str {
        "ReduceSequences"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        Ok(vec![per_sequence(inputs.get(0)?, self.keep_axis)?])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        let sequences = sequences(x, inputs.get(1)?)?;
        let axis: &[usize] = if self.keep_axis { &[1] } else { &[] };
        let shape = [&[sequences.len()], axis, &x.shape()[2..]].concat();
        match x.dtype() {
            DataType::F32 => self.reduce::<f32>(x, &sequences, shape, |sum, len| sum / len as f32),
            DataType::I32 => self.reduce::<i32>(x, &sequences, shape, |sum, len| sum / len as i32),
            DataType::I64 => self.reduce::<i64>(x, &sequences, shape, |sum, len| sum / len as i64),
            other => problem!("tokens of {other} are not reduced"),
        }
        .map(|array| vec![array])
    }
}

impl ReduceSequences {
    fn reduce<T: Element + Copy + PartialOrd + std::ops::AddAssign>(
        &self,
        x: &Array,
        sequences: &[Range<usize>],
        shape: Vec<usize>,
        divide: impl Fn(T, usize) -> T,
    ) -> Result<Array, Problem> {
        let width: usize = x.shape()[2..].iter().product();
        let tokens = x.values::<T>()?;
        let mut values = vec![T::default(); sequences.len() * width];
        for (row, sequence) in values.chunks_exact_mut(width.max(1)).zip(sequences) {
            let mut rows = tokens[sequence.start * width..sequence.end * width].chunks_exact(width.max(1));
            let Some(first) = rows.next() else {
                problem!("a sequence has no tokens");
            };
            row.copy_from_slice(first);
            for other in rows {
                for (value, other) in row.iter_mut().zip(other) {
                    match self.reduction {
                        Reduction::Sum | Reduction::Mean => *value += *other,
                        Reduction::Max if *other > *value => *value = *other,
                        Reduction::Max => {}
                    }
                }
            }
            if self.reduction == Reduction::Mean {
                row.iter_mut().for_each(|value| *value = divide(*value, sequence.len()));
            }
        }
        Array::new(shape, values)
    }
}

/// Running sums of integers within each sequence, the token's own included: `[1, total_tokens]` and `cu_seqlens` to the
/// same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CumSumSequences;

impl Operator for CumSumSequences {
    fn name(&self) -> &str {
        "CumSumSequences"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        Ok(vec![Info { dtype: x.dtype, shape: x.shape.clone(), ints: None, constant: None }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        let sequences = sequences(x, inputs.get(1)?)?;
        macro_rules! sums {
            ($type:ty) => {{
                let mut values = x.values::<$type>()?.to_vec();
                if values.len() != x.shape()[1] {
                    problem!("tokens have more than one number");
                }
                for sequence in &sequences {
                    let mut sum: $type = 0;
                    for value in &mut values[sequence.clone()] {
                        sum = sum.wrapping_add(*value);
                        *value = sum;
                    }
                }
                Array::new(x.shape(), values)?
            }};
        }
        Ok(vec![match x.dtype() {
            DataType::I32 => sums!(i32),
            DataType::I64 => sums!(i64),
            other => problem!("running sums of {other} are not supported"),
        }])
    }
}

/// The tokens of each sequence of `x`.
pub(super) fn sequences(x: &Array, cu_seqlens: &Array) -> Result<Vec<Range<usize>>, Problem> {
    let ends = cu_seqlens.values::<i64>()?;
    let &[1, tokens, ..] = x.shape() else {
        problem!("packed tokens of shape {:?}", x.shape());
    };
    let is_valid = ends.first() == Some(&0)
        && ends.last().is_some_and(|last| *last == tokens as i64)
        && ends.is_sorted();
    if !is_valid {
        problem!("cu_seqlens do not fit {tokens} tokens");
    }
    Ok(ends.windows(2).map(|pair| pair[0] as usize..pair[1] as usize).collect())
}

fn per_sequence(x: &Info, keep_axis: bool) -> Result<Info, Problem> {
    let Some([_, _, rest @ ..]) = x.shape.as_deref() else {
        problem!("packed tokens have two dimensions and more");
    };
    let axis: &[Dim] = if keep_axis { &[1i64.into()] } else { &[] };
    Ok(Info::new(x.dtype, [&[Dim::symbol("batch_size")], axis, rest].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(operator: &dyn Operator, inputs: &[&Array]) -> Result<Array, Problem> {
        let inputs = inputs.iter().map(|input| Some((*input).clone())).collect();
        Ok(operator.run(Operands::new(inputs))?.swap_remove(0))
    }

    #[test]
    fn sequences_do_not_see_each_other() {
        let x = Array::new([1, 3, 2], vec![1.0f32, 2., 3., 5., 7., 9.]).unwrap();
        let ends = Array::vector(vec![0i64, 2, 3]);
        let reduce = |reduction| ReduceSequences { reduction, keep_axis: false };
        let array = |shape: &[usize], values: &[f32]| Array::new(shape, values.to_vec()).unwrap();
        assert_eq!(run(&reduce(Reduction::Sum), &[&x, &ends]).unwrap(), array(&[2, 2], &[4., 7., 7., 9.]));
        assert_eq!(run(&reduce(Reduction::Mean), &[&x, &ends]).unwrap(), array(&[2, 2], &[2., 3.5, 7., 9.]));
        assert_eq!(run(&FirstTokens, &[&x, &ends]).unwrap(), array(&[2, 2], &[1., 2., 7., 9.]));
        assert_eq!(run(&LastTokens, &[&x, &ends]).unwrap(), array(&[2, 2], &[3., 5., 7., 9.]));
        let ids = Array::new([1, 3], vec![1i32, 1, 1]).unwrap();
        assert_eq!(
            run(&CumSumSequences, &[&ids, &ends]).unwrap(),
            Array::new([1, 3], vec![1i32, 2, 1]).unwrap()
        );
        let positions = Array::vector(vec![0i64, 1, 0]);
        let rows = run(&RowsByPosition, &[&array(&[2, 1], &[5., 6.]), &positions]).unwrap();
        assert_eq!(rows, array(&[1, 3, 1], &[5., 6., 5.]));
    }

    #[test]
    fn what_does_not_fit_is_a_problem() {
        let x = Array::new([1, 3, 2], vec![0.0f32; 6]).unwrap();
        for ends in [vec![0i64, 2], vec![1, 3], vec![0, 4, 3], vec![]] {
            assert!(run(&FirstTokens, &[&x, &Array::vector(ends)]).is_err());
        }
        assert!(run(&FirstTokens, &[&x, &Array::vector(vec![0i64, 0, 3])]).is_err());
        assert!(run(&LastTokens, &[&x, &Array::vector(vec![0i64, 3, 3])]).is_err());
        let table = Array::new([2, 1], vec![0.0f32; 2]).unwrap();
        let problem = run(&RowsByPosition, &[&table, &Array::vector(vec![2i64])]).unwrap_err();
        assert_eq!(problem.to_string(), "a sequence of 3 tokens, of at most 2");
    }
}
