//! The requests of callers on one path, their answers, and the tokens of their grants.

use std::collections::BTreeMap;

use lockkeeper_actors::machine::exclusion::{Dialect, Mode};
use lockkeeper_actors::machine::{PathEvent, Reply, Ticket};

use super::specification::{ANSWER, DOUBT, Fault, TOKENS};

/// How far each request is.
#[derive(Default)]
pub(super) struct Requests {
    stages: BTreeMap<Ticket, Stage>,
    /// There is a session, and it is not suspended.
    verified: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Asked {
        cancelled: bool,
    },
    Granted {
        released: bool,
    },
    /// Refused, lost, or merged into another.
    Over,
}

impl Requests {
    pub fn ask(&mut self, ticket: Ticket) -> Result<(), Fault> {
        match self.stages.insert(ticket, Stage::Asked { cancelled: false }) {
            None => Ok(()),
            Some(_) => Err((ANSWER, format!("{ticket:?} asks twice"))),
        }
    }

    /// A part of a granted request becomes one of its own.
    pub fn split(&mut self, into: Ticket) {
        self.stages.insert(into, Stage::Granted { released: false });
    }

    pub fn merge(&mut self, ticket: Ticket) {
        self.stages.remove(&ticket);
    }

    pub fn path_event(&mut self, event: &PathEvent) {
        match event {
            PathEvent::Cancel(ticket) => {
                if let Some(Stage::Asked { cancelled }) = self.stages.get_mut(ticket) {
                    *cancelled = true;
                }
            }
            PathEvent::Release(ticket) => {
                if let Some(Stage::Granted { released }) = self.stages.get_mut(ticket) {
                    *released = true;
                }
            }
            PathEvent::Connected { .. } | PathEvent::Resumed => self.verified = true,
            PathEvent::Suspended | PathEvent::Lost => self.verified = false,
            PathEvent::Close | PathEvent::Missing(_) | PathEvent::Wake => {}
        }
    }

    pub fn grant(&mut self, ticket: Ticket) -> Result<(), Fault> {
        if !self.verified {
            return Err((DOUBT, format!("{ticket:?} is granted")));
        }
        match self.stages.insert(ticket, Stage::Granted { released: false }) {
            Some(Stage::Asked { cancelled: false }) => Ok(()),
            stage => Err((ANSWER, format!("{ticket:?} is granted, and was {stage:?}"))),
        }
    }

    pub fn reply(&mut self, reply: &Reply) -> Result<(), Fault> {
        let ticket = ticket(reply);
        let stage = self.stages.get(&ticket).copied();
        let fits = match (reply, stage) {
            (Reply::Queued(..), stage) => matches!(stage, Some(Stage::Asked { .. })),
            (Reply::Refused(..), Some(Stage::Asked { .. })) => {
                self.stages.insert(ticket, Stage::Over);
                true
            }
            (Reply::Suspended(_) | Reply::Resumed(_), stage) => matches!(stage, Some(Stage::Granted { .. })),
            (Reply::Lost(_), Some(Stage::Granted { .. })) => {
                self.stages.insert(ticket, Stage::Over);
                true
            }
            // The release of a lease that was lost before.
            (Reply::Forgotten { confirmed, .. }, None) => !*confirmed,
            (Reply::Forgotten { .. }, Some(Stage::Over | Stage::Granted { released: true })) => {
                self.stages.remove(&ticket);
                true
            }
            (Reply::Forgotten { confirmed, .. }, Some(Stage::Granted { released: false })) => {
                // The end of its session ends it without an answer.
                self.stages.remove(&ticket);
                !*confirmed
            }
            (_, _) => false,
        };
        match fits {
            true => Ok(()),
            false => Err((ANSWER, format!("{reply:?}, and it was {stage:?}"))),
        }
    }

    /// Whether a holder has released.
    pub fn has_released(&self, ticket: Ticket) -> bool {
        matches!(self.stages.get(&ticket), Some(Stage::Granted { released: true }))
    }

    /// Whether a request may still want what was made for it.
    pub fn wants(&self, ticket: Ticket) -> bool {
        matches!(self.stages.get(&ticket), Some(Stage::Asked { .. } | Stage::Granted { released: false }))
    }

    /// Whether there is a session that is not suspended.
    pub fn are_verified(&self) -> bool {
        self.verified
    }

    /// At its end, a keeper has ended all requests, unless it could not reach the servers.
    pub fn finish(&self) -> Result<(), Fault> {
        match self.stages.iter().next().filter(|_| self.verified) {
            Some((ticket, stage)) => Err((ANSWER, format!("{ticket:?} is still {stage:?}"))),
            None => Ok(()),
        }
    }
}

/// The request that a reply is about.
pub(super) fn ticket(reply: &Reply) -> Ticket {
    match reply {
        Reply::Queued(ticket, _)
        | Reply::Refused(ticket, _)
        | Reply::Suspended(ticket)
        | Reply::Resumed(ticket)
        | Reply::Lost(ticket)
        | Reply::Forgotten { ticket, .. } => *ticket,
    }
}

/// How contenders of one mode are named, and whom they wait for: what is written in `docs/guide.md` and in the recipes
/// of kazoo and Curator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind(pub Dialect, pub Mode);

impl Kind {
    /// The mutex of a semaphore.
    pub const MUTEX: Kind = Kind(Dialect::Kazoo, Mode::Lock);

    fn marker(self) -> &'static str {
        match self {
            Kind(Dialect::Kazoo, Mode::Read) => "__rlock__",
            Kind(Dialect::Curator, Mode::Lock) => "-lock-",
            Kind(Dialect::Curator, Mode::Read) => "-__READ__",
            Kind(Dialect::Curator, Mode::Write) => "-__WRIT__",
            Kind(_, _) => "__lock__",
        }
    }

    /// Whether it waits for a node of this name that is ahead.
    pub fn waits_for(self, name: &str) -> bool {
        let ends = |marker: &str| name.trim_end_matches(|c: char| c.is_ascii_digit()).ends_with(marker);
        match self {
            Kind(Dialect::Kazoo, Mode::Write) => ends("__lock__") || ends("__rlock__"),
            Kind(Dialect::Curator, Mode::Read) => ends("-__WRIT__"),
            Kind(Dialect::Curator, Mode::Write) => ends("-__WRIT__") || ends("-__READ__"),
            Kind(Dialect::Curator, Mode::Lock) => ends("-lock-"),
            Kind(_, _) => ends("__lock__"),
        }
    }
}

/// The largest token of each kind of contender on one path, with its node.
#[derive(Default)]
pub(super) struct Tokens(BTreeMap<Kind, (i64, String)>);

impl Tokens {
    /// A grant after one with a larger token, although the later one's kind would have waited for this node.
    pub fn grant(&mut self, kind: Kind, czxid: i64, node: &str) -> Result<(), Fault> {
        for (earlier, (largest, before)) in &self.0 {
            let shared = node == before && czxid == *largest;
            if *largest >= czxid && !shared && earlier.waits_for(&format!("{}0000000000", kind.marker())) {
                return Err((TOKENS, format!("{node} has {czxid}, and {before} had {largest}")));
            }
        }
        let newest = self.0.entry(kind).or_insert((czxid, node.to_owned()));
        if newest.0 < czxid {
            *newest = (czxid, node.to_owned());
        }
        Ok(())
    }
}
