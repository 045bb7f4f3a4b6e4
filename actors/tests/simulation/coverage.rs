//! Counts which faults struck in which stages of a contender.
//!
//! A fault of a connection, a session or a process hits all requests of the process. One of a node, a directory or a
//! path's actor hits the requests on its path, and a cancel or a deadline hits one request. Only their stages count.

use std::fmt;

/// The stage of a contender, as its requests show it: the stages of the lock's machine, except for those of persistent
/// nodes, and two of the semaphore's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// A request waits for a session.
    Idle,
    Peeking,
    Creating,
    MakingDirectory,
    FindingCreated,
    ReadingStat,
    Listing,
    /// In the queue, with a watch on a foreign node.
    Waiting,
    Held,
    Deleting,
    /// A read of a semaphore's root or leases.
    ReadingPermits,
    /// The transaction that creates a semaphore's leases.
    Taking,
    /// A list of the contenders, with a watch, for a node that may linger.
    Following,
}

pub const STAGES: [Stage; 13] = [
    Stage::Idle,
    Stage::Peeking,
    Stage::Creating,
    Stage::MakingDirectory,
    Stage::FindingCreated,
    Stage::ReadingStat,
    Stage::Listing,
    Stage::Waiting,
    Stage::Held,
    Stage::Deleting,
    Stage::ReadingPermits,
    Stage::Taking,
    Stage::Following,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The connection breaks, and the requests in flight are not carried out.
    CutBefore,
    /// The connection breaks. The requests in flight are carried out, but not answered.
    CutAfter,
    /// The connection breaks, and some of the requests in flight are carried out.
    CutBetween,
    HalfOpen,
    RequestsStall,
    AnswersStall,
    SlowAnswers,
    /// All servers restart at once.
    Restart,
    /// The client's follower is cut off from the leader.
    CutOff,
    /// The client's follower applies the log late.
    Lag,
    /// The client's server is the leader, and is cut off from the others, which elect another one.
    Deposed,
    /// An operator ends the session.
    Expired,
    NodeDeleted,
    NodeWritten,
    DirectoryDeleted,
    Cancelled,
    Deadline,
    ListenerPanics,
    LockPanics,
    /// A lock's actor panics, and so does the cleanup after it.
    SweepPanics,
    SessionPanics,
    RegistryPanics,
    KeeperPanics,
    Paused,
    Killed,
}

pub const FAULTS: [Fault; 25] = [
    Fault::CutBefore,
    Fault::CutAfter,
    Fault::CutBetween,
    Fault::HalfOpen,
    Fault::RequestsStall,
    Fault::AnswersStall,
    Fault::SlowAnswers,
    Fault::Restart,
    Fault::CutOff,
    Fault::Lag,
    Fault::Deposed,
    Fault::Expired,
    Fault::NodeDeleted,
    Fault::NodeWritten,
    Fault::DirectoryDeleted,
    Fault::Cancelled,
    Fault::Deadline,
    Fault::ListenerPanics,
    Fault::LockPanics,
    Fault::SweepPanics,
    Fault::SessionPanics,
    Fault::RegistryPanics,
    Fault::KeeperPanics,
    Fault::Paused,
    Fault::Killed,
];

#[derive(Clone, Default)]
pub struct Coverage {
    counts: [[u64; STAGES.len()]; FAULTS.len()],
    /// How often each fault struck, in any stage.
    pub struck: [u64; FAULTS.len()],
}

impl Coverage {
    pub fn mark(&mut self, fault: Fault, stages: impl IntoIterator<Item = Stage>) {
        self.struck[fault as usize] += 1;
        stages.into_iter().for_each(|stage| self.counts[fault as usize][stage as usize] += 1);
    }

    pub fn add(&mut self, other: &Coverage) {
        for (row, others) in self.counts.iter_mut().zip(&other.counts) {
            row.iter_mut().zip(others).for_each(|(count, other)| *count += other);
        }
        self.struck.iter_mut().zip(&other.struck).for_each(|(count, other)| *count += other);
    }

    /// The pairs that are possible, but have not occurred.
    pub fn missing(&self) -> Vec<(Fault, Stage)> {
        let pairs = FAULTS.iter().flat_map(|fault| STAGES.iter().map(|stage| (*fault, *stage)));
        pairs
            .filter(|(fault, stage)| reachable(*fault, *stage))
            .filter(|(fault, stage)| self.counts[*fault as usize][*stage as usize] == 0)
            .collect()
    }
}

/// Whether a fault can strike in a stage. An idle contender has no session, so faults of a connection, a session or its
/// nodes cannot strike. It sends no requests, so neither can a panic while a request is sent.
fn reachable(fault: Fault, stage: Stage) -> bool {
    match fault {
        Fault::CutBefore
        | Fault::CutAfter
        | Fault::CutBetween
        | Fault::HalfOpen
        | Fault::RequestsStall
        | Fault::AnswersStall
        | Fault::SlowAnswers
        | Fault::CutOff
        | Fault::Lag
        | Fault::Deposed
        | Fault::Expired
        | Fault::NodeDeleted
        | Fault::NodeWritten
        | Fault::SessionPanics
        | Fault::RegistryPanics => stage != Stage::Idle,
        // Rare: an actor hardly sends anything while its take is on its way.
        Fault::LockPanics | Fault::SweepPanics => !matches!(stage, Stage::Idle | Stage::Taking),
        // A request that was granted is no longer cancelled, and has no deadline.
        Fault::Cancelled | Fault::Deadline => {
            !matches!(stage, Stage::Held | Stage::Deleting | Stage::Following)
        }
        Fault::Restart
        | Fault::DirectoryDeleted
        | Fault::ListenerPanics
        | Fault::KeeperPanics
        | Fault::Paused
        | Fault::Killed => true,
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:18}", "")?;
        for stage in STAGES {
            write!(f, "{:>11.10}", format!("{stage:?}"))?;
        }
        for fault in FAULTS {
            write!(f, "\n{:18}", format!("{fault:?}"))?;
            for stage in STAGES {
                match (reachable(fault, stage), self.counts[fault as usize][stage as usize]) {
                    (false, _) => write!(f, "{:>11}", "-")?,
                    (true, count) => write!(f, "{count:>11}")?,
                }
            }
        }
        Ok(())
    }
}
