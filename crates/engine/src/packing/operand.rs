//! What attention's products read: where in the rows of tokens queries, keys and values come from.
//!
//! They are turned, cut, repeated, scaled and rotated in a different way by each exporter, so what does it is run on
//! numbered elements: where each number arrives tells which column of which token it was.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::evaluate::evaluate;
use super::layout::TOKENS;
use super::{Packer, batch_size, depends, seq_len};
use crate::graph::{Array, DataType, Dim, ValueId};
use crate::ops::fused::RotaryTable;

/// Sizes of made-up inputs; no two dimensions of real models are likely to be these.
pub(super) const SIZES: [usize; 2] = [2, 3];

/// Where queries, keys or values of all heads are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Source {
    /// `[batch_size, seq_len, ...]`
    pub(super) value: ValueId,
    /// The dimensions behind those of tokens. What a token has is counted as one row.
    pub(super) dims: Vec<usize>,
    /// The first column of each head.
    pub(super) columns: Vec<usize>,
}

/// Queries, keys or values as a product reads them.
pub(super) struct Operand {
    pub(super) source: Source,
    pub(super) scale: f32,
    /// Its shape where sizes are [`SIZES`].
    pub(super) shape: Vec<usize>,
    /// Number and size of the heads.
    pub(super) heads: [usize; 2],
    /// The last two dimensions are columns and tokens, not tokens and columns.
    pub(super) is_transposed: bool,
    pub(super) rotary: Option<Arc<RotaryTable>>,
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
    "Expand",
];

/// Where the value `id`, which a product of attention reads, comes from.
pub(super) fn operand(packer: &mut Packer, id: ValueId) -> Result<Operand, String> {
    // A row as the projection gives it, or else the last one before heads are put before tokens: what lies between, as
    // a normalisation of each head, is packed by itself then.
    let whole = rows_behind(packer, id, is_row).and_then(|behind| operand_of(packer, id, &behind));
    whole.or_else(|reason| {
        let behind = rows_behind(packer, id, is_packed).map_err(|_| reason)?;
        operand_of(packer, id, &behind)
    })
}

fn is_row(packer: &Packer, id: ValueId) -> bool {
    matches!(packer.shape(id), Some([batch, seq, width])
        if *batch == batch_size() && *seq == seq_len() && width.known().is_some())
}

fn is_packed(packer: &Packer, id: ValueId) -> bool {
    matches!(packer.values.get(&id), Some(Ok((_, layout))) if *layout == TOKENS)
}

fn operand_of(packer: &mut Packer, id: ValueId, behind: &Behind) -> Result<Operand, String> {
    let rows = Rows::new(packer, behind.rows)?;
    let [batch, len] = SIZES;
    let count = batch * len * rows.width;
    let scaled = rows.arrived(packer, id, SIZES, vec![1.0; count])?;
    let shape = scaled.shape().to_vec();
    let scaled = floats(&scaled)?;
    let scale = *scaled.first().ok_or("it is empty")?;
    if scale == 0.0 {
        return Err("it is zero".to_owned());
    }
    let numbers = rows.numbers(packer, id, scale)?;
    let mut operand = Operand::of_layout(&rows, scale, &shape, &numbers)?;
    // What differs from token to token is a rotation; the first token is not rotated.
    if !scaled.iter().all(|value| *value == scale) {
        operand.rotary = Some(match packer.rotaries.get(&behind.positions) {
            Some(table) => table.clone(),
            None => Arc::new(operand.rotary_table(packer, id, &rows)?),
        });
    }
    operand.check(packer, id, &rows)?;
    if let Some(table) = &operand.rotary {
        packer.rotaries.insert(behind.positions.clone(), table.clone());
    }
    Ok(operand)
}

/// A value of rows that made-up numbers are given for.
struct Rows {
    value: ValueId,
    dims: Vec<usize>,
    width: usize,
    dtype: DataType,
}

