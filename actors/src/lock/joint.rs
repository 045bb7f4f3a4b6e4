//! Contenders whose nodes are made together with others', in one transaction.

use std::sync::Arc;

use futures::future::join_all;
use ractor::ActorRef;

use super::{LockActorMessage, State};
use crate::api::messages::ContenderOptions;
use crate::machine::lock::protocol::{Created, Event, Failure};
use crate::machine::node::{Attempt, Znode};
use crate::registry::PrimitivesMessage;
use crate::zookeeper::{NewNode, NotCreated};

/// A contender that is about to enter its queue, and waits for somebody to make its node. Dropped, it is told that
/// there is none.
pub(crate) struct Entrant {
    /// The session that its queue has.
    pub epoch: u64,
    pub(super) path: Arc<str>,
    pub(super) attempt: Attempt,
    /// Its node's, without the number.
    pub(super) name: String,
    pub(super) options: Arc<ContenderOptions>,
    pub(super) actor: ActorRef<LockActorMessage>,
    /// What it is told when it is dropped.
    pub(super) otherwise: Option<Failure>,
}

/// Who is notified that a contender is about to enter.
pub(crate) type Joint = Box<dyn Fn(Entrant) + Send>;

/// Contenders that can still be entered, by part.
pub(crate) type Back = Vec<(usize, Entrant)>;

/// All nodes of one request, to be made in one transaction of one session.
pub(crate) struct Together {
    /// By part, and all of one session.
    pub entrants: Vec<Entrant>,
    /// Is given those that have no node because others failed them, before any queue hears of its own.
    pub answer: Box<dyn FnOnce(Back) + Send>,
}

impl Entrant {
    /// For one whose node is made by nobody as long as nobody asks.
    pub(super) fn withdrawn() -> Option<Failure> {
        Some(Failure::Refused("it was withdrawn".into()))
    }

    /// Asks the actor of this contender to make the nodes of all.
    pub fn submit(actor: &ActorRef<LockActorMessage>, together: Together) {
        // What is dropped with an actor that has died tells its queues so.
        let _ = actor.cast(LockActorMessage::Together(together));
    }

    pub fn actor(&self) -> ActorRef<LockActorMessage> {
        self.actor.clone()
    }

    fn prefix(&self) -> String {
        format!("{}/{}", self.path, self.name)
    }

    /// `false` when its queue's actor has died.
    fn entered(mut self, created: Result<Created, Failure>, children: Result<Vec<String>, Failure>) -> bool {
        self.otherwise = None;
        self.tell(created, children)
    }

    fn tell(&self, created: Result<Created, Failure>, children: Result<Vec<String>, Failure>) -> bool {
        let event = Event::Entered { attempt: self.attempt, created, children };
        self.actor.cast(LockActorMessage::Event(self.epoch, event)).is_ok()
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
    pub(super) fn make_together(&mut self, mut together: Together) {
        let epoch = together.entrants.first().map(|entrant| entrant.epoch);
        let Some(session) = self.connection.as_mut().filter(|s| Some(s.connection.epoch) == epoch) else {
            // The end of that session has been told here, and will be in the other paths.
            for entrant in &mut together.entrants {
                entrant.otherwise = Some(Failure::SessionGone);
            }
            return;
        };
        let client = &session.connection.client;
        let prefixes: Vec<String> = together.entrants.iter().map(Entrant::prefix).collect();
        let nodes: Vec<NewNode<'_>> = (together.entrants.iter().zip(&prefixes))
            .map(|(entrant, path)| NewNode {
                path,
                data: &entrant.options.identifier,
                acl: &entrant.options.acl,
            })
            .collect();
        let (created, primitives) = (client.create_all(&nodes), self.arguments.primitives.clone());
        let epoch = session.connection.epoch;
        let lists: Vec<_> = together.entrants.iter().map(|entrant| client.children(&entrant.path)).collect();
        for entrant in &mut together.entrants {
            entrant.otherwise = Some(Failure::Unknown("the answer was not waited for".into()));
        }
        session.tasks.spawn(async move {
            let (created, lists) = (created.await, join_all(lists).await);
            let nodes = together.settle(created, lists);
            if !nodes.is_empty() {
                // A supervisor that is gone ends the session, too.
                let _ = primitives.cast(PrimitivesMessage::Orphaned { epoch, nodes });
            }
        });
        while session.tasks.try_join_next().is_some() {}
    }
}

impl Together {
    /// Gives the nodes of queues whose actors have died meanwhile: who cleaned up after them came too early.
    fn settle(
        self,
        created: Result<(Vec<i64>, i64), NotCreated>,
        lists: Vec<Result<Vec<String>, Failure>>,
    ) -> Vec<String> {
        let (mut back, mut told) = (Vec::new(), Vec::new());
        for (part, (mut entrant, list)) in self.entrants.into_iter().zip(lists).enumerate() {
            let outcome = match &created {
                Ok((sequences, czxid)) => sequences
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
