//! Rotary position embedding (Su et al., arXiv:2104.09864).

use super::{expect_float, sizes};
use crate::graph::{Array, Info, Operands, Operator, Problem, problem};
use crate::ops::NodeReader;

/// `RotaryEmbedding`
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RotaryEmbedding {
    /// 0 where the shapes say it.
    pub(crate) num_heads: usize,
    /// How many of a head's first columns are rotated; 0 for all.
    pub(crate) rotary_dim: usize,
    /// Pairs are neighbours; otherwise they are half of the rotated columns apart.
    pub(crate) is_interleaved: bool,
}

impl RotaryEmbedding {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let attributes = node.attributes;
        if attributes.float("scale")?.unwrap_or(1.0) != 1.0 {
            problem!("attribute `scale` is not supported");
        }
        // Whether positions may start anew inside a row makes no difference where each token has its own.
        attributes.ignore(&["is_packed_batching"]);
        let size = |name| match attributes.int(name)?.unwrap_or(0) {
            value @ 0..=65_536 => Ok(value as usize),
            value => problem!("attribute `{name}` is {value}"),
        };
        let (num_heads, rotary_dim) = (size("num_heads")?, size("rotary_embedding_dim")?);
        if rotary_dim > 0 && num_heads == 0 {
            problem!("attribute `num_heads` is missing");
        }
        let is_interleaved = attributes.flag("interleaved")?.unwrap_or(false);
        Ok(Box::new(Self { num_heads, rotary_dim, is_interleaved }))
    }
}

impl Operator for RotaryEmbedding {
    fn name(&self) -> &str {
        "RotaryEmbedding"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        expect_float(x, "the input")?;
        Ok(vec![Info { dtype: x.dtype, shape: x.shape.clone(), ints: None, constant: None }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.take(0)?;
        let (dtype, shape) = (x.dtype(), x.shape().to_vec());
        let [max_positions, half] = sizes(inputs.get(2)?, "cos_cache")?;
        if inputs.get(3)?.shape() != [max_positions, half] {
            problem!("cos_cache and sin_cache have different shapes");
        }
        let (cos, sin) = (inputs.get(2)?.to_floats()?, inputs.get(3)?.to_floats()?);
        let (batch, heads, seq, dim) = match *shape.as_slice() {
            [batch, heads, seq, dim] => (batch, heads, seq, dim),
            [batch, seq, hidden] => {
                let dim = match self.num_heads {
                    0 => 2 * half,
                    heads => hidden / heads,
                };
                if dim == 0 || !hidden.is_multiple_of(dim) {
                    problem!("rows of {hidden} numbers cannot be split into heads of {dim}");
                }
                (batch, hidden / dim, seq, dim)
            }
            _ => problem!("the input has shape {shape:?}, expected 3 or 4 dimensions"),
        };
        let rotary_dim = if self.rotary_dim > 0 { self.rotary_dim } else { dim };
        if rotary_dim > dim || rotary_dim != 2 * half {
            problem!("caches of {half} columns do not rotate {rotary_dim} columns of heads of {dim}");
        }
        let mut values = x.into_floats()?;
        if values.is_empty() {
            return Ok(vec![Array::from_floats(dtype, shape, values)?]);
        }
        let positions = positions(inputs.get(1)?, [batch, seq])?;
        let rotary = Rotary { cos: &cos, sin: &sin, half, is_interleaved: self.is_interleaved };
        for (index, row) in values.chunks_exact_mut(dim).enumerate() {
            let token =
                if shape.len() == 4 { index / (heads * seq) * seq + index % seq } else { index / heads };
            rotary.rotate(row, positions[token])?;
        }
        Ok(vec![Array::from_floats(dtype, shape, values)?])
    }
}

/// A position for each token: given, or counted from the one that is.
fn positions(array: &Array, [batch, seq]: [usize; 2]) -> Result<Vec<i64>, Problem> {
    let values = array.to_ints()?;
    if array.shape() == [batch, seq] {
        return Ok(values);
    }
    let [first] = values[..] else {
        problem!("position_ids have shape {:?}, expected [1] or [{batch}, {seq}]", array.shape());
    };
    Ok((0..batch * seq).map(|token| first.saturating_add((token % seq) as i64)).collect())
}

/// Cosines and sines by position, `[positions, half]` each.
pub(super) struct Rotary<'a> {
    pub(super) cos: &'a [f32],
    pub(super) sin: &'a [f32],
    pub(super) half: usize,
    pub(super) is_interleaved: bool,
}

impl Rotary<'_> {
    /// Rotates the first `2 * half` elements.
    pub(super) fn rotate(&self, row: &mut [f32], position: i64) -> Result<(), Problem> {
        let half = self.half;
        let rows = self.cos.len() / half.max(1);
        let Some(index) = usize::try_from(position).ok().filter(|&index| index < rows || half == 0) else {
            problem!("position {position} is not one of the {rows} in the cache");
        };
        let at = if half == 0 { 0..0 } else { index * half..(index + 1) * half };
        let pairs = self.cos[at.clone()].iter().zip(&self.sin[at]).enumerate();
        for (column, (cos, sin)) in pairs {
            let (i, j) =
                if self.is_interleaved { (2 * column, 2 * column + 1) } else { (column, column + half) };
            (row[i], row[j]) = (row[i] * cos - row[j] * sin, row[i] * sin + row[j] * cos);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_checked() {
        let run = |x: &[usize], positions: Vec<i64>| {
            let operator = RotaryEmbedding { num_heads: 0, rotary_dim: 0, is_interleaved: false };
            let cache = || Array::full([4, 2], 1.0f32).ok();
            operator.run(Operands::new(vec![
                Array::full(x, 1.0f32).ok(),
                Some(Array::vector(positions)),
                cache(),
                cache(),
            ]))
        };
        assert!(run(&[1, 2, 4], vec![2]).is_ok());
        assert!(run(&[1, 2, 4], vec![3]).is_err());
        assert!(run(&[1, 2, 4], vec![-1]).is_err());
        assert!(run(&[1, 2, 4], vec![i64::MAX]).is_err());
        assert!(run(&[1, 2, 6], vec![0]).is_err());
        assert!(run(&[1 << 30, 1 << 30, 0], vec![0]).is_ok());
    }
}
