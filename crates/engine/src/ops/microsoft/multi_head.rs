//! `MultiHeadAttention`: attention of queries, keys and values that were projected before.

use super::heads::{Bias, Columns, Heads, Mask, Scores, after_past, by_head};
use super::{count, expect_float, sizes};
use crate::graph::{Array, Dim, Info, Operands, Operator, Problem, problem};
use crate::ops::NodeReader;

/// `MultiHeadAttention`
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MultiHeadAttention {
    pub(crate) num_heads: usize,
    /// `1 / sqrt(head_dim)` where `None`.
    pub(crate) scale: Option<f32>,
    /// Added to the scores of keys that are masked.
    pub(crate) mask_filter_value: f32,
    /// Tokens do not attend to those after them.
    pub(crate) is_causal: bool,
}

/// Queries, keys and values by head, without the past.
struct Projected {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    batch: usize,
    queries: usize,
    keys: usize,
    head_dim: usize,
    value_dim: usize,
}

impl MultiHeadAttention {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        if node.num_inputs > 8 {
            problem!("inputs past_sequence_length and cache_indirection are not supported");
        }
        if node.num_outputs > 3 {
            problem!("output qk is not supported");
        }
        let attributes = node.attributes;
        Ok(Box::new(Self {
            num_heads: count(node, "num_heads")?,
            scale: attributes.float("scale")?.filter(|&scale| scale != 0.0),
            mask_filter_value: attributes.float("mask_filter_value")?.unwrap_or(-10_000.0),
            is_causal: attributes.flag("unidirectional")?.unwrap_or(false),
        }))
    }

    fn projected(&self, inputs: &Operands<Array>) -> Result<Projected, Problem> {
        let (query, key, value) = (inputs.get(0)?, inputs.optional(1), inputs.optional(2));
        let bias = match inputs.optional(3) {
            Some(bias) if bias.rank() == 1 => Some(bias.to_floats()?),
            Some(bias) => problem!("the bias has shape {:?}", bias.shape()),
            None => None,
        };
        let heads = self.num_heads;
        match (query.rank(), key.map(Array::rank), value.map(Array::rank)) {
            (5, None, None) => packed_qkv(query, bias.as_deref(), heads),
            (3, Some(5), None) => {
                let key = inputs.get(1)?;
                let [batch, queries, hidden] = sizes(query, "the query")?;
                let head_dim = divided(hidden, heads)?;
                let [kv_batch, keys, kv_heads, two, kv_dim] = sizes(key, "the key")?;
                if [kv_batch, kv_heads, two, kv_dim] != [batch, heads, 2, head_dim] {
                    problem!("a packed key and value of shape {:?} does not fit the query", key.shape());
                }
                if bias.is_some() {
                    problem!("a bias is not supported with a packed key and value");
                }
                let (x, kv) = (query.to_floats()?, key.to_floats()?);
                let shape = [batch, heads, keys, head_dim];
                let columns = |offset| Columns { width: 2 * hidden, offset, stride: 2 * head_dim };
                let queries_at = Columns { width: hidden, offset: 0, stride: head_dim };
                Ok(Projected {
                    q: by_head(&x, None, [batch, heads, queries, head_dim], queries_at),
                    k: by_head(&kv, None, shape, columns(0)),
                    v: by_head(&kv, None, shape, columns(head_dim)),
                    batch,
                    queries,
                    keys,
                    head_dim,
                    value_dim: head_dim,
                })
            }
            (3, Some(3), Some(3)) => apart(query, inputs.get(1)?, inputs.get(2)?, bias.as_deref(), heads),
            (3, Some(4), Some(4)) => {
                by_head_already(query, inputs.get(1)?, inputs.get(2)?, bias.as_deref(), heads)
            }
            (query, key, value) => problem!(
                "a query of {query}, a key of {key:?} and a value of {value:?} dimensions are not supported"
            ),
        }
    }
}

fn divided(size: usize, heads: usize) -> Result<usize, Problem> {
    if size == 0 || !size.is_multiple_of(heads) {
        problem!("rows of {size} numbers cannot be split into {heads} heads");
    }
    Ok(size / heads)
}

