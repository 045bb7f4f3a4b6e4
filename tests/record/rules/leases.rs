//! Records of sessions, and of what depends on several leases or uses one.

use std::time::Duration;

use lockkeeper_actors::machine::candidate;
use lockkeeper_actors::machine::multi_lock::{Command, Event};
use lockkeeper_actors::machine::{LeaseState, Moment, run, session};
use lockkeeper_actors::record::{Exchange, Origin, Step};

use super::Row;
use super::change::{candidates, insert, remove, sessions, set, several};
use super::{ALL, ANSWER, ENDED, FINAL, IDENTITY, LEADER, PROOF, TOGETHER};

pub const ROWS: &[Row] = &[
    // The session was shorter.
    (PROOF, "and it is proven at", |steps| {
        steps.iter_mut().find_map(|step| match &mut step.exchange {
            Exchange::Begun(Origin::Session { timeout, .. }) => set(timeout, Duration::from_secs(1)),
            _ => None,
        })
    }),
    // The connection was another one.
    (IDENTITY, "Hold(", |steps| {
        sessions(steps).find_map(|(event, _)| match event {
            session::Event::Identified { sent, .. } => set(sent, Moment(0)),
            _ => None,
        })
    }),
    // The session was lost before.
    (FINAL, "Moment(", |steps| {
        let mut answered =
            sessions(steps).filter(|(event, _)| matches!(event, session::Event::Answered { .. }));
        answered.next().map(|(_, commands)| commands.insert(0, session::Command::Lose))
    }),
    // The connection was of another session.
    (FINAL, "Moment(", |steps| {
        sessions(steps).find_map(|(event, _)| match event {
            session::Event::Identified { same, .. } => set(same, false),
            _ => None,
        })
    }),
    // A part was ready in another session.
    (TOGETHER, "the parts are ready in", |steps| {
        several(steps).find_map(|(event, _)| match event {
            Event::Ready { epoch, .. } => set(epoch, 7),
            _ => None,
        })
    }),
    // A part was not held.
    (ALL, "held: [false", |steps| {
        several(steps).find_map(|(event, _)| match *event {
            Event::Held(part) if part == 0 => set(event, Event::Queued { part, ahead: 1 }),
            _ => None,
        })
    }),
    // A part was suspended.
    (ALL, "suspended: [true", |steps| {
        let held = |step: &Step| matches!(step.exchange, Exchange::MultiLock(Event::Made { .. }, _));
        let place = steps.iter().position(held)?;
        insert(steps, place, Exchange::MultiLock(Event::Suspended(0), Vec::new()));
        Some(())
    }),
    // A part was not released.
    (ALL, "released, and over", |steps| {
        several(steps).find_map(|(event, _)| match *event {
            Event::Over(part) => set(event, Event::Resumed(part)),
            _ => None,
        })
    }),
    // The request was granted twice.
    (ANSWER, "a second answer", |steps| {
        several(steps).find_map(|(_, commands)| {
            commands.contains(&Command::Grant).then(|| commands.push(Command::Grant))
        })
    }),
    // The request was cancelled before it was granted.
    (ANSWER, "a grant after a cancel", |steps| {
        let asks = |step: &Step| matches!(step.exchange, Exchange::MultiLock(Event::Start, _));
        let place = steps.iter().position(asks)?;
        insert(steps, place, Exchange::MultiLock(Event::Cancel, Vec::new()));
        Some(())
    }),
    // The request was never answered.
    (ANSWER, "the request has no answer", |steps| {
        several(steps).find_map(|(_, commands)| remove(commands, |command| *command == Command::Grant))
    }),
    // The lock was refused.
    (LEADER, "StartRun", |steps| {
        replace(steps, candidate::Event::Granted, candidate::Event::Refused { for_good: false })
    }),
    // The actor had not started.
    (LEADER, "Announce", |steps| replace(steps, candidate::Event::Started, candidate::Event::Rested)),
    // The actor had not ended.
    (LEADER, "Release", |steps| {
        candidates(steps).find_map(|event| match event {
            candidate::Event::Ended(_) => set(event, candidate::Event::Rested),
            _ => None,
        })
    }),
    // The lock had not been released.
    (LEADER, "Finish", |steps| replace(steps, candidate::Event::Released, candidate::Event::Rested)),
    // The actor had not ended.
    (ENDED, "and ended: false", |steps| {
        runs(steps).find_map(|(_, event, _)| match event {
            run::Event::Ended { .. } => set(event, run::Event::Wake),
            _ => None,
        })
    }),
    // Its end was reported twice.
    (ENDED, "and ended: true", |steps| {
        runs(steps).find_map(|(_, _, commands)| {
            let finish = commands.iter().copied().find(|it| matches!(it, run::Command::Finish(_)))?;
            commands.push(finish);
            Some(())
        })
    }),
    // The lease had ended.
    (ENDED, "it goes on at", |steps| {
        runs(steps).find_map(|(until, event, _)| match event {
            run::Event::Wake => set(until, Some(Moment(1))),
            _ => None,
        })
    }),
    // The lease was lost.
    (ENDED, "it goes on at", |steps| {
        runs(steps).find_map(|(_, event, _)| match event {
            run::Event::Wake => set(event, run::Event::Lease(LeaseState::Lost)),
            _ => None,
        })
    }),
    // The actor was killed ten seconds after the end of its lease.
    (ENDED, "it goes on until", |steps| kills_late(steps, false).map(drop)),
    // It was killed ten seconds after the session had ended.
    (ENDED, "it goes on until", |steps| {
        let place = kills_late(steps, false)?;
        runs(&mut steps[place..]).next().map(|(until, ..)| *until = Some(Moment(0)))?;
        let session = steps.iter().find(|step| matches!(step.exchange, Exchange::Session(..)))?.machine;
        let at = steps[place].at - LATE;
        let suspended = Exchange::Session(session::Event::Wake, vec![session::Command::Suspend(at)]);
        steps.insert(place, Step { at, machine: session, exchange: suspended });
        Some(())
    }),
];

const LATE: Duration = Duration::from_secs(10);

/// The actor of a run is killed late. Meanwhile, its process was `stopped` or was running. Returns the place of the kill.
pub fn kills_late(steps: &mut Vec<Step>, stopped: bool) -> Option<usize> {
    let wakes = |step: &Step| matches!(step.exchange, Exchange::Run(_, run::Event::Wake, _));
    let first = steps.iter().position(wakes)?;
    let Step { at, machine, .. } = steps[first];
    let wake = |after: Duration, until, commands| {
        let exchange = Exchange::Run(Some(at + until), run::Event::Wake, commands);
        Step { at: at + after, machine, exchange }
    };
    let often = (1..100).map(|part| LATE * part / 100);
    let mut meanwhile: Vec<Step> =
        often.filter(|_| !stopped).map(|after| wake(after, LATE, Vec::new())).collect();
    meanwhile.push(wake(LATE, Duration::ZERO, vec![run::Command::Kill]));
    let place = first + meanwhile.len();
    steps.splice(first + 1..first + 1, meanwhile);
    Some(place)
}

/// Replaces the first such event of a candidate.
fn replace(steps: &mut [Step], event: candidate::Event, by: candidate::Event) -> Option<()> {
    candidates(steps).find(|it| **it == event).map(|it| *it = by)
}

fn runs(
    steps: &mut [Step],
) -> impl Iterator<Item = (&mut Option<Moment>, &mut run::Event, &mut Vec<run::Command>)> {
    steps.iter_mut().filter_map(|step| match &mut step.exchange {
        Exchange::Run(until, event, commands) => Some((until, event, commands)),
        _ => None,
    })
}
