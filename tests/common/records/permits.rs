//! What the specification says about the machine of one semaphore.

use std::collections::{BTreeMap, BTreeSet};

use lockkeeper_actors::machine::lock;
use lockkeeper_actors::machine::node::{Attempt, Instance, Znode};
use lockkeeper_actors::machine::semaphore::{Command, Event, PermitRequest, Reading, Root, TakeFailure};
use lockkeeper_actors::machine::{Failure, PathEvent, Reply, Ticket};

use super::queue::Queue;
use super::requests::{Kind, Requests, Tokens};
use super::specification::{Fault, GHOST, GONE, LIMIT, MUTEX, OWNED, TWICE};

pub(super) struct SemaphoreJudge {
    mutex: Queue,
    requests: Requests,
    asked: BTreeMap<Ticket, PermitRequest>,
    /// The leases that were to be made in this session.
    leases: BTreeMap<String, Lease>,
    takes: BTreeMap<Attempt, Take>,
    /// The root as it was read last.
    root: Option<Root>,
    /// The reads of leases that were sent since the last take, and their answers.
    reads: BTreeMap<Attempt, Option<usize>>,
}

struct Lease {
    owner: Ticket,
    czxid: Option<i64>,
    made: bool,
    /// Its delete was sent.
    left: bool,
    gone: bool,
}

struct Take {
    leases: Vec<String>,
    mutex: Znode,
    keep: bool,
}

impl SemaphoreJudge {
    pub fn new(instance: Instance) -> SemaphoreJudge {
        SemaphoreJudge {
            mutex: Queue::new(instance),
            requests: Requests::default(),
            asked: BTreeMap::new(),
            leases: BTreeMap::new(),
            takes: BTreeMap::new(),
            root: None,
            reads: BTreeMap::new(),
        }
    }

    pub fn step(&mut self, event: &Event, commands: &[Command], tokens: &mut Tokens) -> Result<(), Fault> {
        self.event(event)?;
        for command in commands {
            match command {
                Command::DeleteLease(lease) => self.with(lease, |lease| lease.left = true),
                Command::Mutex(command @ lock::Command::Delete(..)) => self.mutex.command(command)?,
                _ => {}
            }
        }
        commands.iter().try_for_each(|command| self.command(command, tokens))
    }

    pub fn finish(&self) -> Result<(), Fault> {
        self.mutex.finish()?;
        match self.leases.iter().find(|(_, lease)| lease.made && !lease.left && !lease.gone) {
            Some((name, lease)) => Err((GHOST, format!("{name} of {:?}", lease.owner))),
            None => self.requests.finish(),
        }
    }

    fn event(&mut self, event: &Event) -> Result<(), Fault> {
        match event {
            Event::Acquire { ticket, request } => {
                self.asked.insert(*ticket, request.clone());
                self.requests.ask(*ticket)?;
            }
            Event::Split { into, leases, .. } => {
                self.requests.split(*into);
                for lease in leases {
                    self.with(lease, |lease| lease.owner = *into);
                }
            }
            // The leases move with the command.
            Event::Merge { .. } => {}
            Event::Path(event) => {
                self.requests.path_event(event);
                self.mutex.path_event(event);
                match event {
                    PathEvent::Lost => {
                        self.leases.clear();
                        self.takes.clear();
                        self.reads.clear();
                        self.root = None;
                    }
                    PathEvent::Missing(names) => {
                        for name in names {
                            self.with(name, |lease| lease.gone = true);
                        }
                    }
                    _ => {}
                }
            }
            Event::Mutex(event) => self.mutex.event(event),
            Event::StateRead { read, root, leases } => {
                if let Some(Ok(root)) = root {
                    self.root = Some(root.clone());
                }
                if let (Some(count), Some(Ok(leases))) = (self.reads.get_mut(read), leases) {
                    *count = Some(leases.names.len());
                }
            }
            Event::Taken(take, result) => match result {
                Ok(()) => self.made(*take),
                // Nobody knows yet, or the session has ended.
                Err(TakeFailure::Failed(Failure::Unknown(_) | Failure::SessionGone)) => {}
                Err(_) => self.not_made(*take),
            },
            Event::LeasesFound(take, found) => match found {
                Ok(names) => {
                    let of_it = |take: &Take| take.leases.iter().any(|lease| names.contains(lease));
                    match self.takes.get(take).is_some_and(of_it) {
                        true => self.made(*take),
                        false => self.not_made(*take),
                    }
                }
                Err(Failure::NoNode) => self.not_made(*take),
                Err(_) => {}
            },
            Event::LeaseDeleted(lease, Ok(()) | Err(Failure::NoNode)) => {
                self.with(lease, |lease| lease.gone = true)
            }
            Event::LeaseDeleted(..) | Event::Changed { .. } | Event::RootMade(..) => {}
        }
        Ok(())
    }

