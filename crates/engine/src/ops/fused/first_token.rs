//! What the first token of each sequence pays the others, as BM42 reads it.

use super::packed::sequences;
use crate::graph::{Array, Info, Operands, Operator, Problem, checked_len, problem};
use crate::kernels::softmax;

/// From attention's probabilities, `[batch_size, num_heads, seq_len, seq_len]`, for each token the mean over heads of
/// what the first token pays it, `[batch_size, seq_len, 1]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FirstTokenAttention;

impl Operator for FirstTokenAttention {
    fn name(&self) -> &str {
        "FirstTokenAttention"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        match x.shape.as_deref() {
            Some([batch_size, _, _, keys]) => {
                Ok(vec![Info::new(x.dtype, vec![batch_size.clone(), keys.clone(), 1i64.into()])])
            }
            shape => problem!("probabilities of shape {shape:?}, expected four dimensions"),
        }
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        let &[batch_size, num_heads, queries, keys] = x.shape() else {
            problem!("probabilities of shape {:?}, expected four dimensions", x.shape());
        };
        if queries != keys || num_heads == 0 {
            problem!("probabilities of {num_heads} heads, of {queries} tokens for {keys}");
        }
        let shape = [batch_size, keys, 1];
        let mut means = vec![0.0f32; checked_len(&shape, size_of::<f32>())?];
        let probabilities = x.to_floats()?;
        if keys > 0 {
            let texts = probabilities.chunks_exact(num_heads * keys * keys);
            for (means, text) in means.chunks_exact_mut(keys).zip(texts) {
                add_means(means, text.chunks_exact(keys * keys).map(|head| &head[..keys]), num_heads);
            }
        }
        Ok(vec![Array::from_floats(x.dtype(), shape, means)?])
    }
}

/// [`FirstTokenAttention`] from queries and keys: inputs are those, each `[1, total_tokens, ...]`, and `cu_seqlens`; the
/// result is `[1, total_tokens, 1]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PackedFirstTokenAttention {
    pub(crate) head_dim: usize,
    pub(crate) scale: f32,
    /// The first column of each head. What a token has is counted as one row.
    pub(crate) query_columns: Vec<usize>,
    /// As many, of keys.
    pub(crate) key_columns: Vec<usize>,
}

impl Operator for PackedFirstTokenAttention {
    fn name(&self) -> &str {
        "PackedFirstTokenAttention"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        let Some([one, tokens, ..]) = x.shape.as_deref() else {
            problem!("packed tokens have dimensions that are known");
        };
        Ok(vec![Info::new(x.dtype, vec![one.clone(), tokens.clone(), 1i64.into()])])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (queries, keys) = (inputs.get(0)?, inputs.get(1)?);
        let sequences = sequences(queries, inputs.get(2)?)?;
        let tokens = queries.shape()[1];
        if keys.shape().get(..2) != Some(&[1, tokens]) {
            problem!("keys of shape {:?} for {tokens} tokens", keys.shape());
        }
        let width = |array: &Array| array.len().checked_div(tokens).unwrap_or(0);
        let (query_width, key_width) = (width(queries), width(keys));
        for (columns, width) in [(&self.query_columns, query_width), (&self.key_columns, key_width)] {
            let last = columns.iter().max().map_or(0, |first| first + self.head_dim);
            if tokens > 0 && width < last {
                problem!("rows of {width} numbers have no column {last}");
            }
        }
        let (queries_of, keys_of) = (queries.to_floats()?, keys.to_floats()?);
        let heads = || self.query_columns.iter().zip(&self.key_columns);
        let mut means = vec![0.0f32; tokens];
        for sequence in sequences.into_iter().filter(|sequence| !sequence.is_empty()) {
            let query = &queries_of[sequence.start * query_width..][..query_width];
            let mut scores = Vec::with_capacity(self.key_columns.len() * sequence.len());
            for (query_column, key_column) in heads() {
                let query = &query[*query_column..][..self.head_dim];
                scores.extend(sequence.clone().map(|token| {
                    let key = &keys_of[token * key_width + key_column..][..self.head_dim];
                    query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>() * self.scale
                }));
            }
            softmax(&mut scores, sequence.len());
            let heads = scores.chunks_exact(sequence.len());
            add_means(&mut means[sequence], heads, self.key_columns.len());
        }
        Ok(vec![Array::from_floats(queries.dtype(), [1, tokens, 1], means)?])
    }
}

/// Adds the means of `num_heads` rows.
fn add_means<'a>(means: &mut [f32], heads: impl Iterator<Item = &'a [f32]>, num_heads: usize) {
    for head in heads {
        means.iter_mut().zip(head).for_each(|(mean, probability)| *mean += probability);
    }
    means.iter_mut().for_each(|mean| *mean /= num_heads as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(operator: &dyn Operator, inputs: &[Array]) -> Result<Array, Problem> {
        let inputs = inputs.iter().cloned().map(Some).collect();
        Ok(operator.run(Operands::new(inputs))?.swap_remove(0))
    }

    fn array(shape: &[usize], values: &[f32]) -> Array {
        Array::new(shape, values.to_vec()).unwrap()
    }

    #[test]
    fn means_over_heads_of_the_first_rows() {
        let probabilities =
            [0.25, 0.75, 9.0, 9.0, 0.75, 0.25, 9.0, 9.0, 0.5, 0.5, 9.0, 9.0, 1.0, 0.0, 9.0, 9.0];
        let means = run(&FirstTokenAttention, &[array(&[2, 2, 2, 2], &probabilities)]).unwrap();
        assert_eq!(means, array(&[2, 2, 1], &[0.5, 0.5, 0.75, 0.25]));
        assert!(run(&FirstTokenAttention, &[array(&[1, 1, 1, 2], &[0.5; 2])]).is_err());
        assert!(run(&FirstTokenAttention, &[array(&[2, 2], &[0.5; 4])]).is_err());
        let none = run(&FirstTokenAttention, &[array(&[1, 2, 0, 0], &[])]).unwrap();
        assert_eq!(none.shape(), [1, 0, 1]);
    }

    #[test]
    fn packed_is_a_softmax_of_products_within_each_sequence() {
        let operator = PackedFirstTokenAttention {
            head_dim: 1,
            scale: 2.0,
            query_columns: vec![0, 1],
            key_columns: vec![2, 1],
        };
        let queries = array(&[1, 3, 2], &[0.5, 1.0, 7.0, 7.0, 3.0, 3.0]);
        let keys = array(&[1, 3, 3], &[7.0, 1.0, 2.0, 7.0, 3.0, 1.0, 7.0, 5.0, 5.0]);
        let ends = Array::vector(vec![0i64, 2, 3]);
        let found = run(&operator, &[queries.clone(), keys.clone(), ends.clone()]).unwrap();
        // Heads' scores of the first sequence are [2, 1] and [2, 6].
        let (a, b) = (1.0 / (1.0 + (-1f32).exp()), 1.0 / (1.0 + 4f32.exp()));
        let expected = [(a + b) / 2.0, 1.0 - (a + b) / 2.0, 1.0];
        let found = found.into_floats().unwrap();
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {expected:?}");
        let narrow = PackedFirstTokenAttention { query_columns: vec![0, 2], ..operator.clone() };
        assert!(run(&narrow, &[queries.clone(), keys, ends.clone()]).is_err());
        assert!(run(&operator, &[queries, array(&[1, 2, 3], &[0.0; 6]), ends]).is_err());
    }
}