impl Rows {
    fn new(packer: &Packer, value: ValueId) -> Result<Self, String> {
        let shape = packer.shape(value).and_then(|shape| shape.get(2..)).unwrap_or_default();
        let dims: Vec<usize> =
            shape.iter().map(Dim::known_size).collect::<Option<_>>().ok_or("its width is not known")?;
        let width = dims.iter().try_fold(1usize, |width, size| width.checked_mul(*size));
        let width =
            width.filter(|width| (1..=MAX_ELEMENTS).contains(width)).ok_or("its rows are too wide")?;
        Ok(Self { value, dims, width, dtype: packer.dtype(value) })
    }

    fn array(&self, [batch, len]: [usize; 2], values: Vec<f32>) -> Result<Array, String> {
        let shape = [&[batch, len], self.dims.as_slice()].concat();
        Array::from_floats(self.dtype, shape, values).map_err(words)
    }

    /// What `id` is where the rows are these.
    fn arrived(
        &self,
        packer: &Packer,
        id: ValueId,
        sizes: [usize; 2],
        values: Vec<f32>,
    ) -> Result<Array, String> {
        let cuts = [(self.value, self.array(sizes, values)?)];
        evaluate(packer.graph, packer.infos, id, sizes, None, &cuts)
    }

    /// For each element of `id`, which element of the rows it is; those are numbered digit by digit, so that the type of
    /// the elements can tell numbers apart.
    fn numbers(&self, packer: &Packer, id: ValueId, scale: f32) -> Result<Vec<usize>, String> {
        let len = SIZES[0] * SIZES[1] * self.width;
        let base = match self.dtype {
            DataType::F16 => 256,
            DataType::Bf16 => 32,
            _ => 1 << 24,
        };
        let (mut numbers, mut unit) = (Vec::new(), 1);
        while unit < len || unit == 1 {
            let digits = (0..len).map(|index| (index / unit % base) as f32).collect();
            let arrived = floats(&self.arrived(packer, id, SIZES, digits)?)?;
            numbers.resize(arrived.len(), 0);
            for (number, digit) in numbers.iter_mut().zip(arrived) {
                *number += (digit / scale).round() as usize % base * unit;
            }
            unit *= base;
        }
        Ok(numbers)
    }

    /// How far a result may be from what it is computed to be.
    fn tolerance(&self) -> f32 {
        match self.dtype {
            DataType::F16 => 4e-3,
            DataType::Bf16 => 3e-2,
            _ => 1e-4,
        }
    }
}

