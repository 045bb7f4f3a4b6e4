//! Alters one event of a record, and judges what follows.

use std::time::Duration;

use lockkeeper_actors::machine::lock::{Created, NodeStat};
use lockkeeper_actors::machine::node::Attempt;
use lockkeeper_actors::machine::run::EndReason;
use lockkeeper_actors::machine::semaphore::{Leases, TakeFailure};
use lockkeeper_actors::machine::{
    Failure, LeaseState, PathEvent, Ticket, candidate, linger, lock, multi_lock, run, semaphore, session,
};
use lockkeeper_actors::record::{Exchange, Step};

use super::replay::{Difference, Replay};
use super::specification::{Broken, Specification};

/// How one step is altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is missing.
    Dropped,
    /// It is there twice.
    Repeated,
    /// What succeeded fails, what failed succeeds, and what was so is not.
    Outcome,
    /// A number of the event is another one: a ticket, an attempt, a token, a moment.
    Number,
}

impl Change {
    pub const ALL: [Change; 4] = [Change::Dropped, Change::Repeated, Change::Outcome, Change::Number];
}

/// What follows from an altered step of one machine.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The machine gives other commands.
    Differs(Difference),
    /// The machine gives the same commands, and the specification refuses them.
    Broken(Broken),
    /// The machine is in the same state as without the change.
    Same,
    /// The machine was in another state for a while, and gave the same commands.
    Overtaken,
    /// The machine is in another state when the record ends, and gave the same commands until then.
    Open,
}

/// The steps of one machine, with one of them altered. `None` if there is nothing of that sort in its event.
pub fn alter(steps: &[Step], place: usize, change: Change) -> Option<Vec<Step>> {
    let mut altered = steps.to_vec();
    let found = match change {
        Change::Dropped => {
            altered.remove(place);
            true
        }
        Change::Repeated => {
            altered.insert(place, altered[place].clone());
            true
        }
        Change::Outcome => other_outcome(&mut altered[place].exchange),
        Change::Number => other_number(&mut altered[place].exchange),
    };
    found.then_some(altered)
}

/// Replays the altered steps of one machine beside the original ones.
pub fn judge(steps: &[Step], altered: &[Step], place: usize) -> Verdict {
    let (mut replay, mut original) = (Replay::default(), Replay::default());
    if let Err(difference) = replay.feed(altered) {
        return Verdict::Differs(difference);
    }
    if let Some(broken) = refused(steps, altered) {
        return Verdict::Broken(broken);
    }
    // Both to their ends again, this time side by side.
    let (longer, machine) = (altered.len() as isize - steps.len() as isize, steps[0].machine);
    let after = (place as isize + 1 + longer) as usize;
    let mut replay = Replay::default();
    let both = [(&mut original, &steps[..=place]), (&mut replay, &altered[..after])];
    both.into_iter().for_each(|(replay, steps)| replay.feed(steps).expect("it was replayed before"));
    if original.twin(machine) == replay.twin(machine) {
        return Verdict::Same;
    }
    for step in &steps[place + 1..] {
        let step = std::slice::from_ref(step);
        original.feed(step).and_then(|()| replay.feed(step)).expect("it was replayed before");
        if original.twin(machine) == replay.twin(machine) {
            return Verdict::Overtaken;
        }
    }
    Verdict::Open
}

/// What the specification has against the altered steps of one machine. Its end is judged only if the original one is
/// the end of its keeper too.
pub fn refused(steps: &[Step], altered: &[Step]) -> Option<Broken> {
    let (mut whole, mut specification) = (Specification::default(), Specification::default());
    let whole = whole.feed(steps).and_then(|()| whole.finish()).is_ok();
    let judged = specification.feed(altered);
    judged.and_then(|()| if whole { specification.finish() } else { Ok(()) }).err()
}

fn unknown() -> Failure {
    Failure::Unknown("altered".into())
}

fn swap<T>(result: &mut Result<T, Failure>, otherwise: T) -> bool {
    *result = if result.is_ok() { Err(unknown()) } else { Ok(otherwise) };
    true
}

/// Without a node of its own there is nothing that could have been made.
fn fail<T>(result: &mut Result<T, Failure>) -> bool {
    let was = result.is_ok();
    *result = Err(unknown());
    was
}

