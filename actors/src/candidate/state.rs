//! What a candidate reports: its states, and the failures of its runs.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ractor::ActorRef;
use tracing::warn;

use crate::api::event::Refused;
use crate::api::lease_view::LeaseView;
use crate::api::token::FencingToken;
use crate::run::failure::RunFailure;

/// The state of a candidate. `M` is the message type of the singleton's actor.
#[non_exhaustive]
pub enum CandidateState<M> {
    /// Another member leads, or ZooKeeper has not answered yet.
    Waiting,
    /// This member holds the lock, and the actor is starting: `pre_start` or `post_start` has not finished.
    Starting(LeaseView),
    /// The actor runs here: `pre_start` and `post_start` have finished.
    #[non_exhaustive]
    Running {
        /// The lease of this run, with its fencing token.
        lease: LeaseView,
        /// The actor of this run. It does not take messages after the run, and the actor of the next run is another one.
        actor: ActorRef<M>,
    },
    /// The actor has ended, and the lock is being released.
    Releasing,
    /// The candidate pauses before the next attempt.
    #[non_exhaustive]
    Resting {
        /// Why the last attempt failed.
        reason: RestReason,
    },
    /// The candidate was shut down, or its keeper was closed.
    Over,
}

impl<M> Clone for CandidateState<M> {
    fn clone(&self) -> CandidateState<M> {
        match self {
            CandidateState::Waiting => CandidateState::Waiting,
            CandidateState::Starting(lease) => CandidateState::Starting(lease.clone()),
            CandidateState::Running { lease, actor } => {
                CandidateState::Running { lease: lease.clone(), actor: actor.clone() }
            }
            CandidateState::Releasing => CandidateState::Releasing,
            CandidateState::Resting { reason } => CandidateState::Resting { reason: reason.clone() },
            CandidateState::Over => CandidateState::Over,
        }
    }
}

impl<M> fmt::Debug for CandidateState<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CandidateState::Waiting => f.write_str("Waiting"),
            CandidateState::Starting(lease) => f.debug_tuple("Starting").field(lease).finish(),
            CandidateState::Running { lease, actor } => {
                f.debug_struct("Running").field("lease", lease).field("actor", &actor.get_id()).finish()
            }
            CandidateState::Releasing => f.write_str("Releasing"),
            CandidateState::Resting { reason } => f.debug_struct("Resting").field("reason", reason).finish(),
            CandidateState::Over => f.write_str("Over"),
        }
    }
}

/// Why a candidate pauses before its next attempt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RestReason {
    /// The actor stopped by itself.
    Finished,
    /// The run failed.
    Failed(RunFailure),
    /// The lock was not granted.
    Refused(Refused),
}

impl fmt::Display for RestReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestReason::Finished => f.write_str("the actor stopped by itself"),
            RestReason::Failed(failure) => failure.fmt(f),
            RestReason::Refused(Refused::Failed(error)) => error.fmt(f),
            RestReason::Refused(refused) => write!(f, "the request for the lock ended: {refused:?}"),
        }
    }
}

/// A run of a singleton's actor has failed in this process.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunFailed {
    /// The singleton's path.
    pub path: String,
    /// The fencing token of the run.
    pub token: FencingToken,
    /// Why it failed.
    pub failure: RunFailure,
}

/// Is told of each failed run.
#[derive(Clone)]
pub struct Supervisor(Arc<dyn Fn(RunFailed) + Send + Sync>);

impl Supervisor {
    /// `tell` is called by actors of this crate, and must not block. After a panic, the failure is only logged.
    pub fn new(tell: impl Fn(RunFailed) + Send + Sync + 'static) -> Supervisor {
        Supervisor(Arc::new(tell))
    }

    pub(super) fn tell(&self, failed: RunFailed) {
        let path = failed.path.clone();
        if catch_unwind(AssertUnwindSafe(|| (self.0)(failed))).is_err() {
            warn!(path, "the function that tells the supervisor of a failed run panicked");
        }
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").finish_non_exhaustive()
    }
}
