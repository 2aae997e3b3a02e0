//! `RotaryEmbedding`: pairs of elements turned by an angle that grows with the position (Su et al., arXiv:2104.09864).

use crate::graph::{Array, Info, Operands, Operator, Problem, problem};
use crate::ops::{Entry, NodeReader};

pub(in crate::ops) const OPERATORS: &[Entry] = &[Entry::new("RotaryEmbedding", 3..=4, RotaryEmbedding::read)];

/// `RotaryEmbedding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RotaryEmbedding {
    /// Pairs are neighbours, not one of each half.
    pub(crate) interleaved: bool,
    /// `None` where the input has a dimension of heads.
    pub(crate) num_heads: Option<usize>,
    /// First elements of a head that are turned; `None` for all.
    pub(crate) rotary_dim: Option<usize>,
}

impl RotaryEmbedding {
    fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let size = |name| match node.attributes.int(name)? {
            None | Some(0) => Ok(None),
            Some(size) => match usize::try_from(size) {
                Ok(size) => Ok(Some(size)),
                Err(_) => problem!("attribute `{name}` is {size}"),
            },
        };
        Ok(Box::new(Self {
            interleaved: node.attributes.flag("interleaved")?.unwrap_or(false),
            num_heads: size("num_heads")?,
            rotary_dim: size("rotary_embedding_dim")?,
        }))
    }

    fn layout(self, shape: &[usize]) -> Result<Layout, Problem> {
        let (batch, heads, seq, head_dim, is_by_head) = match (shape, self.num_heads) {
            (&[batch, heads, seq, head_dim], _) => (batch, heads, seq, head_dim, true),
            (&[batch, seq, hidden], Some(heads)) if hidden % heads == 0 => {
                (batch, heads, seq, hidden / heads, false)
            }
            (_, heads) => problem!("shape {shape:?} does not hold {heads:?} heads"),
        };
        let rotary_dim = self.rotary_dim.unwrap_or(head_dim);
        if rotary_dim > head_dim || rotary_dim % 2 == 1 {
            problem!("{rotary_dim} of {head_dim} elements cannot be turned in pairs");
        }
        Ok(Layout { batch, heads, seq, head_dim, rotary_dim, is_by_head })
    }
}

/// What an input's dimensions are.
#[derive(Clone, Copy)]
struct Layout {
    batch: usize,
    heads: usize,
    seq: usize,
    head_dim: usize,
    rotary_dim: usize,
    /// `[batch, heads, seq, head_dim]`, not `[batch, seq, heads, head_dim]`.
    is_by_head: bool,
}

impl Layout {
    /// Batch index and position of the vector at this place.
    fn token(self, vector: usize) -> (usize, usize) {
        if self.is_by_head {
            (vector / (self.heads * self.seq), vector % self.seq)
        } else {
            let token = vector / self.heads;
            (token / self.seq, token % self.seq)
        }
    }
}

impl Operator for RotaryEmbedding {
    fn name(&self) -> &'static str {
        "RotaryEmbedding"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        for cache in [inputs.get(1)?, inputs.get(2)?] {
            if cache.dtype != x.dtype || !x.dtype.is_float() {
                problem!("inputs are {} and {}", x.dtype, cache.dtype);
            }
        }
        if let Some(rank) = x.rank()
            && !(rank == 4 || (rank == 3 && self.num_heads.is_some()))
        {
            problem!("rank {rank} does not hold {:?} heads", self.num_heads);
        }
        Ok(vec![Info { shape: x.shape.clone(), ..Info::unknown(x.dtype) }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.take(0)?;
        let (dtype, shape) = (x.dtype(), x.shape().to_vec());
        let layout = self.layout(&shape)?;
        let rows = rows(&layout, inputs.get(1)?, inputs.optional(3))?;
        if inputs.get(1)?.shape() != inputs.get(2)?.shape() {
            problem!("caches have shapes {:?} and {:?}", inputs.get(1)?.shape(), inputs.get(2)?.shape());
        }
        let (cos, sin) = (inputs.get(1)?.to_floats()?, inputs.get(2)?.to_floats()?);
        let mut values = x.into_floats()?;
        let half = layout.rotary_dim / 2;
        for (vector, values) in values.chunks_exact_mut(layout.head_dim.max(1)).enumerate() {
            let (batch, position) = layout.token(vector);
            let row = rows[batch * layout.seq + position] * half;
            let (cos, sin) = (&cos[row..row + half], &sin[row..row + half]);
            let turned = &mut values[..layout.rotary_dim];
            if self.interleaved {
                for (pair, (cos, sin)) in turned.as_chunks_mut::<2>().0.iter_mut().zip(cos.iter().zip(sin)) {
                    *pair = turn(*pair, *cos, *sin);
                }
            } else {
                let (first, second) = turned.split_at_mut(half);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
                    [*a, *b] = turn([*a, *b], *cos, *sin);
                }
            }
        }
        Ok(vec![Array::from_floats(dtype, shape, values)?])
    }
}