fn other_outcome(exchange: &mut Exchange) -> bool {
    match exchange {
        Exchange::Begun(_) => false,
        Exchange::Lock(event, _) => match event {
            linger::Event::Share { .. } | linger::Event::LetGo(_) | linger::Event::Retire => false,
            linger::Event::ChildrenChanged(_) => false,
            linger::Event::Followed(_, children) => swap(children, Vec::new()),
            linger::Event::Queue(event) => other_outcome_of_queue(event),
        },
        Exchange::Semaphore(event, _) => match event {
            semaphore::Event::Mutex(event) => other_outcome_of_queue(event),
            semaphore::Event::StateRead { root, leases, .. } => match (root, leases) {
                (_, Some(leases)) => swap(leases, Leases { names: Vec::new(), written: 0 }),
                (Some(root), None) => fail(root),
                (None, None) => false,
            },
            semaphore::Event::RootMade(_, result) => swap(result, ()),
            semaphore::Event::Taken(_, result) => {
                *result = match result {
                    Ok(()) => Err(TakeFailure::Failed(unknown())),
                    Err(_) => Ok(()),
                };
                true
            }
            semaphore::Event::LeasesFound(_, result) => swap(result, Vec::new()),
            semaphore::Event::LeaseDeleted(_, result) => swap(result, ()),
            semaphore::Event::Path(event) => other_path_event(event),
            semaphore::Event::Acquire { .. }
            | semaphore::Event::Split { .. }
            | semaphore::Event::Merge { .. }
            | semaphore::Event::Changed { .. } => false,
        },
        Exchange::MultiLock(event, _) => {
            *event = match event {
                multi_lock::Event::Held(part) => multi_lock::Event::Refused(*part),
                multi_lock::Event::Suspended(part) => multi_lock::Event::Resumed(*part),
                multi_lock::Event::Resumed(part) => multi_lock::Event::Suspended(*part),
                multi_lock::Event::Lost(part) => multi_lock::Event::Held(*part),
                _ => return false,
            };
            true
        }
        Exchange::Session(event, _) => {
            *event = match *event {
                session::Event::Answered { sent } => session::Event::Failed { sent, at_once: false },
                session::Event::Failed { sent, .. } => session::Event::Answered { sent },
                session::Event::Identified { sent, same } => session::Event::Identified { sent, same: !same },
                session::Event::Disconnected => session::Event::Reconnected,
                session::Event::Reconnected => session::Event::Disconnected,
                session::Event::Ended | session::Event::Wake => return false,
            };
            true
        }
        Exchange::Candidate(event, _) => {
            *event = match event {
                candidate::Event::Granted => candidate::Event::Refused { for_good: false },
                candidate::Event::Refused { for_good } => candidate::Event::Refused { for_good: !*for_good },
                candidate::Event::Ended(EndReason::Failed) => candidate::Event::Ended(EndReason::Stopped),
                candidate::Event::Ended(_) => candidate::Event::Ended(EndReason::Failed),
                _ => return false,
            };
            true
        }
        Exchange::Run(_, event, _) => {
            *event = match event {
                run::Event::Ended { failed } => run::Event::Ended { failed: !*failed },
                run::Event::Lease(LeaseState::Held) => run::Event::Lease(LeaseState::Lost),
                run::Event::Lease(_) => run::Event::Lease(LeaseState::Held),
                run::Event::Stop | run::Event::Wake => return false,
            };
            true
        }
    }
}

fn other_outcome_of_queue(event: &mut lock::Event) -> bool {
    match event {
        lock::Event::Acquire { .. } => false,
        lock::Event::Path(event) => other_path_event(event),
        lock::Event::Listed(children) => swap(children, Vec::new()),
        lock::Event::Created(_, created) => fail(created),
        lock::Event::CreatedAndListed { created, children, .. } => match created.is_ok() {
            true => fail(created),
            false => swap(children, Vec::new()),
        },
        lock::Event::DirectoryMade(_, result) => swap(result, ()),
        lock::Event::StatRead(_, stat) => swap(stat, NodeStat { czxid: 1, owner: 1 }),
        lock::Event::Watched(_, result) => swap(result, ()),
        lock::Event::Fired { gone, .. } => {
            *gone = !*gone;
            true
        }
        lock::Event::Deleted(_, result) => swap(result, ()),
    }
}

fn other_path_event(event: &mut PathEvent) -> bool {
    *event = match event {
        PathEvent::Suspended => PathEvent::Resumed,
        PathEvent::Resumed => PathEvent::Suspended,
        PathEvent::Connected { .. } => PathEvent::Lost,
        PathEvent::Cancel(ticket) => PathEvent::Release(*ticket),
        PathEvent::Release(ticket) => PathEvent::Cancel(*ticket),
        PathEvent::Close | PathEvent::Lost | PathEvent::Missing(_) | PathEvent::Wake => return false,
    };
    true
}

