//! Events that applications receive, and the sink that receives them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use thiserror::Error;
use tracing::warn;

use super::error::{AcquireError, ConnectError};
use super::lease::Lease;
use crate::machine::Ticket;
use crate::metrics::RefusedFor;

/// What happened to a request. `Refused`, `Lost` and `Released` are final.
#[derive(Debug)]
#[non_exhaustive]
pub enum LockEvent<G = Lease> {
    /// The request has entered the queue. Sent again when it moves to the tail of the queue, because its node was lost.
    Enqueued {
        /// The request.
        ticket: Ticket,
        /// The number of contenders ahead that blocked it at that moment. It is not updated as the queue shrinks.
        ahead: usize,
    },
    /// The lock is held. Dropping the guard releases it.
    Acquired {
        /// The request.
        ticket: Ticket,
        /// The held lock.
        guard: G,
    },
    /// The lease is suspended: see [`LeaseState::Suspended`](crate::api::lease::LeaseState).
    Suspended(Ticket),
    /// The lease is no longer suspended.
    Resumed(Ticket),
    /// The lease is lost: somebody else may hold the lock now.
    Lost(Ticket),
    /// The guard was released or dropped, and the server has confirmed that its node is deleted. If the node lingers, or
    /// serves further requests, the event does not wait for the server.
    Released(Ticket),
    /// The request ended without the lock.
    Refused(Ticket, Refused),
}

impl<G> LockEvent<G> {
    /// Returns the same event with the guard wrapped.
    pub fn map_guard<H>(self, wrap: impl FnOnce(G) -> H) -> LockEvent<H> {
        match self {
            LockEvent::Enqueued { ticket, ahead } => LockEvent::Enqueued { ticket, ahead },
            LockEvent::Acquired { ticket, guard } => LockEvent::Acquired { ticket, guard: wrap(guard) },
            LockEvent::Suspended(ticket) => LockEvent::Suspended(ticket),
            LockEvent::Resumed(ticket) => LockEvent::Resumed(ticket),
            LockEvent::Lost(ticket) => LockEvent::Lost(ticket),
            LockEvent::Released(ticket) => LockEvent::Released(ticket),
            LockEvent::Refused(ticket, refused) => LockEvent::Refused(ticket, refused),
        }
    }
}

/// Why a request did not get the lock.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// Another contender is ahead, and the request was a try, which does not wait.
    #[error("other contenders are ahead")]
    Contended,
    /// There is no verified session, and the request was a try, which does not wait.
    #[error("the connection to ZooKeeper is suspended: try again later")]
    Suspended,
    /// The deadline passed.
    #[error("it was not acquired before the deadline")]
    TimedOut,
    /// The request was cancelled.
    #[error("the request was cancelled")]
    Cancelled,
    /// The request failed.
    #[error(transparent)]
    Failed(#[from] AcquireError),
}

impl Refused {
    /// Whether the same request can succeed later without a change to the code or the cluster.
    pub fn is_retryable(&self) -> bool {
        match self {
            Refused::Contended | Refused::Suspended | Refused::TimedOut => true,
            Refused::Cancelled => false,
            Refused::Failed(error) => error.is_retryable(),
        }
    }

    /// As it is counted.
    pub(crate) fn metric(&self) -> RefusedFor {
        match self {
            Refused::Contended => RefusedFor::Contended,
            Refused::Suspended => RefusedFor::Suspended,
            Refused::TimedOut => RefusedFor::TimedOut,
            Refused::Cancelled => RefusedFor::Cancelled,
            Refused::Failed(error) => match error {
                AcquireError::Closed => RefusedFor::Closed,
                AcquireError::Stopped { .. } => RefusedFor::Stopped,
                AcquireError::NoAuth { .. } => RefusedFor::NoAuth,
                AcquireError::SequenceExhausted { .. } => RefusedFor::SequenceExhausted,
                AcquireError::MixedDialects { .. } => RefusedFor::MixedDialects,
                AcquireError::Permits(_) => RefusedFor::Permits,
                AcquireError::TooManyWaiting { .. } => RefusedFor::TooManyWaiting,
                AcquireError::Rejected { .. } => RefusedFor::Rejected,
            },
        }
    }
}

