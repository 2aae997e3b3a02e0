//! `GroupQueryAttention`: causal attention in which several heads share keys and values.

use super::heads::{Bias, Columns, Heads, Scores, by_head};
use super::multi_head::past;
use super::rotary::Rotary;
use super::{count, expect_float, known_sizes, sizes};
use crate::graph::{Array, Dim, Info, Operands, Operator, Problem, checked_len, problem};
use crate::ops::NodeReader;

/// `GroupQueryAttention`
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct GroupQueryAttention {
    pub(crate) num_heads: usize,
    pub(crate) num_kv_heads: usize,
    /// `1 / sqrt(head_dim)` where `None`.
    pub(crate) scale: Option<f32>,
    /// Scores are bounded by it, where it is not 0.
    pub(crate) softcap: f32,
    /// Queries and keys are rotated; `true` where pairs are neighbours.
    pub(crate) rotary: Option<bool>,
    /// How many of the last keys a token attends to; all where `None`.
    pub(crate) window: Option<usize>,
}

impl GroupQueryAttention {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let attributes = node.attributes;
        if node.num_inputs > 11 {
            problem!("inputs after attention_bias are not supported");
        }
        if node.num_outputs > 3 || attributes.int("qk_output")?.unwrap_or(0) != 0 {
            problem!("output output_qk is not supported");
        }
        for name in ["smooth_softmax", "sliding_window_cache"] {
            // -1 is what some exporters write for no.
            if attributes.int(name)?.unwrap_or(0) > 0 {
                problem!("attribute `{name}` is not supported");
            }
        }
        if attributes.flag("causal")? == Some(false) {
            problem!("attribute `causal` must be 1");
        }
        for name in ["k_quant_type", "v_quant_type"] {
            if attributes.string(name)?.is_some_and(|kind| kind != "NONE") {
                problem!("attribute `{name}` is not supported");
            }
        }
        // They belong to inputs and quantised caches, which are refused.
        attributes.ignore(&["kv_cache_bit_width", "qk_norm_epsilon", "q_norm_epsilon", "k_norm_epsilon"]);
        let (num_heads, num_kv_heads) = (count(node, "num_heads")?, count(node, "kv_num_heads")?);
        if !num_heads.is_multiple_of(num_kv_heads) {
            problem!("{num_heads} heads cannot share {num_kv_heads} keys and values");
        }
        let is_interleaved = attributes.flag("rotary_interleaved")?.unwrap_or(false);
        let window = match attributes.int("local_window_size")?.unwrap_or(-1) {
            -1 => None,
            size => match usize::try_from(size) {
                Ok(size) if size > 0 => Some(size),
                _ => problem!("attribute `local_window_size` is {size}"),
            },
        };
        Ok(Box::new(Self {
            num_heads,
            num_kv_heads,
            scale: attributes.float("scale")?.filter(|&scale| scale != 0.0),
            softcap: attributes.float("softcap")?.unwrap_or(0.0),
            rotary: attributes.flag("do_rotary")?.unwrap_or(false).then_some(is_interleaved),
            window,
        }))
    }

    /// Numbers of a head, from the sizes of the query's rows and whether keys and values are in them.
    fn head_dim(&self, hidden: usize, is_packed: bool) -> Result<usize, Problem> {
        let heads = self.num_heads + if is_packed { 2 * self.num_kv_heads } else { 0 };
        if hidden == 0 || !hidden.is_multiple_of(heads) {
            problem!("rows of {hidden} numbers cannot be split into {heads} heads");
        }
        Ok(hidden / heads)
    }

    fn rotate(
        &self,
        inputs: &Operands<Array>,
        heads: &mut [f32],
        [num_heads, seq, dim]: [usize; 3],
        first_positions: &[usize],
    ) -> Result<(), Problem> {
        let Some(is_interleaved) = self.rotary else {
            return Ok(());
        };
        let (cos, sin) = (inputs.get(7)?, inputs.get(8)?);
        let [_, half] = sizes(cos, "cos_cache")?;
        if cos.shape() != sin.shape() || 2 * half > dim {
            problem!("caches of shapes {:?} and {:?} do not rotate {dim} columns", cos.shape(), sin.shape());
        }
        let (cos, sin) = (cos.to_floats()?, sin.to_floats()?);
        let rotary = Rotary { cos: &cos, sin: &sin, half, is_interleaved };
        for (index, row) in heads.chunks_exact_mut(dim).enumerate() {
            let (sequence, token) = (index / (num_heads * seq), index % seq);
            rotary.rotate(row, (first_positions[sequence] + token) as i64)?;
        }
        Ok(())
    }

    /// Negative infinity for what a token does not see: keys after it, before its window, and padding.
    fn mask(&self, [batch, queries, keys]: [usize; 3], firsts: &[usize]) -> Result<Vec<f32>, Problem> {
        let mut mask = vec![f32::NEG_INFINITY; checked_len(&[batch, queries, keys], size_of::<f32>())?];
        if keys > 0 {
            for (row, mask) in mask.chunks_exact_mut(keys).enumerate() {
                let end = (firsts[row / queries] + row % queries + 1).min(keys);
                let start = self.window.map_or(0, |window| end.saturating_sub(window));
                mask[start..end].fill(0.0);
            }
        }
        Ok(mask)
    }
}

