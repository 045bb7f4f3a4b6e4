//! What the actors, the callers and the sessions know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lockkeeper_actors::machine::lock::Lock;
use lockkeeper_actors::machine::multi_lock::MultiLock;
use lockkeeper_actors::machine::{LeaseState, Moment};

use super::messages::{Call, Entrant, Lease, Ticket, ToMulti, ToPath};
use crate::world::directory::{Name, instance};

pub const PATHS: usize = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub paths: [Path; PATHS],
    /// The session that the session actor has.
    pub current: Option<u8>,
    pub now: Moment,
}

/// The actor of one path in one process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    pub machine: Lock,
    pub using: Option<u8>,
    pub inbox: VecDeque<ToPath>,
    /// The part of a request that each attempt is for.
    pub tickets: BTreeMap<u8, Ticket>,
    /// Guards that were told of their loss.
    pub lost: BTreeSet<Ticket>,
}

/// A request's caller and, if it is for several paths, its actor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    pub process: usize,
    pub word: Word,
    pub machine: MultiLock,
    pub round: u8,
    /// This round has not begun yet, because of the pause after the last one.
    pub pauses: bool,
    pub parts: Vec<Part>,
    pub inbox: VecDeque<ToMulti>,
    /// The actor has stopped.
    pub ended: bool,
    /// In the caller's hands.
    pub guard: Vec<Lease>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Part {
    pub ticket: Option<Ticket>,
    pub entrant: Option<Entrant>,
    pub lease: Option<Lease>,
    /// Its node has been submitted in this round.
    pub placed: bool,
    /// The machine was told that its lease is in doubt, and not that it is verified again.
    pub doubted: bool,
}

/// How far a caller has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    Waiting,
    Cancelling,
    Refused,
    Granted,
    /// The guard says so, and has not been dropped.
    Lost,
    Released,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    pub process: usize,
    /// It is ahead of the news.
    pub lease: LeaseState,
    pub calls: VecDeque<Call>,
    pub watches: BTreeSet<(usize, Name)>,
    /// Own nodes that heartbeats check.
    pub tracked: BTreeSet<(usize, Name)>,
}

impl Process {
    pub fn new(number: usize) -> Process {
        let path = Path {
            machine: Lock::new(instance(number as u8)),
            using: None,
            inbox: VecDeque::new(),
            tickets: BTreeMap::new(),
            lost: BTreeSet::new(),
        };
        Process { paths: [path.clone(), path], current: None, now: Moment(0) }
    }
}

impl Session {
    pub fn new(process: usize) -> Session {
        Session {
            process,
            lease: LeaseState::Held,
            calls: VecDeque::new(),
            watches: BTreeSet::new(),
            tracked: BTreeSet::new(),
        }
    }
}

impl Request {
    pub fn new(process: usize, paths: &[usize]) -> Request {
        Request {
            process,
            word: Word::Waiting,
            machine: MultiLock::new(paths.len()),
            round: 0,
            pauses: false,
            parts: vec![Part::default(); paths.len()],
            inbox: VecDeque::new(),
            ended: false,
            guard: Vec::new(),
        }
    }
}
