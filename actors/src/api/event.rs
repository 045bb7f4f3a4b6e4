//! What applications are told, and how.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tracing::warn;

use super::error::{AcquireError, ConnectError};
use super::lease::Lease;
use crate::machine::Ticket;

/// What happens to a request. Nothing follows after `Refused`, `Lost` or `Released`.
#[derive(Debug)]
#[non_exhaustive]
pub enum LockEvent<G = Lease> {
    /// It is queued. Sent again when it was queued again at the tail, because a session was lost.
    Queued {
        /// The request.
        ticket: Ticket,
        /// How many contenders ahead block it.
        ahead: usize,
    },
    /// The lock is held. Dropping the guard releases it.
    Acquired {
        /// The request.
        ticket: Ticket,
        /// The lock.
        guard: G,
    },
    /// The connection is in doubt: see [`LeaseState::Suspended`](crate::api::lease::LeaseState).
    Suspended(Ticket),
    /// The connection is no longer in doubt.
    Resumed(Ticket),
    /// Somebody else may hold the lock now.
    Lost(Ticket),
    /// The guard was released, or dropped, and the server has confirmed that its node is gone.
    Released(Ticket),
    /// The lock is not acquired.
    Refused(Ticket, Refused),
}

impl<G> LockEvent<G> {
    /// The same event with the guard wrapped.
    pub fn map_guard<H>(self, wrap: impl FnOnce(G) -> H) -> LockEvent<H> {
        match self {
            LockEvent::Queued { ticket, ahead } => LockEvent::Queued { ticket, ahead },
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
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// Another contender is ahead, and the request would not wait.
    Contended,
    /// The session may have ended, and the request would not wait.
    Suspended,
    /// The deadline came first.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// It failed.
    Failed(AcquireError),
}

/// Receives the events of one request. It runs inside the lock's actor, so it must pass events on and never block. After
/// a panic it is not called again, and its request is cancelled, or released; other requests do not notice.
pub struct EventSink<G = Lease> {
    send: Option<Box<dyn FnMut(LockEvent<G>) + Send>>,
    /// It was told of a grant.
    granted: bool,
    ticket: Ticket,
    path: Arc<str>,
}

impl<G> EventSink<G> {
    /// The path of the request.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Receives the events of `ticket`, at `path`.
    pub fn new(
        ticket: Ticket,
        path: Arc<str>,
        send: impl FnMut(LockEvent<G>) + Send + 'static,
    ) -> EventSink<G> {
        EventSink { send: Some(Box::new(send)), granted: false, ticket, path }
    }

    /// Sends one event. Gives `false` once the sink has failed.
    pub(crate) fn tell(&mut self, event: LockEvent<G>) -> bool {
        let Some(mut send) = self.send.take() else { return false };
        self.granted |= matches!(event, LockEvent::Acquired { .. });
        // What the closure leaves half done is its own, and it is not called again.
        let sent = catch_unwind(AssertUnwindSafe(move || {
            send(event);
            send
        }));
        match sent {
            Ok(send) => self.send = Some(send),
            Err(_) => warn!(path = %self.path, ticket = %self.ticket, "an event sink panicked"),
        }
        self.send.is_some()
    }

    /// The last event.
    pub(crate) fn conclude(mut self, event: LockEvent<G>) {
        self.tell(event);
        self.send = None;
    }

    /// No event is the last: the guard outlives the actor.
    pub(crate) fn leave(mut self) {
        self.send = None;
    }
}

impl<G> Drop for EventSink<G> {
    /// Dropped before the last event: its actor was killed, or has panicked.
    fn drop(&mut self) {
        let error = AcquireError::Stopped { path: self.path.to_string() };
        self.tell(match self.granted {
            true => LockEvent::Lost(self.ticket),
            false => LockEvent::Refused(self.ticket, Refused::Failed(error)),
        });
    }
}

/// What happens to a keeper's session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// A session has begun. Epochs count sessions from one.
    Connected {
        /// The number of the session.
        epoch: u64,
    },
    /// The connection is in doubt.
    Suspended {
        /// The number of the session.
        epoch: u64,
    },
    /// The connection is no longer in doubt.
    Resumed {
        /// The number of the session.
        epoch: u64,
    },
    /// The session is lost, and all that was held in it. The keeper connects again.
    Lost {
        /// The number of the session.
        epoch: u64,
    },
    /// The keeper does not connect again, and is closing: its credentials were refused, or the time to give up has
    /// come.
    GaveUp {
        /// How the last try failed.
        error: ConnectError,
    },
    /// The keeper is closed. Nothing follows.
    Closed,
}
