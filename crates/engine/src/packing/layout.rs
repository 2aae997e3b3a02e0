//! How single nodes run over packed tokens.
//!
//! A node that treats each token alike is copied as it is: `[1, total_tokens, ...]` is a batch of one to it.

use std::fmt;

use super::but_first::{self, TOKENS_BUT_FIRST, seq_len_but_first};
use super::evaluate::evaluate;
use super::operators::Fill;
use super::{Packer, Reason, axes, batch_size, positions, seq_len};
use crate::graph::{Array, DataType, Dim, Node, ValueId};
use crate::ops;
use crate::ops::fused::{CumSumSequences, FirstTokens, LayerNorm, ReduceSequences, Reduction};
use crate::ops::indexing::CumSum;
use crate::ops::microsoft::SkipLayerNormalization;
use crate::ops::quantized::{DequantizeLinear, QuantizeLinear};
use crate::ops::reduction::reduce::{self, Reduce};
use crate::ops::shaping::Reshape;

/// How a packed value lies, compared with the padded one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// The same in every run.
    Constant,
    /// `[1, total_tokens, ...]` for `[batch_size, seq_len, ...]`. Broadcast: further dimensions may be 1 where the padded
    /// ones are not, because nobody who can be broadcast needs to see them expanded.
    Tokens { is_broadcast: bool },
    /// `[1, total_tokens, ...]` for `[batch_size, seq_len - 1, ...]`, where the rows of first tokens are of no meaning.
    TokensButFirst { is_broadcast: bool },
    /// `[total_tokens, ...]` for `[batch_size * seq_len, ...]`.
    Flat,
    /// `[batch_size, ...]`, as in the padded graph.
    Sequences { is_broadcast: bool },
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Constant => "the same for all texts",
            Self::Tokens { is_broadcast: false } => "one row for each token",
            Self::Sequences { is_broadcast: false } => "one row for each sequence",
            Self::TokensButFirst { is_broadcast: false } => "one row for each token but the first",
            Self::Flat => "one flat row for each token",
            Self::Tokens { is_broadcast: true }
            | Self::TokensButFirst { is_broadcast: true }
            | Self::Sequences { is_broadcast: true } => "not expanded",
        })
    }
}

impl Layout {
    /// Dimensions that go over tokens or sequences: the first ones.
    pub(super) fn num_axes(self) -> usize {
        match self {
            Self::Constant => 0,
            Self::Tokens { .. } | Self::TokensButFirst { .. } => 2,
            Self::Flat | Self::Sequences { .. } => 1,
        }
    }

    fn is_broadcast(self) -> bool {
        matches!(
            self,
            Self::Tokens { is_broadcast: true }
                | Self::TokensButFirst { is_broadcast: true }
                | Self::Sequences { is_broadcast: true }
        )
    }

    fn with_broadcast(self, is_broadcast: bool) -> Self {
        match self {
            Self::Tokens { .. } => Self::Tokens { is_broadcast },
            Self::TokensButFirst { .. } => Self::TokensButFirst { is_broadcast },
            Self::Sequences { .. } => Self::Sequences { is_broadcast },
            other => other,
        }
    }
}

pub(super) const TOKENS: Layout = Layout::Tokens { is_broadcast: false };
const SEQUENCES: Layout = Layout::Sequences { is_broadcast: false };

/// Operators whose outputs' elements each depend on the inputs' elements at the same place.
const ELEMENTWISE: &[&str] = &[
    "Abs",
    "Activate",
    "Add",
    "And",
    "Cast",
    "CastLike",
    "Ceil",
    "Clip",
    "Cos",
    "Div",
    "Dropout",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "Max",
    "Mean",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "Pow",
    "PRelu",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Sub",
    "Sum",
    "Swish",
    "Tanh",
    "ThresholdedRelu",
    "Where",
    "Xor",
    "FastGelu",
    "QuickGelu",
    "BiasGelu",
    "BiasAdd",
];

/// Operators that normalise along axes that their attributes name; further inputs are parameters.
const NORMALISATIONS: &[&str] = &[
    "Hardmax",
    "LayerNorm",
    "LayerNormalization",
    "LogSoftmax",
    "LpNormalization",
    "MeanVarianceNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "Softmax",
];

/// Operators that multiply each row of the first input, of its last dimension, with matrices.
const PRODUCTS: &[&str] = &["Linear", "MatMul", "MatMulNBits", "Mlp"];

