//! Operators that bring elements to a common mean and size.

pub(crate) mod axes;
pub(super) mod channels;
pub(crate) mod rows;

use crate::graph::{Info, Operands, Problem, problem};

/// What is known about an output that is like the first input, with parameters of the same type.
fn infer_like(inputs: &Operands<&Info>) -> Result<Info, Problem> {
    let input = inputs.get(0)?;
    for info in inputs.iter_from(0).flatten() {
        if !info.dtype.is_float() {
            problem!("expected a floating-point type, got {}", info.dtype);
        }
    }
    Ok(Info { shape: input.shape.clone(), ..Info::unknown(input.dtype) })
}
