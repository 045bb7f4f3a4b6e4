//! What actors tell each other, and what they send to the server.

use lockkeeper_actors::machine;
use lockkeeper_actors::machine::lock::Event;

use crate::world::directory::Name;

/// A part in one round of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket {
    pub request: usize,
    pub round: u8,
    pub part: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ToPath {
    Acquire(Ticket),
    Cancel(Ticket),
    Release(Ticket),
    /// What comes of a session.
    Event(u8, Event),
    Connected(u8),
    Suspended(u8),
    Resumed(u8),
    Lost(u8),
    /// Make the nodes of these.
    JointCreate(usize, u8, Vec<Entrant>),
}

/// Rounds and parts are in the tickets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ToMulti {
    Start,
    Ready(Entrant),
    /// With those that were not made because of another one.
    Made(u8, Vec<Entrant>),
    Queued(Ticket, usize),
    Acquired(Lease),
    Suspended(Ticket),
    Resumed(Ticket),
    /// The last is whether it says that the part was cancelled or withdrawn.
    Refused(Ticket, bool),
    Lost(Ticket),
    Over(Ticket),
    Cancel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entrant {
    pub ticket: Ticket,
    pub path: usize,
    pub attempt: u8,
    /// The session of its lock.
    pub epoch: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    pub ticket: Ticket,
    pub path: usize,
    pub name: Name,
    pub session: u8,
}

/// The first number is the path's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Creates and the lists behind them. For the actor of this request, or for a plain lock.
    Make(Option<(usize, u8)>, Vec<Entrant>),
    /// A create for a plain lock.
    Create(Entrant),
    MakeDirectory(usize, u8),
    List(usize),
    ReadStat(usize, u8, Name),
    Watch(usize, Name),
    Delete(usize, u8, Name),
}

impl Ticket {
    pub fn of(ticket: machine::Ticket) -> Ticket {
        let number = ticket.number();
        Ticket { request: (number >> 16) as usize, round: (number >> 8) as u8, part: number as u8 as usize }
    }

    pub fn number(self) -> machine::Ticket {
        machine::Ticket::numbered(
            ((self.request as u64) << 16) | (u64::from(self.round) << 8) | self.part as u64,
        )
    }
}
