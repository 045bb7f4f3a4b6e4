//! Carries out the commands of the lock's machine: sends requests to ZooKeeper, and replies to callers.

use std::fmt::Write;

use tracing::debug;

use super::{NewWatch, Path, PathMessage, WatchKey};
use crate::machine::lock::{Command, Created, Event};
use crate::machine::node::{Attempt, Znode};
use crate::machine::{Failure, PathMachine, Ticket};
use crate::session::Change;
use crate::zookeeper::{Answer, CreatedNode};

impl<M: PathMachine> Path<M>
where
    M::Event: From<Event> + Send + 'static,
{
    pub fn execute(&mut self, command: Command) {
        let path = self.directory.clone();
        match command {
            Command::List { sync: false } => {
                self.submit(|zk| zk.client.children(&path), |children| Event::Listed(children).into())
            }
            Command::List { sync: true } => self.submit(
                |zk| {
                    debug!(%path, epoch = zk.epoch, "the outcome of a create is unknown");
                    let (sync, list) = (zk.client.sync(&path), zk.client.children(&path));
                    Box::pin(async move { sync.await.and(list.await) })
                },
                |children| Event::Listed(children).into(),
            ),
            Command::Create(attempt, ticket) => self.create(attempt, ticket),
            Command::CreateAndList(attempt, ticket) => self.create_and_list(attempt, ticket),
            Command::MakeDirectory(attempt, ticket) => {
                let Some(options) = self.options(ticket) else { return };
                self.submit(
                    |zk| zk.client.make_directories(&path, options.container, &options.acl),
                    move |result| Event::DirectoryMade(attempt, result).into(),
                )
            }
            Command::ReadStat(attempt, node) => self.submit(
                |zk| zk.client.read(&self.node_path(&node)),
                move |result| Event::StatRead(attempt, result.map(|found| found.stat)).into(),
            ),
            Command::Watch(node) => self.watch(node),
            Command::Unwatch(node) => self.watches.remove(&WatchKey::Node(node)),
            Command::Delete(attempt, node) => {
                let node = self.node_path(&node);
                self.submit(
                    |zk| {
                        zk.nodes.untrack(&node);
                        zk.client.delete(&node)
                    },
                    move |result| Event::Deleted(attempt, result).into(),
                )
            }
            Command::Track(node) => {
                if let Some(session) = &self.session {
                    session.connection.nodes.track(self.node_path(&node));
                }
            }
            Command::Grant { ticket, node, czxid } => {
                self.grant(ticket, self.node_path(&node), Vec::new(), czxid)
            }
            Command::Reply(reply) => self.reply(reply),
        }
    }

    fn child(&self, name: &str) -> String {
        [&*self.directory, "/", name].concat()
    }

    /// The path of a node in the directory.
    pub fn node_path(&self, node: &Znode) -> String {
        self.child(node.name())
    }

    fn create(&mut self, attempt: Attempt, ticket: Ticket) {
        let Some(create) = self.send_create(attempt, ticket) else { return };
        self.submit(
            |_| create.answer,
            move |created| Event::Created(attempt, with_name(create.name, created)).into(),
        );
    }

    /// Sends the create and the list without waiting for an answer in between.
    fn create_and_list(&mut self, attempt: Attempt, ticket: Ticket) {
        let Some(create) = self.send_create(attempt, ticket) else { return };
        let Some(session) = &self.session else { return };
        let (epoch, list) = (session.connection.epoch, session.connection.client.children(&self.directory));
        let retries = self.metrics.retries();
        self.expect(async move {
            let (created, children) = (create.answer.await, list.await);
            retries.count(&created);
            if created.is_ok() {
                retries.count(&children);
            }
            let created = with_name(create.name, created);
            let event = Event::CreatedAndListed { attempt, created, children };
            PathMessage::Answer(epoch, event.into(), Vec::new())
        });
    }

    fn send_create(&mut self, attempt: Attempt, ticket: Ticket) -> Option<SentCreate> {
        let options = self.options(ticket)?;
        let name = self.instance.prefix(attempt, options.dialect, options.mode);
        let prefix = self.child(&name);
        if !options.ephemeral {
            self.note_persistent(ticket, prefix.clone());
        }
        let client = &self.session.as_ref()?.connection.client;
        let answer =
            client.create(prefix, options.identifier.clone(), options.ephemeral, options.acl.clone());
        Some(SentCreate { name, answer })
    }

    fn watch(&mut self, node: Znode) {
        let Some(session) = &self.session else { return };
        let key = WatchKey::Node(node.clone());
        self.watches.remove(&key);
        self.watches.want(key.clone());
        let (epoch, answer) =
            (session.connection.epoch, session.connection.watches.node(&self.node_path(&node)));
        let retries = self.metrics.retries();
        self.expect(async move {
            let answered = answer.await;
            retries.count(&answered);
            match answered {
                Ok(watch) => {
                    let watched = Event::Watched(node.clone(), Ok(()));
                    let fired = move |change| Event::Fired { node, gone: change == Change::Gone }.into();
                    let watch = NewWatch { key, watch, event: Box::new(fired) };
                    PathMessage::Answer(epoch, watched.into(), vec![watch])
                }
                Err(failure) => PathMessage::WatchOver(epoch, key, Event::Watched(node, Err(failure)).into()),
            }
        });
    }
}

/// A create in flight.
struct SentCreate {
    /// The node's name, without the sequence number.
    name: String,
    answer: Answer<CreatedNode>,
}

fn with_name(mut name: String, created: Result<CreatedNode, Failure>) -> Result<Created, Failure> {
    let CreatedNode { sequence, czxid } = created?;
    // Writing to a string does not fail.
    let _ = write!(name, "{sequence:010}");
    let node = Znode::named(name);
    let node = node.ok_or_else(|| Failure::Unknown(format!("no sequence number: {sequence}").into()))?;
    Ok(Created { node, czxid })
}
