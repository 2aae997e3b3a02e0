//! Convolutions, as products of matrices.

use super::window::{OUTSIDE, Padding, Window, size_list};
use crate::graph::{Array, Dim, Info, Operands, Operator, Problem, checked_len, problem};
use crate::kernels::{product, transposed};
use crate::ops::NodeReader;
use crate::ops::microsoft::Activation;

/// `Conv`, or `FusedConv`, which adds its last input and ends with a function.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conv {
    pub(crate) window: Window,
    pub(crate) groups: usize,
    pub(crate) activation: Activation,
    pub(crate) is_fused: bool,
}

pub(crate) fn groups(node: &NodeReader) -> Result<usize, Problem> {
    match node.attributes.int("group")?.unwrap_or(1) {
        groups @ 1..=0xFF_FFFF => Ok(groups as usize),
        groups => problem!("attribute `group` is {groups}"),
    }
}

impl Conv {
    pub(super) fn read(node: &NodeReader, is_fused: bool) -> Result<Box<dyn Operator>, Problem> {
        let activation = if is_fused {
            let name = node.attributes.string("activation")?.unwrap_or_default();
            Activation::new(&name, &node.attributes.floats("activation_params")?.unwrap_or_default())?
        } else {
            Activation::None
        };
        let window = Window::read(node)?;
        Ok(Box::new(Self { window, groups: groups(node)?, activation, is_fused }))
    }
}

/// Batch, channels, and the sizes of the grid.
pub(crate) fn image_sizes(shape: &[usize]) -> Result<(usize, usize, &[usize]), Problem> {
    match shape {
        [batch, channels, grid @ ..] => Ok((*batch, *channels, grid)),
        _ => problem!("an input of shape {shape:?} has no channels"),
    }
}

/// What is known about the output of a convolution.
pub(crate) fn infer(window: &Window, x: &Info, weight: &Info) -> Result<Option<Vec<Dim>>, Problem> {
    let (Some(x), Some(weight)) = (&x.shape, &weight.shape) else {
        return Ok(None);
    };
    let ([batch, _, grid @ ..], [channels, _, kernel @ ..]) = (x.as_slice(), weight.as_slice()) else {
        problem!("inputs have shapes {x:?} and {weight:?}");
    };
    let mut shape = vec![batch.clone(), channels.clone()];
    shape.extend(window.dims(grid, kernel)?);
    Ok(Some(shape))
}

