//! `Attention`, the standard's: scaled dot products of queries and keys, masked, as weights of values.

use half::{bf16, f16};

use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, checked_len, problem};
use crate::kernels::{self, ProductShape, elementwise};
use crate::ops::number::for_float;
use crate::ops::permute::permute;
use crate::ops::{Entry, NodeReader, broadcast};

pub(in crate::ops) const OPERATORS: &[Entry] = &[Entry::new("Attention", 3..=7, Attention::read)];

/// `Attention`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Attention {
    pub(crate) scale: Option<f32>,
    pub(crate) is_causal: bool,
    /// Heads of queries and of keys, where inputs have no dimension of heads.
    pub(crate) num_heads: Option<(usize, usize)>,
    /// 0 for none.
    pub(crate) softcap: f32,
    /// How many keys before and after a query's position it sees.
    pub(crate) window: (Option<usize>, Option<usize>),
    /// What the fourth output is: scores as they are, capped, masked, or as weights.
    pub(crate) scores: Scores,
    /// The type that weights are computed in, where it is not the inputs'.
    pub(crate) softmax_precision: Option<DataType>,
    /// Which outputs are wanted.
    num_outputs: usize,
}

/// A stage of what queries and keys become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scores {
    Raw,
    Capped,
    Masked,
    Weights,
}

impl Attention {
    fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let attributes = node.attributes;
        let softmax_precision = match attributes.int("softmax_precision")? {
            None => None,
            Some(1) => Some(DataType::F32),
            Some(10) => Some(DataType::F16),
            Some(11) => Some(DataType::F64),
            Some(16) => Some(DataType::Bf16),
            Some(other) => problem!("attribute `softmax_precision` is {other}, no floating-point type"),
        };
        let heads = |name| match attributes.int(name)? {
            None => Ok(None),
            Some(heads) => match usize::try_from(heads) {
                Ok(heads) if heads > 0 => Ok(Some(heads)),
                _ => problem!("attribute `{name}` is {heads}"),
            },
        };
        let window = |name| match attributes.int(name)? {
            None | Some(-1) => Ok(None),
            Some(size) => match usize::try_from(size) {
                Ok(size) => Ok(Some(size)),
                Err(_) => problem!("attribute `{name}` is {size}"),
            },
        };
        let stages = [Scores::Raw, Scores::Capped, Scores::Masked, Scores::Weights];
        let stage = attributes.int("qk_matmul_output_mode")?.unwrap_or(0);
        let stage = usize::try_from(stage).ok().and_then(|stage| stages.get(stage));
        let Some(&scores) = stage else { problem!("attribute `qk_matmul_output_mode` is not supported") };
        Ok(Box::new(Self {
            scale: attributes.float("scale")?,
            is_causal: attributes.flag("is_causal")?.unwrap_or(false),
            num_heads: heads("q_num_heads")?.zip(heads("kv_num_heads")?),
            softcap: attributes.float("softcap")?.unwrap_or(0.0),
            window: (window("left_window_size")?, window("right_window_size")?),
            scores,
            softmax_precision,
            num_outputs: node.num_outputs,
        }))
    }

    /// `[batch, heads, seq, size]` of queries, keys or values.
    fn by_head(self, array: Array, heads: impl Fn((usize, usize)) -> usize) -> Result<Array, Problem> {
        match (array.shape(), self.num_heads) {
            ([_, _, _, _], _) => Ok(array),
            (&[batch, seq, hidden], Some(num_heads)) if hidden % heads(num_heads) == 0 => {
                let heads = heads(num_heads);
                let split = array.with_shape(vec![batch, seq, heads, hidden / heads])?;
                for_float!(split.dtype(), T => permute::<T>(&split, &[0, 2, 1, 3]))
            }
            (shape, heads) => problem!("shape {shape:?} does not hold {heads:?} heads"),
        }
    }

    /// What is known about `[batch, heads, seq, size]`.
    fn dims_by_head(
        self,
        shape: &[Dim],
        heads: impl Fn((usize, usize)) -> usize,
    ) -> Result<[Dim; 4], Problem> {
        match (shape, self.num_heads) {
            ([batch, heads, seq, size], _) => Ok([batch, heads, seq, size].map(Dim::clone)),
            ([batch, seq, hidden], Some(num_heads)) => {
                let heads = Dim::from(heads(num_heads));
                let size = hidden.divided_by(&heads);
                Ok([batch.clone(), heads, seq.clone(), size.unwrap_or_else(Dim::unknown)])
            }
            (shape, heads) => problem!("shape {shape:?} does not hold {heads:?} heads"),
        }
    }
}

