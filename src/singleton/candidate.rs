//! A candidacy of this process for a singleton.

use std::fmt;

use futures::future::{BoxFuture, ready};
use futures::stream::{self, StreamExt};
use futures::{FutureExt, Stream};
use lockkeeper_actors::api::error::AdvertiseError;
use lockkeeper_actors::api::lease_view::LeaseView;
use lockkeeper_actors::api::request::bytes_of;
use lockkeeper_actors::candidate::{CandidateMessage, CandidateState};
use ractor::{ActorRef, Message};
use tokio::sync::{mpsc, oneshot, watch};

use crate::address::{Address, Recipient};
use crate::handle::Handle;
use crate::options::{MAX_NODE, MAX_REQUEST};
use crate::subscribe;

/// A candidacy of this process, for a singleton whose actor takes messages of type `M`. Dropping it ends the candidacy
/// in the background, as [`shutdown`](Candidate::shutdown) does.
#[must_use = "dropping the candidate ends the candidacy"]
pub struct Candidate<M: Message> {
    candidacy: Candidacy<M>,
    address: Address,
}

impl<M: Message> Candidate<M> {
    pub(super) fn new(candidacy: Candidacy<M>) -> Candidate<M> {
        Candidate { candidacy, address: Address::default() }
    }

    /// The current state.
    pub fn state(&self) -> CandidateState<M> {
        self.candidacy.state()
    }

    /// A view of the lease while the actor runs in this process. `None` while it is starting.
    pub fn lease(&self) -> Option<LeaseView> {
        match self.state() {
            CandidateState::Running { lease, .. } => Some(lease),
            _ => None,
        }
    }

    /// The singleton's actor while it runs in this process. `None` while it is starting.
    ///
    /// Every run has another actor. A message that is sent when the actor is ending may be discarded, but it never
    /// reaches the actor of a later run.
    pub fn running_actor(&self) -> Option<ActorRef<M>> {
        self.candidacy.running_actor()
    }

    /// Waits until the state changes, and returns the new one. States of short duration may be missed;
    /// [`subscribe`](Candidate::subscribe) reports all. Returns [`CandidateState::Over`] immediately if the candidacy
    /// has ended. Cancel safe.
    pub async fn changed(&mut self) -> CandidateState<M> {
        match self.candidacy.state.changed().await {
            Ok(()) => self.candidacy.state.borrow_and_update().clone(),
            Err(_) => CandidateState::Over,
        }
    }

    /// Waits until the actor runs in this process, and returns a view of its lease, or `None` if the candidacy ends
    /// first. Until the actor's `pre_start` is over, the state is [`CandidateState::Starting`]. Cancel safe.
    pub async fn running(&mut self) -> Option<LeaseView> {
        let ended = |state: &CandidateState<M>| {
            matches!(state, CandidateState::Running { .. } | CandidateState::Over)
        };
        match &*self.candidacy.state.wait_for(ended).await.ok()? {
            CandidateState::Running { lease, .. } => Some(lease.clone()),
            _ => None,
        }
    }

    /// Sends the states to `actor` for as long as it lives: the current one, then each change, in order. The last one is
    /// [`CandidateState::Over`], which comes also if the keeper dies.
    ///
    /// ```no_run
    /// # use lockkeeper::run::LeaseEvent;
    /// # use lockkeeper::singleton::{Candidate, CandidateState};
    /// enum Message {
    ///     Scheduler(CandidateState<LeaseEvent>),
    /// }
    /// # #[cfg(not(feature = "cluster"))]
    /// fn subscribe(candidate: &Candidate<LeaseEvent>, myself: &ractor::ActorRef<Message>) {
    ///     candidate.subscribe(myself, Message::Scheduler);
    /// }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn subscribe<T: Message>(
        &self,
        actor: &ActorRef<T>,
        convert: impl FnMut(CandidateState<M>) -> T + Send + 'static,
    ) {
        subscribe::forward(self.candidacy.states(), actor, convert);
    }

    /// Changes the data about this member that others can read, for example its load: see
    /// [`SingletonOptions::advertise`](super::SingletonOptions::advertise). At most 960 KiB, or 976 KiB together with the
    /// access list. Others see the first KiB as the [`identifier`](crate::inspect::Contender::identifier).
    ///
    /// Returns when the server has confirmed that the candidate's node has the data. The node keeps its place in the
    /// queue, and its token. Later nodes are created with the data. If there is no node at the moment, because the
    /// session was lost or the candidate pauses, this waits for the next one.
    ///
    /// # Errors
    ///
    /// [`AdvertiseError`]. Unless that is [`TooLong`](AdvertiseError::TooLong) or
    /// [`Closed`](AdvertiseError::Closed), later nodes are created with the data.
    ///
    /// # Cancel safety
    ///
    /// The data are still written when this future is dropped after its first poll.
    pub async fn advertise(&self, data: impl Into<String>) -> Result<(), AdvertiseError> {
        self.candidacy.ask_advertise(data.into()).await
    }

    /// Ends the candidacy: asks the actor to stop, kills it after its [grace](super::SingletonOptions::grace), and
    /// releases the lock when it has ended. Returns when the server has confirmed the release.
    ///
    /// # Cancel safety
    ///
    /// The shutdown continues in the background when this future is dropped.
    pub async fn shutdown(self) {
        self.candidacy.ask_shutdown().await;
    }

    /// The actor that takes the candidate's messages, which is started at the first call.
    pub(crate) fn start_actor(&self) -> ActorRef<<Candidacy<M> as Recipient>::Message>
    where
        Candidacy<M>: Recipient,
    {
        self.address.actor(|| self.candidacy.clone())
    }
}