    fn command(&mut self, command: &Command, tokens: &mut Tokens) -> Result<(), Fault> {
        match command {
            Command::Mutex(lock::Command::Delete(..)) => Ok(()),
            Command::Mutex(command) => self.mutex.command(command),
            Command::ReadState { read, leases: Reading::Once | Reading::Watch, .. } => {
                self.reads.insert(*read, None);
                Ok(())
            }
            Command::Take { take, version, mutex, keep, leases } => {
                self.take(*version, mutex, leases)?;
                let leases = leases.iter().map(|(_, lease)| lease.clone()).collect();
                self.takes.insert(*take, Take { leases, mutex: mutex.clone(), keep: *keep });
                self.reads.clear();
                Ok(())
            }
            Command::Grant { ticket, leases, czxid } => self.grant(*ticket, leases, *czxid, tokens),
            Command::Merged { ticket, into } => {
                let of_it = self.leases.values_mut().filter(|lease| lease.owner == *ticket);
                of_it.for_each(|lease| lease.owner = *into);
                self.requests.merge(*ticket);
                Ok(())
            }
            Command::Reply(reply) => self.reply(reply),
            Command::ReadState { .. }
            | Command::UnwatchState
            | Command::MakeRoot { .. }
            | Command::FindLeases(_)
            | Command::DeleteLease(_)
            | Command::TrackLease(_) => Ok(()),
        }
    }

    fn take(&mut self, version: i32, mutex: &Znode, leases: &[(Ticket, String)]) -> Result<(), Fault> {
        let under_it = |(_, what)| (MUTEX, what);
        self.mutex.owns(mutex, None).map_err(under_it)?;
        self.mutex.is_first(mutex, |name| Kind::MUTEX.waits_for(name)).map_err(under_it)?;
        let Some(root) = self.root.as_ref().filter(|root| root.version == version) else {
            return Err((LIMIT, format!("of version {version}, and {:?} was read", self.root)));
        };
        let used = self.reads.values().flatten().min();
        let Some(used) = used else { return Err((LIMIT, "no list of leases".into())) };
        if let Some(limit) = root.permits() {
            if (used + leases.len()) as i64 > limit {
                return Err((LIMIT, format!("{} more, of {limit} with {used}", leases.len())));
            }
        }
        let czxid = self.mutex.token(mutex);
        for (owner, name) in leases {
            let mut earlier = self.leases.iter().filter(|(_, lease)| lease.owner == *owner && !lease.gone);
            let unsettled =
                earlier.find(|(other, lease)| !lease.left && !leases.iter().any(|(_, new)| new == *other));
            if let Some((other, _)) = unsettled {
                return Err((TWICE, format!("{name} for {owner:?}, which has {other}")));
            }
            let lease = Lease { owner: *owner, czxid, made: false, left: false, gone: false };
            self.leases.insert(name.clone(), lease);
        }
        Ok(())
    }

    fn grant(
        &mut self,
        ticket: Ticket,
        leases: &[String],
        czxid: i64,
        tokens: &mut Tokens,
    ) -> Result<(), Fault> {
        self.requests.grant(ticket)?;
        let names: BTreeSet<&String> = leases.iter().collect();
        let count = self.asked.get(&ticket).map_or(0, |request| request.count as usize);
        let backed = |name: &&String| {
            self.leases.get(*name).is_some_and(|lease| {
                let whole = lease.made && !lease.left && !lease.gone;
                whole && lease.owner == ticket && lease.czxid == Some(czxid)
            })
        };
        if names.len() != count || !names.iter().all(backed) {
            return Err((OWNED, format!("{leases:?} with {czxid} for {count} permits of {ticket:?}")));
        }
        // A turn of the mutex has one token for all of its grants.
        tokens.grant(Kind::MUTEX, czxid, &czxid.to_string())
    }

    fn reply(&mut self, reply: &Reply) -> Result<(), Fault> {
        self.requests.reply(reply)?;
        let Reply::Forgotten { ticket: over, confirmed } = reply else { return Ok(()) };
        let mut left = self.leases.iter().filter(|(_, lease)| lease.owner == *over && !lease.gone);
        match left.next().filter(|_| *confirmed) {
            Some((name, _)) => Err((GONE, format!("{over:?} has the lease {name}"))),
            None => Ok(()),
        }
    }

    fn made(&mut self, take: Attempt) {
        let Some(Take { leases, mutex, keep }) = self.takes.remove(&take) else { return };
        for lease in leases {
            self.with(&lease, |lease| lease.made = true);
        }
        if !keep {
            self.mutex.took(&mutex);
        }
    }

    fn not_made(&mut self, take: Attempt) {
        for lease in self.takes.remove(&take).into_iter().flat_map(|take| take.leases) {
            self.leases.remove(&lease);
        }
    }

    fn with(&mut self, lease: &str, change: impl FnOnce(&mut Lease)) {
        if let Some(lease) = self.leases.get_mut(lease) {
            change(lease);
        }
    }
}
