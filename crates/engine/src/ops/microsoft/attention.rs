//! `Attention`: self-attention with the projection to queries, keys and values in it.

use super::heads::{Bias, Columns, Heads, Mask, Scores, after_past, by_head};
use super::{count, expect_float, known_sizes, sizes, vector_of_len};
use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, problem};
use crate::kernels::{product, transposed};
use crate::ops::NodeReader;

/// Self-attention of queries, keys and values that lie in one row for each token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SelfAttention {
    pub(crate) num_heads: usize,
    /// `1 / sqrt(head_dim)` where `None`.
    pub(crate) scale: Option<f32>,
    /// Added to the scores of keys that are masked.
    pub(crate) mask_filter_value: f32,
    /// Tokens do not attend to those after them.
    pub(crate) is_causal: bool,
    /// Keys and values of all tokens are the second output.
    pub(crate) has_present: bool,
}

/// What a self-attention reads besides queries, keys and values.
pub(crate) struct Context<'a> {
    pub(crate) mask_index: Option<&'a Array>,
    pub(crate) past: Option<&'a Array>,
    pub(crate) attention_bias: Option<&'a Array>,
}

impl SelfAttention {
    pub(crate) fn read(node: &NodeReader) -> Result<Self, Problem> {
        let attributes = node.attributes;
        if attributes.flag("do_rotary")? == Some(true) {
            problem!("attribute `do_rotary` is not supported");
        }
        if attributes.flag("past_present_share_buffer")? == Some(true) {
            problem!("attribute `past_present_share_buffer` is not supported");
        }
        // It says how `do_rotary` rotates.
        attributes.ignore(&["rotary_embedding_dim"]);
        Ok(Self {
            num_heads: count(node, "num_heads")?,
            scale: attributes.float("scale")?.filter(|&scale| scale != 0.0),
            mask_filter_value: attributes.float("mask_filter_value")?.unwrap_or(-10_000.0),
            is_causal: attributes.flag("unidirectional")?.unwrap_or(false),
            has_present: node.num_outputs > 1,
        })
    }

    /// From `[batch * seq, sizes[0] + sizes[1] + sizes[2]]`: all queries, then all keys, then all values of a token.
    pub(crate) fn run(
        &self,
        qkv: &[f32],
        [batch, seq]: [usize; 2],
        sizes: [usize; 3],
        context: &Context,
        dtype: DataType,
    ) -> Result<Vec<Array>, Problem> {
        let num_heads = self.num_heads;
        if sizes[0] != sizes[1] || sizes.iter().any(|size| size % num_heads != 0 || *size == 0) {
            problem!("{sizes:?} columns cannot be split into {num_heads} heads");
        }
        let (head_dim, value_dim) = (sizes[0] / num_heads, sizes[2] / num_heads);
        let width = sizes.iter().sum();
        let heads = |offset, dim| {
            by_head(qkv, None, [batch, num_heads, seq, dim], Columns { width, offset, stride: dim })
        };
        let q = heads(0, head_dim);
        let (mut k, mut v) = (heads(sizes[0], head_dim), heads(sizes[0] + sizes[1], value_dim));
        let mut keys = seq;
        if let Some(past) = context.past {
            let shape = past.shape();
            if shape.len() != 5
                || shape[..3] != [2, batch, num_heads]
                || shape[4] != head_dim
                || head_dim != value_dim
            {
                problem!("past has shape {shape:?}, expected [2, {batch}, {num_heads}, past, {head_dim}]");
            }
            keys += shape[3];
            let past = past.to_floats()?;
            let (past_k, past_v) = past.split_at(past.len() / 2);
            k = after_past(past_k, &k, batch * num_heads);
            v = after_past(past_v, &v, batch * num_heads);
        }
        let mask = Mask { filter_value: self.mask_filter_value, is_causal: self.is_causal };
        let bias = context.attention_bias.map(|bias| Bias::new(bias, batch, num_heads, [seq, keys]));
        let scores = Scores {
            scale: self.scale.unwrap_or(1.0 / (head_dim as f32).sqrt()),
            softcap: 0.0,
            mask: mask.additions(context.mask_index, [batch, seq, keys])?,
            bias: bias.transpose()?,
        };
        let heads = Heads {
            batch,
            num_heads,
            num_kv_heads: num_heads,
            queries: seq,
            keys,
            head_dim,
            value_dim,
            q: &q,
            k: &k,
            v: &v,
        };
        let out = heads.attend(&scores)?;
        let mut outputs = vec![Array::from_floats(dtype, [batch, seq, sizes[2]], out)?];
        if self.has_present {
            if head_dim != value_dim {
                problem!("keys of {head_dim} and values of {value_dim} numbers do not fit one output");
            }
            k.extend_from_slice(&v);
            outputs.push(Array::from_floats(dtype, [2, batch, num_heads, keys, head_dim], k)?);
        }
        Ok(outputs)
    }

