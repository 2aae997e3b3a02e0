//! How single nodes run over packed tokens.
//!
//! A node that treats each token alike is copied as it is: `[1, total_tokens, ...]` is a batch of one to it.

use std::fmt;

use super::{Packer, Reason, batch_size, seq_len};
use crate::graph::{Array, DataType, Dim, Info, Node, Operands, Operator, Problem, ValueId, problem};
use crate::ops::fused::{CumSumSequences, FirstTokens, ReduceSequences, Reduction};
use crate::ops::indexing::CumSum;

/// How a packed value lies, compared with the padded one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// The same in every run.
    Constant,
    /// `[1, total_tokens, ...]` for `[batch_size, seq_len, ...]`. Broadcast: further dimensions may be 1 where the padded
    /// ones are not, because nobody who can be broadcast needs to see them expanded.
    Tokens { is_broadcast: bool },
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
            Self::Flat => "one flat row for each token",
            Self::Tokens { is_broadcast: true } | Self::Sequences { is_broadcast: true } => "not expanded",
        })
    }
}

const TOKENS: Layout = Layout::Tokens { is_broadcast: false };
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

/// Operators whose outputs' rows each depend on the inputs' row at the same place, where rows are last dimensions.
const ROWWISE: &[&str] = &[
    "LayerNorm",
    "Linear",
    "Mlp",
    "LayerNormalization",
    "SimplifiedLayerNormalization",
    "RMSNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "MatMul",
    "LpNormalization",
    "MatMulNBits",
];

const REDUCTIONS: &[&str] =
    &["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1", "ReduceSumSquare"];

/// Operators that keep all elements in order.
const RESHAPING: &[&str] = &["Reshape", "Unsqueeze", "Squeeze", "Flatten"];

/// The packed values of a node's outputs, if it is one of those with several that can be packed.
pub(super) fn pack_parts(packer: &mut Packer, node: &Node) -> Option<Result<Vec<(ValueId, Layout)>, Reason>> {
    (node.operator.name() == "Split").then(|| {
        let (x, layout) = packer.packed(input(node, 0)?)?;
        check_last_axis(packer, node, layout)?;
        let mut inputs = vec![Some(x)];
        for id in node.inputs[1..].iter().flatten() {
            constant_ints(packer, *id)?;
            inputs.push(Some(packer.packed(*id)?.0));
        }
        Ok(packer.copy_all(node, inputs).into_iter().map(|id| (id, layout)).collect())
    })
}

/// Slices and concatenations of rows.
fn last_axis(packer: &mut Packer, node: &Node) -> Result<(ValueId, Layout), Reason> {
    let (mut inputs, mut layout) = (Vec::new(), None);
    for id in &node.inputs {
        let Some(id) = *id else {
            inputs.push(None);
            continue;
        };
        let (packed, own) = packer.packed(id)?;
        inputs.push(Some(packed));
        match layout {
            _ if own == Layout::Constant && node.operator.name() == "Slice" => {}
            None => layout = Some(own),
            Some(layout) if layout == own => {}
            Some(layout) => return Err(format!("an input is {layout}, another is {own}").into()),
        }
    }
    let layout = layout.ok_or("it depends on no token")?;
    check_last_axis(packer, node, layout)?;
    if node.operator.name() == "Slice" {
        // Slices of other axes could keep sizes and turn the order around.
        let rank = packer.shape(input(node, 0)?).map_or(0, <[Dim]>::len) as i64;
        let axes = constant_ints(packer, input(node, 3)?)?;
        if axes.iter().any(|axis| *axis != -1 && *axis != rank - 1) {
            return Err("it slices across tokens".into());
        }
    }
    Ok((packer.copy(node, inputs), layout))
}

/// Whether all dimensions but the last stay as they are.
fn check_last_axis(packer: &Packer, node: &Node, layout: Layout) -> Result<(), Reason> {
    let own = match layout {
        TOKENS => 2,
        Layout::Flat | SEQUENCES => 1,
        other => return Err(format!("an input is {other}").into()),
    };
    let from = packer.shape(input(node, 0)?).ok_or("its input's shape is not known")?;
    for id in node.outputs.iter().flatten() {
        let to = packer.shape(*id).ok_or("its output's shape is not known")?;
        let rest = from.len().saturating_sub(1);
        if from.len() <= own || to.len() != from.len() || to[..rest] != from[..rest] {
            return Err("it goes across tokens".into());
        }
    }
    Ok(())
}

