//! The result of a sparse model.

use std::collections::HashMap;

use serde::Serialize;

/// A sparse vector: the dimensions that are not zero, and their values, in the same order. Which order that is,
/// the model that made it says.
///
/// ```
/// use candlewick_models::SparseEmbedding;
///
/// let document = SparseEmbedding { indices: vec![7, 3], values: vec![0.5, 2.0] };
/// let query = SparseEmbedding { indices: vec![3, 9], values: vec![1.0, 1.0] };
/// assert_eq!(document.dot(&query), 2.0);
/// assert_eq!(document.to_map()[&7], 0.5);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SparseEmbedding {
    /// Dimensions. Most models give each once; miniCOIL may repeat one.
    pub indices: Vec<u32>,
    /// As many values.
    pub values: Vec<f32>,
}

impl SparseEmbedding {
    /// Number of dimensions that are given.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether it is zero throughout, as of a text without words.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The dot product, which is the score of a document for a query, summed in f64 in the order of `self`. A
    /// dimension that is repeated counts with the sum of its values.
    pub fn dot(&self, other: &Self) -> f32 {
        let other = other.sums();
        let product =
            |(index, value): (&u32, &f32)| f64::from(*value) * other.get(index).copied().unwrap_or(0.0);
        self.indices.iter().zip(&self.values).map(product).sum::<f64>() as f32
    }

    /// The `top_k` largest values, or all, of those above `threshold`, or of all; in the order that they were in. Of equal
    /// values the first are kept.
    #[must_use]
    pub fn limited(mut self, top_k: Option<usize>, threshold: Option<f32>) -> Self {
        if let Some(threshold) = threshold {
            let entries = self.indices.into_iter().zip(self.values);
            self = entries.filter(|(_, value)| *value > threshold).collect();
        }
        let Some(top_k) = top_k.filter(|top_k| *top_k < self.len()) else {
            return self;
        };
        let mut places = crate::multi_vector::top_k(&self.values, top_k);
        places.sort_unstable();
        places.into_iter().map(|place| (self.indices[place], self.values[place])).collect()
    }

    /// Values by dimension. Of a dimension that is repeated the last value is kept, as in fastembed's `as_dict`.
    pub fn to_map(&self) -> HashMap<u32, f32> {
        self.indices.iter().copied().zip(self.values.iter().copied()).collect()
    }

    fn sums(&self) -> HashMap<u32, f64> {
        let mut sums = HashMap::with_capacity(self.len());
        for (&index, &value) in self.indices.iter().zip(&self.values) {
            *sums.entry(index).or_insert(0.0) += f64::from(value);
        }
        sums
    }
}

/// In the order that they come in; what comes twice stays twice.
impl FromIterator<(u32, f32)> for SparseEmbedding {
    fn from_iter<I: IntoIterator<Item = (u32, f32)>>(dimensions: I) -> Self {
        let (indices, values) = dimensions.into_iter().unzip();
        Self { indices, values }
    }
}

/// In ascending order of the dimensions, because a map has none of its own.
impl From<HashMap<u32, f32>> for SparseEmbedding {
    fn from(map: HashMap<u32, f32>) -> Self {
        let mut dimensions: Vec<(u32, f32)> = map.into_iter().collect();
        dimensions.sort_unstable_by_key(|&(index, _)| index);
        dimensions.into_iter().collect()
    }
}

/// A dimension that comes again keeps its place and takes the later value, as in a Python dictionary.
pub(super) fn overwriting(dimensions: impl Iterator<Item = (u32, f32)>) -> SparseEmbedding {
    let mut embedding = SparseEmbedding::default();
    let mut places: HashMap<u32, usize> = HashMap::new();
    for (index, value) in dimensions {
        let place = *places.entry(index).or_insert(embedding.len());
        if place == embedding.len() {
            embedding.indices.push(index);
            embedding.values.push(value);
        } else {
            embedding.values[place] = value;
        }
    }
    embedding
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_products_match_dimensions_not_positions() {
        let a: SparseEmbedding = [(5, 1.0), (1, 2.0), (u32::MAX, 4.0)].into_iter().collect();
        let b: SparseEmbedding = [(1, 3.0), (2, 9.0), (u32::MAX, 0.5)].into_iter().collect();
        assert_eq!((a.dot(&b), b.dot(&a)), (8.0, 8.0));
        assert_eq!(a.dot(&SparseEmbedding::default()), 0.0);
    }

    #[test]
    fn a_repeated_dimension_counts_twice_in_the_product() {
        let a: SparseEmbedding = [(1, 2.0), (1, 3.0)].into_iter().collect();
        let b: SparseEmbedding = [(1, 10.0)].into_iter().collect();
        assert_eq!((a.dot(&b), b.dot(&a)), (50.0, 50.0));
        assert_eq!(a.to_map(), HashMap::from([(1, 3.0)]));
    }

    #[test]
    fn from_a_map_in_ascending_order() {
        let embedding = SparseEmbedding::from(HashMap::from([(9, 1.0), (2, 2.0), (4, 3.0)]));
        assert_eq!((embedding.indices, embedding.values), (vec![2, 4, 9], vec![2.0, 3.0, 1.0]));
    }

    #[test]
    fn limits_keep_the_order() {
        let embedding = SparseEmbedding { indices: vec![1, 2, 3, 4], values: vec![0.5, 2.0, 0.5, 1.0] };
        let indices = |top_k, threshold| embedding.clone().limited(top_k, threshold).indices;
        assert_eq!(indices(None, None), [1, 2, 3, 4]);
        assert_eq!(indices(Some(3), None), [1, 2, 4]);
        assert_eq!(indices(Some(0), None), [0; 0]);
        assert_eq!(indices(Some(9), Some(0.5)), [2, 4]);
        assert_eq!(indices(Some(1), Some(0.1)), [2]);
    }

    #[test]
    fn json_has_two_lists() {
        let embedding = SparseEmbedding { indices: vec![3], values: vec![0.5] };
        assert_eq!(serde_json::to_string(&embedding).unwrap(), r#"{"indices":[3],"values":[0.5]}"#);
    }
}
