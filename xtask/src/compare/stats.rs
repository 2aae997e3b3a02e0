//! The few statistics that the table needs.

use std::fmt;

/// The middle value, or the mean of the two in the middle; NaN for none.
pub(crate) fn median(values: &[f64]) -> f64 {
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

/// How many times one contestant's time is another's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    /// Of the medians over the rounds.
    pub(crate) median: f64,
    /// The smallest and the largest of any one round.
    pub(crate) range: (f64, f64),
}

impl Ratio {
    /// From each round's time.
    pub(crate) fn of(times: &[f64], other_times: &[f64]) -> Self {
        let rounds: Vec<f64> = times.iter().zip(other_times).map(|(time, other)| time / other).collect();
        Self { median: median(times) / median(other_times), range: range(&rounds) }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (min, max) = self.range;
        write!(f, "{:.2}x ({min:.2}\u{2013}{max:.2})", self.median)
    }
}

/// The smallest and the largest value.
pub(crate) fn range(values: &[f64]) -> (f64, f64) {
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
    fn a_ratio_is_of_medians_and_its_range_of_rounds() {
        // The second round was slow for both, which the range does not show.
        let ratio = Ratio::of(&[2.0, 20.0, 3.0], &[1.0, 10.0, 1.0]);
        assert_eq!(ratio, Ratio { median: 3.0, range: (2.0, 3.0) });
        assert_eq!(ratio.to_string(), "3.00x (2.00\u{2013}3.00)");
    }
}
