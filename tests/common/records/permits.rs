//! What the specification says about the machine of one semaphore.

use std::collections::{BTreeMap, BTreeSet};

use lockkeeper_actors::machine::lock;
use lockkeeper_actors::machine::node::{Attempt, Instance, Znode};
use lockkeeper_actors::machine::semaphore::{Command, Event, Leases, PermitRequest, Root, TakeFailure};
use lockkeeper_actors::machine::{Failure, PathEvent, Reply, Ticket};

use super::queue::Queue;
use super::reads::Reads;
use super::requests::{Kind, Requests, Tokens};
use super::specification::{Fault, GHOST, GONE, LIMIT, MUTEX, OWNED, TWICE};

pub(super) struct SemaphoreJudge {
    mutex: Queue,
    requests: Requests,
    asked: BTreeMap<Ticket, PermitRequest>,
    /// The leases that were to be made in this session.
    leases: BTreeMap<String, Lease>,
    takes: BTreeMap<Attempt, Take>,
    /// The root as reads have shown it, by the transaction that wrote it.
    roots: BTreeMap<i64, Root>,
    reads: Reads,
    /// The leases as this step's event shows them, if that may decide how many more are made.
    shown: Option<Leases>,
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

impl Lease {
    /// It was made, and nothing was done to delete it.
    fn stays(&self) -> bool {
        self.made && !self.left && !self.gone
    }
}

impl SemaphoreJudge {
    pub fn new(instance: Instance) -> SemaphoreJudge {
        SemaphoreJudge {
            mutex: Queue::new(instance),
            requests: Requests::default(),
            asked: BTreeMap::new(),
            leases: BTreeMap::new(),
            takes: BTreeMap::new(),
            roots: BTreeMap::new(),
            reads: Reads::default(),
            shown: None,
        }
    }

    pub fn step(&mut self, event: &Event, commands: &[Command], tokens: &mut Tokens) -> Result<(), Fault> {
        self.shown = None;
        self.event(event)?;
        self.reads.event(event, self.mutex.front(|name| Kind::MUTEX.waits_for(name)));
        if let Event::StateRead { read, root, leases } = event {
            self.read(*read, root.as_ref(), leases.as_ref());
        }
        for command in commands {
            match command {
                Command::DeleteLease(lease) => self.with(lease, |lease| lease.left = true),
                Command::Mutex(command) if Queue::settles(command) => self.mutex.command(command)?,
                _ => {}
            }
        }
        for command in commands {
            self.reads.command(command, !self.takes.is_empty());
            self.command(command, tokens)?;
        }
        self.mutex.has_left_nothing()?;
        let mut staying = self.leases.iter().filter(|(_, lease)| lease.stays());
        match staying.find(|(_, lease)| !self.requests.wants(lease.owner)) {
            Some((name, lease)) => Err((GHOST, format!("{:?} leaves the lease {name}", lease.owner))),
            None => Ok(()),
        }
    }

    pub fn finish(&self) -> Result<(), Fault> {
        let verified = self.requests.are_verified();
        if let Some(take) = self.takes.values().next().filter(|_| verified && !self.mutex.is_denied()) {
            return Err((GHOST, format!("at the end nobody knows of {:?}", take.leases)));
        }
        if let Some((name, lease)) = self.leases.iter().find(|(_, lease)| lease.stays()) {
            return Err((GHOST, format!("at the end {:?} has the lease {name}", lease.owner)));
        }
        self.mutex.finish(verified)?;
        self.requests.finish()
    }

    /// An answer to a read.
    fn read(
        &mut self,
        read: Attempt,
        root: Option<&Result<Root, Failure>>,
        leases: Option<&Result<Leases, Failure>>,
    ) {
        if let Some(Ok(root)) = root {
            self.roots.insert(root.written, root.clone());
        }
        let failed = matches!(root, Some(Err(_))) || matches!(leases, Some(Err(_)));
        if !failed && self.reads.answered(read) {
            self.shown = leases.and_then(|leases| leases.as_ref().ok()).cloned();
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
                        self.reads = Reads::default();
                        self.roots.clear();
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
                Err(failure) => self.mutex.denies(failure),
            },
            Event::LeaseDeleted(lease, Ok(()) | Err(Failure::NoNode)) => {
                self.with(lease, |lease| lease.gone = true)
            }
            Event::StateRead { .. } | Event::LeaseDeleted(..) => {}
            Event::Changed { .. } | Event::RootMade(..) => {}
        }
        Ok(())
    }

    fn command(&mut self, command: &Command, tokens: &mut Tokens) -> Result<(), Fault> {
        match command {
            Command::Mutex(command) if Queue::settles(command) => Ok(()),
            Command::Mutex(command) => self.mutex.command(command),
            Command::Take { take, version, mutex, keep, leases } => {
                self.take(*version, mutex, leases)?;
                let leases = leases.iter().map(|(_, lease)| lease.clone()).collect();
                self.takes.insert(*take, Take { leases, mutex: mutex.clone(), keep: *keep });
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
        self.has_room(version, leases)?;
        self.shown = None;
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

    /// Whether the read that this step answers shows room for more leases, under the number of permits as of that read.
    /// Where that is no number, each request's own counts.
    fn has_room(&self, version: i32, leases: &[(Ticket, String)]) -> Result<(), Fault> {
        let Some(Leases { names, written }) = &self.shown else {
            return Err((LIMIT, "no read that counts is answered in this step".into()));
        };
        let Some(root) = self.roots.get(written).filter(|root| root.version == version) else {
            let newest = self.roots.get(written);
            return Err((LIMIT, format!("of version {version}, and {newest:?} was read")));
        };
        let own = |owner: &Ticket| self.asked.get(owner).and_then(|request| request.limit).map(i64::from);
        for ((owner, _), used) in leases.iter().zip(names.len() as i64 + 1..) {
            let limit = root.permits().or_else(|| own(owner));
            if limit.is_none_or(|limit| used > limit) {
                return Err((LIMIT, format!("{owner:?} gets lease number {used} of {limit:?}")));
            }
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
            self.leases
                .get(*name)
                .is_some_and(|lease| lease.stays() && lease.owner == ticket && lease.czxid == Some(czxid))
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
