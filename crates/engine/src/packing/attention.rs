//! Finds self-attention, whatever nodes it is made of.
//!
//! The skeleton is a product, a softmax and another product. What lies between them and the queries, keys and values
//! `[batch_size, seq_len, ...]` is turned, cut and scaled in a different way by each exporter, so it is run on
//! numbered elements instead: where each number arrives tells which column of which token it was.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::evaluate::evaluate;
use super::mask::{self, Distances, Kind, Meaning};
use super::{Packer, batch_size, depends, seq_len};
use crate::graph::{Array, Node, ValueId};
use crate::kernels::AttentionShape;
use crate::ops::fused::{DistanceTable, RotaryTable};
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
    pub(super) bias: Option<DistanceTable>,
    /// Input, weight and bias of the linear layer that makes queries, keys and values, if it is part of the node; then
    /// there are no sources.
    pub(super) projection: Option<[Option<ValueId>; 3]>,
    pub(super) rotary: Option<Arc<RotaryTable>>,
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
        rotary: None,
    })
}

/// What is found between the softmax and the product of queries and keys.
struct Scores {
    /// The product.
    product: ValueId,
    scale: f32,
    window: Option<usize>,
    bias: Option<Bias>,
}

enum Bias {
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
    let (q, k) = (wave(&queries.shape, 0.7)?, wave(&keys.shape, 1.3)?);
    let ids = [scores_node.inputs[0], scores_node.inputs[1]].map(|id| id.expect("both were looked at"));
    let result =
        evaluate(graph, infos, scores.product, SIZES, None, &[(ids[0], q.clone()), (ids[1], k.clone())])?;
    let alpha = product_scale(&q, &k, &result, [batch * heads, len, head_dim], keys.is_transposed)?;

    // The softmax over keys, whatever guards it.
    let raw = wave(result.shape(), 2.1)?;
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
    if queries.rotary != keys.rotary || values.rotary.is_some() {
        return Err("queries and keys are not rotated alike".to_owned());
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
        bias: scores.bias.as_ref().map(|bias| bias.table(heads)).transpose()?,
        projection: None,
        rotary: queries.rotary,
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
    rotary: Option<Arc<RotaryTable>>,
}

/// Operators that move elements or add multiples of them: where other inputs depend on no token, the output is a linear
/// function of the one that does.
const LINEAR: &[&str] = &[
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
    "Concat",
    "Neg",
    "Add",
    "Sub",
];

fn operand(packer: &mut Packer, id: ValueId) -> Result<Operand, String> {
    let (graph, infos) = (packer.graph, packer.infos);
    let behind = rows_behind(packer, id)?;
    let width = packer
        .shape(behind.rows)
        .and_then(|shape| shape.last()?.known_size())
        .ok_or("its width is not known")?;
    let [batch, len] = SIZES;
    let given = |values: Array| [(behind.rows, values)];
    let ones = Array::full([batch, len, width], 1.0f32).map_err(words)?;
    let scaled = evaluate(graph, infos, id, SIZES, None, &given(ones))?;
    let arrived = evaluate(graph, infos, id, SIZES, None, &given(numbered(&[batch, len, width])?))?;
    let mut operand = Operand::of_layout(&scaled, &arrived, behind.rows, width)?;
    let is_scaled = floats(&scaled)?.iter().all(|value| *value == operand.scale);
    if !is_scaled {
        // What differs from token to token is a rotation; the first token is not rotated.
        let table = match packer.rotaries.get(&behind.positions) {
            Some(table) => table.clone(),
            None => {
                let table = Arc::new(operand.rotary_table(packer, id)?);
                packer.rotaries.insert(behind.positions.clone(), table.clone());
                table
            }
        };
        operand.check_rotation(packer, id, &table)?;
        operand.rotary = Some(table);
    }
    Ok(operand)
}

impl Operand {
    /// Tells from the first tokens where ones and numbered elements have arrived.
    fn of_layout(scaled: &Array, arrived: &Array, rows: ValueId, width: usize) -> Result<Self, String> {
        let [batch, len] = SIZES;
        let scale = *floats(scaled)?.first().ok_or("it is empty")?;
        if scale == 0.0 {
            return Err("it is zero".to_owned());
        }
        let shape = arrived.shape().to_vec();
        let (heads, inner) = match *shape.as_slice() {
            [b, heads, a, c] if b == batch => (heads, [a, c]),
            [all, a, c] if all % batch == 0 => (all / batch, [a, c]),
            _ => return Err(format!("a shape of {shape:?}")),
        };
        let arrived = floats(arrived)?;
        for is_transposed in [false, true] {
            let [tokens, head_dim] = if is_transposed { [inner[1], inner[0]] } else { inner };
            if tokens != len || heads == 0 || head_dim == 0 {
                continue;
            }
            let operand = Self {
                source: Source { value: rows, first_column: 0 },
                source_width: width,
                scale,
                shape: shape.clone(),
                heads: [heads, head_dim],
                is_transposed,
                rotary: None,
            };
            let number = |b, h, d| (arrived[operand.index(b, h, 0, d)] / scale).round() as usize;
            let first_column = number(0, 0, 0) % width;
            let fits = (0..batch * heads * head_dim).all(|index| {
                let (b, h, d) = (index / (heads * head_dim), index / head_dim % heads, index % head_dim);
                number(b, h, d) == b * len * width + first_column + h * head_dim + d
            });
            if fits {
                let source = Source { value: rows, first_column };
                return Ok(Self { source, ..operand });
            }
        }
        Err("its columns are not the heads' one after the other".to_owned())
    }

