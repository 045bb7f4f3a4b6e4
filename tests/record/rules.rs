//! The specification of a record, and a record for each of its rules that it refuses.

use std::time::Duration;

use lockkeeper_actors::machine::exclusion::Mode;
use lockkeeper_actors::machine::lock::{self, Command};
use lockkeeper_actors::machine::run;
use lockkeeper_actors::machine::{Failure, Moment, PathEvent, Ticket, candidate, linger, multi_lock};
use lockkeeper_actors::machine::{semaphore, session};
use lockkeeper_actors::record::{Exchange, Origin, Step};

use super::common::run;
use super::records::specification::*;
use super::scenes;

#[test]
fn a_real_record_keeps_every_rule_and_one_altered_step_breaks_it() {
    run(async {
        let steps = scenes::all().await;
        judge(&steps).unwrap_or_else(|broken| panic!("{broken}"));
        for rule in RULES {
            let (_, alter) =
                ALTERED.iter().find(|(altered, _)| altered == rule).expect("each rule has a row");
            let mut altered = steps.clone();
            assert!(alter(&mut altered).is_some(), "{rule}: there is no such step");
            let broken = judge(&altered).expect_err(rule);
            assert_eq!(broken.rule, *rule, "{broken}");
        }
    });
}

fn judge(steps: &[Step]) -> Result<(), Broken> {
    let mut specification = Specification::default();
    specification.feed(steps).and_then(|()| specification.finish())
}

/// Alters one step; `None` if the record has no such step.
type Alter = fn(&mut Vec<Step>) -> Option<()>;

/// A rule, and how to break it.
const ALTERED: &[(&str, Alter)] = &[
    // The node had another token.
    (OWNED, |steps| {
        granted(steps).find_map(|(created, _, _)| created.as_mut().ok().map(|created| created.czxid += 1))
    }),
    // The list did not show the node.
    (TURN, |steps| {
        granted(steps).find_map(|(_, children, _)| children.as_mut().ok().map(|children| children.clear()))
    }),
    // The second reader of a node was not a reader.
    (SHARING, |steps| {
        let shares = steps.iter_mut().filter_map(|step| match &mut step.exchange {
            Exchange::Lock(linger::Event::Share { request, .. }, _) => Some(&mut request.request),
            _ => None,
        });
        let mut readers = shares.filter(|request| request.mode == Mode::Read);
        readers.nth(1).map(|request| request.mode = Mode::Lock)
    }),
    // There was no session yet.
    (DOUBT, |steps| {
        queue(steps).find_map(|event| {
            let connected = matches!(event, lock::Event::Path(PathEvent::Connected { .. }));
            connected.then(|| *event = lock::Event::Path(PathEvent::Wake))
        })
    }),
    // Another request was made than was granted.
    (ANSWER, |steps| {
        queue(steps).find_map(|event| match event {
            lock::Event::Acquire { ticket, .. } => set(ticket, Ticket::numbered(1_000_000)),
            _ => None,
        })
    }),
    // The first of several grants had the largest token.
    (TOKENS, |steps| {
        let mut granted = granted(steps);
        granted.find_map(|(created, _, commands)| {
            created.as_mut().ok()?.czxid = i64::MAX;
            commands.iter_mut().find_map(|command| match command {
                linger::Command::Queue(Command::Grant { czxid, .. }) => set(czxid, i64::MAX),
                _ => None,
            })
        })
    }),
    // The create that was made again had no answer.
    (TWICE, |steps| {
        queue(steps).find_map(|event| match event {
            lock::Event::CreatedAndListed { created, .. } if *created == Err(Failure::NoNode) => {
                set(created, Err(unknown()))
            }
            _ => None,
        })
    }),
    // The delete had no answer.
    (GONE, |steps| {
        queue(steps).find_map(|event| match event {
            lock::Event::Deleted(_, deleted) => set(deleted, Err(unknown())),
            _ => None,
        })
    }),
    // The record ends while a lock is held.
    (GHOST, |steps| {
        let grants = |step: &Step| step.to_string().contains("Grant {");
        let end = steps.iter().position(grants)?;
        steps.truncate(end + 1);
        Some(())
    }),
    // The list did not show the mutex.
    (MUTEX, |steps| {
        permits(steps).find_map(|event| match event {
            semaphore::Event::Mutex(lock::Event::CreatedAndListed { created: Ok(_), children, .. }) => {
                set(children, Ok(Vec::new()))
            }
            _ => None,
        })
    }),
    // There were no permits.
    (LIMIT, |steps| {
        permits(steps).find_map(|event| match event {
            semaphore::Event::StateRead { root: Some(Ok(root)), .. } => set(&mut root.data, b"0".to_vec()),
            _ => None,
        })
    }),
    // A part was ready in another session.
    (TOGETHER, |steps| {
        several(steps).find_map(|event| match event {
            multi_lock::Event::Ready { epoch, .. } => set(epoch, 7),
            _ => None,
        })
    }),
    // A part was not held.
    (ALL, |steps| {
        several(steps).find_map(|event| match *event {
            multi_lock::Event::Held(part) => set(event, multi_lock::Event::Queued { part, ahead: 1 }),
            _ => None,
        })
    }),
    // The session was shorter.
    (PROOF, |steps| {
        steps.iter_mut().find_map(|step| match &mut step.exchange {
            Exchange::Begun(Origin::Session { timeout, .. }) => set(timeout, Duration::from_secs(1)),
            _ => None,
        })
    }),
    // The connection was another one.
    (IDENTITY, |steps| {
        sessions(steps).find_map(|event| match event {
            session::Event::Identified { sent, .. } => set(sent, Moment(0)),
            _ => None,
        })
    }),
    // The connection was of another session.
    (FINAL, |steps| {
        sessions(steps).find_map(|event| match event {
            session::Event::Identified { same, .. } => set(same, false),
            _ => None,
        })
    }),
    // The lock was refused.
    (LEADER, |steps| {
        steps.iter_mut().find_map(|step| match &mut step.exchange {
            Exchange::Candidate(event @ candidate::Event::Granted, _) => {
                set(event, candidate::Event::Refused { for_good: false })
            }
            _ => None,
        })
    }),
    // The actor had not ended.
    (ENDED, |steps| {
        steps.iter_mut().find_map(|step| match &mut step.exchange {
            Exchange::Run(_, event @ run::Event::Ended { .. }, _) => set(event, run::Event::Wake),
            _ => None,
        })
    }),
];

