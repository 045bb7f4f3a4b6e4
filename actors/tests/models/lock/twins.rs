//! Deliberately broken twins: wrappers around the real machine that alter one event or one command, or leave out
//! one rule of its driver. The model must catch each.

use lockkeeper_actors::machine::exclusion::Mode;
use lockkeeper_actors::machine::linger;
use lockkeeper_actors::machine::lock::{Command, Created, Event, Request};
use lockkeeper_actors::machine::node::Znode;
use lockkeeper_actors::machine::{Failure, PathEvent, Refusal, Reply, Wait};

use super::world::World;
use crate::world::directory::{Name, instance};
use crate::world::gates::Gate;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    CancelSwallowed,
    /// As kazoo does: a node that an earlier session left is taken for the one that was just made.
    OtherSessionAdopted,
    GrantedWhileSuspended,
    /// A new session is taken for the old one, resumed: waiters keep their nodes, and are handed the lock over.
    HandedOverAcrossSessions,
    TokenFromSequence,
    ReleaseForgetsOnError,
    UnknownDeleteTakenForDone,
    UnknownCreateTakenForFailed,
    WatchesLostOnReconnect,
    WatchOnNothingTakenForArmed,
    ChangeTakenForGone,
    /// As kazoo does: numbers past the wrap are compared like any others.
    ComparedAcrossTheWrap,
    ReadersOverlooked,
    WaitersOverlooked,
    MissingSwallowed,
    DeadlineSwallowed,
    /// A driver with a broken gate.
    Gate(Gate),
    CreatedNotFound,
    /// A list searches for a created node on a server that may not know it yet.
    FoundWithoutSync,
    /// Every contender lists for itself.
    ListsNotShared,
    /// Any number of creates is sent at the same time.
    RoomIgnored,
    /// A refused request is taken for one whose answer was lost, and sent again at once.
    RefusedRepeatedAtOnce,
    TryOutlastsDoubt,
    /// A request that would wait is refused where a try is.
    WaiterTakenForTry,
    /// A list that is followed does not show other processes while the node is held, or while it is idle.
    StrangersOverlooked {
        held: bool,
    },
    /// The watch of the children tells nothing.
    ChildrenNotWatched,
    /// A list that failed is taken for one without other processes.
    UnlistedTakenForAlone,
    /// All requests that share a node hold at the same time.
    LockSharedLikeReaders,
}

impl Twin {
    /// What the machine gets instead.
    pub fn event(self, world: &World, process: usize, event: linger::Event) -> Option<linger::Event> {
        match (self, event) {
            (_, linger::Event::Queue(event)) => {
                self.queue_event(world, process, event).map(linger::Event::Queue)
            }
            (Twin::StrangersOverlooked { held }, linger::Event::Followed(line, Ok(names)))
                if held == world.holds(process) =>
            {
                let own = |name: &String| instance(process as u8).attempt(name).is_some();
                Some(linger::Event::Followed(line, Ok(names.into_iter().filter(own).collect())))
            }
            (Twin::ChildrenNotWatched, linger::Event::ChildrenChanged(_)) => None,
            (Twin::UnlistedTakenForAlone, linger::Event::Followed(line, Err(_))) => {
                let nodes = world.server.nodes().iter().map(|node| node.name);
                let own = nodes.filter(|name| usize::from(name.author) == process);
                Some(linger::Event::Followed(line, Ok(own.map(|name| name.text()).collect())))
            }
            (Twin::LockSharedLikeReaders, linger::Event::Share { ticket, mut request }) => {
                request.request.mode = Mode::Read;
                Some(linger::Event::Share { ticket, request })
            }
            (_, event) => Some(event),
        }
    }