impl Operator for GroupQueryAttention {
    fn name(&self) -> &str {
        "GroupQueryAttention"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let query = inputs.get(0)?;
        expect_float(query, "the query")?;
        if inputs.optional(9).is_some() && self.rotary.is_some() {
            problem!("input position_ids is not supported");
        }
        let [batch, seq, hidden] = known_sizes(query, "the query")?;
        let is_packed = inputs.optional(1).is_none();
        let head_dim = match hidden.known_size() {
            Some(hidden) => self.head_dim(hidden, is_packed)?.into(),
            None => Dim::unknown(),
        };
        let hidden = head_dim.times(&self.num_heads.into());
        let keys = match inputs.optional(3) {
            None => seq.clone(),
            Some(_) => Dim::unknown(),
        };
        let present = vec![batch.clone(), self.num_kv_heads.into(), keys, head_dim];
        let present = Info::new(query.dtype, present);
        Ok(vec![Info::new(query.dtype, vec![batch, seq, hidden]), present.clone(), present])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let query = inputs.get(0)?;
        let dtype = query.dtype();
        if inputs.optional(9).is_some() && self.rotary.is_some() {
            problem!("input position_ids is not supported");
        }
        let [batch, seq, hidden] = sizes(query, "the query")?;
        let is_packed = inputs.optional(1).is_none();
        let dim = self.head_dim(hidden, is_packed)?;
        let (heads, kv_heads) = (self.num_heads, self.num_kv_heads);
        let part = |array: &Array, width: usize, offset: usize, heads: usize| {
            if array.shape() != [batch, seq, width] {
                problem!("an input has shape {:?}, expected [{batch}, {seq}, {width}]", array.shape());
            }
            let columns = Columns { width, offset, stride: dim };
            Ok(by_head(&array.to_floats()?, None, [batch, heads, seq, dim], columns))
        };
        let mut q = part(query, hidden, 0, heads)?;
        let (mut k, v) = if is_packed {
            (
                part(query, hidden, heads * dim, kv_heads)?,
                part(query, hidden, (heads + kv_heads) * dim, kv_heads)?,
            )
        } else {
            let width = kv_heads * dim;
            (part(inputs.get(1)?, width, 0, kv_heads)?, part(inputs.get(2)?, width, 0, kv_heads)?)
        };
        let (past_k, past_keys) = past(inputs.optional(3), [batch, kv_heads, dim])?;
        let (past_v, past_values) = past(inputs.optional(4), [batch, kv_heads, dim])?;
        if past_keys != past_values {
            problem!("there are {past_keys} past keys and {past_values} past values");
        }
        let firsts = first_positions(inputs.get(5)?, inputs.get(6)?, [batch, seq, past_keys])?;
        let keys = past_keys + seq;
        self.rotate(&inputs, &mut q, [heads, seq, dim], &firsts)?;
        self.rotate(&inputs, &mut k, [kv_heads, seq, dim], &firsts)?;
        let place = |past: &[f32], new: &[f32]| placed(past, new, [kv_heads, past_keys, seq, dim], &firsts);
        let (k, v) = (place(&past_k, &k)?, place(&past_v, &v)?);
        let bias = inputs.optional(10).map(|bias| Bias::new(bias, batch, heads, [seq, keys]));
        let scores = Scores {
            scale: self.scale.unwrap_or(1.0 / (dim as f32).sqrt()),
            softcap: self.softcap,
            mask: Some(self.mask([batch, seq, keys], &firsts)?),
            bias: bias.transpose()?,
        };
        let attention = Heads {
            batch,
            num_heads: heads,
            num_kv_heads: kv_heads,
            queries: seq,
            keys,
            head_dim: dim,
            value_dim: dim,
            q: &q,
            k: &k,
            v: &v,
        };
        let out = attention.attend(&scores)?;
        Ok(vec![
            Array::from_floats(dtype, [batch, seq, heads * dim], out)?,
            Array::from_floats(dtype, [batch, kv_heads, keys, dim], k)?,
            Array::from_floats(dtype, [batch, kv_heads, keys, dim], v)?,
        ])
    }
}

