//! The record of a run: what goes into the machines and what comes out of them, as data. It is for reports of bugs, and
//! for replaying a run.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::machine::candidate::{self, Candidate};
use crate::machine::linger::{self, LingeringLock};
use crate::machine::multi_lock::{self, MultiLock};
use crate::machine::node::Instance;
use crate::machine::run::{self, Limits, Run};
use crate::machine::semaphore::{self, Semaphore};
use crate::machine::session::{self, Session};
use crate::machine::{Machine, Moment};

/// A record of what a keeper decides, and why: the newest steps of its state machines, as many as fit. Its text has one
/// line for each step, for a report of a bug. Cheap to clone; all clones share the record.
///
/// The text has the paths of locks, the names of their nodes, and the numbers of permits. It has no credentials and no
/// identifiers. Its form may change in any release.
#[derive(Clone)]
pub struct Recording(Arc<Mutex<Ring>>);

struct Ring {
    /// In bytes of text.
    capacity: usize,
    used: usize,
    /// Each step, with the length of its text.
    steps: VecDeque<(Step, usize)>,
    dropped: u64,
    machines: u64,
}

impl Recording {
    /// A record of at most this many bytes of text. What it takes in memory is of that order. When it is full, the
    /// oldest steps are dropped.
    pub fn new(capacity: usize) -> Recording {
        let ring = Ring { capacity, used: 0, steps: VecDeque::new(), dropped: 0, machines: 0 };
        Recording(Arc::new(Mutex::new(ring)))
    }

    /// The number of steps that were dropped because the record was full.
    pub fn dropped(&self) -> u64 {
        self.ring().dropped
    }

    /// Begins the record of a machine.
    pub(crate) fn machine(&self, at: Moment, origin: Origin) -> Recorder {
        let machine = {
            let mut ring = self.ring();
            ring.machines += 1;
            ring.machines
        };
        let recorder = Recorder { recording: self.clone(), machine };
        recorder.add(at, Exchange::Begun(origin));
        recorder
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // The steps are consistent even after a panic under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The steps in a record, oldest first.
pub fn steps(recording: &Recording) -> Vec<Step> {
    recording.ring().steps.iter().map(|(step, _)| step.clone()).collect()
}

/// Removes the steps from a record, and returns them, oldest first. So a run of any length can be followed in parts.
pub fn take(recording: &Recording) -> Vec<Step> {
    let mut ring = recording.ring();
    ring.used = 0;
    std::mem::take(&mut ring.steps).into_iter().map(|(step, _)| step).collect()
}

/// One step of a machine.
#[derive(Clone, Debug)]
pub struct Step {
    /// When, on the keeper's clock.
    pub at: Moment,
    /// The number of the machine in this record.
    pub machine: u64,
    /// What went in and came out.
    pub exchange: Exchange,
}

/// An event that went into a machine, and the commands that came out.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Exchange {
    /// The machine was made.
    Begun(Origin),
    Lock(linger::Event, Vec<linger::Command>),
    Semaphore(semaphore::Event, Vec<semaphore::Command>),
    MultiLock(multi_lock::Event, Vec<multi_lock::Command>),
    Session(session::Event, Vec<session::Command>),
    Candidate(candidate::Event, Vec<candidate::Command>),
    /// With the proven end of the lease.
    Run(Option<Moment>, run::Event, Vec<run::Command>),
}

/// What a machine was made from.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Origin {
    Lock {
        path: Arc<str>,
        instance: Instance,
    },
    Semaphore {
        path: Arc<str>,
        instance: Instance,
    },
    MultiLock {
        paths: Vec<Arc<str>>,
    },
    /// With the first commands.
    Session {
        epoch: u64,
        begun: Moment,
        timeout: Duration,
        tick: Option<Duration>,
        commands: Vec<session::Command>,
    },
    Candidate {
        path: Arc<str>,
        proven_after: Duration,
    },
    Run {
        path: Arc<str>,
        limits: Limits,
    },
}

