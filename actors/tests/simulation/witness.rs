//! Observes all processes and the leader from outside, and reports broken promises.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Weak};

use lockkeeper_actors::api::lease::LeaseState;
use lockkeeper_actors::machine::exclusion::Mode;

use crate::callers::{Guard, KINDS, LIMIT, LINGERING, SEMAPHORE, What};
use crate::ensemble::{Ensemble, SESSION_TIMEOUT, Time, actor_of};

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

/// The checkers. Each describes what it reports as a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checker {
    /// Two conflicting guards are not `Lost` at the same moment.
    Exclusion,
    /// A grant came while an earlier, conflicting lease was still valid.
    Validity,
    /// A token is not larger than that of an earlier, conflicting grant.
    Tokens,
    /// A grant came while a conflicting node of another session was ahead, or one of another actor that outlives
    /// sessions.
    Queue,
    /// The node or session of a grant did not exist, or the lease was not `Held`.
    DeadGrant,
    /// A lease is valid but its node is gone, or a lease is still `Held` long after its node was deleted by hand.
    Backing,
    /// A request was not answered exactly once, got an event after its last one, or was not answered at once when it
    /// was cancelled.
    Answers,
    /// An answer or a grant came after the deadline.
    Deadline,
    /// The node of a confirmed release still exists.
    Release,
    /// A caller still waits long after the last fault.
    Progress,
    /// A contender's node is left after all callers have finished.
    Orphans,
    /// There are more watches than waiters, or a watch is left after all callers have finished.
    Watches,
    /// A session is left after everything was closed.
    Sessions,
    /// A task or a listener is left after everything was closed.
    Tasks,
}

pub struct Witness {
    requests: BTreeMap<u64, Request>,
    grants: Vec<Grant>,
    /// Grants that had not ended at the last check.
    open: Vec<usize>,
    /// Requests that were not answered at the last check.
    unanswered: BTreeSet<u64>,
    /// Grants that have not been checked yet.
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
    /// The last event was received.
    over: bool,
    /// Its listener has panicked, so it is not called again.
    panicked: bool,
}

struct Grant {
    process: usize,
    path: &'static str,
    what: What,
    token: u64,
    /// One for each permit.
    nodes: Vec<String>,
    /// The session in which it was granted.
    session: Option<i64>,
    at: Time,
    /// When it was released or lost, or its process was killed.
    ended: Option<Time>,
    /// The latest end that the lease ever had.
    until: Time,
    /// The state at the last read.
    state: LeaseState,
    guard: Weak<Guard>,
    /// The index of its lease in the guard.
    part: usize,
}

