//! Requests that failed and are to be sent again: when, and how often in a row each has failed.
//!
//! Nothing is repeated without a pause more than once. There is one timer for each request.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Moment;
use super::node::Instance;
use crate::machine::backoff::Backoff;

/// See the module. `K` names a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Retries<K> {
    /// Differs from process to process, so that they do not all come back at once.
    spread: u32,
    failing: BTreeMap<K, Failing>,
    due: BTreeSet<(Moment, K)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Failing {
    /// In a row.
    failures: u32,
    due: Option<Moment>,
}

impl<K: Clone + Ord> Retries<K> {
    pub fn new(instance: Instance) -> Retries<K> {
        Retries { spread: instance.spread(), failing: BTreeMap::new(), due: BTreeSet::new() }
    }

    /// After a lost answer. Says whether to send it again now: only after the first failure in a row, which is
    /// usually a connection that broke once. Otherwise it is due later.
    pub fn again(&mut self, request: &K, now: Moment) -> bool {
        if self.failing.contains_key(request) {
            self.later(request, now);
            return false;
        }
        self.failing.insert(request.clone(), Failing { failures: 1, due: None });
        true
    }

    /// After a refusal: it is due later.
    pub fn later(&mut self, request: &K, now: Moment) {
        let failures = self.failing.get(request).map_or(0, |failing| failing.failures);
        self.after(request, now, Backoff::default().rest(failures, self.spread.into()));
    }

    /// It is due after this time.
    pub fn after(&mut self, request: &K, now: Moment, rest: Duration) {
        self.sent(request);
        let failing = self.failing.entry(request.clone()).or_default();
        failing.failures = failing.failures.saturating_add(1);
        failing.due = Some(now + rest);
        self.due.insert((now + rest, request.clone()));
    }

    /// It is due later.
    pub fn rests(&self, request: &K) -> bool {
        self.failing.get(request).is_some_and(|failing| failing.due.is_some())
    }

    /// It has been sent, and is not due any more.
    pub fn sent(&mut self, request: &K) {
        if let Some(due) = self.failing.get_mut(request).and_then(|failing| failing.due.take()) {
            self.due.remove(&(due, request.clone()));
        }
    }

    /// It succeeded, or nobody wants it any more.
    pub fn done(&mut self, request: &K) {
        self.sent(request);
        self.failing.remove(request);
    }

    /// `to` is sent in place of `from`, and its failures follow upon those.
    pub fn replace(&mut self, from: &K, to: K) {
        self.sent(from);
        if let Some(failing) = self.failing.remove(from) {
            self.failing.insert(to, failing);
        }
    }

    /// None of them will be sent again.
    pub fn clear(&mut self) {
        self.failing.clear();
        self.due.clear();
    }

    /// When the next is due.
    pub fn wakeup(&self) -> Option<Moment> {
        self.due.first().map(|(due, _)| *due)
    }

    /// One that is due.
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
    fn a_lost_answer_is_asked_for_again_at_once_and_then_ever_more_slowly() {
        let mut at_once = Vec::new();
        let lost = pauses(&mut retries(), 9, |retries, now| at_once.push(retries.again(&7, now)));
        assert!(at_once[0] && at_once[1..].iter().all(|at_once| !at_once));
        assert_eq!(lost, [0, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        let refused = pauses(&mut retries(), 3, |retries, now| retries.later(&7, now));
        assert_eq!(refused, [100, 200, 400]);
    }

    #[test]
    fn a_request_has_one_timer_and_none_when_it_is_done() {
        let mut retries = retries();
        retries.later(&7, Moment(0));
        retries.later(&7, Moment(1));
        assert_eq!(retries.pop(Moment(u64::MAX)), Some(7));
        assert_eq!(retries.pop(Moment(u64::MAX)), None);
        retries.later(&7, Moment(2));
        retries.replace(&7, 8);
        assert_eq!(retries.wakeup(), None);
        assert!(!retries.again(&8, Moment(3)), "the failures of what it replaces count");
        retries.done(&8);
        assert_eq!(retries.wakeup(), None);
        assert!(retries.again(&8, Moment(4)));
    }
}