impl Operator for Attention {
    fn name(&self) -> &'static str {
        "Attention"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (q, k, v) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        for info in [q, k, v] {
            if !info.dtype.is_float() {
                problem!("expected a floating-point type, got {}", info.dtype);
            }
        }
        if inputs.optional(4).is_some() != inputs.optional(5).is_some() {
            problem!("past keys and values are given together or not at all");
        }
        if inputs.optional(4).is_some() && inputs.optional(6).is_some() {
            problem!("there cannot be both past keys and lengths of keys");
        }
        let (Some(q_shape), Some(k_shape), Some(v_shape)) = (&q.shape, &k.shape, &v.shape) else {
            return Ok([q, k, v, q].map(|info| Info::unknown(info.dtype)).to_vec());
        };
        let [batch, heads, queries, _] = self.dims_by_head(q_shape, |heads| heads.0)?;
        let [_, kv_heads, new_keys, k_size] = self.dims_by_head(k_shape, |heads| heads.1)?;
        let [_, _, _, v_size] = self.dims_by_head(v_shape, |heads| heads.1)?;
        let keys = match inputs.optional(4) {
            None => new_keys,
            Some(past) => match past.shape.as_deref() {
                Some([_, _, past, _]) => past.plus(&new_keys),
                Some(shape) => problem!("past keys have shape {shape:?}, expected four dimensions"),
                None => Dim::unknown(),
            },
        };
        let out = if q_shape.len() == 3 {
            vec![batch.clone(), queries.clone(), heads.times(&v_size)]
        } else {
            vec![batch.clone(), heads.clone(), queries.clone(), v_size.clone()]
        };
        Ok(vec![
            Info::new(q.dtype, out),
            Info::new(k.dtype, vec![batch.clone(), kv_heads.clone(), keys.clone(), k_size]),
            Info::new(v.dtype, vec![batch.clone(), kv_heads, keys.clone(), v_size]),
            Info::new(q.dtype, vec![batch, heads, queries, keys]),
        ])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (q, k, v) = (inputs.take(0)?, inputs.take(1)?, inputs.take(2)?);
        let dtype = q.dtype();
        let is_flat = q.rank() == 3;
        let q = self.by_head(q, |heads| heads.0)?;
        let k = self.by_head(k, |heads| heads.1)?;
        let v = self.by_head(v, |heads| heads.1)?;
        let (past_key, past_value) = (inputs.take_optional(4), inputs.take_optional(5));
        let past = past_key.as_ref().map(|past| past.shape().get(2).copied().unwrap_or(0));
        let (k, v) = (after(past_key, k)?, after(past_value, v)?);
        let sizes = Sizes::new(q.shape(), k.shape(), v.shape())?;
        let masks = Masks::new(*self, &sizes, past, inputs.optional(3), inputs.optional(6))?;

        // Between its stages a smaller type would hold them.
        let round = |values: &mut [f32]| round(values, dtype);
        let mut scores = self.raw_scores(&sizes, q, &k)?;
        let mut kept = (self.scores == Scores::Raw).then(|| self.keep(&scores)).flatten();
        if self.softcap > 0.0 {
            scores.iter_mut().for_each(|score| *score /= self.softcap);
            elementwise::tanh(&mut scores);
            scores.iter_mut().for_each(|score| *score *= self.softcap);
            round(&mut scores);
        }
        if self.scores == Scores::Capped {
            kept = self.keep(&scores);
        }
        let blind = masks.apply(&sizes, &mut scores);
        round(&mut scores);
        if self.scores == Scores::Masked {
            kept = self.keep(&scores);
        }
        softmax(&mut scores, sizes.keys, self.softmax_precision.unwrap_or(dtype));
        round(&mut scores);
        for row in blind {
            scores[row * sizes.keys..(row + 1) * sizes.keys].fill(0.0);
        }
        if self.scores == Scores::Weights {
            kept = self.keep(&scores);
        }

        let out = sizes.weighted(&scores, &v)?;
        let out = if is_flat {
            let by_token = permute::<f32>(&out, &[0, 2, 1, 3])?;
            by_token.with_shape(vec![sizes.batch, sizes.queries, sizes.heads * sizes.value_size])?
        } else {
            out
        };
        let shape = out.shape().to_vec();
        let mut outputs = vec![Array::from_floats(dtype, shape, out.into_values()?)?, k, v];
        if let Some(kept) = kept {
            let shape = vec![sizes.batch, sizes.heads, sizes.queries, sizes.keys];
            outputs.push(Array::from_floats(dtype, shape, kept)?);
        }
        Ok(outputs)
    }
}

