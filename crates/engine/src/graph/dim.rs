//! What is known about a value before a graph runs: its type, its shape, and, of small vectors of integers, their
//! elements, in terms of symbols such as the batch size.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Array, DataType};

/// Symbols of one product: a file that squares a size forty times would otherwise have 2^40 of them.
const MAX_SYMBOLS: usize = 16;

/// What symbols of numbers that may be negative begin with.
const SIGNED: char = '±';

/// A size, or an integer computed from sizes: a number times symbols.
///
/// Two equal dimensions are the same number in every run; two different ones may still be.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Dim {
    factor: i64,
    /// Sorted.
    symbols: Vec<Arc<str>>,
}

impl Dim {
    /// What a name stands for, such as `batch_size`.
    pub fn symbol(name: &str) -> Self {
        Self { factor: 1, symbols: vec![name.into()] }
    }

    /// A size of which nothing is known, not even whether it is another one.
    pub fn unknown() -> Self {
        Self::fresh('?')
    }

    /// An integer of which not even the sign is known.
    pub fn unknown_int() -> Self {
        Self::fresh(SIGNED)
    }

    /// Of what nothing is known but that it is a size if all of `origins` are.
    pub fn unknown_like(origins: &[&Self]) -> Self {
        if origins.iter().all(|dim| dim.is_size()) { Self::unknown() } else { Self::unknown_int() }
    }