/// A machine whose steps can be recorded.
pub(crate) trait Recorded: Machine<Event: Clone, Command: Clone> {
    fn exchange(&self, event: Self::Event, commands: Vec<Self::Command>) -> Exchange;
}

/// Records the steps of one machine.
pub(crate) struct Recorder {
    recording: Recording,
    machine: u64,
}

/// Passes an event to a machine, and records the step if there is a record.
pub(crate) fn handle<M: Recorded>(
    recorder: Option<&Recorder>,
    machine: &mut M,
    event: M::Event,
    now: Moment,
    commands: &mut Vec<M::Command>,
) {
    let Some(recorder) = recorder else { return machine.handle(event, now, commands) };
    let before = commands.len();
    machine.handle(event.clone(), now, commands);
    recorder.add(now, machine.exchange(event, commands[before..].to_vec()));
}

impl Recorder {
    fn add(&self, at: Moment, exchange: Exchange) {
        let step = Step { at, machine: self.machine, exchange };
        let mut length = Length(0);
        // Counting does not fail.
        let _ = fmt::write(&mut length, format_args!("{step}\n"));
        let mut ring = self.recording.ring();
        ring.used += length.0;
        ring.steps.push_back((step, length.0));
        while ring.used > ring.capacity {
            let Some((_, length)) = ring.steps.pop_front() else { break };
            ring.used -= length;
            ring.dropped += 1;
        }
    }
}

/// Counts the bytes that are written.
struct Length(usize);

impl fmt::Write for Length {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

impl fmt::Display for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Copied, so that the keeper does not wait for the reader of the text.
        steps(self).iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.at.0 / 1_000_000_000, self.at.0 % 1_000_000_000);
        write!(f, "{seconds}.{nanos:09} {} ", self.machine)?;
        match &self.exchange {
            Exchange::Begun(origin) => write!(f, "{origin:?}"),
            Exchange::Lock(event, commands) => write!(f, "{event:?} -> {commands:?}"),
            Exchange::Semaphore(event, commands) => write!(f, "{event:?} -> {commands:?}"),
            Exchange::MultiLock(event, commands) => write!(f, "{event:?} -> {commands:?}"),
            Exchange::Session(event, commands) => write!(f, "{event:?} -> {commands:?}"),
            Exchange::Candidate(event, commands) => write!(f, "{event:?} -> {commands:?}"),
            Exchange::Run(until, event, commands) => write!(f, "{until:?} {event:?} -> {commands:?}"),
        }
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = self.ring();
        f.debug_struct("Recording").field("steps", &ring.steps.len()).field("dropped", &ring.dropped).finish()
    }
}

impl Recorded for LingeringLock {
    fn exchange(&self, event: linger::Event, commands: Vec<linger::Command>) -> Exchange {
        Exchange::Lock(event, commands)
    }
}

impl Recorded for Semaphore {
    fn exchange(&self, event: semaphore::Event, commands: Vec<semaphore::Command>) -> Exchange {
        Exchange::Semaphore(event, commands)
    }
}

impl Recorded for MultiLock {
    fn exchange(&self, event: multi_lock::Event, commands: Vec<multi_lock::Command>) -> Exchange {
        Exchange::MultiLock(event, commands)
    }
}

impl Recorded for Session {
    fn exchange(&self, event: session::Event, commands: Vec<session::Command>) -> Exchange {
        Exchange::Session(event, commands)
    }
}

impl Recorded for Candidate {
    fn exchange(&self, event: candidate::Event, commands: Vec<candidate::Command>) -> Exchange {
        Exchange::Candidate(event, commands)
    }
}

impl Recorded for Run {
    fn exchange(&self, event: run::Event, commands: Vec<run::Command>) -> Exchange {
        Exchange::Run(self.until(), event, commands)
    }
}
