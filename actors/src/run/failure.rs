//! Why a run of an application's actor failed.

use std::any::Any;
use std::error::Error;
use std::sync::Arc;

use thiserror::Error;

use super::EndReason;

/// Why a run of an actor failed. A run that was stopped in time, or whose actor stopped by itself, has not failed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum RunFailure {
    /// The actor could not start: creating it, its `pre_start` or its `post_start` failed.
    #[error("the actor could not start: {0}")]
    NotStarted(Crash),
    /// The actor failed after it had started.
    #[error("the actor failed: {0}")]
    Failed(Crash),
    /// The actor was killed, by the application or together with the actors that supervised it.
    #[error("the actor was killed")]
    Killed,
    /// The actor was asked to stop. It took longer than its grace, and was killed.
    #[error("the actor did not stop in time, and was killed")]
    NotStopped,
    /// The lease was suspended, about to end, or lost. So the actor was stopped, or not started.
    #[error("the lease of the actor ended")]
    LeaseEnded {
        /// The actor did not stop in time, and was killed.
        killed: bool,
    },
}

/// How a method of an actor failed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Crash {
    /// It returned this error, which can be downcast.
    #[error(transparent)]
    Error(Arc<dyn Error + Send + Sync>),
    /// It panicked with this text.
    #[error("it panicked: {0}")]
    Panic(String),
}

/// How the actor of a run ended.
#[derive(Clone, Debug)]
pub(crate) enum WorkerEnd {
    /// Its `post_stop` has run to its end.
    Stopped,
    Killed,
    Crashed(Crash),
}

impl RunFailure {
    /// The failure of a run that ended for this reason, if it failed. `started` tells whether its actor had started.
    pub(crate) fn new(reason: EndReason, end: Option<WorkerEnd>, started: bool) -> Option<RunFailure> {
        match (reason, end) {
            (EndReason::Lease, end) => {
                Some(RunFailure::LeaseEnded { killed: matches!(end, Some(WorkerEnd::Killed)) })
            }
            (_, Some(WorkerEnd::Crashed(crash))) if started => Some(RunFailure::Failed(crash)),
            (_, Some(WorkerEnd::Crashed(crash))) => Some(RunFailure::NotStarted(crash)),
            (EndReason::Stopped, Some(WorkerEnd::Killed)) => Some(RunFailure::NotStopped),
            (_, Some(WorkerEnd::Killed)) => Some(RunFailure::Killed),
            (_, Some(WorkerEnd::Stopped) | None) => None,
        }
    }
}

impl Crash {
    pub(crate) fn of_panic(payload: Box<dyn Any + Send>) -> Crash {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
        Crash::Panic(text.unwrap_or("its message is not a text").to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_the_run_decides_before_how_its_actor_ended() {
        let crashed = || Some(WorkerEnd::Crashed(Crash::Panic("on purpose".into())));
        let new = RunFailure::new;
        assert!(matches!(new(EndReason::Failed, crashed(), false), Some(RunFailure::NotStarted(_))));
        assert!(matches!(new(EndReason::Failed, crashed(), true), Some(RunFailure::Failed(_))));
        assert!(matches!(new(EndReason::Stopped, crashed(), true), Some(RunFailure::Failed(_))));
        let killed = || Some(WorkerEnd::Killed);
        assert!(matches!(new(EndReason::Failed, killed(), true), Some(RunFailure::Killed)));
        assert!(matches!(new(EndReason::Stopped, killed(), true), Some(RunFailure::NotStopped)));
        for (end, was_killed) in [(killed(), true), (crashed(), false), (Some(WorkerEnd::Stopped), false)] {
            let Some(RunFailure::LeaseEnded { killed }) = new(EndReason::Lease, end, true) else {
                panic!("the lease ended the run")
            };
            assert_eq!(killed, was_killed);
        }
        for reason in [EndReason::Finished, EndReason::Stopped] {
            assert!(new(reason, Some(WorkerEnd::Stopped), true).is_none(), "{reason:?}");
        }
    }
}
