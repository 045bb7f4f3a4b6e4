//! The nodes of a multi-lock, created in one transaction by the actor of one of its locks.

use std::sync::Arc;

use futures::future::join_all;
use ractor::DerivedActorRef;

use super::State;
use crate::api::request::ContenderOptions;
use crate::machine::Failure;
use crate::machine::lock::{Created, Event};
use crate::machine::node::{Attempt, Znode};
use crate::path::{PathMessage, PathReport};
use crate::session::SessionHandle;
use crate::zookeeper::{CreatedNodes, NewNode, NotCreated};

/// What a lock's actor needs of a request that is one part of a multi-lock.
pub(crate) struct Part {
    /// It begins again, after a round that failed.
    pub again: bool,
    /// Is given the contender when its node is to be created.
    pub offer: Box<dyn Fn(Entrant) + Send>,
}

/// A contender whose node is to be created. Dropped, its lock is told that there is no node.
pub(crate) struct Entrant {
    /// The session that its lock has.
    pub epoch: u64,
    pub(super) path: Arc<str>,
    pub(super) attempt: Attempt,
    /// Its node's name, without the number.
    pub(super) name: String,
    pub(super) options: Arc<ContenderOptions>,
    /// To its lock.
    pub(super) answers: DerivedActorRef<PathMessage<Event>>,
    pub(super) creates: DerivedActorRef<JointCreate>,
    /// What its lock is told when it is dropped.
    pub(super) otherwise: Option<Failure>,
}

/// The contenders of one multi-lock, whose nodes are created in one transaction of one session.
pub(crate) struct JointCreate {
    /// By part, all of one session.
    pub entrants: Vec<Entrant>,
    /// Is given those parts that can be tried again, because others made the transaction fail, before any lock is told of
    /// its own.
    pub answer: Box<dyn FnOnce(Vec<Retried>) + Send>,
}

/// An entrant that can be tried again, with the number of its part.
pub(crate) type Retried = (usize, Entrant);

impl Entrant {
    /// For a contender whose create was not sent.
    pub(super) fn withdrawn() -> Option<Failure> {
        Some(Failure::Refused("it was withdrawn".into()))
    }

    /// To the actor that can create this contender's node, and others with it.
    pub fn creates(&self) -> DerivedActorRef<JointCreate> {
        self.creates.clone()
    }

    fn prefix(&self) -> String {
        format!("{}/{}", self.path, self.name)
    }

    /// Gives `false` when its lock's actor has died.
    fn entered(mut self, created: Result<Created, Failure>, children: Result<Vec<String>, Failure>) -> bool {
        self.otherwise = None;
        self.tell(created, children)
    }

    fn tell(&self, created: Result<Created, Failure>, children: Result<Vec<String>, Failure>) -> bool {
        let event = Event::CreatedAndListed { attempt: self.attempt, created, children };
        self.answers.send_message(PathMessage::Answer(self.epoch, event, Vec::new())).is_ok()
    }
}

impl Drop for Entrant {
    fn drop(&mut self) {
        if let Some(failure) = self.otherwise.take() {
            self.tell(Err(failure.clone()), Err(failure));
        }
    }
}

impl State {
    /// Sends the creates of all, and the lists of their directories right behind them.
    pub(super) fn create_jointly(&mut self, mut create: JointCreate) {
        let epoch = create.entrants.first().map(|entrant| entrant.epoch);
        let current = |s: &&mut SessionHandle<_>| Some(s.connection.epoch) == epoch;
        let Some(session) = self.path.session.as_mut().filter(current) else {
            // The other locks will be told of the end of that session, as this one was.
            for entrant in &mut create.entrants {
                entrant.otherwise = Some(Failure::SessionGone);
            }
            return;
        };
        let client = &session.connection.client;
        let prefixes: Vec<String> = create.entrants.iter().map(Entrant::prefix).collect();
        let nodes: Vec<NewNode<'_>> = (create.entrants.iter().zip(&prefixes))
            .map(|(entrant, path)| NewNode {
                path,
                data: &entrant.options.identifier,
                acl: &entrant.options.acl,
            })
            .collect();
        let (created, registry) = (client.create_all(&nodes), self.path.registry.clone());
        let epoch = session.connection.epoch;
        let lists: Vec<_> = create.entrants.iter().map(|entrant| client.children(&entrant.path)).collect();
        for entrant in &mut create.entrants {
            entrant.otherwise = Some(Failure::Unknown("the answer was not awaited".into()));
        }
        session.spawn(async move {
            let (created, lists) = (created.await, join_all(lists).await);
            let nodes = create.settle(created, lists);
            if !nodes.is_empty() {
                // A registry that is gone ends the session, and that deletes the nodes.
                let _ = registry.send_message(PathReport::Orphaned { epoch, nodes });
            }
        });
    }
}

impl JointCreate {
    /// Tells all locks. Gives the nodes of those whose actors have died meanwhile: the clean-up came before these nodes.
    fn settle(
        self,
        created: Result<CreatedNodes, NotCreated>,
        lists: Vec<Result<Vec<String>, Failure>>,
    ) -> Vec<String> {
        let (mut back, mut told) = (Vec::new(), Vec::new());
        for (part, (mut entrant, list)) in self.entrants.into_iter().zip(lists).enumerate() {
            let outcome = match &created {
                Ok(CreatedNodes { sequences, czxid }) => sequences
                    .get(part)
                    .and_then(|sequence| Znode::parse(&format!("{}{sequence:010}", entrant.name)))
                    .map(|node| Created { node, czxid: *czxid })
                    .ok_or_else(|| Failure::Unknown("no sequence number".into())),
                Err(NotCreated { culprit: Some(culprit), failure }) if *culprit != part => {
                    // Every directory that is missing is made at once.
                    if (failure, &list) != (&Failure::NoNode, &Err(Failure::NoNode)) {
                        entrant.otherwise = Entrant::withdrawn();
                        back.push((part, entrant));
                        continue;
                    }
                    Err(Failure::NoNode)
                }
                Err(NotCreated { failure, .. }) => Err(failure.clone()),
            };
            told.push((entrant, outcome, list));
        }
        (self.answer)(back);
        let mut left = Vec::new();
        for (entrant, outcome, list) in told {
            let node = outcome.as_ref().ok().map(|made| format!("{}/{}", entrant.path, made.node.name()));
            if !entrant.entered(outcome, list) {
                left.extend(node);
            }
        }
        left
    }
}
