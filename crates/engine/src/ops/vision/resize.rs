//! `Resize` and the older `Upsample`: one axis after the other, each output a sum of a few inputs.

use crate::graph::{
    Array, DataType, Dim, Element, Info, Operands, Operator, Problem, checked_len, for_computed_type, problem,
};
use crate::ops::NodeReader;

/// `Resize` or `Upsample`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resize {
    pub(crate) is_upsample: bool,
    pub(crate) mode: Mode,
    pub(crate) coordinates: Coordinates,
    pub(crate) nearest: Nearest,
    pub(crate) cubic_a: f32,
    /// Weights of elements beyond the border become 0.
    pub(crate) excludes_outside: bool,
    /// What stands beyond the border where the coordinates are those of a crop.
    pub(crate) extrapolation: f32,
    /// Where smaller, outputs are sums of all inputs that they cover.
    pub(crate) antialias: bool,
    pub(crate) policy: Policy,
    /// The axes that sizes and scales are of; all where `None`.
    pub(crate) axes: Option<Vec<i64>>,
    /// Of files before operator set 9.
    pub(crate) scales: Option<Vec<f32>>,
    /// Operator set 10 had no region between input and scales.
    pub(crate) has_region: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Nearest,
    Linear,
    Cubic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfHalfPixelForNearest,
    TfCropAndResize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nearest {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Stretch,
    NotLarger,
    NotSmaller,
}

const COORDINATES: &[(&str, Coordinates)] = &[
    ("half_pixel", Coordinates::HalfPixel),
    ("half_pixel_symmetric", Coordinates::HalfPixelSymmetric),
    ("pytorch_half_pixel", Coordinates::PytorchHalfPixel),
    ("align_corners", Coordinates::AlignCorners),
    ("asymmetric", Coordinates::Asymmetric),
    ("tf_half_pixel_for_nn", Coordinates::TfHalfPixelForNearest),
    ("tf_crop_and_resize", Coordinates::TfCropAndResize),
];

const NEAREST: &[(&str, Nearest)] = &[
    ("round_prefer_floor", Nearest::RoundPreferFloor),
    ("round_prefer_ceil", Nearest::RoundPreferCeil),
    ("floor", Nearest::Floor),
    ("ceil", Nearest::Ceil),
];

const POLICIES: &[(&str, Policy)] =
    &[("stretch", Policy::Stretch), ("not_larger", Policy::NotLarger), ("not_smaller", Policy::NotSmaller)];

impl Resize {
    pub(super) fn read(node: &NodeReader, is_upsample: bool) -> Result<Box<dyn Operator>, Problem> {
        let attributes = node.attributes;
        let modes = [("nearest", Mode::Nearest), ("linear", Mode::Linear), ("cubic", Mode::Cubic)];
        // Before operator set 11 there was one way to count and one to round.
        let is_old = is_upsample || node.opset < 11;
        let coordinates = attributes.choice("coordinate_transformation_mode", COORDINATES)?;
        let nearest = attributes.choice("nearest_mode", NEAREST)?;
        Ok(Box::new(Self {
            is_upsample,
            mode: attributes.choice("mode", &modes)?.unwrap_or(Mode::Nearest),
            coordinates: coordinates.unwrap_or(if is_old {
                Coordinates::Asymmetric
            } else {
                Coordinates::HalfPixel
            }),
            nearest: nearest.unwrap_or(if is_old { Nearest::Floor } else { Nearest::RoundPreferFloor }),
            cubic_a: attributes.float("cubic_coeff_a")?.unwrap_or(-0.75),
            excludes_outside: attributes.flag("exclude_outside")?.unwrap_or(false),
            extrapolation: attributes.float("extrapolation_value")?.unwrap_or(0.0),
            antialias: attributes.flag("antialias")?.unwrap_or(false),
            policy: attributes.choice("keep_aspect_ratio_policy", POLICIES)?.unwrap_or(Policy::Stretch),
            axes: attributes.ints("axes")?,
            scales: attributes.floats("scales")?,
            has_region: !is_old,
        }))
    }

    /// Which axes sizes and scales are of.
    fn axes(&self, rank: usize) -> Result<Vec<usize>, Problem> {
        let Some(axes) = &self.axes else {
            return Ok((0..rank).collect());
        };
        let mut found = Vec::new();
        for &axis in axes {
            let index = if axis < 0 { axis.saturating_add_unsigned(rank as u64) } else { axis };
            match usize::try_from(index) {
                Ok(index) if index < rank && !found.contains(&index) => found.push(index),
                _ => problem!("axis {axis} is not inside rank {rank}, or twice there"),
            }
        }
        Ok(found)
    }