    fn fresh(kind: char) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self::symbol(&format!("{kind}{}", NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// The lesser of `self`, which is a size, and a number greater than 1.
    pub fn limited(&self, limit: i64) -> Self {
        match self.known() {
            Some(size) => size.min(limit).into(),
            // A limit of a product of limits...: its text would grow without one.
            None if self.symbols.iter().any(|symbol| symbol.starts_with("min(")) => {
                if self.is_size() {
                    Self::unknown()
                } else {
                    Self::unknown_int()
                }
            }
            None => Self::symbol(&format!("min({limit},{self})")),
        }
    }

    /// Whether it is `size` [`limited`](Self::limited) to some number. If such sizes differ, neither is 1.
    pub fn is_limited(&self, size: &Self) -> bool {
        let [symbol] = self.symbols.as_slice() else {
            return false;
        };
        self.factor == 1 && symbol.starts_with("min(") && symbol.ends_with(&format!(",{size})"))
    }

    /// How many are left of `self`, which is a size, without some: none if there are fewer.
    pub fn without(&self, some: i64) -> Self {
        match (self.known(), self.name()) {
            (Some(size), _) => size.saturating_sub(some).max(0).into(),
            (None, Some(name)) => Self::symbol(&format!("max({name} - {some}, 0)")),
            (None, None) => Self::unknown(),
        }
    }

    /// What it stands for, if it is a symbol that somebody named: what is left of what is left... would be text that grows.
    fn name(&self) -> Option<&str> {
        match self.symbols.as_slice() {
            [symbol] if self.factor == 1 && self.is_named() && !symbol.contains('(') => Some(symbol),
            _ => None,
        }
    }

    /// The same where it is certain not to be negative, because nothing can be of such a size.
    pub fn as_size(&self) -> Self {
        if self.is_size() {
            return self.clone();
        }
        let difference = |symbol: &Arc<str>| {
            let words = symbol.strip_prefix(SIGNED)?;
            words.contains(" - ").then(|| Self::symbol(&format!("max({words}, 0)")))
        };
        match self.symbols.as_slice() {
            [symbol] if self.factor == 1 => difference(symbol).unwrap_or_else(Self::unknown),
            _ => Self::unknown(),
        }
    }

    /// Whether it is certainly not negative.
    pub fn is_size(&self) -> bool {
        self.factor >= 0 && !self.symbols.iter().any(|symbol| symbol.starts_with(SIGNED))
    }

    /// Whether all of its symbols were named by somebody, and none stands for what is unknown.
    pub fn is_named(&self) -> bool {
        !self.symbols.iter().any(|symbol| symbol.contains(['?', SIGNED]))
    }

    /// The number, if no symbol is in it.
    pub fn known(&self) -> Option<i64> {
        self.symbols.is_empty().then_some(self.factor)
    }

    /// [`known`](Self::known), as a size.
    pub fn known_size(&self) -> Option<usize> {
        self.known().and_then(|size| usize::try_from(size).ok())
    }

    /// Whether it is certainly `value`.
    pub fn is(&self, value: i64) -> bool {
        self.known() == Some(value)
    }

    /// Whether it certainly is not `other`: both are known, or one is negative and the other a size.
    pub fn is_never(&self, other: &Self) -> bool {
        let is_size = |dim: &Self| dim.factor > 0 && dim.is_size();
        let is_negative = |dim: &Self| dim.known().is_some_and(|number| number < 0);
        match (self.known(), other.known()) {
            (Some(a), Some(b)) => a != b,
            _ => (is_size(self) && is_negative(other)) || (is_negative(self) && is_size(other)),
        }
    }

    /// The number where symbols stand for these; `None` where a symbol stands for none.
    pub fn evaluate(&self, symbol: impl Fn(&str) -> Option<i64>) -> Option<i64> {
        self.symbols.iter().try_fold(self.factor, |product, name| product.checked_mul(symbol(name)?))
    }

    /// `self * other`.
    pub fn times(&self, other: &Self) -> Self {
        let Some(factor) = self.factor.checked_mul(other.factor) else {
            return Self::unknown_int();
        };
        if factor == 0 {
            return 0i64.into();
        }
        if self.symbols.len() + other.symbols.len() > MAX_SYMBOLS {
            return if self.is_size() && other.is_size() { Self::unknown() } else { Self::unknown_int() };
        }
        let mut symbols = [self.symbols.as_slice(), &other.symbols].concat();
        symbols.sort();
        Self { factor, symbols }
    }

    /// `self / other`, where it is certain to leave no remainder.
    pub fn divided_by(&self, other: &Self) -> Option<Self> {
        if self.factor.checked_rem(other.factor)? != 0 {
            return None;
        }
        let mut symbols = self.symbols.clone();
        for symbol in &other.symbols {
            symbols.remove(symbols.iter().position(|candidate| candidate == symbol)?);
        }
        Some(Self { factor: self.factor / other.factor, symbols })
    }

    /// `self + other`.
    pub fn plus(&self, other: &Self) -> Self {
        if self.is(0) {
            return other.clone();
        }
        if other.is(0) {
            return self.clone();
        }
        let (sum, number) = if other.known().is_some() { (self, other) } else { (other, self) };
        if let (Some(name), Some(less @ ..0)) = (sum.name(), number.known()) {
            return Self::symbol(&format!("{SIGNED}{name} - {}", less.unsigned_abs()));
        }
        match self.factor.checked_add(other.factor) {
            Some(0) if self.symbols == other.symbols => 0i64.into(),
            Some(factor) if self.symbols == other.symbols => Self { factor, symbols: self.symbols.clone() },
            _ => Self::unknown_like(&[self, other]),
        }
    }

    /// `-self`.
    pub fn negated(&self) -> Self {
        match self.factor.checked_neg() {
            Some(factor) => Self { factor, symbols: self.symbols.clone() },
            None => Self::unknown_int(),
        }
    }
}

impl From<i64> for Dim {
    fn from(factor: i64) -> Self {
        Self { factor, symbols: Vec::new() }
    }
}

impl From<usize> for Dim {
    fn from(size: usize) -> Self {
        i64::try_from(size).map_or_else(|_| Self::unknown(), Self::from)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.symbols.is_empty() {
            return write!(f, "{}", self.factor);
        }
        if self.factor != 1 {
            write!(f, "{}*", self.factor)?;
        }
        f.write_str(&self.symbols.join("*"))
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The product of dimensions.
pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
    dims.into_iter().fold(Dim::from(1i64), |product, dim| product.times(dim))
}

/// What is known about a value before a graph runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// The type of its elements.
    pub dtype: DataType,
    /// Its shape; `None` if not even the number of dimensions is known.
    pub shape: Option<Vec<Dim>>,
    /// The elements of a scalar or vector of integers that are computed from shapes.
    pub ints: Option<Vec<Dim>>,
    /// The value itself, if it is a small constant.
    pub constant: Option<Array>,
}

impl Info {
    /// Constants with more elements are weights: no shape depends on them.
    pub(crate) const MAX_KNOWN_ELEMENTS: usize = 1024;

    /// A value of this type and shape.
    pub fn new(dtype: DataType, shape: Vec<Dim>) -> Self {
        Self { dtype, shape: Some(shape), ints: None, constant: None }
    }

    /// A value of this type of which nothing else is known.
    pub fn unknown(dtype: DataType) -> Self {
        Self { dtype, shape: None, ints: None, constant: None }
    }

    /// A value of this type with this many dimensions.
    pub fn with_rank(dtype: DataType, rank: usize) -> Self {
        Self::new(dtype, (0..rank).map(|_| Dim::unknown()).collect())
    }

    /// A vector of integers.
    pub fn vector(dtype: DataType, ints: Vec<Dim>) -> Self {
        Self { dtype, shape: Some(vec![ints.len().into()]), ints: Some(ints), constant: None }
    }

    /// A constant.
    pub fn constant(array: &Array) -> Self {
        let shape = array.shape().iter().map(|&size| size.into()).collect();
        if array.len() > Self::MAX_KNOWN_ELEMENTS {
            return Self::new(array.dtype(), shape);
        }
        let ints = if array.rank() <= 1 { array.to_ints().ok() } else { None };
        let ints = ints.map(|ints| ints.into_iter().map(Dim::from).collect());
        Self { dtype: array.dtype(), shape: Some(shape), ints, constant: Some(array.clone()) }
    }

    /// The number of dimensions, if known.
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }

    /// The elements, if all of them are known numbers.
    pub fn known_ints(&self) -> Option<Vec<i64>> {
        self.ints.as_ref()?.iter().map(Dim::known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_equal_in_any_order() {
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        assert_eq!(batch.times(&seq), seq.times(&batch));
        assert_ne!(batch, seq);
        assert_eq!(batch.times(&384i64.into()).divided_by(&batch), Some(384i64.into()));
        assert_eq!(batch.divided_by(&seq), None);
        assert_eq!(Dim::from(i64::MIN).divided_by(&(-1i64).into()), None);
        let squared = (0..60).fold(batch.clone(), |dim, _| dim.times(&dim));
        assert!(squared.known().is_none() && squared.symbols.len() <= MAX_SYMBOLS);
        assert_eq!(batch.plus(&batch), batch.times(&2i64.into()));
        assert_eq!(batch.plus(&batch.negated()), 0i64.into());
        assert_ne!(batch.plus(&seq), batch.plus(&seq));
        assert!(batch.is_never(&(-1i64).into()) && !batch.is_never(&1i64.into()) && !batch.is_never(&seq));
        assert!(!Dim::unknown_int().is_never(&(-1i64).into()) && !batch.negated().is_never(&(-1i64).into()));
        assert_eq!(format!("{}", batch.times(&2i64.into())), "2*batch");
    }

    #[test]
    fn differences_may_be_negative() {
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        assert!(batch.plus(&seq).is_size());
        assert!(!batch.plus(&seq.negated()).is_size());
        assert!(!batch.negated().is_size());
    }

    #[test]
    fn a_limited_size_knows_its_size() {
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        assert!(seq.limited(512).is_limited(&seq));
        assert!(!seq.limited(512).is_limited(&batch));
        assert_eq!(seq.limited(512), seq.limited(512));
        assert_eq!(Dim::from(600i64).limited(512), 512i64.into());
        assert_eq!(seq.limited(512).limited(100).symbols[0].chars().next(), Some('?'));
    }

    #[test]
    fn what_is_left_of_a_size_is_a_size() {
        let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
        assert_eq!(seq.without(1), seq.without(1));
        assert!(
            seq.without(1) != seq.without(2) && seq.without(1) != batch.without(1) && seq.without(1) != seq
        );
        assert!(seq.without(1).is_size() && seq.without(1).is_named());
        assert_eq!((Dim::from(5i64).without(2), Dim::from(1i64).without(2)), (3i64.into(), 0i64.into()));
        for other in [seq.without(1), seq.times(&batch), seq.times(&2i64.into()), Dim::unknown()] {
            assert_ne!(other.without(1), other.without(1), "nothing is known");
        }
        let less = seq.plus(&(-1i64).into());
        assert!(less == Dim::from(-1i64).plus(&seq) && less != seq.without(1));
        assert!(!less.is_size() && !less.is_named());
        assert_eq!(less.as_size(), seq.without(1));
        assert_eq!(seq.as_size(), seq);
        for other in [Dim::unknown_int(), seq.negated(), less.negated(), less.plus(&(-1i64).into())] {
            assert_ne!(other.as_size(), other.as_size(), "nothing is known");
        }
    }
}
