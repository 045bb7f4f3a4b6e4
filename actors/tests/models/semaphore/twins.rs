//! Broken twins: each alters one event on its way in, one command on its way out, or one check of the server.

use lockkeeper_actors::machine::protocol::{Command, Event, Leases, Refusal, Root, TakeFailure};

use super::wire::{Purpose, place};
use super::world::{Scenario, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// The server does not check the mutex.
    TakesWithoutMutex,
    /// The server does not check the limit's version.
    TakesAnyLimit,
    /// As if there were no leases: what an early survey might show.
    LeasesOverlooked,
    /// A limit that was once read is taken for the limit.
    RewritingOverlooked,
    DisturbanceLost,
    ResizeUnseen,
    CancelSwallowedDuringTake,
    UnknownTakeTakenForNo,
    LookFindsNothing,
    OneLeaseForgotten,
    GrantedWhileSuspended,
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
}

impl Twin {
    pub fn event(self, world: &World, number: usize, event: Event) -> Option<Event> {
        match (self, event) {
            (
                Twin::LeasesOverlooked,
                Event::Surveyed { survey, root, leases: Some(Ok(Leases { written, .. })) },
            ) => {
                let leases = Some(Ok(Leases { names: Vec::new(), written }));
                Some(Event::Surveyed { survey, root, leases })
            }
            (Twin::RewritingOverlooked, Event::Surveyed { survey, root, leases }) => {
                let root = root.map(|root| root.map(|root| Root { written: 0, ..root }));
                let leases = leases.map(|leases| leases.map(|leases| Leases { written: 0, ..leases }));
                Some(Event::Surveyed { survey, root, leases })
            }
            (Twin::DisturbanceLost, Event::Disturbed { root: false, .. }) => None,
            (Twin::ResizeUnseen, Event::Disturbed { root: true, .. }) => None,
            (Twin::CancelSwallowedDuringTake, Event::Cancel(_)) if is_taking(world, number) => None,
            (Twin::UnknownTakeTakenForNo, Event::Taken(take, Err(TakeFailure::Failed(_)))) => {
                Some(Event::Taken(take, Err(TakeFailure::LimitChanged)))
            }
            (Twin::LookFindsNothing, Event::LeasesFound(take, Ok(_))) => {
                Some(Event::LeasesFound(take, Ok(Vec::new())))
            }
            (Twin::GrantedWhileSuspended, Event::Suspended) => None,
            (Twin::MissingSwallowed, Event::Missing(_)) => None,
            (Twin::MutexWatchLost, Event::Fired { .. }) => None,
            (Twin::WakeSwallowed, Event::Wake) => None,
            (Twin::LossSwallowed, Event::Lost) => None,
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
            (Twin::SyncSkipped, Command::Survey { survey, sync: _, root, leases }) => {
                Some(Command::Survey { survey, sync: false, root, leases })
            }
            (Twin::FullForTheFirst, Command::Survey { survey, sync, root, leases }) => match cause {
                Event::Surveyed { root: Some(Ok(_)), leases: None, .. } => None,
                _ => Some(Command::Survey { survey, sync, root, leases }),
            },
            (Twin::ResizeRefusesWaiters, Command::GrantPermits { ticket, leases, czxid }) => {
                let want = place(ticket).map(|at| scenario.wants[number][at]).filter(|want| !want.agreed);
                let stored = world.server.now().root.as_ref().map(|root| root.limit);
                match (want.and_then(|want| want.limit), stored) {
                    (Some(given), Some(stored)) if given != stored => {
                        let refusal = Refusal::LimitMismatch { stored: stored.into(), given };
                        Some(Command::Refuse(ticket, refusal))
                    }
                    _ => Some(Command::GrantPermits { ticket, leases, czxid }),
                }
            }
            (Twin::OneLeaseForgotten, Command::Return(lease)) => {
                let clients = &world.clients;
                let session = clients.processes[number].using.and_then(|id| clients.sessions.get(&id));
                let other = session.is_some_and(|session| !session.calls.is_empty());
                (!other).then_some(Command::Return(lease))
            }
            (Twin::MutexKept, Command::Take { take, version, mutex, keep: _, leases }) => {
                Some(Command::Take { take, version, mutex, keep: true, leases })
            }
            (Twin::HeadPassedOver, Command::GrantPermits { ticket, .. }) if place(ticket) == Some(0) => None,
            (Twin::WatchesKept, Command::Calm) => None,
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
