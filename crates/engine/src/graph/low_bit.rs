//! Types of fewer than 16 bits that are stored and converted, never computed with: 4- and 2-bit integers and
//! floating-point numbers of 8 and 4 bits.
//!
//! An element is its code, in a byte of its own: files pack several codes into a byte, arrays do not. What a code
//! stands for follows from the format's parameters, which are those of <https://onnx.ai/onnx/technical/float8.html>
//! and, for powers of two alone, of the OCP microscaling formats (MX) 1.0.

use super::Element;

/// What the codes of a type stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Integers in two's complement, or without a sign.
    Int {
        /// Bits of a code.
        bits: u32,
        /// Whether half of them are negative.
        is_signed: bool,
    },
    /// Sign, exponent and mantissa.
    Float {
        /// Bits of the exponent.
        exponent: u32,
        /// Bits of the mantissa.
        mantissa: u32,
        /// What is subtracted from the exponent.
        bias: i32,
        /// Which codes are no finite numbers.
        specials: Specials,
    },
    /// Powers of two, from 2^-127 to 2^127, and NaN: scales.
    PowerOfTwo,
}

/// Which codes of a floating-point format are no finite numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// Infinities and NaNs where all bits of the exponent are set, as IEEE 754 has it.
    Ieee,
    /// NaN where all bits of exponent and mantissa are set: "FN".
    AllOnes,
    /// NaN in the place of negative zero: "FNUZ".
    NegativeZero,
    /// None.
    None,
}

/// How numbers that have no code of their own get one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// Whether what is too large becomes the largest number instead of infinity or NaN. Of 8-bit floating-point types
    /// alone.
    pub saturates: bool,
    /// How powers of two are rounded; all other floating-point types round to nearest, halves to even.
    pub rounding: Rounding,
}

/// How numbers are rounded to powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the next power of two.
    Up,
    /// To the previous power of two.
    Down,
    /// To the nearest power of two; what is half-way, up.
    Nearest,
}

impl Default for Conversion {
    fn default() -> Self {
        Self { saturates: true, rounding: Rounding::Up }
    }
}

impl Format {
    /// Bits of a code.
    pub fn bits(self) -> u32 {
        match self {
            Self::Int { bits, .. } => bits,
            Self::Float { exponent, mantissa, .. } => 1 + exponent + mantissa,
            Self::PowerOfTwo => 8,
        }
    }

    /// Whether the codes are integers.
    pub fn is_int(self) -> bool {
        matches!(self, Self::Int { .. })
    }

    /// All bits that a code has.
    pub fn mask(self) -> u8 {
        u8::MAX >> (8 - self.bits())
    }

    /// The smallest and the largest integer.
    pub(crate) fn int_range(self) -> Option<[i32; 2]> {
        match self {
            Self::Int { bits, is_signed: true } => Some([-1 << (bits - 1), (1 << (bits - 1)) - 1]),
            Self::Int { bits, is_signed: false } => Some([0, (1 << bits) - 1]),
            Self::Float { .. } | Self::PowerOfTwo => None,
        }
    }

    /// The number that a code stands for: exact.
    pub fn decode(self, code: u8) -> f32 {
        let code = code & self.mask();
        match self {
            Self::Int { bits, is_signed } => {
                let is_negative = is_signed && code >> (bits - 1) == 1;
                f32::from(code) - if is_negative { power_of_two(bits as i32) as f32 } else { 0.0 }
            }
            Self::Float { exponent, mantissa, bias, specials } => {
                let magnitude = code & (self.mask() >> 1);
                let sign = if code == magnitude { 1.0f32 } else { -1.0 };
                let (field, rest) = (i32::from(magnitude >> mantissa), magnitude & ((1 << mantissa) - 1));
                let top = magnitude > self.largest();
                if (specials == Specials::NegativeZero && magnitude == 0 && sign < 0.0)
                    || (top && (specials == Specials::AllOnes || rest != 0))
                {
                    return f32::NAN.copysign(sign);
                }
                if top {
                    return f32::INFINITY.copysign(sign);
                }
                debug_assert!(field < 1 << exponent);
                // Numbers without a leading one have the smallest exponent, too.
                let leading = if field == 0 { 0.0 } else { power_of_two(mantissa as i32) };
                let digits = leading + f64::from(rest);
                let exponent = field.max(1) - bias - mantissa as i32;
                (digits * power_of_two(exponent)) as f32 * sign
            }
            Self::PowerOfTwo if code == u8::MAX => f32::NAN,
            Self::PowerOfTwo => power_of_two(i32::from(code) - 127) as f32,
        }
    }

