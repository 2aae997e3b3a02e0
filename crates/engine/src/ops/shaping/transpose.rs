//! `Transpose`, and `DepthToSpace` and `SpaceToDepth`, which are one with blocks of pixels.

use super::shaped;
use crate::graph::{Array, Dim, Info, Operands, Operator, Problem, problem};
use crate::ops::NodeReader;
use crate::ops::strided::View;

/// `Transpose`: the dimensions in another order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transpose {
    /// The axes of the input in the order of the output's; all of them backwards if there is none.
    pub(crate) order: Option<Vec<usize>>,
}

impl Transpose {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let Some(perm) = node.attributes.ints("perm")? else {
            return Ok(Box::new(Self { order: None }));
        };
        let mut sorted = perm.clone();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..perm.len() as i64) {
            problem!("attribute `perm` is no permutation: {perm:?}");
        }
        Ok(Box::new(Self { order: Some(perm.into_iter().map(|axis| axis as usize).collect()) }))
    }

    fn order(&self, rank: usize) -> Result<Vec<usize>, Problem> {
        match &self.order {
            Some(order) if order.len() != rank => problem!("axes {order:?} are not those of rank {rank}"),
            Some(order) => Ok(order.clone()),
            None => Ok((0..rank).rev().collect()),
        }
    }
}

impl Operator for Transpose {
    fn name(&self) -> &str {
        "Transpose"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        let Some(shape) = &input.shape else {
            return Ok(vec![match &self.order {
                Some(order) => Info::with_rank(input.dtype, order.len()),
                None => Info::unknown(input.dtype),
            }]);
        };
        let order = self.order(shape.len())?;
        let dims = order.into_iter().map(|axis| shape[axis].clone()).collect();
        // A vector is its own transpose.
        Ok(vec![Info { ints: input.ints.clone(), ..Info::new(input.dtype, dims) }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let array = inputs.take(0)?;
        let view = View::whole(array.shape()).permuted(&self.order(array.rank())?);
        Ok(vec![view.copy(array)?])
    }
}

/// `DepthToSpace` or `SpaceToDepth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// Pixels along each side of a block.
    pub(crate) size: usize,
    pub(crate) kind: BlocksKind,
}

/// Where blocks come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlocksKind {
    /// Channels to pixels, the pixel of a block before the channel: `DCR`.
    PixelsFirst,
    /// Channels to pixels, the channel before the pixel of a block: `CRD`.
    ChannelsFirst,
    /// Pixels to channels, as the first.
    ToDepth,
    /// Pixels to channels, as the second.
    ToDepthChannelsFirst,
}

impl Blocks {
    pub(super) fn read_depth_to_space(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let modes = [("DCR", BlocksKind::PixelsFirst), ("CRD", BlocksKind::ChannelsFirst)];
        let kind = node.attributes.choice("mode", &modes)?.unwrap_or(BlocksKind::PixelsFirst);
        Self::read(node, kind)
    }

    pub(super) fn read_space_to_depth(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let modes = [("DCR", BlocksKind::ToDepth), ("CRD", BlocksKind::ToDepthChannelsFirst)];
        let mode = if node.opset >= 28 { node.attributes.choice("mode", &modes)? } else { None };
        Self::read(node, mode.unwrap_or(BlocksKind::ToDepth))
    }

    fn read(node: &NodeReader, kind: BlocksKind) -> Result<Box<dyn Operator>, Problem> {
        match node.attributes.int("blocksize")? {
            // A larger square would be no size.
            Some(size @ 1..=0x7FFF) => Ok(Box::new(Self { size: size as usize, kind })),
            Some(size) => problem!("attribute `blocksize` is {size}"),
            None => problem!("attribute `blocksize` is missing"),
        }
    }

