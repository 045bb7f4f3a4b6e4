//! When a command is ended, decided from the state of its lease. Pure: times are arguments.
//!
//! ```text
//! Running ──▶ Terminated ──▶ Killed
//! ```

use std::time::Duration;

use lockkeeper::LeaseState;

use super::options::StopOn;

/// What to do to the command's process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Ask it to end: TERM, and CONT, so that a stopped process hears it.
    Terminate,
    /// KILL.
    Kill,
}

/// The lease at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub state: LeaseState,
    /// The proven time that is left.
    pub left: Duration,
}

/// Decides when a group of processes is ended.
#[derive(Clone, Debug)]
pub struct Policy {
    stop_on: StopOn,
    term_before: Duration,
    kill_before: Duration,
    stage: Stage,
    /// Whether the lease was the reason for TERM or KILL.
    lease_is_over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    Terminated,
    Killed,
}

impl Policy {
    pub fn new(stop_on: StopOn, (term_before, kill_before): (Duration, Duration)) -> Policy {
        Policy { stop_on, term_before, kill_before, stage: Stage::Running, lease_is_over: false }
    }

    /// The next order, if any. `alone` is how long ago the command itself has ended, if it has: processes of its group
    /// that are left have as long as they would have between the two signals.
    pub fn decide(&mut self, lease: Lease, alone: Option<Duration>) -> Option<Order> {
        let (by_lease, by_end) = (self.stage_by_lease(lease), self.stage_by_end(alone));
        let wanted = by_lease.max(by_end);
        if wanted <= self.stage {
            return None;
        }
        self.stage = wanted;
        // The command ended by itself before: what its lease does to the rest is not its fault.
        self.lease_is_over |= alone.is_none() && by_lease > Stage::Running;
        Some(if wanted == Stage::Killed { Order::Kill } else { Order::Terminate })
    }

    /// Whether the command was ended because of its lease.
    pub fn lease_is_over(&self) -> bool {
        self.lease_is_over
    }

    /// Whether the group has been asked to end.
    pub fn has_terminated(&self) -> bool {
        self.stage > Stage::Running
    }

    fn stage_by_lease(&self, lease: Lease) -> Stage {
        match lease.state {
            LeaseState::Lost => Stage::Killed,
            _ if lease.left <= self.kill_before => Stage::Killed,
            _ if lease.left <= self.term_before => Stage::Terminated,
            LeaseState::Suspended if self.stop_on == StopOn::Suspended => Stage::Terminated,
            _ => Stage::Running,
        }
    }

    fn stage_by_end(&self, alone: Option<Duration>) -> Stage {
        let grace = self.term_before.saturating_sub(self.kill_before);
        match alone {
            None => Stage::Running,
            Some(alone) if alone < grace => Stage::Terminated,
            Some(_) => Stage::Killed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn policy(stop_on: StopOn) -> Policy {
        Policy::new(stop_on, (seconds(10), seconds(5)))
    }

    fn lease(state: LeaseState, left: u64) -> Lease {
        Lease { state, left: seconds(left) }
    }

    #[test]
    fn a_lease_that_lasts_ends_nothing() {
        let mut policy = policy(StopOn::Ending);
        for left in [40, 11, 30] {
            assert_eq!(policy.decide(lease(LeaseState::Held, left), None), None);
            assert_eq!(policy.decide(lease(LeaseState::Suspended, left), None), None);
        }
        assert!(!policy.lease_is_over() && !policy.has_terminated());
    }

    #[test]
    fn a_lease_that_ends_is_term_then_kill_each_once() {
        let mut policy = policy(StopOn::Ending);
        let suspended = |left| lease(LeaseState::Suspended, left);
        let orders = [12, 10, 8, 5, 3, 0].map(|left| policy.decide(suspended(left), None));
        assert_eq!(orders, [None, Some(Order::Terminate), None, Some(Order::Kill), None, None]);
        assert!(policy.lease_is_over());
    }

    #[test]
    fn a_lease_that_is_lost_is_kill_at_once() {
        let mut policy = policy(StopOn::Ending);
        assert_eq!(policy.decide(lease(LeaseState::Lost, 0), None), Some(Order::Kill));
        assert_eq!(policy.decide(lease(LeaseState::Lost, 0), None), None);
    }

    #[test]
    fn a_command_that_was_asked_to_end_is_not_spared_by_a_lease_that_recovers() {
        let mut policy = policy(StopOn::Ending);
        assert_eq!(policy.decide(lease(LeaseState::Suspended, 9), None), Some(Order::Terminate));
        assert_eq!(policy.decide(lease(LeaseState::Held, 40), None), None);
        assert!(policy.lease_is_over(), "and it is still the lease that ended it");
    }

    #[test]
    fn a_suspension_is_term_if_the_user_wants_that() {
        let mut policy = policy(StopOn::Suspended);
        assert_eq!(policy.decide(lease(LeaseState::Held, 30), None), None);
        assert_eq!(policy.decide(lease(LeaseState::Suspended, 30), None), Some(Order::Terminate));
        assert_eq!(policy.decide(lease(LeaseState::Suspended, 11), None), None);
        assert_eq!(policy.decide(lease(LeaseState::Suspended, 5), None), Some(Order::Kill));
    }

    #[test]
    fn processes_that_the_command_leaves_behind_are_ended_without_blaming_the_lease() {
        let mut policy = policy(StopOn::Ending);
        let held = lease(LeaseState::Held, 30);
        assert_eq!(policy.decide(held, Some(seconds(0))), Some(Order::Terminate));
        assert_eq!(policy.decide(held, Some(seconds(4))), None);
        assert_eq!(policy.decide(held, Some(seconds(5))), Some(Order::Kill));
        assert!(!policy.lease_is_over());
        let mut policy = self::policy(StopOn::Ending);
        assert_eq!(policy.decide(lease(LeaseState::Suspended, 4), Some(seconds(0))), Some(Order::Kill));
    }
}