    fn queue_event(self, world: &World, process: usize, event: Event) -> Option<Event> {
        match (self, event) {
            (Twin::CancelSwallowed, Event::Path(PathEvent::Cancel(_))) => None,
            (Twin::WaiterTakenForTry, Event::Acquire { ticket, request }) => {
                Some(Event::Acquire { ticket, request: Request { wait: Wait::Try, ..request } })
            }
            (Twin::GrantedWhileSuspended, Event::Path(PathEvent::Suspended)) => None,
            (Twin::MissingSwallowed, Event::Path(PathEvent::Missing(_))) => None,
            (Twin::DeadlineSwallowed, Event::Path(PathEvent::Wake)) => None,
            (
                Twin::OtherSessionAdopted,
                Event::CreatedAndListed { attempt, created: Ok(created), children: Ok(names) },
            ) => {
                let session = world.clients.processes[process].using.unwrap_or(0);
                let other = |node: &Znode| {
                    world.server.find(Name::of(node)).is_some_and(|node| node.owner != session)
                };
                let own = |node: &Znode| instance(process as u8).attempt(node.name()).is_some();
                let found =
                    names.iter().filter_map(|name| Znode::parse(name)).find(|node| own(node) && other(node));
                let adopted = found.as_ref().and_then(|found| numbered(&created.node, found));
                let (Some(found), Some(node)) = (found, adopted) else {
                    return Some(Event::CreatedAndListed {
                        attempt,
                        created: Ok(created),
                        children: Ok(names),
                    });
                };
                let rename = |name: String| match name == created.node.name() {
                    true => node.name().to_owned(),
                    false => name,
                };
                let names = names.into_iter().map(rename).collect();
                let created = Created { czxid: czxid(world, &found), node };
                Some(Event::CreatedAndListed { attempt, created: Ok(created), children: Ok(names) })
            }
            (Twin::HandedOverAcrossSessions, Event::Path(PathEvent::Lost)) => {
                Some(PathEvent::Suspended.into())
            }
            (Twin::HandedOverAcrossSessions, Event::Path(PathEvent::Connected { session }))
                if session > world.clients.processes.len() as i64 =>
            {
                Some(PathEvent::Resumed.into())
            }
            (Twin::TokenFromSequence, Event::Created(attempt, Ok(created))) => {
                let created = Created { czxid: created.node.sequence(), ..created };
                Some(Event::Created(attempt, Ok(created)))
            }
            (
                Twin::TokenFromSequence,
                Event::CreatedAndListed { attempt, created: Ok(created), children },
            ) => {
                let created = Created { czxid: created.node.sequence(), ..created };
                Some(Event::CreatedAndListed { attempt, created: Ok(created), children })
            }
            (Twin::ReleaseForgetsOnError, Event::Deleted(attempt, Err(Failure::Refused(_)))) => {
                Some(Event::Deleted(attempt, Ok(())))
            }
            (Twin::UnknownDeleteTakenForDone, Event::Deleted(attempt, Err(Failure::Unknown(_)))) => {
                Some(Event::Deleted(attempt, Ok(())))
            }
            (Twin::UnknownCreateTakenForFailed, Event::Created(attempt, Err(Failure::Unknown(reason)))) => {
                Some(Event::Created(attempt, Err(Failure::Refused(reason))))
            }
            (
                Twin::UnknownCreateTakenForFailed,
                Event::CreatedAndListed { attempt, created: Err(Failure::Unknown(reason)), children },
            ) => Some(Event::CreatedAndListed { attempt, created: Err(Failure::Refused(reason)), children }),
            (Twin::WatchOnNothingTakenForArmed, Event::Watched(node, Err(Failure::NoNode))) => {
                Some(Event::Watched(node, Ok(())))
            }
            (Twin::ChangeTakenForGone, Event::Fired { node, gone: false }) => {
                Some(Event::Fired { node, gone: true })
            }
            (Twin::ComparedAcrossTheWrap, Event::Created(attempt, Ok(created))) => {
                Some(Event::Created(attempt, Ok(Created { node: shown(&created.node), ..created })))
            }
            (Twin::ComparedAcrossTheWrap, Event::CreatedAndListed { attempt, created, children }) => {
                let created = created.map(|created| Created { node: shown(&created.node), ..created });
                Some(with_names(Event::CreatedAndListed { attempt, created, children }, all_shown))
            }
            (Twin::ComparedAcrossTheWrap, Event::Listed(children)) => {
                Some(with_names(Event::Listed(children), all_shown))
            }
            (Twin::ComparedAcrossTheWrap, Event::Watched(node, result)) => {
                Some(Event::Watched(shown(&node), result))
            }
            (Twin::ComparedAcrossTheWrap, Event::Fired { node, gone }) => {
                Some(Event::Fired { node: shown(&node), gone })
            }
            (Twin::ReadersOverlooked, event) => {
                let own = |name: &String| instance(process as u8).attempt(name).is_some();
                let is_reader =
                    |name: &String| Znode::parse(name).and_then(|node| node.mode()) == Some(Mode::Read);
                let visible = |name: &String| own(name) || !is_reader(name);
                Some(with_names(event, |names| names.into_iter().filter(visible).collect()))
            }
            (Twin::WaitersOverlooked, event) => {
                let own = |name: &String| instance(process as u8).attempt(name).is_some();
                Some(with_names(event, |names| {
                    let first = names.iter().filter_map(|name| Znode::parse(name)).min();
                    let visible = |name: &String| Znode::parse(name) == first || own(name);
                    names.into_iter().filter(visible).collect()
                }))
            }
            (Twin::RefusedRepeatedAtOnce, Event::Deleted(attempt, Err(Failure::Refused(reason)))) => {
                Some(Event::Deleted(attempt, Err(Failure::Unknown(reason))))
            }
            (Twin::CreatedNotFound, Event::Listed(Ok(names))) => {
                let own = |name: &String| instance(process as u8).attempt(name).is_some();
                Some(Event::Listed(Ok(names.into_iter().filter(|name| !own(name)).collect())))
            }
            (_, event) => Some(event),
        }
    }

