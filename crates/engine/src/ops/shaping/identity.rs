//! Operators that give on what they get.

use crate::graph::{Array, DataType, Info, Operands, Operator, Problem, problem};
use crate::ops::NodeReader;

/// `Identity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity;

impl Identity {
    pub(super) fn read(_: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        Ok(Box::new(Self))
    }
}

impl Operator for Identity {
    fn name(&self) -> &str {
        "Identity"
    }

    fn takes_low_bit(&self) -> bool {
        true
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        Ok(vec![(*inputs.get(0)?).clone()])
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        Ok(vec![inputs.take(0)?])
    }
}

/// `Dropout`, which drops nothing when a model is not being trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dropout {
    /// Whether somebody asks what is kept: everything.
    pub(crate) has_mask: bool,
}

impl Dropout {
    pub(super) fn read(node: &NodeReader) -> Result<Box<dyn Operator>, Problem> {
        if node.opset < 12 {
            node.attributes.ignore(&["ratio"]);
        } else {
            node.attributes.ignore(&["seed"]);
        }
        let has_mask = node.num_outputs > 1;
        if has_mask && node.opset < 10 {
            problem!("a mask that is not of type bool is not supported");
        }
        Ok(Box::new(Self { has_mask }))
    }
}

impl Operator for Dropout {
    fn name(&self) -> &str {
        "Dropout"
    }

    fn infer(&self, inputs: &Operands<&Info>) -> Result<Vec<Info>, Problem> {
        let input = *inputs.get(0)?;
        let mut outputs = vec![input.clone()];
        if self.has_mask {
            outputs.push(Info { shape: input.shape.clone(), ..Info::unknown(DataType::Bool) });
        }
        Ok(outputs)
    }

    fn run(&self, mut inputs: Operands<Array>) -> Result<Vec<Array>, Problem> {
        if let Some(training) = inputs.optional(2)
            && training.values::<bool>()?.contains(&true)
            // The ratio is a half unless it is given.
            && inputs.optional(1).is_none_or(|ratio| ratio.to_floats().is_ok_and(|ratio| *ratio != [0.0]))
        {
            problem!("training is not supported");
        }
        let array = inputs.take(0)?;
        let mask = self.has_mask.then(|| Array::full(array.shape(), true)).transpose()?;
        Ok(std::iter::once(array).chain(mask).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_is_refused() {
        let run = |ratio: Option<Array>, training| {
            let array = Some(Array::vector(vec![1.0f32, 2.0]));
            Dropout { has_mask: true }.run(Operands::new(vec![array, ratio, Some(Array::scalar(training))]))
        };
        let kept = run(None, false).unwrap();
        assert_eq!(kept, [Array::vector(vec![1.0f32, 2.0]), Array::vector(vec![true, true])]);
        assert_eq!(run(Some(Array::scalar(0.0f32)), true).unwrap(), kept);
        assert!(run(None, true).is_err());
        assert!(run(Some(Array::scalar(0.5f32)), true).is_err());
    }
}
