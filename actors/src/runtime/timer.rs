//! The one timer of an actor that drives a machine.

use tokio::task::AbortHandle;

use super::clock::Clock;
use crate::machine::Moment;

/// Runs something when a machine's wake-up is due. Setting another moment replaces it; dropping it cancels it.
pub(crate) struct Timer {
    clock: Clock,
    precision: Precision,
    set: Option<(Moment, AbortHandle)>,
}

/// What a timer does while the machine sleeps.
#[derive(Clone, Copy)]
pub(crate) enum Precision {
    /// It stops, as Tokio's timers do, and costs nothing while it waits.
    Tokio,
    /// It goes on, as leases do, and wakes up four times a second for that.
    ThroughSleep,
}

impl Timer {
    pub fn new(clock: Clock, precision: Precision) -> Timer {
        Timer { clock, precision, set: None }
    }

    /// Sets it to `due`, unless it is set to that already. `ring` tells the actor, which then calls [`rang`](Timer::rang).
    pub fn set(&mut self, due: Option<Moment>, ring: impl FnOnce() + Send + 'static) {
        if self.set.as_ref().map(|(moment, _)| *moment) == due {
            return;
        }
        self.cancel();
        if let Some(due) = due {
            let (clock, precision) = (self.clock, self.precision);
            let task = tokio::spawn(async move {
                match precision {
                    Precision::Tokio => tokio::time::sleep_until(clock.at(due)).await,
                    Precision::ThroughSleep => clock.sleep_until(due).await,
                }
                ring();
            });
            self.set = Some((due, task.abort_handle()));
        }
    }

    /// It has rung.
    pub fn rang(&mut self) {
        self.set = None;
    }

    fn cancel(&mut self) {
        if let Some((_, task)) = self.set.take() {
            task.abort();
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}
