//! What the actor does for the mutex of its machine, as `src/path/queue.rs` does it: an ordinary lock in a directory of
//! its own.

use std::vec::IntoIter;

use lockkeeper_actors::machine::exclusion::{Dialect, Mode};
use lockkeeper_actors::machine::lock::{Command, Event};

use super::properties::ANSWERS;
use super::server::Spot;
use super::wire::{Answer, Ask, Errand, Purpose, next, node};
use super::world::World;
use crate::world::directory::instance;

impl World {
    /// What the actor makes of the answers. Nothing, if a watch is no longer wanted.
    pub fn hear_mutex(&mut self, id: u8, errand: Errand, mut answers: IntoIter<Answer>) -> Option<Event> {
        let first = next(&mut answers);
        let event = match errand {
            Errand::CreateAndList(attempt) => {
                let (created, children) = (first.created(), next(&mut answers).names());
                Event::CreatedAndListed { attempt, created, children }
            }
            Errand::Create(attempt) => Event::Created(attempt, first.created()),
            Errand::List => Event::Listed(first.names()),
            Errand::SyncAndList => Event::Listed(first.done().and_then(|()| next(&mut answers).names())),
            Errand::MakeDirectory(attempt) => Event::DirectoryMade(attempt, first.done()),
            Errand::ReadStat(attempt) => Event::StatRead(attempt, first.stat()),
            Errand::Watch(name) => {
                let spot = Spot::Contender(name.clone());
                if first != Answer::Done {
                    self.unwatch(id, &name);
                } else if !self.clients.sessions[&id].watches.contenders.contains(&name) {
                    // No longer wanted.
                    let watches = &mut self.server.watches;
                    watches.retain(|watch| watch.session != id || watch.spot != spot || watch.armed);
                    return None;
                } else {
                    self.arm(id, &spot, 0);
                }
                Event::Watched(node(&name), first.done())
            }
            Errand::Delete(attempt) => Event::Deleted(attempt, first.done()),
        };
        Some(event)
    }

    pub fn execute_mutex(&mut self, number: usize, command: Command) {
        let using = self.clients.processes[number].using;
        match command {
            Command::List { sync: false } => self.send(number, Errand::List, [Ask::List]),
            Command::List { sync: true } => self.send(number, Errand::SyncAndList, [Ask::Sync, Ask::List]),
            Command::Create(attempt, ticket) => {
                if self.is_known(number, ticket) {
                    let prefix = instance(number as u8).prefix(attempt, Dialect::Kazoo, Mode::Lock);
                    self.send(number, Errand::Create(attempt), [Ask::Create(prefix)]);
                }
            }
            Command::CreateAndList(attempt, ticket) => {
                // Its options are those of the request.
                if self.is_known(number, ticket) {
                    let prefix = instance(number as u8).prefix(attempt, Dialect::Kazoo, Mode::Lock);
                    self.send(number, Errand::CreateAndList(attempt), [Ask::Create(prefix), Ask::List]);
                }
            }
            Command::MakeDirectory(attempt, ticket) => {
                if self.is_known(number, ticket) {
                    self.send(number, Errand::MakeDirectory(attempt), [Ask::MakeDirectory]);
                }
            }
            Command::ReadStat(attempt, node) => {
                self.send(number, Errand::ReadStat(attempt), [Ask::Read(node.name().to_owned())])
            }
            Command::Watch(node) => {
                let name = node.name().to_owned();
                if let Some(id) = using {
                    self.clients.session(id).watches.contenders.insert(name.clone());
                }
                self.send(number, Errand::Watch(name.clone()), [Ask::Watch(name)])
            }
            Command::Unwatch(node) => {
                if let Some(id) = using {
                    self.unwatch(id, node.name());
                }
            }
            Command::Delete(attempt, node) => {
                let name = node.name().to_owned();
                self.untrack(number, &name);
                self.send(number, Errand::Delete(attempt), [Ask::Delete(name)]);
            }
            Command::Track(node) => self.track(number, node.name().to_owned()),
            // What the mutex says of a turn is no caller's answer.
            Command::Grant { .. } | Command::Reply(_) => {
                self.flaws.insert(ANSWERS);
            }
        }
    }

    fn unwatch(&mut self, id: u8, name: &str) {
        if self.clients.session(id).watches.contenders.remove(name) {
            self.take_back(id, &Spot::Contender(name.to_owned()));
        }
    }

    fn send(&mut self, number: usize, errand: Errand, asks: impl Into<Vec<Ask>>) {
        self.submit(number, Purpose::Mutex(errand), asks);
    }
}