    /// The numbers that all codes stand for.
    pub(crate) fn numbers(self) -> [f32; 256] {
        std::array::from_fn(|code| self.decode(code as u8))
    }

    /// The code of a number. An integer loses its fraction and what is above its bits, as other integers do.
    pub fn encode(self, value: f64, conversion: Conversion) -> u8 {
        match self {
            Self::Int { .. } => self.encode_int(value as i64),
            Self::Float { mantissa, bias, specials, .. } => {
                let sign = if value.is_sign_negative() { 1 << (self.bits() - 1) } else { 0 };
                let magnitude = value.abs();
                let (largest, all) = (self.largest(), self.mask() >> 1);
                if value.is_nan() {
                    return match specials {
                        // Quiet.
                        Specials::Ieee => sign | (largest + 1 + (1 << (mantissa - 1))),
                        Specials::AllOnes => sign | all,
                        Specials::NegativeZero => self.mask() & !all,
                        // As ml_dtypes has it, and with it ONNX's cases: zero, with the other sign.
                        Specials::None => sign ^ (self.mask() & !all),
                    };
                }
                let code = steps(magnitude, mantissa, bias);
                if code <= u32::from(largest) {
                    let has_no_sign = specials == Specials::NegativeZero && code == 0;
                    return code as u8 | if has_no_sign { 0 } else { sign };
                }
                match specials {
                    Specials::None => sign | largest,
                    _ if conversion.saturates => sign | largest,
                    Specials::Ieee => sign | (largest + 1),
                    Specials::AllOnes => sign | all,
                    Specials::NegativeZero => self.mask() & !all,
                }
            }
            Self::PowerOfTwo => encode_power(value, conversion),
        }
    }

    /// The code of an integer, of which the low bits are kept; the code of a number that is one, of other formats.
    pub fn encode_int(self, value: i64) -> u8 {
        match self {
            Self::Int { .. } => value as u8 & self.mask(),
            _ => self.encode(value as f64, Conversion::default()),
        }
    }

    /// The code of the largest finite number.
    fn largest(self) -> u8 {
        let all = self.mask() >> 1;
        match self {
            Self::Float { mantissa, specials: Specials::Ieee, .. } => (all >> mantissa << mantissa) - 1,
            Self::Float { specials: Specials::AllOnes, .. } => all - 1,
            Self::PowerOfTwo => u8::MAX - 1,
            _ => all,
        }
    }
}

/// The code of a number that is not negative, in a format without an end. Codes of neighbours are neighbours, so what is
/// rounded up to the next power of two has the right one.
fn steps(magnitude: f64, mantissa: u32, bias: i32) -> u32 {
    // Of infinity 1024, of what is smallest in f64 -1023.
    let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(1 - bias);
    if exponent > 127 {
        return u32::MAX;
    }
    // Between 0 and 2^(mantissa + 1), and exact but for what is far below half a step.
    let digits = (magnitude * power_of_two(mantissa as i32 - exponent)).round_ties_even() as u32;
    (((exponent + bias - 1) as u32) << mantissa) + digits
}

