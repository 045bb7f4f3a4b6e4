//! Watches from outside, sees all processes and the leader, and tells what was promised and not kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Weak};

use lockkeeper_actors::api::lease::LeaseState;
use lockkeeper_actors::machine::exclusion::Mode;

use crate::callers::{Guard, KINDS, LIMIT, SEMAPHORE, What};
use crate::ensemble::{Ensemble, SESSION_TIMEOUT, Time};

/// A promise that was not kept.
#[derive(Clone)]
pub struct Violation {
    pub checker: Checker,
    pub text: String,
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.checker, self.text)
    }
}

/// The promises, one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checker {
    /// Two conflicting guards that do not read `Lost` at the same moment.
    Exclusion,
    /// A grant inside the time for which an earlier, conflicting one was good.
    Validity,
    /// A token that is not larger than that of an earlier, conflicting grant.
    Tokens,
    /// A grant while somebody else's conflicting node stands ahead.
    Queue,
    /// A grant whose node, or session, is not there; or one that did not read `Held`.
    DeadGrant,
    /// A guard that is good, and its node is gone; or that still reads `Held` long after somebody deleted it.
    Backing,
    /// A request that is not answered exactly once, or after its last word, or not at once when cancelled.
    Answers,
    /// An answer after the deadline, or a grant.
    Deadline,
    /// A confirmed release whose node is still there.
    Release,
    /// Faults have stopped, and somebody still waits.
    Progress,
    /// All have gone, and a contender's node has not.
    Orphans,
    /// More watches than there are who wait; or all have gone, and a watch has not.
    Watches,
    /// All is closed, and a session is not.
    Sessions,
    /// All is closed, and a task, which may be an actor, is not; or a listener is kept.
    Tasks,
}

pub struct Witness {
    requests: BTreeMap<u64, Request>,
    grants: Vec<Grant>,
    /// Those that had not ended when they were looked at last.
    open: Vec<usize>,
    /// Requests that were not answered when they were looked at last.
    unanswered: BTreeSet<u64>,
    /// Grants that no check has seen yet.
    fresh: Vec<usize>,
    pub violations: Vec<Violation>,
    pub granted: u64,
    /// Grants whose lease ended before they were released.
    pub lost: u64,
    pub history: Option<Vec<String>>,
}

struct Request {
    process: usize,
    kind: usize,
    deadline: Option<Time>,
    cancelled: Option<Time>,
    answered: bool,
    /// Nothing may follow.
    over: bool,
    /// Its listener panicked, and was not called again.
    panicked: bool,
}

struct Grant {
    process: usize,
    path: &'static str,
    what: What,
    token: u64,
    /// More than one when it has several permits.
    nodes: Vec<String>,
    at: Time,
    /// Released, told to be lost, or its process killed.
    ended: Option<Time>,
    /// The furthest that the lease was ever good for.
    until: Time,
    /// As it was read last.
    state: LeaseState,
    guard: Weak<Guard>,
    /// Which of the guard's leases it is.
    part: usize,
}

/// What a listener heard, without the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Queued,
    Acquired,
    Suspended,
    Resumed,
    Lost,
    Released,
    TimedOut,
    Refused,
    /// The actor is gone, or the keeper.
    Failed,
}

/// How long a lease may read `Held` after its node was deleted by hand.
pub const NOTICED: Time = SESSION_TIMEOUT;

impl Witness {
    pub fn new(history: bool) -> Witness {
        Witness {
            requests: BTreeMap::new(),
            grants: Vec::new(),
            open: Vec::new(),
            unanswered: BTreeSet::new(),
            fresh: Vec::new(),
            violations: Vec::new(),
            granted: 0,
            lost: 0,
            history: history.then(Vec::new),
        }
    }

    pub fn note(&mut self, now: Time, process: usize, text: impl FnOnce() -> String) {
        if let Some(history) = &mut self.history {
            history.push(format!("{now:>7} process {process}: {}", text()));
        }
    }

    pub fn violated(&mut self, checker: Checker, text: String) {
        self.violations.push(Violation { checker, text });
    }

    // ---- what callers tell ----

    pub fn asked(&mut self, process: usize, kind: usize, deadline: Option<Time>) -> u64 {
        let key = self.requests.len() as u64;
        let request = Request {
            process,
            kind,
            deadline,
            cancelled: None,
            answered: false,
            over: false,
            panicked: false,
        };
        self.requests.insert(key, request);
        self.unanswered.insert(key);
        key
    }

