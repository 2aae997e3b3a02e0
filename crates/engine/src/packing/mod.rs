//! Makes a graph over padded batches run over packed sequences.
//!
//! An exported encoder computes `[batch_size, seq_len, ...]`, with a mask that keeps tokens from seeing padding. Here
//! it is rewritten to compute `[1, total_tokens, ...]`, all sequences end to end, with `cu_seqlens` where it matters.
//! That is possible where each node either treats every token alike, or is one of the few things that look across
//! tokens: attention under a padding mask, positions, pooling. Each node is proven to be one of them, from its symbolic
//! shapes; a node that is neither is the reason why the graph runs padded instead.
//!
//! Layouts and masks come in endless variants of the same few meanings. They are not recognised by their nodes but by
//! what they compute: the part of the graph between known values and the place of interest is run on small made-up
//! inputs, and its result compared with what attention or a padding mask mean.

mod attention;
mod axes;
pub(crate) mod but_first;
mod evaluate;
mod first_token;
mod layout;
mod mask;
mod operand;
mod operators;
mod positions;
#[cfg(test)]
mod tests;
mod whole;

use std::collections::HashMap;
use std::sync::Arc;

use self::attention::AttentionCore;
use self::layout::{Layout, Packed};
use self::operand::Source;
use self::operators::{CastInts, Columns, Fill};
use crate::Precision;
use crate::graph::{Array, DataType, Dim, Graph, Info, Infos, Node, Operator, Problem, ValueId};
use crate::kernels::AttentionShape;
use crate::ops::elementwise::{Arithmetic, Operation};
use crate::ops::fused::{
    FirstTokenAttention, Linear, PackedAttention, RotaryTable, RowsByPosition, WeightLayout,
};
use crate::ops::shaping::Reshape;
use crate::passes::Pattern;

/// What the inputs of an encoder are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roles {
    pub(crate) token_ids: ValueId,
    pub(crate) attention_mask: Option<ValueId>,
    pub(crate) type_ids: Option<ValueId>,
    pub(crate) positions: Option<ValueId>,
}

/// Names of the packed graph's inputs.
pub(crate) const TOKEN_IDS: &str = "token_ids";
pub(crate) const TYPE_IDS: &str = "type_ids";
pub(crate) const POSITIONS: &str = "positions";
pub(crate) const CU_SEQLENS: &str = "cu_seqlens";
/// Only of graphs that were packed for sequences of which not all is attended to.
pub(crate) const ATTENDED: &str = "attended";

/// What the rows of a graph's output are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputLayout {
    /// One row per token: `[batch_size, seq_len, size]` in the file, `[1, total_tokens, size]` packed.
    Tokens,
    /// One row per token but the first of each sequence: `[batch_size, seq_len - 1, size]` in the file. Packed there are as
    /// many rows as tokens, and those of first tokens mean nothing.
    TokensButFirst,
    /// One row per sequence, `[batch_size, size]`.
    Sequences,
}

/// The graph that computes `outputs` in one run, over packed sequences, and how they lie. If sequences are
/// `partly_attended`, it has an input that says how many of each sequence's first tokens are attended to: what is 1 in the
/// file's own mask, which must have no other use.
///
/// # Errors
///
/// The reason why it must run padded, with the node's name.
pub(crate) fn pack(
    graph: &Graph,
    roles: &Roles,
    outputs: &[ValueId],
    precision: Precision,
    partly_attended: bool,
) -> Result<(Graph, Vec<OutputLayout>), String> {
    let infos = graph.infer(&[]).map_err(|error| error.to_string())?;
    let mut packer = Packer::new(graph, &infos, roles, precision);
    if let Some(mask) = roles.attention_mask.filter(|_| partly_attended) {
        packer.attend_partly(mask);
    }
    for node in &graph.nodes {
        packer.node(node);
    }
    let (mut ids, mut layouts) = (Vec::new(), Vec::new());
    for output in outputs {
        let (id, layout) = packer.packed(*output).map_err(|reason| reason.words)?;
        ids.push(id);
        layouts.push(output_layout(layout).ok_or_else(|| format!("the output is {layout}"))?);
    }
    let mut packed = packer.packed;
    packed.outputs = ids;
    crate::graph::passes::remove_dead_nodes(&mut packed);
    Ok((packed, layouts))
}