/// Operators that keep all elements in order.
const RESHAPING: &[&str] = &["Reshape", "Unsqueeze", "Squeeze", "Flatten"];

/// A packed value and how it lies.
pub(super) type Packed = (ValueId, Layout);

/// The packed values of a node's outputs, or why there are none. Outputs behind those given are not packed.
pub(super) fn pack_node(packer: &mut Packer, node: &Node) -> Result<Vec<Packed>, Reason> {
    let name = node.operator.name();
    let one = |packed: Packed| vec![packed];
    if ELEMENTWISE.contains(&name) {
        return same_place(packer, node);
    }
    if NORMALISATIONS.contains(&name) {
        return normalise(packer, node);
    }
    if PRODUCTS.contains(&name) {
        return product(packer, node);
    }
    if RESHAPING.contains(&name) {
        return reshape(packer, node).map(one);
    }
    if node.operator::<Reduce>().is_some() {
        return reduce(packer, node);
    }
    match name {
        "Slice" => match but_first::pack_slice(packer, node) {
            Some(packed) => Ok(one(packed)),
            None => cut(packer, node, 1),
        },
        "Split" => cut(packer, node, 1),
        "Concat" => cut(packer, node, node.inputs.len()),
        "Gather" => gather(packer, node),
        "GatherElements" => gather_equal(packer, node).map(one),
        "QuantizeLinear" | "DequantizeLinear" => quantize(packer, node),
        "Expand" => expand(packer, node).map(one),
        "CumSum" => running_sums(packer, node).map(one),
        _ => Err("this operator may look across tokens".into()),
    }
}

fn input(node: &Node, index: usize) -> Result<ValueId, String> {
    node.input(index).ok_or_else(|| format!("input {index} is missing"))
}

fn output(node: &Node) -> Result<ValueId, String> {
    node.output().ok_or_else(|| "it has no output".to_owned())
}

fn known_shape<'a>(packer: &Packer<'a>, id: ValueId) -> Result<&'a [Dim], String> {
    packer.shape(id).ok_or_else(|| format!("the shape of `{}` is not known", packer.graph.value(id).name))
}

/// Whether a value of this shape has the dimensions that its layout says it has.
pub(super) fn is_in_place(shape: &[Dim], layout: Layout) -> bool {
    match (layout, shape) {
        (Layout::Constant, _) => true,
        (Layout::Tokens { .. }, [batch, seq, ..]) => *batch == batch_size() && *seq == seq_len(),
        (Layout::TokensButFirst { .. }, [batch, seq, ..]) => {
            *batch == batch_size() && *seq == seq_len_but_first()
        }
        (Layout::Flat, [tokens, ..]) => *tokens == batch_size().times(&seq_len()),
        (Layout::Sequences { .. }, [batch, ..]) => *batch == batch_size(),
        _ => false,
    }
}

/// Whether it is a row for each position, the same for all sequences.
pub(super) fn is_by_position(shape: &[Dim]) -> bool {
    matches!(shape, [one, seq, ..] if one.is(1) && (*seq == seq_len() || seq.is_limited(&seq_len())))
}

/// Operators whose outputs' elements each depend on the inputs' elements at the same place.
fn same_place(packer: &mut Packer, node: &Node) -> Result<Vec<Packed>, Reason> {
    let shape_of_output = known_shape(packer, output(node)?)?;
    let rank = shape_of_output.len();
    let (mut inputs, mut constants) = (Vec::new(), Vec::new());
    let (mut layout, mut is_broadcast, mut is_full) = (Layout::Constant, false, false);
    for id in &node.inputs {
        let Some(id) = *id else {
            inputs.push(None);
            continue;
        };
        let (packed, own) = packer.packed(id)?;
        inputs.push(Some(packed));
        let shape = known_shape(packer, id)?;
        if own == Layout::Constant {
            constants.push(shape);
            continue;
        }
        if layout != Layout::Constant && std::mem::discriminant(&layout) != std::mem::discriminant(&own) {
            return Err(format!("an input is {layout}, another is {own}").into());
        }
        // Rows for each position alone are the same for all sequences.
        let has_no_batch = matches!(own, Layout::Tokens { .. })
            && shape.len() + 1 == rank
            && shape.first() == Some(&seq_len())
            && shape_of_output.starts_with(&[batch_size(), seq_len()]);
        if has_no_batch {
            is_broadcast |= own.is_broadcast();
            layout = own;
            continue;
        }
        if shape.len() != rank {
            return Err("inputs that depend on tokens have different ranks".into());
        }
        let is_position = own == TOKENS && is_by_position(shape);
        if !(is_position || is_in_place(shape, own)) {
            return Err(format!("an input of shape {shape:?} is {own}").into());
        }
        is_broadcast |= own.is_broadcast();
        // Where one input is expanded and another is not, the result is as large as it should be.
        is_full |= !own.is_broadcast() && shape == shape_of_output;
        layout = own;
    }
    // Nothing is broadcast along tokens or sequences but what is the same for all of them.
    let own = layout.num_axes();
    for shape in constants {
        let leading = own.min((shape.len() + own).saturating_sub(rank));
        if shape.len() > rank || !shape[..leading].iter().all(|dim| dim.is(1)) {
            return Err("a constant differs from token to token".into());
        }
    }
    let layout = layout.with_broadcast(is_broadcast && !is_full);
    Ok(packer.copy_all(node, inputs, layout))
}

