//! Values that depend on the padded length alone: embeddings of positions, above all.

use super::evaluate::evaluate;
use super::{batch_size, seq_len};
use crate::graph::{Array, Dim, Element, Graph, Infos, ValueId, for_type};

/// Positions that are looked for; a file whose positions go on without end gets as many.
const MAX_POSITIONS: usize = 8192;

/// A row for each position, `[max_positions, ...]`.
///
/// A row must be the same whatever the padded length is; that is compared.
pub(super) fn table(graph: &Graph, infos: &Infos, id: ValueId) -> Result<Array, String> {
    let shape = infos.get(id).and_then(|info| info.shape.as_deref()).ok_or("its shape is not known")?;
    // A table that is cut to the padded length ends where it ends.
    let is_rows = |dim: &Dim| *dim == seq_len() || dim.is_limited(&seq_len());
    let axis = match shape {
        [first, ..] if is_rows(first) => 0,
        [first, second, ..] if (first.is(1) || *first == batch_size()) && is_rows(second) => 1,
        _ => return Err(format!("its shape is {shape:?}, which has no row for each token")),
    };
    if shape[axis + 1..].iter().any(|dim| dim.known_size().is_none()) {
        return Err(format!("its shape is {shape:?}, whose rows are of no known size"));
    }
    let rows = |len: usize| -> Option<Array> {
        let array = evaluate(graph, infos, id, [1, len], None, &[]).ok()?;
        let has_rows = array.shape().get(axis) == Some(&len);
        let shape = array.shape().get(axis..)?.to_vec();
        if has_rows { array.with_shape(shape).ok() } else { None }
    };
    // The largest length for which there is a row for each position.
    let (mut fits, mut fails) = (1, MAX_POSITIONS + 1);
    let mut table = rows(1).ok_or("it cannot be computed for one token")?;
    let mut len = MAX_POSITIONS;
    while fits + 1 < fails {
        match rows(len) {
            Some(longer) => {
                if !starts_with(&longer, &table) {
                    return Err("its rows depend on the padded length".to_owned());
                }
                (table, fits) = (longer, len);
            }
            None => fails = len,
        }
        len = fits + (fails - fits) / 2;
    }
    Ok(table)
}

fn starts_with(longer: &Array, shorter: &Array) -> bool {
    fn compare<T: Element>(longer: &Array, shorter: &Array) -> bool {
        matches!((longer.values::<T>(), shorter.values::<T>()), (Ok(longer), Ok(shorter)) if longer.starts_with(shorter))
    }
    longer.shape()[1..] == shorter.shape()[1..]
        && for_type!(longer.dtype(), T => compare::<T>(longer, shorter))
}
