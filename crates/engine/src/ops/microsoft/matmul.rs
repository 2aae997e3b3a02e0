//! Matrix products with transposition, scaling and an activation function in them.

use super::expect_float;
use crate::graph::{Array, Dim, Info, Operands, Operator, Problem, problem};
use crate::kernels::{product, transposed};
use crate::ops::matrix::{self, MatrixProduct};
use crate::ops::{NodeReader, broadcast};

/// `FusedMatMul`, also called `TransposeMatMul`: `alpha * a * b`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FusedMatMul {
    pub(crate) name: &'static str,
    pub(crate) alpha: f32,
    pub(crate) a: Transposition,
    pub(crate) b: Transposition,
}

/// What an input's dimensions stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transposition {
    /// The last two dimensions are exchanged.
    pub(crate) matrix: bool,
    /// The first dimension becomes the last but one.
    pub(crate) batch: bool,
}

impl FusedMatMul {
    pub(super) fn read(node: &NodeReader, name: &'static str) -> Result<Box<dyn Operator>, Problem> {
        let flag = |name| Ok::<_, Problem>(node.attributes.flag(name)?.unwrap_or(false));
        Ok(Box::new(Self {
            name,
            alpha: node.attributes.float("alpha")?.unwrap_or(1.0),
            a: Transposition { matrix: flag("transA")?, batch: flag("transBatchA")? },
            b: Transposition { matrix: flag("transB")?, batch: flag("transBatchB")? },
        }))
    }
}

impl Transposition {
    fn permute<T: Clone>(self, shape: &[T]) -> Vec<T> {
        let mut shape = shape.to_vec();
        let rank = shape.len();
        if rank >= 2 {
            if self.batch {
                shape[..rank - 1].rotate_left(1);
            }
            if self.matrix {
                shape.swap(rank - 2, rank - 1);
            }
        }
        shape
    }

    /// The elements, each matrix transposed once more if `transpose`.
    fn apply(self, values: &[f32], shape: &[usize], transpose: bool) -> Vec<f32> {
        if shape.len() < 2 {
            return values.to_vec();
        }
        let (rows, columns) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        let values = if self.batch {
            let first = shape[0];
            let rest = shape[1..shape.len() - 1].iter().product::<usize>();
            let mut out = Vec::with_capacity(values.len());
            for batch in 0..rest {
                for row in 0..first {
                    let at = (row * rest + batch) * columns;
                    out.extend_from_slice(&values[at..at + columns]);
                }
            }
            out
        } else {
            values.to_vec()
        };
        let rows = if self.batch { shape[0] } else { rows };
        if self.matrix == transpose || values.is_empty() {
            return values;
        }
        values.chunks_exact(rows * columns).flat_map(|matrix| transposed(matrix, rows, columns)).collect()
    }
}

impl Operator for FusedMatMul {
    fn name(&self) -> &str {
        self.name
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        expect_float(a, "the first input")?;
        let (Some(a_shape), Some(b_shape)) = (&a.shape, &b.shape) else {
            return Ok(vec![Info::unknown(a.dtype)]);
        };
        let dims = matrix::dims(&self.a.permute(a_shape), &self.b.permute(b_shape))?;
        Ok(vec![Info::new(a.dtype, dims)])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (a, b) = (inputs.get(0)?, inputs.get(1)?);
        let plan = MatrixProduct::new(&self.a.permute(a.shape()), &self.b.permute(b.shape()))?;
        let (x, y) = (a.to_floats()?, b.to_floats()?);
        let is_plain = !self.a.matrix && !self.a.batch || a.rank() < 2;
        let x = if is_plain { x } else { self.a.apply(&x, a.shape(), false).into() };
        let is_transposed = (self.b.matrix && !self.b.batch) || b.rank() < 2;
        let y = if is_transposed { y } else { self.b.apply(&y, b.shape(), true).into() };
        let mut values = plan.of(&x, &y, product);
        if self.alpha != 1.0 {
            values.iter_mut().for_each(|value| *value *= self.alpha);
        }
        Ok(vec![Array::from_floats(a.dtype(), plan.shape, values)?])
    }
}

/// `FusedGemm`: `activation(alpha * a * b + beta * c)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FusedGemm {
    pub(crate) product: FusedMatMul,
    pub(crate) beta: f32,
    pub(crate) activation: Activation,
}

/// A function that a product or a convolution ends with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Activation {
    None,
    Relu,
    Sigmoid,
    Tanh,
    LeakyRelu { alpha: f32 },
    Clip { min: f32, max: f32 },
    HardSigmoid { alpha: f32, beta: f32 },
}

impl Activation {
    /// The function of this name; empty for none.
    pub(crate) fn new(name: &str, parameters: &[f32]) -> Result<Self, Problem> {
        Ok(match (name, parameters) {
            ("", _) => Self::None,
            ("Relu", _) => Self::Relu,
            ("Sigmoid", _) => Self::Sigmoid,
            ("Tanh", _) => Self::Tanh,
            ("LeakyRelu", &[alpha, ..]) => Self::LeakyRelu { alpha },
            ("Clip", &[min, max, ..]) => Self::Clip { min, max },
            ("HardSigmoid", &[alpha, beta, ..]) => Self::HardSigmoid { alpha, beta },
            _ => problem!("activation `{name}` with parameters {parameters:?} is not supported"),
        })
    }

