//! Finds self-attention, whatever nodes it is made of.
//!
//! The skeleton is a product, a softmax and another product. What lies between them and the queries, keys and values
//! `[batch_size, seq_len, ...]` is turned, cut and scaled in a different way by each exporter, so it is run on
//! numbered elements instead: where each number arrives tells which column of which token it was.

use super::evaluate::evaluate;
use super::mask::{self, Kind, Meaning};
use super::{Packer, batch_size, depends, seq_len};
use crate::graph::{Array, Node, ValueId};
use crate::kernels::AttentionShape;
use crate::ops::microsoft::{Attention, SelfAttention};
use crate::passes::scaled_by;

/// An attention layer without its projections.
#[derive(Clone, Debug)]
pub(super) struct AttentionCore {
    pub(super) shape: AttentionShape,
    /// Of queries, keys and values.
    pub(super) sources: [Source; 3],
    /// Columns of the sources.
    pub(super) source_width: usize,
    pub(super) window: Option<usize>,
    /// A table for `PackedAttention`.
    pub(super) bias: Option<(Vec<f32>, usize)>,
    /// Input, weight and bias of the linear layer that makes queries, keys and values, if it is part of the node; then
    /// there are no sources.
    pub(super) projection: Option<[Option<ValueId>; 3]>,
}

/// Where queries, keys or values of all heads are, side by side in the order of the heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Source {
    /// `[batch_size, seq_len, ...]`
    pub(super) value: ValueId,
    pub(super) first_column: usize,
}

/// Sizes of made-up inputs; no two dimensions of real models are likely to be these.
const SIZES: [usize; 2] = [2, 3];

/// The attention whose result `node` turns back into `[batch_size, seq_len, hidden_size]`, if it is one; or why it is one
/// that does not run packed.
pub(super) fn find(packer: &mut Packer, node: &Node) -> Option<Result<AttentionCore, String>> {
    if let Some(attention) = node.operator::<Attention>() {
        return Some(whole_layer(packer, node, attention));
    }
    let output = node.output()?;
    match packer.shape(output)? {
        [batch, seq, hidden] if *batch == batch_size() && *seq == seq_len() && hidden.known().is_some() => {}
        _ => return None,
    }
    if node.operator.name() != "Reshape" {
        return None;
    }
    let product = back(packer, node.input(0)?, &["Transpose", "Reshape"])?;
    let product_node = packer.pattern.named(product, "MatMul")?;
    let softmax = softmax_behind(packer, product_node.input(0)?)?;
    let scores = packer.pattern.node(softmax)?.input(0)?;
    let parts = scores_behind(packer, scores);
    Some(parts.and_then(|parts| core(packer, output, product, product_node, &parts, scores)))
}

/// com.microsoft's node, which holds the projection too.
fn whole_layer(packer: &mut Packer, node: &Node, operator: &Attention) -> Result<AttentionCore, String> {
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
    let no_source = Source { value: node.input(0).ok_or("it has no input")?, first_column: 0 };
    Ok(AttentionCore {
        shape: AttentionShape { num_heads, head_dim, scale },
        sources: [no_source; 3],
        source_width: hidden_size,
        window: None,
        bias: None,
        projection: Some([node.input(0), node.input(1), node.input(2)]),
    })
}

/// What is found between the softmax and the product of queries and keys.
struct Scores {
    /// The product.
    product: ValueId,
    scale: f32,
    window: Option<usize>,
}

