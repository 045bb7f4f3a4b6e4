//! A request on its way, to be awaited or to be answered by message.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures::future::{Either, select};
use lockkeeper_actors::error::AcquireError;
use lockkeeper_actors::machine::protocol::Wait;
use lockkeeper_actors::messages::{LockEvent, Refused, Ticket};
use ractor::{ActorRef, Message};
use thiserror::Error;
use tokio::sync::oneshot;

/// A request for a lock, or for several at once: await it, or have it answered [by message](Pending::forward).
///
/// Nothing is sent before the first poll. Dropped after that, it cancels the request, and what was granted meanwhile
/// is released.
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

/// What can be acquired. Not to be implemented elsewhere.
pub trait Target: sealed::Target + Clone + Send + Sync + Unpin + 'static {
    /// What its holder has in hand.
    type Guard: Send + 'static;
    /// Sends a request.
    #[doc(hidden)]
    fn request(&self, ticket: Ticket, wait: Wait, hear: Hear<Self::Guard>);
    /// Takes it back.
    #[doc(hidden)]
    fn withdraw(&self, ticket: Ticket);
    /// Its path, for errors.
    #[doc(hidden)]
    fn name(&self) -> String;
}

pub(crate) type Hear<G> = Box<dyn FnMut(LockEvent<G>) + Send>;

pub(crate) mod sealed {
    pub trait Target {}
}

impl<E, T: Target> Pending<E, T> {
    pub(crate) fn new(target: T, wait: Wait) -> Pending<E, T> {
        Pending { target, wait, stage: Stage::New, error: PhantomData }
    }

    /// Sends the request, and its events to `actor`, as messages of its own kind that `convert` makes of them. For
    /// handlers that must not wait.
    ///
    /// The guard comes inside [`LockEvent::Acquired`]; dropping it releases the lock, and
    /// [`LockEvent::Released`] says when the server has confirmed that. The ticket [cancels](crate::Lock::cancel) the
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
    pub fn forward<M: Message>(
        self,
        actor: &ActorRef<M>,
        convert: impl Fn(LockEvent<T::Guard>) -> M + Send + 'static,
    ) -> Ticket {
        let (target, asker, actor) = (self.target.clone(), actor.clone(), actor.clone());
        let (listening, done) = oneshot::channel::<()>();
        let ticket = self.listen(move |event| {
            // Goes with this closure, when nothing more is to be heard.
            let _listening = &listening;
            let _ = actor.cast(convert(event));
        });
        tokio::spawn(async move {
            match select(pin!(asker.wait(None)), done).await {
                Either::Left(_) => target.withdraw(ticket),
                Either::Right(_) => {}
            }
        });
        ticket
    }

    /// Sends the request, and its events to `hear`, which runs inside the actor that serves it: it must hand them on,
    /// and never block.
    pub fn listen(mut self, hear: impl FnMut(LockEvent<T::Guard>) + Send + 'static) -> Ticket {
        self.send(hear)
    }

    fn send(&mut self, hear: impl FnMut(LockEvent<T::Guard>) + Send + 'static) -> Ticket {
        let ticket = Ticket::new();
        self.target.request(ticket, self.wait, Box::new(hear));
        ticket
    }
}

impl<E: FromRefused, T: Target> Future for Pending<E, T> {
    type Output = Result<T::Guard, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Stage::New = self.stage {
            let (reply, answer) = oneshot::channel();
            let mut reply = Some(reply);
            let ticket = self.send(move |event| {
                let answer = match event {
                    LockEvent::Acquired { guard, .. } => Ok(guard),
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

impl<E, T: Target> Drop for Pending<E, T> {
    fn drop(&mut self) {
        if let Stage::Sent(ticket, _) = &self.stage {
            self.target.withdraw(*ticket);
        }
    }
}

/// Why a lock was not acquired without waiting.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TryAcquireError {
    /// Somebody is ahead.
    #[error("somebody else is ahead at {path:?}")]
    Contended {
        /// The lock's path; all of them, with commas, when it is a multi-lock.
        path: String,
    },
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
    #[error("{path:?} was not acquired in time")]
    TimedOut {
        /// The lock's path; all of them, with commas, when it is a multi-lock.
        path: String,
    },
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
            Refused::Contended => TryAcquireError::Contended { path },
            Refused::Suspended => TryAcquireError::Suspended,
            other => TryAcquireError::Failed(AcquireError::from_refused(path, other)),
        }
    }
}

impl FromRefused for AcquireTimeoutError {
    fn from_refused(path: String, refused: Refused) -> AcquireTimeoutError {
        match refused {
            // The first two answer a timeout of zero.
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
