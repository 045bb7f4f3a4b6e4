//! A request for a lock on its way, to be awaited or to be answered by message.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::future::{Either, select};
use lockkeeper_actors::error::AcquireError;
use lockkeeper_actors::machine::protocol::Wait;
use lockkeeper_actors::messages::{
    AcquireRequest, Listener, LockEvent, LockMessage, Permits, Refused, Ticket,
};
use ractor::{ActorRef, Message};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::guard::{Exclusive, Guard};
use crate::lock::Lock;

/// What [`Lock::acquire`] returns.
pub type Acquire<M = Exclusive> = Pending<AcquireError, M>;
/// What [`Lock::try_acquire`] returns.
pub type TryAcquire<M = Exclusive> = Pending<TryAcquireError, M>;
/// What [`Lock::acquire_timeout`] returns.
pub type AcquireTimeout<M = Exclusive> = Pending<AcquireTimeoutError, M>;

/// A request for a lock: await it, or have it answered [by message](Pending::forward).
///
/// Nothing is sent before the first poll. Dropped after that, it cancels the request, and a lock that was granted
/// meanwhile is released.
#[must_use = "futures do nothing unless polled"]
pub struct Pending<E, M = Exclusive> {
    lock: Lock<M>,
    wait: Wait,
    permits: Option<Claim>,
    stage: Stage<M>,
    error: PhantomData<fn() -> E>,
}

/// What is wanted of a semaphore.
pub(crate) struct Claim {
    pub count: u32,
    pub limit: Option<u32>,
    /// Shared by the clones of a handle: once granted, what is stored counts.
    pub agreed: Arc<AtomicBool>,
}

enum Stage<M> {
    New,
    Sent(Ticket, oneshot::Receiver<Result<Guard<M>, Refused>>),
    Done,
}

impl<E, M: 'static> Pending<E, M> {
    pub(crate) fn new(lock: Lock<M>, wait: Wait) -> Pending<E, M> {
        Pending { lock, wait, permits: None, stage: Stage::New, error: PhantomData }
    }

    pub(crate) fn claim(mut self, claim: Claim) -> Pending<E, M> {
        self.permits = Some(claim);
        self
    }

    /// Sends the request, and its events to `actor`, as messages of its own kind that `convert` makes of them. For
    /// handlers that must not wait.
    ///
    /// The guard comes inside [`LockEvent::Acquired`]; dropping it releases the lock, and
    /// [`LockEvent::Released`] says when the server has confirmed that. The ticket [cancels](Lock::cancel) the
    /// request at any time from now on; an `Acquired` that is on its way by then still comes, and is to be dropped.
    ///
    /// An actor that ends, however it ends, takes its request back: while it waits, it is cancelled; a guard goes
    /// with the message or the state that it is in, and that releases the lock. A guard that the actor gave to
    /// somebody else stays with them.
    ///
    /// ```no_run
    /// # use lockkeeper::{Lock, LockEvent, LockGuard, Ticket};
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
    pub fn forward<T: Message>(
        self,
        actor: &ActorRef<T>,
        convert: impl Fn(LockEvent<Guard<M>>) -> T + Send + 'static,
    ) -> Ticket {
        let (lock, asker, actor) = (self.lock.clone(), actor.clone(), actor.clone());
        let (listening, done) = oneshot::channel::<()>();
        let ticket = self.listen(move |event| {
            // Goes with this closure, when nothing more is to be heard.
            let _listening = &listening;
            let _ = actor.cast(convert(event));
        });
        tokio::spawn(async move {
            match select(pin!(asker.wait(None)), done).await {
                Either::Left(_) => lock.cancel(ticket),
                Either::Right(_) => {}
            }
        });
        ticket
    }

    /// Sends the request, and its events to `hear`, which runs inside the lock's actor: it must hand them on, and
    /// never block.
    pub fn listen(mut self, mut hear: impl FnMut(LockEvent<Guard<M>>) + Send + 'static) -> Ticket {
        self.send(move |event| hear(event.map_guard(Guard::new)))
    }

    fn send(&mut self, mut hear: impl FnMut(LockEvent) + Send + 'static) -> Ticket {
        let (ticket, lifeline) = (Ticket::new(), self.lock.shared.lifeline.clone());
        let agreed = self.permits.as_ref().map(|claim| claim.agreed.clone());
        let hear = move |event| {
            if let (LockEvent::Acquired { .. }, Some(agreed)) = (&event, &agreed) {
                agreed.store(true, Ordering::Relaxed);
            }
            hear(event);
        };
        let listener = Listener::new(ticket, self.lock.path().into(), hear);
        let options = self.lock.options().clone();
        let mut request = AcquireRequest::new(ticket, options, self.wait, listener, lifeline);
        if let Some(Claim { count, limit, agreed }) = &self.permits {
            let (count, limit, agreed) = (*count, *limit, agreed.load(Ordering::Relaxed));
            request = request.permits(Permits { count, limit, agreed });
        }
        self.lock.send(LockMessage::Acquire(request));
        ticket
    }
}

