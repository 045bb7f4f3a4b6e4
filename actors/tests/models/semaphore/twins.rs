//! Broken twins: each alters one event on its way in, one command on its way out, or one check of the server.

use lockkeeper_actors::machine::lock;
use lockkeeper_actors::machine::semaphore::{Command, Event, Leases, Part, PermitRequest, Root, TakeFailure};
use lockkeeper_actors::machine::{Failure, PathEvent, Refusal, Reply, Wait};

use super::wire::{Purpose, place};
use super::world::{Scenario, World};
use crate::world::gates::Gate;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// The server does not check the mutex.
    TakesWithoutMutex,
    /// The server does not check the limit's version.
    TakesAnyLimit,
    /// As if there were no leases: what a read that is too early might show.
    LeasesOverlooked,
    /// A limit that was once read is taken for the limit.
    RewritingOverlooked,
    LeaseChangeUnseen,
    ResizeUnseen,
    CancelSwallowedDuringTake,
    UnknownTakeTakenForNo,
    LeasesNotFound,
    OneLeaseForgotten,
    /// A lease whose delete is denied is taken for deleted.
    DeniedDeleteTakenForDone,
    /// A list of the leases that is denied is taken for one that shows none.
    DeniedListTakenForEmpty,
    GrantedWhileSuspended,
    /// A driver with a broken gate.
    Gate(Gate),
    MutexKept,
    WatchesKept,
    MissingSwallowed,
    MutexWatchLost,
    WakeSwallowed,
    LossSwallowed,
    HeadPassedOver,
    /// What is seen after an event counts without a sync.
    SyncSkipped,
    /// The same, also when the sync has failed.
    FailedSyncIgnored,
    /// Once the root is watched the claim that is first in line by then is taken not to fit.
    FullForTheFirst,
    /// A request that waits with the number that was stored is refused when another one is stored.
    ResizeRefusesWaiters,
    /// A request that would wait is refused where a try is.
    WaiterTakenForTry,
    /// A handle's number is never compared with the stored one.
    NumberNotCompared,
    /// The token of a grant is that of the turn before.
    OldToken,
    /// A release is confirmed although the session is lost.
    LossConfirmed,
    /// The new part owns no lease.
    SplitForgetsLease,
    /// Both claims keep their leases.
    MergeSwallowed,
    /// A part of a lost permit, or a permit that was merged with a lost one, is not told that it is lost.
    RegroupedLossSwallowed,
}

impl Twin {
    pub fn event(self, world: &World, number: usize, event: Event) -> Option<Event> {
        match (self, event) {
            (
                Twin::LeasesOverlooked,
                Event::StateRead { read, root, leases: Some(Ok(Leases { written, .. })) },
            ) => {
                let leases = Some(Ok(Leases { names: Vec::new(), written }));
                Some(Event::StateRead { read, root, leases })
            }
            (Twin::RewritingOverlooked, Event::StateRead { read, root, leases }) => {
                let root = root.map(|root| root.map(|root| Root { written: 0, ..root }));
                let leases = leases.map(|leases| leases.map(|leases| Leases { written: 0, ..leases }));
                Some(Event::StateRead { read, root, leases })
            }
            (Twin::WaiterTakenForTry, Event::Acquire { ticket, request }) => {
                Some(Event::Acquire { ticket, request: PermitRequest { wait: Wait::Try, ..request } })
            }
            (Twin::LeaseChangeUnseen, Event::Changed { part: Part::Leases, .. }) => None,
            (Twin::ResizeUnseen, Event::Changed { part: Part::Root, .. }) => None,
            (Twin::CancelSwallowedDuringTake, Event::Path(PathEvent::Cancel(_)))
                if is_taking(world, number) =>
            {
                None
            }
            (Twin::UnknownTakeTakenForNo, Event::Taken(take, Err(TakeFailure::Failed(_)))) => {
                Some(Event::Taken(take, Err(TakeFailure::LimitChanged)))
            }
            (Twin::LeasesNotFound, Event::LeasesFound(take, Ok(_))) => {
                Some(Event::LeasesFound(take, Ok(Vec::new())))
            }
            (Twin::DeniedDeleteTakenForDone, Event::LeaseDeleted(lease, Err(Failure::NoAuth))) => {
                Some(Event::LeaseDeleted(lease, Ok(())))
            }
            (
                Twin::DeniedListTakenForEmpty,
                Event::StateRead { read, root, leases: Some(Err(Failure::NoAuth)) },
            ) => {
                let written = world.server.now().root.as_ref().map_or(0, |root| root.mzxid.into());
                let leases = Some(Ok(Leases { names: Vec::new(), written }));
                Some(Event::StateRead { read, root, leases })
            }
            (Twin::GrantedWhileSuspended, Event::Path(PathEvent::Suspended)) => None,
            (Twin::MissingSwallowed, Event::Path(PathEvent::Missing(_))) => None,
            (Twin::MutexWatchLost, Event::Mutex(lock::Event::Fired { .. })) => None,
            (Twin::WakeSwallowed, Event::Path(PathEvent::Wake)) => None,
            (Twin::SplitForgetsLease, Event::Split { ticket, into, leases: _ }) => {
                Some(Event::Split { ticket, into, leases: Vec::new() })
            }
            (Twin::MergeSwallowed, Event::Merge { .. }) => None,
            (Twin::NumberNotCompared, Event::Acquire { ticket, request }) => {
                Some(Event::Acquire { ticket, request: PermitRequest { agreed: true, ..request } })
            }
            (Twin::LossSwallowed, Event::Path(PathEvent::Lost)) => None,
            (_, event) => Some(event),
        }
    }

