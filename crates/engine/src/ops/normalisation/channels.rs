//! Normalisation of images, `[batch, channels, ...]`: by channel, by group of channels, or with known statistics.

use super::infer_like;
use crate::graph::{Array, Info, Operands, Operator, Problem, problem};
use crate::ops::{Entry, NodeReader};

pub(in crate::ops) const OPERATORS: &[Entry] = &[
    Entry::new("BatchNormalization", 5..=5, BatchNormalization::read),
    Entry::new("GroupNormalization", 3..=3, GroupNormalization::read_groups),
    Entry::new("InstanceNormalization", 3..=3, GroupNormalization::read_instance),
];

fn epsilon(node: &NodeReader) -> Result<f32, Problem> {
    Ok(node.attributes.float("epsilon")?.unwrap_or(1e-5))
}

/// The floats of a parameter with one for each of `count`.
fn parameter(inputs: &Operands<Array>, index: usize, count: usize) -> Result<Vec<f32>, Problem> {
    let array = inputs.get(index)?;
    if array.shape() != [count] {
        problem!("input {index} has shape {:?}, expected [{count}]", array.shape());
    }
    Ok(array.to_floats()?.into_owned())
}

/// Batch size, channels and elements of a channel.
fn sizes(shape: &[usize]) -> Result<(usize, usize, usize), Problem> {
    match shape {
        [batch, channels, rest @ ..] => Ok((*batch, *channels, rest.iter().product())),
        _ => problem!("shape {shape:?} has no channels"),
    }
}

fn infer(inputs: &Operands<&Info>, least: usize) -> Result<Vec<Info>, Problem> {
    let output = infer_like(inputs)?;
    if output.rank().is_some_and(|rank| rank < least) {
        problem!("shape {:?} has fewer than {least} dimensions", output.shape);
    }
    Ok(vec![output])
}

/// `BatchNormalization`
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BatchNormalization {
    pub(crate) epsilon: f32,
    /// In training, statistics are the batch's own, and this part of what they were stays in those that are handed on.
    pub(crate) momentum: Option<f32>,
}

impl BatchNormalization {
    fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let is_training = node.attributes.flag("training_mode")?.unwrap_or(false);
        if node.attributes.int("spatial")?.unwrap_or(1) != 1 {
            problem!("only normalisation by channel is supported");
        }
        if node.num_outputs > 1 && !is_training {
            problem!("outputs of training are only supported in its mode, from operator set 14 on");
        }
        let momentum = node.attributes.float("momentum")?.unwrap_or(0.9);
        Ok(Box::new(Self { epsilon: epsilon(node)?, momentum: is_training.then_some(momentum) }))
    }

    /// Each channel's values, `len` at a time, about their mean, with the square root of their variance as unit.
    fn normalize(&self, values: &mut [f32], len: usize, [scale, bias, mean, variance]: [&[f32]; 4]) {
        for (index, values) in values.chunks_exact_mut(len.max(1)).enumerate() {
            let channel = index % scale.len();
            let factor = scale[channel] / (variance[channel] + self.epsilon).sqrt();
            let (mean, bias) = (mean[channel], bias[channel]);
            values.iter_mut().for_each(|value| *value = (*value - mean) * factor + bias);
        }
    }
}

/// Mean and variance of each channel.
fn statistics(values: &[f32], channels: usize, len: usize) -> [Vec<f32>; 2] {
    let sums = |term: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
        let mut sums = vec![0.0f64; channels];
        for (index, values) in values.chunks_exact(len.max(1)).enumerate() {
            let channel = index % channels;
            sums[channel] += values.iter().map(|&value| term(channel, value.into())).sum::<f64>();
        }
        let count = (values.len() / channels.max(1)) as f64;
        sums.into_iter().map(|sum| sum / count).collect()
    };
    let mean = sums(&|_, value| value);
    let variance = sums(&|channel, value| (value - mean[channel]).powi(2));
    [mean, variance].map(|values| values.into_iter().map(|value| value as f32).collect())
}

impl Operator for BatchNormalization {
    fn name(&self) -> &'static str {
        "BatchNormalization"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let mut outputs = infer(inputs, 1)?;
        if self.momentum.is_some() {
            for index in [3, 4] {
                let statistic = inputs.get(index)?;
                outputs.push(Info { shape: statistic.shape.clone(), ..Info::unknown(statistic.dtype) });
            }
        }
        Ok(outputs)
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.take(0)?;
        let (dtype, shape) = (x.dtype(), x.shape().to_vec());
        // A vector is of one channel.
        let (_, channels, len) = if let [_] = *shape { (0, 1, 1) } else { sizes(&shape)? };
        let [scale, bias, mean, variance] = [1, 2, 3, 4].map(|index| parameter(&inputs, index, channels));
        let (scale, bias, mean, variance) = (scale?, bias?, mean?, variance?);
        let mut values = x.into_floats()?;
        let Some(momentum) = self.momentum else {
            self.normalize(&mut values, len, [&scale, &bias, &mean, &variance]);
            return Ok(vec![Array::from_floats(dtype, shape, values)?]);
        };
        let current = statistics(&values, channels, len);
        self.normalize(&mut values, len, [&scale, &bias, &current[0], &current[1]]);
        let mut outputs = vec![Array::from_floats(dtype, shape, values)?];
        for (index, (given, current)) in
            [(mean, &current[0]), (variance, &current[1])].into_iter().enumerate()
        {
            let running = given.iter().zip(current);
            let running = running.map(|(given, current)| given * momentum + current * (1.0 - momentum));
            let dtype = inputs.get(3 + index)?.dtype();
            outputs.push(Array::from_floats(dtype, [channels], running.collect())?);
        }
        Ok(outputs)
    }
}

