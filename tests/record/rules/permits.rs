//! Records of semaphores.

use lockkeeper_actors::machine::node::Attempt;
use lockkeeper_actors::machine::semaphore::{Command, Event, Reading};
use lockkeeper_actors::machine::{PathEvent, lock};
use lockkeeper_actors::record::{Exchange, Step};

use super::Row;
use super::change::{end_after, insert, overtake, permits, remove, set, unknown};
use super::{GHOST, GONE, LIMIT, MUTEX, OWNED, TWICE};

pub const ROWS: &[Row] = &[
    // The permits were granted with another token.
    (OWNED, "permits of", |steps| {
        commands(steps).find_map(|command| match command {
            Command::Grant { czxid, .. } => set(czxid, 1),
            _ => None,
        })
    }),
    // They were granted without one of the leases.
    (OWNED, "for 2 permits of", |steps| {
        commands(steps).find_map(|command| match command {
            Command::Grant { leases, .. } if leases.len() == 2 => leases.pop().map(drop),
            _ => None,
        })
    }),
    // The request already had other leases.
    (TWICE, "which has", |steps| {
        let mut takes = commands(steps).filter_map(|command| match command {
            Command::Take { leases, .. } => Some(leases),
            _ => None,
        });
        let (first, second) = (takes.next()?[0].0, takes.next()?);
        set(&mut second[0].0, first)
    }),
    // The delete of a lease had no answer.
    (GONE, "has the lease", |steps| {
        permits(steps).find_map(|(event, _)| match event {
            Event::LeaseDeleted(_, deleted) => set(deleted, Err(unknown())),
            _ => None,
        })
    }),
    // A holder released, and its lease was not deleted.
    (GHOST, "leaves the lease", |steps| {
        permits(steps).find_map(|(event, commands)| match event {
            Event::Path(PathEvent::Release(_)) => {
                remove(commands, |command| matches!(command, Command::DeleteLease(_)))
            }
            _ => None,
        })
    }),
    // The record ends while permits are held.
    (GHOST, "has the lease", |steps| {
        let grants = |command: &Command| matches!(command, Command::Grant { .. });
        end_after(steps, |exchange| commanded(exchange).iter().any(grants))
    }),
    // The record ends while leases are made.
    (GHOST, "at the end nobody knows of", |steps| {
        end_after(steps, |exchange| commanded(exchange).iter().any(takes))
    }),
    // The create of the mutex's node was never sent.
    (MUTEX, "was not made in this session", |steps| {
        let commands = creating(steps)?;
        remove(commands, creates)
    }),
    // The list did not show the node.
    (MUTEX, "no list has shown", |steps| mutex(steps).next().map(|(_, children)| children.clear())),
    // The list showed a stranger ahead of it.
    (MUTEX, "stranger__lock__0000000000 is ahead of", |steps| {
        mutex(steps).find_map(|(created, children)| overtake(children, &created.node))
    }),
    // The leases were read before the mutex's queue was.
    (LIMIT, "no read that counts", |steps| {
        let commands = creating(steps)?;
        let read = commands.iter().position(|it| matches!(it, Command::ReadState { .. }))?;
        commands[..=read].rotate_right(1);
        Some(())
    }),
    // An event showed that the mutex is free, and no sync followed.
    (LIMIT, "no read that counts", |steps| {
        let synced = commands(steps).filter_map(|command| match command {
            Command::ReadState { sync, .. } if *sync => Some(sync),
            _ => None,
        });
        synced.for_each(|sync| *sync = false);
        Some(())
    }),
    // The leases were read while others were being made.
    (LIMIT, "no read that counts", |steps| takes_again(steps, false)),
    // More were made than were read about.
    (LIMIT, "gets lease number 5 of Some(4)", |steps| {
        permits(steps).find_map(|(event, commands)| match event {
            Event::StateRead { leases: Some(Ok(leases)), .. } if commands.iter().any(takes) => {
                leases.names.resize_with(4, || "another".into());
                Some(())
            }
            _ => None,
        })
    }),
    // The number of permits was of another version.
    (LIMIT, "of version", |steps| {
        commands(steps).find_map(|command| match command {
            Command::Take { version, .. } => set(version, 7),
            _ => None,
        })
    }),
    // The root had been written by another transaction when the leases were read.
    (LIMIT, "of version", |steps| {
        permits(steps).find_map(|(event, commands)| match event {
            Event::StateRead { leases: Some(Ok(leases)), .. } if commands.iter().any(takes) => {
                set(&mut leases.written, 1)
            }
            _ => None,
        })
    }),
    // There were no permits.
    (LIMIT, "of Some(0)", |steps| roots(steps).next().map(|data| *data = b"0".to_vec())),
    // There was no number of permits, and the request had none either.
    (LIMIT, "of None", |steps| {
        roots(steps).for_each(|data| *data = b"many".to_vec());
        permits(steps).find_map(|(event, _)| match event {
            Event::Acquire { request, .. } => set(&mut request.limit, None),
            _ => None,
        })
    }),
];