fn encode_power(value: f64, conversion: Conversion) -> u8 {
    let (smallest, largest) = (power_of_two(-127), power_of_two(127));
    // Negative numbers have no meaning here.
    if value.is_nan() || value < 0.0 {
        return u8::MAX;
    }
    // Below it f64 has no power of two, and the result is the same.
    let value = if value < smallest { if value == 0.0 { 0.0 } else { smallest / 4.0 } } else { value };
    let floor = f64::from_bits(value.to_bits() >> 52 << 52);
    let rounded = match conversion.rounding {
        Rounding::Down => floor,
        Rounding::Up if value > floor => floor * 2.0,
        Rounding::Nearest if value >= 1.5 * floor => floor * 2.0,
        Rounding::Up | Rounding::Nearest => floor,
    };
    if !conversion.saturates && !(smallest..=largest).contains(&rounded) {
        return u8::MAX;
    }
    let rounded = rounded.clamp(smallest, largest);
    ((rounded.to_bits() >> 52) as i32 - 1023 + 127) as u8
}

/// 2^exponent, which f64 has as a normal number.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// An element of few bits.
pub trait LowBit: Element + Copy {
    /// What its code stands for.
    const FORMAT: Format;

    /// The element with this code; bits that a code does not have are dropped.
    fn from_code(code: u8) -> Self;

    /// Its code.
    fn code(self) -> u8;
}

macro_rules! low_bit {
    ($($type:ident: $doc:literal = $format:expr;)*) => {
        $(
            #[doc = $doc]
            ///
            /// Elements are equal when their codes are.
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            pub struct $type(u8);

            impl LowBit for $type {
                const FORMAT: Format = $format;

                fn from_code(code: u8) -> Self {
                    Self(code & Self::FORMAT.mask())
                }

                fn code(self) -> u8 {
                    self.0
                }
            }
        )*

        impl super::DataType {
            /// What the codes of a type of few bits stand for.
            pub fn low_bit(self) -> Option<Format> {
                match self {
                    $(Self::$type => Some($type::FORMAT),)*
                    _ => None,
                }
            }
        }

        /// Evaluates `$body` with the type alias `$T` standing for the Rust type of `$dtype`, one of few bits, or
        /// `$other`.
        macro_rules! for_low_bit {
            ($dtype:expr, $T:ident => $body:expr, _ => $other:expr) => {
                match $dtype {
                    $($crate::graph::DataType::$type => {
                        type $T = $crate::graph::low_bit::$type;
                        $body
                    })*
                    _ => $other,
                }
            };
        }
    };
}

low_bit! {
    I4: "A 4-bit integer." = Format::Int { bits: 4, is_signed: true };
    U4: "A 4-bit integer without a sign." = Format::Int { bits: 4, is_signed: false };
    I2: "A 2-bit integer." = Format::Int { bits: 2, is_signed: true };
    U2: "A 2-bit integer without a sign." = Format::Int { bits: 2, is_signed: false };
    F8E4M3Fn: "4 bits of exponent, 3 of mantissa, no infinities."
        = Format::Float { exponent: 4, mantissa: 3, bias: 7, specials: Specials::AllOnes };
    F8E4M3FnUz: "4 bits of exponent, 3 of mantissa, no infinities and no negative zero."
        = Format::Float { exponent: 4, mantissa: 3, bias: 8, specials: Specials::NegativeZero };
    F8E5M2: "5 bits of exponent, 2 of mantissa, as IEEE 754 has it."
        = Format::Float { exponent: 5, mantissa: 2, bias: 15, specials: Specials::Ieee };
    F8E5M2FnUz: "5 bits of exponent, 2 of mantissa, no infinities and no negative zero."
        = Format::Float { exponent: 5, mantissa: 2, bias: 16, specials: Specials::NegativeZero };
    F8E8M0: "A power of two." = Format::PowerOfTwo;
    F4E2M1: "2 bits of exponent, 1 of mantissa, finite numbers alone."
        = Format::Float { exponent: 2, mantissa: 1, bias: 1, specials: Specials::None };
}
pub(crate) use for_low_bit;

#[cfg(test)]
mod tests;