    /// The output's sizes and the scales, from the inputs that give one of them.
    fn sizes(
        &self,
        input: &[usize],
        scales: Option<&[f32]>,
        sizes: Option<&[i64]>,
    ) -> Result<(Vec<usize>, Vec<f32>), Problem> {
        let axes = self.axes(input.len())?;
        let (mut out, mut out_scales) = (input.to_vec(), vec![1.0; input.len()]);
        if let Some(scales) = scales {
            if scales.len() != axes.len() {
                problem!("there are {} scales for {} axes", scales.len(), axes.len());
            }
            for (&axis, &scale) in axes.iter().zip(scales) {
                if !(scale > 0.0 && scale.is_finite()) {
                    problem!("{scale} is no scale");
                }
                // Saturating; what is too large is found when the output is allocated.
                out[axis] = (input[axis] as f32 * scale).floor() as usize;
                out_scales[axis] = scale;
            }
            return Ok((out, out_scales));
        }
        let Some(sizes) = sizes else {
            problem!("there are neither scales nor sizes");
        };
        if sizes.len() != axes.len() {
            problem!("there are {} sizes for {} axes", sizes.len(), axes.len());
        }
        for (&axis, &size) in axes.iter().zip(sizes) {
            let Ok(size) = usize::try_from(size) else {
                problem!("{size} is no size");
            };
            if input[axis] == 0 {
                problem!("an input of shape {input:?} is empty");
            }
            out[axis] = size;
            out_scales[axis] = size as f32 / input[axis] as f32;
        }
        if self.policy != Policy::Stretch {
            let scales = axes.iter().map(|&axis| out_scales[axis]);
            let scale = if self.policy == Policy::NotLarger {
                scales.fold(f32::INFINITY, f32::min)
            } else {
                scales.fold(0.0, f32::max)
            };
            for &axis in &axes {
                out_scales[axis] = scale;
                out[axis] = (scale * input[axis] as f32).round() as usize;
            }
        }
        Ok((out, out_scales))
    }
}

/// For each output on an axis: the first of the inputs that it is a sum of, and their weights.
struct Sums {
    firsts: Vec<usize>,
    /// `[outputs, width]`
    weights: Vec<f32>,
    width: usize,
    /// Outputs that are the extrapolation value.
    outside: Vec<bool>,
}

/// One axis to be resized.
struct AxisResize<'a> {
    operator: &'a Resize,
    input: usize,
    output: usize,
    scale: f32,
    /// Start and end of the crop.
    region: (f32, f32),
}

