//! Finds self-attention, whatever nodes it is made of.
//!
//! The skeleton is a product, a softmax and another product. What lies between them and the queries, keys and values
//! `[batch_size, seq_len, ...]` is turned, cut and scaled in a different way by each exporter, so it is run on
//! numbered elements instead: where each number arrives tells which column of which token it was.

use std::sync::Arc;

use super::evaluate::evaluate;
use super::mask::{self, Distances, Kind, Meaning};
use super::operand::{Operand, SIZES, Source, floats, numbered, operand, wave};
use super::{Packer, batch_size, depends, seq_len, whole};
use crate::graph::{Array, Node, ValueId};
use crate::kernels::AttentionShape;
use crate::ops::fused::{DistanceTable, RotaryTable};
use crate::passes::scaled_by;

/// An attention layer without its projections.
#[derive(Clone, Debug)]
pub(super) struct AttentionCore {
    pub(super) shape: AttentionShape,
    /// Of queries, keys and values.
    pub(super) sources: Vec<Source>,
    pub(super) window: Option<usize>,
    /// A table for `PackedAttention`.
    pub(super) bias: Option<DistanceTable>,
    /// Input, weight and bias of the linear layer that makes queries, keys and values, if it is part of the node; then
    /// there are no sources.
    pub(super) projection: Option<[Option<ValueId>; 3]>,
    pub(super) rotary: Option<Arc<RotaryTable>>,
    /// What is added to queries, keys and values, side by side.
    pub(super) qkv_bias: Option<ValueId>,
}

