//! Finds steps of a record, to alter them.

use lockkeeper_actors::machine::lock::{self, Command};
use lockkeeper_actors::machine::node::{Attempt, Znode};
use lockkeeper_actors::machine::{Failure, PathEvent, candidate, linger, multi_lock, semaphore, session};
use lockkeeper_actors::record::{Exchange, Step};

/// An event of a lock's queue, with its commands.
pub type Queued<'a> = (&'a mut lock::Event, &'a mut Vec<linger::Command>);

pub fn queue(steps: &mut [Step]) -> impl Iterator<Item = Queued<'_>> {
    steps.iter_mut().filter_map(|step| match &mut step.exchange {
        Exchange::Lock(linger::Event::Queue(event), commands) => Some((event, commands)),
        _ => None,
    })
}

/// A node was made, listed, and granted.
pub struct Granted<'a> {
    pub attempt: Attempt,
    pub created: &'a mut lock::Created,
    pub children: &'a mut Vec<String>,
    pub commands: &'a mut Vec<linger::Command>,
}

pub fn granted(steps: &mut [Step]) -> impl Iterator<Item = Granted<'_>> {
    queue(steps).filter_map(|(event, commands)| match event {
        lock::Event::CreatedAndListed { attempt, created: Ok(created), children: Ok(children) }
            if commands.iter().any(|it| matches!(it, linger::Command::Queue(Command::Grant { .. }))) =>
        {
            Some(Granted { attempt: *attempt, created, children, commands })
        }
        _ => None,
    })
}

pub fn permits(
    steps: &mut [Step],
) -> impl Iterator<Item = (&mut semaphore::Event, &mut Vec<semaphore::Command>)> {
    steps.iter_mut().filter_map(|step| match &mut step.exchange {
        Exchange::Semaphore(event, commands) => Some((event, commands)),
        _ => None,
    })
}

pub fn several(
    steps: &mut [Step],
) -> impl Iterator<Item = (&mut multi_lock::Event, &mut Vec<multi_lock::Command>)> {
    steps.iter_mut().filter_map(|step| match &mut step.exchange {
        Exchange::MultiLock(event, commands) => Some((event, commands)),
        _ => None,
    })
}

pub fn sessions(
    steps: &mut [Step],
) -> impl Iterator<Item = (&mut session::Event, &mut Vec<session::Command>)> {
    steps.iter_mut().filter_map(|step| match &mut step.exchange {
        Exchange::Session(event, commands) => Some((event, commands)),
        _ => None,
    })
}

pub fn candidates(steps: &mut [Step]) -> impl Iterator<Item = &mut candidate::Event> {
    steps.iter_mut().filter_map(|step| match &mut step.exchange {
        Exchange::Candidate(event, _) => Some(event),
        _ => None,
    })
}

/// Keeps the steps of one machine up to this one.
pub fn end_after(steps: &mut Vec<Step>, is_last: impl Fn(&Exchange) -> bool) -> Option<()> {
    let last = steps.iter().position(|step| is_last(&step.exchange))?;
    let machine = steps[last].machine;
    steps.truncate(last + 1);
    steps.retain(|step| step.machine == machine);
    Some(())
}

/// Adds an event to which the machine has said nothing.
pub fn insert(steps: &mut Vec<Step>, place: usize, exchange: Exchange) {
    let Step { at, machine, .. } = steps[place];
    steps.insert(place + 1, Step { at, machine, exchange });
}

/// Removes the first of these commands.
pub fn remove<C>(commands: &mut Vec<C>, which: impl Fn(&C) -> bool) -> Option<()> {
    let place = commands.iter().position(which)?;
    commands.remove(place);
    Some(())
}

/// Adds the node of a stranger ahead of this one, if there can be one.
pub fn overtake(children: &mut Vec<String>, node: &Znode) -> Option<()> {
    (node.sequence() > 0).then(|| children.push("stranger__lock__0000000000".into()))
}

pub fn set<T>(place: &mut T, value: T) -> Option<()> {
    *place = value;
    Some(())
}

pub fn unknown() -> Failure {
    Failure::Unknown("altered".into())
}

/// An event without a meaning.
pub const NOTHING: lock::Event = lock::Event::Path(PathEvent::Wake);