type Answer<'a> = (
    &'a mut Result<lock::Created, Failure>,
    &'a mut Result<Vec<String>, Failure>,
    &'a mut Vec<linger::Command>,
);

/// The steps in which a node was made, listed, and granted.
fn granted(steps: &mut [Step]) -> impl Iterator<Item = Answer<'_>> {
    steps.iter_mut().filter_map(|step| match &mut step.exchange {
        Exchange::Lock(
            linger::Event::Queue(lock::Event::CreatedAndListed { created, children, .. }),
            commands,
        ) if commands.iter().any(|it| matches!(it, linger::Command::Queue(Command::Grant { .. }))) => {
            Some((created, children, commands))
        }
        _ => None,
    })
}

fn queue(steps: &mut [Step]) -> impl Iterator<Item = &mut lock::Event> {
    steps.iter_mut().filter_map(|step| match &mut step.exchange {
        Exchange::Lock(linger::Event::Queue(event), _) => Some(event),
        _ => None,
    })
}

fn permits(steps: &mut [Step]) -> impl Iterator<Item = &mut semaphore::Event> {
    steps.iter_mut().filter_map(|step| match &mut step.exchange {
        Exchange::Semaphore(event, _) => Some(event),
        _ => None,
    })
}

fn several(steps: &mut [Step]) -> impl Iterator<Item = &mut multi_lock::Event> {
    steps.iter_mut().filter_map(|step| match &mut step.exchange {
        Exchange::MultiLock(event, _) => Some(event),
        _ => None,
    })
}

fn sessions(steps: &mut [Step]) -> impl Iterator<Item = &mut session::Event> {
    steps.iter_mut().filter_map(|step| match &mut step.exchange {
        Exchange::Session(event, _) => Some(event),
        _ => None,
    })
}

fn set<T>(place: &mut T, value: T) -> Option<()> {
    *place = value;
    Some(())
}

fn unknown() -> Failure {
    Failure::Unknown("altered".into())
}
