//! Carries out the commands of the lock's machine: sends requests to ZooKeeper, and replies to callers.

use tracing::debug;

use super::{NewWatch, Path, PathMessage, WatchKey};
use crate::machine::lock::{Command, Created, Event};
use crate::machine::node::{Attempt, Znode};
use crate::machine::{Failure, PathMachine, Ticket};
use crate::session::Change;

impl<M: PathMachine> Path<M>
where
    M::Event: From<Event> + Send + 'static,
{
    pub fn execute(&mut self, command: Command) {
        let path = self.directory.clone();
        match command {
            Command::List(attempt) => {
                self.submit(|zk| zk.client.children(&path), move |r| Event::Listed(attempt, r).into())
            }
            Command::CreateAndList(attempt, ticket) => self.create_and_list(attempt, ticket),
            Command::MakeDirectory(attempt, ticket) => {
                let Some(options) = self.options(ticket) else { return };
                self.submit(
                    |zk| zk.client.make_directories(&path, options.container, &options.acl),
                    move |result| Event::DirectoryMade(attempt, result).into(),
                )
            }
            Command::FindCreated(attempt) => self.submit(
                |zk| {
                    debug!(%path, epoch = zk.epoch, attempt = attempt.0, "the outcome of a create is unknown");
                    let (sync, list) = (zk.client.sync(&path), zk.client.children(&path));
                    Box::pin(async move { sync.await.and(list.await) })
                },
                move |result| Event::Found(attempt, result).into(),
            ),
            Command::ReadStat(attempt, node) => self.submit(
                |zk| zk.client.read(&self.node_path(&node)),
                move |result| Event::StatRead(attempt, result.map(|found| found.stat)).into(),
            ),
            Command::Watch(node) => self.watch(node),
            Command::Unwatch(node) => drop(self.watches.remove(&WatchKey::Node(node))),
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
            Command::Grant { ticket, node, czxid } => self.grant(ticket, vec![self.node_path(&node)], czxid),
            Command::Reply(reply) => self.reply(reply),
        }
    }

    /// The path of a node in the directory.
    pub fn node_path(&self, node: &Znode) -> String {
        format!("{}/{}", self.directory, node.name())
    }

    /// Sends the create and the list without waiting for an answer in between.
    fn create_and_list(&mut self, attempt: Attempt, ticket: Ticket) {
        let Some(options) = self.options(ticket) else { return };
        let name = self.instance.prefix(attempt, options.dialect, options.mode);
        let prefix = format!("{}/{name}", self.directory);
        if !options.ephemeral {
            self.note_persistent(ticket, prefix.clone());
        }
        let Some(session) = &self.session else { return };
        let (epoch, client) = (session.connection.epoch, &session.connection.client);
        let create = client.create(&prefix, &options.identifier, options.ephemeral, &options.acl);
        let list = client.children(&self.directory);
        session.expect(async move {
            let created = create.await.and_then(|created| {
                let node = Znode::parse(&format!("{name}{:010}", created.sequence));
                let node = node.ok_or_else(|| {
                    Failure::Unknown(format!("no sequence number: {}", created.sequence).into())
                })?;
                Ok(Created { node, czxid: created.czxid })
            });
            let children = list.await;
            let event = Event::CreatedAndListed { attempt, created, children };
            PathMessage::Answer(epoch, event.into(), Vec::new())
        });
    }

    fn watch(&mut self, node: Znode) {
        let Some(session) = &self.session else { return };
        let key = WatchKey::Node(node.clone());
        self.watches.insert(key.clone(), None);
        let (epoch, answer) =
            (session.connection.epoch, session.connection.watches.node(&self.node_path(&node)));
        session.expect(async move {
            match answer.await {
                Ok(watching) => {
                    let watched = Event::Watched(node.clone(), Ok(()));
                    let fired = move |change| Event::Fired { node, gone: change == Change::Gone }.into();
                    let watch = NewWatch { key, watching, event: Box::new(fired) };
                    PathMessage::Answer(epoch, watched.into(), vec![watch])
                }
                Err(failure) => PathMessage::WatchOver(epoch, key, Event::Watched(node, Err(failure)).into()),
            }
        });
    }
}