fn core(
    packer: &mut Packer,
    output: ValueId,
    product: ValueId,
    product_node: &Node,
    scores: &Scores,
    softmax_input: ValueId,
) -> Result<AttentionCore, String> {
    let (graph, infos) = (packer.graph, packer.infos);
    let (powers, values) = (product_node.inputs[0], product_node.inputs[1]);
    let (powers, values) = (powers.ok_or("no powers")?, values.ok_or("no values")?);
    let scores_node = packer.pattern.node(scores.product).ok_or("no scores")?;
    let (queries, keys) = (scores_node.input(0).ok_or("no queries")?, scores_node.input(1).ok_or("no keys")?);
    let queries = operand(packer, queries)?;
    let keys = operand(packer, keys)?;
    let values = operand(packer, values)?;
    let [heads, head_dim] = queries.heads;
    let [batch, len] = SIZES;

    // The product: numbers that tell transposed keys from others, and the factor.
    let numbers = |shape: &[usize], seed: f32| {
        let values = (0..shape.iter().product()).map(|i: usize| (i as f32 * seed).sin()).collect();
        Array::new(shape, values).map_err(|problem| problem.to_string())
    };
    let (q, k) = (numbers(&queries.shape, 0.7)?, numbers(&keys.shape, 1.3)?);
    let ids = [scores_node.inputs[0], scores_node.inputs[1]].map(|id| id.expect("both were looked at"));
    let result =
        evaluate(graph, infos, scores.product, SIZES, None, &[(ids[0], q.clone()), (ids[1], k.clone())])?;
    let alpha = product_scale(&q, &k, &result, [batch * heads, len, head_dim], keys.is_transposed)?;

    // The softmax over keys, whatever guards it.
    let raw = numbers(result.shape(), 2.1)?;
    let soft = evaluate(graph, infos, powers, SIZES, None, &[(softmax_input, raw.clone())])?;
    check_softmax(&raw, &soft, len)?;

    // The way back to tokens.
    let value_shape = if queries.shape.len() == 3 {
        vec![batch * heads, len, head_dim]
    } else {
        vec![batch, heads, len, head_dim]
    };
    let sums = numbered(&value_shape)?;
    let merged = evaluate(graph, infos, output, SIZES, None, &[(product, sums)])?;
    let expected = |b: usize, s: usize, c: usize| {
        let (head, column) = (c / head_dim, c % head_dim);
        ((b * heads + head) * len + s) * head_dim + column
    };
    if merged.shape() != [batch, len, heads * head_dim] {
        return Err("heads are not put side by side".to_owned());
    }
    let merged = merged.values::<f32>().map_err(|problem| problem.to_string())?;
    for (index, value) in merged.iter().enumerate() {
        let width = heads * head_dim;
        if *value != expected(index / width / len, index / width % len, index % width) as f32 {
            return Err("heads are not put side by side".to_owned());
        }
    }
    if keys.heads != queries.heads
        || values.heads != queries.heads
        || queries.is_transposed
        || values.is_transposed
    {
        return Err("queries, keys and values differ in shape".to_owned());
    }
    let width = |operand: &Operand| operand.source_width;
    let source_width = width(&queries);
    if width(&keys) != source_width || width(&values) != source_width {
        return Err("queries, keys and values differ in width".to_owned());
    }
    if values.scale != 1.0 {
        return Err("values are scaled".to_owned());
    }
    let scale = scores.scale * alpha * queries.scale * keys.scale;
    Ok(AttentionCore {
        shape: AttentionShape { num_heads: heads, head_dim, scale },
        sources: [queries.source, keys.source, values.source],
        source_width,
        window: scores.window,
        bias: None,
        projection: None,
    })
}

/// Queries, keys or values as a product reads them.
struct Operand {
    source: Source,
    source_width: usize,
    scale: f32,
    /// Its shape where sizes are [`SIZES`].
    shape: Vec<usize>,
    /// Number and size of the heads.
    heads: [usize; 2],
    /// The last two dimensions are columns and tokens, not tokens and columns.
    is_transposed: bool,
}

const LAYOUT: &[&str] = &[
    "Reshape",
    "Transpose",
    "Unsqueeze",
    "Squeeze",
    "Flatten",
    "Identity",
    "Cast",
    "Mul",
    "Div",
    "Split",
    "Slice",
    "Gather",
];