impl<M: Message> Drop for Candidate<M> {
    fn drop(&mut self) {
        self.candidacy.send(CandidateMessage::Shutdown);
    }
}

impl<M: Message> fmt::Debug for Candidate<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Candidate").field(&self.state()).finish()
    }
}

/// What a candidate and the actor that takes its messages share. Dropping it does not end the candidacy.
pub(crate) struct Candidacy<M> {
    handle: Handle,
    /// `None` if it could not be started.
    actor: Option<ActorRef<CandidateMessage<M>>>,
    /// The actor owns the sender, and drops it when it ends.
    state: watch::Receiver<CandidateState<M>>,
}

impl<M: Message> Candidacy<M> {
    pub fn new(
        handle: Handle,
        actor: Option<ActorRef<CandidateMessage<M>>>,
        state: watch::Receiver<CandidateState<M>>,
    ) -> Candidacy<M> {
        Candidacy { handle, actor, state }
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    pub fn state(&self) -> CandidateState<M> {
        match self.state.has_changed() {
            Ok(_) => self.state.borrow().clone(),
            Err(_) => CandidateState::Over,
        }
    }

    pub fn running_actor(&self) -> Option<ActorRef<M>> {
        match self.state() {
            CandidateState::Running { actor, .. } => Some(actor),
            _ => None,
        }
    }

    /// The current state, then each change. `Over` is the last.
    pub fn states(&self) -> impl Stream<Item = CandidateState<M>> + Send + use<M> {
        let (sender, states) = mpsc::unbounded_channel();
        // If the actor has ended, the sender is dropped with the message.
        self.send(CandidateMessage::Subscribe(sender));
        let next = |mut states: mpsc::UnboundedReceiver<_>| async { Some((states.recv().await?, states)) };
        stream::unfold(states, next).chain(stream::once(ready(CandidateState::Over)))
    }

    pub fn ask_advertise(&self, data: String) -> BoxFuture<'static, Result<(), AdvertiseError>> {
        let bytes = data.len();
        let limit = MAX_REQUEST.min(MAX_NODE.saturating_sub(bytes_of(&self.handle.options().acl)));
        if bytes > limit {
            return ready(Err(AdvertiseError::TooLong { bytes, limit })).boxed();
        }
        let (reply, answer) = oneshot::channel();
        self.send(CandidateMessage::Advertise(data.into_bytes(), reply.into()));
        let candidacy = self.clone();
        let lost = move |_| match candidacy.state() {
            CandidateState::Over => Err(AdvertiseError::Closed),
            _ => Err(AdvertiseError::Failed { reason: "the answer was lost".into() }),
        };
        answer.map(|answer| answer.unwrap_or_else(lost)).boxed()
    }

    /// Asks the candidate to end now. The result resolves when it has.
    pub fn ask_shutdown(&self) -> BoxFuture<'static, ()> {
        self.send(CandidateMessage::Shutdown);
        let mut state = self.state.clone();
        Box::pin(async move {
            // It has ended, too, if the sender is dropped.
            let _ = state.wait_for(|state| matches!(state, CandidateState::Over)).await;
        })
    }

    fn send(&self, message: CandidateMessage<M>) {
        if let Some(actor) = &self.actor {
            // Fails if the candidacy has ended. That is seen from the state.
            let _ = actor.cast(message);
        }
    }
}

impl<M> Clone for Candidacy<M> {
    fn clone(&self) -> Candidacy<M> {
        Candidacy { handle: self.handle.clone(), actor: self.actor.clone(), state: self.state.clone() }
    }
}