fn other_ticket(ticket: &mut Ticket) -> bool {
    *ticket = Ticket::numbered(ticket.number() + 1_000_000);
    true
}

fn other_attempt(attempt: &mut Attempt) -> bool {
    attempt.0 += 1;
    true
}

fn other_number(exchange: &mut Exchange) -> bool {
    let later = Duration::from_millis(1);
    match exchange {
        Exchange::Begun(_) => false,
        Exchange::Lock(event, _) => match event {
            linger::Event::Share { ticket, .. } | linger::Event::LetGo(ticket) => other_ticket(ticket),
            linger::Event::Retire => false,
            linger::Event::Followed(line, _) | linger::Event::ChildrenChanged(line) => {
                line.0 += 1;
                true
            }
            linger::Event::Queue(event) => other_number_of_queue(event),
        },
        Exchange::Semaphore(event, _) => match event {
            semaphore::Event::Acquire { request, .. } => {
                request.count += 1;
                true
            }
            semaphore::Event::Split { ticket, .. } | semaphore::Event::Merge { ticket, .. } => {
                other_ticket(ticket)
            }
            semaphore::Event::Path(event) => other_number_of_path(event),
            semaphore::Event::Mutex(event) => other_number_of_queue(event),
            semaphore::Event::StateRead { root: Some(Ok(root)), .. } => {
                root.version += 1;
                true
            }
            semaphore::Event::StateRead { leases: Some(Ok(leases)), .. } => {
                leases.names.push("another".into());
                true
            }
            semaphore::Event::StateRead { read, .. }
            | semaphore::Event::Changed { read, .. }
            | semaphore::Event::RootMade(read, _)
            | semaphore::Event::Taken(read, _)
            | semaphore::Event::LeasesFound(read, _) => other_attempt(read),
            semaphore::Event::LeaseDeleted(lease, _) => {
                lease.push('0');
                true
            }
        },
        Exchange::MultiLock(event, _) => match event {
            multi_lock::Event::Ready { epoch, .. } => {
                *epoch += 1;
                true
            }
            multi_lock::Event::Queued { ahead, .. } => {
                *ahead += 1;
                true
            }
            multi_lock::Event::Held(part)
            | multi_lock::Event::Refused(part)
            | multi_lock::Event::Suspended(part)
            | multi_lock::Event::Resumed(part)
            | multi_lock::Event::Lost(part)
            | multi_lock::Event::Over(part) => {
                // There are at least two.
                *part = usize::from(*part == 0);
                true
            }
            multi_lock::Event::Start | multi_lock::Event::Made { .. } | multi_lock::Event::Cancel => false,
        },
        Exchange::Session(event, _) => match event {
            session::Event::Answered { sent }
            | session::Event::Failed { sent, .. }
            | session::Event::Identified { sent, .. } => {
                *sent = *sent + later;
                true
            }
            _ => false,
        },
        Exchange::Candidate(..) => false,
        Exchange::Run(until, ..) => match until {
            Some(end) => {
                *end = *end + later;
                true
            }
            None => false,
        },
    }
}

fn other_number_of_queue(event: &mut lock::Event) -> bool {
    match event {
        lock::Event::Acquire { ticket, .. } => other_ticket(ticket),
        lock::Event::Path(event) => other_number_of_path(event),
        lock::Event::Listed(Ok(children)) => children.pop().is_some(),
        lock::Event::Created(_, Ok(Created { czxid, .. }))
        | lock::Event::CreatedAndListed { created: Ok(Created { czxid, .. }), .. }
        | lock::Event::StatRead(_, Ok(NodeStat { czxid, .. })) => {
            *czxid += 1;
            true
        }
        lock::Event::Created(attempt, _)
        | lock::Event::CreatedAndListed { attempt, .. }
        | lock::Event::DirectoryMade(attempt, _)
        | lock::Event::StatRead(attempt, _)
        | lock::Event::Deleted(attempt, _) => other_attempt(attempt),
        lock::Event::Listed(Err(_)) | lock::Event::Watched(..) | lock::Event::Fired { .. } => false,
    }
}

fn other_number_of_path(event: &mut PathEvent) -> bool {
    match event {
        PathEvent::Cancel(ticket) | PathEvent::Release(ticket) => other_ticket(ticket),
        PathEvent::Connected { session } => {
            *session += 1;
            true
        }
        PathEvent::Missing(names) => names.pop().is_some(),
        PathEvent::Close | PathEvent::Suspended | PathEvent::Resumed | PathEvent::Lost | PathEvent::Wake => {
            false
        }
    }
}