    pub fn heard(&mut self, key: u64, word: Word, now: Time) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        let (process, before) = (request.process, (request.answered, request.over));
        match word {
            Word::Queued | Word::Suspended | Word::Resumed => {}
            Word::Acquired => request.answered = true,
            Word::Lost | Word::Released | Word::TimedOut | Word::Refused | Word::Failed => {
                (request.answered, request.over) = (true, true)
            }
        }
        let late = request.deadline.is_some_and(|deadline| now > deadline + 1) && word == Word::Acquired;
        let wrong = match word {
            Word::Queued | Word::Acquired | Word::TimedOut | Word::Refused => before.0,
            Word::Suspended | Word::Resumed | Word::Lost | Word::Released => !before.0,
            Word::Failed => false,
        };
        if wrong || before.1 {
            self.violated(
                Checker::Answers,
                format!("request {key} heard {word:?} at {now} after {before:?}"),
            );
        }
        if late {
            self.violated(
                Checker::Deadline,
                format!("request {key} was granted at {now}, after its deadline"),
            );
        }
        self.note(now, process, || format!("request {key} hears {word:?}"));
    }

    pub fn cancelled(&mut self, key: u64, now: Time) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.cancelled = Some(now);
        }
    }

    pub fn panicked(&mut self, key: u64) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.panicked = true;
        }
    }

    pub fn is_answered(&self, key: u64) -> bool {
        self.requests.get(&key).is_none_or(|request| request.answered || request.panicked)
    }

    /// The listener is gone: nothing more will be heard.
    pub fn dropped(&mut self, key: u64, now: Time) {
        let Some(request) = self.requests.remove(&key) else { return };
        if !request.answered && !request.panicked {
            self.violated(Checker::Answers, format!("request {key} was never answered; gone at {now}"));
        }
        // Kept as a mark that this key is used.
        self.requests.insert(key, Request { answered: true, over: true, cancelled: None, ..request });
    }

    /// One grant for each lease.
    pub fn granted(&mut self, process: usize, kind: usize, guard: &Arc<Guard>, now: Time) -> Vec<usize> {
        let rows = match KINDS[kind].what {
            What::Lock(_) | What::Permits(_) => vec![kind],
            What::All(rows) => rows.to_vec(),
        };
        self.granted += 1;
        rows.into_iter()
            .enumerate()
            .map(|(part, row)| self.granted_part(process, row, guard, part, now))
            .collect()
    }

    fn granted_part(
        &mut self,
        process: usize,
        kind: usize,
        guard: &Arc<Guard>,
        part: usize,
        now: Time,
    ) -> usize {
        let lease = &guard.leases()[part];
        let state = lease.state();
        let grant = Grant {
            process,
            path: KINDS[kind].path,
            what: KINDS[kind].what,
            token: lease.token().as_u64(),
            nodes: lease.nodes().to_vec(),
            at: now,
            ended: None,
            until: now,
            state,
            guard: Arc::downgrade(guard),
            part,
        };
        if state == LeaseState::Lost || state != LeaseState::Held && guard.leases().len() == 1 {
            let text = format!("{:?} was granted at {now}, and reads {state:?}", grant.nodes);
            self.violated(Checker::DeadGrant, text);
        }
        let (nodes, token) = (grant.nodes.clone(), grant.token);
        self.note(now, process, || format!("granted {nodes:?} with token {token}"));
        self.fresh.push(self.grants.len());
        self.open.push(self.grants.len());
        self.grants.push(grant);
        self.grants.len() - 1
    }

    pub fn ended(&mut self, grant: usize, now: Time) {
        let (process, nodes) = (self.grants[grant].process, self.grants[grant].nodes.clone());
        if self.grants[grant].ended.is_none() {
            self.grants[grant].ended = Some(now);
            self.note(now, process, || format!("lets go of {nodes:?}"));
        }
    }

    pub fn released(&mut self, node: &str, there: bool, now: Time) {
        if there {
            self.violated(
                Checker::Release,
                format!("{node} was confirmed to be released at {now}, and is there"),
            );
        }
    }

    /// The process is no more, and nobody in it holds or waits for anything.
    pub fn killed(&mut self, process: usize, now: Time) {
        for grant in self.grants.iter_mut().filter(|grant| grant.process == process) {
            grant.ended.get_or_insert(now);
        }
        for request in self.requests.values_mut().filter(|request| request.process == process) {
            (request.answered, request.over) = (true, true);
        }
    }

    pub fn holds(&self, process: usize) -> bool {
        self.live().any(|grant| grant.process == process)
    }

    fn live(&self) -> impl Iterator<Item = &Grant> {
        self.open.iter().map(|grant| &self.grants[*grant]).filter(|grant| grant.is_live())
    }

    pub fn listeners(&self) -> usize {
        self.requests.values().filter(|request| !request.over).count()
    }

    // ---- checks ----

    /// Reads the leases of a process, by its own clock.
    pub fn read(&mut self, process: usize, now: Time, to_time: impl Fn(std::time::Instant) -> Time) {
        let grants = &mut self.grants;
        self.open.retain(|grant| grants[*grant].ended.is_none());
        for grant in &self.open {
            let grant = &mut grants[*grant];
            if grant.process != process {
                continue;
            }
            let Some(guard) = grant.guard.upgrade() else { continue };
            let lease = &guard.leases()[grant.part];
            let state = lease.state();
            if grant.state != LeaseState::Lost && state == LeaseState::Lost {
                self.lost += 1;
                grant.ended = Some(now);
            }
            grant.state = state;
            if state != LeaseState::Lost {
                let until = lease.valid_until().map_or(Time::MAX, &to_time);
                grant.until = grant.until.max(until);
            }
        }
    }

    /// Whoever has been running must have been answered in time.
    pub fn check_answers(&mut self, process: usize, now: Time) {
        let mut wrong = Vec::new();
        let requests = &self.requests;
        self.unanswered.retain(|key| requests.get(key).is_some_and(|r| !r.answered && !r.panicked));
        for key in &self.unanswered {
            let Some(request) = requests.get(key).filter(|request| request.process == process) else {
                continue;
            };
            let due = |at: Option<Time>| at.is_some_and(|at| now > at + 1);
            if due(request.deadline) {
                wrong.push((Checker::Deadline, format!("request {key} is past its deadline at {now}")));
            }
            if due(request.cancelled) {
                wrong.push((Checker::Answers, format!("request {key} was cancelled, and waits at {now}")));
            }
        }
        wrong.into_iter().for_each(|(checker, text)| self.violated(checker, text));
    }

    /// A watch is for somebody who waits. Those who want permits have two together, until all is answered that
    /// was asked for them, which cannot be called back: they are `asking`.
    pub fn check_watches(&mut self, process: usize, watches: usize, asking: bool, now: Time) {
        let waiting = self.unanswered.iter().filter_map(|key| self.requests.get(key));
        let waiting = waiting.filter(|request| request.process == process && !request.answered);
        let (mut locks, mut permits) = (0, 0);
        for request in waiting {
            match KINDS[request.kind].what {
                What::Lock(_) => locks += 1,
                What::All(rows) => locks += rows.len(),
                What::Permits(_) => permits = 2,
            }
        }
        let due = locks + if asking { 2 } else { permits };
        if watches > due {
            let text = format!("at {now} process {process} has {watches} watches, and use for {due}");
            self.violated(Checker::Watches, text);
        }
    }

    /// After every process has run up to `now`, or stands still.
    pub fn settle(&mut self, now: Time, ensemble: &Ensemble, running: impl Fn(usize) -> bool) {
        let mut wrong = Vec::new();
        self.fresh.sort_by_key(|grant| self.grants[*grant].at);
        for index in std::mem::take(&mut self.fresh) {
            let grant = &self.grants[index];
            if grant.is_tampered(ensemble) {
                continue;
            }
            for node in &grant.nodes {
                let gone = ensemble.gone.get(node).is_none_or(|gone| gone.at <= grant.at);
                if gone && !ensemble.nodes.contains_key(node) {
                    let text = format!("{node} was granted at {}, and is not there", grant.at);
                    wrong.push((Checker::DeadGrant, text));
                }
            }
            match grant.what {
                What::Lock(mode) => self.check_lock(grant, mode, ensemble, &mut wrong),
                What::Permits(count) => self.check_permits(index, count, ensemble, &mut wrong),
                What::All(_) => unreachable!("every part is granted by itself"),
            }
        }
        let live: Vec<&Grant> = self.live().filter(|grant| running(grant.process)).collect();
        for grant in &live {
            for (node, gone) in grant.nodes.iter().filter_map(|node| Some((node, ensemble.gone.get(node)?))) {
                let noticed = if gone.tampered { gone.at + NOTICED } else { gone.at };
                let tampered = grant.is_tampered(ensemble);
                if now > noticed && grant.state == LeaseState::Held || !tampered {
                    let text =
                        format!("{node} reads {:?} at {now}, and is gone since {}", grant.state, gone.at);
                    wrong.push((Checker::Backing, text));
                }
            }
        }
        let live: Vec<&Grant> = live.into_iter().filter(|grant| !grant.is_tampered(ensemble)).collect();
        for (index, one) in live.iter().enumerate() {
            for other in live[index + 1..].iter().filter(|other| one.conflicts(other)) {
                let text = format!(
                    "at {now} {:?} reads {:?} and {:?} {:?}",
                    one.nodes, one.state, other.nodes, other.state
                );
                wrong.push((Checker::Exclusion, text));
            }
        }
        let held: u32 = live.iter().map(|grant| grant.permits()).sum();
        if held > LIMIT {
            wrong.push((Checker::Exclusion, format!("at {now} {held} permits are held")));
        }
        let leases = ensemble.nodes.keys().filter(|path| parent(path) == Some(SEMAPHORE)).count();
        if leases > LIMIT as usize {
            wrong.push((Checker::Exclusion, format!("at {now} there are {leases} leases")));
        }
        wrong.into_iter().for_each(|(checker, text)| self.violated(checker, text));
    }

    /// A lock's grant against all earlier ones that conflict, and against the queue.
    fn check_lock(&self, grant: &Grant, mode: Mode, ensemble: &Ensemble, wrong: &mut Vec<(Checker, String)>) {
        let own = grant.nodes.first().and_then(|node| ensemble.nodes.get(node));
        let ahead = ensemble.nodes.iter().find(|(path, other)| {
            parent(path) == Some(grant.path)
                && own.is_some_and(|own| other.sequence < own.sequence && other.owner != own.owner)
                && (!path.contains("__rlock__") || mode != Mode::Read)
        });
        if let Some((path, _)) = ahead {
            let text = format!("{:?} was granted at {} behind {path}", grant.nodes, grant.at);
            wrong.push((Checker::Queue, text));
        }
        for earlier in self.grants.iter().filter(|earlier| earlier.conflicts(grant)) {
            let before = (earlier.at, earlier.token) < (grant.at, grant.token) || earlier.at < grant.at;
            if earlier.is_tampered(ensemble) || !before {
                continue;
            }
            if earlier.token >= grant.token {
                let text = format!("{:?} has no larger token than {:?}", grant.nodes, earlier.nodes);
                wrong.push((Checker::Tokens, text));
            }
            if earlier.is_good(grant.at) {
                let text = format!(
                    "{:?} was granted at {}, {:?} is good until {}",
                    grant.nodes, grant.at, earlier.nodes, earlier.until
                );
                wrong.push((Checker::Validity, text));
            }
        }
    }

    /// Permits against all earlier ones. Whoever took its leases later, as the leader has it, has no smaller token;
    /// it may hear of them earlier.
    fn check_permits(
        &self,
        index: usize,
        count: u32,
        ensemble: &Ensemble,
        wrong: &mut Vec<(Checker, String)>,
    ) {
        let grant = &self.grants[index];
        let others = || self.grants.iter().enumerate().filter(|(_, other)| other.path == grant.path);
        let good = |(other, earlier): (usize, &Grant)| {
            let before = (earlier.at, other) < (grant.at, index);
            let counts = before && earlier.is_good(grant.at) && !earlier.is_tampered(ensemble);
            if counts { earlier.permits() } else { 0 }
        };
        let held: u32 = others().map(good).sum();
        if held + count > LIMIT {
            let text = format!("{:?} was granted at {} beside {held} permits", grant.nodes, grant.at);
            wrong.push((Checker::Validity, text));
        }
        for (_, other) in others() {
            let turns = other.made(ensemble).cmp(&grant.made(ensemble));
            if turns.is_lt() && other.token > grant.token || turns.is_gt() && other.token < grant.token {
                let text = format!("the tokens of {:?} and {:?} are not in order", grant.nodes, other.nodes);
                wrong.push((Checker::Tokens, text));
            }
        }
    }
}

