//! Linear layers with constant weights, packed once.

use std::borrow::Cow;
use std::sync::Arc;

use crate::Precision;
use crate::graph::{Array, Constant, DataType, Info, Operands, Operator, Prepared, Problem, problem};
use crate::kernels::{Activation, MlpOp, PackError, PackedLinear};

/// Which way a weight lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WeightLayout {
    /// `[in_features, out_features]`, as `MatMul` reads it.
    InOut,
    /// `[out_features, in_features]`, as `Gemm` with `transB` does.
    OutIn,
}

/// `activation(x W + b)`, or several such layers side by side: inputs are `x`, then weight and bias of each layer; a
/// bias may be left out. `[..., in_features]` to `[..., out_features]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Linear {
    pub(crate) layout: WeightLayout,
    pub(crate) activation: Option<Activation>,
    pub(crate) precision: Precision,
}

impl Operator for Linear {
    fn name(&self) -> &str {
        "Linear"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        let mut out_features = crate::graph::Dim::from(0i64);
        for index in (1..inputs.len()).step_by(2) {
            let Some([first, second]) = inputs.get(index)?.shape.as_deref() else {
                problem!("a weight is no matrix");
            };
            out_features = out_features.plus(match self.layout {
                WeightLayout::InOut => second,
                WeightLayout::OutIn => first,
            });
        }
        Ok(vec![with_last(x, out_features)?])
    }

    fn prepare(&self, constants: &Operands<Option<&Constant>>) -> Result<Option<Prepared>, Problem> {
        let Some(constants) = constants.known_from(1) else {
            return Ok(None);
        };
        let (packed, in_features) = self.pack(&constants, 1..constants.len())?;
        Ok(Some(Prepared { operator: Arc::new(PackedLayer { packed, in_features }), inputs: vec![0] }))
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.take(0)?;
        let constants: Vec<_> = inputs.iter_from(0).map(|array| array.cloned().map(Constant::from)).collect();
        let constants = Operands::new(constants.iter().map(Option::as_ref).collect());
        let (packed, in_features) = self.pack(&constants, 1..constants.len())?;
        PackedLayer { packed, in_features }.run(Operands::new(vec![Some(x)]))
    }
}

impl Linear {
    /// The layers whose weights and biases are these inputs, side by side; and how wide their input is.
    fn pack(
        &self,
        constants: &Operands<&Constant>,
        inputs: std::ops::Range<usize>,
    ) -> Result<(PackedLinear, usize), Problem> {
        let parameters = self.parameters(constants, inputs)?;
        let width = parameters.width;
        if self.layout == WeightLayout::InOut && self.precision == Precision::F32 {
            let weights = parameters.weights.iter().map(Array::to_floats).collect::<Result<_, _>>()?;
            let weight = side_by_side(weights, width);
            return Ok((
                PackedLinear::from_columns(&weight, parameters.biases, width, self.activation),
                width,
            ));
        }
        let rows = parameters.rows()?;
        let packed = PackedLinear::new(&rows, parameters.biases, width, self.activation, self.precision);
        let packed = packed.map_err(|error| pack_problem(error, self.precision, &rows, width))?;
        Ok((packed, width))
    }

    /// The weights and biases of the layers, side by side.
    pub(super) fn parameters(
        &self,
        constants: &Operands<&Constant>,
        inputs: std::ops::Range<usize>,
    ) -> Result<Parameters, Problem> {
        let (mut weights, mut biases, mut width) = (Vec::new(), Vec::new(), None);
        for index in inputs.step_by(2) {
            let weight = constants.get(index)?;
            let &[first, second] = weight.shape() else {
                problem!("a weight of shape {:?} is no matrix", weight.shape());
            };
            let (in_features, out_features) = match self.layout {
                WeightLayout::InOut => (first, second),
                WeightLayout::OutIn => (second, first),
            };
            if in_features == 0 || out_features == 0 || width.is_some_and(|width| width != in_features) {
                problem!("weights of shape {:?} and {width:?} inputs", weight.shape());
            }
            width = Some(in_features);
            weights.push(weight.array());
            match constants.optional(index + 1) {
                None => biases.resize(biases.len() + out_features, 0.0),
                Some(bias) if bias.len() == out_features => {
                    biases.extend_from_slice(&bias.array().to_floats()?);
                }
                Some(bias) => problem!("a bias of shape {:?} for {out_features} features", bias.shape()),
            }
        }
        let Some(width) = width else {
            problem!("there is no weight");
        };
        Ok(Parameters { layout: self.layout, weights, biases, width })
    }
}