/// Checks that a node looks along no axis of tokens or sequences of its input, which has this layout.
fn check_axes(packer: &Packer, node: &Node, layout: Layout) -> Result<(), Reason> {
    let rank = known_shape(packer, input(node, 0)?)?.len();
    if layout.is_broadcast() {
        return Err("rows are not expanded".into());
    }
    if axes::along(packer, node, rank)?.iter().any(|axis| *axis < layout.num_axes()) {
        return Err("it goes across tokens".into());
    }
    Ok(())
}

fn normalise(packer: &mut Packer, node: &Node) -> Result<Vec<Packed>, Reason> {
    let (_, layout) = packer.packed(input(node, 0)?)?;
    check_axes(packer, node, layout)?;
    // These normalise sums.
    let is_sum =
        node.operator::<LayerNorm>().is_some() || node.operator::<SkipLayerNormalization>().is_some();
    for id in node.inputs[1..].iter().flatten() {
        let (_, own) = packer.packed(*id)?;
        if own != Layout::Constant && (!is_sum || own.is_broadcast()) {
            return Err(format!("a parameter is {own}").into());
        }
    }
    same_place(packer, node)
}

fn product(packer: &mut Packer, node: &Node) -> Result<Vec<Packed>, Reason> {
    let id = input(node, 0)?;
    let (x, layout) = packer.packed(id)?;
    let shape = known_shape(packer, id)?;
    if layout == Layout::Constant || layout.is_broadcast() {
        return Err(format!("its rows are {layout}").into());
    }
    if shape.len() <= layout.num_axes() {
        return Err("rows go across tokens".into());
    }
    let mut inputs = vec![Some(x)];
    for id in &node.inputs[1..] {
        let Some(id) = *id else {
            inputs.push(None);
            continue;
        };
        let (packed, own) = packer.packed(id)?;
        if own != Layout::Constant {
            return Err("both factors depend on tokens".into());
        }
        inputs.push(Some(packed));
        let factor = known_shape(packer, id)?;
        let leading = factor.len().saturating_sub(2);
        let of_tokens = leading.min((factor.len() + layout.num_axes()).saturating_sub(shape.len()));
        if node.operator.name() == "MatMul"
            && (factor.len() > shape.len() || !factor[..of_tokens].iter().all(|dim| dim.is(1)))
        {
            return Err("a constant differs from token to token".into());
        }
    }
    Ok(packer.copy_all(node, inputs, layout))
}

fn reshape(packer: &mut Packer, node: &Node) -> Result<Packed, Reason> {
    let id = input(node, 0)?;
    let (x, layout) = packer.packed(id)?;
    let shape = known_shape(packer, output(node)?)?;
    let sizes = |rest: &[Dim]| -> Result<Vec<i64>, String> {
        rest.iter().map(|dim| dim.known().ok_or_else(|| format!("a shape of {shape:?}"))).collect()
    };
    let (to, layout) = match (layout, shape) {
        (TOKENS | Layout::Flat, [batch, seq, rest @ ..]) if *batch == batch_size() && *seq == seq_len() => {
            ([vec![1, -1], sizes(rest)?].concat(), TOKENS)
        }
        (TOKENS_BUT_FIRST, [batch, seq, rest @ ..])
            if *batch == batch_size() && *seq == seq_len_but_first() =>
        {
            ([vec![1, -1], sizes(rest)?].concat(), TOKENS_BUT_FIRST)
        }
        (TOKENS | Layout::Flat, [tokens, rest @ ..]) if *tokens == batch_size().times(&seq_len()) => {
            ([vec![-1], sizes(rest)?].concat(), Layout::Flat)
        }
        (SEQUENCES, [batch, rest @ ..]) if *batch == batch_size() => {
            ([vec![-1], sizes(rest)?].concat(), SEQUENCES)
        }
        (layout, _) if layout.is_broadcast() => return Err("what is reshaped is not expanded".into()),
        (layout, _) => return Err(format!("from {layout} to {shape:?}").into()),
    };
    let to = packer.constant(Array::vector(to));
    Ok((packer.add(node, Reshape { allow_zero: true }, &[x, to]), layout))
}

