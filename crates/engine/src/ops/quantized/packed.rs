//! Products of 8-bit integers whose second factor is a constant, laid out for this CPU at load.

use std::sync::Arc;

use super::zero_points;
use crate::graph::{Array, Constant, DataType, Info, Operands, Operator, Prepared, Problem};
use crate::kernels::{PackedIntegers, transposed};

/// The second factor of a product.
pub(super) enum Factor<'a> {
    /// `[.., k, n]`, and its zero points.
    Array(Array, Option<Array>),
    /// `[k, n]`, with its zero points.
    Packed(&'a PackedIntegers),
}

/// An operator that multiplies 8-bit integers.
pub(super) trait IntegerOperator: Operator + Clone {
    /// Which input the second factor is.
    const FACTOR: usize;
    /// Which input is its zero point.
    const ZERO: usize;

    /// Whether the second factor is `[n, k]`.
    fn is_transposed(&self) -> bool {
        false
    }

    /// The outputs, where the second factor is `factor`, whatever the inputs say.
    fn compute(&self, inputs: &Operands<Array>, factor: &Factor) -> Result<Vec<Array>, Problem>;

    /// The outputs, where nothing was laid out.
    fn compute_unpacked(&self, inputs: &Operands<Array>) -> Result<Vec<Array>, Problem> {
        let factor = inputs.get(Self::FACTOR)?;
        let factor = if self.is_transposed() { matrix_transposed(factor)? } else { factor.clone() };
        self.compute(inputs, &Factor::Array(factor, inputs.optional(Self::ZERO).cloned()))
    }

    /// The operator with its second factor taken in, if that is a constant matrix.
    fn pack(&self, constants: &Operands<Option<&Constant>>) -> Result<Option<Prepared>, Problem> {
        let Some(Some(factor)) = constants.optional(Self::FACTOR) else {
            return Ok(None);
        };
        let zero = match constants.optional(Self::ZERO) {
            Some(None) => return Ok(None),
            Some(Some(zero)) => Some(zero),
            None => None,
        };
        let Some(packed) =
            packed(&factor.array(), zero.map(|zero| zero.array()).as_ref(), self.is_transposed())?
        else {
            return Ok(None);
        };
        let info = |constant: &Constant| {
            Info::new(constant.dtype(), constant.shape().iter().map(|&size| size.into()).collect())
        };
        let operator = PackedProduct {
            operator: self.clone(),
            packed,
            factor: info(factor),
            zero: zero.map(|zero| info(zero)),
            num_inputs: constants.len(),
        };
        let inputs = (0..constants.len()).filter(|&index| operator.reads(index)).collect();
        Ok(Some(Prepared { operator: Arc::new(operator), inputs }))
    }
}

/// An [`IntegerOperator`] with its second factor.
#[derive(Debug)]
struct PackedProduct<T> {
    operator: T,
    packed: PackedIntegers,
    factor: Info,
    zero: Option<Info>,
    /// With those that were taken in.
    num_inputs: usize,
}

impl<T: IntegerOperator> PackedProduct<T> {
    /// Whether this input of the operator is still one.
    fn reads(&self, index: usize) -> bool {
        index != T::FACTOR && index != T::ZERO
    }

    /// Inputs where the operator has them; what was taken in is left out.
    fn in_place<V>(&self, mut inputs: Operands<V>) -> Vec<Option<V>> {
        let mut next = 0..;
        let input = |index| if self.reads(index) { inputs.take_optional(next.next()?) } else { None };
        (0..self.num_inputs).map(input).collect()
    }
}

impl<T: IntegerOperator> Operator for PackedProduct<T> {
    fn name(&self) -> &str {
        self.operator.name()
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let mut inputs = self.in_place(inputs.clone());
        inputs[T::FACTOR] = Some(&self.factor);
        if let Some(zero) = inputs.get_mut(T::ZERO) {
            *zero = self.zero.as_ref();
        }
        self.operator.infer(&Operands::new(inputs))
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        self.operator.compute(&Operands::new(self.in_place(inputs)), &Factor::Packed(&self.packed))
    }
}