    /// What is known about the outputs, of columns as [`run`](Self::run) has them.
    pub(crate) fn infer(
        &self,
        dtype: DataType,
        [batch, seq]: [Dim; 2],
        value_size: Dim,
        past: Option<&Info>,
    ) -> Result<Vec<Info>, Problem> {
        let heads = Dim::from(self.num_heads);
        let head_dim = value_size.divided_by(&heads).unwrap_or_else(Dim::unknown);
        let keys = match past {
            None => seq.clone(),
            Some(past) => {
                let [_, _, _, past, _] = known_sizes(past, "past")?;
                past.plus(&seq)
            }
        };
        let mut outputs = vec![Info::new(dtype, vec![batch.clone(), seq, value_size])];
        if self.has_present {
            outputs.push(Info::new(dtype, vec![2i64.into(), batch, heads, keys, head_dim]));
        }
        Ok(outputs)
    }
}

/// `Attention`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attention {
    pub(crate) attention: SelfAttention,
    /// Columns of queries, keys and values; a third of the weight's each where `None`.
    pub(crate) qkv_hidden_sizes: Option<[usize; 3]>,
}

impl Attention {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        if node.num_inputs > 6 {
            problem!("input past_sequence_length is not supported");
        }
        let qkv_hidden_sizes = match node.attributes.ints("qkv_hidden_sizes")? {
            Some(sizes) if !sizes.is_empty() => {
                let sizes: Result<Vec<usize>, _> = sizes.iter().map(|&size| usize::try_from(size)).collect();
                match sizes.ok().and_then(|sizes| <[usize; 3]>::try_from(sizes).ok()) {
                    Some(sizes) if sizes.iter().all(|size| *size <= 1 << 24) => Some(sizes),
                    _ => problem!("attribute `qkv_hidden_sizes` is not three sizes"),
                }
            }
            _ => None,
        };
        Ok(Box::new(Self { attention: SelfAttention::read(node)?, qkv_hidden_sizes }))
    }

    fn sizes(&self, columns: usize) -> Result<[usize; 3], Problem> {
        match self.qkv_hidden_sizes {
            Some(sizes) if sizes.iter().sum::<usize>() == columns => Ok(sizes),
            None if columns.is_multiple_of(3) => Ok([columns / 3; 3]),
            _ => problem!("the weight's {columns} columns are not queries, keys and values"),
        }
    }
}

