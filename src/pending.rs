//! Requests, which can be awaited or answered by message, and their errors.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures::future::{Either, FusedFuture, select};
use lockkeeper_actors::api::error::AcquireError;
use lockkeeper_actors::api::event::{LockEvent, Refused};
use lockkeeper_actors::api::request::{Ticket, Wait};
use ractor::{ActorCell, ActorRef, Message};
use thiserror::Error;
use tokio::sync::oneshot;

/// A request for a lock, for several locks at once, or for permits. Await it, or have it answered
/// [by message](Pending::forward).
///
/// Nothing is sent before the first poll. Dropping it after that cancels the request, and releases a guard that was
/// granted meanwhile.
#[must_use = "futures do nothing unless polled"]
pub struct Pending<E, T: Target> {
    target: T,
    wait: Wait,
    stage: Stage<T::Guard>,
    error: PhantomData<fn() -> E>,
}

enum Stage<G> {
    New,
    Sent(Ticket, oneshot::Receiver<Result<G, Refused>>),
    Done,
}

/// What a request can acquire. Sealed.
pub trait Target: sealed::Target + Clone + Send + Sync + Unpin + 'static {
    /// The guard of what was acquired.
    type Guard: Send + 'static;
    /// Sends a request, and its events to `on_event`.
    #[doc(hidden)]
    fn request(
        &self,
        ticket: Ticket,
        wait: Wait,
        on_event: impl FnMut(LockEvent<Self::Guard>) + Send + 'static,
    );
    /// Cancels a request.
    #[doc(hidden)]
    fn withdraw(&self, ticket: Ticket);
    /// The path, for errors.
    #[doc(hidden)]
    fn name(&self) -> String;
}

pub(crate) mod sealed {
    use super::{AcquireError, AcquireTimeoutError, TryAcquireError};

    pub trait Target {}

    pub trait FromRefused {}
    impl FromRefused for AcquireError {}
    impl FromRefused for TryAcquireError {}
    impl FromRefused for AcquireTimeoutError {}
}

impl<E, T: Target> Pending<E, T> {
    pub(crate) fn new(target: T, wait: Wait) -> Pending<E, T> {
        Pending { target, wait, stage: Stage::New, error: PhantomData }
    }

    /// Sends the request now, and its events to `actor` as messages, which `convert` makes. For message handlers, which
    /// should not wait.
    ///
    /// [`LockEvent::Acquired`] contains the guard. Dropping that releases the lock, and [`LockEvent::Released`] follows
    /// when the release is confirmed. The returned ticket [cancels](crate::Lock::cancel) the request. An
    /// `Acquired` that has been sent before the cancellation still arrives; drop it.
    ///
    /// When the actor ends, for whatever reason, a request that still waits is cancelled. A guard in the actor's
    /// mailbox or state is dropped, which releases the lock. A guard that the actor has passed on is not affected.
    ///
    /// ractor sends the state of an actor that stops normally to its supervisor, if it has one, with the event
    /// `ActorTerminated`. The state is dropped when the supervisor has handled that. Drop the guard in `post_stop` to
    /// release the lock earlier.
    ///
    /// ```no_run
    /// # use lockkeeper::{Lock, LockGuard};
    /// # use lockkeeper::messages::{LockEvent, Ticket};
    /// enum Message {
    ///     Ledger(LockEvent<LockGuard>),
    /// }
    /// # #[cfg(not(feature = "cluster"))]
    /// fn ask(lock: &Lock, myself: &ractor::ActorRef<Message>) -> Ticket {
    ///     lock.acquire().forward(myself, Message::Ledger)
    /// }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn forward<M: Message>(
        self,
        actor: &ActorRef<M>,
        convert: impl Fn(LockEvent<T::Guard>) -> M + Send + 'static,
    ) -> Ticket {
        let (ticket, asker, actor) = (Ticket::new(), actor.get_cell(), actor.clone());
        let tell = move |event| drop(actor.cast(convert(event)));
        request_with_events(&self.target, ticket, self.wait, asker, tell);
        ticket
    }

    /// Sends the request now, and its events to `on_event`. That runs inside the actor that serves the request, so it must
    /// pass them on and never block. If it panics, it is not called again, and its request is cancelled or released.
    ///
    /// The returned ticket [cancels](crate::Lock::cancel) the request. Unlike a request that is
    /// [forwarded](Pending::forward), it is not bound to an actor, so nothing else cancels it while the keeper lives.
    pub fn listen(self, on_event: impl FnMut(LockEvent<T::Guard>) + Send + 'static) -> Ticket {
        let ticket = Ticket::new();
        self.target.request(ticket, self.wait, on_event);
        ticket
    }
}

/// Sends a request that is answered once.
pub(crate) fn request_once<T: Target>(
    target: &T,
    ticket: Ticket,
    wait: Wait,
    reply: impl FnOnce(Result<T::Guard, Refused>) + Send + 'static,
) {
    let mut reply = Some(reply);
    let on_event = move |event| {
        let answer = match event {
            LockEvent::Acquired { guard, .. } => Ok(guard),
            LockEvent::Refused(_, refused) => Err(refused),
            _ => return,
        };
        // If the caller has gone, the guard is dropped here, which releases the lock.
        if let Some(reply) = reply.take() {
            reply(answer);
        }
    };
    target.request(ticket, wait, on_event);
}

