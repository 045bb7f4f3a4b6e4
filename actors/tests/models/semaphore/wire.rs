//! What a semaphore's actor sends to the server, and how far callers have been told.

use std::collections::BTreeSet;
use std::vec::IntoIter;

use lockkeeper_actors::machine::lock::{Created, NodeStat};
use lockkeeper_actors::machine::node::{Attempt, Znode};
use lockkeeper_actors::machine::semaphore::{Leases, Part, Reading, Root, Semaphore, TakeFailure};
use lockkeeper_actors::machine::{Failure, Ticket};

use super::server::{Spot, Watch};
use crate::world::clients;
use crate::world::session::{self, No, Wire};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SemaphoreWire;

pub type Clients = clients::Clients<Semaphore, SemaphoreWire, Asked>;
pub type Process = clients::Process<Semaphore, SemaphoreWire, Asked>;
pub type Call = session::Call<SemaphoreWire>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    Mutex(Errand),
    ReadState { read: Attempt, sync: bool, root: Reading, leases: Reading },
    MakeRoot(Attempt),
    Take(Attempt),
    FindLeases(Attempt),
    DeleteLease(String),
}

/// What the mutex needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Errand {
    Create(Attempt),
    CreateAndList(Attempt),
    List,
    SyncAndList,
    MakeDirectory(Attempt),
    ReadStat(Attempt),
    Watch(String),
    Delete(Attempt),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    Create(String),
    List,
    Sync,
    MakeDirectory,
    Read(String),
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
    NotTaken(NotTaken),
    No(No),
}

/// Why a transaction that makes leases made none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotTaken {
    MutexGone,
    RootGone,
    LimitChanged,
}

/// What a session's client knows of its watches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Watches {
    /// The contenders that its actor watches, or is about to.
    pub contenders: BTreeSet<String>,
    /// The last read of the state that was sent, and the last one whose watches are no longer wanted.
    pub last_read: Option<u64>,
    pub unwatched: Option<u64>,
}

/// What its driver and its caller know of one request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    pub word: Word,
    pub forgotten: bool,
    /// What might be a true answer: the limits there were since it was asked.
    pub limits: BTreeSet<u32>,
    /// It was told that it waits, when the stored number was its own and had not been changed yet.
    pub accepted: bool,
    /// It could have been served at every moment since.
    pub free: bool,
    /// When it was asked, its process may have taken an old limit for the current one.
    pub uninformed: bool,
    /// The leases that its guard had in the end, until the machine has forgotten it.
    pub given_back: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    Unasked,
    Waiting,
    Refused,
    Granted {
        leases: Vec<String>,
        session: u8,
    },
    Lost,
    Released,
    /// Its permits belong to another request.
    Merged,
}

impl Wire for SemaphoreWire {
    type Purpose = Purpose;
    type Ask = Ask;
    type Answer = Answer;
    type Name = String;
    type Watches = Watches;

    fn writes(ask: &Ask) -> bool {
        match ask {
            Ask::Create(_) | Ask::MakeDirectory | Ask::Delete(_) | Ask::MakeRoot(_) | Ask::Take { .. } => {
                true
            }
            Ask::List | Ask::Sync | Ask::Read(_) | Ask::Watch(_) => false,
            Ask::ReadRoot { .. } | Ask::ListLeases { .. } => false,
        }
    }

    fn text(name: &String) -> String {
        name.clone()
    }

    fn let_go(watches: &mut Watches) {
        watches.contenders.clear();
    }
}

/// What an actor makes of an answer.
impl Answer {
    pub fn done(self) -> Result<(), Failure> {
        match self {
            Answer::No(no) => Err(no.failure()),
            Answer::Done | Answer::Created(..) | Answer::Names(_) => Ok(()),
            Answer::Leases(..) | Answer::Found { .. } | Answer::Root { .. } | Answer::NotTaken(_) => Ok(()),
        }
    }

    pub fn names(self) -> Result<Vec<String>, Failure> {
        match self {
            Answer::Names(names) | Answer::Leases(names, _) => Ok(names),
            other => other.done().map(|()| Vec::new()),
        }
    }

    pub fn leases(self) -> Result<Leases, Failure> {
        match self {
            Answer::Leases(names, written) => Ok(Leases { names, written: written.into() }),
            other => Err(other.failure()),
        }
    }

