//! Which fault met which stage of a contender.

use std::fmt;

/// What a contender has under way, as the seam shows it: the stages of the queue's machine, but for that of nodes
/// which outlive sessions, and those of the semaphore's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Wanted, and no session to ask.
    Idle,
    Peeking,
    Entering,
    MakingDirectory,
    Looking,
    Inspecting,
    Listing,
    /// In the queue, with a watch on a stranger's node.
    Waiting,
    Held,
    Leaving,
    /// Looks at a semaphore.
    Surveying,
    /// A transaction with a semaphore's leases.
    Taking,
}

pub const STAGES: [Stage; 12] = [
    Stage::Idle,
    Stage::Peeking,
    Stage::Entering,
    Stage::MakingDirectory,
    Stage::Looking,
    Stage::Inspecting,
    Stage::Listing,
    Stage::Waiting,
    Stage::Held,
    Stage::Leaving,
    Stage::Surveying,
    Stage::Taking,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The connection breaks, and the requests under way are not carried out.
    CutBefore,
    /// The connection breaks; they are carried out, and not answered.
    CutAfter,
    /// The connection breaks; some of them are carried out.
    CutBetween,
    HalfOpen,
    RequestsStall,
    AnswersStall,
    SlowAnswers,
    /// All servers at once.
    Restart,
    /// The client's follower loses its leader.
    CutOff,
    /// The client's follower learns late.
    Lag,
    /// An operator ends the session.
    Expired,
    NodeDeleted,
    NodeWritten,
    DirectoryDeleted,
    Cancelled,
    Deadline,
    ListenerPanics,
    LockPanics,
    /// So does whoever cleans up after that.
    SweepPanics,
    SessionPanics,
    RegistryPanics,
    KeeperPanics,
    Paused,
    Killed,
}

pub const FAULTS: [Fault; 24] = [
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
    /// How often each fault struck, in whatever stage.
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

    /// The pairs that can meet, and did not.
    pub fn missing(&self) -> Vec<(Fault, Stage)> {
        let pairs = FAULTS.iter().flat_map(|fault| STAGES.iter().map(|stage| (*fault, *stage)));
        pairs
            .filter(|(fault, stage)| reachable(*fault, *stage))
            .filter(|(fault, stage)| self.counts[*fault as usize][*stage as usize] == 0)
            .collect()
    }
}

/// Whoever is idle has no session, so what strikes a connection, a session or its nodes cannot meet it; nor can a
/// panic while a request is sent, which an idle contender's actor does not do.
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
        | Fault::Expired
        | Fault::NodeDeleted
        | Fault::NodeWritten
        | Fault::LockPanics
        | Fault::SweepPanics
        | Fault::SessionPanics
        | Fault::RegistryPanics => stage != Stage::Idle,
        Fault::Restart
        | Fault::DirectoryDeleted
        | Fault::Cancelled
        | Fault::Deadline
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
