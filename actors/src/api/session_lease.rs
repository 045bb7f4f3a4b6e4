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
    use std::pin::pin;
    use std::time::Instant;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Whether waiters are notified meanwhile.
    async fn notifies(lease: &SessionLease, change: impl FnOnce()) -> bool {
        let mut changed = pin!(lease.changed.notified());
        changed.as_mut().enable();
        change();
        futures::poll!(changed).is_ready()
    }

    #[tokio::test]
    async fn waiters_are_notified_of_another_state_but_not_of_another_end() {
        static TIME: AtomicU64 = AtomicU64::new(SECOND);
        let clock = Clock::of_test(&TIME);
        let after = |seconds| clock.now() + Duration::from_secs(seconds);
        let lease = SessionLease::new(clock, Duration::from_secs(20), after(10), false);
        for (seconds, suspended, notified) in
            [(11, false, false), (11, true, true), (12, true, false), (13, false, true)]
        {
            let published = notifies(&lease, || assert!(lease.publish(after(seconds), suspended))).await;
            assert_eq!(published, notified, "{seconds} s, suspended: {suspended}");
            assert_eq!(lease.state() == LeaseState::Suspended, suspended);
            assert_eq!(lease.valid_until(), after(seconds));
            assert_eq!(lease.left(), Duration::from_secs(seconds));
        }
        assert!(lease.publish(Moment(1 << 63), false), "an end that does not fit is the latest that does");
        assert_eq!((lease.state(), lease.valid_until()), (LeaseState::Held, Moment(u64::MAX >> 1)));
    }

    #[tokio::test]
    async fn a_lease_that_was_lost_or_closed_stays_lost() {
        static TIME: AtomicU64 = AtomicU64::new(SECOND);
        let clock = Clock::of_test(&TIME);
        let until = clock.now() + Duration::from_secs(10);
        for closes in [false, true] {
            let lease = SessionLease::new(clock, Duration::from_secs(20), until, true);
            assert_eq!(lease.state(), LeaseState::Suspended);
            let end = || if closes { lease.close() } else { lease.lose() };
            assert!(notifies(&lease, end).await);
            assert_eq!(lease.closed.load(Ordering::SeqCst), closes);
            assert!(!lease.publish(until, false));
            assert_eq!((lease.state(), lease.left()), (LeaseState::Lost, Duration::ZERO));
        }
    }

    #[test]
    fn a_lease_is_lost_at_its_end_and_no_heartbeat_undoes_that() {
        static TIME: AtomicU64 = AtomicU64::new(SECOND);
        let clock = Clock::of_test(&TIME);
        let until = clock.now() + Duration::from_secs(10);
        let lease = SessionLease::new(clock, Duration::from_secs(20), until, false);
        TIME.fetch_add(10 * SECOND - 1, Ordering::SeqCst);
        assert_eq!(lease.state(), LeaseState::Held);
        TIME.fetch_add(1, Ordering::SeqCst);
        assert_eq!(lease.state(), LeaseState::Lost);
        assert!(!lease.publish(until + Duration::from_secs(10), false));
        assert_eq!(lease.state(), LeaseState::Lost);
    }

    #[tokio::test]
    async fn a_lease_that_expired_while_the_machine_slept_is_lost_on_wakeup() {
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
