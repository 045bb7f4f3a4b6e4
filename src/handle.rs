//! What the handles of a keeper share, and what every handle of one path consists of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use lockkeeper_actors::api::error::{AcquireError, QueryError, ReleaseError};
use lockkeeper_actors::api::event::{EventSink, LockEvent, Refused};
use lockkeeper_actors::api::keep_alive::KeepAlive;
use lockkeeper_actors::api::lease::ReleasePort;
use lockkeeper_actors::api::messages::{LockMessage, RegistryMessage};
use lockkeeper_actors::api::request::{AcquireRequest, ContenderOptions, Ticket, Wait};
use lockkeeper_actors::api::resource::Resource;
use lockkeeper_actors::keeper::Started;
use lockkeeper_actors::machine::exclusion::Mode;
use lockkeeper_actors::machine::path_rules::{InvalidPath, check_path};
use ractor::{DerivedActorRef, MessagingErr, RpcReplyPort};
use tokio::sync::oneshot;

use crate::guard::Guard;
use crate::options::{Defaults, LockOptions};
use crate::wait;

/// The state that all handles of a keeper share.
pub(crate) struct Shared {
    pub started: Arc<Started>,
    pub keep_alive: Arc<KeepAlive>,
    pub defaults: Defaults,
    pub health_path: Arc<str>,
}

impl Shared {
    /// Zero is a try. A timeout too long to represent never expires.
    pub fn timeout(&self, timeout: Duration) -> Wait {
        match u64::try_from(timeout.as_nanos()) {
            Ok(0) => Wait::Try,
            Ok(nanos) if nanos < u64::MAX / 4 => Wait::Until(self.started.clock.now() + timeout),
            Ok(_) | Err(_) => Wait::Forever,
        }
    }

    /// The same wait, on the clock of leases.
    pub fn wait(&self, wait: wait::Wait) -> Wait {
        match wait {
            wait::Wait::Try => Wait::Try,
            wait::Wait::Until(end) => {
                let left = end.saturating_duration_since(Instant::now());
                Wait::Until(self.started.clock.now() + left)
            }
            wait::Wait::Forever => Wait::Forever,
        }
    }

    /// Sends a message that releases a lock, now. The result is its answer, which may be awaited later.
    pub fn release(
        &self,
        message: impl FnOnce(ReleasePort) -> RegistryMessage,
    ) -> BoxFuture<'static, Result<(), ReleaseError>> {
        let (reply, answer) = oneshot::channel();
        self.send(message(reply.into()));
        // The reply is dropped if the lock was lost before, or is lost with its actor.
        Box::pin(async { answer.await.unwrap_or(Err(ReleaseError::Lost)) })
    }

    /// Sends a message to the actor that it is for. Refuses it, and returns `false`, if the keeper is closed.
    pub fn send(&self, message: RegistryMessage) -> bool {
        match self.started.registry.send_message(message) {
            Ok(()) => true,
            Err(MessagingErr::SendErr(message)) => {
                message.refuse();
                false
            }
            Err(_) => false,
        }
    }

    /// Corrects the last event of a request that a closing keeper has received, but not handled: its actor has not
    /// died.
    pub fn correct<G>(&self) -> impl Fn(LockEvent<G>) -> LockEvent<G> + Send + use<G> {
        let started = self.started.clone();
        move |event| match event {
            LockEvent::Refused(ticket, Refused::Failed(AcquireError::Stopped { .. }))
                if started.is_closed() =>
            {
                LockEvent::Refused(ticket, Refused::Failed(AcquireError::Closed))
            }
            event => event,
        }
    }

    /// The answer to a question. The reply is dropped without one if the actor or its session ends first.
    pub fn answered<T, E: From<QueryError> + PartialEq>(
        &self,
        answer: Result<Result<T, E>, oneshot::error::RecvError>,
    ) -> Result<T, E> {
        let disconnected = || E::from(QueryError::Disconnected);
        match answer.unwrap_or_else(|_| Err(disconnected())) {
            Err(error) if error == disconnected() && self.started.is_closed() => {
                Err(QueryError::Closed.into())
            }
            answer => answer,
        }
    }

    /// The options of contenders in this mode, with the keeper's identifier and access list as defaults.
    pub fn contender(&self, mode: Mode, options: LockOptions) -> ContenderOptions {
        options.contender(mode, &self.defaults)
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
        resource: Resource,
        mode: Mode,
        options: LockOptions,
    ) -> Result<Handle, InvalidPath> {
        let path = resource.path();
        check_path(path)?;
        // The queue of a semaphore has a longer path.
        check_path(&resource.queue()).map_err(|mut error| {
            error.path = path.to_string();
            error
        })?;
        let registry = shared.started.registry.clone();
        // Fails if the keeper is closed. Then every later message fails too.
        let _ = registry.send_message(RegistryMessage::Open(resource.clone()));
        Ok(Handle {
            shared: shared.clone(),
            open: Arc::new(Open { resource, registry }),
            options: Arc::new(shared.contender(mode, options)),
        })
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    pub fn path(&self) -> &Arc<str> {
        self.open.resource.path()
    }

    pub fn options(&self) -> &Arc<ContenderOptions> {
        &self.options
    }

    /// The message for the lock at this path.
    pub fn to_lock(&self, message: LockMessage) -> RegistryMessage {
        RegistryMessage::Lock(self.path().clone(), message)
    }

    /// A request that has not been sent yet.
    pub fn request<M: 'static>(
        &self,
        ticket: Ticket,
        wait: Wait,
        mut on_event: impl FnMut(LockEvent<Guard<M>>) + Send + 'static,
    ) -> AcquireRequest {
        let correct = self.shared.correct();
        let on_event = move |event: LockEvent| on_event(correct(event).map_guard(Guard::new));
        let sink = EventSink::new(ticket, self.path().clone(), on_event);
        AcquireRequest::new(ticket, self.options.clone(), wait, sink, self.shared.keep_alive.clone())
    }

    /// Sends a question now. The result is its answer, which may be awaited later.
    pub fn ask<T, E>(
        &self,
        message: impl FnOnce(RpcReplyPort<Result<T, E>>) -> RegistryMessage,
    ) -> BoxFuture<'static, Result<T, E>>
    where
        T: Send + 'static,
        E: From<QueryError> + PartialEq + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.shared.send(message(reply.into()));
        let handle = self.clone();
        Box::pin(async move { handle.shared.answered(answer.await) })
    }
}

/// Tells the registry when the last clone of a handle is dropped. The registry ends an idle actor when its path has no
/// handles left.
struct Open {
    resource: Resource,
    registry: DerivedActorRef<RegistryMessage>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.registry.send_message(RegistryMessage::Dropped(self.resource.clone()));
    }
}