/// `[batch, seq, heads, 3, head_dim]`
fn packed_qkv(qkv: &Array, bias: Option<&[f32]>, heads: usize) -> Result<Projected, Problem> {
    let [batch, seq, qkv_heads, three, head_dim] = sizes(qkv, "the query")?;
    if [qkv_heads, three] != [heads, 3] || head_dim == 0 {
        problem!("a packed query, key and value of shape {:?} does not have {heads} heads", qkv.shape());
    }
    let hidden = heads * head_dim;
    if bias.is_some_and(|bias| bias.len() != 3 * hidden) {
        problem!("the bias does not have {} elements", 3 * hidden);
    }
    let values = qkv.to_floats()?;
    let part = |index: usize| {
        let columns = Columns { width: 3 * hidden, offset: index * head_dim, stride: 3 * head_dim };
        let bias = bias.map(|bias| &bias[index * hidden..(index + 1) * hidden]);
        by_head(&values, bias, [batch, heads, seq, head_dim], columns)
    };
    let (q, k, v) = (part(0), part(1), part(2));
    Ok(Projected { q, k, v, batch, queries: seq, keys: seq, head_dim, value_dim: head_dim })
}

/// `[batch, seq, hidden]` each.
fn apart(
    query: &Array,
    key: &Array,
    value: &Array,
    bias: Option<&[f32]>,
    heads: usize,
) -> Result<Projected, Problem> {
    let [batch, queries, hidden] = sizes(query, "the query")?;
    let [k_batch, keys, k_hidden] = sizes(key, "the key")?;
    let [v_batch, v_keys, v_hidden] = sizes(value, "the value")?;
    if [k_batch, k_hidden, v_batch, v_keys] != [batch, hidden, batch, keys] {
        problem!(
            "query, key and value have shapes {:?}, {:?} and {:?}",
            query.shape(),
            key.shape(),
            value.shape()
        );
    }
    if bias.is_some_and(|bias| bias.len() != 2 * hidden + v_hidden) {
        problem!("the bias does not have {} elements", 2 * hidden + v_hidden);
    }
    let (head_dim, value_dim) = (divided(hidden, heads)?, divided(v_hidden, heads)?);
    let part = |array: &Array, seq, dim: usize, offset: usize| {
        let columns = Columns { width: heads * dim, offset: 0, stride: dim };
        let bias = bias.map(|bias| &bias[offset..offset + heads * dim]);
        Ok::<_, Problem>(by_head(&array.to_floats()?, bias, [batch, heads, seq, dim], columns))
    };
    Ok(Projected {
        q: part(query, queries, head_dim, 0)?,
        k: part(key, keys, head_dim, hidden)?,
        v: part(value, keys, value_dim, 2 * hidden)?,
        batch,
        queries,
        keys,
        head_dim,
        value_dim,
    })
}

/// A query `[batch, seq, hidden]`; key and value `[batch, heads, keys, dim]`, as another attention left them.
fn by_head_already(
    query: &Array,
    key: &Array,
    value: &Array,
    bias: Option<&[f32]>,
    heads: usize,
) -> Result<Projected, Problem> {
    let [batch, queries, hidden] = sizes(query, "the query")?;
    let head_dim = divided(hidden, heads)?;
    let [k_batch, k_heads, keys, k_dim] = sizes(key, "the key")?;
    let [v_batch, v_heads, v_keys, value_dim] = sizes(value, "the value")?;
    if [k_batch, k_heads, k_dim, v_batch, v_heads, v_keys] != [batch, heads, head_dim, batch, heads, keys] {
        problem!(
            "query, key and value have shapes {:?}, {:?} and {:?}",
            query.shape(),
            key.shape(),
            value.shape()
        );
    }
    // Key and value have theirs in them.
    if bias.is_some_and(|bias| bias.len() < hidden) {
        problem!("the bias does not have {} elements", hidden);
    }
    let bias = bias.map(|bias| &bias[..hidden]);
    let columns = Columns { width: hidden, offset: 0, stride: head_dim };
    Ok(Projected {
        q: by_head(&query.to_floats()?, bias, [batch, heads, queries, head_dim], columns),
        k: key.to_floats()?.into_owned(),
        v: value.to_floats()?.into_owned(),
        batch,
        queries,
        keys,
        head_dim,
        value_dim,
    })
}

