//! Functions of one number.

use super::{cast, each};
use crate::graph::{Array, DataType, Dim, Info, Operands, Operator, Problem, problem};
use crate::kernels::{self, elementwise, erf_reference};
use crate::ops::number::{Number, for_int, for_number, widen};
use crate::ops::{Entry, NodeReader, broadcast};

pub(in crate::ops) const OPERATORS: &[Entry] = &[
    Entry::new("Abs", 1..=1, |_| Function::Abs.boxed()),
    Entry::new("Neg", 1..=1, |_| Function::Neg.boxed()),
    Entry::new("Sign", 1..=1, |_| Function::Sign.boxed()),
    Entry::new("Ceil", 1..=1, |_| Function::Ceil.boxed()),
    Entry::new("Floor", 1..=1, |_| Function::Floor.boxed()),
    Entry::new("Round", 1..=1, |_| Function::Round.boxed()),
    Entry::new("Exp", 1..=1, |_| Function::Exp.boxed()),
    Entry::new("Log", 1..=1, |_| Function::Log.boxed()),
    Entry::new("Sqrt", 1..=1, |_| Function::Sqrt.boxed()),
    Entry::new("Reciprocal", 1..=1, |_| Function::Reciprocal.boxed()),
    Entry::new("Erf", 1..=1, |_| Function::Erf.boxed()),
    Entry::new("Sin", 1..=1, |_| Function::Sin.boxed()),
    Entry::new("Cos", 1..=1, |_| Function::Cos.boxed()),
    Entry::new("Tan", 1..=1, |_| Function::Tan.boxed()),
    Entry::new("Asin", 1..=1, |_| Function::Asin.boxed()),
    Entry::new("Acos", 1..=1, |_| Function::Acos.boxed()),
    Entry::new("Atan", 1..=1, |_| Function::Atan.boxed()),
    Entry::new("Sinh", 1..=1, |_| Function::Sinh.boxed()),
    Entry::new("Cosh", 1..=1, |_| Function::Cosh.boxed()),
    Entry::new("Tanh", 1..=1, |_| Function::Tanh.boxed()),
    Entry::new("Asinh", 1..=1, |_| Function::Asinh.boxed()),
    Entry::new("Acosh", 1..=1, |_| Function::Acosh.boxed()),
    Entry::new("Atanh", 1..=1, |_| Function::Atanh.boxed()),
    Entry::new("Sigmoid", 1..=1, |_| Function::Sigmoid.boxed()),
    Entry::new("Softplus", 1..=1, |_| Function::Softplus.boxed()),
    Entry::new("Softsign", 1..=1, |_| Function::Softsign.boxed()),
    Entry::new("HardSwish", 1..=1, |_| Function::HardSwish.boxed()),
    Entry::new("Mish", 1..=1, |_| Function::Mish.boxed()),
    Entry::new("Relu", 1..=1, |_| Function::Relu.boxed()),
    Entry::new("LeakyRelu", 1..=1, |node| Function::LeakyRelu { alpha: alpha(node, 0.01)? }.boxed()),
    Entry::new("ThresholdedRelu", 1..=1, |node| {
        Function::ThresholdedRelu { alpha: alpha(node, 1.0)? }.boxed()
    }),
    Entry::new("Elu", 1..=1, |node| Function::Elu { alpha: alpha(node, 1.0)? }.boxed()),
    Entry::new("Celu", 1..=1, |node| Function::Celu { alpha: alpha(node, 1.0)? }.boxed()),
    Entry::new("Swish", 1..=1, |node| Function::Swish { alpha: alpha(node, 1.0)? }.boxed()),
    Entry::new("Selu", 1..=1, |node| {
        let gamma = node.attributes.float("gamma")?.unwrap_or(1.050_701);
        Function::Selu { alpha: alpha(node, 1.673_263_2)?, gamma }.boxed()
    }),
    Entry::new("HardSigmoid", 1..=1, |node| {
        let beta = node.attributes.float("beta")?.unwrap_or(0.5);
        Function::HardSigmoid { alpha: alpha(node, 0.2)?, beta }.boxed()
    }),
    Entry::new("Shrink", 1..=1, |node| {
        let bias = node.attributes.float("bias")?.unwrap_or(0.0);
        let lambda = node.attributes.float("lambd")?.unwrap_or(0.5);
        Function::Shrink { bias, lambda }.boxed()
    }),
    Entry::new("Gelu", 1..=1, |node| {
        let tanh = node.attributes.choice("approximate", &[("none", false), ("tanh", true)])?;
        Function::Gelu { tanh: tanh.unwrap_or(false) }.boxed()
    }),
    Entry::new("BitwiseNot", 1..=1, |_| Ok(Box::new(BitwiseNot))),
    Entry::new("PRelu", 2..=2, |_| Ok(Box::new(PRelu))),
];

