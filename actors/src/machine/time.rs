//! Time in the machines: a number that the driver passes in.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time on the clock of a machine's driver: nanoseconds since that clock's origin.
///
/// It is a number, not an `Instant`, so that a machine's state can be hashed and compared, a model can start at zero,
/// and a lease's end fits into an atomic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// The time from `earlier` to this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;

    /// Stops at the clock's origin.
    fn sub(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// Saturates at the latest moment, which is never reached.
    fn add(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}
