//! Schedules retries of failed requests, and counts the consecutive failures of each.
//!
//! A request is repeated at most once without a pause. There is one timer for each request.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Moment;
use super::node::Instance;
use crate::machine::backoff::Backoff;

/// The failing requests. `K` identifies a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Retries<K> {
    /// A random number that differs between processes, to spread their retries.
    spread: u32,
    failing: BTreeMap<K, Failing>,
    due: BTreeSet<(Moment, K)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Failing {
    /// The number of consecutive failures.
    failures: u32,
    due: Option<Moment>,
}

impl<K: Clone + Ord> Retries<K> {
    pub fn new(instance: Instance) -> Retries<K> {
        Retries { spread: instance.spread(), failing: BTreeMap::new(), due: BTreeSet::new() }
    }

    /// Counts a lost answer. Returns `true` if the request must be sent again now, which is only so after the first of
    /// several consecutive failures: that is usually a broken connection. Otherwise the retry is due later.
    pub fn again(&mut self, request: &K, now: Moment) -> bool {
        if self.failing.contains_key(request) {
            self.later(request, now);
            return false;
        }
        self.failing.insert(request.clone(), Failing { failures: 1, due: None });
        true
    }

    /// Schedules a retry after the usual pause.
    pub fn later(&mut self, request: &K, now: Moment) {
        let failures = self.failing.get(request).map_or(0, |failing| failing.failures);
        self.after(request, now, Backoff::default().rest(failures, self.spread.into()));
    }

    /// Schedules a retry after this pause.
    pub fn after(&mut self, request: &K, now: Moment, rest: Duration) {
        self.sent(request);
        let failing = self.failing.entry(request.clone()).or_default();
        failing.failures = failing.failures.saturating_add(1);
        failing.due = Some(now + rest);
        self.due.insert((now + rest, request.clone()));
    }

    /// Whether a retry of this request is scheduled.
    pub fn rests(&self, request: &K) -> bool {
        self.failing.get(request).is_some_and(|failing| failing.due.is_some())
    }

    /// Cancels the scheduled retry, because the request was sent.
    pub fn sent(&mut self, request: &K) {
        if let Some(due) = self.failing.get_mut(request).and_then(|failing| failing.due.take()) {
            self.due.remove(&(due, request.clone()));
        }
    }

    /// Forgets a request that has succeeded or is no longer needed.
    pub fn done(&mut self, request: &K) {
        self.sent(request);
        self.failing.remove(request);
    }

    /// Replaces request `from` with `to`, which continues the count of failures.
    pub fn replace(&mut self, from: &K, to: K) {
        self.sent(from);
        if let Some(failing) = self.failing.remove(from) {
            self.failing.insert(to, failing);
        }
    }

    /// Forgets all requests.
    pub fn clear(&mut self) {
        self.failing.clear();
        self.due.clear();
    }

    /// When the next retry is due.
    pub fn wakeup(&self) -> Option<Moment> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Removes and returns a request whose retry is due.
    pub fn pop(&mut self, now: Moment) -> Option<K> {
        let request = self.due.first().filter(|(due, _)| *due <= now).map(|(_, request)| request.clone())?;
        self.sent(&request);
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries() -> Retries<u8> {
        Retries::new(Instance::new(u128::MAX))
    }

    fn pauses(
        retries: &mut Retries<u8>,
        times: usize,
        mut fail: impl FnMut(&mut Retries<u8>, Moment),
    ) -> Vec<u128> {
        let mut now = Moment(0);
        (0..times)
            .map(|_| {
                fail(retries, now);
                let due = retries.wakeup().unwrap_or(now);
                assert_eq!(retries.pop(due), (due > now).then_some(7));
                let pause = due.since(now).as_millis();
                now = due;
                pause
            })
            .collect()
    }

    #[test]
    fn a_lost_answer_is_retried_at_once_and_then_after_growing_pauses() {
        let mut at_once = Vec::new();
        let lost = pauses(&mut retries(), 9, |retries, now| at_once.push(retries.again(&7, now)));
        assert!(at_once[0] && at_once[1..].iter().all(|at_once| !at_once));
        assert_eq!(lost, [0, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        let refused = pauses(&mut retries(), 3, |retries, now| retries.later(&7, now));
        assert_eq!(refused, [100, 200, 400]);
    }

    #[test]
    fn a_request_has_one_timer_which_is_removed_when_it_is_done() {
        let mut retries = retries();
        retries.later(&7, Moment(0));
        retries.later(&7, Moment(1));
        assert_eq!(retries.pop(Moment(u64::MAX)), Some(7));
        assert_eq!(retries.pop(Moment(u64::MAX)), None);
        retries.later(&7, Moment(2));
        retries.replace(&7, 8);
        assert_eq!(retries.wakeup(), None);
        assert!(!retries.again(&8, Moment(3)), "the failures of the replaced request count");
        retries.done(&8);
        assert_eq!(retries.wakeup(), None);
        assert!(retries.again(&8, Moment(4)));
    }
}