fn output_layout(layout: Layout) -> Option<OutputLayout> {
    match layout {
        Layout::Tokens { is_broadcast: false } => Some(OutputLayout::Tokens),
        Layout::TokensButFirst { is_broadcast: false } => Some(OutputLayout::TokensButFirst),
        Layout::Sequences { is_broadcast: false } => Some(OutputLayout::Sequences),
        _ => None,
    }
}

/// The longest sequence that has a row in every table of positions of a packed graph, if it has such tables.
pub(crate) fn max_positions(packed: &Graph) -> Option<usize> {
    let tables = packed.nodes.iter().filter(|node| node.operator::<RowsByPosition>().is_some());
    tables.filter_map(|node| packed.constant(node.input(0)?)?.shape().first().copied()).min()
}

/// What a value's elements depend on.
mod depends {
    pub(super) const TOKENS: u8 = 1;
    pub(super) const MASK: u8 = 2;
    /// The batch size and the padded length.
    pub(super) const SIZES: u8 = 4;
    /// What is given besides texts.
    pub(super) const GIVEN: u8 = 8;
}

/// Why a value cannot be packed: the first node in the way is named.
#[derive(Clone, Debug)]
struct Reason {
    words: String,
    names_node: bool,
}

impl Reason {
    fn at(self, node: &Node) -> Self {
        if self.names_node {
            return self;
        }
        let words = format!("node `{}` ({}): {}", node.name, node.operator.name(), self.words);
        Self { words, names_node: true }
    }
}

impl<T: Into<String>> From<T> for Reason {
    fn from(words: T) -> Self {
        Self { words: words.into(), names_node: false }
    }
}

struct Packer<'a> {
    graph: &'a Graph,
    infos: &'a Infos,
    roles: &'a Roles,
    pattern: Pattern<'a>,
    depends: Vec<u8>,
    precision: Precision,
    packed: Graph,
    token_ids: ValueId,
    positions: ValueId,
    cu_seqlens: ValueId,
    /// How many tokens of each sequence are attended to, where that is not all.
    attended: Option<ValueId>,
    /// Whether the attention that was found last hides what the mask says.
    hides_padding: bool,
    /// For values of the graph: the packed value, or why there is none.
    values: HashMap<ValueId, Result<(ValueId, Layout), Reason>>,
    masks: HashMap<ValueId, mask::Meaning>,
    /// By the values that depend on positions and make them.
    rotaries: HashMap<Vec<ValueId>, Arc<RotaryTable>>,
}

impl<'a> Packer<'a> {
    fn new(graph: &'a Graph, infos: &'a Infos, roles: &'a Roles, precision: Precision) -> Self {
        let mut packed = Graph::default();
        let tokens = Dim::symbol("total_tokens");
        let int = |shape: Vec<Dim>| Some(Info::new(DataType::I64, shape));
        let token_ids = packed.add_input(TOKEN_IDS, int(vec![1i64.into(), tokens.clone()]));
        let type_ids = packed.add_input(TYPE_IDS, int(vec![1i64.into(), tokens.clone()]));
        let positions = packed.add_input(POSITIONS, int(vec![tokens]));
        let cu_seqlens = packed.add_input(CU_SEQLENS, int(vec![Dim::symbol("batch_size + 1")]));
        let mut packer = Self {
            graph,
            infos,
            roles,
            pattern: Pattern::new(graph),
            depends: dependencies(graph, infos, roles),
            precision,
            packed,
            token_ids,
            positions,
            cu_seqlens,
            attended: None,
            hides_padding: false,
            values: HashMap::new(),
            masks: HashMap::new(),
            rotaries: HashMap::new(),
        };
        packer.inputs(type_ids);
        packer
    }

    /// Makes room for attention to some tokens only. Nothing else may then read the mask, which is not of ones.
    fn attend_partly(&mut self, mask: ValueId) {
        let lengths = Info::new(DataType::I64, vec![Dim::symbol("batch_size")]);
        self.attended = Some(self.packed.add_input(ATTENDED, Some(lengths)));
        let reason = "it reads which tokens are attended to";
        self.values.insert(mask, Err(reason.into()));
    }

