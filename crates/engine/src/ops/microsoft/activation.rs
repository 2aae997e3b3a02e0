//! Activation functions with a bias in them.

use super::{expect_float, known_sizes, sizes, vector_of_len};
use crate::graph::{Array, Dim, Info, Operands, Operator, Problem, problem};
use crate::kernels::{gelu_erf, gelu_tanh, sigmoid, softmax_or_zeros};
use crate::ops::{NodeReader, broadcast};

/// `BiasGelu`, `Gelu`, `FastGelu` or `QuickGelu`: a function of the input plus, if there is one, a bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BiasActivation {
    pub(crate) name: &'static str,
    pub(crate) function: Function,
}

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Function {
    GeluErf,
    GeluTanh,
    /// `x sigmoid(alpha x)`
    QuickGelu {
        alpha: f32,
    },
}

impl BiasActivation {
    pub(super) fn read(node: &NodeReader, name: &'static str) -> Result<Box<dyn Operator>, Problem> {
        let function = match name {
            "FastGelu" => Function::GeluTanh,
            "QuickGelu" => Function::QuickGelu { alpha: node.attributes.float("alpha")?.unwrap_or(1.702) },
            _ => Function::GeluErf,
        };
        Ok(Box::new(Self { name, function }))
    }
}

impl Function {
    pub(crate) fn apply(self, values: &mut [f32]) {
        match self {
            Self::GeluErf => gelu_erf(values),
            Self::GeluTanh => gelu_tanh(values),
            Self::QuickGelu { alpha } => {
                values.iter_mut().for_each(|value| *value *= sigmoid(alpha * *value));
            }
        }
    }
}

impl Operator for BiasActivation {
    fn name(&self) -> &str {
        self.name
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        same_as_first(inputs)
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.take(0)?;
        let (dtype, shape) = (x.dtype(), x.shape().to_vec());
        let mut values = x.into_floats()?;
        if let Some(bias) = inputs.optional(1) {
            add_bias(&mut values, &shape, bias)?;
        }
        self.function.apply(&mut values);
        Ok(vec![Array::from_floats(dtype, shape, values)?])
    }
}

fn same_as_first(inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
    let x = inputs.get(0)?;
    expect_float(x, "the input")?;
    Ok(vec![Info { dtype: x.dtype, shape: x.shape.clone(), ints: None, constant: None }])
}

fn add_bias(values: &mut [f32], shape: &[usize], bias: &Array) -> Result<(), Problem> {
    let Some(&width) = shape.last() else {
        problem!("the input is a scalar");
    };
    let bias = vector_of_len(bias, width, "the bias")?;
    if width > 0 {
        for row in values.chunks_exact_mut(width) {
            row.iter_mut().zip(&*bias).for_each(|(value, bias)| *value += bias);
        }
    }
    Ok(())
}

/// `BiasAdd`: input plus bias plus skip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BiasAdd;

impl BiasAdd {
    pub(super) fn read(_: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self))
    }
}

impl Operator for BiasAdd {
    fn name(&self) -> &str {
        "BiasAdd"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        same_as_first(inputs)
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (x, skip) = (inputs.take(0)?, inputs.take(2)?);
        let (dtype, shape) = (x.dtype(), x.shape().to_vec());
        if skip.shape() != shape {
            problem!("a skip of shape {:?} does not fit an input of {shape:?}", skip.shape());
        }
        let mut values = x.into_floats()?;
        add_bias(&mut values, &shape, inputs.get(1)?)?;
        values.iter_mut().zip(&*skip.to_floats()?).for_each(|(value, skip)| *value += skip);
        Ok(vec![Array::from_floats(dtype, shape, values)?])
    }
}

/// `BiasSplitGelu`: with the bias added, the first half of each row times the GELU of the second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BiasSplitGelu;

impl BiasSplitGelu {
    pub(super) fn read(_: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self))
    }
}

