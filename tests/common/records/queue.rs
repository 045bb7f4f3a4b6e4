//! The nodes of one directory, as answers show them to one client.

use std::collections::BTreeMap;
use std::fmt;

use lockkeeper_actors::machine::lock::{Command, Created, Event};
use lockkeeper_actors::machine::node::{Attempt, Instance, Znode};
use lockkeeper_actors::machine::patterns::Patterns;
use lockkeeper_actors::machine::{Failure, PathEvent, Ticket};

use super::requests::Kind;
use super::specification::{Fault, GHOST, GONE, OWNED, TURN, TWICE};

/// The attempts of one machine to make nodes, and what is known of each.
pub(super) struct Queue {
    instance: Instance,
    session: Option<i64>,
    /// The attempts to make a node in this session.
    attempts: BTreeMap<Attempt, Attempted>,
}

struct Attempted {
    ticket: Ticket,
    outcome: Outcome,
    node: Option<Znode>,
    czxid: Option<i64>,
    /// What a list has shown ahead of the node, as far as it is not known to be gone.
    ahead: Option<Vec<Znode>>,
    /// No request wants it any more, or its delete was sent.
    left: bool,
    gone: bool,
    /// A list has shown it after a create of unknown outcome. Whether a request still wants it shows when its stat is
    /// read.
    found: bool,
    /// A list has not shown it although it was made, so somebody has deleted it.
    missed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// No answer yet.
    Sent,
    Unknown,
    /// Unknown, and a list behind a sync is to show it.
    Sought,
    Made,
    Never,
}

impl Queue {
    pub fn new(instance: Instance) -> Queue {
        Queue { instance, session: None, attempts: BTreeMap::new() }
    }

    pub fn path_event(&mut self, event: &PathEvent) {
        match event {
            PathEvent::Connected { session } => self.session = Some(*session),
            PathEvent::Lost => {
                self.session = None;
                self.attempts.clear();
            }
            PathEvent::Missing(names) => {
                let instance = self.instance;
                for attempt in names.iter().filter_map(|name| instance.attempt(name)) {
                    self.with(attempt, |attempted| attempted.gone = true);
                }
            }
            _ => {}
        }
    }

