//! One session, and what is on its way in it.

use std::collections::{BTreeSet, VecDeque};

use lockkeeper_actors::machine::{Failure, LeaseState};

use super::Data;

/// What one kind of machine sends to its server.
pub trait Wire: Data {
    /// Which command a call carries out.
    type Purpose: Data;
    type Ask: Data;
    type Answer: Data + From<No>;
    type Name: Data + Ord;
    /// What a session's client knows of its watches.
    type Watches: Data + Default;

    fn writes(ask: &Self::Ask) -> bool;
    fn text(name: &Self::Name) -> String;
    /// The actor has let go of the session.
    fn let_go(watches: &mut Self::Watches);
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session<W: Wire> {
    pub process: usize,
    /// It is ahead of the news.
    pub lease: LeaseState,
    pub connected: bool,
    /// The server has ended it.
    pub expired: bool,
    /// Oldest first, until the actor has their answers.
    pub calls: VecDeque<Call<W>>,
    /// Writes whose answers are lost. They may still be carried out.
    pub unheard: VecDeque<W::Ask>,
    /// Own nodes that heartbeats check.
    pub tracked: BTreeSet<W::Name>,
    pub watches: W::Watches,
}

/// The requests of one command, sent together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call<W: Wire> {
    pub purpose: W::Purpose,
    pub asks: Vec<W::Ask>,
    /// To the first of them.
    pub answers: Vec<W::Answer>,
    /// Which state the server that answered had, as a place in the past; one an answer.
    pub shown: Vec<usize>,
}

/// Why a request did not succeed, whatever it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum No {
    Missing,
    /// A definite no, which passes.
    Refused,
    /// The access list does not allow it at the moment.
    Forbidden,
    /// The connection went first.
    Cut,
    SessionGone,
}

impl No {
    pub fn failure(self) -> Failure {
        match self {
            No::Missing => Failure::NoNode,
            No::Refused => Failure::Refused("".into()),
            No::Forbidden => Failure::NoAuth,
            No::Cut => Failure::Unknown("".into()),
            No::SessionGone => Failure::SessionGone,
        }
    }
}

impl<W: Wire> Session<W> {
    pub fn new(process: usize) -> Session<W> {
        Session {
            process,
            lease: LeaseState::Held,
            connected: true,
            expired: false,
            calls: VecDeque::new(),
            unheard: VecDeque::new(),
            tracked: BTreeSet::new(),
            watches: W::Watches::default(),
        }
    }

    pub fn submit(&mut self, purpose: W::Purpose, asks: Vec<W::Ask>) {
        self.calls.push_back(Call { purpose, asks, answers: Vec::new(), shown: Vec::new() });
    }

    /// The call of the oldest request that has no answer yet.
    pub fn unserved(&self) -> Option<&Call<W>> {
        self.calls.iter().find(|call| call.next().is_some())
    }

    /// That request.
    pub fn next(&self) -> Option<&W::Ask> {
        self.unserved().and_then(Call::next)
    }

    pub fn answer(&mut self, answer: W::Answer, place: usize) {
        if let Some(call) = self.calls.iter_mut().find(|call| call.next().is_some()) {
            call.answers.push(answer);
            call.shown.push(place);
        }
    }

    /// Whether the oldest call is.
    pub fn is_answered(&self) -> bool {
        self.calls.front().is_some_and(|call| call.next().is_none())
    }

    /// How many answers are on their way.
    pub fn answers(&self) -> usize {
        self.calls.iter().map(|call| call.answers.len()).sum()
    }

    /// How many requests are on their way to the server.
    pub fn requests(&self) -> usize {
        self.calls.iter().map(|call| call.asks.len() - call.answers.len()).sum()
    }

    /// All but the first `kept` answers are lost with the connection, and what was not carried out yet may still be;
    /// but the last `unsent` requests are sent over the next connection. Tells the newest state that those answers
    /// which came have shown.
    pub fn cut(&mut self, mut kept: usize, unsent: usize) -> Option<usize> {
        self.connected = false;
        let shown = self.calls.iter().flat_map(|call| call.shown.iter().copied()).take(kept).max();
        let mut sent = self.answers() + self.requests() - unsent;
        for call in &mut self.calls {
            let here = sent.min(call.asks.len());
            sent -= here;
            let lost = call.asks[call.answers.len()..here].iter().filter(|ask| W::writes(ask));
            self.unheard.extend(lost.cloned());
            let keep = kept.min(call.answers.len());
            kept -= keep;
            call.answers.truncate(keep);
            call.answers.resize(here, No::Cut.into());
            call.shown.truncate(keep);
            call.shown.resize(here, 0);
        }
        shown
    }

    /// Its actor has let go of it.
    pub fn abandon(&mut self) {
        if self.connected {
            let unserved = self.calls.iter().flat_map(|call| call.asks[call.answers.len()..].iter());
            self.unheard.extend(unserved.filter(|ask| W::writes(ask)).cloned());
        }
        self.connected = false;
        self.calls.clear();
        self.tracked.clear();
        W::let_go(&mut self.watches);
    }
}

impl<W: Wire> Call<W> {
    fn next(&self) -> Option<&W::Ask> {
        self.asks.get(self.answers.len())
    }
}