/// Sends a request whose events go to an actor. If that actor ends while the request waits, it is cancelled.
pub(crate) fn request_with_events<T: Target>(
    target: &T,
    ticket: Ticket,
    wait: Wait,
    asker: ActorCell,
    tell: impl Fn(LockEvent<T::Guard>) + Send + 'static,
) {
    let (target, (listening, done)) = (target.clone(), oneshot::channel::<()>());
    let on_event = move |event| {
        // Dropped together with this closure, after the last event.
        let _listening = &listening;
        tell(event);
    };
    target.request(ticket, wait, on_event);
    tokio::spawn(async move {
        match select(pin!(asker.wait(None)), done).await {
            Either::Left(_) => target.withdraw(ticket),
            Either::Right(_) => {}
        }
    });
}

impl<E: FromRefused, T: Target> Future for Pending<E, T> {
    type Output = Result<T::Guard, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Stage::New = self.stage {
            let (ticket, (reply, answer)) = (Ticket::new(), oneshot::channel());
            request_once(&self.target, ticket, self.wait, |answer| drop(reply.send(answer)));
            self.stage = Stage::Sent(ticket, answer);
        }
        let Stage::Sent(_, answer) = &mut self.stage else { return Poll::Pending };
        let answered = match Pin::new(answer).poll(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(answered) => answered,
        };
        let path = || self.target.name();
        let result = match answered {
            Ok(Ok(guard)) => Ok(guard),
            Ok(Err(refused)) => Err(E::from_refused(path(), refused)),
            Err(_) => Err(E::from_refused(path(), Refused::Failed(AcquireError::Stopped { path: path() }))),
        };
        self.stage = Stage::Done;
        Poll::Ready(result)
    }
}

impl<E: FromRefused, T: Target> FusedFuture for Pending<E, T> {
    fn is_terminated(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }
}

impl<E, T: Target> Drop for Pending<E, T> {
    fn drop(&mut self) {
        if let Stage::Sent(ticket, _) = &self.stage {
            self.target.withdraw(*ticket);
        }
    }
}

/// Why a try did not acquire.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TryAcquireError {
    /// Another contender is ahead, or, for a semaphore, not enough permits are free.
    #[error("other contenders are ahead at {path:?}")]
    Contended {
        /// The path. For a multi-lock, all paths, separated by commas.
        path: String,
    },
    /// The connection is suspended, so the server cannot be asked now.
    #[error("the connection to ZooKeeper is suspended; try again later")]
    Suspended,
    /// The request failed.
    #[error(transparent)]
    Failed(#[from] AcquireError),
}

impl TryAcquireError {
    /// Whether the same request can succeed later without a change to the code or the cluster.
    pub fn is_retryable(&self) -> bool {
        match self {
            TryAcquireError::Contended { .. } | TryAcquireError::Suspended => true,
            TryAcquireError::Failed(error) => error.is_retryable(),
        }
    }
}

/// Why a request with a timeout did not acquire.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcquireTimeoutError {
    /// The timeout has expired. Another contender held the lock or the permits, or ZooKeeper was out of reach.
    #[error("{path:?} was not acquired before the timeout")]
    TimedOut {
        /// The path. For a multi-lock, all paths, separated by commas.
        path: String,
    },
    /// The request failed.
    #[error(transparent)]
    Failed(#[from] AcquireError),
}

impl AcquireTimeoutError {
    /// Whether the same request can succeed later without a change to the code or the cluster.
    pub fn is_retryable(&self) -> bool {
        match self {
            AcquireTimeoutError::TimedOut { .. } => true,
            AcquireTimeoutError::Failed(error) => error.is_retryable(),
        }
    }
}

/// The error of one kind of request. Sealed.
pub trait FromRefused: sealed::FromRefused {
    /// Converts a refusal of the request for `path`.
    #[doc(hidden)]
    fn from_refused(path: String, refused: Refused) -> Self;
}

impl FromRefused for AcquireError {
    fn from_refused(path: String, refused: Refused) -> AcquireError {
        match refused {
            Refused::Failed(error) => error,
            // A request without a timeout is not refused for other reasons.
            other => AcquireError::Rejected { path, reason: format!("{other:?}").into() },
        }
    }
}

impl FromRefused for TryAcquireError {
    fn from_refused(path: String, refused: Refused) -> TryAcquireError {
        match refused {
            Refused::Contended => TryAcquireError::Contended { path },
            Refused::Suspended => TryAcquireError::Suspended,
            other => TryAcquireError::Failed(AcquireError::from_refused(path, other)),
        }
    }
}

impl FromRefused for AcquireTimeoutError {
    fn from_refused(path: String, refused: Refused) -> AcquireTimeoutError {
        match refused {
            // A timeout of zero is a try, which gets the first two.
            Refused::Contended | Refused::Suspended | Refused::TimedOut => {
                AcquireTimeoutError::TimedOut { path }
            }
            other => AcquireTimeoutError::Failed(AcquireError::from_refused(path, other)),
        }
    }
}

impl<E, T: Target> fmt::Debug for Pending<E, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("target", &self.target.name()).finish_non_exhaustive()
    }
}
