//! The number format that a model's linear layers are held in and multiplied with.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// How linear layers hold their weights, and how exact the products inside attention are. Everything else,
/// the softmax and the residual stream among it, is f32.
///
/// Whatever the choice, a text's embedding depends on that text alone, down to the bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// As the original computes: 4 bytes a weight.
    #[default]
    F32,
    /// bfloat16, 2 bytes a weight, summed in f32. On a CPU with AVX512-BF16, and on GPUs, the layers' inputs
    /// are rounded to bfloat16 too, for twice the speed; on that CPU so is what attention multiplies.
    Bf16,
    /// Half precision, 2 bytes a weight, summed in f32. On CPUs it saves memory, not arithmetic. A weight
    /// beyond 65504 is an error at load.
    F16,
    /// 1 byte a weight, with one scale for each output; inputs are quantized to 8 bits with a scale and a zero
    /// point of their own for each token, and products are summed in i32. Attention is as in
    /// [`Bf16`](Precision::Bf16). CPU only.
    Int8,
}

impl Precision {
    /// All, from the most exact.
    pub const ALL: [Precision; 4] = [Precision::F32, Precision::F16, Precision::Bf16, Precision::Int8];
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
            Precision::Int8 => "int8",
        })
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Precision::ALL.into_iter().find(|precision| precision.to_string() == name);
        let expected = "f32, bf16, f16 or int8";
        found.ok_or_else(|| Error::UnknownName { what: "precision", name: name.into(), expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        for precision in Precision::ALL {
            assert_eq!(precision.to_string().parse::<Precision>().unwrap(), precision);
        }
        let error = "int4".parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("int4") && error.contains("f32, bf16, f16 or int8"), "{error}");
    }
}