/// Divides a transaction that makes leases for two requests. The leases are read again before the second one: after the
/// answer to the first, if that is `settled`, or else right behind it.
pub fn takes_again(steps: &mut Vec<Step>, settled: bool) -> Option<()> {
    const READ: Attempt = Attempt(1_000_000);
    const AGAIN: Attempt = Attempt(1_000_001);
    let (place, mut leases) = steps.iter().enumerate().find_map(|(place, step)| match &step.exchange {
        Exchange::Semaphore(Event::StateRead { leases: Some(Ok(leases)), .. }, commands)
            if commands.iter().any(takes_two) =>
        {
            Some((place, leases.clone()))
        }
        _ => None,
    })?;
    let (_, commands) = permits(&mut steps[place..]).next()?;
    let first = commands.iter_mut().find(|command| takes_two(command))?;
    let mut second = first.clone();
    let (Command::Take { take, keep, leases: one, .. }, Command::Take { take: again, leases: other, .. }) =
        (first, &mut second)
    else {
        return None;
    };
    (*keep, *again) = (true, AGAIN);
    one.truncate(1);
    other.remove(0);
    leases.names.push(one[0].1.clone());
    let taken = Event::Taken(*take, Ok(()));
    let read = Command::ReadState { read: READ, sync: false, root: Reading::Skip, leases: Reading::Watch };
    let mut meanwhile = Vec::new();
    if settled {
        meanwhile.push(read)
    } else {
        commands.push(read)
    }
    let shown = Event::StateRead { read: READ, root: None, leases: Some(Ok(leases)) };
    insert(steps, place, Exchange::Semaphore(taken, meanwhile));
    insert(steps, place + 1, Exchange::Semaphore(shown, vec![second]));
    insert(steps, place + 2, Exchange::Semaphore(Event::Taken(AGAIN, Ok(())), Vec::new()));
    Some(())
}

fn takes(command: &Command) -> bool {
    matches!(command, Command::Take { .. })
}

/// Whether it makes leases for two requests.
fn takes_two(command: &Command) -> bool {
    matches!(command, Command::Take { leases, keep: false, .. } if leases.len() == 2 && leases[0].0 != leases[1].0)
}

fn creates(command: &Command) -> bool {
    matches!(command, Command::Mutex(lock::Command::CreateAndList(..)))
}

fn commanded(exchange: &Exchange) -> &[Command] {
    match exchange {
        Exchange::Semaphore(_, commands) => commands,
        _ => &[],
    }
}

fn commands(steps: &mut [Step]) -> impl Iterator<Item = &mut Command> {
    permits(steps).flat_map(|(_, commands)| commands)
}

/// The data of the root, as it was read.
fn roots(steps: &mut [Step]) -> impl Iterator<Item = &mut Vec<u8>> {
    permits(steps).filter_map(|(event, _)| match event {
        Event::StateRead { root: Some(Ok(root)), .. } => Some(&mut root.data),
        _ => None,
    })
}

/// The commands with which the mutex's node was made.
fn creating(steps: &mut [Step]) -> Option<&mut Vec<Command>> {
    let made = permits(steps).find_map(|(event, _)| match event {
        Event::Mutex(lock::Event::CreatedAndListed { attempt, created: Ok(_), .. }) => Some(*attempt),
        _ => None,
    })?;
    let its = |command: &Command| matches!(command, Command::Mutex(lock::Command::CreateAndList(attempt, _)) if *attempt == made);
    permits(steps).map(|(_, commands)| commands).find(|commands| commands.iter().any(its))
}

/// The nodes that were made for the mutex, with the lists behind them.
fn mutex(steps: &mut [Step]) -> impl Iterator<Item = (&mut lock::Created, &mut Vec<String>)> {
    permits(steps).filter_map(|(event, _)| match event {
        Event::Mutex(lock::Event::CreatedAndListed {
            created: Ok(created), children: Ok(children), ..
        }) => Some((created, children)),
        _ => None,
    })
}
