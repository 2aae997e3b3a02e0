//! Largest elements, averages and norms of what is under a window, or of whole grids.

use half::f16;

use super::conv::image_sizes;
use super::window::{Axis, OUTSIDE, Window};
use crate::graph::{Array, DataType, Dim, Element, Info, Operands, Operator, Problem, checked_len, problem};
use crate::ops::NodeReader;

fn infer(window: &Window, x: &Info) -> Result<Info, Problem> {
    let Some(shape) = &x.shape else {
        return Ok(Info::unknown(x.dtype));
    };
    let [batch, channels, grid @ ..] = shape.as_slice() else {
        problem!("an input of shape {shape:?} has no channels");
    };
    let kernel: Vec<Dim> = window.kernel(None)?.iter().map(|&size| size.into()).collect();
    let mut out = vec![batch.clone(), channels.clone()];
    out.extend(window.dims(grid, &kernel)?);
    Ok(Info::new(x.dtype, out))
}

fn expect_float(x: &Info) -> Result<(), Problem> {
    if !x.dtype.is_float() {
        problem!("expected floating-point numbers, got {}", x.dtype);
    }
    Ok(())
}

/// A window on an input.
struct Places {
    axes: Vec<Axis>,
    taps: Vec<u32>,
    /// Of the output.
    shape: Vec<usize>,
}

fn place(window: &Window, shape: &[usize]) -> Result<Places, Problem> {
    let (batch, channels, grid) = image_sizes(shape)?;
    let axes = window.axes(grid, window.kernel(None)?)?;
    let mut out = vec![batch, channels];
    out.extend(axes.iter().map(|axis| axis.output));
    checked_len(&out, size_of::<f32>())?;
    let taps = Window::taps(&axes)?;
    Ok(Places { axes, taps, shape: out })
}

/// `MaxPool`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MaxPool {
    pub(crate) window: Window,
    /// Indices of the second output count columns first.
    pub(crate) is_column_major: bool,
    pub(crate) has_indices: bool,
}

impl MaxPool {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let window = Window::read(node)?;
        window.kernel(None)?;
        let is_column_major = node.attributes.flag("storage_order")?.unwrap_or(false);
        Ok(Box::new(Self { window, is_column_major, has_indices: node.num_outputs > 1 }))
    }

    fn pool<T: Element + Copy + PartialOrd>(&self, x: &Array, lowest: T) -> Result<Vec<Array>, Problem> {
        let Places { axes, taps, shape } = place(&self.window, x.shape())?;
        let kernel: usize = axes.iter().map(|axis| axis.kernel).product();
        let grid: usize = axes.iter().map(|axis| axis.input).product();
        let len = checked_len(&shape, size_of::<i64>())?;
        let values = x.values::<T>()?;
        let (mut largest, mut indices) = (Vec::with_capacity(len), Vec::new());
        if len > 0 {
            for (image, channel) in values.chunks_exact(grid.max(1)).enumerate() {
                for taps in taps.chunks_exact(kernel) {
                    let (mut value, mut index) = (lowest, 0);
                    let mut is_first = true;
                    for &tap in taps.iter().filter(|&&tap| tap != OUTSIDE) {
                        if is_first || channel[tap as usize] > value {
                            (value, index, is_first) = (channel[tap as usize], tap as usize, false);
                        }
                    }
                    largest.push(value);
                    if self.has_indices {
                        indices.push((image * grid + self.stored(index, &axes)) as i64);
                    }
                }
            }
        }
        let mut outputs = vec![Array::new(shape.clone(), largest)?];
        if self.has_indices {
            outputs.push(Array::new(shape, indices)?);
        }
        Ok(outputs)
    }

    /// The index that the second output has for an element of the grid.
    fn stored(&self, index: usize, axes: &[Axis]) -> usize {
        if !self.is_column_major {
            return index;
        }
        let (mut rest, mut places) = (index, Vec::new());
        for axis in axes.iter().rev() {
            places.push(rest % axis.input);
            rest /= axis.input;
        }
        places.iter().zip(axes.iter().rev()).fold(0, |sum, (place, axis)| sum * axis.input + place)
    }
}

impl Operator for MaxPool {
    fn name(&self) -> &str {
        "MaxPool"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let y = infer(&self.window, inputs.get(0)?)?;
        let indices = Info { dtype: DataType::I64, ..y.clone() };
        Ok(vec![y, indices])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        match x.dtype() {
            DataType::F32 => self.pool(x, f32::MIN),
            DataType::F64 => self.pool(x, f64::MIN),
            DataType::F16 => self.pool(x, f16::MIN),
            DataType::I8 => self.pool(x, i8::MIN),
            DataType::U8 => self.pool(x, u8::MIN),
            dtype => problem!("{dtype} is not supported"),
        }
    }
}

/// `AveragePool` or `LpPool`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pool {
    pub(crate) window: Window,
    pub(crate) measure: Measure,
}

/// What becomes of the elements under a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Measure {
    Average { counts_padding: bool },
    Norm { p: f32 },
}

fn norm(node: &NodeReader) -> Result<f32, Problem> {
    match node.attributes.int("p")?.unwrap_or(2) {
        p @ 1..=1024 => Ok(p as f32),
        p => problem!("attribute `p` is {p}"),
    }
}

impl Pool {
    pub(crate) fn read(node: &NodeReader, name: &str) -> Result<Box<dyn Operator>, Problem> {
        let window = Window::read(node)?;
        window.kernel(None)?;
        let measure = if name == "LpPool" {
            Measure::Norm { p: norm(node)? }
        } else {
            Measure::Average { counts_padding: node.attributes.flag("count_include_pad")?.unwrap_or(false) }
        };
        Ok(Box::new(Self { window, measure }))
    }
}