/// What linear layers side by side are made of.
pub(super) struct Parameters {
    layout: WeightLayout,
    /// In the order of the layers.
    weights: Vec<Array>,
    /// `[out_features]`
    pub(super) biases: Vec<f32>,
    pub(super) width: usize,
}

impl Parameters {
    /// The weights as `[out_features, width]`.
    pub(super) fn rows(&self) -> Result<Vec<f32>, Problem> {
        let mut rows = Vec::with_capacity(self.width * self.biases.len());
        for weight in &self.weights {
            let weight = weight.to_floats()?;
            match self.layout {
                WeightLayout::InOut => transpose(&weight, self.width, weight.len() / self.width, &mut rows),
                WeightLayout::OutIn => rows.extend_from_slice(&weight),
            }
        }
        Ok(rows)
    }
}

/// Why weights could not be packed, in words.
pub(super) fn pack_problem(error: PackError, precision: Precision, weights: &[f32], width: usize) -> Problem {
    match error {
        PackError::OutOfRange(index) => {
            Problem::new(format!("{precision} cannot hold the weight {}", weights[index]))
        }
        PackError::TooWide => Problem::new(format!("{width} inputs are too many for {precision}")),
    }
}

/// Matrices of as many rows as one matrix.
fn side_by_side(mut matrices: Vec<Cow<[f32]>>, rows: usize) -> Cow<[f32]> {
    if matrices.len() == 1 {
        return matrices.swap_remove(0);
    }
    let mut joined = Vec::with_capacity(matrices.iter().map(|matrix| matrix.len()).sum());
    for row in 0..rows {
        for matrix in &matrices {
            let width = matrix.len() / rows;
            joined.extend_from_slice(&matrix[row * width..(row + 1) * width]);
        }
    }
    joined.into()
}

/// Two linear layers, the second right after the first: inputs are `x`, then weight and bias of each. Computed in blocks of
/// rows whose values between the two stay in cache.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mlp {
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

impl Operator for Mlp {
    fn name(&self) -> &str {
        "Mlp"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let operands = |x, first| {
            let input = |index| inputs.optional(index).copied();
            Operands::new(vec![Some(x), input(first), input(first + 1)])
        };
        let between = self.up.infer(&operands(inputs.get(0)?, 1))?;
        self.down.infer(&operands(&between[0], 3))
    }

    fn prepare(&self, constants: &Operands<Option<&Constant>>) -> Result<Option<Prepared>, Problem> {
        let Some(constants) = constants.known_from(1) else {
            return Ok(None);
        };
        let (up, in_features) = self.up.pack(&constants, 1..3)?;
        let (down, between) = self.down.pack(&constants, 3..5)?;
        if up.out_features() != between {
            problem!("layers of {} and {between} features", up.out_features());
        }
        Ok(Some(Prepared { operator: Arc::new(PackedLayers { up, down, in_features }), inputs: vec![0] }))
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let part = |x: Array, first: usize| {
            let input = |index| inputs.optional(index).cloned();
            Operands::new(vec![Some(x), input(first), input(first + 1)])
        };
        let between = self.up.run(part(inputs.get(0)?.clone(), 1))?.swap_remove(0);
        self.down.run(part(between, 3))
    }
}

/// A [`Linear`] with its weights.
#[derive(Debug)]
struct PackedLayer {
    packed: PackedLinear,
    in_features: usize,
}

impl Operator for PackedLayer {
    fn name(&self) -> &str {
        "Linear"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        Ok(vec![with_last(inputs.get(0)?, self.packed.out_features().into())?])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        rows(inputs.get(0)?, self.in_features, self.packed.out_features(), |x| self.packed.forward_rows(x))
    }
}

/// An [`Mlp`] with its weights.
#[derive(Debug)]
struct PackedLayers {
    up: PackedLinear,
    down: PackedLinear,
    in_features: usize,
}

impl Operator for PackedLayers {
    fn name(&self) -> &str {
        "Mlp"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        Ok(vec![with_last(inputs.get(0)?, self.down.out_features().into())?])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let layers = MlpOp { up: &self.up, down: &self.down };
        rows(inputs.get(0)?, self.in_features, self.down.out_features(), |x| {
            layers.forward_rows(x, self.in_features)
        })
    }
}

