//! Operators that only packed graphs have.

use crate::graph::{
    Array, DataType, Dim, Info, Operands, Operator, Problem, checked_len, for_type, problem, product,
};

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
        Ok(vec![Array::from_ints(self.dtype, shape, vec![self.value; inputs.get(0)?.len()])?])
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
        Ok(vec![Array::from_ints(self.dtype, x.shape(), x.to_ints()?)?])
    }
}

/// Heads from several inputs side by side: `[1, total_tokens, ...]` each to `[1, total_tokens, num_heads * head_dim]`.
#[derive(Debug)]
pub(super) struct Columns {
    /// For each input, the first columns of its heads, in the order in which they are wanted. What a token has is
    /// counted as one row.
    pub(super) heads: Vec<Vec<usize>>,
    pub(super) head_dim: usize,
}

impl Columns {
    fn width(&self) -> usize {
        self.heads.iter().map(Vec::len).sum::<usize>() * self.head_dim
    }
}

impl Operator for Columns {
    fn name(&self) -> &str {
        "Columns"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        for (index, heads) in self.heads.iter().enumerate() {
            let Some([_, _, rest @ ..]) = inputs.get(index)?.shape.as_deref() else {
                problem!("packed tokens have dimensions that are known");
            };
            let width = product(rest).known_size();
            let last = heads.iter().max().map_or(0, |first| first + self.head_dim);
            if width.is_some_and(|width| width < last) {
                problem!("rows of {width:?} numbers have no column {last}");
            }
        }
        let Some([one, tokens, ..]) = inputs.get(0)?.shape.as_deref() else {
            problem!("packed tokens have dimensions that are known");
        };
        let shape = vec![one.clone(), tokens.clone(), Dim::from(self.width())];
        Ok(vec![Info::new(inputs.get(0)?.dtype, shape)])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let &[_, tokens, ..] = inputs.get(0)?.shape() else {
            problem!("packed tokens of shape {:?}", inputs.get(0)?.shape());
        };
        let shape = [1, tokens, self.width()];
        Ok(vec![for_type!(inputs.get(0)?.dtype(), T => {
            let mut values: Vec<T> = Vec::with_capacity(checked_len(&shape, size_of::<T>())?);
            let parts: Vec<&[T]> =
                (0..self.heads.len()).map(|index| inputs.get(index)?.values::<T>()).collect::<Result<_, _>>()?;
            for token in 0..tokens {
                for (part, heads) in parts.iter().zip(&self.heads) {
                    let width = part.len() / tokens;
                    let row = &part[token * width..][..width];
                    for first in heads {
                        let Some(head) = row.get(*first..*first + self.head_dim) else {
                            problem!("a row of {width} numbers has no column {first}");
                        };
                        values.extend_from_slice(head);
                    }
                }
            }
            Array::new(shape, values)?
        })])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_taken_from_anywhere_in_a_row() {
        let columns = Columns { heads: vec![vec![2, 0], vec![2, 2]], head_dim: 2 };
        let numbers = |shape: &[usize], first: i32| {
            let len = shape.iter().product::<usize>() as i32;
            Some(Array::new(shape, (first..first + len).collect()).unwrap())
        };
        let run = |columns: &Columns, inputs| columns.run(Operands::new(inputs)).map(|mut all| all.remove(0));
        let found = run(&columns, vec![numbers(&[1, 2, 4], 0), numbers(&[1, 2, 2, 2], 100)]).unwrap();
        assert_eq!(found.shape(), [1, 2, 8]);
        let expected = [2, 3, 0, 1, 102, 103, 102, 103, 6, 7, 4, 5, 106, 107, 106, 107];
        assert_eq!(found.values::<i32>().unwrap(), expected);
        assert!(run(&columns, vec![numbers(&[1, 2, 4], 0), numbers(&[1, 2, 3], 0)]).is_err());
    }
}