impl<E: FromRefused, M: 'static> Future for Pending<E, M> {
    type Output = Result<Guard<M>, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Stage::New = self.stage {
            let (reply, answer) = oneshot::channel();
            let mut reply = Some(reply);
            let ticket = self.send(move |event| {
                let answer = match event {
                    LockEvent::Acquired { guard, .. } => Ok(Guard::new(guard)),
                    LockEvent::Refused(_, refused) => Err(refused),
                    _ => return,
                };
                // A caller who has gone drops the guard, and that releases the lock.
                let _ = reply.take().map(|reply| reply.send(answer));
            });
            self.stage = Stage::Sent(ticket, answer);
        }
        let Stage::Sent(_, answer) = &mut self.stage else { return Poll::Pending };
        let answered = match Pin::new(answer).poll(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(answered) => answered,
        };
        let path = || self.lock.path().to_owned();
        let result = match answered {
            Ok(Ok(guard)) => Ok(guard),
            Ok(Err(refused)) => Err(E::from_refused(path(), refused)),
            Err(_) => Err(E::from_refused(path(), Refused::Failed(AcquireError::Stopped { path: path() }))),
        };
        self.stage = Stage::Done;
        Poll::Ready(result)
    }
}

impl<E, M> Drop for Pending<E, M> {
    fn drop(&mut self) {
        if let Stage::Sent(ticket, _) = &self.stage {
            self.lock.cancel(*ticket);
        }
    }
}

/// Why a lock was not acquired without waiting.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TryAcquireError {
    /// Somebody is ahead.
    #[error("somebody else is ahead")]
    Contended,
    /// The connection is in doubt, and nothing can be said at once.
    #[error("the connection to ZooKeeper is in doubt")]
    Suspended,
    /// The lock cannot be had.
    #[error(transparent)]
    Failed(#[from] AcquireError),
}

/// Why a lock was not acquired in time.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcquireTimeoutError {
    /// The time is over.
    #[error("not acquired in time")]
    TimedOut,
    /// The lock cannot be had.
    #[error(transparent)]
    Failed(#[from] AcquireError),
}

/// How each kind of request puts a refusal.
pub trait FromRefused {
    /// For the lock on `path`.
    #[doc(hidden)]
    fn from_refused(path: String, refused: Refused) -> Self;
}

impl FromRefused for AcquireError {
    fn from_refused(path: String, refused: Refused) -> AcquireError {
        match refused {
            Refused::Failed(error) => error,
            // A request that waits for ever is not refused for any of these.
            other => AcquireError::Rejected { path, reason: format!("{other:?}") },
        }
    }
}

impl FromRefused for TryAcquireError {
    fn from_refused(path: String, refused: Refused) -> TryAcquireError {
        match refused {
            Refused::Contended => TryAcquireError::Contended,
            Refused::Suspended => TryAcquireError::Suspended,
            other => TryAcquireError::Failed(AcquireError::from_refused(path, other)),
        }
    }
}

impl FromRefused for AcquireTimeoutError {
    fn from_refused(path: String, refused: Refused) -> AcquireTimeoutError {
        match refused {
            // The first two answer a timeout of zero.
            Refused::Contended | Refused::Suspended | Refused::TimedOut => AcquireTimeoutError::TimedOut,
            other => AcquireTimeoutError::Failed(AcquireError::from_refused(path, other)),
        }
    }
}
