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
    closed: bool,
    /// After its close, the server has denied a request. What that leaves behind ends with the session.
    denied: bool,
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
    /// No request wants it any more.
    unwanted: bool,
    /// Its delete was sent.
    deleted: bool,
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
        Queue { instance, session: None, closed: false, denied: false, attempts: BTreeMap::new() }
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
            PathEvent::Close => self.closed = true,
            _ => {}
        }
    }

    /// An answer, or a watch that fired.
    pub fn event(&mut self, event: &Event) {
        if let Event::Listed(Err(failure)) | Event::StatRead(_, Err(failure)) = event {
            self.denies(failure);
        }
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

    /// A request to find out what became of something has failed.
    pub fn denies(&mut self, failure: &Failure) {
        self.denied |= self.closed && matches!(failure, Failure::NoAuth | Failure::Refused(_));
    }

    pub fn is_denied(&self) -> bool {
        self.denied
    }

    /// What is sent. The commands of a step for which [`Queue::settles`] must come first.
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
                self.with(*attempt, |attempted| attempted.deleted = true);
                Ok(())
            }
            Command::ReadStat(attempt, _) => {
                self.with(*attempt, |attempted| attempted.found = false);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether a command shows what becomes of a node that is known.
    pub fn settles(command: &Command) -> bool {
        matches!(command, Command::Delete(..) | Command::ReadStat(..))
    }

    /// The request wants no node any more.
    pub fn leave(&mut self, ticket: Ticket) {
        let of_it = self.attempts.values_mut().filter(|attempted| attempted.ticket == ticket);
        of_it.for_each(|attempted| attempted.unwanted = true);
    }

    /// At the end of each step: the delete of a node that nobody wants is sent as soon as its name is known.
    pub fn has_left_nothing(&self) -> Result<(), Fault> {
        let mut unwanted = self.attempts.values().filter(|attempted| attempted.unwanted);
        match unwanted.find(|attempted| attempted.stays() && !attempted.found) {
            Some(attempted) => Err((GHOST, format!("nobody wants it, and it is {attempted}"))),
            None => Ok(()),
        }
    }

    /// The node was deleted together with something else.
    pub fn took(&mut self, node: &Znode) {
        if let Some(attempt) = self.instance.attempt(node.name()) {
            self.with(attempt, |attempted| (attempted.deleted, attempted.gone) = (true, true));
        }
    }

    /// Whether the node is there, in this session, and has this token.
    pub fn owns(&self, node: &Znode, czxid: Option<i64>) -> Result<(), Fault> {
        let attempt = self.instance.attempt(node.name());
        let Some(attempted) = attempt.and_then(|attempt| self.attempts.get(&attempt)) else {
            return Err((OWNED, format!("{} was not made in this session", node.name())));
        };
        let token = czxid.is_none() || attempted.czxid == czxid;
        match attempted.node.as_ref() == Some(node) && token && !attempted.is_given_up() {
            true => Ok(()),
            false => Err((OWNED, format!("{} with {czxid:?}, and it is {attempted}", node.name()))),
        }
    }

    /// The token of a node.
    pub fn token(&self, node: &Znode) -> Option<i64> {
        self.attempts.get(&self.instance.attempt(node.name())?)?.czxid
    }

    /// Whether the delete of this node was sent.
    pub fn is_deleted(&self, node: &Znode) -> bool {
        let attempt = self.instance.attempt(node.name());
        attempt.and_then(|attempt| self.attempts.get(&attempt)).is_some_and(|attempted| attempted.deleted)
    }

    /// A node of ours that is there, and that nothing is ahead of which a contender of this kind waits for.
    pub fn front(&self, waits_for: impl Fn(&str) -> bool) -> Option<&Znode> {
        let there = self.attempts.values().filter(|attempted| attempted.stays() && !attempted.found);
        there
            .filter_map(|attempted| attempted.node.as_ref())
            .find(|node| self.owns(node, None).and_then(|()| self.is_first(node, &waits_for)).is_ok())
    }

    /// Whether nothing that a contender of this kind waits for is ahead of its node.
    ///
    /// A node of ours counts as gone as soon as no request wants it, whatever the server still shows: only its request
    /// could hold by it. No other client is overtaken, because until the delete is carried out, the place of that node
    /// is ours.
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

    /// At the end of a keeper: `verified` says whether it could still reach the servers.
    pub fn finish(&self, verified: bool) -> Result<(), Fault> {
        let unknown = |attempted: &&Attempted| {
            matches!(attempted.outcome, Outcome::Sent | Outcome::Unknown | Outcome::Sought)
        };
        let mut attempts = self.attempts.values().filter(|_| !self.denied);
        match attempts.find(|attempted| attempted.stays() || (verified && unknown(attempted))) {
            Some(attempted) => Err((GHOST, format!("at the end it is {attempted}"))),
            None => Ok(()),
        }
    }

    fn create(&mut self, attempt: Attempt, ticket: Ticket) -> Result<(), Fault> {
        if let Some(first) = self.newest(ticket) {
            let settled = match first.outcome {
                Outcome::Never => true,
                Outcome::Made => first.deleted || first.gone,
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
            unwanted: false,
            deleted: false,
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
        attempted.is_some_and(|attempted| attempted.is_given_up() || attempted.found)
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

impl Attempted {
    /// It was made, and nothing was done to delete it.
    fn stays(&self) -> bool {
        self.outcome == Outcome::Made && !self.deleted && !self.gone
    }

    fn is_given_up(&self) -> bool {
        self.unwanted || self.deleted || self.gone
    }
}

impl fmt::Display for Attempted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attempted { outcome, node, czxid, deleted, gone, .. } = self;
        let name = node.as_ref().map(Znode::name);
        write!(f, "{outcome:?} as {name:?} with {czxid:?}, deleted: {deleted}, gone: {gone}")
    }
}

/// Whom a contender waits for, by its kind and its extra patterns.
pub(super) fn waits<'a>(kind: Kind, patterns: &'a Patterns) -> impl Fn(&str) -> bool + 'a {
    move |name| kind.waits_for(name) || patterns.matches(name)
}