    pub fn created(self) -> Result<Created, Failure> {
        match self {
            Answer::Created(name, czxid) => Ok(Created { node: node(&name), czxid: czxid.into() }),
            other => Err(other.failure()),
        }
    }

    pub fn stat(self) -> Result<NodeStat, Failure> {
        match self {
            Answer::Found { czxid, owner } => Ok(NodeStat { czxid: czxid.into(), owner: owner.into() }),
            other => Err(other.failure()),
        }
    }

    pub fn root(self) -> Result<Root, Failure> {
        match self {
            Answer::Root { version, written, limit } => {
                Ok(Root { version, written: written.into(), data: limit.to_string().into_bytes() })
            }
            other => Err(other.failure()),
        }
    }

    pub fn taken(self) -> Result<(), TakeFailure> {
        match self {
            Answer::NotTaken(NotTaken::MutexGone) => Err(TakeFailure::MutexGone),
            Answer::NotTaken(NotTaken::RootGone) => Err(TakeFailure::RootGone),
            Answer::NotTaken(NotTaken::LimitChanged) => Err(TakeFailure::LimitChanged),
            // One of the leases was rejected.
            Answer::No(No::Refused) => Err(TakeFailure::Lease(0, "".into())),
            other => other.done().map_err(TakeFailure::Failed),
        }
    }

    fn failure(self) -> Failure {
        self.done().err().unwrap_or(Failure::NoNode)
    }
}

/// The answer to the next request of a call.
pub fn next(answers: &mut IntoIter<Answer>) -> Answer {
    answers.next().unwrap_or(Answer::Done)
}

pub fn node(name: &str) -> Znode {
    Znode::parse(name).expect("it ends in a number")
}

impl From<No> for Answer {
    fn from(no: No) -> Answer {
        Answer::No(no)
    }
}

impl Asked {
    pub const NEW: Asked = Asked {
        word: Word::Unasked,
        forgotten: false,
        limits: BTreeSet::new(),
        accepted: false,
        free: false,
        uninformed: false,
        given_back: Vec::new(),
    };

    pub fn is_granted(&self) -> bool {
        matches!(self.word, Word::Granted { .. })
    }

    /// The leases of its guard.
    pub fn leases(&mut self) -> Option<&mut Vec<String>> {
        match &mut self.word {
            Word::Granted { leases, .. } => Some(leases),
            _ => None,
        }
    }

    /// Its guard is over.
    pub fn give_back(&mut self) {
        self.given_back = self.leases().map(std::mem::take).unwrap_or_default();
    }

    /// Its caller has a guard, which may read `Lost`.
    pub fn has_guard(&self) -> bool {
        self.is_granted() || self.word == Word::Lost
    }

    /// Its guard has more than one permit, or may have had when the message was sent.
    pub fn can_be_split(&self) -> bool {
        match &self.word {
            Word::Granted { leases, .. } => leases.len() > 1,
            Word::Lost => !self.forgotten,
            Word::Unasked | Word::Waiting | Word::Refused | Word::Released | Word::Merged => false,
        }
    }

    /// It is in the actor's table of requests.
    pub fn is_known(&self) -> bool {
        self.word != Word::Unasked && !self.forgotten
    }
}

/// Whether this watch was left by a request of this call, and the answer to it is still to come.
pub fn has_left(call: &Call, watch: &Watch) -> bool {
    let mut answered =
        call.asks.iter().zip(&call.answers).filter(|(_, answer)| !matches!(answer, Answer::No(_)));
    answered.any(|(ask, _)| match (ask, &watch.spot) {
        (Ask::Watch(name), Spot::Contender(watched)) => name == watched,
        (Ask::ReadRoot { watch: Some(read) }, Spot::Part(Part::Root))
        | (Ask::ListLeases { watch: Some(read) }, Spot::Part(Part::Leases)) => *read == watch.read,
        _ => false,
    })
}

/// Apart from the numbers that the machine gives to its turns.
pub fn ticket(place: usize) -> Ticket {
    Ticket::numbered(place as u64 + FIRST)
}

pub fn place(ticket: Ticket) -> Option<usize> {
    ticket.number().checked_sub(FIRST).map(|place| place as usize)
}

const FIRST: u64 = 1000;
