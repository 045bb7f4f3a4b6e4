//! How long to rest after failures in a row.

use std::time::Duration;

/// Doubles from the first rest to the longest, less a random part of up to a half, so that many processes do not come
/// back at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub initial: Duration,
    /// After many.
    pub maximum: Duration,
}

impl Default for Backoff {
    /// From a tenth of a second to five seconds.
    fn default() -> Backoff {
        Backoff { initial: Duration::from_millis(100), maximum: Duration::from_secs(5) }
    }
}

impl Backoff {
    /// The rest after a failure behind so many others.
    pub fn rest(&self, failures: u32, random: u128) -> Duration {
        let random = f64::from(random as u32) / f64::from(u32::MAX);
        let full = self.initial.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
        full.min(self.maximum).mul_f64(0.5 + 0.5 * random).max(SHORTEST)
    }
}

/// The rests of one task, between tries that fail.
#[derive(Debug)]
pub(crate) struct Rests {
    failures: u32,
    /// Differs from process to process.
    spread: u32,
}

impl Rests {
    pub fn new(spread: u32) -> Rests {
        Rests { failures: 0, spread }
    }

    /// Another failure in a row: how long to rest now.
    pub fn next(&mut self) -> Duration {
        let rest = Backoff::default().rest(self.failures, self.spread.into());
        self.failures = self.failures.saturating_add(1);
        rest
    }

    /// It succeeded.
    pub fn end(&mut self) {
        self.failures = 0;
    }
}

/// Whatever is asked for: nobody is to be asked without a pause.
const SHORTEST: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_the_longest_and_less_than_half_is_left_to_chance() {
        let backoff = Backoff::default();
        let rests =
            [0, 1, 2, 5, 6, 40, u32::MAX].map(|failures| backoff.rest(failures, u128::MAX).as_millis());
        assert_eq!(rests, [100, 200, 400, 3200, 5000, 5000, 5000]);
        assert_eq!(backoff.rest(0, 0), Duration::from_millis(50));
        let none = Backoff { initial: Duration::ZERO, maximum: Duration::ZERO };
        assert_eq!(none.rest(7, 7), SHORTEST);
    }
}
