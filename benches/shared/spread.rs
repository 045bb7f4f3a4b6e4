//! The middle of repeated measurements, and how far they are apart.

/// The median and the quartiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    /// There must be at least one value.
    pub fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let at = |part| percentile(&values, part);
        Spread { low: at(0.25), median: at(0.5), high: at(0.75) }
    }

    /// The ratios of values that were measured in the same round, so that what slows down a whole round cancels out.
    pub fn of_ratios(values: &[f64], others: &[f64]) -> Spread {
        Spread::of(values.iter().zip(others).map(|(value, other)| value / other).collect())
    }
}

/// The value below which this part of the values is. They must be sorted, and there must be at least one.
pub fn percentile(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

#[cfg(test)]
mod tests {
    // Benches without a harness compile this module without its tests, and an import would be unused.

    #[test]
    fn the_order_of_the_values_does_not_matter() {
        let spread = super::Spread { low: 2.0, median: 3.0, high: 4.0 };
        assert_eq!(super::Spread::of(vec![5.0, 1.0, 4.0, 2.0, 3.0]), spread);
        assert_eq!(super::Spread::of(vec![7.0]), super::Spread { low: 7.0, median: 7.0, high: 7.0 });
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The second round was slow for both.
        let ratio = super::Spread::of_ratios(&[100.0, 10.0, 90.0], &[50.0, 5.0, 45.0]);
        assert_eq!(ratio, super::Spread { low: 2.0, median: 2.0, high: 2.0 });
    }

    #[test]
    fn the_highest_percentile_is_the_last_value() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(
            [0.0, 0.5, 0.9, 1.0].map(|part| super::percentile(&values, part)),
            [0.0, 50.0, 90.0, 100.0]
        );
    }
}
