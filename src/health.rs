//! Whether a keeper can acquire and keep locks now, for the probes of an orchestrator.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, join};
use lockkeeper_actors::api::error::{AcquireError, ReleaseError};
use lockkeeper_actors::api::keeper_state::SessionStatus;
use lockkeeper_actors::api::messages::RegistryMessage;
use ractor::{ActorRef, Message};
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::handle::Shared;
use crate::lock::Lock;
use crate::marker::Read;
use crate::options::LockOptions;

/// The health of a keeper, from [`Keeper::health`](crate::Keeper::health).
///
/// `Display` gives one line for the body of a probe's response.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// The status of the session.
    pub status: SessionStatus,
    /// How long the leases of the session were still proven when the check began. Zero without a session.
    pub margin: Duration,
    /// The timeout of the newest session.
    pub session_timeout: Duration,
    /// How long it took to acquire and release a lock.
    pub probe: Result<Duration, ProbeError>,
    /// The keeper's actors have answered.
    answered: bool,
}

impl Health {
    /// Whether a lock can be acquired and kept now: the session is connected, its leases are proven for at least three
    /// eighths of the session timeout, and a lock was acquired and released within a tenth of it.
    ///
    /// For a *readiness* probe, which takes traffic from this process and returns it later. Leases are suspended when
    /// they are proven for less than five sixteenths, so this is false before that happens to a lock that is held.
    pub fn is_ready(&self) -> bool {
        let kept = self.margin >= self.session_timeout * 3 / 8;
        self.status == SessionStatus::Connected && kept && self.probe.is_ok()
    }

    /// Whether the keeper works, although ZooKeeper may be out of reach: it is not closed, has not given up, and its
    /// actors answer.
    ///
    /// For a *liveness* probe, which restarts this process. While ZooKeeper is out of reach this stays true: a restart
    /// would not help, and would lose the process's place in every queue. [`Keeper::is_alive`](crate::Keeper::is_alive)
    /// answers the same question without a request to a server.
    pub fn is_alive(&self) -> bool {
        self.status != SessionStatus::Closed && self.answered
    }
}

/// Why no lock was acquired and released.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeError {
    /// It was not tried, because the session is suspended or lost, or the keeper is closed.
    #[error("there is no verified session")]
    Disconnected,
    /// The server has not answered in time.
    #[error("no lock was acquired and released within {limit:?}")]
    TimedOut {
        /// A tenth of the session timeout.
        limit: Duration,
    },
    /// The lock was not acquired.
    #[error(transparent)]
    NotAcquired(#[from] AcquireError),
    /// The lock was acquired, and lost before its release was confirmed.
    #[error(transparent)]
    NotReleased(#[from] ReleaseError),
}

impl ProbeError {
    /// Whether a later check can succeed without a change to the code or the cluster.
    pub fn is_retryable(&self) -> bool {
        match self {
            // The next check acquires another lock.
            ProbeError::Disconnected | ProbeError::TimedOut { .. } | ProbeError::NotReleased(_) => true,
            ProbeError::NotAcquired(error) => error.is_retryable(),
        }
    }
}

/// A check of a keeper's health, from [`Keeper::health`](crate::Keeper::health). Await it, or have it answered
/// [by message](HealthCheck::forward).
#[must_use = "futures do nothing unless polled"]
pub struct HealthCheck(BoxFuture<'static, Health>);

impl HealthCheck {
    pub(crate) fn new(shared: Arc<Shared>) -> HealthCheck {
        HealthCheck(Box::pin(check(shared)))
    }

    /// Checks now, and sends the result to `actor` as a message, which `convert` makes. For message handlers, which
    /// should not wait.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn forward<M: Message>(
        self,
        actor: &ActorRef<M>,
        convert: impl FnOnce(Health) -> M + Send + 'static,
    ) {
        let actor = actor.clone();
        tokio::spawn(async move {
            // The actor may have ended.
            let _ = actor.cast(convert(self.await));
        });
    }
}

impl Future for HealthCheck {
    type Output = Health;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Health> {
        self.0.as_mut().poll(context)
    }
}

/// Whether the keeper's actors answer within the time of a check. Asks no server.
pub(crate) async fn is_alive(shared: &Shared) -> bool {
    let limit = shared.started.state.borrow().session_timeout / PART;
    let answered = timeout(limit, margin(shared)).await.is_ok();
    answered && shared.started.state.borrow().status != SessionStatus::Closed
}

async fn check(shared: Arc<Shared>) -> Health {
    let state = *shared.started.state.borrow();
    let limit = state.session_timeout / PART;
    let (margin, probe) = join(timeout(limit, margin(&shared)), timeout(limit, probe(&shared))).await;
    let status = shared.started.state.borrow().status;
    Health {
        status,
        answered: margin.is_ok(),
        margin: margin.ok().flatten().unwrap_or_default(),
        session_timeout: state.session_timeout,
        probe: probe.unwrap_or(Err(ProbeError::TimedOut { limit })),
    }
}

/// The part of the session timeout that a check may take. It is shorter than the interval of heartbeats, an eighth, so
/// that a server that does not answer any more fails a check before it suspends a lease. It is long enough for the two
/// round trips of servers that are near enough for the timeout.
const PART: u32 = 10;

/// How long leases are still proven; `None` if the keeper is closed.
async fn margin(shared: &Shared) -> Option<Duration> {
    let (reply, margin) = oneshot::channel();
    shared.send(RegistryMessage::Margin(reply.into()));
    margin.await.ok()
}

/// Acquires and releases the lock for probes. Readers do not exclude each other, so all processes can use one path.
async fn probe(shared: &Arc<Shared>) -> Result<Duration, ProbeError> {
    if shared.started.state.borrow().status != SessionStatus::Connected {
        return Err(ProbeError::Disconnected);
    }
    let begun = Instant::now();
    // The server removes a container when it is empty, so that nothing is left behind.
    let options = LockOptions::new().container_directories(true).uncounted();
    let path = &shared.health_path;
    // The path was checked when the keeper was connected.
    let lock = Lock::<Read>::new(shared, path, options).map_err(|invalid| AcquireError::Rejected {
        path: path.to_string(),
        reason: invalid.reason.into(),
    })?;
    lock.acquire().await?.release().await?;
    Ok(begun.elapsed())
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match self.status {
            SessionStatus::Connected => "connected",
            SessionStatus::Suspended => "suspended",
            SessionStatus::Lost => "no session",
            SessionStatus::Closed => "closed",
            _ => "unknown",
        };
        let (margin, timeout) = (self.margin, self.session_timeout);
        write!(f, "{status}; leases are proven for {margin:.1?} of {timeout:?}; ")?;
        match &self.probe {
            Ok(took) => write!(f, "a lock was acquired and released in {took:.1?}")?,
            Err(error) => write!(f, "{error}")?,
        }
        f.write_str(if self.answered { "" } else { "; the keeper does not answer" })
    }
}

impl fmt::Debug for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthCheck").finish_non_exhaustive()
    }
}