/// A past `[batch, heads, past, dim]`: its elements and how many keys they are.
pub(super) fn past(
    array: Option<&Array>,
    [batch, heads, dim]: [usize; 3],
) -> Result<(Vec<f32>, usize), Problem> {
    let Some(array) = array else {
        return Ok((Vec::new(), 0));
    };
    let [past_batch, past_heads, keys, past_dim] = sizes(array, "the past")?;
    if [past_batch, past_heads, past_dim] != [batch, heads, dim] {
        problem!("the past has shape {:?}, expected [{batch}, {heads}, past, {dim}]", array.shape());
    }
    Ok((array.to_floats()?.into_owned(), keys))
}

impl Operator for MultiHeadAttention {
    fn name(&self) -> &str {
        "MultiHeadAttention"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let query = inputs.get(0)?;
        expect_float(query, "the query")?;
        let Some(shape) = &query.shape else {
            return Ok(vec![Info::with_rank(query.dtype, 3)]);
        };
        let heads = Dim::from(self.num_heads);
        let (hidden, packed) = match shape.as_slice() {
            [_, _, hidden] => (hidden.clone(), false),
            [_, _, _, _, head_dim] => (heads.times(head_dim), true),
            _ => problem!("the query has shape {shape:?}"),
        };
        let at = |index: usize, rank: usize, dimension: usize| -> Option<Dim> {
            let shape = inputs.optional(index)?.shape.as_ref()?;
            (shape.len() == rank).then(|| shape[dimension].clone())
        };
        let value_size = if packed || at(1, 5, 0).is_some() {
            hidden.clone()
        } else {
            let by_head = || at(2, 4, 3).map(|dim| heads.times(&dim));
            at(2, 3, 2).or_else(by_head).unwrap_or_else(Dim::unknown)
        };
        let keys = if packed {
            Some(shape[1].clone())
        } else {
            at(1, 3, 1).or_else(|| at(1, 5, 1)).or_else(|| at(1, 4, 2))
        };
        let keys = match (keys, inputs.optional(6)) {
            (Some(keys), None) => keys,
            (Some(keys), Some(_)) => at(6, 4, 2).map_or_else(Dim::unknown, |past| past.plus(&keys)),
            (None, _) => Dim::unknown(),
        };
        let present = |size: &Dim| {
            let dim = size.divided_by(&heads).unwrap_or_else(Dim::unknown);
            Info::new(query.dtype, vec![shape[0].clone(), heads.clone(), keys.clone(), dim])
        };
        let (k, v) = (present(&hidden), present(&value_size));
        Ok(vec![Info::new(query.dtype, vec![shape[0].clone(), shape[1].clone(), value_size]), k, v])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let dtype = inputs.get(0)?.dtype();
        let heads = self.num_heads;
        let projected = self.projected(&inputs)?;
        let Projected { q, k, v, batch, queries, keys, head_dim, value_dim } = projected;
        let (past_k, past_keys) = past(inputs.optional(6), [batch, heads, head_dim])?;
        let (past_v, past_values) = past(inputs.optional(7), [batch, heads, value_dim])?;
        if past_keys != past_values {
            problem!("there are {past_keys} past keys and {past_values} past values");
        }
        let k = if past_keys > 0 { after_past(&past_k, &k, batch * heads) } else { k };
        let v = if past_keys > 0 { after_past(&past_v, &v, batch * heads) } else { v };
        let keys = past_keys + keys;
        let mask = Mask { filter_value: self.mask_filter_value, is_causal: self.is_causal };
        let bias = inputs.optional(5).map(|bias| Bias::new(bias, batch, heads, [queries, keys]));
        let scores = Scores {
            scale: self.scale.unwrap_or(1.0 / (head_dim as f32).sqrt()),
            softcap: 0.0,
            mask: mask.additions(inputs.optional(4), [batch, queries, keys])?,
            bias: bias.transpose()?,
        };
        let attention = Heads {
            batch,
            num_heads: heads,
            num_kv_heads: heads,
            queries,
            keys,
            head_dim,
            value_dim,
            q: &q,
            k: &k,
            v: &v,
        };
        let out = attention.attend(&scores)?;
        Ok(vec![
            Array::from_floats(dtype, [batch, queries, heads * value_dim], out)?,
            Array::from_floats(dtype, [batch, heads, keys, head_dim], k)?,
            Array::from_floats(dtype, [batch, heads, keys, value_dim], v)?,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DataType;

    const OPERATOR: MultiHeadAttention =
        MultiHeadAttention { num_heads: 2, scale: None, mask_filter_value: -10_000.0, is_causal: false };

    #[test]
    fn packed_inputs_are_the_same_as_apart() {
        let numbers =
            |len: usize, step: usize| (0..len).map(|i| (i * step % 13) as f32 / 7.0).collect::<Vec<_>>();
        let (q, k, v) = (numbers(24, 5), numbers(24, 7), numbers(24, 11));
        let array = |values: &[f32]| Array::new([2, 3, 4], values.to_vec()).ok();
        let apart = Operands::new(vec![array(&q), array(&k), array(&v)]);
        let expected = OPERATOR.run(apart).unwrap();
        // [token, head, which, 2]
        let packed = |parts: &[&[f32]]| -> Vec<f32> {
            let heads = (0..12).flat_map(|head| parts.iter().map(move |part| &part[head * 2..head * 2 + 2]));
            heads.flatten().copied().collect()
        };
        let qkv = Array::new([2, 3, 2, 3, 2], packed(&[&q, &k, &v])).ok();
        assert_eq!(OPERATOR.run(Operands::new(vec![qkv])).unwrap(), expected);
        let kv = Array::new([2, 3, 2, 2, 2], packed(&[&k, &v])).ok();
        assert_eq!(OPERATOR.run(Operands::new(vec![array(&q), kv])).unwrap(), expected);
    }

    #[test]
    fn symbols_reach_the_outputs() {
        let (batch, seq, keys) = (Dim::symbol("batch"), Dim::symbol("seq"), Dim::symbol("keys"));
        let info =
            |len: &Dim, size: i64| Info::new(DataType::F32, vec![batch.clone(), len.clone(), size.into()]);
        let (q, k, v) = (info(&seq, 8), info(&keys, 8), info(&keys, 6));
        let outputs = OPERATOR.infer(&Operands::new(vec![Some(&q), Some(&k), Some(&v)])).unwrap();
        assert_eq!(outputs[0].shape, Some(vec![batch.clone(), seq, 6i64.into()]));
        assert_eq!(outputs[2].shape, Some(vec![batch, 2i64.into(), keys, 3i64.into()]));
    }

    #[test]
    fn what_does_not_fit_is_a_problem() {
        let run = |shapes: &[&[usize]]| {
            let arrays = shapes.iter().map(|&shape| Array::full(shape, 1.0f32).ok()).collect();
            OPERATOR.run(Operands::new(arrays))
        };
        assert!(run(&[&[1, 2, 4], &[1, 3, 4], &[1, 3, 6]]).is_ok());
        assert!(run(&[&[1, 2, 4], &[1, 3, 6], &[1, 3, 6]]).is_err());
        assert!(run(&[&[1, 2, 5], &[1, 3, 5], &[1, 3, 6]]).is_err());
        assert!(run(&[&[1, 2, 4], &[1, 3, 4]]).is_err());
        assert!(run(&[&[1, 2, 4], &[1, 3, 4], &[1, 3, 6], &[13]]).is_err());
        assert!(run(&[&[1, 2, 2, 3, 0]]).is_err());
        assert!(run(&[&[1 << 50, 0, 4], &[1 << 50, 0, 4], &[1 << 50, 0, 4]]).is_ok());
    }
}