/// Receives the events of one request. It runs inside the lock's actor, so it must pass events on and never block.
///
/// After a panic it is not called again, and its request is cancelled or released. It may also panic when it is dropped.
/// Other requests are not affected.
pub struct EventSink<G = Lease> {
    send: Option<Box<dyn FnMut(LockEvent<G>) + Send>>,
    /// It has received `Acquired`.
    granted: bool,
    ticket: Ticket,
    path: Arc<str>,
}

impl<G> EventSink<G> {
    /// The path of the request.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// A sink that passes the events of request `ticket`, at `path`, to `send`.
    pub fn new(
        ticket: Ticket,
        path: Arc<str>,
        send: impl FnMut(LockEvent<G>) + Send + 'static,
    ) -> EventSink<G> {
        EventSink { send: Some(Box::new(send)), granted: false, ticket, path }
    }

    /// Sends one event. Returns `false` once the sink has panicked.
    pub(crate) fn tell(&mut self, event: LockEvent<G>) -> bool {
        let Some(mut send) = self.send.take() else { return false };
        self.granted |= matches!(event, LockEvent::Acquired { .. });
        let sent = self.survives(|| send(event));
        self.send = Some(send);
        if !sent {
            // Its state may be inconsistent, so it is not used again.
            self.close();
        }
        sent
    }

    /// Drops the closure. What it owns belongs to the application, and may panic, too.
    fn close(&mut self) {
        let send = self.send.take();
        self.survives(|| drop(send));
    }

    fn survives(&self, call: impl FnOnce()) -> bool {
        let survives = catch_unwind(AssertUnwindSafe(call)).is_ok();
        if !survives {
            warn!(path = %self.path, ticket = %self.ticket, "an event sink panicked");
        }
        survives
    }

    /// Sends the last event.
    pub(crate) fn conclude(mut self, event: LockEvent<G>) {
        self.tell(event);
        self.close();
    }

    /// Drops the sink without a last event, because the guard outlives the actor.
    pub(crate) fn close_silently(mut self) {
        self.close();
    }
}

impl<G> Drop for EventSink<G> {
    /// Sends a last event if there was none, because the actor was killed or panicked.
    fn drop(&mut self) {
        if self.send.is_none() {
            return;
        }
        let error = AcquireError::Stopped { path: self.path.to_string() };
        self.tell(match self.granted {
            true => LockEvent::Lost(self.ticket),
            false => LockEvent::Refused(self.ticket, Refused::Failed(error)),
        });
        self.close();
    }
}

/// What happened to a keeper's session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// A session was established. Epochs number the sessions from one.
    Connected {
        /// The number of the session.
        epoch: u64,
    },
    /// The session is suspended: the connection broke, or has not been verified for too long.
    Suspended {
        /// The number of the session.
        epoch: u64,
    },
    /// The session is no longer suspended.
    Resumed {
        /// The number of the session.
        epoch: u64,
    },
    /// The session is lost, and so is every lock held in it, except those whose nodes outlive sessions. The keeper
    /// connects again.
    Lost {
        /// The number of the session.
        epoch: u64,
    },
    /// The keeper stops connecting, and closes: its credentials were rejected, or `give_up_after` has passed.
    GaveUp {
        /// Why the last attempt failed.
        error: ConnectError,
    },
    /// The keeper is closed. This event is final.
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a listener owns.
    struct PanicsWhenDropped;

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }

    #[test]
    fn a_listener_that_panics_when_it_is_dropped_does_not_harm_its_actor() {
        let ends: [fn(EventSink); 3] = [
            |sink| sink.conclude(LockEvent::Released(Ticket(1))),
            |sink| sink.close_silently(),
            |sink| drop(sink),
        ];
        for end in ends {
            let owned = PanicsWhenDropped;
            let sink = EventSink::new(Ticket(1), "/locks/ledger".into(), move |_| {
                let _owns = &owned;
            });
            assert!(catch_unwind(AssertUnwindSafe(|| end(sink))).is_ok());
        }
    }
}