    /// What the driver gets instead.
    pub fn command(self, command: Command) -> Option<Command> {
        match (self, command) {
            (Twin::ComparedAcrossTheWrap, Command::Watch(node)) => Some(Command::Watch(meant(&node))),
            (Twin::ComparedAcrossTheWrap, Command::Unwatch(node)) => Some(Command::Unwatch(meant(&node))),
            (Twin::ComparedAcrossTheWrap, Command::Track(node)) => Some(Command::Track(meant(&node))),
            (Twin::ComparedAcrossTheWrap, Command::Delete(attempt, node)) => {
                Some(Command::Delete(attempt, meant(&node)))
            }
            (Twin::ComparedAcrossTheWrap, Command::Grant { ticket, node, czxid }) => {
                Some(Command::Grant { ticket, node: meant(&node), czxid })
            }
            (Twin::FoundWithoutSync, Command::List { .. }) => Some(Command::List { sync: false }),
            (Twin::ListsNotShared, Command::Create(attempt, ticket)) => {
                Some(Command::CreateAndList(attempt, ticket))
            }
            (Twin::TryOutlastsDoubt, Command::Reply(Reply::Refused(_, Refusal::Suspended))) => None,
            (_, command) => Some(command),
        }
    }
}

/// Alters the answer to a list.
fn with_names(event: Event, alter: impl FnOnce(Vec<String>) -> Vec<String>) -> Event {
    match event {
        Event::Listed(Ok(names)) => Event::Listed(Ok(alter(names))),
        Event::CreatedAndListed { attempt, created, children: Ok(names) } => {
            Event::CreatedAndListed { attempt, created, children: Ok(alter(names)) }
        }
        event => event,
    }
}

/// The name of a node with the number of another one.
fn numbered(node: &Znode, other: &Znode) -> Option<Znode> {
    const DIGITS: usize = 10;
    let (node, other) = (node.name(), other.name());
    let stem = node.get(..node.len().checked_sub(DIGITS)?)?;
    Znode::parse(&format!("{stem}{}", other.get(other.len().checked_sub(DIGITS)?..)?))
}

fn czxid(world: &World, node: &Znode) -> i64 {
    world.server.find(Name::of(node)).map_or(0, |node| node.czxid.into())
}

/// The same node under a number that the machine does not refuse, in the order of signed numbers.
fn shown(node: &Znode) -> Znode {
    let name = Name::of(node);
    let sequence = match name.sequence {
        wrapped if wrapped < 0 => wrapped - i32::MIN,
        large => large - i32::MAX + SHIFT,
    };
    Name { sequence, ..name }.node()
}

fn all_shown(names: Vec<String>) -> Vec<String> {
    let nodes = names.iter().filter_map(|name| Znode::parse(name));
    nodes.map(|node| shown(&node).name().to_owned()).collect()
}

fn meant(node: &Znode) -> Znode {
    let name = Name::of(node);
    let sequence = match name.sequence {
        wrapped if wrapped < SHIFT / 2 => wrapped + i32::MIN,
        large => large - SHIFT + i32::MAX,
    };
    Name { sequence, ..name }.node()
}

const SHIFT: i32 = 1000;
