//! Convolutions of 8-bit integers.

use super::matmul::IntegerProduct;
use super::{centred, scale, zero_point, zero_points};
use crate::graph::{Array, DataType, Info, Operands, Operator, Problem, problem};
use crate::kernels::integer_product;
use crate::ops::NodeReader;
use crate::ops::vision::{Sizes, Window, groups, infer_conv};

/// Attributes of a convolution.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Convolution {
    window: Window,
    groups: usize,
}

impl Convolution {
    fn read(node: &NodeReader) -> Result<Self, Problem> {
        Ok(Self { window: Window::read(node)?, groups: groups(node)? })
    }

    /// Sums of `[batch, channels, places]`. What is around the grid stands for 0, and so is the zero point.
    fn sums(
        &self,
        x: &Array,
        x_zero: Option<&Array>,
        weight: &Array,
        weight_zero: Option<&Array>,
    ) -> Result<(Vec<i32>, Sizes), Problem> {
        let sizes = Sizes::new(&self.window, self.groups, x.shape(), weight.shape())?;
        let [x_zero] = zero_points(x_zero)?[..] else {
            problem!("the input has more than one zero point");
        };
        let x = centred(x, x_zero)?;
        let zeros = zero_points(weight_zero)?;
        if zeros.len() != 1 && zeros.len() != sizes.out_channels {
            problem!("there are {} zero points for {} channels", zeros.len(), sizes.out_channels);
        }
        let mut weights = centred(weight, 0)?;
        let run = (weights.len() / sizes.out_channels.max(1)).max(1);
        for (channel, weights) in weights.chunks_exact_mut(run).enumerate() {
            let zero = zeros[if zeros.len() == 1 { 0 } else { channel }];
            weights.iter_mut().for_each(|weight| *weight -= zero);
        }
        let sums = sizes.convolve(&x, &weights, integer_product, |taps, weight| {
            taps.zip(weight).fold(0i32, |sum, (x, &w)| sum.wrapping_add(i32::from(x) * i32::from(w)))
        })?;
        Ok((sums, sizes))
    }
}

/// `ConvInteger`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConvInteger {
    convolution: Convolution,
}

impl ConvInteger {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { convolution: Convolution::read(node)? }))
    }
}

impl Operator for ConvInteger {
    fn name(&self) -> &str {
        "ConvInteger"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let shape = infer_conv(&self.convolution.window, inputs.get(0)?, inputs.get(1)?)?;
        Ok(vec![Info { dtype: DataType::I32, shape, ints: None, constant: None }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (x_zero, weight_zero) = (inputs.optional(2), inputs.optional(3));
        let (sums, sizes) = self.convolution.sums(inputs.get(0)?, x_zero, inputs.get(1)?, weight_zero)?;
        Ok(vec![Array::new(sizes.shape, sums)?])
    }
}

/// `QLinearConv`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QLinearConv {
    convolution: Convolution,
}

impl QLinearConv {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self { convolution: Convolution::read(node)? }))
    }
}

impl Operator for QLinearConv {
    fn name(&self) -> &str {
        "QLinearConv"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let shape = infer_conv(&self.convolution.window, inputs.get(0)?, inputs.get(3)?)?;
        Ok(vec![Info { dtype: inputs.get(7)?.dtype, shape, ints: None, constant: None }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (x_zero, weight_zero) = (inputs.optional(2), inputs.optional(5));
        let (mut sums, sizes) = self.convolution.sums(inputs.get(0)?, x_zero, inputs.get(3)?, weight_zero)?;
        let channels = sizes.out_channels;
        let (x_scale, y_scale) = (scale(inputs.get(1)?, "x_scale")?, scale(inputs.get(6)?, "y_scale")?);
        let scales: Vec<f32> =
            inputs.get(4)?.to_floats()?.iter().map(|w_scale| x_scale * w_scale / y_scale).collect();
        if scales.len() != 1 && scales.len() != channels {
            problem!("there are {} scales for {channels} channels", scales.len());
        }
        let places = sizes.places.max(1);
        if let Some(bias) = inputs.optional(8) {
            if bias.shape() != [channels] {
                problem!("the bias has shape {:?}, expected [{channels}]", bias.shape());
            }
            let bias = bias.values::<i32>()?;
            for (row, sums) in sums.chunks_exact_mut(places).enumerate() {
                sums.iter_mut().for_each(|sum| *sum = sum.wrapping_add(bias[row % channels]));
            }
        }
        let zero = inputs.get(7)?;
        let (dtype, y_zero) = (zero.dtype(), zero_point(Some(zero))?);
        if scales.len() == 1 {
            let product = IntegerProduct { sums, shape: sizes.shape, n: places };
            return Ok(vec![product.requantized(&scales, dtype, y_zero)?]);
        }
        // A product whose columns are channels has a scale for each.
        let images = sums.chunks_exact((channels * places).max(1));
        let by_place = images.flat_map(|image| crate::kernels::transposed(image, channels, places));
        let product = IntegerProduct { sums: by_place.collect(), shape: vec![sums.len()], n: channels };
        let y = product.requantized(&scales, dtype, y_zero)?;
        Ok(vec![super::by_channel(&y, sizes.shape, channels, places)?])
    }
}
