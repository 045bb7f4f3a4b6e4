//! The one clock of the drivers.

use std::time::Instant;

use crate::machine::Moment;

/// Tells the time in [`Moment`]s since it was made. Monotonic; it follows Tokio's clock, which tests can pause.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    /// A clock that begins now, at one: zero is kept for "never".
    pub fn start() -> Clock {
        Clock { origin: tokio::time::Instant::now() - std::time::Duration::from_nanos(1) }
    }

    /// The time.
    pub fn now(&self) -> Moment {
        Moment::default() + self.origin.elapsed()
    }

    /// A moment on Tokio's clock; one too far ahead to be told is a century ahead.
    pub fn at(&self, moment: Moment) -> tokio::time::Instant {
        const CENTURY: std::time::Duration = std::time::Duration::from_secs(100 * 366 * 24 * 3600);
        self.origin + moment.since(Moment::default()).min(CENTURY)
    }

    /// The same for those who do not know Tokio.
    pub fn instant(&self, moment: Moment) -> Instant {
        self.at(moment).into_std()
    }
}