fn expand(packer: &mut Packer, node: &Node) -> Result<Packed, Reason> {
    let id = input(node, 0)?;
    let (x, layout) = packer.packed(id)?;
    let (from, to) = (known_shape(packer, id)?, known_shape(packer, output(node)?)?);
    if from == to {
        return Ok((x, layout));
    }
    // What is put before dimensions would move them.
    if from.len() != to.len() || matches!(layout, Layout::Constant | Layout::Flat) {
        return Err(format!("from {from:?} to {to:?}").into());
    }
    Ok((x, layout.with_broadcast(true)))
}

/// A node that looks along axes of its first inputs that are not those of tokens; further inputs are constants.
fn cut(packer: &mut Packer, node: &Node, num_parts: usize) -> Result<Vec<Packed>, Reason> {
    let (_, layout) = packer.packed(input(node, 0)?)?;
    check_axes(packer, node, layout)?;
    copy_parts(packer, node, num_parts)
}

/// A node whose first inputs lie alike, and whose further inputs are constants.
fn copy_parts(packer: &mut Packer, node: &Node, num_parts: usize) -> Result<Vec<Packed>, Reason> {
    let (mut inputs, mut layout) = (Vec::new(), None);
    for (index, id) in node.inputs.iter().enumerate() {
        let Some(id) = *id else {
            inputs.push(None);
            continue;
        };
        let (packed, own) = packer.packed(id)?;
        inputs.push(Some(packed));
        if index >= num_parts {
            if own != Layout::Constant {
                return Err(format!("input {index} is no constant").into());
            }
        } else if own == Layout::Constant || layout.is_some_and(|layout| layout != own) {
            return Err("of values that lie in different ways".into());
        } else {
            layout = Some(own);
        }
    }
    let layout = layout.ok_or("it depends on no token")?;
    Ok(packer.copy_all(node, inputs, layout))
}

/// Reductions.
fn reduce(packer: &mut Packer, node: &Node) -> Result<Vec<Packed>, Reason> {
    let id = input(node, 0)?;
    let (x, layout) = packer.packed(id)?;
    let from = known_shape(packer, id)?;
    let reduce: &Reduce = node.operator().ok_or("it is no reduction")?;
    if axes::along(packer, node, from.len())? != [1] || !matches!(layout, Layout::Tokens { .. }) {
        return cut(packer, node, 1);
    }
    let reduction = match reduce.reduction {
        reduce::Reduction::Sum => Reduction::Sum,
        reduce::Reduction::Mean => Reduction::Mean,
        reduce::Reduction::Max => Reduction::Max,
        _ => return Err("it goes across tokens".into()),
    };
    if !is_in_place(from, layout) {
        return Err(format!("a reduction of {from:?}").into());
    }
    let dtype = packer.dtype(id);
    if !matches!(dtype, DataType::F32 | DataType::I32 | DataType::I64) {
        return Err(format!("tokens of {dtype} are not reduced").into());
    }
    let cu_seqlens = packer.cu_seqlens;
    let operator = ReduceSequences { reduction, keep_axis: reduce.keepdims };
    let reduced = packer.add(node, operator, &[x, cu_seqlens]);
    Ok(vec![(reduced, Layout::Sequences { is_broadcast: layout.is_broadcast() })])
}