impl AxisResize<'_> {
    /// Where an output lies among the inputs.
    fn coordinate(&self, index: usize) -> f32 {
        let (x, scale) = (index as f32, self.scale);
        let (input, output) = (self.input as f32, self.output as f32);
        // The standard's own cases take the scaled size before it is rounded down.
        let scaled = self.scale * input;
        match self.operator.coordinates {
            Coordinates::HalfPixel => (x + 0.5) / scale - 0.5,
            Coordinates::HalfPixelSymmetric => {
                // The middle stays the middle although the scaled size was rounded.
                let adjustment = output / (scale * input);
                let offset = input / 2.0 * (1.0 - adjustment);
                offset + (x + 0.5) / scale - 0.5
            }
            Coordinates::PytorchHalfPixel => {
                if self.output > 1 {
                    (x + 0.5) / scale - 0.5
                } else {
                    0.0
                }
            }
            Coordinates::AlignCorners => {
                if self.output > 1 {
                    x * (input - 1.0) / (scaled - 1.0)
                } else {
                    0.0
                }
            }
            Coordinates::Asymmetric => x / scale,
            Coordinates::TfHalfPixelForNearest => (x + 0.5) / scale,
            Coordinates::TfCropAndResize => {
                let (start, end) = self.region;
                if self.output > 1 {
                    start * (input - 1.0) + x * (end - start) * (input - 1.0) / (output - 1.0)
                } else {
                    0.5 * (start + end) * (input - 1.0)
                }
            }
        }
    }

    fn is_outside(&self, coordinate: f32) -> bool {
        self.operator.coordinates == Coordinates::TfCropAndResize
            && !(0.0..=(self.input - 1) as f32).contains(&coordinate)
    }

    /// The nearest input to each output.
    fn nearest(&self) -> (Vec<usize>, Vec<bool>) {
        let last = (self.input - 1) as f32;
        let coordinates = (0..self.output).map(|index| self.coordinate(index));
        coordinates
            .map(|x| {
                let rounded = match self.operator.nearest {
                    Nearest::Floor => x.floor(),
                    Nearest::Ceil => x.ceil(),
                    Nearest::RoundPreferFloor => (x - 0.5).ceil(),
                    Nearest::RoundPreferCeil => (x + 0.5).floor(),
                };
                (rounded.clamp(0.0, last) as usize, self.is_outside(x))
            })
            .unzip()
    }

    /// The weight of an input at this distance.
    fn weight(&self, distance: f32) -> f32 {
        let x = distance.abs();
        let a = self.operator.cubic_a;
        match self.operator.mode {
            Mode::Cubic if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            Mode::Cubic if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            Mode::Linear => (1.0 - x).max(0.0),
            _ => 0.0,
        }
    }

    fn sums(&self) -> Result<Sums, Problem> {
        let reach = if self.operator.mode == Mode::Cubic { 2.0 } else { 1.0 };
        // A smaller output is a sum of what it covers.
        let stretch = if self.operator.antialias { (1.0 / self.scale).max(1.0) } else { 1.0 };
        let span = 2.0 * reach * stretch + 4.0;
        let width = self.input.min(if span < 1e9 { span as usize } else { usize::MAX });
        let mut weights = vec![0.0f32; checked_len(&[self.output, width], size_of::<f32>())?];
        let (mut firsts, mut outside) = (Vec::new(), Vec::new());
        let last = self.input - 1;
        for (index, row) in weights.chunks_exact_mut(width).enumerate() {
            let x = self.coordinate(index);
            outside.push(self.is_outside(x));
            let low = (x - reach * stretch).floor().clamp(-1e9, 1e9) as i64;
            let high = (x + reach * stretch).ceil().clamp(-1e9, 1e9) as i64;
            let first = usize::try_from(low).unwrap_or(0).min(self.input - width);
            firsts.push(first);
            for at in low..=high {
                let weight = self.weight((at as f32 - x) / stretch);
                let place = usize::try_from(at).unwrap_or(0).min(last);
                let is_outside = i64::try_from(place).is_ok_and(|place| place != at);
                // Beyond the border is what is at the border.
                if is_outside && self.operator.excludes_outside {
                    continue;
                }
                if let Some(sum) = row.get_mut(place.wrapping_sub(first)) {
                    *sum += weight;
                }
            }
            let sum: f32 = row.iter().sum();
            if sum != 0.0 {
                row.iter_mut().for_each(|weight| *weight /= sum);
            }
        }
        Ok(Sums { firsts, weights, width, outside })
    }
}

