//! What the specification says about the machine of one lock path.

use std::collections::{BTreeMap, BTreeSet};

use lockkeeper_actors::machine::exclusion::Mode;
use lockkeeper_actors::machine::linger::{Command, Event};
use lockkeeper_actors::machine::lock::{self, Request};
use lockkeeper_actors::machine::node::{Instance, Znode};
use lockkeeper_actors::machine::{PathEvent, Refusal, Reply, Ticket};

use super::queue::{Queue, waits};
use super::requests::{Kind, Requests, Tokens, ticket};
use super::specification::{Fault, SHARING, TURN};

pub(super) struct LockJudge {
    queue: Queue,
    requests: Requests,
    /// What each request asks for, and whether it shares a node with others.
    asked: BTreeMap<Ticket, (Request, bool)>,
    holders: BTreeMap<Znode, BTreeSet<Ticket>>,
    /// A request's node outlives sessions. Only answers are judged then.
    outliving: bool,
}

impl LockJudge {
    pub fn new(instance: Instance) -> LockJudge {
        LockJudge {
            queue: Queue::new(instance),
            requests: Requests::default(),
            asked: BTreeMap::new(),
            holders: BTreeMap::new(),
            outliving: false,
        }
    }

    pub fn step(&mut self, event: &Event, commands: &[Command], tokens: &mut Tokens) -> Result<(), Fault> {
        match event {
            Event::Share { ticket, request } => self.ask(*ticket, &request.request, true)?,
            Event::LetGo(ticket) => {
                // It is answered like a request that is over.
                self.requests.ask(*ticket)?;
                self.requests.reply(&Reply::Refused(*ticket, Refusal::Closed))?;
            }
            Event::Queue(lock::Event::Acquire { ticket, request }) => self.ask(*ticket, request, false)?,
            Event::Queue(event) => {
                if let lock::Event::Path(event) = event {
                    self.requests.path_event(event);
                    if let PathEvent::Release(ticket) = event {
                        self.released(*ticket);
                    }
                }
                self.queue.event(event);
            }
            Event::Retire | Event::Followed(..) | Event::ChildrenChanged(_) => {}
        }
        let (settling, others): (Vec<_>, Vec<_>) =
            commands.iter().filter_map(of_queue).partition(|command| Queue::settles(command));
        settling.into_iter().try_for_each(|command| self.queue.command(command))?;
        others.into_iter().try_for_each(|command| self.command(command, tokens))?;
        if self.outliving {
            return Ok(());
        }
        self.keeps_what_is_held()?;
        self.queue.has_left_nothing()
    }

    pub fn finish(&self) -> Result<(), Fault> {
        if self.outliving {
            return Ok(());
        }
        self.queue.finish(self.requests.are_verified())?;
        self.requests.finish()
    }

    fn ask(&mut self, ticket: Ticket, request: &Request, shares: bool) -> Result<(), Fault> {
        self.outliving |= !request.ephemeral;
        self.asked.insert(ticket, (request.clone(), shares));
        self.requests.ask(ticket)
    }

    fn command(&mut self, command: &lock::Command, tokens: &mut Tokens) -> Result<(), Fault> {
        match command {
            lock::Command::Grant { ticket, node, czxid } => self.grant(*ticket, node, *czxid, tokens),
            lock::Command::Reply(reply) => self.reply(reply),
            command if !self.outliving => self.queue.command(command),
            _ => Ok(()),
        }
    }

    fn grant(&mut self, ticket: Ticket, node: &Znode, czxid: i64, tokens: &mut Tokens) -> Result<(), Fault> {
        self.requests.grant(ticket)?;
        let Some((request, _)) = self.asked.get(&ticket).filter(|_| !self.outliving) else { return Ok(()) };
        let kind = Kind(request.dialect, request.mode);
        self.keeps_what_is_held()?;
        self.queue.owns(node, Some(czxid))?;
        self.queue.is_first(node, waits(kind, &request.patterns))?;
        let holders = self.holders.entry(node.clone()).or_default();
        if let Some(other) = holders.first().filter(|_| request.mode != Mode::Read) {
            return Err((SHARING, format!("{ticket:?} gets the node of {other:?}")));
        }
        holders.insert(ticket);
        tokens.grant(kind, czxid, node.name())
    }

    fn reply(&mut self, reply: &Reply) -> Result<(), Fault> {
        self.requests.reply(reply)?;
        let ticket = ticket(reply);
        let shares = self.asked.get(&ticket).is_some_and(|(_, shares)| *shares);
        match reply {
            Reply::Refused(..) | Reply::Lost(_) => {
                self.gives_back(ticket);
                if !shares {
                    self.queue.leave(ticket);
                }
            }
            Reply::Forgotten { confirmed, .. } => {
                self.gives_back(ticket);
                if *confirmed && !shares && !self.outliving {
                    self.queue.is_gone(ticket)?;
                }
                self.asked.remove(&ticket);
            }
            Reply::Queued(..) | Reply::Suspended(_) | Reply::Resumed(_) => {}
        }
        Ok(())
    }

    /// A node that is given up counts as gone, so no request may hold by it any more.
    fn keeps_what_is_held(&self) -> Result<(), Fault> {
        match self.holders.iter().find(|(node, _)| self.queue.is_deleted(node)) {
            Some((node, holders)) => Err((TURN, format!("{} is deleted, and {holders:?} hold", node.name()))),
            None => Ok(()),
        }
    }

    /// The request of a holder that releases wants its node no more, unless others share it.
    fn released(&mut self, ticket: Ticket) {
        self.gives_back(ticket);
        let shares = self.asked.get(&ticket).is_none_or(|(_, shares)| *shares);
        if self.requests.has_released(ticket) && !shares {
            self.queue.leave(ticket);
        }
    }

    fn gives_back(&mut self, ticket: Ticket) {
        self.holders.retain(|_, holders| {
            holders.remove(&ticket);
            !holders.is_empty()
        });
    }
}

fn of_queue(command: &Command) -> Option<&lock::Command> {
    match command {
        Command::Queue(command) => Some(command),
        Command::Follow(_) | Command::Unfollow(_) => None,
    }
}
