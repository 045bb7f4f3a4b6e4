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
    /// Waits until this time from now. A time too long to represent never expires.
    pub fn timeout(timeout: Duration) -> Wait {
        Instant::now().checked_add(timeout).map_or(Wait::Forever, Wait::Until)
    }

    /// The shorter of this and a time from now.
    pub(crate) fn at_most(self, timeout: Option<Duration>) -> Wait {
        match (self, timeout.map(Wait::timeout)) {
            (Wait::Until(one), Some(Wait::Until(other))) => Wait::Until(one.min(other)),
            (Wait::Forever, Some(limited)) => limited,
            (wait, Some(_) | None) => wait,
        }
    }
}
