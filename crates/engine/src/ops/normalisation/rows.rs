//! `LayerNormalization` and `RMSNormalization`: of all that lies behind a dimension.

use super::infer_like;
use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, problem};
use crate::kernels::{LayerNormOp, rms_norm};
use crate::ops::reduction::dimension;
use crate::ops::{Entry, NodeReader, broadcast};

pub(in crate::ops) const OPERATORS: &[Entry] = &[
    Entry::new("LayerNormalization", 2..=3, LayerNormalization::read),
    Entry::new("RMSNormalization", 2..=2, RmsNormalization::read),
];

/// `LayerNormalization`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LayerNormalization {
    pub(crate) axis: i64,
    pub(crate) epsilon: f32,
    /// Whether means and inverse standard deviations are wanted.
    pub(crate) has_statistics: bool,
}

impl LayerNormalization {
    fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let (axis, epsilon) = read(node)?;
        Ok(Box::new(Self { axis, epsilon, has_statistics: node.num_outputs > 1 }))
    }
}

fn read(node: &NodeReader) -> Result<(i64, f32), Problem> {
    // All is computed in f32.
    match node.attributes.int("stash_type")? {
        None | Some(1) => {}
        Some(other) => problem!("attribute `stash_type` is {other}, which is not supported"),
    }
    let axis = node.attributes.int("axis")?.unwrap_or(-1);
    Ok((axis, node.attributes.float("epsilon")?.unwrap_or(1e-5)))
}

/// A parameter repeated to the shape that lies behind the dimension; `None` where it is broadcast to more than that.
fn parameter(array: &Array, row: &[usize]) -> Result<Option<Vec<f32>>, Problem> {
    if array.shape() == row {
        return Ok(Some(array.to_floats()?.into_owned()));
    }
    let values = Array::new(array.shape(), array.to_floats()?.into_owned())?;
    let fits = array.rank() <= row.len();
    Ok(if fits { Some(broadcast::expand::<f32>(&values, row)?.into_values()?) } else { None })
}

fn floats(array: Array) -> Result<Array, Problem> {
    let shape = array.shape().to_vec();
    Array::new(shape, array.into_floats()?)
}

/// `a` and `b` together, which must have the shape of `a`.
fn zip(a: Array, b: Array, operation: impl Fn(&f32, &f32) -> f32) -> Result<Array, Problem> {
    if broadcast::shape(&[a.shape(), b.shape()])? != a.shape() {
        problem!("a parameter of shape {:?} does not fit {:?}", b.shape(), a.shape());
    }
    broadcast::zip_into::<f32>(a, floats(b)?, operation)
}

impl Operator for LayerNormalization {
    fn name(&self) -> &'static str {
        "LayerNormalization"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let output = infer_like(inputs)?;
        let statistics = match &output.shape {
            None => Info::unknown(DataType::F32),
            Some(shape) => {
                let at = dimension(self.axis, shape.len())?;
                let sizes = shape.iter().enumerate();
                let sizes =
                    sizes.map(|(index, size)| if index < at { size.clone() } else { Dim::from(1i64) });
                Info::new(DataType::F32, sizes.collect())
            }
        };
        Ok(vec![output, statistics.clone(), statistics])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (x, scale, bias) = (inputs.take(0)?, inputs.take(1)?, inputs.take_optional(2));
        let (dtype, shape) = (x.dtype(), x.shape().to_vec());
        let at = dimension(self.axis, shape.len())?;
        let width: usize = shape[at..].iter().product();
        if width == 0 && self.has_statistics {
            problem!("there is nothing to normalize in shape {shape:?}");
        }
        let sizes: Vec<usize> =
            (0..shape.len()).map(|index| if index < at { shape[index] } else { 1 }).collect();
        if x.is_empty() {
            if !self.has_statistics {
                return Ok(vec![x]);
            }
            // A row has a width here, so it is rows that are missing.
            let none = Array::new::<f32>(sizes, Vec::new())?;
            return Ok(vec![x, none.clone(), none]);
        }
        let x = x.to_floats()?;
        let row = &shape[at..];
        let (weight, shift) =
            (parameter(&scale, row)?, bias.as_ref().map(|bias| parameter(bias, row)).transpose()?);
        let y = match (weight, shift) {
            (Some(weight), None) => self.normalize(&x, &weight, &vec![0.0; width]),
            (Some(weight), Some(Some(bias))) => self.normalize(&x, &weight, &bias),
            _ => {
                let normal =
                    Array::new(shape.clone(), self.normalize(&x, &vec![1.0; width], &vec![0.0; width]))?;
                let scaled = zip(normal, scale, |x, scale| x * scale)?;
                match bias {
                    Some(bias) => zip(scaled, bias, |x, bias| x + bias)?.into_values()?,
                    None => scaled.into_values()?,
                }
            }
        };
        let mut outputs = vec![Array::from_floats(dtype, shape.clone(), y)?];
        if self.has_statistics {
            let (means, inverses) = x.chunks_exact(width).map(|row| self.statistics(row)).unzip();
            outputs.extend([Array::new::<f32>(sizes.clone(), means)?, Array::new::<f32>(sizes, inverses)?]);
        }
        Ok(outputs)
    }
}

