//! One process: the real machine, and what its driver and its sessions know.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use lockkeeper_actors::machine::Moment;
use lockkeeper_actors::machine::protocol::{Failure, Sight, Ticket};
use lockkeeper_actors::machine::semaphore::Semaphore;
use lockkeeper_actors::machine::znode::{Attempt, Instance};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub machine: Semaphore,
    pub now: Moment,
    /// The session that the actor works with.
    pub using: Option<u8>,
    /// The session that the session actor has.
    pub current: Option<u8>,
    pub news: VecDeque<News>,
    /// What heartbeats did not find.
    pub missing: VecDeque<Vec<String>>,
    pub asked: Vec<Asked>,
}

/// What its driver and its caller know of one request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    pub word: Word,
    pub forgotten: bool,
    /// What might be a true answer: the limits there were since it was asked.
    pub limits: BTreeSet<u32>,
    /// It was told that it waits, and nobody had changed the stored number yet, which was its own.
    pub accepted: bool,
    /// It could have been served at every moment since.
    pub free: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    Unasked,
    Waiting,
    Refused,
    Granted { leases: Vec<String>, session: u8 },
    Lost,
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum News {
    Connected(u8),
    Suspended(u8),
    Resumed(u8),
    Lost(u8),
}

/// The lease's word, which is ahead of the news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lease {
    Held,
    Suspended,
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    pub process: usize,
    pub lease: Lease,
    pub connected: bool,
    pub expired: bool,
    /// Oldest first, until the actor has their answers.
    pub calls: VecDeque<Call>,
    /// Writes whose answers nobody will get. They may still be carried out.
    pub unheard: VecDeque<Ask>,
    /// Own nodes that heartbeats check.
    pub tracked: BTreeSet<String>,
    /// The contenders that its actor watches, or is about to.
    pub watching: BTreeSet<String>,
    /// As the driver counts them.
    pub surveyed: Option<u64>,
    pub calmed: Option<u64>,
}