impl Operator for BiasSplitGelu {
    fn name(&self) -> &str {
        "BiasSplitGelu"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let x = inputs.get(0)?;
        expect_float(x, "the input")?;
        let [n, s, d] = known_sizes(x, "the input")?;
        let half = match d.known() {
            Some(d) if d % 2 != 0 => problem!("rows of {d} numbers have no half"),
            _ => d.divided_by(&2i64.into()).unwrap_or_else(Dim::unknown),
        };
        Ok(vec![Info::new(x.dtype, vec![n, s, half])])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.take(0)?;
        let dtype = x.dtype();
        let [n, s, d] = sizes(&x, "the input")?;
        if d % 2 != 0 {
            problem!("rows of {d} numbers have no half");
        }
        let mut values = x.into_floats()?;
        add_bias(&mut values, &[n, s, d], inputs.get(1)?)?;
        let mut out = Vec::with_capacity(values.len() / 2);
        if d > 0 {
            for row in values.chunks_exact_mut(d) {
                let (left, right) = row.split_at_mut(d / 2);
                gelu_erf(right);
                out.extend(left.iter().zip(right).map(|(left, right)| *left * *right));
            }
        }
        Ok(vec![Array::from_floats(dtype, [n, s, d / 2], out)?])
    }
}

/// `BiasSoftmax`: softmax of input plus bias over all dimensions from `axis` on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BiasSoftmax {
    pub(crate) axis: i64,
}

impl BiasSoftmax {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        // Which dimensions of the bias are 1, as its shape says too.
        if node.attributes.flag("is_inner_broadcast")?.is_none() {
            problem!("attribute `is_inner_broadcast` is missing");
        }
        Ok(Box::new(Self { axis: node.attributes.int("axis")?.unwrap_or(1) }))
    }
}

impl Operator for BiasSoftmax {
    fn name(&self) -> &str {
        "BiasSoftmax"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        same_as_first(inputs)
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let (x, bias) = (inputs.take(0)?, inputs.take(1)?);
        let (dtype, shape) = (x.dtype(), x.shape().to_vec());
        if bias.rank() != shape.len() || broadcast::shape(&[&shape, bias.shape()])? != shape {
            problem!("a bias of shape {:?} does not fit an input of {shape:?}", bias.shape());
        }
        let rank = shape.len();
        let axis = if self.axis < 0 { self.axis.saturating_add_unsigned(rank as u64) } else { self.axis };
        let Some(axis) = usize::try_from(axis).ok().filter(|&axis| axis < rank) else {
            problem!("axis {} is not inside rank {rank}", self.axis);
        };
        let bias_shape = bias.shape().to_vec();
        let x = Array::new(shape.clone(), x.into_floats()?)?;
        let bias = Array::new(bias_shape, bias.into_floats()?)?;
        let sum = broadcast::zip::<f32, f32>(&x, &bias, |x, bias| x + bias)?;
        let mut values = sum.into_values::<f32>()?;
        softmax_or_zeros(&mut values, shape[axis..].iter().product());
        Ok(vec![Array::from_floats(dtype, shape, values)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_of_softmax_are_broadcast() {
        let run = |bias: &[usize], axis| {
            let bias = Array::new(bias, (0..bias.iter().product()).map(|i| i as f32).collect()).ok();
            BiasSoftmax { axis }.run(Operands::new(vec![Array::full([2, 3], 1.0f32).ok(), bias]))
        };
        let y = run(&[2, 1], 1).unwrap();
        assert!(y[0].values::<f32>().unwrap().iter().all(|value| (value - 1.0 / 3.0).abs() < 1e-6));
        let y = run(&[1, 3], -1).unwrap();
        assert_eq!(y[0].values::<f32>().unwrap()[..3], y[0].values::<f32>().unwrap()[3..]);
        assert!(run(&[3], 1).is_err());
        assert!(run(&[1, 3], 2).is_err());
        assert!(run(&[1, 3], i64::MIN).is_err());
    }

    #[test]
    fn halves_are_split() {
        let x = Array::new([1, 1, 4], vec![1.0f32, 2.0, 10.0, 20.0]).ok();
        let y = BiasSplitGelu.run(Operands::new(vec![x, Array::full([4], 1.0f32).ok()])).unwrap();
        let expected = [22.0, 63.0];
        let values = y[0].values::<f32>().unwrap();
        assert!(values.iter().zip(expected).all(|(value, expected)| (value - expected).abs() < 1e-4));
        let odd = Operands::new(vec![Array::full([1, 1, 3], 1.0f32).ok(), Array::full([3], 1.0f32).ok()]);
        assert!(BiasSplitGelu.run(odd).is_err());
    }
}
