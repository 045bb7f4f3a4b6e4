//! The timer of an actor that drives a machine.

use tokio::task::AbortHandle;

use super::clock::Clock;
use crate::machine::Moment;

/// Calls a function when a machine's wake-up is due. There is one wake-up at a time; dropping the timer cancels it.
pub(crate) struct Timer {
    precision: Precision,
    set: Option<(Moment, AbortHandle)>,
}

/// How a timer treats sleep of the computer.
#[derive(Clone, Copy)]
pub(crate) enum Precision {
    /// It stops during sleep, as Tokio's timers do, and costs nothing while it waits.
    Tokio,
    /// It includes sleep, as leases do. For that, it wakes up four times a second.
    ThroughSleep,
}

impl Timer {
    pub fn new(precision: Precision) -> Timer {
        Timer { precision, set: None }
    }

    /// Sets the timer to `due` on this clock, unless it is already set to that. `ring` sends a message to the actor, which
    /// must then call [`rang`](Timer::rang).
    pub fn set(&mut self, clock: Clock, due: Option<Moment>, ring: impl FnOnce() + Send + 'static) {
        if self.set.as_ref().map(|(moment, _)| *moment) == due {
            return;
        }
        self.cancel();
        if let Some(due) = due {
            let precision = self.precision;
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

    /// Notes that the timer has fired.
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