/// `GroupNormalization`, or `InstanceNormalization`, whose groups are single channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct GroupNormalization {
    pub(crate) epsilon: f32,
    /// `None` for as many as channels.
    pub(crate) num_groups: Option<usize>,
    /// Scale and bias are of groups, not of channels: the semantics up to version 20.
    pub(crate) scales_groups: bool,
}

impl GroupNormalization {
    fn read_groups(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        match node.attributes.int("stash_type")? {
            None | Some(1) => {}
            Some(other) => problem!("attribute `stash_type` is {other}, which is not supported"),
        }
        let num_groups = node.attributes.int("num_groups")?.and_then(|groups| usize::try_from(groups).ok());
        match num_groups {
            Some(groups) if groups > 0 => Ok(Box::new(Self {
                epsilon: epsilon(node)?,
                num_groups: Some(groups),
                scales_groups: node.opset < 21,
            })),
            _ => problem!("attribute `num_groups` is not a number of groups"),
        }
    }

    fn read_instance(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { epsilon: epsilon(node)?, num_groups: None, scales_groups: false }))
    }
}

impl Operator for GroupNormalization {
    fn name(&self) -> &'static str {
        if self.num_groups.is_some() { "GroupNormalization" } else { "InstanceNormalization" }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        infer(inputs, 2)
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.take(0)?;
        let (dtype, shape) = (x.dtype(), x.shape().to_vec());
        let (_, channels, len) = sizes(&shape)?;
        let groups = self.num_groups.unwrap_or(channels);
        if groups > 0 && channels % groups != 0 {
            problem!("{channels} channels are not {groups} groups");
        }
        let parameters = if self.scales_groups { groups } else { channels };
        let (scale, bias) = (parameter(&inputs, 1, parameters)?, parameter(&inputs, 2, parameters)?);
        if x.is_empty() {
            return Ok(vec![x]);
        }
        let mut values = x.into_floats()?;
        let of_group = channels / groups;
        for (index, values) in values.chunks_exact_mut(of_group * len).enumerate() {
            let group = index % groups;
            let count = values.len() as f64;
            let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
            let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
            let (mean, inverse) = (mean as f32, 1.0 / (variance as f32 + self.epsilon).sqrt());
            for (channel, values) in values.chunks_exact_mut(len).enumerate() {
                let at = if self.scales_groups { group } else { group * of_group + channel };
                let (scale, bias) = (scale[at], bias[at]);
                values.iter_mut().for_each(|value| *value = (*value - mean) * inverse * scale + bias);
            }
        }
        Ok(vec![Array::from_floats(dtype, shape, values)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_takes_the_statistics_of_the_batch() {
        let norm = BatchNormalization { epsilon: 0.0, momentum: Some(0.75) };
        let run = |x: Array, channels: usize| {
            let parameter = |value: f32| Some(Array::full([channels], value).unwrap());
            let inputs = vec![Some(x), parameter(2.0), parameter(1.0), parameter(8.0), parameter(0.0)];
            norm.run(Operands::new(inputs))
        };
        let x = Array::new([2, 2, 1], vec![1f32, 10.0, 5.0, 30.0]).unwrap();
        let outputs = run(x, 2).unwrap();
        let floats = |index: usize| outputs[index].to_floats().unwrap().into_owned();
        assert_eq!([floats(0), floats(1), floats(2)].concat(), [-1.0, -1.0, 3.0, 3.0, 6.75, 11.0, 1.0, 25.0]);
        assert!(run(Array::full([0, 2], 0f32).unwrap(), 2).is_ok());
        assert!(run(Array::full([2, 0], 0f32).unwrap(), 0).is_ok());
        assert!(run(Array::full([2, 3], 0f32).unwrap(), 2).is_err());
    }

    #[test]
    fn groups_are_scaled_by_version() {
        let x = Array::new(vec![1, 4, 1], vec![1f32, 3.0, 2.0, 6.0]).unwrap();
        let run = |scales_groups, scale: Vec<f32>| {
            let bias = Array::vector(vec![0f32; scale.len()]);
            let inputs = vec![Some(x.clone()), Some(Array::vector(scale)), Some(bias)];
            let norm = GroupNormalization { epsilon: 0.0, num_groups: Some(2), scales_groups };
            norm.run(Operands::new(inputs)).map(|mut outputs| outputs.remove(0).into_values::<f32>().unwrap())
        };
        assert_eq!(run(true, vec![1.0, 2.0]).unwrap(), [-1.0, 1.0, -2.0, 2.0]);
        assert_eq!(run(false, vec![1.0, 2.0, 3.0, 4.0]).unwrap(), [-1.0, 2.0, -3.0, 4.0]);
        assert!(run(false, vec![1.0, 2.0]).is_err());
    }
}