fn operand(packer: &Packer, id: ValueId) -> Result<Operand, String> {
    let (graph, infos) = (packer.graph, packer.infos);
    let source = back_to_rows(packer, id).ok_or("no rows of tokens behind it")?;
    let width =
        packer.shape(source).and_then(|shape| shape.last()?.known_size()).ok_or("its width is not known")?;
    let [batch, len] = SIZES;
    let error = |problem: crate::graph::Problem| problem.to_string();
    let ones = Array::full([batch, len, width], 1.0f32).map_err(error)?;
    let scaled = evaluate(graph, infos, id, SIZES, None, &[(source, ones)])?;
    let scale = *scaled.values::<f32>().map_err(error)?.first().ok_or("it is empty")?;
    if scaled.values::<f32>().map_err(error)?.iter().any(|value| *value != scale) || scale == 0.0 {
        return Err("it is not scaled by one factor".to_owned());
    }
    let arrived = evaluate(graph, infos, id, SIZES, None, &[(source, numbered(&[batch, len, width])?)])?;
    let shape = arrived.shape().to_vec();
    let (heads, inner) = match *shape.as_slice() {
        [b, heads, a, c] if b == batch => (heads, [a, c]),
        [all, a, c] if all % batch == 0 => (all / batch, [a, c]),
        _ => return Err(format!("a shape of {shape:?}")),
    };
    let numbers: Vec<usize> = arrived
        .values::<f32>()
        .map_err(error)?
        .iter()
        .map(|value| (value / scale).round() as usize)
        .collect();
    let first_column = numbers.first().map(|number| number % width).ok_or("it is empty")?;
    for is_transposed in [false, true] {
        let head_dim = if is_transposed { inner[0] } else { inner[1] };
        let tokens = if is_transposed { inner[1] } else { inner[0] };
        if tokens != len || heads == 0 || head_dim == 0 {
            continue;
        }
        let fits = numbers.iter().enumerate().all(|(index, number)| {
            let (matrix, rest) = (index / (len * head_dim), index % (len * head_dim));
            let (s, d) =
                if is_transposed { (rest % len, rest / len) } else { (rest / head_dim, rest % head_dim) };
            let (b, h) = (matrix / heads, matrix % heads);
            *number == (b * len + s) * width + first_column + h * head_dim + d
        });
        if fits {
            let source = Source { value: source, first_column };
            let heads = [heads, head_dim];
            return Ok(Operand { source, source_width: width, scale, shape, heads, is_transposed });
        }
    }
    Err("its columns are not the heads' one after the other".to_owned())
}

/// Elements that are their own index.
fn numbered(shape: &[usize]) -> Result<Array, String> {
    let len: usize = shape.iter().product();
    if len > 1 << 24 {
        return Err("too many elements to number".to_owned());
    }
    Array::new(shape, (0..len).map(|index| index as f32).collect()).map_err(|problem| problem.to_string())
}

/// Goes back through nodes of these kinds to the value before them.
fn back(packer: &Packer, mut id: ValueId, kinds: &[&str]) -> Option<ValueId> {
    while let Some(node) = packer.pattern.node(id) {
        if !kinds.contains(&node.operator.name()) {
            return Some(id);
        }
        id = node.input(0)?;
    }
    Some(id)
}

/// The rows of tokens, `[batch_size, seq_len, width]`, that a value is another layout of.
fn back_to_rows(packer: &Packer, mut id: ValueId) -> Option<ValueId> {
    let mut rows = None;
    loop {
        if let Some([batch, seq, width]) = packer.shape(id)
            && *batch == batch_size()
            && *seq == seq_len()
            && width.known().is_some()
        {
            rows = Some(id);
        }
        let Some(index) = packer.pattern.index(id) else {
            return rows;
        };
        let node = &packer.graph.nodes[index];
        if !LAYOUT.contains(&node.operator.name()) {
            return rows;
        }
        let of_tokens = |id: &&ValueId| packer.depends[id.index()] & depends::TOKENS != 0;
        let mut inputs = node.inputs.iter().flatten().filter(of_tokens);
        match (inputs.next(), inputs.next()) {
            (Some(input), None) => id = *input,
            _ => return rows,
        }
    }
}

/// The softmax that a value is, behind casts and guards against rows without any key.
fn softmax_behind(packer: &Packer, mut id: ValueId) -> Option<ValueId> {
    loop {
        let node = packer.pattern.node(id)?;
        id = match node.operator.name() {
            "Softmax" => return Some(id),
            "Cast" | "Identity" | "Dropout" => node.input(0)?,
            "Where" => node.input(2)?,
            _ => return None,
        };
    }
}