    /// Where an element is, sizes being [`SIZES`].
    fn index(&self, b: usize, h: usize, s: usize, d: usize) -> usize {
        self.index_of_len(SIZES[1], b, h, s, d)
    }

    fn index_of_len(&self, len: usize, b: usize, h: usize, s: usize, d: usize) -> usize {
        let [heads, head_dim] = self.heads;
        let matrix = (b * heads + h) * len * head_dim;
        matrix + if self.is_transposed { d * len + s } else { s * head_dim + d }
    }

    /// The rotation of each position: halves of the first head that are one and zero arrive as cosines and sines.
    fn rotary_table(&self, packer: &Packer, id: ValueId) -> Result<RotaryTable, String> {
        let head_dim = self.heads[1];
        if !head_dim.is_multiple_of(2) {
            return Err("heads of odd size".to_owned());
        }
        let half = head_dim / 2;
        let mut max_positions = MAX_POSITIONS.min(MAX_ELEMENTS / self.source_width).max(1);
        loop {
            let mut values = vec![0.0f32; max_positions * self.source_width];
            for row in values.chunks_exact_mut(self.source_width) {
                row[self.source.first_column..][..half].fill(1.0);
            }
            let given = Array::new([1, max_positions, self.source_width], values).map_err(words)?;
            let cuts = [(self.source.value, given)];
            match evaluate(packer.graph, packer.infos, id, [1, max_positions], None, &cuts) {
                Ok(rotated) => {
                    let rotated = floats(&rotated)?;
                    let at = |s, d| rotated[self.index_of_len(max_positions, 0, 0, s, d)] / self.scale;
                    let table = |first: usize| {
                        (0..max_positions * half).map(|i| at(i / half, first + i % half)).collect()
                    };
                    return Ok(RotaryTable { cos: table(0), sin: table(half), dim: head_dim });
                }
                // A file may hold fewer positions.
                Err(_) if max_positions > 1 => max_positions /= 2,
                Err(reason) => return Err(reason),
            }
        }
    }