/// `layer` of the rows of `x`.
fn rows(
    x: &Array,
    in_features: usize,
    out_features: usize,
    layer: impl Fn(&[f32]) -> candle_core::Result<Vec<f32>>,
) -> Result<Vec<Array>, Problem> {
    let mut shape = x.shape().to_vec();
    match shape.last_mut() {
        Some(last) if *last == in_features => *last = out_features,
        _ => problem!("an input of shape {:?}, expected rows of {in_features}", x.shape()),
    }
    let values: Cow<[f32]> = x.to_floats()?;
    let y = layer(&values).map_err(|error| Problem::new(error.to_string()))?;
    Ok(vec![Array::from_floats(x.dtype(), shape, y)?])
}

fn with_last(x: &Info, out_features: crate::graph::Dim) -> Result<Info, Problem> {
    if !matches!(x.dtype, DataType::F32 | DataType::F16 | DataType::Bf16 | DataType::F64) {
        problem!("an input of {}", x.dtype);
    }
    let Some(mut shape) = x.shape.clone() else {
        return Ok(Info::unknown(x.dtype));
    };
    match shape.last_mut() {
        Some(last) => *last = out_features,
        None => problem!("the input is a scalar"),
    }
    Ok(Info::new(x.dtype, shape))
}

/// Appends `[rows, columns]` as `[columns, rows]`, in squares that stay in cache.
fn transpose(from: &[f32], rows: usize, columns: usize, to: &mut Vec<f32>) {
    const SIDE: usize = 32;
    let start = to.len();
    to.resize(start + rows * columns, 0.0);
    let to = &mut to[start..];
    for first_column in (0..columns).step_by(SIDE) {
        for first_row in (0..rows).step_by(SIDE) {
            for column in first_column..columns.min(first_column + SIDE) {
                for row in first_row..rows.min(first_row + SIDE) {
                    to[column * rows + row] = from[row * columns + column];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(shape: [usize; 2], scale: f32) -> Array {
        let values = (0..shape[0] * shape[1]).map(|i| (i as f32 * scale).sin()).collect();
        Array::new(shape, values).unwrap()
    }

    #[test]
    fn layouts_and_layers_side_by_side_agree() {
        let layer = |layout| Linear { layout, activation: None, precision: Precision::F32 };
        let x = matrix([3, 40], 0.3);
        let weights = [matrix([40, 5], 0.7), matrix([40, 70], 1.1)];
        let bias = Array::vector(vec![0.5f32; 70]);
        let run = |operator: &dyn Operator, inputs: Vec<Option<Array>>| {
            operator.run(Operands::new(inputs)).unwrap().swap_remove(0)
        };
        let some = |array: &Array| Some(array.clone());
        let first = run(&layer(WeightLayout::InOut), vec![some(&x), some(&weights[0])]);
        let second = run(&layer(WeightLayout::InOut), vec![some(&x), some(&weights[1]), some(&bias)]);
        let inputs = vec![some(&x), some(&weights[0]), None, some(&weights[1]), some(&bias)];
        let both = run(&layer(WeightLayout::InOut), inputs);
        assert_eq!(both.shape(), [3, 75]);
        for row in 0..3 {
            let both = &both.values::<f32>().unwrap()[row * 75..][..75];
            assert_eq!(both[..5], first.values::<f32>().unwrap()[row * 5..][..5]);
            assert_eq!(both[5..], second.values::<f32>().unwrap()[row * 70..][..70]);
        }
        let mut turned = Vec::new();
        transpose(weights[1].values().unwrap(), 40, 70, &mut turned);
        let turned = Array::new([70, 40], turned).unwrap();
        let other = run(&layer(WeightLayout::OutIn), vec![some(&x), Some(turned), some(&bias)]);
        assert_eq!(other, second);
    }

    #[test]
    fn wrong_sizes_are_problems() {
        let layer = Linear { layout: WeightLayout::InOut, activation: None, precision: Precision::F32 };
        let run = |inputs: Vec<Option<Array>>| layer.run(Operands::new(inputs));
        assert!(run(vec![Some(matrix([2, 3], 1.0))]).is_err());
        assert!(run(vec![Some(matrix([2, 3], 1.0)), Some(matrix([4, 5], 1.0))]).is_err());
        let bias = Array::vector(vec![0.0f32; 3]);
        assert!(run(vec![Some(matrix([2, 3], 1.0)), Some(matrix([3, 5], 1.0)), Some(bias)]).is_err());
        assert!(run(vec![Some(Array::scalar(1.0f32)), Some(matrix([3, 5], 1.0))]).is_err());
    }
}
