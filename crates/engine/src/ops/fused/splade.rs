//! A graph's last linear layer where only each sequence's largest results are wanted.

use std::sync::Arc;

use super::linear::{Linear, pack_problem};
use super::packed::sequences;
use crate::graph::{Array, Constant, Dim, Info, Operands, Operator, Prepared, Problem, problem};
use crate::kernels::SpladeDecoder;

/// `max over the tokens of each sequence of relu(x W + b)`: inputs are `x`, `[1, total_tokens, in_features]`, weight, bias
/// (which may be left out) and `cu_seqlens`; the result is `[batch_size, out_features]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VocabularyMax {
    /// How `x W + b` would be computed.
    pub(crate) linear: Linear,
}

impl Operator for VocabularyMax {
    fn name(&self) -> &str {
        "VocabularyMax"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = |index| inputs.optional(index).copied();
        let logits = self.linear.infer(&Operands::new(vec![input(0), input(1), input(2)]))?;
        let Some([_, _, entries]) = logits[0].shape.as_deref() else {
            problem!("packed tokens have three dimensions");
        };
        Ok(vec![Info::new(logits[0].dtype, vec![Dim::symbol("batch_size"), entries.clone()])])
    }

    fn prepare(&self, inputs: &Operands<Option<&Constant>>) -> Result<Option<Prepared>, Problem> {
        let constant = |index| inputs.optional(index).copied().map(|known| known.ok_or(()));
        let (Ok(weight), Ok(bias)) = (constant(1).transpose(), constant(2).transpose()) else {
            return Ok(None);
        };
        let operator = Arc::new(Packed { decoder: self.decoder(&Operands::new(vec![None, weight, bias]))? });
        Ok(Some(Prepared { operator, inputs: vec![0, 3] }))
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let constant = |index| inputs.optional(index).cloned().map(Constant::from);
        let constants = [None, constant(1), constant(2)];
        let constants = Operands::new(constants.iter().map(Option::as_ref).collect());
        let packed = Packed { decoder: self.decoder(&constants)? };
        packed.run(Operands::new(vec![inputs.optional(0).cloned(), inputs.optional(3).cloned()]))
    }
}

impl VocabularyMax {
    fn decoder(&self, constants: &Operands<&Constant>) -> Result<SpladeDecoder, Problem> {
        let parameters = self.linear.parameters(constants, 1..3)?;
        let (weights, width, precision) = (parameters.rows()?, parameters.width, self.linear.precision);
        SpladeDecoder::new(&weights, &parameters.biases, width, precision)
            .map_err(|error| pack_problem(error, precision, &weights, width))
    }
}

/// A [`VocabularyMax`] with its weights: inputs are `x` and `cu_seqlens`.
#[derive(Debug)]
struct Packed {
    decoder: SpladeDecoder,
}

impl Operator for Packed {
    fn name(&self) -> &str {
        "VocabularyMax"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let shape = vec![Dim::symbol("batch_size"), self.decoder.vocab_size().into()];
        Ok(vec![Info::new(inputs.get(0)?.dtype, shape)])
    }

    fn run(&self, inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        let x = inputs.get(0)?;
        let sequences = sequences(x, inputs.get(1)?)?;
        let maxima = self.decoder.maxima(&x.to_floats()?, &sequences);
        let maxima = maxima.map_err(|error| Problem::new(error.to_string()))?;
        Ok(vec![Array::from_floats(x.dtype(), [sequences.len(), self.decoder.vocab_size()], maxima)?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::WeightLayout;
    use super::*;
    use crate::Precision;

    #[test]
    fn each_sequence_has_its_own_maxima() {
        let array = |shape: &[usize], values: &[f32]| Some(Array::new(shape, values.to_vec()).unwrap());
        let linear = Linear { layout: WeightLayout::InOut, activation: None, precision: Precision::F32 };
        let operator = VocabularyMax { linear };
        let inputs = vec![
            array(&[1, 3, 2], &[1., 0., 0., 1., -1., -1.]),
            array(&[2, 3], &[1., 2., 3., 4., -5., 6.]),
            array(&[3], &[0., 0., -3.5]),
            Some(Array::vector(vec![0i64, 2, 3])),
        ];
        let maxima = operator.run(Operands::new(inputs.clone())).unwrap();
        assert_eq!(maxima[0], Array::new([2, 3], vec![4f32, 2., 2.5, 0., 3., 0.]).unwrap());
        let mut wrong = inputs;
        wrong[3] = Some(Array::vector(vec![0i64, 4]));
        assert!(operator.run(Operands::new(wrong)).is_err());
    }
}