    /// Compares what the nodes compute with a rotation by the table.
    fn check_rotation(&self, packer: &Packer, id: ValueId, table: &RotaryTable) -> Result<(), String> {
        let ([batch, len], [heads, head_dim]) = (SIZES, self.heads);
        let (half, width) = (head_dim / 2, self.source_width);
        if table.dim != head_dim || table.cos.len() < len * half {
            return Err("a rotation of other heads".to_owned());
        }
        let x = wave(&[batch, len, width], 0.7)?;
        let rotated =
            evaluate(packer.graph, packer.infos, id, SIZES, None, &[(self.source.value, x.clone())])?;
        let (x, rotated) = (floats(&x)?, floats(&rotated)?);
        for b in 0..batch {
            for h in 0..heads {
                for s in 0..len {
                    let row = (b * len + s) * width + self.source.first_column + h * head_dim;
                    for d in 0..half {
                        let (cos, sin) = (table.cos[s * half + d], table.sin[s * half + d]);
                        let (low, high) = (x[row + d] * self.scale, x[row + half + d] * self.scale);
                        let expected = [low * cos - high * sin, high * cos + low * sin];
                        for (expected, d) in expected.into_iter().zip([d, d + half]) {
                            if (rotated[self.index(b, h, s, d)] - expected).abs() > 1e-4 {
                                return Err("it is no rotation of halves".to_owned());
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Positions that are looked for.
const MAX_POSITIONS: usize = 8192;

/// Elements of a made-up input at most.
const MAX_ELEMENTS: usize = 1 << 25;

fn words(problem: crate::graph::Problem) -> String {
    problem.to_string()
}

fn floats(array: &Array) -> Result<Vec<f32>, String> {
    array.to_floats().map(std::borrow::Cow::into_owned).map_err(words)
}

/// Elements that tell places apart.
fn wave(shape: &[usize], step: f32) -> Result<Array, String> {
    let values = (0..shape.iter().product()).map(|i: usize| (i as f32 * step).sin()).collect();
    Array::new(shape, values).map_err(words)
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

/// What a value is a linear function of.
struct Behind {
    /// `[batch_size, seq_len, width]`
    rows: ValueId,
    /// What depends on the padded length alone and is multiplied with it on the way, sorted.
    positions: Vec<ValueId>,
}

/// The one value of rows that all that depends on tokens comes from.
fn rows_behind(packer: &Packer, id: ValueId) -> Result<Behind, String> {
    let (mut rows, mut positions) = (None, BTreeSet::new());
    let (mut stack, mut seen) = (vec![id], BTreeSet::new());
    while let Some(id) = stack.pop() {
        if !seen.insert(id) || packer.graph.constant(id).is_some() {
            continue;
        }
        if packer.depends[id.index()] & depends::TOKENS == 0 {
            let is_shape = packer.infos.get(id).is_some_and(|info| info.ints.is_some());
            if !is_shape {
                positions.insert(id);
            }
            continue;
        }
        if let Some([batch, seq, width]) = packer.shape(id)
            && *batch == batch_size()
            && *seq == seq_len()
            && width.known().is_some()
        {
            if rows.is_some_and(|rows| rows != id) {
                return Err("it comes from two values of rows".to_owned());
            }
            rows = Some(id);
            continue;
        }
        let index = packer.pattern.index(id).ok_or("no rows of tokens behind it")?;
        let node = &packer.graph.nodes[index];
        let name = node.operator.name();
        let of_tokens =
            node.inputs.iter().flatten().filter(|id| packer.depends[id.index()] & depends::TOKENS != 0);
        let is_product = matches!(name, "Mul" | "Div") && of_tokens.count() > 1;
        if !LINEAR.contains(&name) || is_product {
            return Err(format!("{name} on the way from rows of tokens"));
        }
        stack.extend(node.inputs.iter().flatten());
    }
    let rows = rows.ok_or("no rows of tokens behind it")?;
    Ok(Behind { rows, positions: positions.into_iter().collect() })
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
    let mut scores = Scores { product: id, scale: 1.0, window: None, bias: None };
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