fn gather(packer: &mut Packer, node: &Node) -> Result<Vec<Packed>, Reason> {
    let (data, index) = (input(node, 0)?, input(node, 1)?);
    let shape = known_shape(packer, data)?;
    let axis = axes::along(packer, node, shape.len())?;
    let is_given = packer.depends[data.index()] == super::depends::GIVEN;
    if packer.graph.constant(data).is_some() || is_given {
        let (rows, layout) = packer.packed(index)?;
        if layout != TOKENS || axis != [0] {
            return Err("rows of a table by something else than tokens".into());
        }
        let (table, _) = packer.packed(data)?;
        return Ok(packer.copy_all(node, vec![Some(table), Some(rows)], TOKENS));
    }
    if axis != [1] {
        return cut(packer, node, 1);
    }
    let (x, layout) = packer.packed(data)?;
    let is_first = packer.graph.constant(index).is_some_and(|index| index.shape().is_empty())
        && axes::constant_ints(packer, index)? == [0];
    if layout != TOKENS || !is_first || !is_in_place(shape, layout) {
        return Err("it takes something else than the first tokens".into());
    }
    let cu_seqlens = packer.cu_seqlens;
    Ok(vec![(packer.add(node, FirstTokens, &[x, cu_seqlens]), SEQUENCES)])
}

/// Elements by index of a value all of whose elements are equal: token types of files that have none.
fn gather_equal(packer: &mut Packer, node: &Node) -> Result<Packed, Reason> {
    let (data, index) = (input(node, 0)?, input(node, 1)?);
    if packer.depends[data.index()] & !super::depends::SIZES != 0 {
        return Err("it gathers from tokens".into());
    }
    let arrays = match packer.graph.constant(data) {
        Some(constant) => vec![constant.array()],
        None => values_of_sizes(packer, data)?,
    };
    let (mut all, dtype) = (Vec::new(), arrays[0].dtype());
    for array in arrays {
        all.extend(array.to_ints().map_err(|problem| problem.to_string())?);
    }
    let value = *all.first().ok_or("it gathers from nothing")?;
    let (rows, layout) = packer.packed(index)?;
    if layout != TOKENS || all.iter().any(|other| *other != value) {
        return Err("it gathers elements that differ".into());
    }
    Ok((packer.add(node, Fill { dtype, value }, &[rows]), TOKENS))
}

/// A value that depends on no token: all its rows if it has one for each position, or what it is for some sizes.
fn values_of_sizes(packer: &Packer, id: ValueId) -> Result<Vec<Array>, String> {
    if let Ok(table) = positions::table(packer.graph, packer.infos, id) {
        return Ok(vec![table]);
    }
    let sizes = [[1, 1], [2, 3], [1, 600]];
    sizes.into_iter().map(|sizes| evaluate(packer.graph, packer.infos, id, sizes, None, &[])).collect()
}

/// To integers and back, with a scale for all elements or for each index on an axis that is not of tokens.
fn quantize(packer: &mut Packer, node: &Node) -> Result<Vec<Packed>, Reason> {
    let (_, layout) = packer.packed(input(node, 0)?)?;
    let granularity = match (node.operator::<QuantizeLinear>(), node.operator::<DequantizeLinear>()) {
        (Some(QuantizeLinear { granularity, .. }), _) | (_, Some(DequantizeLinear { granularity, .. })) => {
            *granularity
        }
        _ => return Err("this operator may look across tokens".into()),
    };
    let rank = known_shape(packer, input(node, 0)?)?.len();
    let scale = packer.graph.constant(input(node, 1)?).ok_or("its scale is no constant")?.shape();
    let is_of_all = scale.is_empty() || scale == [1];
    if granularity.block_size != 0 || !is_of_all {
        let axis = ops::axes::axis(granularity.axis, rank).map_err(|problem| problem.to_string())?;
        if granularity.block_size != 0 || axis < layout.num_axes() || layout.is_broadcast() {
            return Err("scales differ from token to token".into());
        }
    }
    copy_parts(packer, node, 1)
}

fn running_sums(packer: &mut Packer, node: &Node) -> Result<Packed, Reason> {
    let id = input(node, 0)?;
    let (x, layout) = packer.packed(id)?;
    let axis = axes::constant_ints(packer, input(node, 1)?)?;
    let is_plain = node.operator::<CumSum>().is_some_and(|sums| !sums.exclusive && !sums.reverse);
    let is_of_ints = matches!(packer.dtype(id), DataType::I32 | DataType::I64);
    let rank = known_shape(packer, id)?.len();
    if layout != TOKENS || !is_plain || !is_of_ints || rank != 2 || !matches!(axis[..], [1 | -1]) {
        return Err("running sums of another kind than along each sequence".into());
    }
    let cu_seqlens = packer.cu_seqlens;
    Ok((packer.add(node, CumSumSequences, &[x, cu_seqlens]), TOKENS))
}
