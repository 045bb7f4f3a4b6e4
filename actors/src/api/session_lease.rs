//! The proven end of a session, shared by all leases of the session.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::machine::{LeaseState, Moment};
use crate::runtime::clock::Clock;

/// Until when a session is proven to live. All its leases read this one atomic, so their state never waits for a
/// message.
#[derive(Debug)]
pub(crate) struct SessionLease {
    pub clock: Clock,
    /// The session timeout.
    pub timeout: Duration,
    /// The end in nanoseconds, shifted left by one; the lowest bit is set while suspended. Zero means lost, and never
    /// changes again.
    encoded: AtomicU64,
    /// The application has closed the session.
    pub closed: AtomicBool,
    /// Notified when the lease is suspended, resumed or lost, but not when its end passes: waiters set a timer for
    /// that.
    pub changed: Notify,
}

impl SessionLease {
    pub fn new(clock: Clock, timeout: Duration, until: Moment, suspended: bool) -> SessionLease {
        let encoded = AtomicU64::new(encode(until, suspended));
        SessionLease { clock, timeout, encoded, closed: AtomicBool::new(false), changed: Notify::new() }
    }

    pub fn state(&self) -> LeaseState {
        loop {
            let encoded = self.encoded.load(Ordering::SeqCst);
            if encoded == 0 {
                return LeaseState::Lost;
            }
            if self.clock.now() < Moment(encoded >> 1) {
                return if encoded & 1 == 1 { LeaseState::Suspended } else { LeaseState::Held };
            }
            // The first reader to see that the end has passed makes the loss final, so no later heartbeat can undo it.
            if self.encoded.compare_exchange(encoded, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return LeaseState::Lost;
            }
        }
    }

    pub fn valid_until(&self) -> Moment {
        Moment(self.encoded.load(Ordering::SeqCst) >> 1)
    }

    /// How long the session is still proven to live; zero once the lease is lost.
    pub fn left(&self) -> Duration {
        self.valid_until().since(self.clock.now())
    }

    /// Sets a new end and state. Returns `false` if the lease is already lost, which is final.
    pub fn publish(&self, until: Moment, suspended: bool) -> bool {
        let update = |encoded| (encoded != 0).then(|| encode(until, suspended));
        let before = self.encoded.fetch_update(Ordering::SeqCst, Ordering::SeqCst, update);
        if before.is_ok_and(|encoded| (encoded & 1 == 1) != suspended) {
            self.changed.notify_waiters();
        }
        before.is_ok()
    }

    pub fn lose(&self) {
        self.encoded.store(0, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Marks the lease as lost because the session is being closed.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.lose();
    }
}

fn encode(until: Moment, suspended: bool) -> u64 {
    until.0.min(u64::MAX >> 1) << 1 | u64::from(suspended)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_lease_that_expired_while_the_machine_slept_is_lost_on_wakeup() {
        const SECOND: u64 = 1_000_000_000;
        static TIME: AtomicU64 = AtomicU64::new(SECOND);
        let clock = Clock::of_test(&TIME);
        let until = clock.now() + Duration::from_secs(10);
        let lease = SessionLease::new(clock, Duration::from_secs(20), until, false);
        assert_eq!(lease.state(), LeaseState::Held);
        assert!(clock.instant(until) > Instant::now() + Duration::from_secs(5));
        TIME.fetch_add(11 * SECOND, Ordering::SeqCst);
        assert_eq!(lease.state(), LeaseState::Lost);
        assert!(clock.instant(until) < Instant::now());
        assert!(clock.at(until) <= tokio::time::Instant::now());
    }
}