    fn output(&self, [batch, depth, height, width]: [&Dim; 4]) -> Option<Vec<Dim>> {
        let block = Dim::from(self.size);
        let square = Dim::from(self.size * self.size);
        Some(match self.kind {
            BlocksKind::ToDepth | BlocksKind::ToDepthChannelsFirst => {
                let (height, width) = (height.divided_by(&block)?, width.divided_by(&block)?);
                vec![batch.clone(), depth.times(&square), height, width]
            }
            _ => {
                let depth = depth.divided_by(&square)?;
                vec![batch.clone(), depth, height.times(&block), width.times(&block)]
            }
        })
    }
}

impl Operator for Blocks {
    fn name(&self) -> &str {
        match self.kind {
            BlocksKind::ToDepth | BlocksKind::ToDepthChannelsFirst => "SpaceToDepth",
            BlocksKind::PixelsFirst | BlocksKind::ChannelsFirst => "DepthToSpace",
        }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        let dims = match input.shape.as_deref() {
            None => None,
            Some([batch, depth, height, width]) => self.output([batch, depth, height, width]),
            Some(shape) => problem!("shape {shape:?} is not of rank 4"),
        };
        Ok(vec![match dims {
            Some(dims) => shaped(input.dtype, Some(dims)),
            None => Info::with_rank(input.dtype, 4),
        }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let array = inputs.take(0)?;
        let &[batch, depth, height, width] = array.shape() else {
            problem!("shape {:?} is not of rank 4", array.shape());
        };
        let (size, square) = (self.size, self.size * self.size);
        let divides = match self.kind {
            BlocksKind::ToDepth | BlocksKind::ToDepthChannelsFirst => height % size == 0 && width % size == 0,
            _ => depth % square == 0,
        };
        if !divides {
            problem!("blocks of size {size} do not fit shape {:?}", array.shape());
        }
        let (split, order, output) = match self.kind {
            BlocksKind::ToDepth | BlocksKind::ToDepthChannelsFirst => (
                [batch, depth, height / size, size, width / size, size],
                if self.kind == BlocksKind::ToDepth { [0, 3, 5, 1, 2, 4] } else { [0, 1, 3, 5, 2, 4] },
                [batch, depth.saturating_mul(square), height / size, width / size],
            ),
            BlocksKind::PixelsFirst => (
                [batch, size, size, depth / square, height, width],
                [0, 3, 4, 1, 5, 2],
                [batch, depth / square, height.saturating_mul(size), width.saturating_mul(size)],
            ),
            BlocksKind::ChannelsFirst => (
                [batch, depth / square, size, size, height, width],
                [0, 1, 4, 2, 5, 3],
                [batch, depth / square, height.saturating_mul(size), width.saturating_mul(size)],
            ),
        };
        Ok(vec![View::whole(&split).permuted(&order).copy(array)?.with_shape(output)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DataType;

    #[test]
    fn dimensions_keep_their_symbols() {
        let dims = [Dim::symbol("batch"), Dim::symbol("seq"), 12i64.into(), 64i64.into()];
        let info = Info::new(DataType::F32, dims.to_vec());
        let inputs = Operands::new(vec![Some(&info)]);
        let order = Some(vec![0, 2, 3, 1]);
        let output = Transpose { order }.infer(&inputs).unwrap().remove(0);
        assert_eq!(output.shape.unwrap(), [0, 2, 3, 1].map(|axis: usize| dims[axis].clone()));
        assert!(Transpose { order: Some(vec![1, 0]) }.infer(&inputs).is_err());
    }

    #[test]
    fn blocks_that_do_not_fit_are_problems() {
        let array = Array::full([1, 6, 2, 2], 0.0f32).unwrap();
        let blocks = Blocks { size: 2, kind: BlocksKind::PixelsFirst };
        assert!(blocks.run(Operands::new(vec![Some(array)])).is_err());
        let huge = Array::new([0, 1, usize::MAX, 1], Vec::<f32>::new()).unwrap();
        let blocks = Blocks { size: 1, kind: BlocksKind::ToDepth };
        assert_eq!(blocks.run(Operands::new(vec![Some(huge)])).unwrap()[0].len(), 0);
    }
}