impl Operator for Conv {
    fn name(&self) -> &str {
        if self.is_fused { "FusedConv" } else { "Conv" }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (x, weight) = (inputs.get(0)?, inputs.get(1)?);
        if !x.dtype.is_float() || weight.dtype != x.dtype {
            problem!("inputs are {} and {}", x.dtype, weight.dtype);
        }
        let shape = infer(&self.window, x, weight)?;
        Ok(vec![Info { dtype: x.dtype, shape, ints: None, constant: None }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (x, weight) = (inputs.get(0)?, inputs.get(1)?);
        let (values, weights) = (x.to_floats()?, weight.to_floats()?);
        let sizes = Sizes::new(&self.window, self.groups, x.shape(), weight.shape())?;
        let mut out = sizes.convolve(&values, &weights, product, |taps, weight| {
            taps.zip(weight).fold(0.0, |sum, (x, w)| sum + x * w)
        })?;
        let places = sizes.places;
        if let Some(bias) = inputs.optional(2) {
            if bias.shape() != [sizes.out_channels] {
                problem!("the bias has shape {:?}, expected [{}]", bias.shape(), sizes.out_channels);
            }
            let bias = bias.to_floats()?;
            for (channel, out) in out.chunks_exact_mut(places.max(1)).enumerate() {
                let bias = bias[channel % sizes.out_channels];
                out.iter_mut().for_each(|value| *value += bias);
            }
        }
        if let Some(sum) = inputs.optional(3) {
            if sum.shape() != sizes.shape {
                problem!("the sum has shape {:?}, expected {:?}", sum.shape(), sizes.shape);
            }
            out.iter_mut().zip(&*sum.to_floats()?).for_each(|(value, sum)| *value += sum);
        }
        self.activation.apply(&mut out);
        Ok(vec![Array::from_floats(x.dtype(), sizes.shape, out)?])
    }
}

/// Sizes of a convolution.
pub(crate) struct Sizes {
    batch: usize,
    groups: usize,
    /// Of all groups.
    in_channels: usize,
    pub(crate) out_channels: usize,
    /// Elements of a channel of the input.
    grid: usize,
    /// Elements of a channel of the output.
    pub(crate) places: usize,
    /// Elements of the kernel.
    kernel: usize,
    taps: Vec<u32>,
    pub(crate) shape: Vec<usize>,
}

impl Sizes {
    pub(crate) fn new(
        window: &Window,
        groups: usize,
        x: &[usize],
        weight: &[usize],
    ) -> Result<Self, Problem> {
        let (batch, in_channels, grid) = image_sizes(x)?;
        let (out_channels, group_channels, kernel) = image_sizes(weight)?;
        if group_channels.checked_mul(groups) != Some(in_channels) || out_channels % groups != 0 {
            problem!("a weight of shape {weight:?} does not fit {in_channels} channels in {groups} groups");
        }
        let axes = window.axes(grid, window.kernel(Some(kernel))?)?;
        let mut shape = vec![batch, out_channels];
        shape.extend(axes.iter().map(|axis| axis.output));
        checked_len(&shape, size_of::<f32>())?;
        let places = shape[2..].iter().product();
        let taps = Window::taps(&axes)?;
        if grid.contains(&0) {
            problem!("a grid of shape {grid:?} is empty");
        }
        checked_len(&[places, group_channels, kernel.iter().product()], size_of::<f32>())?;
        Ok(Self {
            batch,
            groups,
            in_channels,
            out_channels,
            grid: grid.iter().product(),
            places,
            kernel: kernel.iter().product(),
            taps,
            shape,
        })
    }

    /// `[batch, out_channels, places]`: by `multiply`, a product of matrices, or where each group has one channel by
    /// `dot`, of what is under the window and the kernel.
    pub(crate) fn convolve<T: Copy + Default, U>(
        &self,
        x: &[T],
        weight: &[T],
        multiply: impl Fn(&[T], &[T], [usize; 3]) -> Vec<U>,
        dot: impl Fn(&mut dyn Iterator<Item = T>, &[T]) -> U,
    ) -> Result<Vec<U>, Problem> {
        let mut out = Vec::with_capacity(checked_len(&self.shape, size_of::<U>())?);
        if self.shape.contains(&0) {
            return Ok(out);
        }
        let (in_group, out_group) = (self.in_channels / self.groups, self.out_channels / self.groups);
        let width = in_group * self.kernel;
        let at = |channel: &[T], tap: u32| {
            if tap == OUTSIDE { T::default() } else { channel[tap as usize] }
        };
        for image in 0..self.batch {
            for group in 0..self.groups {
                let first = (image * self.in_channels + group * in_group) * self.grid;
                let x = &x[first..first + in_group * self.grid];
                let weight = &weight[group * out_group * width..(group + 1) * out_group * width];
                if in_group == 1 {
                    for weight in weight.chunks_exact(self.kernel) {
                        out.extend(
                            self.taps
                                .chunks_exact(self.kernel)
                                .map(|taps| dot(&mut taps.iter().map(|&tap| at(x, tap)), weight)),
                        );
                    }
                    continue;
                }
                let mut columns = Vec::with_capacity(self.places * width);
                for taps in self.taps.chunks_exact(self.kernel) {
                    for channel in x.chunks_exact(self.grid.max(1)) {
                        columns.extend(taps.iter().map(|&tap| at(channel, tap)));
                    }
                }
                out.extend(multiply(weight, &columns, [out_group, self.places, width]));
            }
        }
        Ok(out)
    }
}

/// `ConvTranspose`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConvTranspose {
    pub(crate) window: Window,
    pub(crate) groups: usize,
    /// Added to the output's sizes; 0 where empty.
    pub(crate) output_padding: Vec<usize>,
    /// The output's sizes, from which the padding follows.
    pub(crate) output_shape: Vec<usize>,
}

impl ConvTranspose {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self {
            window: Window::read(node)?,
            groups: groups(node)?,
            output_padding: size_list(node, "output_padding", 0)?,
            output_shape: size_list(node, "output_shape", 0)?,
        }))
    }

    /// The sizes of the output's grid, and the window that moves over it.
    fn output(&self, grid: &[usize], kernel: &[usize]) -> Result<(Vec<usize>, Window), Problem> {
        let rank = grid.len();
        let window = &self.window;
        let fits = |list: &[usize]| list.is_empty() || list.len() == rank;
        let lists = [&window.strides, &window.dilations, &self.output_padding];
        let explicit = match &window.padding {
            Padding::Explicit(pads) if !pads.is_empty() => Some(pads),
            _ => None,
        };
        // The last dimensions of a shape that has batch and channels too.
        let wanted = &self.output_shape[self.output_shape.len().saturating_sub(rank)..];
        if kernel.len() != rank
            || !lists.into_iter().all(|list| fits(list))
            || explicit.is_some_and(|pads| pads.len() != 2 * rank)
            || !fits(wanted)
        {
            problem!("the attributes do not fit {rank} spatial dimensions");
        }
        let is_same = matches!(window.padding, Padding::SameUpper | Padding::SameLower);
        let (mut sizes, mut pads) = (Vec::new(), vec![0; 2 * rank]);
        for axis in 0..rank {
            let one = |list: &[usize], default| list.get(axis).copied().unwrap_or(default);
            let (stride, dilation) = (one(&window.strides, 1), one(&window.dilations, 1));
            if grid[axis] == 0 || kernel[axis] == 0 || grid[axis] > 1 << 24 {
                problem!("grid and kernel have shapes {grid:?} and {kernel:?}");
            }
            let full =
                stride * (grid[axis] - 1) + one(&self.output_padding, 0) + (kernel[axis] - 1) * dilation + 1;
            let (size, before) = match (wanted.get(axis), explicit) {
                (None, _) if !is_same => {
                    let (before, after) = explicit.map_or((0, 0), |pads| (pads[axis], pads[axis + rank]));
                    let Some(size) = full.checked_sub(before + after) else {
                        problem!("padding {before} and {after} leaves nothing of {full}");
                    };
                    (size, before)
                }
                (wanted, _) => {
                    let size = wanted.copied().unwrap_or(grid[axis] * stride);
                    let total = full.saturating_sub(size);
                    let is_upper = window.padding == Padding::SameUpper;
                    (size, if is_upper { total / 2 } else { total - total / 2 })
                }
            };
            // As much after it as the window needs to have as many places as the input has elements.
            let reach = stride * (grid[axis] - 1) + (kernel[axis] - 1) * dilation + 1;
            pads[axis] = before;
            pads[axis + rank] = reach.saturating_sub(size + before);
            sizes.push(size);
        }
        let window = Window { padding: Padding::Explicit(pads), rounds_up: false, ..window.clone() };
        Ok((sizes, window))
    }
}

