//! Layer normalisation of sums, and by the root mean square.

use super::embedding::epsilon;
use super::{expect_float, vector_of_len};
use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, problem};
use crate::kernels::{LayerNormOp, layer_norm, rms_norm};
use crate::ops::NodeReader;

/// `SkipLayerNormalization` or `SkipSimplifiedLayerNormalization`: normalises `input + skip + bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SkipLayerNormalization {
    pub(crate) epsilon: f32,
    /// Divides by the root mean square, and has no beta.
    pub(crate) is_simplified: bool,
    /// How many outputs somebody may want: the normalised rows, their means, the inverses of their deviations, and
    /// the sum.
    pub(crate) num_outputs: usize,
}

impl SkipLayerNormalization {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let num_outputs = node.num_outputs;
        Ok(Box::new(Self { epsilon: epsilon(node)?, is_simplified: false, num_outputs }))
    }

    pub(super) fn read_simplified(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let num_outputs = node.num_outputs;
        Ok(Box::new(Self { epsilon: epsilon(node)?, is_simplified: true, num_outputs }))
    }

    /// Which input is the bias.
    pub(crate) fn bias_index(&self) -> usize {
        if self.is_simplified { 3 } else { 4 }
    }

    fn statistics(&self, sum: &[f32], width: usize) -> [Vec<f32>; 2] {
        let rows = || sum.chunks_exact(width.max(1));
        let mean = |row: &[f32]| {
            if self.is_simplified { 0.0 } else { row.iter().sum::<f32>() / width as f32 }
        };
        let inverse = |row: &[f32]| {
            let mean = mean(row);
            let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / width as f32;
            1.0 / (variance + self.epsilon).sqrt()
        };
        [rows().map(mean).collect(), rows().map(inverse).collect()]
    }
}

impl Operator for SkipLayerNormalization {
    fn name(&self) -> &str {
        if self.is_simplified { "SkipSimplifiedLayerNormalization" } else { "SkipLayerNormalization" }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        expect_float(x, "the input")?;
        let same = Info { dtype: x.dtype, shape: x.shape.clone(), ints: None, constant: None };
        let mut statistics = Info::unknown(DataType::F32);
        statistics.shape = x.shape.clone().map(|mut shape| {
            if let Some(last) = shape.last_mut() {
                *last = Dim::from(1i64);
            }
            shape
        });
        Ok(vec![same.clone(), statistics.clone(), statistics, same])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (x, skip) = (inputs.take(0)?, inputs.take(1)?);
        let (dtype, shape) = (x.dtype(), x.shape().to_vec());
        let Some(&width) = shape.last() else {
            problem!("the input is a scalar");
        };
        // A skip may be of one sequence for all.
        let start = skip.shape().iter().take_while(|size| **size == 1).count();
        if skip.shape() != shape && !(skip.rank() <= shape.len() && shape.ends_with(&skip.shape()[start..])) {
            problem!("a skip of shape {:?} does not fit an input of {shape:?}", skip.shape());
        }
        let mut sum = x.into_floats()?;
        let skip = skip.to_floats()?;
        if !skip.is_empty() {
            for run in sum.chunks_exact_mut(skip.len()) {
                run.iter_mut().zip(&*skip).for_each(|(value, skip)| *value += skip);
            }
        }
        if let Some(bias) = inputs.optional(self.bias_index())
            && width > 0
        {
            let bias = vector_of_len(bias, width, "the bias")?;
            for row in sum.chunks_exact_mut(width) {
                row.iter_mut().zip(&*bias).for_each(|(value, bias)| *value += bias);
            }
        }
        let gamma = vector_of_len(inputs.get(2)?, width, "gamma")?;
        let mut outputs = Vec::new();
        if self.num_outputs > 1 {
            let mut statistics_shape = shape.clone();
            statistics_shape.pop();
            statistics_shape.push(1);
            if width == 0 {
                problem!("rows of no numbers have no mean");
            }
            for statistic in self.statistics(&sum, width) {
                outputs.push(Array::new(statistics_shape.clone(), statistic)?);
            }
            outputs.push(Array::from_floats(dtype, shape.clone(), sum.clone())?);
        }
        if self.is_simplified {
            rms_norm(&mut sum, &gamma, self.epsilon);
        } else {
            match inputs.optional(3) {
                Some(beta) => {
                    let beta = vector_of_len(beta, width, "beta")?;
                    layer_norm(&mut sum, &LayerNormOp { weight: &gamma, bias: &beta, eps: self.epsilon });
                }
                None => layer_norm(
                    &mut sum,
                    &LayerNormOp { weight: &gamma, bias: &vec![0.0; width], eps: self.epsilon },
                ),
            }
        }
        outputs.insert(0, Array::from_floats(dtype, shape, sum)?);
        Ok(outputs)
    }
}

/// `SimplifiedLayerNormalization`: divides by the root mean square of all dimensions from `axis` on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SimplifiedLayerNormalization {
    pub(crate) axis: i64,
    pub(crate) epsilon: f32,
}

impl SimplifiedLayerNormalization {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        // Which type the second output has; everything is computed in f32.
        node.attributes.ignore(&["stash_type"]);
        if node.num_outputs > 1 {
            problem!("output inv_std_var is not supported");
        }
        let epsilon = node.attributes.float("epsilon")?.unwrap_or(1e-5);
        Ok(Box::new(Self { axis: node.attributes.int("axis")?.unwrap_or(-1), epsilon }))
    }

    fn axis(&self, rank: usize) -> Result<usize, Problem> {
        let axis = if self.axis < 0 { self.axis.saturating_add_unsigned(rank as u64) } else { self.axis };
        match usize::try_from(axis) {
            Ok(axis) if axis < rank => Ok(axis),
            _ => problem!("axis {} is not inside rank {rank}", self.axis),
        }
    }
}

impl Operator for SimplifiedLayerNormalization {
    fn name(&self) -> &str {
        "SimplifiedLayerNormalization"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (x, scale) = (inputs.get(0)?, inputs.get(1)?);
        expect_float(x, "the input")?;
        if let Some(rank) = x.rank() {
            self.axis(rank)?;
        }
        Ok(vec![Info { dtype: scale.dtype, shape: x.shape.clone(), ints: None, constant: None }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.take(0)?;
        let scale = inputs.get(1)?;
        let shape = x.shape().to_vec();
        let rows = &shape[self.axis(shape.len())?..];
        let width: usize = rows.iter().product();
        let start = scale.shape().iter().take_while(|size| **size == 1).count();
        if scale.len() != width || !rows.ends_with(&scale.shape()[start..]) {
            problem!("a scale of shape {:?} does not fit rows of shape {rows:?}", scale.shape());
        }
        let mut values = x.into_floats()?;
        rms_norm(&mut values, &scale.to_floats()?, self.epsilon);
        Ok(vec![Array::from_floats(scale.dtype(), shape, values)?])
    }
}
