//! The vectors of one text or image.

use serde::ser::{Serialize, SerializeSeq, Serializer};

use crate::{Error, Result};

/// A multi-vector embedding: vectors of one length, in the order of the tokens or patches that they are of.
///
/// Every value is finite, and there may be no vectors at all. Serialises as a list of lists.
///
/// ```
/// use candlewick_models::MultiVectorEmbedding;
///
/// let embedding = MultiVectorEmbedding::new(2, vec![1.0, 0.0, 0.6, 0.8])?;
/// assert_eq!((embedding.len(), embedding.dim()), (2, 2));
/// assert_eq!(embedding.rows().last(), Some([0.6, 0.8].as_slice()));
/// assert_eq!(embedding, MultiVectorEmbedding::from_rows(&[[1.0, 0.0], [0.6, 0.8]])?);
/// # Ok::<(), candlewick_models::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct MultiVectorEmbedding {
    dim: usize,
    values: Vec<f32>,
}

impl MultiVectorEmbedding {
    /// Takes vectors of `dim` values, one after the other.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidVectors`] when `dim` is 0, the values are no whole vectors, or one of them is not finite.
    pub fn new(dim: usize, values: Vec<f32>) -> Result<Self> {
        let invalid = |problem| Err(Error::InvalidVectors { problem });
        if dim == 0 {
            return invalid("vectors of no values".into());
        }
        if !values.len().is_multiple_of(dim) {
            return invalid(format!("{} values are no vectors of {dim}", values.len()));
        }
        if !all_finite(&values) {
            let at = values.iter().position(|value| !value.is_finite()).unwrap_or_default();
            return invalid(format!("value {} of vector {} is {}", at % dim, at / dim, values[at]));
        }
        Ok(Self { dim, values })
    }

    /// Copies vectors, of which there must be one to tell their length.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidVectors`] when there are none, they differ in length, are empty, or hold a value that is
    /// not finite.
    pub fn from_rows(rows: &[impl AsRef<[f32]>]) -> Result<Self> {
        let dim = rows.first().map_or(0, |row| row.as_ref().len());
        let mut values = Vec::with_capacity(rows.len() * dim);
        for (index, row) in rows.iter().map(AsRef::as_ref).enumerate() {
            if row.len() != dim {
                let problem = format!("vector {index} has {} values, vector 0 has {dim}", row.len());
                return Err(Error::InvalidVectors { problem });
            }
            values.extend_from_slice(row);
        }
        Self::new(dim, values)
    }

    /// Values of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.values.len() / self.dim
    }

    /// Whether there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The vectors.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> + DoubleEndedIterator {
        self.values.chunks_exact(self.dim)
    }

    /// All values, vector after vector: `[len, dim]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// All values, vector after vector: `[len, dim]`.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// That its vectors have `dim` values, as `what`'s must.
    pub(super) fn check_dim(&self, dim: usize, what: impl FnOnce() -> String) -> Result<()> {
        if self.dim == dim {
            return Ok(());
        }
        Err(Error::DimMismatch { what: what(), expected: dim, found: self.dim })
    }
}

/// In blocks, because a loop that may end at every value is not vectorised.
pub(super) fn all_finite(values: &[f32]) -> bool {
    values.chunks(1024).all(|block| block.iter().fold(true, |all, value| all & value.is_finite()))
}

impl Serialize for MultiVectorEmbedding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(Some(self.len()))?;
        for row in self.rows() {
            rows.serialize_element(row)?;
        }
        rows.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_matrix_is_refused() {
        let problem = |result: Result<MultiVectorEmbedding>| result.unwrap_err().to_string();
        assert!(problem(MultiVectorEmbedding::new(0, vec![])).contains("no values"));
        assert!(problem(MultiVectorEmbedding::new(2, vec![1.0; 3])).contains("3 values are no vectors of 2"));
        let mut values = vec![0.0; 4096];
        values[2051] = f32::NAN;
        assert!(problem(MultiVectorEmbedding::new(4, values)).contains("value 3 of vector 512 is NaN"));
        let rows = [vec![1.0, 2.0], vec![3.0]];
        assert!(problem(MultiVectorEmbedding::from_rows(&rows)).contains("vector 1 has 1 values"));
        assert!(MultiVectorEmbedding::from_rows(&[[0.0; 2]; 0]).is_err());
    }

    #[test]
    fn serialises_as_rows() {
        let json = |values| serde_json::to_string(&MultiVectorEmbedding::new(2, values).unwrap()).unwrap();
        assert_eq!(json(vec![1.0, 2.0, 0.5, -3.0]), "[[1.0,2.0],[0.5,-3.0]]");
        assert_eq!(json(vec![]), "[]");
    }
}
