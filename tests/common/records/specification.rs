//! What one client's record must show, judged from its events and commands alone, without the machines.
//!
//! - `requests`: the answers to callers. `queue`: the nodes of one directory. `reads`: the reads of a semaphore's
//!   leases. `locks` and `permits` apply them to locks and semaphores. `leases`: sessions, multi-locks, candidates and
//!   runs. `gaps`: when the process was stopped.

use std::collections::BTreeMap;
use std::fmt;

use lockkeeper_actors::machine::Moment;
use lockkeeper_actors::record::{Exchange, Origin, Step};

use super::gaps::Gaps;
use super::leases::{CandidateJudge, MultiLockJudge, RunJudge, SessionJudge};
use super::locks::LockJudge;
use super::permits::SemaphoreJudge;
use super::requests::Tokens;

pub const OWNED: &str = "what is granted was made in this session, and has its token";
pub const TURN: &str = "everything ahead in a list that shows the node is gone, or a node of ours that is given up, before it is granted";
pub const SHARING: &str = "a node that is not a reader's serves one request at a time";
pub const DOUBT: &str = "no grant without a verified session";
pub const ANSWER: &str = "one answer to each request, and no lock for one that was cancelled";
pub const TOKENS: &str = "tokens grow on a path";
pub const TWICE: &str = "nothing is made again before it is known what became of the first";
pub const GONE: &str = "a request that is over for certain has left nothing behind";
pub const GHOST: &str = "no node outlasts all requests";
pub const MUTEX: &str = "leases are made under the mutex";
pub const LIMIT: &str = "leases are made where a read since the last of them has shown room";
pub const TOGETHER: &str = "the nodes of several locks are made together, in one session";
pub const ALL: &str = "several locks are granted when all are held, and none is suspended";
pub const PROOF: &str = "a lease lasts no longer than a session timeout from what proves the session";
pub const IDENTITY: &str = "a lease is held only over a connection of its session";
pub const FINAL: &str = "a lost session stays lost";
pub const LEADER: &str = "an actor runs under a granted lock, which is released when the actor has ended";
pub const ENDED: &str =
    "an actor that has not ended is killed when its lease ends, or as soon as its process runs again";

/// All of them.
pub const RULES: &[&str] = &[
    OWNED, TURN, SHARING, DOUBT, ANSWER, TOKENS, TWICE, GONE, GHOST, MUTEX, LIMIT, TOGETHER, ALL, PROOF,
    IDENTITY, FINAL, LEADER, ENDED,
];

/// A rule that does not hold, and what shows it.
pub type Fault = (&'static str, String);

/// Checks a record against [`RULES`]. A long record can be fed in parts.
#[derive(Default)]
pub struct Specification {
    judges: BTreeMap<u64, Judge>,
    /// By path, because the next machine of a path goes on where the last one ended.
    tokens: BTreeMap<String, Tokens>,
    gaps: Gaps,
    /// The newest session.
    session: Option<u64>,
}

/// The first step that the specification refuses.
#[derive(Clone, Debug)]
pub struct Broken {
    pub rule: &'static str,
    /// The number of the machine in the record.
    pub machine: u64,
    pub what: String,
    pub step: String,
}

impl Specification {
    /// Checks the next steps of a record. Steps of machines whose beginning is not in the record are left out.
    pub fn feed(&mut self, steps: &[Step]) -> Result<(), Broken> {
        for step in steps {
            self.gaps.step(step.at);
            self.judge(step).map_err(|(rule, what)| Broken {
                rule,
                machine: step.machine,
                what,
                step: step.to_string(),
            })?;
        }
        Ok(())
    }

    /// Checks what must hold at the end of a record whose keeper was closed.
    pub fn finish(&self) -> Result<(), Broken> {
        for (machine, judge) in &self.judges {
            let finished = match judge {
                Judge::Lock(_, judge) => judge.finish(),
                Judge::Semaphore(_, judge) => judge.finish(),
                Judge::MultiLock(judge) => judge.finish(),
                Judge::Session(_) | Judge::Candidate(_) | Judge::Run(..) => Ok(()),
            };
            finished.map_err(|(rule, what)| Broken {
                rule,
                machine: *machine,
                what,
                step: "the end".into(),
            })?;
        }
        Ok(())
    }
}

impl Specification {
    fn judge(&mut self, step: &Step) -> Result<(), Fault> {
        if let Exchange::Begun(origin) = &step.exchange {
            if matches!(origin, Origin::Session { .. }) {
                self.session = Some(step.machine);
            }
            self.judges.insert(step.machine, Judge::begin(origin, step.at, self.session)?);
            return Ok(());
        }
        let end = match self.judges.get(&step.machine) {
            Some(Judge::Run(Some(session), _)) => match self.judges.get(session) {
                Some(Judge::Session(session)) => Some(session.end()),
                _ => None,
            },
            _ => None,
        };
        let Some(judge) = self.judges.get_mut(&step.machine) else { return Ok(()) };
        let (tokens, at) = (&mut self.tokens, step.at);
        match (judge, &step.exchange) {
            (Judge::Lock(path, judge), Exchange::Lock(event, commands)) => {
                judge.step(event, commands, tokens.entry(path.clone()).or_default())
            }
            (Judge::Semaphore(path, judge), Exchange::Semaphore(event, commands)) => {
                judge.step(event, commands, tokens.entry(path.clone()).or_default())
            }
            (Judge::MultiLock(judge), Exchange::MultiLock(event, commands)) => judge.step(event, commands),
            (Judge::Session(judge), Exchange::Session(event, commands)) => judge.step(*event, commands, at),
            (Judge::Candidate(judge), Exchange::Candidate(event, commands)) => judge.step(event, commands),
            (Judge::Run(_, judge), Exchange::Run(until, event, commands)) => {
                judge.step(*until, end, event, commands, at, &self.gaps)
            }
            (_, _) => Err((ANSWER, "a step of another kind of machine".into())),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Broken { rule, machine, what, step } = self;
        write!(f, "not so: {rule}. Machine {machine}: {what}, at {step}")
    }
}

/// What is known of one machine; of a path's machine, with its path.
enum Judge {
    Lock(String, LockJudge),
    Semaphore(String, SemaphoreJudge),
    MultiLock(MultiLockJudge),
    Session(SessionJudge),
    Candidate(CandidateJudge),
    /// With the session that it began in.
    Run(Option<u64>, RunJudge),
}

impl Judge {
    fn begin(origin: &Origin, at: Moment, session: Option<u64>) -> Result<Judge, Fault> {
        Ok(match origin {
            Origin::Lock { path, instance } => Judge::Lock(path.to_string(), LockJudge::new(*instance)),
            Origin::Semaphore { path, instance } => {
                Judge::Semaphore(path.to_string(), SemaphoreJudge::new(*instance))
            }
            Origin::MultiLock { paths } => Judge::MultiLock(MultiLockJudge::new(paths.len())),
            Origin::Session { begun, timeout, tick, commands, .. } => {
                let mut judge = SessionJudge::new(*begun, *timeout, *tick);
                judge.commands(commands, at)?;
                Judge::Session(judge)
            }
            Origin::Candidate { .. } => Judge::Candidate(CandidateJudge::default()),
            Origin::Run { .. } => Judge::Run(session, RunJudge::default()),
        })
    }
}
