//! The machines that decide: no I/O, no clock, no spawning. Events and the time go in, [`protocol::Command`]s
//! come out, and a driver carries them out. `clippy.toml` beside this crate's manifest keeps it so.

#![deny(clippy::disallowed_methods)]

pub mod backoff;
pub mod candidate;
pub mod lock;
pub mod multi_lock;
pub mod node;
mod retries;
pub mod run;
pub mod semaphore;
pub mod session;

pub use candidate as singleton;
pub use lock as queue;
pub use lock::protocol;
pub use multi_lock as multi;
pub use node as znode;
pub use run as tenure;

use std::ops::Add;
use std::time::Duration;

/// What drives one path's requests; a driver needs no more of it.
pub trait Machine: Send + 'static {
    /// The one way in. Commands are to be carried out in the order in which they come.
    fn handle(&mut self, event: protocol::Event, now: Moment, out: &mut Vec<protocol::Command>);
    /// When [`Event::Wake`](protocol::Event::Wake) is due next.
    fn wakeup(&self) -> Option<Moment>;
    /// Nobody wants anything, and no node is left to clean up.
    fn is_idle(&self) -> bool;
    /// Grants may be given out.
    fn is_up(&self) -> bool;
}

/// A point in time on the clock of whoever drives a machine: nanoseconds since that clock's origin.
///
/// A number instead of an `Instant`, so that a machine's state can be hashed and compared, a model can start
/// at zero, and a lease's end fits into an atomic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// Saturates: a time too far away to be counted never comes.
    fn add(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}
