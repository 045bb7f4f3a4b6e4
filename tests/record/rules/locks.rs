//! Records of locks.

use lockkeeper_actors::machine::exclusion::Mode;
use lockkeeper_actors::machine::lock::{self, Command};
use lockkeeper_actors::machine::{Failure, PathEvent, Reply, Ticket, linger};
use lockkeeper_actors::record::Exchange;

use super::Row;
use super::change::{Granted, NOTHING, end_after, granted, insert, overtake, queue, remove, set, unknown};
use super::{ANSWER, DOUBT, GHOST, GONE, OWNED, SHARING, TOKENS, TURN, TWICE};

pub const ROWS: &[Row] = &[
    // The node had another token.
    (OWNED, "and it is Made", |steps| {
        granted(steps).next().map(|Granted { created, .. }| created.czxid += 1)
    }),
    // Its create was never sent.
    (OWNED, "was not made in this session", |steps| {
        let attempt = granted(steps).next()?.attempt;
        let its = |it: &Command| matches!(it, Command::CreateAndList(of_it, _) if *of_it == attempt);
        queue(steps).find_map(|(_, commands)| remove(commands, |it| of(it, its)))
    }),
    // The list did not show the node.
    (TURN, "no list has shown", |steps| granted(steps).next().map(|granted| granted.children.clear())),
    // The list showed a stranger ahead of it.
    (TURN, "stranger__lock__0000000000 is ahead of", |steps| {
        granted(steps).find_map(|Granted { created, children, .. }| overtake(children, &created.node))
    }),
    // The node of a holder was deleted.
    (TURN, "is deleted, and", |steps| {
        queue(steps).find_map(|(event, commands)| match event {
            lock::Event::Path(PathEvent::Release(_)) if commands.iter().any(|it| of(it, is_delete)) => {
                set(event, NOTHING)
            }
            _ => None,
        })
    }),
    // The second reader of a node was not a reader.
    (SHARING, "gets the node of", |steps| {
        let shares = steps.iter_mut().filter_map(|step| match &mut step.exchange {
            Exchange::Lock(linger::Event::Share { request, .. }, _) => Some(&mut request.request),
            _ => None,
        });
        let mut readers = shares.filter(|request| request.mode == Mode::Read);
        readers.nth(1).map(|request| request.mode = Mode::Lock)
    }),
    // There was no session yet.
    (DOUBT, "is granted", |steps| {
        queue(steps).find_map(|(event, _)| match event {
            lock::Event::Path(PathEvent::Connected { .. }) => set(event, NOTHING),
            _ => None,
        })
    }),
    // Another request was made than was granted.
    (ANSWER, "is granted, and was None", |steps| {
        queue(steps).find_map(|(event, _)| match event {
            lock::Event::Acquire { ticket, .. } => set(ticket, STRANGER),
            _ => None,
        })
    }),
    // The request that was granted had been cancelled.
    (ANSWER, "is granted, and was Some(Asked { cancelled: true })", |steps| {
        let (place, ticket) =
            steps.iter().enumerate().find_map(|(place, step)| asked(&step.exchange).map(|it| (place, it)))?;
        let cancel = lock::Event::Path(PathEvent::Cancel(ticket));
        insert(steps, place, Exchange::Lock(linger::Event::Queue(cancel), Vec::new()));
        Some(())
    }),
    // The request was made twice.
    (ANSWER, "asks twice", |steps| {
        let place = steps.iter().position(|step| asked(&step.exchange).is_some())?;
        insert(steps, place, steps[place].exchange.clone());
        Some(())
    }),
    // Another request was refused than was made.
    (ANSWER, "and it was None", |steps| {
        queue(steps).find_map(|(_, commands)| {
            commands.iter_mut().find_map(|command| match command {
                linger::Command::Queue(Command::Reply(Reply::Refused(ticket, _))) => set(ticket, STRANGER),
                _ => None,
            })
        })
    }),
    // A request that was refused has no end.
    (ANSWER, "is still Over", |steps| {
        queue(steps).find_map(|(_, commands)| {
            let over = commands.iter().find_map(refused)?;
            remove(commands, |it| of(it, |it| is_end(it, over)))
        })
    }),
    // A step of a lock was recorded as that of a session.
    (ANSWER, "another kind", |steps| {
        let session = steps.iter().find(|step| matches!(step.exchange, Exchange::Session(..)))?.machine;
        let lock = steps.iter_mut().rfind(|step| matches!(step.exchange, Exchange::Lock(..)))?;
        set(&mut lock.machine, session)
    }),
    // The first of several grants had the largest token.
    (TOKENS, "had 9223372036854775807", |steps| {
        granted(steps).find_map(|Granted { created, commands, .. }| {
            created.czxid = i64::MAX;
            commands.iter_mut().find_map(|command| match command {
                linger::Command::Queue(Command::Grant { czxid, .. }) => set(czxid, i64::MAX),
                _ => None,
            })
        })
    }),
    // The create that was made again had no answer.
    (TWICE, "and the first is Unknown", |steps| {
        queue(steps).find_map(|(event, _)| match event {
            lock::Event::CreatedAndListed { created, .. } if *created == Err(Failure::NoNode) => {
                set(created, Err(unknown()))
            }
            _ => None,
        })
    }),
    // The delete had no answer.
    (GONE, "and its node is Made", |steps| {
        queue(steps).find_map(|(event, _)| match event {
            lock::Event::Deleted(_, deleted) => set(deleted, Err(unknown())),
            _ => None,
        })
    }),
    // A request that had a node was refused, and the node was not deleted.
    (GHOST, "nobody wants it, and it is Made", |steps| {
        queue(steps).find_map(|(event, commands)| match event {
            lock::Event::Path(PathEvent::Cancel(_)) => remove(commands, |it| of(it, is_delete)),
            _ => None,
        })
    }),
    // A request was refused while its node was being made, and the node was not deleted.
    (GHOST, "nobody wants it, and it is Made", |steps| {
        let mut created = queue(steps).filter(|(event, _)| {
            matches!(
                event,
                lock::Event::CreatedAndListed { created: Ok(_), .. } | lock::Event::Created(_, Ok(_))
            )
        });
        created.find_map(|(_, commands)| remove(commands, |it| of(it, is_delete)))
    }),
    // A holder released, and its node was not deleted.
    (GHOST, "nobody wants it, and it is Made", |steps| {
        queue(steps).find_map(|(event, commands)| match event {
            lock::Event::Path(PathEvent::Release(_)) => remove(commands, |it| of(it, is_delete)),
            _ => None,
        })
    }),
    // The record ends while a lock is held.
    (GHOST, "at the end it is Made", |steps| {
        end_after(steps, |exchange| match exchange {
            Exchange::Lock(_, commands) => {
                commands.iter().any(|it| of(it, |it| matches!(it, Command::Grant { .. })))
            }
            _ => false,
        })
    }),
    // The record ends while a node is being made.
    (GHOST, "at the end it is Sent", |steps| {
        end_after(steps, |exchange| match exchange {
            Exchange::Lock(_, commands) => commands.iter().any(|it| of(it, is_create)),
            _ => false,
        })
    }),
];

/// No request of the record.
const STRANGER: Ticket = Ticket::numbered(1_000_000);

fn of(command: &linger::Command, is: impl Fn(&Command) -> bool) -> bool {
    matches!(command, linger::Command::Queue(command) if is(command))
}

fn is_create(command: &Command) -> bool {
    matches!(command, Command::CreateAndList(..))
}

fn is_delete(command: &Command) -> bool {
    matches!(command, Command::Delete(..))
}

fn refused(command: &linger::Command) -> Option<Ticket> {
    match command {
        linger::Command::Queue(Command::Reply(Reply::Refused(ticket, _))) => Some(*ticket),
        _ => None,
    }
}

fn is_end(command: &Command, of: Ticket) -> bool {
    matches!(command, Command::Reply(Reply::Forgotten { ticket, .. }) if *ticket == of)
}

/// The request of a step, if it makes one that shares nothing.
fn asked(exchange: &Exchange) -> Option<Ticket> {
    match exchange {
        Exchange::Lock(linger::Event::Queue(lock::Event::Acquire { ticket, .. }), _) => Some(*ticket),
        _ => None,
    }
}
