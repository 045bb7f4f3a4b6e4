//! How long a request waits.

use std::time::{Duration, Instant};

/// How long a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// Not at all: it is refused with [`Refused::Contended`](crate::error::Refused::Contended) if it would have to wait.
    Try,
    /// Until this moment.
    Until(Instant),
    /// Until it is granted, cancelled or refused for another reason.
    Forever,
}

impl Wait {
    /// Waits until this time from now. Zero is a [`Try`](Wait::Try), as for
    /// [`acquire_timeout`](crate::Lock::acquire_timeout). A time too long to represent never expires.
    pub fn timeout(timeout: Duration) -> Wait {
        match timeout.is_zero() {
            true => Wait::Try,
            false => Instant::now().checked_add(timeout).map_or(Wait::Forever, Wait::Until),
        }
    }

    /// The shorter of this and a time from now.
    pub(crate) fn at_most(self, timeout: Option<Duration>) -> Wait {
        match (self, timeout.map(Wait::timeout)) {
            (Wait::Until(one), Some(Wait::Until(other))) => Wait::Until(one.min(other)),
            (_, Some(Wait::Try)) => Wait::Try,
            (Wait::Forever, Some(limited)) => limited,
            (wait, Some(_) | None) => wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_of_zero_is_a_try_whatever_it_limits() {
        assert_eq!(Wait::timeout(Duration::ZERO), Wait::Try);
        assert!(matches!(Wait::timeout(Duration::from_nanos(1)), Wait::Until(_)));
        assert_eq!(Wait::timeout(Duration::MAX), Wait::Forever);
        for wait in [Wait::Try, Wait::timeout(Duration::from_secs(1)), Wait::Forever] {
            assert_eq!(wait.at_most(Some(Duration::ZERO)), Wait::Try);
            assert_eq!(wait.at_most(None), wait);
        }
    }
}
