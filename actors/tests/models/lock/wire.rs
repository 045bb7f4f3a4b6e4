//! What a lock's actor sends to the server, and how far callers have been told.

use std::collections::BTreeMap;

use crate::world::directory::Name;
use crate::world::session::{No, Wire};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LockWire;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    Create {
        name: Name,
        ephemeral: bool,
        /// Its process no longer searches for its node.
        belated: bool,
    },
    Sync,
    List {
        /// The attempts whose nodes it searches for, as bits.
        finding: u32,
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
    /// Lists the directory and watches its children, for a line.
    Follow {
        line: u8,
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

/// What the actor and the caller know of one request; its ticket is its place in the list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    pub word: Word,
    /// Nothing is left of it.
    pub forgotten: bool,
    /// The newest attempt whose create was sent.
    pub attempt: Option<u8>,
    /// The last contender of another process that its process knew of when it was asked for.
    pub knew: Option<i32>,
}

/// What a session's client knows of its watches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Watches {
    /// On nodes ahead, and whether they are armed.
    pub nodes: BTreeMap<Name, bool>,
    /// On the children, by their lines; with the children that the list showed, once it has been answered.
    pub children: BTreeMap<u8, Option<Option<Vec<Name>>>>,
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

impl Wire for LockWire {
    /// Requests carry the attempt themselves.
    type Purpose = ();
    type Ask = Ask;
    type Answer = Answer;
    type Name = Name;
    type Watches = Watches;

    fn writes(ask: &Ask) -> bool {
        match ask {
            Ask::Create { .. } | Ask::MakeDirectory { .. } | Ask::Delete { .. } => true,
            Ask::Sync | Ask::List { .. } | Ask::Read { .. } | Ask::Watch { .. } | Ask::Follow { .. } => false,
        }
    }

    fn text(name: &Name) -> String {
        name.text()
    }

    fn let_go(watches: &mut Watches) {
        *watches = Watches::default();
    }
}

impl From<No> for Answer {
    fn from(no: No) -> Answer {
        Answer::No(no)
    }
}

impl Asked {
    pub const NEW: Asked = Asked { word: Word::Unasked, forgotten: false, attempt: None, knew: None };
}