    /// An answer, or a watch that fired.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Acquire { .. } | Event::DirectoryMade(..) => {}
            Event::Path(event) => self.path_event(event),
            Event::Listed(children) => self.listed(children),
            Event::Created(attempt, created) => self.created(*attempt, created),
            Event::CreatedAndListed { attempt, created, children } => {
                self.created(*attempt, created);
                if let Ok(children) = children {
                    self.shown(children);
                }
            }
            Event::StatRead(attempt, stat) => {
                let ours = stat.as_ref().ok().filter(|stat| Some(stat.owner) == self.session);
                if let Some(czxid) = ours.map(|stat| stat.czxid) {
                    self.with(*attempt, |attempted| attempted.czxid = Some(czxid));
                }
            }
            Event::Watched(node, Err(Failure::NoNode)) | Event::Fired { node, gone: true } => {
                for ahead in self.attempts.values_mut().filter_map(|attempted| attempted.ahead.as_mut()) {
                    ahead.retain(|other| other != node);
                }
            }
            Event::Watched(..) | Event::Fired { .. } => {}
            Event::Deleted(attempt, Ok(()) | Err(Failure::NoNode)) => {
                self.with(*attempt, |attempted| attempted.gone = true)
            }
            Event::Deleted(..) => {}
        }
    }

    /// What is sent. Deletes of the same step must come first.
    pub fn command(&mut self, command: &Command) -> Result<(), Fault> {
        match command {
            Command::Create(attempt, ticket) | Command::CreateAndList(attempt, ticket) => {
                self.create(*attempt, *ticket)
            }
            Command::List { sync: true } => {
                self.change(Outcome::Unknown, Outcome::Sought);
                Ok(())
            }
            Command::Delete(attempt, _) => {
                self.with(*attempt, |attempted| attempted.left = true);
                Ok(())
            }
            Command::ReadStat(attempt, _) => {
                self.with(*attempt, |attempted| attempted.found = false);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The request wants no node any more.
    pub fn leave(&mut self, ticket: Ticket) {
        let of_it = self.attempts.values_mut().filter(|attempted| attempted.ticket == ticket);
        of_it.for_each(|attempted| attempted.left = true);
    }

    /// The node was deleted together with something else.
    pub fn took(&mut self, node: &Znode) {
        if let Some(attempt) = self.instance.attempt(node.name()) {
            self.with(attempt, |attempted| (attempted.left, attempted.gone) = (true, true));
        }
    }

    /// Whether the node is there, in this session, and has this token.
    pub fn owns(&self, node: &Znode, czxid: Option<i64>) -> Result<(), Fault> {
        let attempt = self.instance.attempt(node.name());
        let Some(attempted) = attempt.and_then(|attempt| self.attempts.get(&attempt)) else {
            return Err((OWNED, format!("{} was not made in this session", node.name())));
        };
        let token = czxid.is_none() || attempted.czxid == czxid;
        match attempted.node.as_ref() == Some(node) && token && !attempted.left && !attempted.gone {
            true => Ok(()),
            false => Err((OWNED, format!("{} with {czxid:?}, and it is {attempted}", node.name()))),
        }
    }

    /// The token of a node.
    pub fn token(&self, node: &Znode) -> Option<i64> {
        self.attempts.get(&self.instance.attempt(node.name())?)?.czxid
    }

    /// Whether nothing that a contender of this kind waits for is ahead of its node.
    pub fn is_first(&self, node: &Znode, waits_for: impl Fn(&str) -> bool) -> Result<(), Fault> {
        let attempt = self.instance.attempt(node.name());
        let attempted = attempt.and_then(|attempt| self.attempts.get(&attempt));
        let Some(ahead) = attempted.and_then(|attempted| attempted.ahead.as_ref()) else {
            return Err((TURN, format!("no list has shown {}", node.name())));
        };
        let mut blocking = ahead.iter().filter(|other| waits_for(other.name()) && !self.has_left(other));
        match blocking.next() {
            None => Ok(()),
            Some(other) => Err((TURN, format!("{} is ahead of {}", other.name(), node.name()))),
        }
    }

    /// Whether nothing is left of the newest node of a request.
    pub fn is_gone(&self, ticket: Ticket) -> Result<(), Fault> {
        match self.newest(ticket) {
            Some(attempted) if attempted.outcome == Outcome::Never => Ok(()),
            Some(attempted) if attempted.gone || attempted.missed => Ok(()),
            Some(attempted) => Err((GONE, format!("{ticket:?}, and its node is {attempted}"))),
            None => Ok(()),
        }
    }

    pub fn finish(&self) -> Result<(), Fault> {
        let mut made = self.attempts.values().filter(|attempted| attempted.outcome == Outcome::Made);
        match made.find(|attempted| !attempted.left && !attempted.gone) {
            Some(attempted) => Err((GHOST, attempted.to_string())),
            None => Ok(()),
        }
    }

    fn create(&mut self, attempt: Attempt, ticket: Ticket) -> Result<(), Fault> {
        if let Some(first) = self.newest(ticket) {
            let settled = match first.outcome {
                Outcome::Never => true,
                Outcome::Made => first.left || first.gone,
                Outcome::Sent | Outcome::Unknown | Outcome::Sought => false,
            };
            if !settled {
                return Err((TWICE, format!("{attempt:?} for {ticket:?}, and the first is {first}")));
            }
        }
        let attempted = Attempted {
            ticket,
            outcome: Outcome::Sent,
            node: None,
            czxid: None,
            ahead: None,
            left: false,
            gone: false,
            found: false,
            missed: false,
        };
        self.attempts.insert(attempt, attempted);
        Ok(())
    }

    fn created(&mut self, attempt: Attempt, created: &Result<Created, Failure>) {
        self.with(attempt, |attempted| match created {
            Ok(created) => {
                attempted.outcome = Outcome::Made;
                attempted.node = Some(created.node.clone());
                attempted.czxid = Some(created.czxid);
            }
            Err(Failure::Unknown(_)) => attempted.outcome = Outcome::Unknown,
            Err(Failure::NoNode | Failure::NoAuth | Failure::Refused(_)) => {
                attempted.outcome = Outcome::Never
            }
            Err(Failure::SessionGone) => {}
        });
    }

    fn listed(&mut self, children: &Result<Vec<String>, Failure>) {
        match children {
            Ok(children) => self.shown(children),
            Err(Failure::NoNode) => self.shown(&[]),
            Err(_) => return self.change(Outcome::Sought, Outcome::Unknown),
        }
        // It has shown all others.
        self.change(Outcome::Sought, Outcome::Never);
    }

    fn shown(&mut self, children: &[String]) {
        let mut nodes: Vec<Znode> = children.iter().filter_map(|name| Znode::parse(name)).collect();
        nodes.sort_unstable();
        for (place, node) in nodes.iter().enumerate() {
            let Some(attempt) = self.instance.attempt(node.name()) else { continue };
            let Some(attempted) = self.attempts.get_mut(&attempt) else { continue };
            if matches!(attempted.outcome, Outcome::Unknown | Outcome::Sought) {
                attempted.outcome = Outcome::Made;
                attempted.found = true;
            }
            attempted.node = Some(node.clone());
            attempted.ahead.get_or_insert_with(|| nodes[..place].to_vec());
        }
        for attempted in self.attempts.values_mut() {
            let node = attempted.node.as_ref();
            attempted.missed |= node.is_some_and(|node| nodes.binary_search(node).is_err());
        }
        // What is behind all others may be newer than the list. Numbers only grow, so nothing else is.
        let Some(last) = nodes.last() else { return };
        for ahead in self.attempts.values_mut().filter_map(|attempted| attempted.ahead.as_mut()) {
            ahead.retain(|other| other > last || nodes.binary_search(other).is_ok());
        }
    }

    /// Whether it is a node of this client that no request wants any more, in this session.
    fn has_left(&self, node: &Znode) -> bool {
        let attempt = self.instance.attempt(node.name());
        let attempted = attempt.and_then(|attempt| self.attempts.get(&attempt));
        attempted.is_some_and(|attempted| attempted.left || attempted.gone || attempted.found)
    }

    fn newest(&self, ticket: Ticket) -> Option<&Attempted> {
        self.attempts.values().rfind(|attempted| attempted.ticket == ticket)
    }

    fn with(&mut self, attempt: Attempt, change: impl FnOnce(&mut Attempted)) {
        if let Some(attempted) = self.attempts.get_mut(&attempt) {
            change(attempted);
        }
    }

    fn change(&mut self, from: Outcome, to: Outcome) {
        let those = self.attempts.values_mut().filter(|attempted| attempted.outcome == from);
        those.for_each(|attempted| attempted.outcome = to);
    }
}

impl fmt::Display for Attempted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attempted { outcome, node, czxid, left, gone, .. } = self;
        let name = node.as_ref().map(Znode::name);
        write!(f, "{outcome:?} as {name:?} with {czxid:?}, left: {left}, gone: {gone}")
    }
}

/// Whom a contender waits for, by its kind and its extra patterns.
pub(super) fn waits<'a>(kind: Kind, patterns: &'a Patterns) -> impl Fn(&str) -> bool + 'a {
    move |name| kind.waits_for(name) || patterns.matches(name)
}
