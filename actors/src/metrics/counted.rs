//! Counters that several metrics share.

use metrics::{Counter, Gauge};

use crate::machine::Failure;

/// Counts one in a gauge until it is dropped.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(super) fn new(gauge: &Gauge) -> Counted {
        gauge.increment(1.0);
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Counts requests to ZooKeeper without an answer.
pub(crate) struct Retries(pub(super) Counter);

impl Retries {
    /// Counts a request if it got no answer.
    pub fn count<T>(&self, answered: &Result<T, Failure>) {
        if let Err(failure) = answered {
            self.failed(failure);
        }
    }

    /// Counts a request that has failed, if it got no answer.
    pub fn failed(&self, failure: &Failure) {
        if matches!(failure, Failure::Unknown(_)) {
            self.0.increment(1);
        }
    }
}