/// Where each sequence's new tokens go: after as many as it has already.
fn first_positions(
    last_keys: &Array,
    total: &Array,
    [batch, seq, past_keys]: [usize; 3],
) -> Result<Vec<usize>, Problem> {
    if last_keys.len() != batch || total.len() != 1 {
        problem!(
            "seqlens_k and total_sequence_length have shapes {:?} and {:?}",
            last_keys.shape(),
            total.shape()
        );
    }
    let total = total.to_ints()?[0];
    // Tokens of a prompt that is padded on the right start at 0, whatever their number.
    let is_prompt = i64::try_from(seq).is_ok_and(|seq| seq == total);
    let first = |last: i64| {
        let keys = last.checked_add(1).and_then(|keys| usize::try_from(keys).ok());
        match keys {
            Some(keys) if is_prompt && keys <= seq => Ok(0),
            Some(keys) if keys >= seq && keys - seq <= past_keys => Ok(keys - seq),
            _ => problem!("seqlens_k {last} does not fit {past_keys} past keys and {seq} new ones"),
        }
    };
    last_keys.to_ints()?.into_iter().map(first).collect()
}

/// Past and new keys as `[batch, heads, past + seq, dim]`, each sequence's new ones right after its own past.
fn placed(
    past: &[f32],
    new: &[f32],
    [heads, past_keys, seq, dim]: [usize; 4],
    firsts: &[usize],
) -> Result<Vec<f32>, Problem> {
    let (past_run, new_run) = (past_keys * dim, seq * dim);
    let mut out = vec![0.0; checked_len(&[firsts.len() * heads, past_keys + seq, dim], size_of::<f32>())?];
    if out.is_empty() {
        return Ok(out);
    }
    for (head, out) in out.chunks_exact_mut(past_run + new_run).enumerate() {
        out[..past_run].copy_from_slice(&past[head * past_run..(head + 1) * past_run]);
        let first = firsts[head / heads] * dim;
        out[first..first + new_run].copy_from_slice(&new[head * new_run..(head + 1) * new_run]);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked() {
        let run = |last: i32, total: i32| {
            let operator = GroupQueryAttention {
                num_heads: 2,
                num_kv_heads: 1,
                scale: None,
                softcap: 0.0,
                rotary: None,
                window: None,
            };
            let ones = |shape: &[usize]| Array::full(shape, 1.0f32).ok();
            operator.run(Operands::new(vec![
                ones(&[1, 2, 4]),
                ones(&[1, 2, 2]),
                ones(&[1, 2, 2]),
                ones(&[1, 1, 3, 2]),
                ones(&[1, 1, 3, 2]),
                Some(Array::vector(vec![last])),
                Some(Array::scalar(total)),
            ]))
        };
        assert!(run(4, 5).is_ok());
        assert!(run(5, 6).is_err());
        assert!(run(-1, 5).is_err());
        assert!(run(i32::MIN, 5).is_err());
        assert!(run(i32::MAX, 5).is_err());
    }
}
