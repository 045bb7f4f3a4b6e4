//! The pauses after consecutive failures.

use std::time::Duration;

/// Pauses that double from `initial` to `maximum`. Each is shortened by a random part of up to a half, so that many
/// processes do not retry at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure.
    pub initial: Duration,
    /// The longest pause.
    pub maximum: Duration,
}

impl Default for Backoff {
    /// From a tenth of a second to five seconds.
    fn default() -> Backoff {
        Backoff { initial: Duration::from_millis(100), maximum: Duration::from_secs(5) }
    }
}

impl Backoff {
    /// The pause after a failure that follows this many others.
    pub fn rest(&self, failures: u32, random: u128) -> Duration {
        let random = f64::from(random as u32) / f64::from(u32::MAX);
        let full = self.initial.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
        full.min(self.maximum).min(LONGEST).mul_f64(0.5 + 0.5 * random).max(SHORTEST)
    }
}

/// The pauses of one task between failed attempts.
#[derive(Debug)]
pub(crate) struct Rests {
    failures: u32,
    /// A random number that differs between processes.
    spread: u32,
}

impl Rests {
    pub fn new(spread: u32) -> Rests {
        Rests { failures: 0, spread }
    }

    /// Counts another failure, and returns the pause after it.
    pub fn next(&mut self) -> Duration {
        let rest = Backoff::default().rest(self.failures, self.spread.into());
        self.failures = self.failures.saturating_add(1);
        rest
    }

    /// Resets the pauses after a success.
    pub fn end(&mut self) {
        self.failures = 0;
    }
}

/// The minimum pause, even if the settings say zero.
const SHORTEST: Duration = Duration::from_millis(1);

/// The maximum pause, a century. A part of the longest `Duration` cannot always be computed.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_maximum_and_at_most_half_is_random() {
        let backoff = Backoff::default();
        let rests =
            [0, 1, 2, 5, 6, 40, u32::MAX].map(|failures| backoff.rest(failures, u128::MAX).as_millis());
        assert_eq!(rests, [100, 200, 400, 3200, 5000, 5000, 5000]);
        assert_eq!(backoff.rest(0, 0), Duration::from_millis(50));
        let none = Backoff { initial: Duration::ZERO, maximum: Duration::ZERO };
        assert_eq!(none.rest(7, 7), SHORTEST);
        let endless = Backoff { initial: Duration::MAX, maximum: Duration::MAX };
        assert_eq!(endless.rest(0, u128::MAX), LONGEST);
    }
}
