//! The proven end of a session, shared by everything that depends on it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::machine::{LeaseState, Moment};
use crate::runtime::clock::Clock;

/// How long a session is proven to live: one word that every lease of that session reads, so that their state does not
/// wait for a message.
#[derive(Debug)]
pub(crate) struct SessionLease {
    pub clock: Clock,
    /// Of the session.
    pub timeout: Duration,
    /// The end in nanoseconds, doubled, plus one while suspended. Zero when lost, and then for good.
    word: AtomicU64,
    /// The application ends the session.
    pub closed: AtomicBool,
    /// Notified when it is suspended, resumed or lost, but not when the end is reached: waiters set a timer for that.
    pub changed: Notify,
}

impl SessionLease {
    pub fn new(clock: Clock, timeout: Duration, until: Moment, suspended: bool) -> SessionLease {
        let word = AtomicU64::new(encode(until, suspended));
        SessionLease { clock, timeout, word, closed: AtomicBool::new(false), changed: Notify::new() }
    }

    pub fn state(&self) -> LeaseState {
        loop {
            let word = self.word.load(Ordering::SeqCst);
            if word == 0 {
                return LeaseState::Lost;
            }
            if self.clock.now() < Moment(word >> 1) {
                return if word & 1 == 1 { LeaseState::Suspended } else { LeaseState::Held };
            }
            // The first reader that finds the end passed makes it final, so that no later proof can undo it.
            if self.word.compare_exchange(word, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return LeaseState::Lost;
            }
        }
    }

    pub fn valid_until(&self) -> Moment {
        Moment(self.word.load(Ordering::SeqCst) >> 1)
    }

    /// `false` when the lease is lost already, and stays so.
    pub fn publish(&self, until: Moment, suspended: bool) -> bool {
        let update = |word| (word != 0).then(|| encode(until, suspended));
        let before = self.word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, update);
        if before.is_ok_and(|word| (word & 1 == 1) != suspended) {
            self.changed.notify_waiters();
        }
        before.is_ok()
    }

    pub fn lose(&self) {
        self.word.store(0, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Lost, because the session is being closed.
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
    async fn a_lease_that_ran_out_while_the_machine_slept_is_lost_when_it_wakes() {
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
