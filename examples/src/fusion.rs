//! Reciprocal rank fusion (Cormack et al., 2009): rankings are merged by places, since scores of different models have
//! no common scale.

use std::collections::BTreeMap;

/// The constant of the paper, which keeps the first places from deciding alone.
pub const RRF_K: u32 = 60;

/// The same for Qdrant, which counts places from 0.
pub const QDRANT_RRF_K: u32 = RRF_K + 1;

/// Merges rankings of document indices, the best first. Equal sums keep the order of the indices.
pub fn rrf(rankings: &[Vec<usize>]) -> Vec<(usize, f32)> {
    let mut sums: BTreeMap<usize, f32> = BTreeMap::new();
    for ranking in rankings {
        for (place, &index) in ranking.iter().enumerate() {
            *sums.entry(index).or_default() += 1.0 / (RRF_K as f32 + place as f32 + 1.0);
        }
    }
    let mut fused: Vec<(usize, f32)> = sums.into_iter().collect();
    fused.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    fused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_find_comes_first() {
        let fused = rrf(&[vec![3, 1, 2], vec![1, 0]]);
        let order: Vec<usize> = fused.iter().map(|(index, _)| *index).collect();
        // 1: second and first; 3: first; 0: second, and 2: third, of one ranking only.
        assert_eq!(order, [1, 3, 0, 2]);
        assert!((fused[0].1 - (1.0 / 62.0 + 1.0 / 61.0)).abs() < 1e-7);
        assert_eq!(rrf(&[]), []);
    }
}