/// An event that a listener received, without the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    Queued,
    Acquired,
    Suspended,
    Resumed,
    Lost,
    Released,
    TimedOut,
    Refused,
    /// The actor or the keeper has ended.
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

    // ---- reports of callers ----

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

    pub fn received(&mut self, key: u64, received: Received, now: Time) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        let (process, before) = (request.process, (request.answered, request.over));
        match received {
            Received::Queued | Received::Suspended | Received::Resumed => {}
            Received::Acquired => request.answered = true,
            Received::Lost
            | Received::Released
            | Received::TimedOut
            | Received::Refused
            | Received::Failed => (request.answered, request.over) = (true, true),
        }
        let late =
            request.deadline.is_some_and(|deadline| now > deadline + 1) && received == Received::Acquired;
        let wrong = match received {
            Received::Queued | Received::Acquired | Received::TimedOut | Received::Refused => before.0,
            Received::Suspended | Received::Resumed | Received::Lost | Received::Released => !before.0,
            Received::Failed => false,
        };
        if wrong || before.1 {
            self.violated(
                Checker::Answers,
                format!("request {key} received {received:?} at {now} after {before:?}"),
            );
        }
        if late {
            self.violated(
                Checker::Deadline,
                format!("request {key} was granted at {now}, after its deadline"),
            );
        }
        self.note(now, process, || format!("request {key} receives {received:?}"));
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

    /// The listener was dropped, so it receives no more events.
    pub fn dropped(&mut self, key: u64, now: Time) {
        let Some(request) = self.requests.remove(&key) else { return };
        if !request.answered && !request.panicked {
            self.violated(
                Checker::Answers,
                format!("request {key} was not answered before its listener was dropped at {now}"),
            );
        }
        // Kept, because the number of requests is the next key.
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
            session: lease.keep_session().map(|client| client.session()),
            at: now,
            ended: None,
            until: now,
            state,
            guard: Arc::downgrade(guard),
            part,
        };
        if state == LeaseState::Lost || state != LeaseState::Held && guard.leases().len() == 1 {
            let text = format!("{:?} was granted at {now}, but is {state:?}", grant.nodes);
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
            self.note(now, process, || format!("releases {nodes:?}"));
        }
    }

    pub fn released(&mut self, node: &str, there: bool, now: Time) {
        if there {
            self.violated(
                Checker::Release,
                format!("the release of {node} was confirmed at {now}, but the node exists"),
            );
        }
    }

    /// The process was killed: its grants have ended, and its requests are over.
    pub fn killed(&mut self, process: usize, now: Time) {
        for grant in self.grants.iter_mut().filter(|grant| grant.process == process) {
            grant.ended.get_or_insert(now);
        }
        for request in self.requests.values_mut().filter(|request| request.process == process) {
            (request.answered, request.over) = (true, true);
        }
    }

    /// Whether a process holds something on these paths; on any path without them.
    pub fn holds(&self, process: usize, paths: Option<&[&str]>) -> bool {
        let is_here = |grant: &Grant| paths.is_none_or(|paths| paths.contains(&grant.path));
        self.live().any(|grant| grant.process == process && is_here(grant))
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

    /// Checks that the requests of a process that has run were answered in time.
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
                wrong.push((
                    Checker::Deadline,
                    format!("request {key} still waits after its deadline at {now}"),
                ));
            }
            if due(request.cancelled) {
                wrong.push((
                    Checker::Answers,
                    format!("request {key} was cancelled, but still waits at {now}"),
                ));
            }
        }
        wrong.into_iter().for_each(|(checker, text)| self.violated(checker, text));
    }

    /// Checks that there are not more watches than waiters and nodes that linger. All waiters for permits share two
    /// watches. They may exist without waiters while a request of the semaphore's turn is in flight (`asking`), because it cannot be cancelled.
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
        let due = locks + LINGERING.len() + if asking { 2 } else { permits };
        if watches > due {
            let text = format!("at {now} process {process} has {watches} watches, but needs only {due}");
            self.violated(Checker::Watches, text);
        }
    }

    /// Checks all grants, after every process has run up to `now` or is paused.
    pub fn check(&mut self, now: Time, ensemble: &Ensemble, running: impl Fn(usize) -> bool) {
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
                    let text = format!("{node} was granted at {}, but does not exist", grant.at);
                    wrong.push((Checker::DeadGrant, text));
                }
            }
            match grant.what {
                What::Lock(mode) => self.check_lock(grant, mode, ensemble, &mut wrong),
                What::Permits(count) => self.check_permits(index, count, ensemble, &mut wrong),
                What::All(_) => unreachable!("every part has its own grant"),
            }
        }
        let live: Vec<&Grant> = self.live().filter(|grant| running(grant.process)).collect();
        for grant in &live {
            for (node, gone) in grant.nodes.iter().filter_map(|node| Some((node, ensemble.gone.get(node)?))) {
                let noticed = if gone.tampered { gone.at + NOTICED } else { gone.at };
                let tampered = grant.is_tampered(ensemble);
                if now > noticed && grant.state == LeaseState::Held || !tampered {
                    let text =
                        format!("{node} is {:?} at {now}, but was deleted at {}", grant.state, gone.at);
                    wrong.push((Checker::Backing, text));
                }
            }
        }
        let live: Vec<&Grant> = live.into_iter().filter(|grant| !grant.is_tampered(ensemble)).collect();
        for (index, one) in live.iter().enumerate() {
            for other in live[index + 1..].iter().filter(|other| one.conflicts(other)) {
                let text = format!(
                    "at {now} {:?} is {:?} and {:?} is {:?}",
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

    /// Checks a lock's grant against all earlier conflicting grants, and against the queue.
    fn check_lock(&self, grant: &Grant, mode: Mode, ensemble: &Ensemble, wrong: &mut Vec<(Checker, String)>) {
        let own = grant.nodes.first().and_then(|node| Some((node, ensemble.nodes.get(node)?)));
        let is_read = |path: &str| path.contains("__rlock__") || path.contains("__READ__");
        let ahead = ensemble.nodes.iter().find(|(path, other)| {
            parent(path) == Some(grant.path)
                && own.is_some_and(|(node, own)| {
                    // The actor that was granted this may have given up the other node, which will be deleted.
                    let may_be_passed = match other.owner {
                        0 => actor_of(path) == actor_of(node),
                        owner => owner == own.owner || Some(owner) == grant.session,
                    };
                    other.sequence < own.sequence && !may_be_passed
                })
                && (!is_read(path) || mode != Mode::Read)
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
            // The grants of a node that lingers share its token.
            if earlier.token >= grant.token && earlier.nodes != grant.nodes {
                let text =
                    format!("the token of {:?} is not larger than that of {:?}", grant.nodes, earlier.nodes);
                wrong.push((Checker::Tokens, text));
            }
            if earlier.is_good(grant.at) {
                let text = format!(
                    "{:?} was granted at {}, but {:?} is valid until {}",
                    grant.nodes, grant.at, earlier.nodes, earlier.until
                );
                wrong.push((Checker::Validity, text));
            }
        }
    }

    /// Checks permits against all other grants of the semaphore. Leases that were created later must not have a smaller
    /// token. Their grants may arrive in another order.
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

    /// Whether its lease was valid at that time.
    fn is_good(&self, at: Time) -> bool {
        self.ended.is_none_or(|ended| ended > at) && self.until > at
    }

    fn is_tampered(&self, ensemble: &Ensemble) -> bool {
        self.nodes.iter().any(|node| ensemble.gone.get(node).is_some_and(|gone| gone.tampered))
    }

    /// The transaction that created its nodes.
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

    /// Locks on the same path conflict, unless both are read locks.
    fn conflicts(&self, other: &Grant) -> bool {
        let reads = |grant: &Grant| grant.what == What::Lock(Mode::Read);
        let locks = self.permits() + other.permits() == 0;
        locks && self.path == other.path && !(reads(self) && reads(other))
    }
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}