impl Attention {
    /// The scores, if somebody wants them.
    fn keep(self, scores: &[f32]) -> Option<Vec<f32>> {
        (self.num_outputs > 3).then(|| scores.to_vec())
    }

    /// `[batch, heads, queries, keys]`
    fn raw_scores(self, sizes: &Sizes, q: Array, k: &Array) -> Result<Vec<f32>, Problem> {
        let dtype = q.dtype();
        // Each factor has its half, so that products of a smaller type do not overflow.
        let mut scale = [self.scale.unwrap_or(1.0 / (sizes.size as f32).sqrt()).sqrt()];
        round(&mut scale, dtype);
        let scaled = |array: Array| {
            let shape = array.shape().to_vec();
            let mut values = array.into_floats()?;
            values.iter_mut().for_each(|value| *value *= scale[0]);
            round(&mut values, dtype);
            Array::new(shape, values)
        };
        let (q, k) = (scaled(q)?, permute::<f32>(&scaled(k.clone())?, &[0, 1, 3, 2])?);
        let shape = ProductShape { rows: sizes.queries, depth: sizes.size, columns: sizes.keys };
        checked_len(&[sizes.batch, sizes.heads, sizes.queries, sizes.keys], size_of::<f32>())?;
        let pairs = sizes.pairs(shape.rows * shape.depth, shape.depth * shape.columns);
        let mut scores = kernels::matmul(q.values()?, k.values()?, shape, &pairs);
        round(&mut scores, dtype);
        Ok(scores)
    }
}

/// Softmax of rows. What is computed in a smaller type is rounded to it after each step, but for the terms of sums.
fn softmax(scores: &mut [f32], width: usize, dtype: DataType) {
    if !matches!(dtype, DataType::F16 | DataType::Bf16) || width == 0 {
        return kernels::softmax(scores, width);
    }
    for row in scores.chunks_exact_mut(width) {
        round(row, dtype);
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|score| *score -= largest);
        round(row, dtype);
        row.iter_mut().for_each(|score| *score = score.exp());
        round(row, dtype);
        let mut sum = [row.iter().sum()];
        round(&mut sum, dtype);
        row.iter_mut().for_each(|score| *score /= sum[0]);
    }
}

/// What numbers become when an array of this type holds them.
fn round(values: &mut [f32], dtype: DataType) {
    match dtype {
        DataType::F16 => values.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32()),
        DataType::Bf16 => values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32()),
        _ => {}
    }
}

/// New keys or values after those of the past.
fn after(past: Option<Array>, new: Array) -> Result<Array, Problem> {
    let Some(past) = past else { return Ok(new) };
    let (&[b, h, old, size], &[batch, heads, seq, new_size]) = (past.shape(), new.shape()) else {
        problem!("shapes {:?} and {:?} are not both of four dimensions", past.shape(), new.shape());
    };
    if [b, h, size] != [batch, heads, new_size] || past.dtype() != new.dtype() {
        problem!("{past:?} cannot be followed by {new:?}");
    }
    let shape = vec![batch, heads, old + seq, size];
    for_float!(new.dtype(), T => {
        let mut values = Vec::with_capacity(checked_len(&shape, size_of::<T>())?);
        let (past, new) = (past.values::<T>()?, new.values::<T>()?);
        for head in 0..if size == 0 { 0 } else { batch * heads } {
            values.extend_from_slice(&past[head * old * size..(head + 1) * old * size]);
            values.extend_from_slice(&new[head * seq * size..(head + 1) * seq * size]);
        }
        Array::new(shape, values)
    })
}

struct Sizes {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    size: usize,
    value_size: usize,
}

impl Sizes {
    fn new(q: &[usize], k: &[usize], v: &[usize]) -> Result<Self, Problem> {
        let (
            &[batch, heads, queries, size],
            &[k_batch, kv_heads, keys, k_size],
            &[v_batch, v_heads, v_keys, value_size],
        ) = (q, k, v)
        else {
            problem!("shapes {q:?}, {k:?} and {v:?} are not all of four dimensions");
        };
        let is_consistent =
            [k_batch, v_batch] == [batch; 2] && v_heads == kv_heads && v_keys == keys && k_size == size;
        if !is_consistent || kv_heads == 0 || heads % kv_heads != 0 {
            problem!("queries {q:?}, keys {k:?} and values {v:?} do not fit");
        }
        Ok(Self { batch, heads, kv_heads, queries, keys, size, value_size })
    }

