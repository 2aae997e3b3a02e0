//! The few statistics that the table needs.

/// The middle value, or the mean of the two in the middle; NaN for none.
pub(super) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match sorted.len() {
        0 => f64::NAN,
        n if n.is_multiple_of(2) => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        n => sorted[n / 2],
    }
}

/// The smallest value that at least `percent` of all values do not exceed; NaN for none.
pub(super) fn percentile(values: &[f64], percent: usize) -> f64 {
    let sorted = sorted(values);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// How many times as fast as the other one was in each round, from seconds.
pub(super) fn speedups(own_seconds: &[f64], other_seconds: &[f64]) -> Vec<f64> {
    own_seconds.iter().zip(other_seconds).map(|(own, other)| other / own).collect()
}

/// The smallest and the largest value.
pub(super) fn range(values: &[f64]) -> (f64, f64) {
    (percentile(values, 0), percentile(values, 100))
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn percentiles_are_values_that_occur() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 90), 180.0);
        assert_eq!(percentile(&values, 99), 198.0);
        assert_eq!(range(&values), (1.0, 200.0));
        assert_eq!(percentile(&[5.0], 50), 5.0);
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn the_ratio_is_taken_round_by_round() {
        // The second round was slow for both: ratios of the medians would hide that it was for both.
        assert_eq!(speedups(&[1.0, 10.0, 1.0], &[2.0, 20.0, 2.0]), [2.0, 2.0, 2.0]);
    }
}
