//! `MatMulNBits`: a product with a weight of 2, 4 or 8 bits in blocks.

use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, checked_len, problem};
use crate::kernels::product;
use crate::ops::NodeReader;
use crate::ops::microsoft::count;

/// `MatMulNBits`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatMulNBits {
    pub(crate) in_features: usize,
    pub(crate) out_features: usize,
    pub(crate) bits: usize,
    /// Inputs that share a scale.
    pub(crate) block_size: usize,
}

impl MatMulNBits {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        // The least accuracy that is asked for; f32 is never less.
        node.attributes.ignore(&["accuracy_level"]);
        if node.attributes.int("weight_prepacked")?.unwrap_or(0) != 0 {
            problem!("attribute `weight_prepacked` must be 0");
        }
        let bits = match node.attributes.int("bits")?.unwrap_or(4) {
            bits @ (2 | 4 | 8) => bits as usize,
            bits => problem!("weights of {bits} bits are not supported"),
        };
        let block_size = count(node, "block_size")?;
        if block_size < 16 || !block_size.is_power_of_two() {
            problem!("attribute `block_size` is {block_size}");
        }
        // Vocabularies have more columns than anything else that is counted.
        let out_features = match node.attributes.int("N")? {
            Some(size @ 1..=0xFF_FFFF) => size as usize,
            _ => problem!("attribute `N` is missing or no size"),
        };
        Ok(Box::new(Self { in_features: count(node, "K")?, out_features, bits, block_size }))
    }

    fn blocks(&self) -> usize {
        self.in_features.div_ceil(self.block_size)
    }

    fn zero_points(&self, array: Option<&Array>) -> Result<Vec<f32>, Problem> {
        let (rows, blocks) = (self.out_features, self.blocks());
        let Some(array) = array else {
            return Ok(vec![(1 << (self.bits - 1)) as f32; rows * blocks]);
        };
        if array.dtype() != DataType::U8 {
            if array.len() != rows * blocks {
                problem!("zero points have shape {:?}, expected [{rows}, {blocks}]", array.shape());
            }
            return Ok(array.to_floats()?.into_owned());
        }
        let row_bytes = (blocks * self.bits).div_ceil(8);
        if array.len() != rows * row_bytes {
            problem!("zero points have shape {:?}, expected [{rows}, {row_bytes}]", array.shape());
        }
        let rows = array.values::<u8>()?.chunks_exact(row_bytes);
        Ok(rows.flat_map(|bytes| unpacked(bytes, self.bits, blocks)).map(f32::from).collect())
    }

    /// `[out_features, in_features]`
    fn weight(&self, inputs: &Operands<Array>) -> Result<Vec<f32>, Problem> {
        let Self { in_features, out_features: rows, bits, block_size } = *self;
        let blocks = self.blocks();
        let (packed, scales) = (inputs.get(1)?, inputs.get(2)?);
        let row_bytes = blocks * block_size * bits / 8;
        if packed.len() != rows * row_bytes || scales.len() != rows * blocks {
            problem!(
                "a weight of shape {:?} with scales of {:?} is not {rows} rows of {blocks} blocks",
                packed.shape(),
                scales.shape()
            );
        }
        let (scales, zeros) = (scales.to_floats()?, self.zero_points(inputs.optional(3))?);
        let groups = match inputs.optional(4) {
            None => None,
            Some(groups) => Some(self.groups(groups)?),
        };
        let mut weight = Vec::with_capacity(checked_len(&[rows, in_features], size_of::<f32>())?);
        for (row, bytes) in packed.values::<u8>()?.chunks_exact(row_bytes).enumerate() {
            let integers = unpacked(bytes, bits, in_features);
            let parameters = row * blocks..(row + 1) * blocks;
            let (scales, zeros) = (&scales[parameters.clone()], &zeros[parameters]);
            match &groups {
                Some(groups) => weight.extend(
                    integers
                        .zip(groups)
                        .map(|(value, &group)| (f32::from(value) - zeros[group]) * scales[group]),
                ),
                None => {
                    let value = |(index, value): (usize, u8)| {
                        let block = index / block_size;
                        (f32::from(value) - zeros[block]) * scales[block]
                    };
                    weight.extend(integers.enumerate().map(value));
                }
            }
        }
        Ok(weight)
    }

    /// Which block's scale each input has.
    fn groups(&self, array: &Array) -> Result<Vec<usize>, Problem> {
        let groups = array.to_ints()?;
        // It may be padded to whole blocks.
        if groups.len() < self.in_features {
            problem!("g_idx has shape {:?}, expected [{}]", array.shape(), self.in_features);
        }
        let group = |&group: &i64| match usize::try_from(group) {
            Ok(group) if group < self.blocks() => Ok(group),
            _ => problem!("{group} is not one of {} blocks", self.blocks()),
        };
        groups[..self.in_features].iter().map(group).collect()
    }
}