/// Elements by index of a value all of whose elements are equal: token types of files that have none.
fn gather_equal(packer: &mut Packer, node: &Node) -> Result<(ValueId, Layout), Reason> {
    let (data, index) = (input(node, 0)?, input(node, 1)?);
    if packer.depends[data.index()] & !super::depends::SIZES != 0 {
        return Err("it gathers from tokens".into());
    }
    let array = match packer.graph.constant(data) {
        Some(constant) => constant.array(),
        None => super::evaluate::evaluate(packer.graph, packer.infos, data, [1, 3], None, &[])?,
    };
    let values = array.to_ints().map_err(|problem| problem.to_string())?;
    let value = *values.first().ok_or("it gathers from nothing")?;
    let (rows, layout) = packer.packed(index)?;
    if layout != TOKENS || values.iter().any(|other| *other != value) {
        return Err("it gathers elements that differ".into());
    }
    Ok((packer.add(node, Fill { dtype: array.dtype(), value }, &[rows]), TOKENS))
}

/// The packed value of a node's first output, or why there is none.
pub(super) fn pack_node(packer: &mut Packer, node: &Node) -> Result<(ValueId, Layout), Reason> {
    let name = node.operator.name();
    if ELEMENTWISE.contains(&name) || ROWWISE.contains(&name) {
        return same_place(packer, node, ROWWISE.contains(&name));
    }
    if RESHAPING.contains(&name) {
        return reshape(packer, node);
    }
    if REDUCTIONS.contains(&name) || name == "Softmax" {
        return reduce(packer, node);
    }
    match name {
        "Slice" | "Concat" => last_axis(packer, node),
        "GatherElements" => gather_equal(packer, node),
        // With a scale for all elements.
        "QuantizeLinear" | "DequantizeLinear"
            if node.inputs[1..]
                .iter()
                .flatten()
                .all(|id| packer.graph.constant(*id).is_some_and(|constant| constant.shape().is_empty())) =>
        {
            same_place(packer, node, false)
        }
        "Gather" => gather(packer, node),
        "Expand" => {
            let (id, output) = (input(node, 0)?, node.output().ok_or("it has no output")?);
            let (x, layout) = packer.packed(id)?;
            if packer.shape(id) == packer.shape(output) {
                return Ok((x, layout));
            }
            match layout {
                Layout::Tokens { .. } => Ok((x, Layout::Tokens { is_broadcast: true })),
                Layout::Sequences { .. } => Ok((x, Layout::Sequences { is_broadcast: true })),
                other => Err(format!("its input is {other}").into()),
            }
        }
        "CumSum" => {
            let (x, layout) = packer.packed(input(node, 0)?)?;
            let axis = constant_ints(packer, input(node, 1)?)?;
            let is_plain = node.operator::<CumSum>().is_some_and(|sums| !sums.exclusive && !sums.reverse);
            if layout != TOKENS || !is_plain || !matches!(axis[..], [1]) {
                return Err("running sums of another kind than along each sequence".into());
            }
            let cu_seqlens = packer.cu_seqlens;
            Ok((packer.add(node, CumSumSequences, &[x, cu_seqlens]), TOKENS))
        }
        _ => Err("this operator may look across tokens".into()),
    }
}

fn input(node: &Node, index: usize) -> Result<ValueId, String> {
    node.input(index).ok_or_else(|| format!("input {index} is missing"))
}

fn constant_ints(packer: &Packer, id: ValueId) -> Result<Vec<i64>, String> {
    let constant = packer.graph.constant(id).ok_or("an input is no constant")?;
    constant.array().to_ints().map_err(|problem| problem.to_string())
}