fn alpha(node: &NodeReader, default: f32) -> Result<f32, Problem> {
    Ok(node.attributes.float("alpha")?.unwrap_or(default))
}

/// A function of one number, after whose variant the operator is named.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Function {
    Abs,
    Neg,
    Sign,
    Ceil,
    Floor,
    /// Half to even.
    Round,
    Exp,
    Log,
    Sqrt,
    Reciprocal,
    Erf,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Tanh,
    Asinh,
    Acosh,
    Atanh,
    Sigmoid,
    Softplus,
    Softsign,
    HardSwish,
    Mish,
    Relu,
    LeakyRelu {
        alpha: f32,
    },
    ThresholdedRelu {
        alpha: f32,
    },
    Elu {
        alpha: f32,
    },
    Celu {
        alpha: f32,
    },
    Swish {
        alpha: f32,
    },
    Selu {
        alpha: f32,
        gamma: f32,
    },
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    Shrink {
        bias: f32,
        lambda: f32,
    },
    Gelu {
        tanh: bool,
    },
}

/// Defines the function of each element of a slice of `$float`.
macro_rules! apply {
    ($name:ident, $float:ident, $erf:expr) => {
        fn $name(self, values: &mut [$float]) {
            use std::$float::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
            fn map(values: &mut [$float], function: impl Fn($float) -> $float) {
                values.iter_mut().for_each(|value| *value = function(*value));
            }
            let sigmoid = |x: $float| 1.0 / (1.0 + (-x).exp());
            // Exact where e^x overflows or vanishes.
            let softplus = |x: $float| (-x.abs()).exp().ln_1p() + if x < 0.0 { 0.0 } else { x };
            // Unlike `max` and `clamp` these keep NaN.
            let relu = |x: $float| if x < 0.0 { 0.0 } else { x };
            let saturate = |x: $float| {
                if x < 0.0 {
                    0.0
                } else if x > 1.0 {
                    1.0
                } else {
                    x
                }
            };
            match self {
                Self::Abs => map(values, $float::abs),
                Self::Neg => map(values, |x| -x),
                Self::Sign => map(values, Number::sign),
                Self::Ceil => map(values, $float::ceil),
                Self::Floor => map(values, $float::floor),
                Self::Round => map(values, $float::round_ties_even),
                Self::Exp => map(values, $float::exp),
                Self::Log => map(values, $float::ln),
                Self::Sqrt => map(values, $float::sqrt),
                Self::Reciprocal => map(values, |x| 1.0 / x),
                Self::Erf => map(values, $erf),
                Self::Sin => map(values, $float::sin),
                Self::Cos => map(values, $float::cos),
                Self::Tan => map(values, $float::tan),
                Self::Asin => map(values, $float::asin),
                Self::Acos => map(values, $float::acos),
                Self::Atan => map(values, $float::atan),
                Self::Sinh => map(values, $float::sinh),
                Self::Cosh => map(values, $float::cosh),
                Self::Tanh => map(values, $float::tanh),
                Self::Asinh => map(values, $float::asinh),
                Self::Acosh => map(values, $float::acosh),
                Self::Atanh => map(values, $float::atanh),
                Self::Sigmoid => map(values, sigmoid),
                Self::Softplus => map(values, softplus),
                Self::Softsign => map(values, |x| x / (1.0 + x.abs())),
                Self::HardSwish => map(values, |x| x * saturate(x / 6.0 + 0.5)),
                Self::Mish => map(values, |x| x * softplus(x).tanh()),
                Self::Relu => map(values, relu),
                Self::LeakyRelu { alpha } => {
                    let alpha = $float::from(alpha);
                    map(values, |x| if x < 0.0 { alpha * x } else { x });
                }
                Self::ThresholdedRelu { alpha } => {
                    let alpha = $float::from(alpha);
                    map(values, |x| if x <= alpha { 0.0 } else { x });
                }
                Self::Elu { alpha } => {
                    let alpha = $float::from(alpha);
                    map(values, |x| if x < 0.0 { alpha * x.exp_m1() } else { x });
                }
                Self::Celu { alpha } => {
                    let alpha = $float::from(alpha);
                    map(values, |x| {
                        let below = alpha * (x / alpha).exp_m1();
                        relu(x) + if below > 0.0 { 0.0 } else { below }
                    });
                }
                Self::Swish { alpha } => {
                    let alpha = $float::from(alpha);
                    map(values, |x| x * sigmoid(alpha * x));
                }
                Self::Selu { alpha, gamma } => {
                    let (alpha, gamma) = ($float::from(alpha), $float::from(gamma));
                    map(values, |x| gamma * if x <= 0.0 { alpha * x.exp_m1() } else { x });
                }
                Self::HardSigmoid { alpha, beta } => {
                    let (alpha, beta) = ($float::from(alpha), $float::from(beta));
                    map(values, |x| saturate(alpha * x + beta));
                }
                Self::Shrink { bias, lambda } => {
                    let (bias, lambda) = ($float::from(bias), $float::from(lambda));
                    map(values, |x| {
                        if x < -lambda {
                            x + bias
                        } else if x > lambda {
                            x - bias
                        } else {
                            0.0
                        }
                    });
                }
                Self::Gelu { tanh: false } => map(values, |x| 0.5 * x * (1.0 + $erf(x * FRAC_1_SQRT_2))),
                Self::Gelu { tanh: true } => map(values, |x| {
                    let inner = FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * (x + 0.044715 * x * x * x);
                    0.5 * x * (1.0 + inner.tanh())
                }),
            }
        }
    };
}