    /// Where each head's matrices begin, of queries and of keys, which several heads may share.
    fn pairs(&self, left: usize, right: usize) -> Vec<(usize, usize)> {
        let shared = self.heads / self.kv_heads;
        (0..self.batch * self.heads).map(|head| (head * left, head / shared * right)).collect()
    }

    fn weighted(&self, weights: &[f32], v: &Array) -> Result<Array, Problem> {
        let shape = ProductShape { rows: self.queries, depth: self.keys, columns: self.value_size };
        let out = vec![self.batch, self.heads, self.queries, self.value_size];
        checked_len(&out, 4)?;
        let pairs = self.pairs(shape.rows * shape.depth, shape.depth * shape.columns);
        Array::new(out, kernels::matmul(weights, &v.to_floats()?, shape, &pairs))
    }
}

/// What keys a query sees, and what is added to its scores.
struct Masks {
    /// What is added, and how to walk through it as `[batch, heads, queries]` of rows of `width`.
    bias: Option<(Vec<f32>, Vec<usize>, usize)>,
    is_causal: bool,
    window: (Option<usize>, Option<usize>),
    /// By batch index: keys before the first query, and how many keys there are.
    lengths: Vec<(i64, usize)>,
}

impl Masks {
    fn new(
        attention: Attention,
        sizes: &Sizes,
        past: Option<usize>,
        mask: Option<&Array>,
        lengths: Option<&Array>,
    ) -> Result<Self, Problem> {
        let bias = mask.map(|mask| bias(sizes, mask)).transpose()?;
        let lengths = match lengths {
            None => vec![(past.unwrap_or(0) as i64, sizes.keys); sizes.batch],
            Some(lengths) if lengths.shape() == [sizes.batch] => {
                let length = |length: i64| match usize::try_from(length) {
                    Ok(keys) if keys <= sizes.keys => Ok((length - sizes.queries as i64, keys)),
                    _ => problem!("{length} of {} keys are not padding", sizes.keys),
                };
                lengths.to_ints()?.into_iter().map(length).collect::<Result<_, _>>()?
            }
            Some(lengths) => problem!("lengths of keys have shape {:?}", lengths.shape()),
        };
        Ok(Self { bias, is_causal: attention.is_causal, window: attention.window, lengths })
    }

    /// The keys that a query sees.
    fn visible(&self, batch: usize, query: usize, keys: usize) -> std::ops::Range<usize> {
        let (offset, length) = self.lengths[batch];
        let position = offset + query as i64;
        let mut end = length.min(keys) as i64;
        if self.is_causal {
            end = end.min(position + 1);
        }
        if let Some(right) = self.window.1 {
            end = end.min(position.saturating_add_unsigned(right as u64).saturating_add(1));
        }
        let left = self.window.0.map_or(0, |left| position.saturating_sub_unsigned(left as u64));
        let start = left.max(0);
        start as usize..end.max(start) as usize
    }

    /// Masks scores; the rows of queries that see no key.
    fn apply(&self, sizes: &Sizes, scores: &mut [f32]) -> Vec<usize> {
        let mut blind = Vec::new();
        if sizes.keys == 0 {
            return blind;
        }
        for (row, scores) in scores.chunks_exact_mut(sizes.keys).enumerate() {
            let (head, query) = (row / sizes.queries, row % sizes.queries);
            let (batch, head) = (head / sizes.heads, head % sizes.heads);
            let mut visible = self.visible(batch, query, sizes.keys);
            visible.start = visible.start.min(sizes.keys);
            visible.end = visible.end.min(sizes.keys);
            let mut sees = !visible.is_empty();
            if let Some((bias, strides, width)) = &self.bias {
                let at =
                    [batch, head, query].iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>()
                        * width;
                visible.end = visible.end.min(*width).max(visible.start);
                let seen = &bias[at..at + width][visible.start.min(*width)..visible.end.min(*width)];
                sees = seen.iter().any(|bias| *bias != f32::NEG_INFINITY);
                scores[visible.clone()].iter_mut().zip(seen).for_each(|(score, bias)| *score += bias);
            }
            scores[..visible.start].fill(f32::NEG_INFINITY);
            scores[visible.end..].fill(f32::NEG_INFINITY);
            if !sees || scores.iter().all(|score| *score == f32::NEG_INFINITY) {
                blind.push(row);
            }
        }
        blind
    }
}