/// A factor for this CPU; `None` for what only [`Factor::Array`] multiplies, or refuses.
fn packed(
    factor: &Array,
    zero: Option<&Array>,
    is_transposed: bool,
) -> Result<Option<PackedIntegers>, Problem> {
    let &[rows, columns] = factor.shape() else {
        return Ok(None);
    };
    // Unsigned integers and their zero points are less by 128 here.
    let (values, offset): (Vec<i8>, i32) = match factor.dtype() {
        DataType::I8 => (factor.values::<i8>()?.to_vec(), 0),
        DataType::U8 => (factor.values::<u8>()?.iter().map(|&value| (value ^ 0x80) as i8).collect(), 128),
        _ => return Ok(None),
    };
    let (in_features, out_features) = if is_transposed { (columns, rows) } else { (rows, columns) };
    let zeros = zero_points(zero)?;
    let zeros: Vec<i32> = match &zeros[..] {
        [zero] => vec![i32::from(*zero) - offset; out_features],
        zeros if zeros.len() == out_features => zeros.iter().map(|&zero| i32::from(zero) - offset).collect(),
        _ => return Ok(None),
    };
    let values = if is_transposed { values } else { transposed(&values, rows, columns) };
    Ok(PackedIntegers::new(&values, zeros, in_features))
}