impl Function {
    fn boxed(self) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(self))
    }

    apply!(apply_f64, f64, erf_reference);
    apply!(apply_plain, f32, |x: f32| erf_reference(x.into()) as f32);

    /// The function of each element, in place.
    pub(crate) fn apply(self, values: &mut [f32]) {
        match self {
            Self::Exp => elementwise::exp(values),
            Self::Sigmoid => elementwise::sigmoid(values),
            Self::Tanh => elementwise::tanh(values),
            Self::Erf => elementwise::erf(values),
            Self::Relu => kernels::relu(values),
            Self::Swish { alpha: 1.0 } => kernels::silu(values),
            Self::Gelu { tanh: false } => kernels::gelu_erf(values),
            Self::Gelu { tanh: true } => kernels::gelu_tanh(values),
            _ => self.apply_plain(values),
        }
    }

    /// Which functions integers have.
    fn takes_ints(self) -> bool {
        matches!(self, Self::Abs | Self::Neg | Self::Sign | Self::Relu)
    }

    fn dim(self, dim: &Dim) -> Dim {
        match (self, dim.known()) {
            (Self::Neg, _) => dim.negated(),
            (Self::Abs, Some(number)) => number.wrapping_abs().into(),
            (Self::Sign, Some(number)) => number.signum().into(),
            (Self::Relu, Some(number)) => number.max(0).into(),
            _ => Dim::unknown_int(),
        }
    }
}

