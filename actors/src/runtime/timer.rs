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

    /// Notes that the timer has fired. It may have been set again since, after the message of an earlier time was sent:
    /// that is cancelled, so that there is never more than one.
    pub fn rang(&mut self) {
        self.cancel();
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_late_message_leaves_one_timer() {
        let (clock, (rings, mut rung)) = (Clock::start(), unbounded_channel());
        let mut timer = Timer::new(Precision::Tokio);
        let set = |timer: &mut Timer, due: Moment| {
            let rings = rings.clone();
            timer.set(clock, Some(due), move || rings.send(due).expect("received"));
        };
        let first = clock.now() + Duration::from_secs(1);
        let second = first + Duration::from_secs(1);
        set(&mut timer, first);
        assert_eq!(rung.recv().await, Some(first));
        // The actor handles another message first, which sets the timer, and then that of the first time.
        set(&mut timer, second);
        timer.rang();
        set(&mut timer, second);
        assert_eq!(rung.recv().await, Some(second));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(rung.try_recv().ok(), None, "it rings once");
    }
}
