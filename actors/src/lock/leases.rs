//! What a semaphore's machine decided, carried out.

use std::time::Duration;

use ractor::ActorRef;

use super::{LockActorMessage, State};
use crate::leases::make_root;
use crate::machine::lock::protocol::{Event, Failure, Leases, Root, Sight, TakeFailure, Ticket};
use crate::machine::node::{Attempt, Znode};
use crate::zookeeper::{Answer, Fired, NewNode, TakeRequest, Watching};

/// What a survey found, and the watches that it left.
pub(crate) struct Survey {
    pub survey: Attempt,
    root: Option<Result<Root, Failure>>,
    leases: Option<Result<Leases, Failure>>,
    watches: [Option<Watching>; 2],
}

impl State {
    /// All requests are sent before any is answered.
    pub(super) fn survey(&mut self, survey: Attempt, sync: bool, root: Sight, leases: Sight) {
        let Some(session) = &mut self.connection else { return };
        session.survey_sent(survey);
        let (epoch, path) = (session.connection.epoch, &*self.arguments.place.path);
        let client = &session.connection.client;
        let sync = sync.then(|| client.sync(path));
        let root: Option<Answer<(Root, Option<Watching>)>> = match root {
            Sight::Skip => None,
            Sight::Look => Some(unwatched(client.read_root(path), None)),
            Sight::Watch => Some(match session.connection.nodes.room_for_watch(path) {
                Some(room) => watched(client.watch_root(path), room),
                None => unwatched(client.read_root(path), Some(later())),
            }),
        };
        let leases: Option<Answer<(Leases, Option<Watching>)>> = match leases {
            Sight::Skip => None,
            Sight::Look => Some(unwatched(client.leases(path), None)),
            Sight::Watch => Some(match session.connection.nodes.room_for_watch(path) {
                Some(room) => watched(client.watch_children(path), room),
                None => unwatched(client.leases(path), Some(later())),
            }),
        };
        session.expect(Box::pin(async move {
            let synced = match sync {
                Some(answer) => answer.await,
                None => Ok(()),
            };
            let (mut root, root_watch) = split(root).await;
            let (mut leases, lease_watch) = split(leases).await;
            let mut watches = [root_watch, lease_watch];
            if let Err(failure) = synced {
                root = root.map(|_| Err(failure.clone()));
                leases = leases.map(|_| Err(failure));
                watches = [None, None];
            }
            LockActorMessage::Surveyed(epoch, Survey { survey, root, leases, watches })
        }));
    }

    pub(super) fn surveyed(&mut self, epoch: u64, found: Survey, myself: &ActorRef<LockActorMessage>) {
        let Some(session) = self.connection.as_mut().filter(|s| s.connection.epoch == epoch) else { return };
        let Survey { survey, root, leases, watches } = found;
        session.arm(survey, watches, myself);
        self.feed(Event::Surveyed { survey, root, leases }, myself);
    }

    pub(super) fn make_root(&mut self, survey: Attempt, ticket: Ticket, limit: u32) {
        let Some(options) = self.requests.get(&ticket).map(|entry| entry.options.clone()) else { return };
        let path = self.arguments.place.path.clone();
        self.submit(
            |zk| Box::pin(make_root(zk.client.clone(), path, limit, options)),
            move |result| Event::RootMade(survey, result),
        );
    }

    pub(super) fn take(
        &mut self,
        take: Attempt,
        version: i32,
        mutex: &Znode,
        keep: bool,
        leases: &[(Ticket, String)],
    ) {
        let Some(session) = &self.connection else { return };
        let (epoch, root) = (session.connection.epoch, &*self.arguments.place.path);
        let paths: Vec<String> = leases.iter().map(|(_, name)| format!("{root}/{name}")).collect();
        let mutex = super::link::full(&self.directory, mutex);
        let mut nodes = Vec::with_capacity(leases.len());
        for ((ticket, _), path) in leases.iter().zip(&paths) {
            let Some(entry) = self.requests.get(ticket) else { continue };
            nodes.push(NewNode { path, data: &entry.options.identifier, acl: &entry.options.acl });
        }
        if !keep {
            session.connection.nodes.untrack(&mutex);
        }
        let request = TakeRequest { mutex: &mutex, keep, root: (root, version), leases: &nodes };
        let answer = session.connection.client.take(request);
        session.expect(Box::pin(async move {
            let result: Result<(), TakeFailure> = answer.await;
            LockActorMessage::Event(epoch, Event::Taken(take, result))
        }));
    }
}

fn unwatched<T: Send + 'static>(answer: Answer<T>, watch: Option<Watching>) -> Answer<(T, Option<Watching>)> {
    Box::pin(async move { Ok((answer.await?, watch)) })
}

/// The room is given back with the watch.
fn watched<T: Send + 'static>(
    answer: Answer<(T, Watching)>,
    room: impl Send + 'static,
) -> Answer<(T, Option<Watching>)> {
    Box::pin(async move {
        let (found, watch) = answer.await?;
        let watch: Watching = Box::pin(async move {
            let _room = room;
            watch.await
        });
        Ok((found, Some(watch)))
    })
}

/// In place of a watch for which there is no room.
fn later() -> Watching {
    Box::pin(async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Fired::Changed
    })
}

async fn split<T>(
    answer: Option<Answer<(T, Option<Watching>)>>,
) -> (Option<Result<T, Failure>>, Option<Watching>) {
    match answer {
        None => (None, None),
        Some(answer) => match answer.await {
            Ok((found, watch)) => (Some(Ok(found)), watch),
            Err(failure) => (Some(Err(failure)), None),
        },
    }
}