impl Operator for Function {
    fn name(&self) -> &str {
        match self {
            Self::Abs => "Abs",
            Self::Neg => "Neg",
            Self::Sign => "Sign",
            Self::Ceil => "Ceil",
            Self::Floor => "Floor",
            Self::Round => "Round",
            Self::Exp => "Exp",
            Self::Log => "Log",
            Self::Sqrt => "Sqrt",
            Self::Reciprocal => "Reciprocal",
            Self::Erf => "Erf",
            Self::Sin => "Sin",
            Self::Cos => "Cos",
            Self::Tan => "Tan",
            Self::Asin => "Asin",
            Self::Acos => "Acos",
            Self::Atan => "Atan",
            Self::Sinh => "Sinh",
            Self::Cosh => "Cosh",
            Self::Tanh => "Tanh",
            Self::Asinh => "Asinh",
            Self::Acosh => "Acosh",
            Self::Atanh => "Atanh",
            Self::Sigmoid => "Sigmoid",
            Self::Softplus => "Softplus",
            Self::Softsign => "Softsign",
            Self::HardSwish => "HardSwish",
            Self::Mish => "Mish",
            Self::Relu => "Relu",
            Self::LeakyRelu { .. } => "LeakyRelu",
            Self::ThresholdedRelu { .. } => "ThresholdedRelu",
            Self::Elu { .. } => "Elu",
            Self::Celu { .. } => "Celu",
            Self::Swish { .. } => "Swish",
            Self::Selu { .. } => "Selu",
            Self::HardSigmoid { .. } => "HardSigmoid",
            Self::Shrink { .. } => "Shrink",
            Self::Gelu { .. } => "Gelu",
        }
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        let is_shrink = matches!(self, Self::Shrink { .. });
        if !input.dtype.is_float() && !(input.dtype.is_int() && (self.takes_ints() || is_shrink)) {
            problem!("{} is not supported", input.dtype);
        }
        let ints = input.ints.as_ref().map(|ints| ints.iter().map(|dim| self.dim(dim)).collect());
        Ok(vec![Info { ints, constant: None, ..(*input).clone() }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let input = inputs.take(0)?;
        let (dtype, shape) = (input.dtype(), input.shape().to_vec());
        Ok(vec![match dtype {
            DataType::F64 => {
                let mut values = input.into_values()?;
                self.apply_f64(&mut values);
                Array::new(shape, values)?
            }
            _ if dtype.is_float() => {
                let mut values = input.into_floats()?;
                self.apply(&mut values);
                Array::from_floats(dtype, shape, values)?
            }
            _ => {
                let input = widen(input)?;
                cast(
                    for_int!(input.dtype(), T => match self {
                        Self::Abs => each(input, |value: T| value.magnitude())?,
                        Self::Neg => each(input, |value: T| value.negated())?,
                        Self::Sign => each(input, |value: T| value.sign())?,
                        Self::Relu => each(input, |value: T| value.larger(T::ZERO))?,
                        Self::Shrink { .. } => each(input, |value: T| {
                            let mut value = [value.to_f64()];
                            self.apply_f64(&mut value);
                            T::from_f64(value[0])
                        })?,
                        _ => problem!("{dtype} is not supported"),
                    }),
                    dtype,
                )?
            }
        }])
    }
}

/// `BitwiseNot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BitwiseNot;

impl Operator for BitwiseNot {
    fn name(&self) -> &'static str {
        "BitwiseNot"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = inputs.get(0)?;
        if !input.dtype.is_int() {
            problem!("expected integers, got {}", input.dtype);
        }
        Ok(vec![Info { ints: None, constant: None, ..(*input).clone() }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let input = inputs.take(0)?;
        let dtype = input.dtype();
        let input = widen(input)?;
        Ok(vec![cast(for_int!(input.dtype(), T => each(input, |value: T| !value)?), dtype)?])
    }
}

/// `PRelu`: `LeakyRelu` with a slope for each element, which may be broadcast to the input but not the reverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PRelu;

impl Operator for PRelu {
    fn name(&self) -> &'static str {
        "PRelu"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let (input, slope) = (inputs.get(0)?, inputs.get(1)?);
        if input.dtype != slope.dtype {
            problem!("inputs are {} and {}", input.dtype, slope.dtype);
        }
        broadcast::dims(inputs)?;
        Ok(vec![Info { ints: None, constant: None, ..(*input).clone() }])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (input, slope) = (inputs.take(0)?, inputs.take(1)?);
        if broadcast::shape(&[input.shape(), slope.shape()])? != input.shape() {
            problem!("slopes of shape {:?} do not fit shape {:?}", slope.shape(), input.shape());
        }
        let dtype = input.dtype();
        let (input, slope) = (widen(input)?, widen(slope)?);
        let result = for_number!(input.dtype(), T => {
            broadcast::zip::<T, T>(&input, &slope, |x, slope| if x.sign() == T::ZERO.minus(T::ONE) { x.times(*slope) } else { *x })
        });
        Ok(vec![cast(result?, dtype)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(operator: &dyn Operator, input: Array) -> Array {
        operator.run(Operands::new(vec![Some(input)])).unwrap().remove(0)
    }

    #[test]
    fn precisions_agree_and_keep_what_is_not_a_number() {
        let inputs: Vec<f32> = (-40..=40).map(|i| i as f32 * 0.25).chain([f32::NAN]).collect();
        for entry in OPERATORS.iter().filter(|entry| !["BitwiseNot", "PRelu"].contains(&entry.name)) {
            let attributes = Default::default();
            let reader = NodeReader { opset: 24, num_inputs: 1, num_outputs: 1, attributes: &attributes };
            let operator = entry.read(&reader).unwrap();
            assert_eq!(operator.name(), entry.name);
            let single = run(&*operator, Array::vector(inputs.clone()));
            let double = run(&*operator, Array::vector(inputs.iter().copied().map(f64::from).collect()));
            let pairs = single.values::<f32>().unwrap().iter().zip(double.values::<f64>().unwrap());
            for ((single, double), input) in pairs.zip(&inputs) {
                let is_close = (f64::from(*single) - double).abs() <= 1e-5 * double.abs() + 1e-6;
                let is_same = f64::from(*single) == *double || (single.is_nan() && double.is_nan());
                assert!(is_close || is_same, "{}({input}): {single} {double}", entry.name);
                let may_hide = entry.name == "Shrink";
                assert!(!input.is_nan() || single.is_nan() || may_hide, "{} hides NaN", entry.name);
            }
        }
    }

    #[test]
    fn types_without_a_meaning_are_problems() {
        let of = |dtype| Info::new(dtype, vec![2i64.into()]);
        for (function, dtype) in [(Function::Exp, DataType::I64), (Function::Abs, DataType::Bool)] {
            assert!(function.infer(&Operands::new(vec![Some(&of(dtype))])).is_err());
        }
        let input = Array::vector(vec![i8::MIN, -1, 3]);
        assert_eq!(run(&Function::Abs, input.clone()), Array::vector(vec![i8::MIN, 1, 3]));
        assert_eq!(run(&Function::Relu, input), Array::vector(vec![0i8, 0, 3]));
    }
}
