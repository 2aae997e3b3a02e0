//! `MatMulNBits`: a product with a weight of 2, 4 or 8 bits in blocks.

use std::sync::Arc;

use crate::graph::{
    Array, Constant, DataType, Dim, Info, Operands, Operator, Prepared, Problem, checked_len, problem,
};
use crate::kernels::{BlockedWeight, PackedBlocks, Zeros, unpacked};
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

    fn zero_points(&self, array: Option<&Array>) -> Result<Zeros, Problem> {
        let (rows, blocks) = (self.out_features, self.blocks());
        let Some(array) = array else {
            return Ok(Zeros::Same((1 << (self.bits - 1)) as f32));
        };
        if array.dtype() != DataType::U8 {
            if array.len() != rows * blocks {
                problem!("zero points have shape {:?}, expected [{rows}, {blocks}]", array.shape());
            }
            return Ok(Zeros::Numbers(array.to_floats()?.into_owned()));
        }
        let row_bytes = (blocks * self.bits).div_ceil(8);
        if array.len() != rows * row_bytes {
            problem!("zero points have shape {:?}, expected [{rows}, {row_bytes}]", array.shape());
        }
        let rows = array.values::<u8>()?.chunks_exact(row_bytes);
        Ok(Zeros::Integers(rows.flat_map(|bytes| unpacked(bytes, self.bits, blocks)).collect()))
    }

    /// The weight and the bias of these inputs.
    fn pack(&self, inputs: &Operands<Array>) -> Result<PackedBlocks, Problem> {
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
        let bias = match inputs.optional(5) {
            Some(bias) if bias.shape() != [rows] => {
                problem!("the bias has shape {:?}, expected [{rows}]", bias.shape())
            }
            Some(bias) => bias.to_floats()?.into_owned(),
            None => vec![0.0; rows],
        };
        let block_of_input = match inputs.optional(4) {
            None => (0..in_features).map(|input| input / block_size).collect(),
            Some(groups) => self.groups(groups)?,
        };
        let weight = BlockedWeight {
            bytes: packed.values::<u8>()?,
            row_bytes,
            bits,
            in_features,
            blocks,
            block_of_input,
            scales: &scales.to_floats()?,
            zeros: self.zero_points(inputs.optional(3))?,
        };
        Ok(PackedBlocks::new(weight, bias))
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

impl Operator for MatMulNBits {
    fn name(&self) -> &str {
        "MatMulNBits"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (x, weight) = (inputs.get(0)?, inputs.get(1)?);
        if !x.dtype.is_float() || weight.dtype != DataType::U8 {
            problem!("inputs are {} and {}", x.dtype, weight.dtype);
        }
        infer_rows(x, self.in_features, self.out_features)
    }

    fn prepare(&self, constants: &Operands<Option<&Constant>>) -> Result<Option<Prepared>, Problem> {
        let Some(constants) = constants.known_from(1) else {
            return Ok(None);
        };
        let arrays = constants.iter_from(0).map(|constant| constant.map(|constant| constant.array()));
        let packed = self.pack(&Operands::new(arrays.collect()))?;
        Ok(Some(Prepared { operator: Arc::new(PackedMatMulNBits { packed }), inputs: vec![0] }))
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.take(0)?;
        let packed = self.pack(&inputs)?;
        PackedMatMulNBits { packed }.run(Operands::new(vec![Some(x)]))
    }
}

/// A [`MatMulNBits`] with its weight.
#[derive(Debug)]
struct PackedMatMulNBits {
    packed: PackedBlocks,
}

impl Operator for PackedMatMulNBits {
    fn name(&self) -> &str {
        "MatMulNBits"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        infer_rows(inputs.get(0)?, self.packed.in_features(), self.packed.out_features())
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        let (in_features, out_features) = (self.packed.in_features(), self.packed.out_features());
        let mut shape = x.shape().to_vec();
        match shape.last_mut() {
            Some(last) if *last == in_features => *last = out_features,
            _ => problem!("an input of shape {:?} does not have rows of {in_features}", x.shape()),
        }
        checked_len(&shape, size_of::<f32>())?;
        let values = self.packed.multiply(&x.to_floats()?);
        Ok(vec![Array::from_floats(x.dtype(), shape, values)?])
    }
}

/// Rows of `in_features` numbers to rows of `out_features`.
fn infer_rows(x: &Info, in_features: usize, out_features: usize) -> Result<Vec<Info>, Problem> {
    let Some(mut shape) = x.shape.clone() else {
        return Ok(vec![Info::unknown(x.dtype)]);
    };
    match shape.last_mut() {
        Some(last) if last.known_size().is_none_or(|size| size == in_features) => {
            *last = Dim::from(out_features);
        }
        _ => problem!("an input of shape {shape:?} does not have rows of {in_features}"),
    }
    Ok(vec![Info::new(x.dtype, shape)])
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

    #[test]
    fn a_weight_is_taken_in_once_it_is_whole() {
        let operator = MatMulNBits { in_features: 20, out_features: 3, bits: 4, block_size: 16 };
        let weight = Array::new([3, 2, 8], (0..48u8).map(|i| i * 5).collect()).unwrap();
        let inputs = [
            Array::new([2, 20], (0..40).map(|i| i as f32).collect()).ok(),
            Some(weight),
            Array::new([6], (1..7).map(|i| i as f32).collect()).ok(),
            Array::new([3], vec![0x81u8, 0x23, 0x45]).ok(),
            None,
            Some(Array::vector(vec![1.0f32, 2.0, 3.0])),
        ];
        let expected = operator.run(Operands::new(inputs.to_vec())).unwrap();
        let constants: Vec<Option<Constant>> =
            inputs.iter().map(|input| input.clone().map(Constant::from)).collect();
        let prepare = |computed: usize| {
            let constants = constants.iter().enumerate().map(|(index, constant)| {
                constant.as_ref().map(|constant| (index != 0 && index != computed).then_some(constant))
            });
            operator.prepare(&Operands::new(constants.collect())).unwrap()
        };
        let prepared = prepare(0).unwrap();
        assert_eq!(prepared.inputs, [0]);
        assert_eq!(prepared.operator.run(Operands::new(vec![inputs[0].clone()])).unwrap(), expected);
        assert!(prepared.operator.run(Operands::new(vec![inputs[1].clone()])).is_err());
        for computed in [1, 2, 3, 5] {
            assert!(prepare(computed).is_none(), "input {computed} is computed");
        }
    }
}