/// Elementwise and rowwise operators.
fn same_place(packer: &mut Packer, node: &Node, is_rowwise: bool) -> Result<(ValueId, Layout), Reason> {
    let output = node.output().ok_or("it has no output")?;
    let rank = packer.shape(output).map(<[Dim]>::len).ok_or("its output's shape is not known")?;
    let mut inputs = Vec::new();
    let mut layout = Layout::Constant;
    let mut is_broadcast = false;
    for (index, id) in node.inputs.iter().enumerate() {
        let Some(id) = *id else {
            inputs.push(None);
            continue;
        };
        let (packed, input_layout) = packer.packed(id)?;
        inputs.push(Some(packed));
        let shape = packer.shape(id).ok_or("an input's shape is not known")?;
        if input_layout == Layout::Constant {
            // Nothing is broadcast along tokens or sequences but what is the same for all of them.
            let own = if is_rowwise && index > 0 { 0 } else { own_dimensions(packer, node) };
            let leading = own.min((shape.len() + own).saturating_sub(rank));
            if !is_rowwise && !shape[..leading].iter().all(|dim| dim.is(1)) {
                return Err("a constant differs from token to token".into());
            }
            continue;
        }
        if is_rowwise && index > 0 && node.operator.name() == "MatMul" {
            return Err("both factors depend on tokens".into());
        }
        is_broadcast |= matches!(
            input_layout,
            Layout::Tokens { is_broadcast: true } | Layout::Sequences { is_broadcast: true }
        );
        let kind = std::mem::discriminant(&input_layout);
        if layout != Layout::Constant && std::mem::discriminant(&layout) != kind {
            return Err(format!("an input is {layout}, another is {input_layout}").into());
        }
        // Rows for each position alone are the same for all sequences.
        let has_no_batch = matches!(input_layout, Layout::Tokens { .. })
            && shape.len() + 1 == rank
            && shape.first() == Some(&seq_len())
            && packer.shape(output).is_some_and(|shape| shape.starts_with(&[batch_size(), seq_len()]));
        if shape.len() != rank && !has_no_batch {
            return Err("inputs that depend on tokens have different ranks".into());
        }
        let least = match input_layout {
            Layout::Tokens { .. } => 2,
            _ => 1,
        };
        if rank < least + usize::from(is_rowwise) {
            return Err("rows go across tokens".into());
        }
        layout = input_layout;
    }
    if is_rowwise && is_broadcast {
        return Err("rows are not expanded".into());
    }
    let layout = match layout {
        Layout::Tokens { .. } => Layout::Tokens { is_broadcast },
        Layout::Sequences { .. } => Layout::Sequences { is_broadcast },
        other => other,
    };
    // Where one input is expanded and another is not, the result is as large as it should be.
    let layout = match layout {
        Layout::Tokens { is_broadcast: true } if has_full_input(packer, node)? => TOKENS,
        Layout::Sequences { is_broadcast: true } if has_full_input(packer, node)? => SEQUENCES,
        other => other,
    };
    Ok((packer.copy(node, inputs), layout))
}