/// The requests of one command, sent together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    pub purpose: Purpose,
    pub asks: Vec<Ask>,
    pub answers: Vec<Answer>,
    /// Which tree the server that answered had, as a place in the past; one an answer.
    pub shown: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    Enter(Attempt),
    List(Attempt),
    Look(Attempt),
    MakeDirectory(Attempt),
    Inspect(Attempt),
    Watch(String),
    Delete(Attempt),
    Survey { survey: Attempt, sync: bool, root: Sight, leases: Sight },
    MakeRoot(Attempt),
    Take(Attempt),
    Find(Attempt),
    Return(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    Create(String),
    List,
    Sync,
    MakeDirectory,
    Inspect(String),
    Watch(String),
    Delete(String),
    ReadRoot { watch: Option<u64> },
    ListLeases { watch: Option<u64> },
    MakeRoot(u32),
    Take { version: i32, mutex: String, keep: bool, leases: Vec<String> },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    Done,
    Created(String, u8),
    Names(Vec<String>),
    /// And which transaction wrote the limit.
    Leases(Vec<String>, u8),
    Found {
        czxid: u8,
        owner: u8,
    },
    Root {
        version: i32,
        written: u8,
        limit: u32,
    },
    No(No),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum No {
    Missing,
    MutexGone,
    RootGone,
    LimitChanged,
    /// A definite no, which passes.
    Refused,
    /// The connection went first.
    Cut,
    SessionGone,
}

impl No {
    pub fn failure(self) -> Failure {
        match self {
            No::Missing | No::MutexGone | No::RootGone | No::LimitChanged => Failure::NoNode,
            No::Refused => Failure::Refused(String::new()),
            No::Cut => Failure::Unknown(String::new()),
            No::SessionGone => Failure::SessionGone,
        }
    }
}

impl Ask {
    pub fn writes(&self) -> bool {
        match self {
            Ask::Create(_) | Ask::MakeDirectory | Ask::Delete(_) | Ask::MakeRoot(_) | Ask::Take { .. } => {
                true
            }
            Ask::List | Ask::Sync | Ask::Inspect(_) | Ask::Watch(_) => false,
            Ask::ReadRoot { .. } | Ask::ListLeases { .. } => false,
        }
    }
}

impl Process {
    pub fn new(number: usize, requests: usize, session: u8) -> Process {
        let asked = Asked {
            word: Word::Unasked,
            forgotten: false,
            limits: BTreeSet::new(),
            accepted: false,
            free: false,
        };
        Process {
            machine: Semaphore::new(instance(number)),
            now: Moment(0),
            using: None,
            current: Some(session),
            news: VecDeque::from([News::Connected(session)]),
            missing: VecDeque::new(),
            asked: vec![asked; requests],
        }
    }

    /// Its entry in the driver's table of requests.
    pub fn known(&self, ticket: Ticket) -> Option<&Asked> {
        let asked = self.asked.get(place(ticket)?)?;
        (asked.word != Word::Unasked && !asked.forgotten).then_some(asked)
    }
}

/// What a process puts into the names of its nodes.
pub fn instance(process: usize) -> Instance {
    Instance::new((process as u128 + 1) << 100)
}

/// Apart from the numbers that the machine gives to its turns.
pub fn ticket(place: usize) -> Ticket {
    Ticket::numbered(place as u64 + FIRST)
}

pub fn place(ticket: Ticket) -> Option<usize> {
    ticket.number().checked_sub(FIRST).map(|place| place as usize)
}

const FIRST: u64 = 1000;

/// Of all requests that have one. Retries and patience, a second each, all come before.
pub const DEADLINE: Moment = Moment(Duration::from_secs(3600).as_nanos() as u64);

impl Session {
    pub fn new(process: usize) -> Session {
        Session {
            process,
            lease: Lease::Held,
            connected: true,
            expired: false,
            calls: VecDeque::new(),
            unheard: VecDeque::new(),
            tracked: BTreeSet::new(),
            watching: BTreeSet::new(),
            surveyed: None,
            calmed: None,
        }
    }

    pub fn unserved(&self) -> Option<usize> {
        self.calls.iter().position(|call| call.answers.len() < call.asks.len())
    }

    pub fn is_answered(&self) -> bool {
        self.calls.front().is_some_and(|call| call.answers.len() == call.asks.len())
    }

    /// How many requests are on their way, or their answers.
    pub fn requests(&self) -> usize {
        self.calls.iter().map(|call| call.asks.len()).sum()
    }

    /// How many answers are on their way.
    pub fn answers(&self) -> usize {
        self.calls.iter().map(|call| call.answers.len()).sum()
    }

    /// All but the first `kept` answers are lost with the connection, and what was not carried out yet may still be;
    /// but the last `unsent` requests are sent over the next connection. Tells the newest tree that those answers which
    /// came have shown.
    pub fn cut(&mut self, mut kept: usize, unsent: usize) -> Option<usize> {
        self.connected = false;
        let shown = self.calls.iter().flat_map(|call| call.shown.iter().copied()).take(kept).max();
        let mut sent = self.requests() - unsent;
        for call in &mut self.calls {
            let here = sent.min(call.asks.len());
            sent -= here;
            for ask in &call.asks[call.answers.len()..here] {
                if ask.writes() {
                    self.unheard.push_back(ask.clone());
                }
            }
            let keep = kept.min(call.answers.len());
            kept -= keep;
            call.answers.truncate(keep);
            call.answers.resize(here, Answer::No(No::Cut));
            call.shown.truncate(keep);
            call.shown.resize(here, 0);
        }
        shown
    }

    /// Its actor has let go of it.
    pub fn abandon(&mut self) {
        if self.connected {
            let unserved = self.calls.iter().flat_map(|call| call.asks[call.answers.len()..].iter());
            self.unheard.extend(unserved.filter(|ask| ask.writes()).cloned());
        }
        self.connected = false;
        self.calls.clear();
        self.tracked.clear();
        self.watching.clear();
    }
}