impl Operator for Attention {
    fn name(&self) -> &str {
        "Attention"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (x, weight) = (inputs.get(0)?, inputs.get(1)?);
        expect_float(x, "the input")?;
        let [batch, seq, _] = known_sizes(x, "the input")?;
        let [_, columns] = known_sizes(weight, "the weight")?;
        let value_size = match (self.qkv_hidden_sizes, columns.known_size()) {
            (_, Some(columns)) => self.sizes(columns)?[2].into(),
            (Some(sizes), None) => sizes[2].into(),
            (None, None) => columns.divided_by(&3i64.into()).unwrap_or_else(Dim::unknown),
        };
        self.attention.infer(x.dtype, [batch, seq], value_size, inputs.optional(4).copied())
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        let ([batch, seq, hidden], [rows, columns]) =
            (sizes(x, "the input")?, sizes(inputs.get(1)?, "the weight")?);
        if hidden != rows {
            problem!("rows of {hidden} numbers meet a weight of {rows} rows");
        }
        let sizes = self.sizes(columns)?;
        crate::graph::checked_len(&[batch, seq, columns], size_of::<f32>())?;
        let weight = transposed(&inputs.get(1)?.to_floats()?, rows, columns);
        let mut qkv = product(&x.to_floats()?, &weight, [batch * seq, columns, hidden]);
        if let Some(bias) = inputs.optional(2) {
            let bias = vector_of_len(bias, columns, "the bias")?;
            if columns > 0 {
                for row in qkv.chunks_exact_mut(columns) {
                    row.iter_mut().zip(&*bias).for_each(|(value, bias)| *value += bias);
                }
            }
        }
        let context = Context {
            mask_index: inputs.optional(3),
            past: inputs.optional(4),
            attention_bias: inputs.optional(5),
        };
        self.attention.run(&qkv, [batch, seq], sizes, &context, x.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attention(has_present: bool) -> Attention {
        let attention = SelfAttention {
            num_heads: 2,
            scale: None,
            mask_filter_value: -10_000.0,
            is_causal: false,
            has_present,
        };
        Attention { attention, qkv_hidden_sizes: None }
    }

    #[test]
    fn symbols_reach_the_outputs() {
        let (batch, seq, past) = (Dim::symbol("batch"), Dim::symbol("seq"), Dim::symbol("past"));
        let float = |shape: Vec<Dim>| Info::new(DataType::F32, shape);
        let x = float(vec![batch.clone(), seq.clone(), 8i64.into()]);
        let weight = float(vec![8i64.into(), 24i64.into()]);
        let inputs = Operands::new(vec![Some(&x), Some(&weight)]);
        let outputs = attention(true).infer(&inputs).unwrap();
        assert_eq!(outputs[0].shape, Some(vec![batch.clone(), seq.clone(), 8i64.into()]));
        assert_eq!(outputs[1].shape, Some(vec![2i64.into(), batch, 2i64.into(), seq, 4i64.into()]));
        let past = float(vec![2i64.into(), past.clone(), 2i64.into(), past, 4i64.into()]);
        let inputs = Operands::new(vec![Some(&x), Some(&weight), None, None, Some(&past)]);
        assert!(attention(true).infer(&inputs).unwrap()[1].shape.as_ref().unwrap()[3].known().is_none());
        let weight = float(vec![8i64.into(), 25i64.into()]);
        assert!(attention(false).infer(&Operands::new(vec![Some(&x), Some(&weight)])).is_err());
    }

    #[test]
    fn what_does_not_fit_is_a_problem() {
        let run = |x: &[usize], weight: &[usize], mask: Option<Array>| {
            let inputs = [Array::full(x, 1.0f32).ok(), Array::full(weight, 1.0f32).ok(), None, mask];
            attention(false).run(Operands::new(inputs.to_vec()))
        };
        assert!(run(&[1, 2, 3], &[3, 12], None).is_ok());
        assert_eq!(run(&[1 << 40, 0, 3], &[3, 12], None).unwrap()[0].shape(), [1 << 40, 0, 4]);
        assert!(run(&[1 << 30, 1 << 30, 0], &[0, 12], None).is_err());
        assert!(run(&[1, 2, 3], &[4, 12], None).is_err());
        assert!(run(&[1, 2, 3], &[3, 9], None).is_err());
        assert!(run(&[1, 2, 3], &[3, 0], None).is_err());
        assert!(run(&[2, 3], &[3, 12], None).is_err());
        let ends = |end: i64| Some(Array::vector(vec![end]));
        assert!(run(&[1, 2, 3], &[3, 12], ends(i64::MIN)).is_ok());
        assert!(run(&[1, 2, 3], &[3, 12], ends(i64::MAX)).is_ok());
        assert!(run(&[1, 2, 3], &[3, 12], Array::full([1, 7], 1i32).ok()).is_err());
        assert!(run(&[1, 2, 3], &[3, 12], Array::full([1, 1, 2, 2], 1i32).ok()).is_err());
        assert!(run(&[1, 2, 3], &[3, 12], Array::full([1], 1.0f32).ok()).is_err());
    }
}
