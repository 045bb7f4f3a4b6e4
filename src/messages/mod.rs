//! The message protocol: locks, semaphores and multi-locks as actors.
//!
//! [`Lock::actor`](crate::Lock::actor), [`Semaphore::actor`](crate::Semaphore::actor) and
//! [`MultiLock::actor`](crate::MultiLock::actor) return a ractor reference that takes the messages of this module, so
//! that `cast!`, `call!` and `call_t!` work. The reference is good for as long as a clone of its handle exists. It is
//! local to this process.
//!
//! Every message with a reply port is answered, also by a keeper that is closing or closed.

mod actor;
mod lock;
mod multi_lock;
mod semaphore;

use std::time::{Duration, Instant};

pub(crate) use self::actor::{Address, Recipient, reply_with};
pub use self::lock::LockMessage;
pub use self::multi_lock::MultiLockMessage;
pub use self::semaphore::SemaphoreMessage;

/// How long a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// Not at all: it is refused with [`Refused::Contended`](crate::Refused::Contended) if it would have to wait.
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
    fn at_most(self, timeout: Option<Duration>) -> Wait {
        match (self, timeout.map(Wait::timeout)) {
            (Wait::Until(one), Some(Wait::Until(other))) => Wait::Until(one.min(other)),
            (Wait::Forever, Some(limited)) => limited,
            (wait, Some(_) | None) => wait,
        }
    }
}
