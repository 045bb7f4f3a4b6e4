//! One process: the real queue, and around it what its driver (`src/lock.rs`) and its sessions do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use lockkeeper_actors::machine::Moment;
use lockkeeper_actors::machine::protocol::Failure;
use lockkeeper_actors::machine::queue::Queue;

use super::server::{Name, instance};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub queue: Queue,
    pub alive: bool,
    pub closed: bool,
    pub now: Moment,
    /// The session that the lock's actor works with.
    pub using: Option<u8>,
    /// The session that the session actor has.
    pub current: Option<u8>,
    /// From the session actor to the lock's actor.
    pub news: VecDeque<News>,
    /// What heartbeats did not find.
    pub missing: VecDeque<Vec<Name>>,
    pub asked: Vec<Asked>,
}

/// What its driver and its caller know of one request; its ticket is its place in the list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    pub word: Word,
    /// Nothing is left of it.
    pub forgotten: bool,
    /// The newest attempt whose create was sent.
    pub attempt: Option<u8>,
}

/// How far a caller has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    Unasked,
    Waiting,
    Cancelling,
    Refused,
    /// A guard is in its hands; it is of this session, if its node goes with the session.
    Granted {
        name: Name,
        session: Option<u8>,
    },
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

/// One session, and what is on its way in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    pub process: usize,
    pub lease: Lease,
    pub connected: bool,
    /// The server has ended it.
    pub expired: bool,
    /// Requests of the lock's actor, oldest first, until it has their answers.
    pub calls: VecDeque<Call>,
    /// Writes whose answers nobody will get. They may still be carried out.
    pub unheard: VecDeque<Ask>,
    /// Whether they are armed.
    pub watches: BTreeMap<Name, bool>,
    /// Own nodes that heartbeats check.
    pub tracked: BTreeSet<Name>,
}

/// The lease's word, which is ahead of the news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lease {
    Held,
    Suspended,
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    pub ask: Ask,
    pub answer: Option<Answer>,
    /// Which state the server that answered had, as a place in the past.
    pub shown: u8,
}

/// What goes over the wire. A command that sends two requests makes two of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// Its list comes right behind it.
    Create {
        name: Name,
        ephemeral: bool,
        /// Nobody will look for its node any more.
        belated: bool,
    },
    /// Its list comes right behind it.
    Sync,
    List {
        attempt: u8,
    },
    MakeDirectory {
        attempt: u8,
    },
    Read {
        attempt: u8,
        name: Name,
    },
    Watch {
        name: Name,
    },
    Delete {
        attempt: u8,
        name: Name,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    Done,
    Created(Name, u8),
    Names(Vec<Name>),
    Found { czxid: u8, owner: u8 },
    No(No),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum No {
    Missing,
    /// A definite no, which passes.
    Refused,
    /// The connection went first.
    Cut,
    SessionGone,
}

impl No {
    pub fn failure(self) -> Failure {
        match self {
            No::Missing => Failure::NoNode,
            No::Refused => Failure::Refused(String::new()),
            No::Cut => Failure::Unknown(String::new()),
            No::SessionGone => Failure::SessionGone,
        }
    }
}

impl Ask {
    pub fn writes(self) -> bool {
        match self {
            Ask::Create { .. } | Ask::MakeDirectory { .. } | Ask::Delete { .. } => true,
            Ask::Sync | Ask::List { .. } | Ask::Read { .. } | Ask::Watch { .. } => false,
        }
    }
}

impl Process {
    pub fn new(number: usize, requests: usize, session: u8) -> Process {
        let asked = Asked { word: Word::Unasked, forgotten: false, attempt: None };
        Process {
            queue: Queue::new(instance(number as u8)),
            alive: true,
            closed: false,
            now: Moment(0),
            using: None,
            current: Some(session),
            news: VecDeque::from([News::Connected(session)]),
            missing: VecDeque::new(),
            asked: vec![asked; requests],
        }
    }
}

/// Of all requests that have one. Retries, a second apart, all come before.
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
            watches: BTreeMap::new(),
            tracked: BTreeSet::new(),
        }
    }

    pub fn submit(&mut self, ask: Ask) {
        self.calls.push_back(Call { ask, answer: None, shown: 0 });
    }

    pub fn unserved(&self) -> Option<usize> {
        self.calls.iter().position(|call| call.answer.is_none())
    }

    /// Whether the same request is on its way. A watch may be: given up and wanted again, it is asked for anew.
    pub fn is_unanswered(&self, ask: Ask) -> bool {
        match ask {
            Ask::List { .. } | Ask::MakeDirectory { .. } | Ask::Read { .. } | Ask::Delete { .. } => {
                self.calls.iter().any(|call| call.ask == ask)
            }
            Ask::Create { .. } | Ask::Sync | Ask::Watch { .. } => false,
        }
    }

    /// Whether the oldest command is answered, and with how many requests it was sent.
    pub fn answered(&self) -> Option<usize> {
        let parts = match self.calls.front()?.ask {
            Ask::Create { .. } | Ask::Sync => 2,
            Ask::List { .. }
            | Ask::MakeDirectory { .. }
            | Ask::Read { .. }
            | Ask::Watch { .. }
            | Ask::Delete { .. } => 1,
        };
        self.calls.range(..parts).all(|call| call.answer.is_some()).then_some(parts)
    }

    /// The answers of all but the `kept` first are lost with the connection; what they asked for may still be
    /// carried out. Tells the newest state that those which came have shown.
    pub fn cut(&mut self, kept: usize) -> Option<u8> {
        self.connected = false;
        let answered = self.calls.iter().take(kept).filter(|call| call.answer.is_some());
        let shown = answered.map(|call| call.shown).max();
        for call in self.calls.iter_mut().skip(kept) {
            if call.answer.is_none() && call.ask.writes() {
                self.unheard.push_back(call.ask);
            }
            (call.answer, call.shown) = (Some(Answer::No(No::Cut)), 0);
        }
        shown
    }

    /// Its actor has let go of it.
    pub fn abandon(&mut self) {
        if self.connected {
            let unserved = self.calls.iter().filter(|call| call.answer.is_none() && call.ask.writes());
            self.unheard.extend(unserved.map(|call| call.ask));
        }
        self.connected = false;
        self.calls.clear();
        self.watches.clear();
        self.tracked.clear();
    }
}