impl Grant {
    fn is_live(&self) -> bool {
        self.ended.is_none() && self.state != LeaseState::Lost
    }

    /// Whether its holder could believe in it at that time.
    fn is_good(&self, at: Time) -> bool {
        self.ended.is_none_or(|ended| ended > at) && self.until > at
    }

    fn is_tampered(&self, ensemble: &Ensemble) -> bool {
        self.nodes.iter().any(|node| ensemble.gone.get(node).is_some_and(|gone| gone.tampered))
    }

    /// The transaction that made its nodes.
    fn made(&self, ensemble: &Ensemble) -> Option<i64> {
        let node = self.nodes.first()?;
        let there = ensemble.nodes.get(node).map(|node| node.made);
        there.or_else(|| ensemble.gone.get(node).map(|gone| gone.made))
    }

    fn permits(&self) -> u32 {
        match self.what {
            What::Permits(count) => count,
            What::Lock(_) | What::All(_) => 0,
        }
    }

    /// Locks that share a path conflict unless both only read.
    fn conflicts(&self, other: &Grant) -> bool {
        let reads = |grant: &Grant| grant.what == What::Lock(Mode::Read);
        let locks = self.permits() + other.permits() == 0;
        locks && self.path == other.path && self.nodes != other.nodes && !(reads(self) && reads(other))
    }
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}