/// Goes back from the softmax through scales and masks to the product.
fn scores_behind(packer: &mut Packer, mut id: ValueId) -> Result<Scores, String> {
    let mut scores = Scores { product: id, scale: 1.0, window: None };
    loop {
        let node = packer.pattern.node(id).ok_or("scores that no node computes")?;
        let input = |index: usize| node.input(index).ok_or("an input is missing");
        match node.operator.name() {
            "MatMul" | "FusedMatMul" => {
                scores.product = id;
                return Ok(scores);
            }
            "Cast" | "Identity" => id = input(0)?,
            "Mul" | "Div" => {
                let (scaled, factor) =
                    scaled_by(&packer.pattern, node).ok_or("scores are not scaled by a number")?;
                scores.scale *= factor;
                id = scaled;
            }
            "Add" => {
                let (a, b) = (input(0)?, input(1)?);
                let a_is_scores = packer.depends[a.index()] & depends::TOKENS != 0;
                let (next, mask) = if a_is_scores { (a, b) } else { (b, a) };
                apply(packer, &mut scores, mask, Kind::Bias)?;
                id = next;
            }
            "Where" => {
                let (condition, a, b) = (input(0)?, input(1)?, input(2)?);
                let is_hidden = |id| packer.pattern.scalar(id).is_some_and(|value| value <= -1e4);
                let (next, kind) = if is_hidden(b) {
                    (a, Kind::Seen)
                } else if is_hidden(a) {
                    (b, Kind::Hidden)
                } else {
                    return Err("scores are chosen by a condition".to_owned());
                };
                apply(packer, &mut scores, condition, kind)?;
                id = next;
            }
            other => return Err(format!("{other} between product and softmax")),
        }
    }
}

fn apply(packer: &mut Packer, scores: &mut Scores, id: ValueId, kind: Kind) -> Result<(), String> {
    if packer.depends[id.index()] & depends::TOKENS != 0 {
        return Err("the mask depends on tokens".to_owned());
    }
    match mask_meaning(packer, id, kind)? {
        Meaning::Padding => Ok(()),
        Meaning::Window(window) if scores.window.is_none() => {
            scores.window = Some(window);
            Ok(())
        }
        Meaning::Window(_) => Err("two windows".to_owned()),
    }
}

/// [`mask::meaning`], asked once for each mask.
pub(super) fn mask_meaning(packer: &mut Packer, id: ValueId, kind: Kind) -> Result<Meaning, String> {
    if let Some(meaning) = packer.masks.get(&id) {
        return Ok(meaning.clone());
    }
    let meaning = mask::meaning(packer.graph, packer.infos, packer.roles.attention_mask, id, kind)?;
    packer.masks.insert(id, meaning.clone());
    Ok(meaning)
}

/// The factor between `result` and the products of the rows of queries with the keys'.
fn product_scale(
    q: &Array,
    k: &Array,
    result: &Array,
    [matrices, len, head_dim]: [usize; 3],
    is_transposed: bool,
) -> Result<f32, String> {
    let values =
        |array: &'_ Array| array.values::<f32>().map(<[f32]>::to_vec).map_err(|problem| problem.to_string());
    let (q, k, result) = (values(q)?, values(k)?, values(result)?);
    if result.len() != matrices * len * len {
        return Err("scores of another shape".to_owned());
    }
    let mut factor = None;
    for (index, score) in result.iter().enumerate() {
        let (matrix, row, column) = (index / (len * len), index / len % len, index % len);
        let product: f32 = (0..head_dim)
            .map(|d| {
                let at = if is_transposed { d * len + column } else { column * head_dim + d };
                q[(matrix * len + row) * head_dim + d] * k[matrix * len * head_dim + at]
            })
            .sum();
        // The factor is the ratio where it can be told best.
        if product.abs() > 0.1 && factor.is_none() {
            factor = Some(score / product);
        }
        if let Some(factor) = factor
            && (score - factor * product).abs() > 1e-4 * (1.0 + score.abs())
        {
            return Err("scores are no products of queries and keys".to_owned());
        }
    }
    let factor = factor.ok_or("the products are too small to tell")?;
    // The file's own constant, without the rounding of the division above.
    Ok(if (factor - 1.0).abs() < 1e-5 { 1.0 } else { factor })
}

fn check_softmax(raw: &Array, soft: &Array, len: usize) -> Result<(), String> {
    let error = |problem: crate::graph::Problem| problem.to_string();
    let (raw, soft) = (raw.values::<f32>().map_err(error)?, soft.values::<f32>().map_err(error)?);
    if raw.len() != soft.len() {
        return Err("the softmax changes the shape".to_owned());
    }
    for (raw, soft) in raw.chunks(len).zip(soft.chunks(len)) {
        let total: f32 = raw.iter().map(|value| value.exp()).sum();
        if raw.iter().zip(soft).any(|(raw, soft)| (raw.exp() / total - soft).abs() > 1e-4) {
            return Err("the softmax does not go over keys".to_owned());
        }
    }
    Ok(())
}
