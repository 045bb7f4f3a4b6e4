//! A path's part of a session: answers in order, watches, and all that ends with it.

use std::collections::HashMap;

use futures::future::BoxFuture;
use ractor::ActorRef;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::LockActorMessage;
use crate::machine::protocol::{Event, Failure};
use crate::machine::znode::Znode;
use crate::session::Connection;

/// A session, and everything that must not outlive it.
pub(super) struct Session {
    pub connection: Connection,
    /// Answers are cast back in the order of the requests.
    answers: mpsc::UnboundedSender<BoxFuture<'static, LockActorMessage>>,
    pub watches: HashMap<Znode, Watch>,
    pub tasks: JoinSet<()>,
}

pub(super) enum Watch {
    Arming,
    Armed(AbortHandle),
}

impl Session {
    pub fn new(connection: Connection, actor: ActorRef<LockActorMessage>) -> Session {
        let (answers, mut queue) = mpsc::unbounded_channel::<BoxFuture<'static, LockActorMessage>>();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(answer) = queue.recv().await {
                if actor.cast(answer.await).is_err() {
                    return;
                }
            }
        });
        Session { connection, answers, watches: HashMap::new(), tasks }
    }

    pub fn expect(&self, answer: BoxFuture<'static, LockActorMessage>) {
        // Fails only when the actor has gone, and then nobody waits for the answer.
        let _ = self.answers.send(answer);
    }

    pub fn watch(&mut self, node: Znode, path: &str) {
        let (epoch, client, target) = (self.connection.epoch, &self.connection.client, full(path, &node));
        if !self.connection.nodes.reserve_watch(&target) {
            let read = client.read(&target);
            return self.expect(Box::pin(async move {
                let result = read.await.and(Err(Failure::Refused("no room for another watch".into())));
                LockActorMessage::Event(epoch, Event::Watched(node, result))
            }));
        }
        let answer = client.watch(&target);
        if self.watches.insert(node.clone(), Watch::Arming).is_some() {
            self.connection.nodes.free_watch(&target);
        }
        self.expect(Box::pin(async move {
            match answer.await {
                Ok(fired) => LockActorMessage::Armed(epoch, node, fired),
                Err(failure) => LockActorMessage::Event(epoch, Event::Watched(node, Err(failure))),
            }
        }));
    }

    pub fn unwatch(&mut self, node: &Znode, path: &str) {
        if let Some(watch) = self.watches.remove(node) {
            self.connection.nodes.free_watch(&full(path, node));
            if let Watch::Armed(task) = watch {
                task.abort();
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

pub(super) fn full(directory: &str, node: &Znode) -> String {
    format!("{directory}/{}", node.name())
}