/// How many elements of the grid with its padding are under each place of the window.
fn padded_counts(axes: &[Axis]) -> Vec<f32> {
    axes.iter().fold(vec![1.0], |counts, axis| {
        let end = axis.before + axis.input + axis.after;
        let count = |at: usize| {
            (0..axis.kernel).filter(|k| at * axis.stride + k * axis.dilation < end).count() as f32
        };
        let here: Vec<f32> = (0..axis.output).map(count).collect();
        counts.iter().flat_map(|outer| here.iter().map(move |inner| outer * inner)).collect()
    })
}

impl Operator for Pool {
    fn name(&self) -> &str {
        if matches!(self.measure, Measure::Norm { .. }) { "LpPool" } else { "AveragePool" }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        expect_float(inputs.get(0)?)?;
        Ok(vec![infer(&self.window, inputs.get(0)?)?])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        let Places { axes, taps, shape } = place(&self.window, x.shape())?;
        let kernel: usize = axes.iter().map(|axis| axis.kernel).product();
        let grid: usize = axes.iter().map(|axis| axis.input).product();
        let values = x.to_floats()?;
        let counts = padded_counts(&axes);
        let mut out = Vec::with_capacity(checked_len(&shape, size_of::<f32>())?);
        for channel in values.chunks_exact(grid.max(1)) {
            for (place, taps) in taps.chunks_exact(kernel).enumerate() {
                let under = taps.iter().filter(|&&tap| tap != OUTSIDE).map(|&tap| channel[tap as usize]);
                out.push(match self.measure {
                    Measure::Norm { p } => under.map(|x| x.abs().powf(p)).sum::<f32>().powf(1.0 / p),
                    Measure::Average { counts_padding } => {
                        let (mut count, mut sum) = (0.0, 0.0);
                        under.for_each(|x| (count, sum) = (count + 1.0, sum + x));
                        let count = if counts_padding { counts[place] } else { count };
                        if count > 0.0 { sum / count } else { 0.0 }
                    }
                });
            }
        }
        Ok(vec![Array::from_floats(x.dtype(), shape, out)?])
    }
}

/// `GlobalAveragePool`, `GlobalMaxPool` or `GlobalLpPool`: of each channel's whole grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct GlobalPool {
    pub(crate) name: &'static str,
    /// Of `GlobalLpPool`.
    pub(crate) p: f32,
}

impl GlobalPool {
    pub(crate) fn read(node: &NodeReader, name: &'static str) -> Result<Box<dyn Operator>, Problem> {
        let p = if name == "GlobalLpPool" { norm(node)? } else { 2.0 };
        Ok(Box::new(Self { name, p }))
    }
}

impl Operator for GlobalPool {
    fn name(&self) -> &str {
        self.name
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        expect_float(x)?;
        let Some(mut shape) = x.shape.clone() else {
            return Ok(vec![Info::unknown(x.dtype)]);
        };
        if shape.len() < 2 {
            problem!("an input of shape {shape:?} has no channels");
        }
        shape[2..].fill(1i64.into());
        Ok(vec![Info::new(x.dtype, shape)])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        let (batch, channels, grid) = image_sizes(x.shape())?;
        let size: usize = grid.iter().product();
        let mut shape = vec![1; x.rank()];
        (shape[0], shape[1]) = (batch, channels);
        if size == 0 && checked_len(&shape, size_of::<f32>())? > 0 {
            problem!("a grid of shape {grid:?} is empty");
        }
        let values = x.to_floats()?;
        let out = values.chunks_exact(size.max(1)).map(|grid| match self.name {
            "GlobalMaxPool" => grid.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a }),
            "GlobalLpPool" => grid.iter().map(|x| x.abs().powf(self.p)).sum::<f32>().powf(1.0 / self.p),
            _ => grid.iter().sum::<f32>() / size as f32,
        });
        Ok(vec![Array::from_floats(x.dtype(), shape, out.collect())?])
    }
}

/// `LRN`: divides by what the same element of neighbouring channels has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lrn {
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    pub(crate) bias: f32,
    /// Channels that are summed.
    pub(crate) size: usize,
}

impl Lrn {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let number = |name, default| Ok::<_, Problem>(node.attributes.float(name)?.unwrap_or(default));
        let size = match node.attributes.int("size")? {
            Some(size @ 1..=65_536) => size as usize,
            _ => problem!("attribute `size` is missing or no size"),
        };
        Ok(Box::new(Self {
            alpha: number("alpha", 1e-4)?,
            beta: number("beta", 0.75)?,
            bias: number("bias", 1.0)?,
            size,
        }))
    }
}

impl Operator for Lrn {
    fn name(&self) -> &str {
        "LRN"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        expect_float(x)?;
        Ok(vec![Info { dtype: x.dtype, shape: x.shape.clone(), ints: None, constant: None }])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        let (_, channels, grid) = image_sizes(x.shape())?;
        let size: usize = grid.iter().product();
        let values = x.to_floats()?;
        let mut out = Vec::with_capacity(values.len());
        for image in values.chunks_exact((channels * size).max(1)) {
            for channel in 0..channels {
                let first = channel.saturating_sub((self.size - 1) / 2);
                let last = (channel + self.size / 2).min(channels - 1);
                for at in 0..size {
                    let sum: f32 = (first..=last).map(|c| image[c * size + at].powi(2)).sum();
                    let scale = (self.bias + self.alpha / self.size as f32 * sum).powf(self.beta);
                    out.push(image[channel * size + at] / scale);
                }
            }
        }
        Ok(vec![Array::from_floats(x.dtype(), x.shape(), out)?])
    }
}