/// A mask as what is added to scores, the strides of its rows along batch, heads and queries, and their width, which
/// may be less than there are keys: none sees the others.
fn bias(sizes: &Sizes, mask: &Array) -> Result<(Vec<f32>, Vec<usize>, usize), Problem> {
    let Some((&width, rows)) = mask.shape().split_last() else {
        problem!("the mask has no dimensions");
    };
    let to = [sizes.batch, sizes.heads, sizes.queries];
    if width > sizes.keys || broadcast::shape(&[rows, &to])? != to {
        problem!("a mask of shape {:?} does not fit {to:?} rows of {} keys", mask.shape(), sizes.keys);
    }
    let values = match mask.dtype() {
        DataType::Bool => {
            let values = mask.values::<bool>()?;
            values.iter().map(|&sees| if sees { 0.0 } else { f32::NEG_INFINITY }).collect()
        }
        _ => mask.to_floats()?.into_owned(),
    };
    Ok((values, broadcast::strides(rows, &to), width))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attention() -> Attention {
        Attention {
            scale: None,
            is_causal: false,
            num_heads: None,
            softcap: 0.0,
            window: (None, None),
            scores: Scores::Raw,
            softmax_precision: None,
            num_outputs: 1,
        }
    }

    fn run(attention: Attention, shapes: [&[usize]; 3], rest: Vec<Option<Array>>) -> Result<Array, Problem> {
        let array = |shape: &[usize]| {
            let len = shape.iter().product::<usize>();
            Some(Array::new(shape, (0..len).map(|i| (i as f32 * 0.7).sin()).collect()).unwrap())
        };
        let inputs = shapes.into_iter().map(array).chain(rest).collect();
        attention.run(Operands::new(inputs)).map(|mut outputs| outputs.remove(0))
    }

    #[test]
    fn shapes_and_masks_are_checked() {
        let shapes: [&[usize]; 3] = [&[2, 4, 3, 8], &[2, 2, 5, 8], &[2, 2, 5, 6]];
        assert_eq!(run(attention(), shapes, vec![]).unwrap().shape(), [2, 4, 3, 6]);
        let wrong: [[&[usize]; 3]; 5] = [
            [&[2, 4, 3, 8], &[2, 3, 5, 8], &[2, 3, 5, 6]],
            [&[2, 4, 3, 8], &[2, 2, 5, 7], &[2, 2, 5, 6]],
            [&[2, 4, 3, 8], &[2, 2, 5, 8], &[2, 2, 4, 6]],
            [&[2, 4, 3, 8], &[2, 0, 5, 8], &[2, 0, 5, 6]],
            [&[2, 3, 8], &[2, 5, 8], &[2, 5, 6]],
        ];
        for shapes in wrong {
            assert!(run(attention(), shapes, vec![]).is_err());
        }
        for (shape, fits) in
            [(&[3, 5][..], true), (&[3, 6], false), (&[2, 3, 5], false), (&[2, 1, 1, 4], true)]
        {
            let mask = Array::full(shape, true).unwrap();
            assert_eq!(run(attention(), shapes, vec![Some(mask)]).is_ok(), fits, "{shape:?}");
        }
        for (lengths, fits) in
            [(vec![5i64, 0], true), (vec![6, 0], false), (vec![-1, 0], false), (vec![1], false)]
        {
            let lengths = Some(Array::vector(lengths));
            assert_eq!(run(attention(), shapes, vec![None, None, None, lengths]).is_ok(), fits);
        }
    }

    #[test]
    fn a_query_that_sees_nothing_gets_nothing() {
        let shapes: [&[usize]; 3] = [&[1, 1, 2, 4], &[1, 1, 3, 4], &[1, 1, 3, 2]];
        let mask = Array::new(vec![2, 3], vec![false, false, false, true, false, true]).unwrap();
        let out = run(attention(), shapes, vec![Some(mask)]).unwrap();
        let out = out.values::<f32>().unwrap();
        assert!(out[..2] == [0.0, 0.0] && out[2..].iter().all(|value| *value != 0.0));
        let far = Attention { window: (Some(usize::MAX), Some(usize::MAX)), is_causal: true, ..attention() };
        assert!(run(far, shapes, vec![]).is_ok());
    }
}
