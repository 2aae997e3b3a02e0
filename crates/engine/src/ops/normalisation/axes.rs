//! `LpNormalization` and `MeanVarianceNormalization`: along dimensions.

use super::infer_like;
use crate::graph::{Array, DataType, Info, Operands, Operator, Problem, problem};
use crate::ops::elementwise::cast;
use crate::ops::reduction::dimension;
use crate::ops::reduction::reduce::{Reduce, Reduction};
use crate::ops::{Entry, NodeReader, broadcast};

pub(in crate::ops) const OPERATORS: &[Entry] = &[
    Entry::new("LpNormalization", 1..=1, AxesNormalization::read_lp),
    Entry::new("MeanVarianceNormalization", 1..=1, |node| {
        let axes = node.attributes.ints("axes")?.unwrap_or(vec![0, 2, 3]);
        Ok(Box::new(AxesNormalization { axes, norm: None }))
    }),
];

/// `LpNormalization` or `MeanVarianceNormalization`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AxesNormalization {
    pub(crate) axes: Vec<i64>,
    /// What becomes one; `None` for the variance around a mean of zero.
    pub(crate) norm: Option<Reduction>,
}

impl AxesNormalization {
    fn read_lp(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let norm = match node.attributes.int("p")?.unwrap_or(2) {
            1 => Reduction::L1,
            2 => Reduction::L2,
            other => problem!("attribute `p` is {other}, expected 1 or 2"),
        };
        let axis = node.attributes.int("axis")?.unwrap_or(-1);
        Ok(Box::new(Self { axes: vec![axis], norm: Some(norm) }))
    }

    fn reduce(&self, reduction: Reduction, array: &Array) -> Result<Array, Problem> {
        let reduce =
            Reduce { reduction, axes: Some(self.axes.clone()), keepdims: true, noop_with_empty_axes: true };
        Ok(reduce.run(Operands::new(vec![Some(array.clone())]))?.remove(0))
    }

    fn normalize<T: Float>(&self, x: Array) -> Result<Array, Problem> {
        if let Some(norm) = self.norm {
            let norms = self.reduce(norm, &x)?;
            return broadcast::zip_into::<T>(
                x,
                norms,
                |x, norm| if *norm == T::ZERO { T::ZERO } else { *x / *norm },
            );
        }
        let means = self.reduce(Reduction::Mean, &x)?;
        let centered = broadcast::zip_into::<T>(x, means, |x, mean| *x - *mean)?;
        let squares = broadcast::zip::<T, T>(&centered, &centered, |x, y| *x * *y)?;
        let variances = self.reduce(Reduction::Mean, &squares)?;
        broadcast::zip_into::<T>(centered, variances, |x, variance| *x / (variance.root() + T::SMALL))
    }
}

trait Float:
    crate::ops::number::Number
    + std::ops::Div<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Add<Output = Self>
{
    /// What keeps a deviation of zero from being divided by, as the standard's function body has it.
    const SMALL: Self;
    fn root(self) -> Self;
}

impl Float for f32 {
    const SMALL: Self = 1e-9;
    fn root(self) -> Self {
        self.sqrt()
    }
}

impl Float for f64 {
    const SMALL: Self = 1e-9;
    fn root(self) -> Self {
        self.sqrt()
    }
}

impl Operator for AxesNormalization {
    fn name(&self) -> &'static str {
        if self.norm.is_some() { "LpNormalization" } else { "MeanVarianceNormalization" }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let output = infer_like(inputs)?;
        if let Some(rank) = output.rank() {
            self.axes.iter().try_for_each(|&axis| dimension(axis, rank).map(drop))?;
        }
        Ok(vec![output])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.take(0)?;
        let dtype = x.dtype();
        let y = if dtype == DataType::F64 {
            self.normalize::<f64>(x)?
        } else {
            self.normalize::<f32>(cast(x, DataType::F32)?)?
        };
        Ok(vec![cast(y, dtype)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_norm_of_zero_leaves_zeros() {
        let x = Array::new(vec![2, 2], vec![3f64, 4.0, 0.0, 0.0]).unwrap();
        let norm = AxesNormalization { axes: vec![-1], norm: Some(Reduction::L2) };
        let run = |norm: &AxesNormalization| norm.run(Operands::new(vec![Some(x.clone())]));
        assert_eq!(run(&norm).unwrap()[0], Array::new(vec![2, 2], vec![0.6, 0.8, 0.0, 0.0f64]).unwrap());
        assert!(run(&AxesNormalization { axes: vec![2], norm: None }).is_err());
        let all = AxesNormalization { axes: vec![0, 1], norm: None };
        let y = run(&all).unwrap().remove(0).into_values::<f64>().unwrap();
        assert!(y.iter().sum::<f64>().abs() < 1e-9);
    }
}