impl Operand {
    /// Tells from the first tokens where numbered elements have arrived.
    fn of_layout(rows: &Rows, scale: f32, shape: &[usize], numbers: &[usize]) -> Result<Self, String> {
        let [batch, len] = SIZES;
        let (heads, inner) = match *shape {
            [b, heads, a, c] if b == batch => (heads, [a, c]),
            [all, a, c] if all % batch == 0 => (all / batch, [a, c]),
            _ => return Err(format!("a shape of {shape:?}")),
        };
        for is_transposed in [false, true] {
            let [tokens, head_dim] = if is_transposed { [inner[1], inner[0]] } else { inner };
            if tokens != len || heads == 0 || head_dim == 0 {
                continue;
            }
            let source = Source { value: rows.value, dims: rows.dims.clone(), columns: Vec::new() };
            let (shape, heads) = (shape.to_vec(), [heads, head_dim]);
            let mut operand = Self { source, scale, shape, heads, is_transposed, rotary: None };
            let number = |b, h, d| numbers[operand.index(b, h, 0, d)];
            let columns: Vec<usize> = (0..heads[0]).map(|h| number(0, h, 0) % rows.width).collect();
            let fits = (0..batch * heads[0] * head_dim).all(|index| {
                let (b, h, d) =
                    (index / (heads[0] * head_dim), index / head_dim % heads[0], index % head_dim);
                number(b, h, d) == b * len * rows.width + columns[h] + d
            });
            if fits && columns.iter().all(|column| column + head_dim <= rows.width) {
                operand.source.columns = columns;
                return Ok(operand);
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
    fn rotary_table(&self, packer: &Packer, id: ValueId, rows: &Rows) -> Result<RotaryTable, String> {
        let head_dim = self.heads[1];
        if !head_dim.is_multiple_of(2) {
            return Err("heads of odd size".to_owned());
        }
        let half = head_dim / 2;
        let mut max_positions = MAX_POSITIONS.min(MAX_ELEMENTS / rows.width).max(1);
        loop {
            let mut values = vec![0.0f32; max_positions * rows.width];
            for row in values.chunks_exact_mut(rows.width) {
                row[self.source.columns[0]..][..half].fill(1.0);
            }
            match rows.arrived(packer, id, [1, max_positions], values) {
                Ok(rotated) => {
                    let rotated = floats(&rotated)?;
                    if rotated.len() != self.heads[0] * max_positions * head_dim {
                        return Err("its size depends on the padded length".to_owned());
                    }
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

    /// Compares what the nodes compute with what this says: columns that are scaled and, if at all, rotated.
    fn check(&self, packer: &Packer, id: ValueId, rows: &Rows) -> Result<(), String> {
        let ([batch, len], head_dim) = (SIZES, self.heads[1]);
        let half = head_dim / 2;
        if let Some(table) = &self.rotary
            && (table.dim != head_dim || table.cos.len() < len * half)
        {
            return Err("a rotation of other heads".to_owned());
        }
        let x: Vec<f32> = (0..batch * len * rows.width).map(|i| (i as f32 * 0.7).sin()).collect();
        let arrived = floats(&rows.arrived(packer, id, SIZES, x.clone())?)?;
        if arrived.len() != self.shape.iter().product::<usize>() {
            return Err("its size depends on its elements".to_owned());
        }
        // Rounded as it was given.
        let x = floats(&rows.array(SIZES, x)?)?;
        let expected = |head: &[f32], s: usize, d: usize| {
            let Some(table) = &self.rotary else {
                return head[d] * self.scale;
            };
            let (cos, sin) = (table.cos[s * half + d % half], table.sin[s * half + d % half]);
            let turned = if d < half { -head[d + half] } else { head[d - half] };
            (head[d] * cos + turned * sin) * self.scale
        };
        for b in 0..batch {
            for (h, column) in self.source.columns.iter().enumerate() {
                for s in 0..len {
                    let head = &x[(b * len + s) * rows.width + column..][..head_dim];
                    let is_equal = |d: usize| {
                        (arrived[self.index(b, h, s, d)] - expected(head, s, d)).abs() <= rows.tolerance()
                    };
                    if !(0..head_dim).all(is_equal) {
                        return Err("it is no rotation of halves".to_owned());
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

/// What a value is a linear function of.
struct Behind {
    /// `[batch_size, seq_len, ...]`
    rows: ValueId,
    /// What depends on the padded length alone and is multiplied with it on the way, sorted.
    positions: Vec<ValueId>,
}

/// The one value of rows, of those that `is_rows` says, that all that depends on tokens comes from.
fn rows_behind(
    packer: &Packer,
    id: ValueId,
    is_rows: impl Fn(&Packer, ValueId) -> bool,
) -> Result<Behind, String> {
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
        if is_rows(packer, id) {
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

pub(super) fn words(problem: crate::graph::Problem) -> String {
    problem.to_string()
}

pub(super) fn floats(array: &Array) -> Result<Vec<f32>, String> {
    array.to_floats().map(std::borrow::Cow::into_owned).map_err(words)
}

/// Elements that tell places apart.
pub(super) fn wave(shape: &[usize], step: f32) -> Result<Array, String> {
    let values = (0..shape.iter().product()).map(|i: usize| (i as f32 * step).sin()).collect();
    Array::new(shape, values).map_err(words)
}

/// Elements that are their own index.
pub(super) fn numbered(shape: &[usize]) -> Result<Array, String> {
    let len: usize = shape.iter().product();
    if len > 1 << 24 {
        return Err("too many elements to number".to_owned());
    }
    Array::new(shape, (0..len).map(|index| index as f32).collect()).map_err(words)
}
