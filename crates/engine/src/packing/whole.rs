//! Attention that is one node: what it means is the operator's definition, and only what it reads is proven.

use super::attention::{AttentionCore, Bias, Scores, apply, check_way_back, mask_meaning};
use super::mask::Kind;
use super::operand::{Source, operand};
use super::{Packer, batch_size, seq_len};
use crate::graph::{DataType, Node, ValueId};
use crate::kernels::AttentionShape;
use crate::ops::attention::sdpa;
use crate::ops::microsoft::{Attention, MultiHeadAttention, SelfAttention};

/// com.microsoft's `Attention`, which holds the projection.
pub(super) fn with_projection(
    packer: &mut Packer,
    node: &Node,
    operator: &Attention,
) -> Result<AttentionCore, String> {
    let SelfAttention { num_heads, scale, is_causal, has_present, .. } = operator.attention;
    let weight = node.input(1).and_then(|id| packer.graph.constant(id)).ok_or("its weight is no constant")?;
    let &[_, columns] = weight.shape() else {
        return Err("its weight is no matrix".to_owned());
    };
    let hidden_size = columns / 3;
    let is_plain = operator.qkv_hidden_sizes.is_none_or(|sizes| sizes == [hidden_size; 3]);
    if is_causal
        || has_present
        || !is_plain
        || columns % 3 != 0
        || num_heads == 0
        || hidden_size % num_heads != 0
    {
        return Err("of a kind that is not packed".to_owned());
    }
    if node.inputs.iter().skip(4).any(Option::is_some) {
        return Err("a past or a bias is not packed".to_owned());
    }
    if let Some(mask) = node.input(3) {
        mask_meaning(packer, mask, Kind::Index)?;
    }
    let head_dim = hidden_size / num_heads;
    let scale = scale.unwrap_or_else(|| 1.0 / (head_dim as f32).sqrt());
    Ok(AttentionCore {
        shape: AttentionShape { num_heads, head_dim, scale },
        sources: Vec::new(),
        window: None,
        bias: None,
        projection: Some([node.input(0), node.input(1), node.input(2)]),
        rotary: None,
        qkv_bias: None,
    })
}

/// com.microsoft's `MultiHeadAttention`, of queries, keys and values `[batch_size, seq_len, hidden_size]`.
pub(super) fn after_projection(
    packer: &mut Packer,
    node: &Node,
    operator: &MultiHeadAttention,
) -> Result<AttentionCore, String> {
    let MultiHeadAttention { num_heads, scale, mask_filter_value, is_causal } = *operator;
    let inputs = [0, 1, 2].map(|index| node.input(index));
    let mut hidden_size = None;
    for id in inputs {
        let shape = id.and_then(|id| packer.shape(id));
        let Some([batch, seq, width]) = shape else {
            return Err("queries, keys and values that are not apart are not packed".to_owned());
        };
        let is_rows = *batch == batch_size() && *seq == seq_len() && width.known_size().is_some();
        if !is_rows || hidden_size.is_some_and(|hidden_size| Some(hidden_size) != width.known_size()) {
            return Err("queries, keys and values differ in shape".to_owned());
        }
        hidden_size = width.known_size();
    }
    let hidden_size = hidden_size.ok_or("it has no queries")?;
    if num_heads == 0 || hidden_size % num_heads != 0 || hidden_size == 0 {
        return Err(format!("{hidden_size} numbers for {num_heads} heads"));
    }
    let qkv_bias = node.input(3);
    if let Some(bias) = qkv_bias
        && packer.graph.constant(bias).is_none_or(|bias| bias.shape() != [3 * hidden_size])
    {
        return Err("its bias is no constant for queries, keys and values".to_owned());
    }
    let no_past = node.inputs.iter().skip(6).chain(node.outputs.iter().skip(1)).all(Option::is_none);
    if !no_past || mask_filter_value > -1e4 {
        return Err("of a kind that is not packed".to_owned());
    }
    let mut scores = Scores::new(node.input(0).ok_or("it has no queries")?);
    if let Some(mask) = node.input(4) {
        mask_meaning(packer, mask, Kind::Index)?;
    }
    if is_causal {
        scores.bias = Some(Bias::Causal);
    }
    if let Some(bias) = node.input(5) {
        apply(packer, &mut scores, bias, Kind::Bias)?;
    }
    let head_dim = hidden_size / num_heads;
    let columns: Vec<usize> = (0..num_heads).map(|h| h * head_dim).collect();
    let source = |value: ValueId| Source { value, dims: vec![hidden_size], columns: columns.clone() };
    Ok(AttentionCore {
        shape: AttentionShape {
            num_heads,
            head_dim,
            scale: scale.unwrap_or_else(|| 1.0 / (head_dim as f32).sqrt()),
        },
        sources: inputs.into_iter().flatten().map(source).collect(),
        window: scores.window,
        bias: scores.table(num_heads)?,
        projection: None,
        rotary: None,
        qkv_bias,
    })
}

/// The standard's `Attention` of heads, `[batch_size, num_heads, seq_len, head_dim]`, which `output` puts side by side.
pub(super) fn of_heads(
    packer: &mut Packer,
    output: ValueId,
    node: &Node,
    operator: &sdpa::Attention,
) -> Result<AttentionCore, String> {
    let input = |index: usize| node.input(index).ok_or_else(|| format!("input {index} is missing"));
    let is_plain = operator.softcap == 0.0
        && operator.window == (None, None)
        && matches!(operator.softmax_precision, None | Some(DataType::F32))
        && node.inputs.iter().skip(4).chain(node.outputs.iter().skip(1)).all(Option::is_none);
    if !is_plain {
        return Err("of a kind that is not packed".to_owned());
    }
    let mut queries = operand(packer, input(0)?)?;
    let (mut keys, mut values) = (operand(packer, input(1)?)?, operand(packer, input(2)?)?);
    let [num_heads, head_dim] = queries.heads;
    for operand in [&mut queries, &mut keys, &mut values] {
        let [shared, size] = operand.heads;
        if operand.is_transposed || operand.shape.len() != 4 || size != head_dim || num_heads % shared != 0 {
            return Err("queries, keys and values differ in shape".to_owned());
        }
        // Heads of keys that several heads of queries share.
        let columns = (0..num_heads).map(|h| operand.source.columns[h / (num_heads / shared)]).collect();
        operand.source.columns = columns;
    }
    if queries.rotary != keys.rotary || values.rotary.is_some() || values.scale != 1.0 {
        return Err("queries and keys are not rotated alike, or values are scaled".to_owned());
    }
    let product = node.output().ok_or("it has no output")?;
    check_way_back(packer, output, product, &queries)?;
    let mut scores = Scores::new(product);
    if operator.is_causal {
        scores.bias = Some(Bias::Causal);
    }
    if let Some(mask) = node.input(3) {
        let kind = if packer.dtype(mask) == DataType::Bool { Kind::Seen } else { Kind::Bias };
        apply(packer, &mut scores, mask, kind)?;
    }
    let scale = operator.scale.unwrap_or_else(|| 1.0 / (head_dim as f32).sqrt());
    Ok(AttentionCore {
        shape: AttentionShape { num_heads, head_dim, scale: scale * queries.scale * keys.scale },
        sources: vec![queries.source, keys.source, values.source],
        window: scores.window,
        bias: scores.table(num_heads)?,
        projection: None,
        rotary: queries.rotary,
        qkv_bias: None,
    })
}