    pub(crate) fn apply(self, values: &mut [f32]) {
        let values = values.iter_mut();
        match self {
            Self::None => {}
            Self::Relu => values.for_each(|value| *value = if *value < 0.0 { 0.0 } else { *value }),
            Self::Sigmoid => values.for_each(|value| *value = crate::kernels::sigmoid(*value)),
            Self::Tanh => values.for_each(|value| *value = value.tanh()),
            Self::LeakyRelu { alpha } => {
                values.for_each(|value| *value *= if *value < 0.0 { alpha } else { 1.0 });
            }
            Self::Clip { min, max } => values.for_each(|value| *value = value.max(min).min(max)),
            Self::HardSigmoid { alpha, beta } => {
                values.for_each(|value| *value = (alpha * *value + beta).clamp(0.0, 1.0));
            }
        }
    }
}

impl FusedGemm {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        let attributes = node.attributes;
        let flag = |name| Ok::<_, Problem>(attributes.flag(name)?.unwrap_or(false));
        let parameter = |name| attributes.float(name);
        let (alpha, beta) = (parameter("activation_alpha")?, parameter("activation_beta")?);
        parameter("activation_gamma")?;
        let name = attributes.string("activation")?.unwrap_or_default();
        let parameters: Vec<f32> = match (name.as_str(), alpha) {
            ("LeakyRelu", None) => vec![0.01],
            ("HardSigmoid", None) => vec![0.2, beta.unwrap_or(0.5)],
            _ => [alpha, beta].into_iter().flatten().collect(),
        };
        Ok(Box::new(Self {
            product: FusedMatMul {
                name: "FusedGemm",
                alpha: attributes.float("alpha")?.unwrap_or(1.0),
                a: Transposition { matrix: flag("transA")?, batch: false },
                b: Transposition { matrix: flag("transB")?, batch: false },
            },
            beta: attributes.float("beta")?.unwrap_or(1.0),
            activation: Activation::new(&name, &parameters)?,
        }))
    }
}

impl Operator for FusedGemm {
    fn name(&self) -> &str {
        "FusedGemm"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let outputs = self.product.infer(inputs)?;
        match outputs[0].rank() {
            Some(rank) if rank != 2 => problem!("the inputs are no matrices"),
            Some(_) => Ok(outputs),
            None => Ok(vec![Info::new(outputs[0].dtype, vec![Dim::unknown(), Dim::unknown()])]),
        }
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let c = inputs.take_optional(2);
        let mut outputs = self.product.run(inputs)?;
        let Some(product) = outputs.pop().filter(|product| product.rank() == 2) else {
            problem!("the inputs are no matrices");
        };
        let (dtype, shape) = (product.dtype(), product.shape().to_vec());
        let mut sum = Array::new(shape.clone(), product.into_floats()?)?;
        if let Some(c) = c {
            if broadcast::shape(&[&shape, c.shape()])? != shape {
                problem!("a bias of shape {:?} does not fit a product of {shape:?}", c.shape());
            }
            let c = Array::new(c.shape().to_vec(), c.into_floats()?)?;
            sum = broadcast::zip::<f32, f32>(&sum, &c, |x, c| x + self.beta * c)?;
        }
        let mut values = sum.into_values::<f32>()?;
        self.activation.apply(&mut values);
        Ok(vec![Array::from_floats(dtype, shape, values)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DataType;

    #[test]
    fn transposed_symbols_are_where_they_belong() {
        let symbols = |names: &[&str]| {
            let dims =
                names.iter().map(|name| name.parse::<i64>().map_or_else(|_| Dim::symbol(name), Dim::from));
            Info::new(DataType::F32, dims.collect())
        };
        let none = Transposition { matrix: false, batch: false };
        let operator = FusedMatMul {
            name: "FusedMatMul",
            alpha: 1.0,
            a: Transposition { matrix: false, batch: true },
            b: Transposition { matrix: true, ..none },
        };
        let (a, b) = (symbols(&["seq", "batch", "4"]), symbols(&["batch", "keys", "4"]));
        let outputs = operator.infer(&Operands::new(vec![Some(&a), Some(&b)])).unwrap();
        assert_eq!(outputs[0].shape, symbols(&["batch", "seq", "keys"]).shape);
        let b = symbols(&["batch", "keys", "5"]);
        assert!(operator.infer(&Operands::new(vec![Some(&a), Some(&b)])).is_err());
    }

    #[test]
    fn activations_need_their_parameters() {
        assert!(Activation::new("Relu", &[]).is_ok());
        assert!(Activation::new("Clip", &[1.0]).is_err());
        assert!(Activation::new("Softmax", &[]).is_err());
        let mut values = [-2.0, 3.0];
        Activation::new("LeakyRelu", &[0.5]).unwrap().apply(&mut values);
        assert_eq!(values, [-1.0, 3.0]);
    }
}
