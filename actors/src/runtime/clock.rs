//! The clock of leases and machines.

use std::time::{Duration, Instant};

use crate::machine::Moment;

/// A monotonic clock. It counts [`Moment`]s from its creation.
///
/// A lease also runs out while the machine sleeps, so its clock must not stop during sleep. On Linux and Android this
/// is `CLOCK_BOOTTIME`. Elsewhere it is the clock of [`Instant`], which stops during sleep on macOS: there, after a
/// sleep, a lease seems valid until the next heartbeat shows that the session is gone.
///
/// Tokio's timers stop during sleep. A timer that must not be late uses [`Clock::sleep_until`].
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    source: Source,
    /// The source's time when the clock was created.
    origin: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Machine(Instant),
    Tokio(tokio::time::Instant),
    #[cfg(test)]
    Test(&'static std::sync::atomic::AtomicU64),
}

impl Clock {
    /// A clock that starts at one now. Zero is reserved for "never".
    pub fn start() -> Clock {
        Clock::of(Source::Machine(Instant::now()))
    }

    /// A clock that follows Tokio's clock, which tests can pause.
    pub fn of_tokio() -> Clock {
        Clock::of(Source::Tokio(tokio::time::Instant::now()))
    }

    /// A clock that tests set, in nanoseconds.
    #[cfg(test)]
    pub fn of_test(time: &'static std::sync::atomic::AtomicU64) -> Clock {
        Clock::of(Source::Test(time))
    }

    fn of(source: Source) -> Clock {
        Clock { source, origin: source.time() }
    }

    /// The current time.
    pub fn now(&self) -> Moment {
        Moment(1) + self.source.time().saturating_sub(self.origin)
    }

    /// Converts a moment to Tokio's clock, assuming no sleep until then. A moment that has passed becomes now, and one
    /// that is too far ahead becomes a century from now.
    pub fn at(&self, moment: Moment) -> tokio::time::Instant {
        // In this order, so that the result is never too early.
        let left = self.left(moment);
        tokio::time::Instant::now() + left
    }

    /// Waits until this moment, never less. If the machine sleeps meanwhile, it ends at most a quarter of a second
    /// late.
    pub async fn sleep_until(self, moment: Moment) {
        const SLICE: Duration = Duration::from_millis(250);
        loop {
            let left = self.left(moment);
            let sliced = match self.source {
                Source::Tokio(_) => left,
                Source::Machine(_) => left.min(SLICE),
                #[cfg(test)]
                Source::Test(_) => left.min(SLICE),
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(sliced).await;
        }
    }

    /// Converts a moment to an [`Instant`]. The result is too late once the machine has slept afterwards.
    pub fn instant(&self, moment: Moment) -> Instant {
        let (now, instant) = (self.now(), tokio::time::Instant::now().into_std());
        match now < moment {
            true => instant + self.left(moment),
            false => instant.checked_sub(now.since(moment)).unwrap_or(instant),
        }
    }

    fn left(&self, moment: Moment) -> Duration {
        const CENTURY: Duration = Duration::from_secs(100 * 366 * 24 * 3600);
        moment.since(self.now()).min(CENTURY)
    }
}

impl Source {
    /// The time since boot, or since the source was created.
    fn time(self) -> Duration {
        match self {
            Source::Machine(made) => since_boot().unwrap_or_else(|| made.elapsed()),
            Source::Tokio(made) => made.elapsed(),
            #[cfg(test)]
            Source::Test(nanos) => Duration::from_nanos(nanos.load(std::sync::atomic::Ordering::SeqCst)),
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn since_boot() -> Option<Duration> {
    rustix::time::clock_gettime(rustix::time::ClockId::Boottime).try_into().ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn since_boot() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Fails only where the two clocks differ: on a machine that has slept, or in a time namespace
    /// (`unshare --time --boottime 86400`).
    #[cfg(target_os = "linux")]
    #[test]
    fn the_clock_counts_from_boot_and_includes_sleep() {
        let boottime = || rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
        let before = boottime();
        let clock = Clock::start();
        assert!((before..=boottime()).contains(&(clock.origin.as_secs() as i64)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_was_due_while_the_machine_slept_fires_soon_after() {
        static TIME: AtomicU64 = AtomicU64::new(SECOND);
        let clock = Clock::of_test(&TIME);
        let mut timer = std::pin::pin!(clock.sleep_until(clock.now() + Duration::from_secs(10)));
        assert!(futures::poll!(timer.as_mut()).is_pending());
        TIME.fetch_add(11 * SECOND, Ordering::SeqCst);
        let begun = tokio::time::Instant::now();
        timer.await;
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}
