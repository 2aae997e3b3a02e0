//! What is added to attention's scores, or decides which of them count.

use super::evaluate::evaluate;
use crate::graph::{Array, DataType, Graph, Infos, ValueId};

/// What a mask means.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Meaning {
    /// Tokens see all real tokens of their sequence, and no padding.
    Padding,
    /// As padding; besides, tokens see only others at most this far away.
    Window(usize),
}

/// How a mask's elements say that a key is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A bias, which is zero for keys that are seen and at most -1e4 for others.
    Bias,
    /// True for keys that are seen.
    Seen,
    /// True for keys that are hidden.
    Hidden,
    /// Of com.microsoft's attention: the number of real tokens, or 1 for those.
    Index,
}

/// Below this a power is zero.
const HIDDEN: f32 = -1e4;

/// Lengths that are tried. A window shows only where sequences are longer than it.
const LENGTHS: [usize; 5] = [2, 5, 70, 300, 600];

/// What the mask `id` means: found by running its part of the graph on two sequences, one of them padded.
pub(super) fn meaning(
    graph: &Graph,
    infos: &Infos,
    mask: Option<ValueId>,
    id: ValueId,
    kind: Kind,
) -> Result<Meaning, String> {
    let mut window = None;
    for seq_len in LENGTHS {
        let real = [seq_len, seq_len - seq_len / 3 - 1];
        let ones: Vec<i64> =
            real.iter().flat_map(|real| (0..seq_len).map(move |k| i64::from(k < *real))).collect();
        let array = evaluate(graph, infos, id, [2, seq_len], mask.map(|mask| (mask, ones.as_slice())), &[])?;
        if kind == Kind::Index {
            check_index(&array, &real, &ones)?;
            continue;
        }
        let seen = Seen::new(&array, seq_len, kind)?;
        for (b, real) in real.into_iter().enumerate() {
            for q in 0..real {
                for k in 0..seq_len {
                    // Without a mask among the inputs, nothing is padding.
                    let is_real = k < real || mask.is_none();
                    let distance = q.abs_diff(k);
                    let is_near = window.is_none_or(|window| distance <= window);
                    if is_real && is_near && !seen.at(b, q, k)? {
                        // The first query sees the nearest keys: where that ends is the window.
                        if window.is_none() && (b, q) == (0, 0) && k > 0 {
                            window = Some(k - 1);
                        } else {
                            return Err("it is more than a mask of padding".to_owned());
                        }
                    } else if !(is_real && is_near) && seen.at(b, q, k)? {
                        return Err("it does not hide all padding".to_owned());
                    }
                }
            }
        }
    }
    Ok(window.map_or(Meaning::Padding, Meaning::Window))
}

/// A mask that can be broadcast to `[batch_size, heads, seq_len, seq_len]`.
struct Seen<'a> {
    array: &'a Array,
    seq_len: usize,
    kind: Kind,
    shape: [usize; 4],
}

impl<'a> Seen<'a> {
    fn new(array: &'a Array, seq_len: usize, kind: Kind) -> Result<Self, String> {
        let mut shape = [1; 4];
        let rank = array.rank();
        if rank > 4 {
            return Err(format!("a mask of shape {:?}", array.shape()));
        }
        shape[4 - rank..].copy_from_slice(array.shape());
        let fits = |size: usize, full: usize| size == 1 || size == full;
        if !fits(shape[0], 2) || shape[1] != 1 || !fits(shape[2], seq_len) || !fits(shape[3], seq_len) {
            return Err(format!("a mask of shape {:?}", array.shape()));
        }
        Ok(Self { array, seq_len, kind, shape })
    }

    fn at(&self, b: usize, q: usize, k: usize) -> Result<bool, String> {
        debug_assert!(q < self.seq_len && k < self.seq_len);
        let index = |i: usize, size: usize| if size == 1 { 0 } else { i };
        let [batch, _, rows, columns] = self.shape;
        let at = (index(b, batch) * rows + index(q, rows)) * columns + index(k, columns);
        if self.kind == Kind::Bias {
            let value = match self.array.values::<f32>() {
                Ok(values) => values[at],
                Err(_) => self.array.to_floats().map_err(|problem| problem.to_string())?[at],
            };
            return match value {
                0.0 => Ok(true),
                value if value <= HIDDEN => Ok(false),
                value => Err(format!("it adds {value}")),
            };
        }
        let value = match self.array.dtype() {
            DataType::Bool => self.array.values::<bool>().map_err(|problem| problem.to_string())?[at],
            other => return Err(format!("a condition of {other}")),
        };
        Ok(value == (self.kind == Kind::Seen))
    }
}

fn check_index(array: &Array, real: &[usize], ones: &[i64]) -> Result<(), String> {
    let values = array.to_ints().map_err(|problem| problem.to_string())?;
    let lengths: Vec<i64> = real.iter().map(|real| *real as i64).collect();
    if (array.rank() == 1 && values == lengths) || (array.rank() == 2 && values == ones) {
        return Ok(());
    }
    Err(format!("a mask index of shape {:?} that is no mask of padding", array.shape()))
}