    pub fn command(
        self,
        world: &World,
        scenario: &Scenario,
        number: usize,
        cause: &Event,
        command: Command,
    ) -> Option<Command> {
        match (self, command) {
            (Twin::SyncSkipped, Command::ReadState { read, sync: _, root, leases }) => {
                Some(Command::ReadState { read, sync: false, root, leases })
            }
            (Twin::FullForTheFirst, Command::ReadState { read, sync, root, leases }) => match cause {
                Event::StateRead { root: Some(Ok(_)), leases: None, .. } => None,
                _ => Some(Command::ReadState { read, sync, root, leases }),
            },
            (Twin::ResizeRefusesWaiters, Command::Grant { ticket, leases, czxid }) => {
                let want = place(ticket).map(|at| scenario.wants[number][at]).filter(|want| !want.agreed);
                let stored = world.server.now().root.as_ref().map(|root| root.limit);
                match (want.and_then(|want| want.limit), stored) {
                    (Some(given), Some(stored)) if given != stored => {
                        let refusal = Refusal::LimitMismatch { stored: stored.into(), given };
                        Some(Command::Reply(Reply::Refused(ticket, refusal)))
                    }
                    _ => Some(Command::Grant { ticket, leases, czxid }),
                }
            }
            (Twin::OneLeaseForgotten, Command::DeleteLease(lease)) => {
                let clients = &world.clients;
                let session = clients.processes[number].using.and_then(|id| clients.sessions.get(&id));
                let other = session.is_some_and(|session| !session.calls.is_empty());
                (!other).then_some(Command::DeleteLease(lease))
            }
            (Twin::MutexKept, Command::Take { take, version, mutex, keep: _, leases }) => {
                Some(Command::Take { take, version, mutex, keep: true, leases })
            }
            (Twin::RegroupedLossSwallowed, Command::Reply(Reply::Lost(ticket))) => {
                let regrouped = matches!(cause, Event::Split { .. } | Event::Merge { .. });
                (!regrouped).then_some(Command::Reply(Reply::Lost(ticket)))
            }
            (Twin::HeadPassedOver, Command::Grant { ticket, .. }) if place(ticket) == Some(0) => None,
            (Twin::WatchesKept, Command::UnwatchState) => None,
            (Twin::LossConfirmed, Command::Reply(Reply::Forgotten { ticket, confirmed: _ })) => {
                Some(Command::Reply(Reply::Forgotten { ticket, confirmed: true }))
            }
            (Twin::OldToken, Command::Grant { ticket, leases, czxid }) => {
                Some(Command::Grant { ticket, leases, czxid: czxid - 1 })
            }
            (_, command) => Some(command),
        }
    }
}

/// Whether a take of this process is in flight.
fn is_taking(world: &World, number: usize) -> bool {
    let clients = &world.clients;
    let session = clients.processes[number].using.and_then(|id| clients.sessions.get(&id));
    session.is_some_and(|session| session.calls.iter().any(|call| matches!(call.purpose, Purpose::Take(_))))
}
