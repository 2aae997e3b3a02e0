//! Operators on quantised integers, of the standard and of ONNX Runtime: integers times a scale, above a zero point.
pub(super) const OPERATORS: &[super::Entry] = &[];
