//! Which elements of a grid a window sees as it moves: kernel, strides, dilations and padding.

use crate::graph::{Dim, Problem, checked_len, problem};
use crate::ops::NodeReader;

/// Attributes of a window, as they are in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// The weight's where `None`.
    pub(crate) kernel: Option<Vec<usize>>,
    /// 1 where empty.
    pub(crate) strides: Vec<usize>,
    /// 1 where empty.
    pub(crate) dilations: Vec<usize>,
    pub(crate) padding: Padding,
    /// A window that is only partly on the grid counts too.
    pub(crate) rounds_up: bool,
}

/// What is around the grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    /// Before each axis, then after each; none where empty.
    Explicit(Vec<usize>),
    /// So that the output is as large as the input divided by the stride; what is odd goes after it.
    SameUpper,
    /// As [`SameUpper`](Self::SameUpper), but what is odd goes before it.
    SameLower,
}

/// A window on one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    pub(crate) input: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) dilation: usize,
    pub(crate) before: usize,
    pub(crate) after: usize,
    pub(crate) output: usize,
}

/// In place of an index: what is not on the grid.
pub(crate) const OUTSIDE: u32 = u32::MAX;

/// Sizes above are no sizes of windows.
const MAX_SIZE: i64 = 1 << 24;

pub(super) fn size_list(node: &NodeReader, name: &str, least: i64) -> Result<Vec<usize>, Problem> {
    let sizes = node.attributes.ints(name)?.unwrap_or_default();
    match sizes.iter().find(|size| !(least..=MAX_SIZE).contains(*size)) {
        Some(size) => problem!("attribute `{name}` has {size} in it"),
        None => Ok(sizes.into_iter().map(|size| size as usize).collect()),
    }
}

impl Window {
    pub(crate) fn read(node: &NodeReader) -> Result<Self, Problem> {
        let kernel = size_list(node, "kernel_shape", 1)?;
        let pads = size_list(node, "pads", 0)?;
        let padding = match node.attributes.string("auto_pad")?.as_deref() {
            None | Some("NOTSET") => Padding::Explicit(pads),
            Some("VALID") => Padding::Explicit(Vec::new()),
            Some("SAME_UPPER") => Padding::SameUpper,
            Some("SAME_LOWER") => Padding::SameLower,
            Some(other) => problem!("attribute `auto_pad` is `{other}`"),
        };
        Ok(Self {
            kernel: (!kernel.is_empty()).then_some(kernel),
            strides: size_list(node, "strides", 1)?,
            dilations: size_list(node, "dilations", 1)?,
            padding,
            rounds_up: node.attributes.flag("ceil_mode")?.unwrap_or(false),
        })
    }

    /// Its kernel; that of the weight must agree.
    pub(crate) fn kernel<'a>(&'a self, weight: Option<&'a [usize]>) -> Result<&'a [usize], Problem> {
        match (&self.kernel, weight) {
            (Some(kernel), Some(weight)) if kernel != weight => {
                problem!("attribute `kernel_shape` is {kernel:?}, the weight's {weight:?}")
            }
            (Some(kernel), _) => Ok(kernel),
            (None, Some(weight)) => Ok(weight),
            (None, None) => problem!("attribute `kernel_shape` is missing"),
        }
    }

    fn check_rank(&self, rank: usize, kernel: usize) -> Result<(), Problem> {
        let pads = match &self.padding {
            Padding::Explicit(pads) => pads.len(),
            _ => 0,
        };
        let fits = |len: usize, expected: usize| len == 0 || len == expected;
        if kernel != rank
            || !fits(self.strides.len(), rank)
            || !fits(self.dilations.len(), rank)
            || !fits(pads, 2 * rank)
        {
            problem!("kernel, strides, dilations or pads do not fit {rank} spatial dimensions");
        }
        Ok(())
    }

    /// The window on each axis of a grid.
    pub(crate) fn axes(&self, input: &[usize], kernel: &[usize]) -> Result<Vec<Axis>, Problem> {
        let rank = input.len();
        self.check_rank(rank, kernel.len())?;
        if kernel.contains(&0) {
            problem!("a kernel of shape {kernel:?} is empty");
        }
        let axis = |index: usize| {
            let (input, kernel) = (input[index], kernel[index]);
            let stride = self.strides.get(index).copied().unwrap_or(1);
            let dilation = self.dilations.get(index).copied().unwrap_or(1);
            if input >= OUTSIDE as usize || kernel as i64 > MAX_SIZE {
                problem!("a grid of {input} elements is too large");
            }
            let reach = (kernel - 1) * dilation + 1;
            if matches!(self.padding, Padding::SameUpper | Padding::SameLower) {
                let output = input.div_ceil(stride);
                let total = (output.max(1) - 1) * stride + reach;
                let total = total.saturating_sub(input);
                let is_upper = self.padding == Padding::SameUpper;
                let before = if is_upper { total / 2 } else { total.div_ceil(2) };
                return Ok(Axis { input, kernel, stride, dilation, before, after: total - before, output });
            }
            let (before, after) = match &self.padding {
                Padding::Explicit(pads) if !pads.is_empty() => (pads[index], pads[index + rank]),
                _ => (0, 0),
            };
            let Some(room) = (input + before + after).checked_sub(reach) else {
                problem!("a window of {reach} does not fit a padded grid of {}", input + before + after);
            };
            let mut output = room / stride + 1;
            // The last window starts on the grid or in the padding before it.
            if self.rounds_up && room % stride != 0 && output * stride < input + before {
                output += 1;
            }
            Ok(Axis { input, kernel, stride, dilation, before, after, output })
        };
        (0..rank).map(axis).collect()
    }