#[inline(always)]
fn turn([a, b]: [f32; 2], cos: f32, sin: f32) -> [f32; 2] {
    [cos * a - sin * b, sin * a + cos * b]
}

/// The row of the caches for each token.
fn rows(layout: &Layout, cache: &Array, positions: Option<&Array>) -> Result<Vec<usize>, Problem> {
    let &Layout { batch, seq, rotary_dim, .. } = layout;
    let Some(positions) = positions else {
        return match *cache.shape() {
            [b, s, half] if [b, s, half * 2] == [batch, seq, rotary_dim] => Ok((0..batch * seq).collect()),
            _ => problem!("a cache of shape {:?} does not fit {batch} by {seq} tokens", cache.shape()),
        };
    };
    let &[length, half] = cache.shape() else {
        problem!("a cache has shape {:?}, expected two dimensions", cache.shape());
    };
    if half * 2 != rotary_dim || positions.shape() != [batch, seq] {
        problem!("a cache of shape {:?} and positions of {:?} do not fit", cache.shape(), positions.shape());
    }
    let row = |&position: &i64| match usize::try_from(position) {
        Ok(row) if row < length => Ok(row),
        _ => problem!("position {position} is not among {length}"),
    };
    positions.to_ints()?.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_sizes_are_checked() {
        let rotary = RotaryEmbedding { interleaved: false, num_heads: Some(1), rotary_dim: None };
        let run = |rotary: RotaryEmbedding, x: &[usize], cache: &[usize], positions: Option<Vec<i64>>| {
            let ones = |shape: &[usize]| Some(Array::full(shape, 1f32).unwrap());
            let positions =
                positions.map(|positions| Array::new(vec![1, positions.len()], positions).unwrap());
            rotary.run(Operands::new(vec![ones(x), ones(cache), ones(cache), positions]))
        };
        let turned = run(rotary, &[1, 2, 4], &[3, 2], Some(vec![0, 2])).unwrap().remove(0);
        assert_eq!(turned.values::<f32>().unwrap(), [0., 0., 2., 2., 0., 0., 2., 2.]);
        assert!(run(rotary, &[1, 2, 4], &[3, 2], Some(vec![0, 3])).is_err());
        assert!(run(rotary, &[1, 2, 4], &[3, 2], Some(vec![0, -1])).is_err());
        assert!(run(rotary, &[1, 2, 4], &[3, 1], Some(vec![0, 1])).is_err());
        assert!(run(rotary, &[1, 2, 4], &[1, 2, 2], None).is_ok());
        assert!(run(rotary, &[1, 2, 4], &[2, 2, 2], None).is_err());
        assert!(run(rotary, &[1, 2, 3], &[3, 1], Some(vec![0, 1])).is_err());
        assert!(run(rotary, &[1, 2], &[3, 1], Some(vec![0, 1])).is_err());
        let wide = RotaryEmbedding { rotary_dim: Some(6), ..rotary };
        assert!(run(wide, &[1, 2, 4], &[3, 3], Some(vec![0, 1])).is_err());
    }
}