/// Whether an input that is not [broadcast](Layout::Tokens) has the shape of the output.
fn has_full_input(packer: &mut Packer, node: &Node) -> Result<bool, Reason> {
    let output = packer.shape(node.output().ok_or("it has no output")?).map(<[Dim]>::to_vec);
    for id in node.inputs.iter().flatten() {
        let (_, layout) = packer.packed(*id)?;
        if matches!(layout, TOKENS | SEQUENCES) && packer.shape(*id).map(<[Dim]>::to_vec) == output {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Dimensions over tokens or sequences that the values of a node have.
fn own_dimensions(packer: &mut Packer, node: &Node) -> usize {
    let mut most = 0;
    for id in node.inputs.iter().flatten() {
        let own = match packer.packed(*id) {
            Ok((_, Layout::Tokens { .. })) => 2,
            Ok((_, Layout::Flat | Layout::Sequences { .. })) => 1,
            _ => 0,
        };
        most = most.max(own);
    }
    most
}

fn reshape(packer: &mut Packer, node: &Node) -> Result<(ValueId, Layout), Reason> {
    let (id, output) = (input(node, 0)?, node.output().ok_or("it has no output")?);
    let (x, layout) = packer.packed(id)?;
    let shape = packer.shape(output).ok_or("its output's shape is not known")?;
    let sizes = |rest: &[Dim]| -> Result<Vec<i64>, String> {
        rest.iter().map(|dim| dim.known().ok_or_else(|| format!("a shape of {shape:?}"))).collect()
    };
    let (to, layout) = match (layout, shape) {
        (TOKENS | Layout::Flat, [batch, seq, rest @ ..]) if *batch == batch_size() && *seq == seq_len() => {
            ([vec![1, -1], sizes(rest)?].concat(), TOKENS)
        }
        (TOKENS | Layout::Flat, [tokens, rest @ ..]) if *tokens == batch_size().times(&seq_len()) => {
            ([vec![-1], sizes(rest)?].concat(), Layout::Flat)
        }
        (SEQUENCES, [batch, rest @ ..]) if *batch == batch_size() => {
            ([vec![-1], sizes(rest)?].concat(), SEQUENCES)
        }
        (Layout::Sequences { is_broadcast: true }, [batch, ..]) if *batch == batch_size() => {
            return Err("what is reshaped is not expanded".into());
        }
        (layout, _) => return Err(format!("from {layout} to {shape:?}").into()),
    };
    let to = packer.constant(Array::vector(to));
    Ok((packer.add(node, Reshape, &[x, to]), layout))
}

/// Reductions and softmax.
fn reduce(packer: &mut Packer, node: &Node) -> Result<(ValueId, Layout), Reason> {
    let (id, output) = (input(node, 0)?, node.output().ok_or("it has no output")?);
    let (x, layout) = packer.packed(id)?;
    let (from, to) = (
        packer.shape(id).ok_or("its input's shape is not known")?,
        packer.shape(output).ok_or("its output's shape is not known")?,
    );
    let own = match layout {
        Layout::Tokens { .. } => 2,
        Layout::Sequences { .. } => 1,
        other => return Err(format!("its input is {other}").into()),
    };
    let axes: Vec<Option<ValueId>> = node.inputs[1..]
        .iter()
        .map(|id| id.map(|id| packer.packed(id)).transpose())
        .map(|id| Ok(id?.map(|(id, _)| id)))
        .collect::<Result<_, Reason>>()?;
    let keeps_tokens = to.len() >= own && from.len() > own && to[..own] == from[..own];
    if keeps_tokens && !(to == from && node.operator.name() != "Softmax") {
        // The axes are among the last ones: those of tokens are as they were.
        if matches!(layout, TOKENS | SEQUENCES) {
            return Ok((packer.copy(node, [vec![Some(x)], axes].concat()), layout));
        }
        return Err("what is reduced is not expanded".into());
    }
    let reduction = match node.operator.name() {
        "ReduceSum" => Reduction::Sum,
        "ReduceMean" => Reduction::Mean,
        "ReduceMax" => Reduction::Max,
        _ => return Err("it goes across tokens".into()),
    };
    let [batch, seq, rest @ ..] = from else {
        return Err("it goes across tokens".into());
    };
    let without = [std::slice::from_ref(batch), rest].concat();
    let kept = [&[batch.clone(), 1i64.into()], rest].concat();
    let keep_axis = match to {
        to if *seq == seq_len() && to == without => false,
        to if *seq == seq_len() && to == kept => true,
        _ => return Err(format!("a reduction of {from:?} to {to:?}").into()),
    };
    let Layout::Tokens { is_broadcast } = layout else {
        return Err("it goes across sequences".into());
    };
    let cu_seqlens = packer.cu_seqlens;
    let reduced = packer.add(node, ReduceSequences { reduction, keep_axis }, &[x, cu_seqlens]);
    Ok((reduced, Layout::Sequences { is_broadcast }))
}

fn gather(packer: &mut Packer, node: &Node) -> Result<(ValueId, Layout), Reason> {
    let (data, index) = (input(node, 0)?, input(node, 1)?);
    let output =
        packer.shape(node.output().ok_or("it has no output")?).ok_or("its output's shape is not known")?;
    let (x, layout) = packer.packed(data)?;
    let shape = packer.shape(data).ok_or("its input's shape is not known")?;
    if layout == Layout::Constant {
        let (rows, layout) = packer.packed(index)?;
        let index_shape = packer.shape(index).ok_or("its index's shape is not known")?;
        let row = shape.get(1..).ok_or("its table has no rows")?;
        if layout != TOKENS || output != [index_shape, row].concat() {
            return Err("rows of a table by something else than tokens".into());
        }
        return Ok((packer.copy(node, vec![Some(x), Some(rows)]), TOKENS));
    }
    let is_first = packer.graph.constant(index).is_some_and(|index| index.shape().is_empty())
        && constant_ints(packer, index)? == [0];
    match shape {
        [batch, seq, rest @ ..] if layout == TOKENS && *seq == seq_len() && is_first => {
            if output != [std::slice::from_ref(batch), rest].concat() {
                return Err("it takes something else than the first tokens".into());
            }
            let cu_seqlens = packer.cu_seqlens;
            Ok((packer.add(node, FirstTokens, &[x, cu_seqlens]), SEQUENCES))
        }
        _ => Err("it takes something else than the first tokens".into()),
    }
}

/// Reshapes with a constant shape.
#[derive(Debug)]
struct Reshape;

impl Operator for Reshape {
    fn name(&self) -> &str {
        "Reshape"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let rank = inputs.get(1)?.ints.as_ref().map(Vec::len);
        let dtype = inputs.get(0)?.dtype;
        Ok(vec![rank.map_or(Info::unknown(dtype), |rank| Info::with_rank(dtype, rank))])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.take(0)?;
        let to = inputs.get(1)?.to_ints()?;
        let known: usize = to.iter().filter(|size| **size >= 0).map(|size| *size as usize).product();
        if known == 0 || x.len() % known != 0 {
            problem!("{:?} cannot become {to:?}", x.shape());
        }
        let rest = x.len() / known;
        let shape: Vec<usize> = to.iter().map(|size| usize::try_from(*size).unwrap_or(rest)).collect();
        Ok(vec![x.with_shape(shape)?])
    }
}

/// One number for each token: ones are the mask where nothing is padding.
#[derive(Debug)]
pub(super) struct Fill {
    pub(super) dtype: DataType,
    pub(super) value: i64,
}

impl Operator for Fill {
    fn name(&self) -> &str {
        "Fill"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        Ok(vec![Info { dtype: self.dtype, shape: inputs.get(0)?.shape.clone(), ints: None, constant: None }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let shape = inputs.get(0)?.shape();
        Ok(vec![ints(self.dtype, shape, vec![self.value; inputs.get(0)?.len()])?])
    }
}

/// Positions `[total_tokens]` as `[1, total_tokens]`.
#[derive(Debug)]
pub(super) struct Row;

impl Operator for Row {
    fn name(&self) -> &str {
        "Row"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        let shape = x.shape.as_ref().map(|shape| [&[1i64.into()], shape.as_slice()].concat());
        Ok(vec![Info { dtype: x.dtype, shape, ints: None, constant: None }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.take(0)?;
        let shape = [&[1], x.shape()].concat();
        Ok(vec![x.with_shape(shape)?])
    }
}

/// Ids as a file's input wants them.
#[derive(Debug)]
pub(super) struct CastInts {
    pub(super) dtype: DataType,
}

impl Operator for CastInts {
    fn name(&self) -> &str {
        "Cast"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        Ok(vec![Info { dtype: self.dtype, ..inputs.get(0)?.to_owned().clone() }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        Ok(vec![ints(self.dtype, x.shape(), x.to_ints()?)?])
    }
}

fn ints(dtype: DataType, shape: &[usize], values: Vec<i64>) -> Result<Array, Problem> {
    match dtype {
        DataType::I64 => Array::new(shape, values),
        DataType::I32 => match values.into_iter().map(i32::try_from).collect() {
            Ok(values) => Array::new::<i32>(shape, values),
            Err(_) => problem!("an id does not fit 32 bits"),
        },
        other => problem!("ids cannot be {other}"),
    }
}

/// Some columns of each input side by side: `[1, total_tokens, ...]` each.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) first_columns: Vec<usize>,
    pub(super) width: usize,
}

impl Operator for Columns {
    fn name(&self) -> &str {
        "Columns"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let Some([one, tokens, _]) = inputs.get(0)?.shape.as_deref() else {
            problem!("packed tokens have three dimensions");
        };
        let width = Dim::from(self.width * self.first_columns.len());
        Ok(vec![Info::new(inputs.get(0)?.dtype, vec![one.clone(), tokens.clone(), width])])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let &[_, tokens, _] = inputs.get(0)?.shape() else {
            problem!("packed tokens of shape {:?}", inputs.get(0)?.shape());
        };
        let mut values = Vec::with_capacity(tokens * self.width * self.first_columns.len());
        let parts: Vec<&[f32]> = (0..self.first_columns.len())
            .map(|index| inputs.get(index)?.values::<f32>())
            .collect::<Result<_, _>>()?;
        for token in 0..tokens {
            for (part, first_column) in parts.iter().zip(&self.first_columns) {
                let width = part.len() / tokens;
                values.extend_from_slice(&part[token * width + first_column..][..self.width]);
            }
        }
        Ok(vec![Array::new([1, tokens, self.width * self.first_columns.len()], values)?])
    }
}