/// Elements before an axis, on it, and after each of its indices.
fn split(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

/// Takes elements of an axis by their indices.
fn take<T: Element + Copy>(values: &[T], shape: &[usize], axis: usize, indices: &[usize]) -> Vec<T> {
    let (outer, size, inner) = split(shape, axis);
    let mut out = Vec::with_capacity(outer * indices.len() * inner);
    for at in 0..outer {
        for index in indices {
            let first = (at * size + index) * inner;
            out.extend_from_slice(&values[first..first + inner]);
        }
    }
    out
}

fn sum(values: &[f32], shape: &[usize], axis: usize, sums: &Sums) -> Vec<f32> {
    let (outer, size, inner) = split(shape, axis);
    let mut out = vec![0.0; outer * sums.firsts.len() * inner];
    if inner == 0 || sums.firsts.is_empty() {
        return out;
    }
    for (at, out) in out.chunks_exact_mut(inner).enumerate() {
        let (at, index) = (at / sums.firsts.len(), at % sums.firsts.len());
        let weights = &sums.weights[index * sums.width..(index + 1) * sums.width];
        for (place, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
            let first = (at * size + sums.firsts[index] + place) * inner;
            let from = &values[first..first + inner];
            out.iter_mut().zip(from).for_each(|(out, value)| *out += weight * value);
        }
    }
    out
}

fn fill<T: Copy>(values: &mut [T], shape: &[usize], axis: usize, outside: &[bool], value: T) {
    let (_, size, inner) = split(shape, axis);
    for (index, run) in values.chunks_exact_mut(inner.max(1)).enumerate() {
        if outside[index % size] {
            run.fill(value);
        }
    }
}

/// One of them says how large the output is.
struct Parameters {
    scales: Option<Vec<f32>>,
    sizes: Option<Vec<i64>>,
}

impl Resize {
    fn parameters(&self, inputs: &Operands<Array>) -> Result<Parameters, Problem> {
        if let Some(scales) = &self.scales {
            return Ok(Parameters { scales: Some(scales.clone()), sizes: None });
        }
        let scales = inputs.optional(if self.has_region { 2 } else { 1 });
        let scales = match scales.filter(|scales| !scales.is_empty()) {
            Some(scales) => Some(scales.to_floats()?.into_owned()),
            None => None,
        };
        let sizes = match inputs.optional(3).filter(|sizes| self.has_region && !sizes.is_empty()) {
            Some(sizes) => Some(sizes.to_ints()?),
            None => None,
        };
        if scales.is_some() && sizes.is_some() {
            problem!("there are both scales and sizes");
        }
        Ok(Parameters { scales, sizes })
    }

    /// Start and end of the crop on each axis.
    fn regions(&self, inputs: &Operands<Array>, rank: usize) -> Result<Vec<(f32, f32)>, Problem> {
        let mut regions = vec![(0.0, 1.0); rank];
        if self.coordinates != Coordinates::TfCropAndResize {
            return Ok(regions);
        }
        let axes = self.axes(rank)?;
        let region = inputs.get(1)?.to_floats()?;
        if region.len() != 2 * axes.len() {
            problem!("a region of {} numbers does not fit {} axes", region.len(), axes.len());
        }
        for (index, &axis) in axes.iter().enumerate() {
            regions[axis] = (region[index], region[index + axes.len()]);
        }
        Ok(regions)
    }
}

impl Operator for Resize {
    fn name(&self) -> &str {
        if self.is_upsample { "Upsample" } else { "Resize" }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        let Some(shape) = &x.shape else {
            return Ok(vec![Info::unknown(x.dtype)]);
        };
        let known: Option<Vec<usize>> = shape.iter().map(Dim::known_size).collect();
        let given = |index: usize| inputs.optional(index).and_then(|info| info.constant.as_ref());
        let scales = match given(if self.has_region { 2 } else { 1 }) {
            Some(scales) if !scales.is_empty() => Some(scales.to_floats()?.into_owned()),
            _ => self.scales.clone(),
        };
        let sizes = match inputs.optional(3).and_then(|sizes| sizes.known_ints()) {
            Some(sizes) if !sizes.is_empty() && self.has_region => Some(sizes),
            _ => None,
        };
        if let (Some(known), true) = (known, scales.is_some() != sizes.is_some()) {
            let sizes = self.sizes(&known, scales.as_deref(), sizes.as_deref())?.0;
            return Ok(vec![Info::new(x.dtype, sizes.into_iter().map(Dim::from).collect())]);
        }
        // What is not named does not change.
        let axes = self.axes(shape.len())?;
        let dim =
            |(axis, dim): (usize, &Dim)| if axes.contains(&axis) { Dim::unknown() } else { dim.clone() };
        Ok(vec![Info::new(x.dtype, shape.iter().enumerate().map(dim).collect())])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        let Parameters { scales, sizes } = self.parameters(&inputs)?;
        let (out, scales) = self.sizes(x.shape(), scales.as_deref(), sizes.as_deref())?;
        checked_len(&out, x.dtype().size())?;
        let regions = self.regions(&inputs, x.rank())?;
        if x.is_empty() || out.contains(&0) {
            return for_computed_type!(x.dtype(), T => Ok(vec![Array::full(out, T::default())?]));
        }
        let is_crop = self.coordinates == Coordinates::TfCropAndResize;
        // From the first axis on, so that sizes on the way do not exceed both ends by more than a factor.
        let resized =
            (0..x.rank()).filter(|&axis| is_crop || out[axis] != x.shape()[axis] || scales[axis] != 1.0);
        let mut shape = x.shape().to_vec();
        let mut outsides = Vec::new();
        let axis_of = |axis: usize| AxisResize {
            operator: self,
            input: x.shape()[axis],
            output: out[axis],
            scale: scales[axis],
            region: regions[axis],
        };
        if self.mode == Mode::Nearest && x.dtype() != DataType::String {
            let resized: Vec<usize> = resized.collect();
            macro_rules! nearest {
                ($T:ty) => {{
                    let mut values = x.values::<$T>()?.to_vec();
                    for axis in resized {
                        let (indices, outside) = axis_of(axis).nearest();
                        shape[axis] = out[axis];
                        checked_len(&shape, size_of::<$T>())?;
                        shape[axis] = x.shape()[axis];
                        values = take(&values, &shape, axis, &indices);
                        shape[axis] = out[axis];
                        outsides.push((axis, outside));
                    }
                    Array::new(shape, values)?
                }};
            }
            let y = match x.dtype() {
                DataType::F32 => nearest!(f32),
                DataType::F64 => nearest!(f64),
                DataType::F16 => nearest!(half::f16),
                DataType::Bf16 => nearest!(half::bf16),
                DataType::I8 => nearest!(i8),
                DataType::U8 => nearest!(u8),
                DataType::I32 => nearest!(i32),
                DataType::I64 => nearest!(i64),
                dtype => problem!("{dtype} is not supported"),
            };
            if !outsides.iter().any(|(_, outside)| outside.contains(&true)) {
                return Ok(vec![y]);
            }
            return self.with_outside(y, &outsides);
        }
        let mut values = x.to_floats()?.into_owned();
        for axis in resized {
            let sums = axis_of(axis).sums()?;
            shape[axis] = out[axis];
            checked_len(&shape, size_of::<f32>())?;
            shape[axis] = x.shape()[axis];
            values = sum(&values, &shape, axis, &sums);
            shape[axis] = out[axis];
            outsides.push((axis, sums.outside));
        }
        self.with_outside(Array::from_floats(x.dtype(), shape, values)?, &outsides)
    }
}

impl Resize {
    /// The result with the extrapolation value at what lies outside on one of the axes.
    fn with_outside(&self, y: Array, outsides: &[(usize, Vec<bool>)]) -> Result<Vec<Array>, Problem> {
        let (dtype, shape) = (y.dtype(), y.shape().to_vec());
        let mut values = y.into_floats()?;
        for (axis, outside) in outsides {
            fill(&mut values, &shape, *axis, outside, self.extrapolation);
        }
        Ok(vec![Array::from_floats(dtype, shape, values)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resize(mode: Mode) -> Resize {
        Resize {
            is_upsample: false,
            mode,
            coordinates: Coordinates::HalfPixel,
            nearest: Nearest::RoundPreferFloor,
            cubic_a: -0.75,
            excludes_outside: false,
            extrapolation: 0.0,
            antialias: mode == Mode::Cubic,
            policy: Policy::Stretch,
            axes: None,
            scales: None,
            has_region: true,
        }
    }

    #[test]
    fn hostile_scales_and_sizes_are_problems() {
        let run = |scale: f32, mode| {
            let inputs = vec![Array::full([3], 1.0f32).ok(), None, Some(Array::vector(vec![scale]))];
            resize(mode).run(Operands::new(inputs))
        };
        for mode in [Mode::Nearest, Mode::Linear, Mode::Cubic] {
            assert!(run(f32::NAN, mode).is_err());
            assert!(run(f32::INFINITY, mode).is_err());
            assert!(run(-1.0, mode).is_err());
            assert!(run(1e30, mode).is_err());
            assert_eq!(run(1e-30, mode).unwrap()[0].shape(), [0]);
            assert_eq!(run(0.34, mode).unwrap()[0], Array::vector(vec![1.0f32]));
        }
        let sizes = |sizes: Vec<i64>| {
            let inputs = vec![Array::full([3], 1.0f32).ok(), None, None, Some(Array::vector(sizes))];
            resize(Mode::Linear).run(Operands::new(inputs))
        };
        assert!(sizes(vec![5]).is_ok());
        assert!(sizes(vec![5, 5]).is_err());
        assert!(sizes(vec![i64::MIN]).is_err());
        assert!(sizes(vec![i64::MAX]).is_err());
        let axes = Resize { axes: Some(vec![1]), ..resize(Mode::Linear) };
        assert!(axes.axes(1).is_err());
        assert!(Resize { axes: Some(vec![0, -1]), ..axes }.axes(1).is_err());
    }
}
