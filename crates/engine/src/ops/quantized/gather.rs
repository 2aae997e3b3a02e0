//! `GatherBlockQuantized`: rows of a table of few bits in blocks, as the numbers that they stand for.

use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, checked_len, problem};
use crate::kernels::unpacked;
use crate::ops::NodeReader;

/// `GatherBlockQuantized` of rows whose last dimension is in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GatherBlockQuantized {
    /// Elements that share a scale.
    pub(crate) block_size: usize,
    pub(crate) bits: usize,
    /// Axis of the blocks; the last one.
    pub(crate) axis: i64,
}

impl GatherBlockQuantized {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        if node.attributes.int("gather_axis")?.unwrap_or(0) != 0 {
            problem!("attribute `gather_axis` must be 0");
        }
        let block_size = match node.attributes.int("block_size")?.unwrap_or(128) {
            size @ 16..=65_536 if (size as u64).is_power_of_two() => size as usize,
            size => problem!("attribute `block_size` is {size}"),
        };
        let bits = match node.attributes.int("bits")?.unwrap_or(4) {
            bits @ (2 | 4 | 8) => bits as usize,
            bits => problem!("{bits} bits are not supported"),
        };
        Ok(Box::new(Self { block_size, bits, axis: node.attributes.int("quantize_axis")?.unwrap_or(1) }))
    }

    /// Numbers of a row, from its bytes.
    fn check(&self, rank: usize) -> Result<(), Problem> {
        let last = rank as i64 - 1;
        if rank != 2 || (self.axis != last && self.axis != -1) {
            problem!("blocks on axis {} of {rank} dimensions are not supported", self.axis);
        }
        Ok(())
    }
}

impl Operator for GatherBlockQuantized {
    fn name(&self) -> &str {
        "GatherBlockQuantized"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (data, indices, scales) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        if data.dtype != DataType::U8 || !scales.dtype.is_float() {
            problem!("a table of {} with scales of {} is not supported", data.dtype, scales.dtype);
        }
        let (Some(data), Some(indices)) = (&data.shape, &indices.shape) else {
            return Ok(vec![Info::unknown(scales.dtype)]);
        };
        self.check(data.len())?;
        let mut shape = indices.clone();
        shape.push(data[1].times(&Dim::from(8 / self.bits)));
        Ok(vec![Info::new(scales.dtype, shape)])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (data, indices, scales) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        self.check(data.rank())?;
        let (rows, bytes) = (data.shape()[0], data.shape()[1]);
        let width = bytes.saturating_mul(8 / self.bits);
        let blocks = width.div_ceil(self.block_size);
        if scales.shape() != [rows, blocks] {
            problem!("scales have shape {:?}, expected [{rows}, {blocks}]", scales.shape());
        }
        let zero_bytes = (blocks * self.bits).div_ceil(8);
        let zeros = match inputs.optional(3) {
            Some(zeros) if zeros.shape() == [rows, zero_bytes] => Some(zeros.values::<u8>()?),
            Some(zeros) => {
                problem!("zero points have shape {:?}, expected [{rows}, {zero_bytes}]", zeros.shape())
            }
            None => None,
        };
        let mut shape = indices.shape().to_vec();
        shape.push(width);
        let mut out = Vec::with_capacity(checked_len(&shape, size_of::<f32>())?);
        let (data, dtype, scales) = (data.values::<u8>()?, scales.dtype(), scales.to_floats()?);
        let middle = 1u8 << (self.bits - 1);
        for index in indices.to_ints()? {
            let from_end = i64::try_from(rows).ok().and_then(|rows| index.checked_add(rows));
            let row = if index < 0 { from_end.unwrap_or(-1) } else { index };
            let Some(row) = usize::try_from(row).ok().filter(|&row| row < rows) else {
                problem!("{index} is not one of {rows} rows");
            };
            let scales = &scales[row * blocks..(row + 1) * blocks];
            let zeros: Vec<u8> = match zeros {
                Some(zeros) => {
                    unpacked(&zeros[row * zero_bytes..(row + 1) * zero_bytes], self.bits, blocks).collect()
                }
                None => vec![middle; blocks],
            };
            let values = unpacked(&data[row * bytes..(row + 1) * bytes], self.bits, width);
            out.extend(values.enumerate().map(|(at, value)| {
                let block = at / self.block_size;
                (i32::from(value) - i32::from(zeros[block])) as f32 * scales[block]
            }));
        }
        Ok(vec![Array::from_floats(dtype, shape, out)?])
    }
}
