//! What the handles of a keeper share, and what every handle of one path consists of.

use std::sync::Arc;
use std::time::Duration;

use lockkeeper_actors::error::ContendersError;
use lockkeeper_actors::machine::protocol::Wait;
use lockkeeper_actors::machine::znode::{InvalidName, Mode, check_path};
use lockkeeper_actors::messages::{
    AcquireRequest, ContenderOptions, Lifeline, Listener, LockEvent, LockMessage, Place, Ticket,
};
use lockkeeper_actors::supervisor::Started;
use lockkeeper_actors::zookeeper::Acl;
use lockkeeper_actors::{PrimitivesMessage, refuse};
use ractor::{ActorRef, MessagingErr, RpcReplyPort};
use tokio::sync::oneshot;

use crate::guard::Guard;
use crate::options::LockOptions;
use crate::pending::Hear;

/// The state that all handles of a keeper share.
pub(crate) struct Shared {
    pub started: Started,
    pub lifeline: Arc<Lifeline>,
    pub identifier: Vec<u8>,
    pub acl: Vec<Acl>,
}

impl Shared {
    /// Zero is a try. A timeout too long to represent never expires.
    pub fn wait(&self, timeout: Duration) -> Wait {
        match u64::try_from(timeout.as_nanos()) {
            Ok(0) => Wait::Try,
            Ok(nanos) if nanos < u64::MAX / 4 => Wait::Until(self.started.clock.now() + timeout),
            Ok(_) | Err(_) => Wait::Forever,
        }
    }

    /// The options of contenders in this mode, with the keeper's identifier and access list as defaults.
    pub fn contender(&self, mode: Mode, options: LockOptions) -> ContenderOptions {
        options.contender(mode, &self.identifier, &self.acl)
    }
}

/// A handle of one path, whatever is acquired there. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Handle {
    shared: Arc<Shared>,
    open: Arc<Open>,
    options: Arc<ContenderOptions>,
}

impl Handle {
    /// Checks the path, but not the options: see [`LockOptions::checked`].
    pub fn open(
        shared: &Arc<Shared>,
        place: Place,
        mode: Mode,
        options: LockOptions,
    ) -> Result<Handle, InvalidName> {
        check_path(&place.path)?;
        // The queue of a semaphore has a longer path.
        check_path(&place.queue()).map_err(|error| InvalidName { path: place.path.to_string(), ..error })?;
        let primitives = shared.started.primitives.clone();
        // Fails if the keeper is closed. Then every later message fails too.
        let _ = primitives.cast(PrimitivesMessage::Open(place.clone()));
        Ok(Handle {
            shared: shared.clone(),
            open: Arc::new(Open { place, primitives }),
            options: Arc::new(shared.contender(mode, options)),
        })
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    pub fn place(&self) -> &Place {
        &self.open.place
    }

    pub fn path(&self) -> &str {
        &self.open.place.path
    }

    pub fn options(&self) -> &Arc<ContenderOptions> {
        &self.options
    }

    pub fn is_closed(&self) -> bool {
        self.shared.started.is_closed()
    }

    pub fn wait(&self, timeout: Duration) -> Wait {
        self.shared.wait(timeout)
    }

    /// Sends a message to the path's actor. Refuses it, and returns `false`, if the keeper is closed.
    pub fn send(&self, message: LockMessage) -> bool {
        let message = PrimitivesMessage::Lock(self.open.place.clone(), message);
        match self.open.primitives.cast(message) {
            Ok(()) => true,
            Err(MessagingErr::SendErr(PrimitivesMessage::Lock(_, message))) => {
                refuse(message);
                false
            }
            Err(_) => false,
        }
    }

    /// A request that has not been sent yet.
    pub fn request<M>(&self, ticket: Ticket, wait: Wait, mut hear: Hear<Guard<M>>) -> AcquireRequest
    where
        M: 'static,
    {
        let hear = move |event: LockEvent| hear(event.map_guard(Guard::new));
        let listener = Listener::new(ticket, self.path().into(), hear);
        AcquireRequest::new(ticket, self.options.clone(), wait, listener, self.shared.lifeline.clone())
    }

    pub fn cancel(&self, ticket: Ticket) {
        self.send(LockMessage::Cancel(ticket));
    }

    /// Sends a question, and waits for its answer.
    pub async fn ask<T>(
        &self,
        message: impl FnOnce(RpcReplyPort<Result<T, ContendersError>>) -> LockMessage,
    ) -> Result<T, ContendersError> {
        let (reply, answer) = oneshot::channel();
        self.send(message(reply.into()));
        self.answered(answer.await)
    }

    /// The answer to a question. The reply is dropped without one if the actor or its session ends first.
    pub fn answered<T>(
        &self,
        answer: Result<Result<T, ContendersError>, oneshot::error::RecvError>,
    ) -> Result<T, ContendersError> {
        match answer.unwrap_or(Err(ContendersError::Disconnected)) {
            Err(ContendersError::Disconnected) if self.is_closed() => Err(ContendersError::Closed),
            answer => answer,
        }
    }
}

/// Tells the supervisor when the last clone of a handle is dropped. The supervisor ends an idle actor when its path has
/// no handles left.
struct Open {
    place: Place,
    primitives: ActorRef<PrimitivesMessage>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.primitives.cast(PrimitivesMessage::Dropped(self.place.clone()));
    }
}