impl Operator for ConvTranspose {
    fn name(&self) -> &str {
        "ConvTranspose"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (x, weight) = (inputs.get(0)?, inputs.get(1)?);
        if !x.dtype.is_float() || weight.dtype != x.dtype {
            problem!("inputs are {} and {}", x.dtype, weight.dtype);
        }
        let (Some(shape), Some(weight)) = (&x.shape, &weight.shape) else {
            return Ok(vec![Info::unknown(x.dtype)]);
        };
        let ([batch, _, grid @ ..], [_, channels, kernel @ ..]) = (shape.as_slice(), weight.as_slice())
        else {
            problem!("inputs have shapes {shape:?} and {weight:?}");
        };
        let known = |dims: &[Dim]| dims.iter().map(Dim::known_size).collect::<Option<Vec<_>>>();
        let mut out = vec![batch.clone(), channels.times(&self.groups.into())];
        match (known(grid), known(kernel)) {
            (Some(grid), Some(kernel)) => {
                out.extend(self.output(&grid, &kernel)?.0.into_iter().map(Dim::from))
            }
            _ => out.extend(grid.iter().map(|_| Dim::unknown())),
        }
        Ok(vec![Info::new(x.dtype, out)])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (x, weight) = (inputs.get(0)?, inputs.get(1)?);
        let (batch, in_channels, grid) = image_sizes(x.shape())?;
        let (weight_channels, out_group, kernel) = image_sizes(weight.shape())?;
        self.window.kernel(Some(kernel))?;
        if weight_channels != in_channels || in_channels % self.groups != 0 {
            problem!("a weight of shape {:?} does not fit {in_channels} channels", weight.shape());
        }
        let (sizes, window) = self.output(grid, kernel)?;
        let axes = window.axes(&sizes, kernel)?;
        let places: usize = grid.iter().product();
        if axes.iter().zip(grid).any(|(axis, &size)| axis.output < size) {
            problem!("an output of shape {sizes:?} does not fit an input of {grid:?}");
        }
        // A larger output has room for more places than there are.
        let axes: Vec<_> = axes
            .into_iter()
            .zip(grid)
            .map(|(axis, &output)| super::window::Axis { output, ..axis })
            .collect();
        let taps = Window::taps(&axes)?;
        let mut shape = vec![batch, out_group.saturating_mul(self.groups)];
        shape.extend(&sizes);
        let len = checked_len(&shape, size_of::<f32>())?;
        let kernel: usize = kernel.iter().product();
        checked_len(&[out_group, kernel, places], size_of::<f32>())?;
        let in_group = in_channels / self.groups;
        let size: usize = sizes.iter().product();
        let (values, weights) = (x.to_floats()?, weight.to_floats()?);
        let mut out = vec![0.0f32; len];
        for image in 0..if len == 0 { 0 } else { batch * self.groups } {
            let group = image % self.groups;
            let x = &values[image * in_group * places..(image + 1) * in_group * places];
            let width = out_group * kernel;
            let weight = &weights[group * in_group * width..(group + 1) * in_group * width];
            let weight = transposed(weight, in_group, width);
            let columns = product(&weight, &transposed(x, in_group, places), [width, places, in_group]);
            let out = &mut out[image * out_group * size..(image + 1) * out_group * size];
            for (row, column) in columns.chunks_exact(places).enumerate() {
                let out = &mut out[row / kernel * size..(row / kernel + 1) * size];
                for (place, value) in column.iter().enumerate() {
                    let tap = taps[place * kernel + row % kernel];
                    if tap != OUTSIDE {
                        out[tap as usize] += value;
                    }
                }
            }
        }
        if let Some(bias) = inputs.optional(2) {
            if bias.shape() != [shape[1]] {
                problem!("the bias has shape {:?}, expected [{}]", bias.shape(), shape[1]);
            }
            let bias = bias.to_floats()?;
            for (channel, out) in out.chunks_exact_mut(size.max(1)).enumerate() {
                let bias = bias[channel % bias.len()];
                out.iter_mut().for_each(|value| *value += bias);
            }
        }
        Ok(vec![Array::from_floats(x.dtype(), shape, out)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DataType;

    fn conv(strides: &[usize], pads: &[usize], groups: usize) -> Conv {
        let window = Window {
            kernel: None,
            strides: strides.to_vec(),
            dilations: Vec::new(),
            padding: Padding::Explicit(pads.to_vec()),
            rounds_up: false,
        };
        Conv { window, groups, activation: Activation::None, is_fused: false }
    }

    #[test]
    fn a_padded_window_keeps_a_symbol() {
        let seq = Dim::symbol("seq");
        let x = Info::new(DataType::F32, vec![1i64.into(), 4i64.into(), seq.clone()]);
        let weight = Info::new(DataType::F32, vec![8i64.into(), 4i64.into(), 3i64.into()]);
        let infer = |conv: Conv| conv.infer(&Operands::new(vec![Some(&x), Some(&weight)])).unwrap().remove(0);
        assert_eq!(infer(conv(&[], &[1, 1], 1)).shape, Some(vec![1i64.into(), 8i64.into(), seq.clone()]));
        assert_ne!(infer(conv(&[], &[1, 0], 1)).shape.unwrap()[2], seq);
        assert_ne!(infer(conv(&[2], &[1, 1], 1)).shape.unwrap()[2], seq);
    }

    #[test]
    fn what_does_not_fit_is_a_problem() {
        let run = |x: &[usize], weight: &[usize], conv: Conv| {
            conv.run(Operands::new(vec![Array::full(x, 1.0f32).ok(), Array::full(weight, 1.0f32).ok()]))
        };
        assert!(run(&[1, 2, 4], &[3, 2, 2], conv(&[], &[], 1)).is_ok());
        assert!(run(&[1, 2, 4], &[3, 1, 2], conv(&[], &[], 1)).is_err());
        assert!(run(&[1, 2, 4], &[3, 1, 2], conv(&[], &[], 2)).is_err());
        assert!(run(&[1, 2, 4], &[3, 2, 5], conv(&[], &[], 1)).is_err());
        assert!(run(&[1, 2, 4], &[3, 2, 0], conv(&[], &[], 1)).is_err());
        assert!(run(&[1, 2, 4], &[3, 2, 2], conv(&[1, 1], &[], 1)).is_err());
        assert!(run(&[1, 2, 0], &[3, 2, 1], conv(&[], &[1, 1], 1)).is_err());
        assert!(run(&[1, 2], &[3, 2], conv(&[], &[], 1)).is_ok());
        assert!(run(&[1], &[3, 2], conv(&[], &[], 1)).is_err());
        let huge = conv(&[], &[1 << 24, 1 << 24, 1 << 24, 1 << 24], 1);
        assert!(run(&[1, 1, 1, 1], &[1, 1, 1, 1], huge).is_err());
        assert!(run(&[1 << 40, 2, 3], &[0, 2, 1], conv(&[], &[], 1)).is_err());
    }
}