impl LayerNormalization {
    fn normalize(self, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        LayerNormOp { weight, bias, eps: self.epsilon }.normalize_rows(x, None)
    }

    fn statistics(self, row: &[f32]) -> (f32, f32) {
        let len = row.len() as f64;
        let mean = row.iter().map(|value| f64::from(*value)).sum::<f64>() / len;
        let variance = row.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / len;
        (mean as f32, (1.0 / (variance + f64::from(self.epsilon)).sqrt()) as f32)
    }
}

/// `RMSNormalization`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RmsNormalization {
    pub(crate) axis: i64,
    pub(crate) epsilon: f32,
}

impl RmsNormalization {
    fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let (axis, epsilon) = read(node)?;
        Ok(Box::new(Self { axis, epsilon }))
    }
}

impl Operator for RmsNormalization {
    fn name(&self) -> &'static str {
        "RMSNormalization"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let output = infer_like(inputs)?;
        if let Some(rank) = output.rank() {
            dimension(self.axis, rank)?;
        }
        // The type is the scale's.
        Ok(vec![Info { dtype: inputs.get(1)?.dtype, ..output }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (x, scale) = (inputs.take(0)?, inputs.take(1)?);
        let (dtype, shape) = (scale.dtype(), x.shape().to_vec());
        let at = dimension(self.axis, shape.len())?;
        let mut values = x.into_floats()?;
        let y = match parameter(&scale, &shape[at..])? {
            Some(weight) => {
                rms_norm(&mut values, &weight, self.epsilon);
                values
            }
            None => {
                let width = shape[at..].iter().product();
                rms_norm(&mut values, &vec![1.0; width], self.epsilon);
                zip(Array::new(shape.clone(), values)?, scale, |x, scale| x * scale)?.into_values()?
            }
        };
        Ok(vec![Array::from_floats(dtype, shape, y)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(operator: &dyn Operator, inputs: [(&[usize], f32); 3]) -> Result<Array, Problem> {
        let mut arrays: Vec<_> =
            inputs.into_iter().map(|(shape, value)| Some(Array::full(shape, value).unwrap())).collect();
        let len = arrays[0].as_ref().unwrap().len();
        let x = (0..len).map(|i| (i as f32).sin()).collect();
        arrays[0] = Some(Array::new::<f32>(inputs[0].0, x).unwrap());
        operator.run(Operands::new(arrays)).map(|mut outputs| outputs.remove(0))
    }

    #[test]
    fn parameters_are_broadcast() {
        let norm = LayerNormalization { axis: -1, epsilon: 1e-5, has_statistics: false };
        let expected = run(&norm, [(&[2, 3, 4], 0.0), (&[4], 2.0), (&[4], 0.5)]).unwrap();
        for (scale, bias) in [(&[1][..], &[][..]), (&[3, 1], &[4]), (&[2, 1, 4], &[1, 1, 1])] {
            let found = run(&norm, [(&[2, 3, 4], 0.0), (scale, 2.0), (bias, 0.5)]).unwrap();
            let pairs = found.values::<f32>().unwrap().iter().zip(expected.values::<f32>().unwrap());
            assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-6));
        }
        for wrong in [&[3][..], &[5, 1, 1], &[1, 2, 3, 4]] {
            assert!(run(&norm, [(&[2, 3, 4], 0.0), (wrong, 2.0), (&[4], 0.5)]).is_err());
        }
        assert!(run(&norm, [(&[2, 0], 0.0), (&[0], 1.0), (&[0], 0.0)]).unwrap().is_empty());
        let all = LayerNormalization { axis: i64::MIN, ..norm };
        assert!(run(&all, [(&[2, 3], 0.0), (&[3], 1.0), (&[3], 0.0)]).is_err());
    }

    #[test]
    fn statistics_have_the_shape_before_the_axis() {
        let norm = LayerNormalization { axis: 1, epsilon: 0.0, has_statistics: true };
        let x = Array::new(vec![2, 2], vec![1f32, 3.0, 0.0, 8.0]).unwrap();
        let ones = Array::vector(vec![1f32; 2]);
        let outputs = norm.run(Operands::new(vec![Some(x), Some(ones)])).unwrap();
        assert_eq!(outputs[1], Array::new(vec![2, 1], vec![2f32, 4.0]).unwrap());
        assert_eq!(outputs[2], Array::new(vec![2, 1], vec![1f32, 0.25]).unwrap());
        let x = Array::new::<f32>(vec![0, 2], Vec::new()).unwrap();
        let ones = Array::vector(vec![1f32; 2]);
        let outputs = norm.run(Operands::new(vec![Some(x), Some(ones)])).unwrap();
        assert_eq!(outputs.iter().map(Array::shape).collect::<Vec<_>>(), [[0, 2], [0, 1], [0, 1]]);
    }
}