    /// The inputs of the graph as values of the packed one.
    fn inputs(&mut self, type_ids: ValueId) {
        let tokens = Layout::Tokens { is_broadcast: false };
        let roles = *self.roles;
        let ids = self.cast_like(self.token_ids, roles.token_ids);
        self.values.insert(roles.token_ids, Ok((ids, tokens)));
        if let Some(id) = roles.type_ids {
            let types = self.cast_like(type_ids, id);
            self.values.insert(id, Ok((types, tokens)));
        }
        if let Some(id) = roles.attention_mask {
            // No token is padding.
            let ones =
                self.packed.add_node("mask", Fill { dtype: self.dtype(id), value: 1 }, &[self.token_ids]);
            self.values.insert(id, Ok((ones, tokens)));
        }
        if let Some(id) = roles.positions {
            let shape = self.constant(Array::vector(vec![1i64, -1]));
            let row =
                self.packed.add_node("positions", Reshape { allow_zero: true }, &[self.positions, shape]);
            let row = self.cast_like(row, id);
            self.values.insert(id, Ok((row, tokens)));
        }
        for id in &self.graph.inputs {
            if !self.values.contains_key(id) {
                // No text changes it.
                let value = self.graph.value(*id);
                let given = self.packed.add_input(&value.name, value.declared.clone());
                self.values.insert(*id, Ok((given, Layout::Constant)));
            }
        }
    }

    fn dtype(&self, id: ValueId) -> DataType {
        self.infos.get(id).map_or(DataType::I64, |info| info.dtype)
    }

    /// Some files read 32-bit ids.
    fn cast_like(&mut self, id: ValueId, input: ValueId) -> ValueId {
        let dtype = self.dtype(input);
        if dtype == DataType::I64 {
            return id;
        }
        self.packed.add_node("cast", CastInts { dtype }, &[id])
    }

    /// The packed value of a value, or why there is none.
    fn packed(&mut self, id: ValueId) -> Result<(ValueId, Layout), Reason> {
        if let Some(known) = self.values.get(&id) {
            return known.clone();
        }
        let result = if let Some(constant) = self.graph.constant(id) {
            let name = self.graph.value(id).name.clone();
            Ok((self.packed.add_constant(name, constant.clone()), Layout::Constant))
        } else if self.depends[id.index()] == depends::SIZES {
            self.position_rows(id)
        } else {
            Err(format!("nothing is known about `{}`", self.graph.value(id).name).into())
        };
        self.values.insert(id, result.clone());
        result
    }

    /// A value that depends on the padded length alone: something about positions.
    fn position_rows(&mut self, id: ValueId) -> Result<(ValueId, Layout), Reason> {
        let name = &self.graph.value(id).name;
        let table =
            positions::table(self.graph, self.infos, id).map_err(|reason| format!("`{name}`: {reason}"))?;
        let table = self.packed.add_constant(format!("{name} by position"), table);
        let rows = self.packed.add_node(name, RowsByPosition, &[table, self.positions]);
        Ok((rows, Layout::Tokens { is_broadcast: false }))
    }

    /// Packs what a node computes, or remembers why that cannot be.
    fn node(&mut self, node: &Node) {
        let Some(output) = node.output() else {
            return;
        };
        // What depends on no token is asked for by those who need it: most of it makes masks and shapes.
        if self.depends[output.index()] & !depends::SIZES == 0 {
            return;
        }
        self.hides_padding = false;
        if node.operator::<FirstTokenAttention>().is_some() {
            let result = first_token::pack(self, node).map_err(|reason| Reason::from(reason).at(node));
            self.values.insert(output, result);
            return;
        }
        let results = match attention::find(self, node) {
            Some(Ok(core)) => self.attention(node, core).map(|packed| vec![packed]),
            Some(Err(reason)) => Err(format!("attention: {reason}").into()),
            None => layout::pack_node(self, node),
        };
        for (index, id) in node.outputs.iter().enumerate() {
            let Some(id) = *id else {
                continue;
            };
            let result = match &results {
                Ok(packed) => self.in_place(id, packed.get(index).copied()),
                Err(reason) => Err(reason.clone()),
            };
            self.values.insert(id, result.map_err(|reason| reason.at(node)));
        }
    }

    /// The packed value of `id`, whose shape must be what its layout says.
    fn in_place(&self, id: ValueId, packed: Option<Packed>) -> Result<Packed, Reason> {
        let (packed, layout) = packed.ok_or("a further output is read")?;
        match self.shape(id) {
            Some(shape) if layout::is_in_place(shape, layout) => Ok((packed, layout)),
            // Rows by position of a table that is given: each token has its own by now.
            Some(shape) if layout == layout::TOKENS && is_position_rows(shape) => Ok((packed, layout)),
            shape => Err(format!("its output of shape {shape:?} is {layout}").into()),
        }
    }