/// A matrix, turned around.
pub(super) fn matrix_transposed(array: &Array) -> Result<Array, Problem> {
    let &[rows, columns] = array.shape() else {
        let problem = format!("an input has shape {:?}, expected 2 dimensions", array.shape());
        return Err(Problem::new(problem));
    };
    match array.dtype() {
        DataType::U8 => Array::new([columns, rows], transposed(array.values::<u8>()?, rows, columns)),
        _ => Array::new([columns, rows], transposed(array.values::<i8>()?, rows, columns)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::attention::QAttention;
    use super::super::matmul::{
        DynamicQuantizeMatMul, MatMulInteger, MatMulIntegerToFloat, QGemm, QLinearMatMul,
    };
    use super::*;
    use crate::ops::microsoft::SelfAttention;

    fn bytes(shape: &[usize], is_signed: bool, salt: usize) -> Option<Array> {
        let byte = |index: usize| ((index + salt).wrapping_mul(2_654_435_761) >> 7) as u8;
        let bytes = (0..shape.iter().product()).map(byte);
        if is_signed {
            Array::new(shape, bytes.map(|byte| byte as i8).collect()).ok()
        } else {
            Array::new(shape, bytes.collect::<Vec<u8>>()).ok()
        }
    }

    fn floats(shape: &[usize]) -> Option<Array> {
        Array::new(shape, (0..shape.iter().product()).map(|i| (i as f32 * 0.37).sin()).collect()).ok()
    }

    /// Runs an operator as it is, and with some inputs as constants.
    fn check(operator: &dyn Operator, inputs: &[Option<Array>], constants: &[usize]) {
        let expected = operator.run(Operands::new(inputs.to_vec())).unwrap();
        let given: Vec<Option<Constant>> =
            inputs.iter().map(|input| input.clone().map(Constant::from)).collect();
        let given = given.iter().enumerate().map(|(index, constant)| {
            constant.as_ref().map(|constant| constants.contains(&index).then_some(constant))
        });
        let prepared =
            operator.prepare(&Operands::new(given.collect())).unwrap().expect("the factor is constant");
        assert!(prepared.inputs.iter().all(|index| !constants.contains(index)), "{prepared:?}");
        let left: Vec<_> = prepared.inputs.iter().map(|&index| inputs[index].clone()).collect();
        let infos: Vec<_> = left.iter().map(|input| input.as_ref().map(Info::constant)).collect();
        let infos =
            prepared.operator.infer(&Operands::new(infos.iter().map(Option::as_ref).collect())).unwrap();
        assert_eq!(infos[0].dtype, expected[0].dtype());
        assert_eq!(prepared.operator.run(Operands::new(left)).unwrap(), expected);
    }

    #[test]
    fn what_was_laid_out_gives_the_same_bits() {
        let scalar = |value: f32| Some(Array::scalar(value));
        for (x_signed, signed) in [(false, false), (false, true), (true, false), (true, true)] {
            for (zeros, x_zeros) in [(1, 1), (9, 1), (9, 3)] {
                let x = bytes(&[2, 3, 21], x_signed, 0);
                let x_zero = bytes(&[x_zeros], x_signed, 5);
                let (weight, zero) = (bytes(&[21, 9], signed, 1), bytes(&[zeros], signed, 2));
                let inputs = [x.clone(), weight.clone(), x_zero.clone(), zero.clone()];
                check(&MatMulInteger, &inputs, &[1, 3]);
                let inputs = [x.clone(), weight.clone(), x_zero.clone()];
                check(&MatMulInteger, &inputs, &[1]);
                let y_zero = bytes(&[1], x_signed, 3);
                let inputs = [
                    x.clone(),
                    scalar(0.1),
                    x_zero.clone(),
                    weight.clone(),
                    floats(&[9]),
                    zero.clone(),
                    scalar(3.0),
                    y_zero,
                ];
                check(&QLinearMatMul, &inputs, &[3, 5]);
                let inputs = [
                    x.clone(),
                    weight.clone(),
                    scalar(0.1),
                    floats(&[9]),
                    x_zero.clone(),
                    zero.clone(),
                    floats(&[9]),
                ];
                check(&MatMulIntegerToFloat, &inputs, &[1, 5]);
                let inputs = [floats(&[2, 3, 21]), weight.clone(), floats(&[9]), zero.clone(), floats(&[9])];
                check(&DynamicQuantizeMatMul, &inputs, &[1, 3]);
                let attention = SelfAttention {
                    num_heads: 1,
                    scale: None,
                    mask_filter_value: -10_000.0,
                    is_causal: false,
                    has_present: false,
                };
                let inputs = [
                    x.clone(),
                    weight,
                    floats(&[9]),
                    scalar(0.01),
                    floats(&[9]),
                    None,
                    x_zero.clone(),
                    zero.clone(),
                ];
                check(&QAttention { attention }, &inputs, &[1, 7]);
                if x_zeros == 1 {
                    let gemm = QGemm { alpha: 1.5, transpose_a: false, transpose_b: true };
                    let inputs = [
                        bytes(&[3, 21], x_signed, 0),
                        scalar(0.1),
                        x_zero,
                        bytes(&[9, 21], signed, 1),
                        floats(&[9]),
                        zero,
                    ];
                    check(&gemm, &inputs, &[3, 5]);
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_laid_out_stays_an_input() {
        let prepared = |weight: Option<Array>, zero: Option<Option<Array>>| {
            let (weight, zero) = (weight.map(Constant::from), zero.map(|zero| zero.map(Constant::from)));
            let constants = vec![Some(None), Some(weight.as_ref()), None, zero.as_ref().map(Option::as_ref)];
            MatMulInteger.prepare(&Operands::new(constants)).unwrap()
        };
        assert!(prepared(bytes(&[4, 5], true, 0), None).is_some());
        assert!(prepared(bytes(&[4, 5], true, 0), Some(bytes(&[5], true, 0))).is_some());
        assert!(
            prepared(bytes(&[4, 5], true, 0), Some(bytes(&[4], true, 0))).is_none(),
            "no zero points of 5 columns"
        );
        assert!(prepared(bytes(&[4, 5], true, 0), Some(None)).is_none(), "a zero point that is computed");
        assert!(prepared(None, None).is_none(), "a factor that is computed");
        assert!(prepared(bytes(&[2, 4, 5], true, 0), None).is_none(), "a stack");
        assert!(prepared(bytes(&[0, 5], true, 0), None).is_none(), "nothing");
    }
}