/// Integers of a few bits, the first in a byte's lowest.
pub(super) fn unpacked(bytes: &[u8], bits: usize, len: usize) -> impl Iterator<Item = u8> {
    let mask = (0xFFu8) >> (8 - bits);
    bytes
        .iter()
        .flat_map(move |&byte| (0..8 / bits).map(move |part| (byte >> (part * bits)) & mask))
        .take(len)
}

impl Operator for MatMulNBits {
    fn name(&self) -> &str {
        "MatMulNBits"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (x, weight) = (inputs.get(0)?, inputs.get(1)?);
        if !x.dtype.is_float() || weight.dtype != DataType::U8 {
            problem!("inputs are {} and {}", x.dtype, weight.dtype);
        }
        let Some(mut shape) = x.shape.clone() else {
            return Ok(vec![Info::unknown(x.dtype)]);
        };
        match shape.last_mut() {
            Some(last) if last.known_size().is_none_or(|size| size == self.in_features) => {
                *last = Dim::from(self.out_features);
            }
            _ => problem!("an input of shape {shape:?} does not have rows of {}", self.in_features),
        }
        Ok(vec![Info::new(x.dtype, shape)])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        let mut shape = x.shape().to_vec();
        if shape.last() != Some(&self.in_features) {
            problem!("an input of shape {shape:?} does not have rows of {}", self.in_features);
        }
        shape.pop();
        shape.push(self.out_features);
        checked_len(&shape, size_of::<f32>())?;
        let weight = self.weight(&inputs)?;
        let rows = x.len() / self.in_features;
        let mut values = product(&x.to_floats()?, &weight, [rows, self.out_features, self.in_features]);
        if let Some(bias) = inputs.optional(5) {
            if bias.shape() != [self.out_features] {
                problem!("the bias has shape {:?}, expected [{}]", bias.shape(), self.out_features);
            }
            let bias = bias.to_floats()?;
            for row in values.chunks_exact_mut(self.out_features) {
                row.iter_mut().zip(&*bias).for_each(|(value, bias)| *value += bias);
            }
        }
        Ok(vec![Array::from_floats(x.dtype(), shape, values)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_attributes() {
        let run = |x: &[usize], weight: &[usize], scales: &[usize], groups: Option<Vec<i32>>| {
            MatMulNBits { in_features: 20, out_features: 3, bits: 4, block_size: 16 }.run(Operands::new(
                vec![
                    Array::full(x, 1.0f32).ok(),
                    Array::full(weight, 0x9Au8).ok(),
                    Array::full(scales, 0.5f32).ok(),
                    None,
                    groups.map(Array::vector),
                ],
            ))
        };
        let y = run(&[2, 20], &[3, 2, 8], &[3, 2], None).unwrap();
        // Half of the weights stand for (10 - 8) / 2, the others for (9 - 8) / 2.
        assert_eq!(y[0], Array::full([2, 3], 15.0f32).unwrap());
        assert!(run(&[2, 19], &[3, 2, 8], &[3, 2], None).is_err());
        assert!(run(&[2, 20], &[3, 1, 8], &[3, 2], None).is_err());
        assert!(run(&[2, 20], &[3, 2, 8], &[3, 1], None).is_err());
        assert!(run(&[2, 20], &[3, 2, 8], &[3, 2], Some(vec![2; 20])).is_err());
        assert!(run(&[2, 20], &[3, 2, 8], &[3, 2], Some(vec![1; 19])).is_err());
        assert!(run(&[2, 20], &[3, 2, 8], &[3, 2], Some(vec![1; 20])).is_ok());
    }
}