    fn attention(&mut self, node: &Node, core: AttentionCore) -> Result<(ValueId, Layout), Reason> {
        let mut qkv = self.queries_keys_values(node, &core)?;
        if let Some(bias) = core.qkv_bias {
            let (bias, _) = self.packed(bias)?;
            qkv = self.add(node, Arithmetic { operation: Operation::Add }, &[qkv, bias]);
        }
        let attention = PackedAttention {
            shape: core.shape,
            precision: self.precision,
            window: core.window,
            bias: core.bias,
            rotary: core.rotary,
        };
        let mut inputs = vec![qkv, self.cu_seqlens];
        if let Some(attended) = self.attended {
            if !self.hides_padding || attention.window.is_some() {
                return Err("it attends to tokens that the mask leaves out, or to near ones only".into());
            }
            inputs.push(attended);
        }
        let output = self.packed.add_node(&node.name, attention, &inputs);
        Ok((output, Layout::Tokens { is_broadcast: false }))
    }

    /// One value with the queries, keys and values of all tokens side by side.
    fn queries_keys_values(&mut self, node: &Node, core: &AttentionCore) -> Result<ValueId, Reason> {
        if let Some(projection) = core.projection {
            return self.projected(node, projection);
        }
        let mut ids = Vec::new();
        for source in &core.sources {
            let (id, layout) = self.packed(source.value)?;
            if layout != (Layout::Tokens { is_broadcast: false }) {
                return Err(format!("queries, keys or values are {layout}").into());
            }
            ids.push(id);
        }
        let AttentionShape { num_heads, head_dim, .. } = core.shape;
        let hidden_size = num_heads * head_dim;
        let is_from = |source: &Source, first: usize, width: usize| {
            source.dims == [width]
                && source.columns.iter().enumerate().all(|(h, column)| *column == first + h * head_dim)
        };
        let is_side_by_side =
            (0..3).all(|index| is_from(&core.sources[index], index * hidden_size, 3 * hidden_size));
        if ids[0] == ids[1] && ids[1] == ids[2] && is_side_by_side {
            return Ok(ids[0]);
        }
        if core.sources.iter().all(|source| is_from(source, 0, hidden_size))
            && let Some(merged) = self.merged_linear(node, &ids)
        {
            return Ok(merged);
        }
        let heads = core.sources.iter().map(|source| source.columns.clone()).collect();
        let operator = Columns { heads, head_dim };
        Ok(self.packed.add_node(format!("{}: queries, keys, values", node.name), operator, &ids))
    }

    /// The linear layer that an attention node has in it.
    fn projected(&mut self, node: &Node, [x, weight, bias]: [Option<ValueId>; 3]) -> Result<ValueId, Reason> {
        let x = x.ok_or("an input is missing")?;
        let (x, layout) = self.packed(x)?;
        if layout != (Layout::Tokens { is_broadcast: false }) {
            return Err(format!("its input is {layout}").into());
        }
        let mut inputs = vec![x];
        for id in [weight, bias].into_iter().flatten() {
            if self.graph.constant(id).is_none() {
                return Err("its weight is no constant".into());
            }
            inputs.push(self.packed(id)?.0);
        }
        let linear = Linear { layout: WeightLayout::InOut, activation: None, precision: self.precision };
        Ok(self.packed.add_node(format!("{}: queries, keys, values", node.name), linear, &inputs))
    }

    /// Three linear layers of one input as one.
    fn merged_linear(&mut self, node: &Node, ids: &[ValueId]) -> Option<ValueId> {
        let writer = |id: &ValueId| self.packed.nodes.iter().rev().find(|node| node.output() == Some(*id));
        let layers: Vec<&Node> = ids.iter().map(writer).collect::<Option<_>>()?;
        let linear: &Linear = layers[0].operator()?;
        let fits = |layer: &&Node| {
            layer.operator::<Linear>() == Some(linear)
                && layer.input(0) == layers[0].input(0)
                && layer.inputs.len() <= 3
        };
        if !layers.iter().all(fits) || linear.activation.is_some() {
            return None;
        }
        let mut inputs = vec![layers[0].input(0)];
        for layer in &layers {
            inputs.extend([layer.input(1), layer.input(2)]);
        }
        let linear = linear.clone();
        let output = self.packed.add_value(format!("{}: queries, keys, values", node.name));
        let name = self.packed.value(output).name.clone();
        self.packed.nodes.push(Node {
            name,
            operator: Arc::new(linear),
            inputs,
            outputs: vec![Some(output)],
        });
        Some(output)
    }