    /// What is known about the output's sizes.
    pub(crate) fn dims(&self, input: &[Dim], kernel: &[Dim]) -> Result<Vec<Dim>, Problem> {
        self.check_rank(input.len(), kernel.len())?;
        let known = |dims: &[Dim]| dims.iter().map(Dim::known_size).collect::<Option<Vec<_>>>();
        match (known(input), known(kernel)) {
            (Some(input), Some(kernel)) => {
                Ok(self.axes(&input, &kernel)?.iter().map(|axis| axis.output.into()).collect())
            }
            _ => Ok((0..input.len()).map(|axis| self.dim(axis, &input[axis], &kernel[axis])).collect()),
        }
    }

    /// What is known about the output's size on one axis: that a window that moves by one element keeps it.
    fn dim(&self, axis: usize, input: &Dim, kernel: &Dim) -> Dim {
        let dilation = self.dilations.get(axis).copied().unwrap_or(1);
        let (1, Some(kernel)) = (self.strides.get(axis).copied().unwrap_or(1), kernel.known_size()) else {
            return Dim::unknown();
        };
        match &self.padding {
            Padding::SameUpper | Padding::SameLower => input.clone(),
            Padding::Explicit(pads) => {
                let padded = pads.get(axis).zip(pads.get(axis + pads.len() / 2)).map_or(0, |(a, b)| a + b);
                let lost = kernel.saturating_sub(1).saturating_mul(dilation);
                input.plus(&Dim::from(padded).plus(&Dim::from(lost).negated()))
            }
        }
    }

    /// For each place of the window, in row-major order, the indices of the elements under it, or [`OUTSIDE`].
    pub(crate) fn taps(axes: &[Axis]) -> Result<Vec<u32>, Problem> {
        let outputs: Vec<usize> = axes.iter().map(|axis| axis.output).collect();
        let kernels: Vec<usize> = axes.iter().map(|axis| axis.kernel).collect();
        let inputs: Vec<usize> = axes.iter().map(|axis| axis.input).collect();
        if checked_len(&inputs, 1)? >= OUTSIDE as usize {
            problem!("a grid of shape {inputs:?} is too large");
        }
        let all = [outputs.as_slice(), &kernels].concat();
        let len = checked_len(&all, size_of::<u32>())?;
        // By axis: for each place and tap the index on it.
        let mut taps = vec![0u32];
        let mut shape: (usize, usize) = (1, 1);
        for axis in axes {
            let mut next = Vec::with_capacity(shape.0 * shape.1 * axis.output * axis.kernel);
            for place in 0..shape.0 {
                for at in 0..axis.output {
                    for tap in &taps[place * shape.1..(place + 1) * shape.1] {
                        next.extend((0..axis.kernel).map(|k| {
                            let index = (at * axis.stride + k * axis.dilation).wrapping_sub(axis.before);
                            if *tap == OUTSIDE || index >= axis.input {
                                OUTSIDE
                            } else {
                                tap * axis.input as u32 + index as u32
                            }
                        }));
                    }
                }
            }
            taps = next;
            shape = (shape.0 * axis.output, shape.1 * axis.kernel);
        }
        debug_assert_eq!(taps.len(), len, "places and taps are of all axes");
        Ok(taps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(strides: &[usize], pads: &[usize], rounds_up: bool) -> Window {
        Window {
            kernel: None,
            strides: strides.to_vec(),
            dilations: Vec::new(),
            padding: Padding::Explicit(pads.to_vec()),
            rounds_up,
        }
    }

    #[test]
    fn taps_are_row_major_and_leave_the_grid() {
        let axes = window(&[], &[1, 0, 0, 0], false).axes(&[2, 3], &[2, 2]).unwrap();
        assert_eq!(axes.iter().map(|axis| axis.output).collect::<Vec<_>>(), [2, 2]);
        let taps = Window::taps(&axes).unwrap();
        const O: u32 = OUTSIDE;
        assert_eq!(taps, [O, O, 0, 1, O, O, 1, 2, 0, 1, 3, 4, 1, 2, 4, 5]);
    }

    #[test]
    fn the_last_window_starts_on_the_grid() {
        let outputs = |window: Window, input: usize, kernel: usize| {
            window.axes(&[input], &[kernel]).map(|axes| axes[0].output)
        };
        assert_eq!(outputs(window(&[2], &[], false), 6, 3).unwrap(), 2);
        assert_eq!(outputs(window(&[2], &[], true), 6, 3).unwrap(), 3);
        assert_eq!(outputs(window(&[2], &[0, 1], true), 2, 1).unwrap(), 2);
        assert!(outputs(window(&[2], &[], true), 2, 3).is_err());
        assert!(outputs(window(&[2, 2], &[], true), 2, 1).is_err());
    }
}
