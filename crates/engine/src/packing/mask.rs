//! What is added to attention's scores, or decides which of them count.

use super::evaluate::evaluate;
use crate::graph::{Array, DataType, Graph, Infos, ValueId};

/// What a mask means, besides that padding is hidden.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Meaning {
    /// Tokens see all tokens of their sequence.
    All,
    /// Tokens see only those at most this far away.
    Window(usize),
    /// Tokens see only themselves and those before them.
    Causal,
    /// Scores depend on distances.
    Distances(Distances),
}

/// What is added to scores by key minus query.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Distances {
    /// `[num_heads, 2 * max_distance - 1]`
    pub(super) table: Vec<f32>,
    pub(super) max_distance: usize,
    /// Whether all larger distances have the same bias as the largest here.
    pub(super) is_whole: bool,
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

/// A length at which windows show that are longer than others; real ones are powers of two up to 4096.
const LONGEST: usize = 4200;

/// What the mask `id` means: found by running its part of the graph on two sequences, one of them padded. `max_positions`
/// is the longest sequence that can be, where that is known.
pub(super) fn meaning(
    graph: &Graph,
    infos: &Infos,
    mask: Option<ValueId>,
    id: ValueId,
    kind: Kind,
    max_positions: Option<usize>,
) -> Result<Meaning, String> {
    let mut found: Option<Meaning> = None;
    let mut differs_by_query = false;
    for seq_len in LENGTHS {
        let real = [seq_len, seq_len - seq_len / 3 - 1];
        let ones: Vec<i64> =
            real.iter().flat_map(|real| (0..seq_len).map(move |k| i64::from(k < *real))).collect();
        let mask_values = mask.map(|mask| (mask, ones.as_slice()));
        let array = evaluate(graph, infos, id, [2, seq_len], mask_values, &[])?;
        if kind == Kind::Index {
            check_index(&array, &real, &ones)?;
            continue;
        }
        let scores = Scores::new(&array, seq_len, kind)?;
        differs_by_query = scores.shape[2] != 1;
        // Without a mask among the inputs, nothing is padding.
        let real = if mask.is_some() { real } else { [seq_len; 2] };
        found = Some(match found {
            None | Some(Meaning::All | Meaning::Causal) => scores.meaning(real)?,
            Some(Meaning::Window(window)) => match scores.meaning(real)? {
                Meaning::Window(other) if other == window => Meaning::Window(window),
                _ => return Err("its window depends on the padded length".to_owned()),
            },
            Some(Meaning::Distances(shorter)) => match scores.meaning(real)? {
                Meaning::Distances(longer) if longer.contains(&shorter) => Meaning::Distances(longer),
                _ => return Err("its bias depends on the padded length".to_owned()),
            },
        });
    }
    // A mask of so many queries and keys is large: it is made only where there can be so many.
    let can_be_longer = max_positions.is_none_or(|max| LENGTHS.iter().all(|len| *len < max));
    match found.unwrap_or(Meaning::All) {
        found @ (Meaning::All | Meaning::Causal) if differs_by_query && can_be_longer => {
            let ones = vec![1; LONGEST];
            let mask = mask.map(|mask| (mask, ones.as_slice()));
            // A file may hold a table of fewer positions.
            let Ok(array) = evaluate(graph, infos, id, [1, LONGEST], mask, &[]) else {
                return Ok(found);
            };
            match Scores::new(&array, LONGEST, kind)?.meaning([LONGEST; 2])? {
                longer if longer == found => Ok(found),
                window @ Meaning::Window(_) if found == Meaning::All => Ok(window),
                _ => Err("it means something else where sequences are long".to_owned()),
            }
        }
        found => Ok(found),
    }
}

/// A mask or bias that can be broadcast to `[batch_size, heads, seq_len, seq_len]`.
struct Scores {
    /// What is added to scores: minus infinity for keys that are hidden.
    values: Vec<f32>,
    seq_len: usize,
    shape: [usize; 4],
}

impl Scores {
    fn new(array: &Array, seq_len: usize, kind: Kind) -> Result<Self, String> {
        let mut shape = [1; 4];
        let rank = array.rank();
        if rank > 4 {
            return Err(format!("a mask of shape {:?}", array.shape()));
        }
        shape[4 - rank..].copy_from_slice(array.shape());
        let fits = |size: usize, full: usize| size == 1 || size == full;
        if !fits(shape[0], 2) || shape[1] == 0 || !fits(shape[2], seq_len) || !fits(shape[3], seq_len) {
            return Err(format!("a mask of shape {:?}", array.shape()));
        }
        let hide = |is_hidden: bool| if is_hidden { f32::NEG_INFINITY } else { 0.0 };
        let values = if kind == Kind::Bias {
            let values = array.to_floats().map_err(|problem| problem.to_string())?;
            values.iter().map(|value| if *value <= HIDDEN { f32::NEG_INFINITY } else { *value }).collect()
        } else if array.dtype() == DataType::Bool {
            let values = array.values::<bool>().map_err(|problem| problem.to_string())?;
            values.iter().map(|value| hide(*value == (kind == Kind::Hidden))).collect()
        } else {
            return Err(format!("a condition of {}", array.dtype()));
        };
        Ok(Self { values, seq_len, shape })
    }

    fn at(&self, b: usize, h: usize, q: usize, k: usize) -> f32 {
        let index = |i: usize, size: usize| if size == 1 { 0 } else { i };
        let [batch, heads, rows, columns] = self.shape;
        let row = (index(b, batch) * heads + index(h, heads)) * rows + index(q, rows);
        self.values[row * columns + index(k, columns)]
    }

    fn is_seen(&self, b: usize, q: usize, k: usize) -> bool {
        self.at(b, 0, q, k) != f32::NEG_INFINITY
    }