    /// A node like `node` with packed inputs; its outputs have this layout.
    fn copy_all(&mut self, node: &Node, inputs: Vec<Option<ValueId>>, layout: Layout) -> Vec<Packed> {
        let outputs: Vec<ValueId> = node.outputs.iter().map(|_| self.packed.add_value(&node.name)).collect();
        let is_read = node.outputs.iter().map(Option::is_some);
        self.packed.nodes.push(Node {
            name: node.name.clone(),
            operator: node.operator.clone(),
            inputs,
            outputs: outputs.iter().zip(is_read).map(|(id, is_read)| is_read.then_some(*id)).collect(),
        });
        outputs.into_iter().map(|id| (id, layout)).collect()
    }

    fn add(&mut self, node: &Node, operator: impl Operator, inputs: &[ValueId]) -> ValueId {
        self.packed.add_node(&node.name, operator, inputs)
    }

    fn constant(&mut self, array: Array) -> ValueId {
        self.packed.add_constant("", array)
    }

    fn shape(&self, id: ValueId) -> Option<&'a [Dim]> {
        self.infos.get(id)?.shape.as_deref()
    }
}

/// The padded shape's first two dimensions.
/// Whether it is a row for each position, the same for all sequences, with an axis for these or without.
fn is_position_rows(shape: &[Dim]) -> bool {
    layout::is_by_position(shape) || shape.first() == Some(&seq_len())
}

pub(crate) fn batch_size() -> Dim {
    Dim::symbol("batch_size")
}

pub(crate) fn seq_len() -> Dim {
    Dim::symbol("seq_len")
}

/// What an encoder's inputs are declared to be, so that all of them have the same symbols.
pub(crate) fn declare(graph: &mut Graph, roles: &Roles) -> Result<(), Problem> {
    let inputs = [Some(roles.token_ids), roles.attention_mask, roles.type_ids, roles.positions];
    for id in inputs.into_iter().flatten() {
        let value = graph.value_mut(id);
        let dtype = value.declared_dtype();
        let holds = match id {
            // Ones and zeros.
            id if Some(id) == roles.attention_mask => dtype != DataType::String,
            id if Some(id) == roles.type_ids => dtype.is_int(),
            // Vocabularies may have more entries than 16 bits tell apart.
            _ => dtype.is_int() && dtype.size() >= 4,
        };
        if !holds {
            return Err(Problem::new(format!("input `{}` is {dtype}, which does not hold ids", value.name)));
        }
        value.declared = Some(Info::new(dtype, vec![batch_size(), seq_len()]));
    }
    Ok(())
}

/// What each value's elements depend on.
fn dependencies(graph: &Graph, infos: &Infos, roles: &Roles) -> Vec<u8> {
    let mut depends = vec![0; graph.num_values()];
    for id in &graph.inputs {
        depends[id.index()] = depends::GIVEN;
    }
    for id in [Some(roles.token_ids), roles.type_ids, roles.positions].into_iter().flatten() {
        depends[id.index()] = depends::TOKENS;
    }
    if let Some(id) = roles.attention_mask {
        depends[id.index()] = depends::MASK;
    }
    for node in &graph.nodes {
        let of_inputs = node.inputs.iter().flatten().fold(0, |all, id| all | depends[id.index()]);
        // Sizes may depend on elements, too, as those of NonZero do.
        let is_known = |id: ValueId| {
            let shape = infos.get(id).and_then(|info| info.shape.as_deref());
            shape.is_some_and(|shape| shape.iter().all(Dim::is_named))
        };
        let is_size = matches!(node.operator.name(), "Shape" | "Size" | "PositionIds")
            && node.input(0).is_some_and(is_known);
        let of_outputs = if is_size && of_inputs != 0 { depends::SIZES } else { of_inputs };
        for id in node.outputs.iter().flatten() {
            depends[id.index()] = of_outputs;
        }
    }
    depends
}