/// The attention whose result `node` turns back into `[batch_size, seq_len, hidden_size]`, if it is one; or why it is one
/// that does not run packed.
pub(super) fn find(packer: &mut Packer, node: &Node) -> Option<Result<AttentionCore, String>> {
    if let Some(attention) = node.operator() {
        return Some(whole::with_projection(packer, node, attention));
    }
    if let Some(attention) = node.operator() {
        return Some(whole::after_projection(packer, node, attention));
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
    if let Some((attention_node, attention)) = packer.pattern.operator(product) {
        return Some(whole::of_heads(packer, output, attention_node, attention));
    }
    let product_node = packer.pattern.named(product, "MatMul")?;
    let softmax = softmax_behind(packer, product_node.input(0)?)?;
    let scores = packer.pattern.node(softmax)?.input(0)?;
    let parts = scores_behind(packer, scores);
    Some(parts.and_then(|parts| core(packer, output, product, product_node, &parts, scores)))
}

/// What becomes of the products of queries and keys before the softmax.
pub(super) struct Scores {
    /// The product.
    product: ValueId,
    pub(super) scale: f32,
    pub(super) window: Option<usize>,
    pub(super) bias: Option<Bias>,
}

impl Scores {
    pub(super) fn new(product: ValueId) -> Self {
        Self { product, scale: 1.0, window: None, bias: None }
    }

    /// A table for `PackedAttention`.
    pub(super) fn table(&self, num_heads: usize) -> Result<Option<DistanceTable>, String> {
        self.bias.as_ref().map(|bias| bias.table(num_heads)).transpose()
    }
}

pub(super) enum Bias {
    Causal,
    Distances(Distances),
}

impl Bias {
    /// As `PackedAttention` takes it: a table for each head, the distance that it goes to, and whether sequences must
    /// not be longer.
    fn table(&self, num_heads: usize) -> Result<DistanceTable, String> {
        match self {
            Self::Causal => {
                let values = [0.0, 0.0, f32::NEG_INFINITY].repeat(num_heads);
                Ok(DistanceTable { values, max_distance: 2, is_whole: true })
            }
            Self::Distances(Distances { table, max_distance, is_whole }) => {
                let rows = table.len() / (2 * max_distance - 1);
                let values = match rows {
                    rows if rows == num_heads => table.clone(),
                    1 => table.repeat(num_heads),
                    _ => return Err(format!("a bias for {rows} heads")),
                };
                Ok(DistanceTable { values, max_distance: *max_distance, is_whole: *is_whole })
            }
        }
    }
}

/// Queries and keys whose products the softmax is of.
pub(super) struct Products {
    pub(super) queries: Operand,
    pub(super) keys: Operand,
    /// The factor of the rows' products before the softmax.
    pub(super) scale: f32,
}

/// What `scores` are products of; checks that `powers` are their softmax over keys, `softmax_input` being what they are
/// right before it.
pub(super) fn products(
    packer: &mut Packer,
    scores: &Scores,
    softmax_input: ValueId,
    powers: ValueId,
) -> Result<Products, String> {
    let (graph, infos) = (packer.graph, packer.infos);
    let scores_node = packer.pattern.node(scores.product).ok_or("no scores")?;
    let (queries, keys) = (scores_node.input(0).ok_or("no queries")?, scores_node.input(1).ok_or("no keys")?);
    let ids = [queries, keys];
    let (queries, keys) = (operand(packer, queries)?, operand(packer, keys)?);
    let [heads, head_dim] = queries.heads;
    let [batch, len] = SIZES;

    // The product: numbers that tell transposed keys from others, and the factor.
    let (q, k) = (wave(&queries.shape, 0.7)?, wave(&keys.shape, 1.3)?);
    let cuts = [(ids[0], q.clone()), (ids[1], k.clone())];
    let result = evaluate(graph, infos, scores.product, SIZES, None, &cuts)?;
    let alpha = product_scale(&q, &k, &result, [batch * heads, len, head_dim], keys.is_transposed)?;

    // The softmax over keys, whatever guards it.
    let sizes = |name: &str| {
        let index = [batch_size(), seq_len()].iter().position(|dim| dim.to_string() == name)?;
        i64::try_from(SIZES[index]).ok()
    };
    let shape = packer.shape(softmax_input).ok_or("the shape of scores is not known")?;
    let shape: Option<Vec<usize>> =
        shape.iter().map(|dim| usize::try_from(dim.evaluate(sizes)?).ok()).collect();
    let raw = wave(&shape.ok_or("the shape of scores is not known")?, 2.1)?;
    let soft = evaluate(graph, infos, powers, SIZES, None, &[(softmax_input, raw.clone())])?;
    check_softmax(&raw, &soft, len)?;

    if keys.heads != queries.heads || queries.is_transposed {
        return Err("queries and keys differ in shape".to_owned());
    }
    if queries.rotary != keys.rotary {
        return Err("queries and keys are not rotated alike".to_owned());
    }
    let scale = scores.scale * alpha * queries.scale * keys.scale;
    Ok(Products { queries, keys, scale })
}

fn core(
    packer: &mut Packer,
    output: ValueId,
    product: ValueId,
    product_node: &Node,
    scores: &Scores,
    softmax_input: ValueId,
) -> Result<AttentionCore, String> {
    let (powers, values) = (product_node.inputs[0], product_node.inputs[1]);
    let (powers, values) = (powers.ok_or("no powers")?, values.ok_or("no values")?);
    let Products { queries, keys, scale } = products(packer, scores, softmax_input, powers)?;
    let values = operand(packer, values)?;
    check_way_back(packer, output, product, &queries)?;
    if values.heads != queries.heads || values.is_transposed {
        return Err("queries and values differ in shape".to_owned());
    }
    if values.rotary.is_some() {
        return Err("values are rotated".to_owned());
    }
    if values.scale != 1.0 {
        return Err("values are scaled".to_owned());
    }
    let [num_heads, head_dim] = queries.heads;
    Ok(AttentionCore {
        shape: AttentionShape { num_heads, head_dim, scale },
        sources: vec![queries.source, keys.source, values.source],
        window: scores.window,
        bias: scores.table(num_heads)?,
        projection: None,
        rotary: queries.rotary,
        qkv_bias: None,
    })
}

/// Checks that `output` holds the heads that `product` computes side by side.
pub(super) fn check_way_back(
    packer: &Packer,
    output: ValueId,
    product: ValueId,
    queries: &Operand,
) -> Result<(), String> {
    let ([batch, len], [heads, head_dim]) = (SIZES, queries.heads);
    let shape = match queries.shape.len() {
        3 => vec![batch * heads, len, head_dim],
        _ => vec![batch, heads, len, head_dim],
    };
    let cuts = [(product, numbered(&shape)?)];
    let merged = evaluate(packer.graph, packer.infos, output, SIZES, None, &cuts)?;
    let width = heads * head_dim;
    let expected = |index: usize| {
        let (b, s, c) = (index / width / len, index / width % len, index % width);
        ((b * heads + c / head_dim) * len + s) * head_dim + c % head_dim
    };
    let is_merged = merged.shape() == [batch, len, width]
        && floats(&merged)?.iter().enumerate().all(|(index, value)| *value == expected(index) as f32);
    if is_merged { Ok(()) } else { Err("heads are not put side by side".to_owned()) }
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

/// The softmax that a value is, behind casts and guards against rows without any key.
pub(super) fn softmax_behind(packer: &Packer, mut id: ValueId) -> Option<ValueId> {
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
pub(super) fn scores_behind(packer: &mut Packer, mut id: ValueId) -> Result<Scores, String> {
    let mut scores = Scores::new(id);
    loop {
        let node = packer.pattern.node(id).ok_or("scores that no node computes")?;
        let input = |index: usize| node.input(index).ok_or("an input is missing");
        match node.operator.name() {
            "MatMul" | "FusedMatMul" => {
                scores.product = id;
                return Ok(scores);
            }
            "Cast" | "Identity" => id = input(0)?,
            // Heads and texts in one dimension or two.
            "Reshape" | "Squeeze" | "Unsqueeze"
                if has_matrices(packer, id) && has_matrices(packer, input(0)?) =>
            {
                id = input(0)?;
            }
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

/// Whether the last two dimensions are queries and keys.
fn has_matrices(packer: &Packer, id: ValueId) -> bool {
    matches!(packer.shape(id), Some([.., queries, keys]) if *queries == seq_len() && *keys == seq_len())
}

pub(super) fn apply(packer: &mut Packer, scores: &mut Scores, id: ValueId, kind: Kind) -> Result<(), String> {
    if packer.depends[id.index()] & depends::TOKENS != 0 {
        return Err("the mask depends on tokens".to_owned());
    }
    let meaning = mask_meaning(packer, id, kind)?;
    match meaning {
        Meaning::All => {}
        Meaning::Window(window) if scores.window.is_none() => scores.window = Some(window),
        // Tokens after a query are as far as can be.
        Meaning::Causal if scores.bias.is_none() => scores.bias = Some(Bias::Causal),
        Meaning::Distances(distances) if scores.bias.is_none() && scores.scale == 1.0 => {
            scores.bias = Some(Bias::Distances(distances));
        }
        _ => return Err("masks of two kinds at once".to_owned()),
    }
    Ok(())
}

/// [`mask::meaning`], asked once for each mask.
pub(super) fn mask_meaning(packer: &mut Packer, id: ValueId, kind: Kind) -> Result<Meaning, String> {
    packer.hides_padding |= packer.depends[id.index()] & depends::MASK != 0;
    if let Some(meaning) = packer.masks.get(&id) {
        return Ok(meaning.clone());
    }
    let max_positions = super::max_positions(&packer.packed);
    let mask = packer.roles.attention_mask;
    let meaning = mask::meaning(packer.graph, packer.infos, mask, id, kind, max_positions)?;
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
