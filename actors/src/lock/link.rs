//! A path's part of a session: answers in order, watches, and all that ends with it.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use futures::future::BoxFuture;
use ractor::ActorRef;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::LockActorMessage;
use crate::machine::lock::protocol::{Event, Failure};
use crate::machine::node::{Attempt, Znode};
use crate::session::{Connection, WatchRoom};
use crate::zookeeper::{Fired, Watching};

/// A session, and everything that must not outlive it.
pub(super) struct Session {
    pub connection: Connection,
    /// Answers are cast back in the order of the requests.
    answers: mpsc::UnboundedSender<BoxFuture<'static, LockActorMessage>>,
    pub watches: BTreeMap<Znode, Watch>,
    /// The watches that a semaphore's surveys left: on the root's data, and on the leases.
    surveys: [Option<AbortHandle>; 2],
    /// The last survey that was sent, and the last one whose watches are not wanted any more.
    surveyed: Option<Attempt>,
    calmed: Option<Attempt>,
    pub tasks: JoinSet<()>,
    /// How many are being answered.
    pub questions: usize,
}

/// A question that is being answered. Dropped, it is over.
pub(super) struct Question {
    epoch: u64,
    actor: ActorRef<LockActorMessage>,
}

impl Drop for Question {
    fn drop(&mut self) {
        // An actor that has gone counts no more.
        let _ = self.actor.cast(LockActorMessage::Answered(self.epoch));
    }
}

/// A watch on a contender ahead, armed when it has a task. Gives its room back when it is dropped.
pub(super) struct Watch {
    task: Option<AbortHandle>,
    _room: WatchRoom,
}

impl Watch {
    /// The task ends when the watch fires; it follows whatever watch was armed before.
    pub fn armed(&mut self, task: AbortHandle) {
        if let Some(before) = self.task.replace(task) {
            before.abort();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Session {
    pub fn new(connection: Connection, actor: ActorRef<LockActorMessage>) -> Session {
        let (answers, mut queue) = mpsc::unbounded_channel::<BoxFuture<'static, LockActorMessage>>();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(answer) = queue.recv().await {
                let Ok(answer) = AssertUnwindSafe(answer).catch_unwind().await else {
                    // Nobody would pass on the answers behind it, and everybody would wait for ever: the actor goes
                    // with this, and its supervisor cleans up.
                    return actor.kill();
                };
                if actor.cast(answer).is_err() {
                    return;
                }
            }
        });
        let (surveys, surveyed, calmed) = ([None, None], None, None);
        Session {
            connection,
            answers,
            watches: BTreeMap::new(),
            surveys,
            surveyed,
            calmed,
            tasks,
            questions: 0,
        }
    }

    pub fn question(&mut self, actor: &ActorRef<LockActorMessage>) -> Question {
        self.questions += 1;
        Question { epoch: self.connection.epoch, actor: actor.clone() }
    }

    pub fn expect(&self, answer: BoxFuture<'static, LockActorMessage>) {
        // Fails only when the actor has gone, and then nobody waits for the answer.
        let _ = self.answers.send(answer);
    }

    pub fn watch(&mut self, node: Znode, path: &str) {
        let (epoch, client, target) = (self.connection.epoch, &self.connection.client, full(path, &node));
        let Some(room) = self.connection.nodes.room_for_watch(&target) else {
            let read = client.read(&target);
            return self.expect(Box::pin(async move {
                let result = read.await.and(Err(Failure::Refused("no room for another watch".into())));
                LockActorMessage::Event(epoch, Event::Watched(node, result))
            }));
        };
        let answer = client.watch(&target);
        self.watches.insert(node.clone(), Watch { task: None, _room: room });
        self.expect(Box::pin(async move {
            match answer.await {
                Ok(fired) => LockActorMessage::Armed(epoch, node, fired),
                Err(failure) => LockActorMessage::Event(epoch, Event::Watched(node, Err(failure))),
            }
        }));
    }

    pub fn unwatch(&mut self, node: &Znode) {
        self.watches.remove(node);
        while self.tasks.try_join_next().is_some() {}
    }

    pub fn survey_sent(&mut self, survey: Attempt) {
        self.surveyed = Some(survey);
    }

    pub fn arm(
        &mut self,
        survey: Attempt,
        watches: [Option<Watching>; 2],
        actor: &ActorRef<LockActorMessage>,
    ) {
        if self.calmed >= Some(survey) {
            return;
        }
        let epoch = self.connection.epoch;
        for ((watch, root), armed) in watches.into_iter().zip([true, false]).zip(&mut self.surveys) {
            let Some(watch) = watch else { continue };
            let actor = actor.clone();
            let task = self.tasks.spawn(async move {
                match watch.await {
                    Fired::Gone | Fired::Changed => {
                        let event = Event::Disturbed { survey, root };
                        let _ = actor.cast(LockActorMessage::Event(epoch, event));
                    }
                    // The session actor tells the end of the session.
                    Fired::Ended => {}
                }
            });
            if let Some(before) = armed.replace(task) {
                before.abort();
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }

    pub fn calm(&mut self) {
        self.calmed = self.surveyed;
        for task in self.surveys.iter_mut().filter_map(Option::take) {
            task.abort();
        }
    }
}

pub(super) fn full(directory: &str, node: &Znode) -> String {
    format!("{directory}/{}", node.name())
}