    /// What it means where the sequences have `real` tokens.
    fn meaning(&self, real: [usize; 2]) -> Result<Meaning, String> {
        let len = real[0];
        let only_zeros = self.values.iter().all(|value| *value == 0.0 || *value == f32::NEG_INFINITY);
        if !only_zeros {
            return self.distances(real).map(Meaning::Distances);
        }
        // The first query tells windows and causal masks from others.
        let seen_by_first = (0..len).take_while(|k| self.is_seen(0, 0, *k)).count();
        let meaning = match seen_by_first {
            seen if seen == len => Meaning::All,
            0 => return Err("it hides a token from itself".to_owned()),
            1 if len > 1 && self.is_seen(0, len - 1, 0) => Meaning::Causal,
            seen => Meaning::Window(seen - 1),
        };
        for h in 0..self.shape[1] {
            for (b, real) in real.into_iter().enumerate() {
                for q in 0..real {
                    for k in 0..self.seq_len {
                        let expected = k < real
                            && match meaning {
                                Meaning::Window(window) => q.abs_diff(k) <= window,
                                Meaning::Causal => k <= q,
                                _ => true,
                            };
                        if (self.at(b, h, q, k) == 0.0) != expected {
                            return Err("it is no mask of padding, window or order".to_owned());
                        }
                    }
                }
            }
        }
        Ok(meaning)
    }

    fn distances(&self, real: [usize; 2]) -> Result<Distances, String> {
        let (max_distance, heads) = (real[0], self.shape[1]);
        let width = 2 * max_distance - 1;
        let mut table = vec![0.0; heads * width];
        for h in 0..heads {
            // The first and the last query have all distances between them.
            for k in 0..max_distance {
                table[h * width + max_distance - 1 + k] = self.at(0, h, 0, k);
                table[h * width + k] = self.at(0, h, max_distance - 1, k);
            }
            for (b, real) in real.into_iter().enumerate() {
                for q in 0..real {
                    for k in 0..self.seq_len {
                        let value = self.at(b, h, q, k);
                        let expected = match k < real {
                            true => table[h * width + k + max_distance - 1 - q],
                            false => f32::NEG_INFINITY,
                        };
                        // A bias that does not hide padding is not the mask of it.
                        let is_bias_alone = k >= real && value > HIDDEN;
                        if value != expected && !is_bias_alone {
                            return Err("its bias is not one of distances".to_owned());
                        }
                    }
                }
            }
        }
        if !table.iter().all(|value| value.is_finite()) {
            return Err("it is both a bias and a mask".to_owned());
        }
        let is_whole = table.chunks(width).all(|row| {
            let (first, last) = (&row[..max_distance / 2], &row[width - max_distance / 2..]);
            first.iter().all(|value| *value == first[0]) && last.iter().all(|value| *value == last[0])
        });
        Ok(Distances { table, max_distance, is_whole: is_whole && max_distance >= 300 })
    }
}

impl Distances {
    /// Whether all of the other's distances have the same bias here.
    fn contains(&self, other: &Self) -> bool {
        let (width, less) = (2 * self.max_distance - 1, 2 * other.max_distance - 1);
        let skip = self.max_distance.saturating_sub(other.max_distance);
        self.table.len() / width == other.table.len() / less
            && self
                .table
                .chunks(width)
                .zip(other.table.chunks(less))
                .all(|(row, other)| row.get(skip..skip + less) == Some(other))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `[2, heads, len, len]` of `value(b, h, q, k)`, where the second sequence has one token less.
    fn scores(heads: usize, len: usize, value: impl Fn(usize, usize, usize, usize) -> f32) -> Scores {
        let mut values = Vec::new();
        for b in 0..2 {
            for h in 0..heads {
                for q in 0..len {
                    values.extend((0..len).map(|k| value(b, h, q, k)));
                }
            }
        }
        let array = Array::new([2, heads, len, len], values).unwrap();
        Scores::new(&array, len, Kind::Bias).unwrap()
    }

    const MASKED: f32 = -3.4e38;

    #[test]
    fn masks_are_told_by_what_they_hide() {
        let is_real = |b: usize, k: usize| k < 8 - b;
        let check = |expected: Meaning, seen: &dyn Fn(usize, usize) -> bool| {
            let mask = scores(1, 8, |b, _, q, k| if is_real(b, k) && seen(q, k) { 0.0 } else { MASKED });
            assert_eq!(mask.meaning([8, 7]), Ok(expected));
        };
        check(Meaning::All, &|_, _| true);
        check(Meaning::Causal, &|q, k| k <= q);
        check(Meaning::Window(2), &|q, k| q.abs_diff(k) <= 2);
        let leaky = scores(1, 8, |_, _, _, _| 0.0);
        assert!(leaky.meaning([8, 7]).is_err(), "padding is seen");
        let odd = scores(1, 8, |b, _, q, k| if is_real(b, k) && (q != 3 || k != 5) { 0.0 } else { MASKED });
        assert!(odd.meaning([8, 7]).is_err());
    }

    #[test]
    fn a_bias_of_distances_becomes_a_table() {
        let bias = scores(2, 4, |_, h, q, k| (h + 1) as f32 * (k as f32 - q as f32));
        let Ok(Meaning::Distances(distances)) = bias.meaning([4, 3]) else {
            panic!("a bias of distances");
        };
        assert_eq!(distances.table[..7], [-3., -2., -1., 0., 1., 2., 3.]);
        assert_eq!(distances.table[7..], [-6., -4., -2., 0., 2., 4., 6.]);
        assert!(!distances.is_whole);
        let other = scores(1, 4, |_, _, q, k| (q * k) as f32 + 1.0);
        assert!(other.meaning([4, 3]).is_err());
    }
}
