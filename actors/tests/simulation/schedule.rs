//! One schedule: processes and an ensemble in virtual time. First there are faults. Then the faults stop, and
//! everything must finish in time.

use std::sync::{Arc, Mutex};

use crate::coverage::{Coverage, Fault};
use crate::ensemble::{Ensemble, LATENCY, Time};
use crate::faults::{self, Planned, STAGE_LIMIT};
use crate::process::{Character, Hit, Process, World, disarm};
use crate::random::Random;
use crate::twins::Twin;
use crate::witness::{Checker, Violation, Witness};

/// Within this time after the last fault, every caller must have held its lock once more.
pub const PROGRESS_LIMIT: Time = 60_000;

/// Within this time after the last caller has finished, nothing may be left on the servers. It is longer than a session
/// timeout, because a create that was held up may leave a node in a session that no process uses any more.
pub const CLEANUP_LIMIT: Time = 20_000;

/// Within this time, everything must be closed. It is longer than a session timeout, because a connect request that was
/// held up may establish a session that no process uses.
pub const CLOSE_LIMIT: Time = 20_000;

pub struct Outcome {
    pub violations: Vec<Violation>,
    pub coverage: Coverage,
    pub grants: u64,
    pub lost: u64,
    /// The time from the last fault to the last caller's success.
    pub recovery: Time,
    /// The leader's log and the processes' events; empty unless requested.
    pub history: Vec<String>,
}

pub fn run(seed: u64, twin: Twin, history: bool) -> Outcome {
    disarm();
    let mut schedule = Schedule::new(seed, twin, history);
    loop {
        schedule.strike_due();
        schedule.revive();
        schedule.operate();
        schedule.advance();
        if schedule.check() {
            return schedule.outcome();
        }
    }
}

/// The state of a schedule.
struct Schedule {
    random: Random,
    character: Character,
    world: Arc<Mutex<World>>,
    /// The processes. One that was killed starts again at its time.
    running: Vec<Result<Process, Time>>,
    /// The faults to come, the next one last.
    planned: Vec<Planned>,
    faults_end: Time,
    now: Time,
    phase: Phase,
    /// When the phase began.
    since: Time,
    recovery: Time,
}

enum Phase {
    Faults,
    /// There are no more faults, and callers finish.
    Calm,
    /// All callers have finished, and nodes and watches are removed.
    Cleanup,
    Closing,
}

impl Schedule {
    fn new(seed: u64, twin: Twin, history: bool) -> Schedule {
        let mut random = Random::new(seed);
        let processes = random.between(2, 3) as usize;
        let replicas = if random.percent(25) { 1 } else { 3 };
        let mut ensemble = Ensemble::new(random.fork(), replicas, processes);
        ensemble.history = history.then(Vec::new);
        let character = Character {
            callers: random.between(1, 3) as usize,
            tick: random.percent(50),
            quick: random.percent(50),
            twin,
        };
        let mut planned = faults::plan(&mut random, processes, twin.favours());
        planned.reverse();
        let faults_end = planned.first().map_or(0, |last| last.after) + random.between(500, 4000);
        let witness = Witness::new(history);
        let world = Arc::new(Mutex::new(World { ensemble, witness, coverage: Coverage::default() }));
        let running =
            (0..processes).map(|index| Ok(Process::boot(index, &world, 0, &mut random, character))).collect();
        let (now, phase, since, recovery) = (0, Phase::Faults, 0, 0);
        Schedule { random, character, world, running, planned, faults_end, now, phase, since, recovery }
    }

    fn is_calm(&self) -> bool {
        !matches!(self.phase, Phase::Faults)
    }

    /// Applies the faults that are due. After the last one, the ensemble heals.
    fn strike_due(&mut self) {
        if self.is_calm() {
            return;
        }
        let now = self.now;
        while let Some(next) = self.planned.last().filter(|next| next.after <= now).copied() {
            let Ok(process) = &mut self.running[next.process] else {
                self.planned.pop();
                continue;
            };
            if process.paused_until.is_none() {
                let stages = process.host().stages(Hit::Process);
                let there = next.stage.is_none_or(|stage| stages.contains(&stage));
                if !there && now < next.after + STAGE_LIMIT {
                    break;
                }
                faults::strike(next, process, &self.world, now, &mut self.random);
                if next.fault == Fault::Killed {
                    let back = Err(now + self.random.between(500, 5000));
                    if let Ok(process) = std::mem::replace(&mut self.running[next.process], back) {
                        process.kill(now);
                    }
                }
            }
            self.planned.pop();
        }
        if now >= self.faults_end && self.planned.is_empty() {
            (self.phase, self.since) = (Phase::Calm, now);
            self.world.lock().unwrap().ensemble.heal();
            disarm();
        }
    }

    /// Starts processes that were killed, and continues those that were paused.
    fn revive(&mut self) {
        let (now, calm) = (self.now, self.is_calm());
        for (index, slot) in self.running.iter_mut().enumerate() {
            match slot {
                Err(back) if calm || *back <= now => {
                    *slot = Ok(Process::boot(index, &self.world, now, &mut self.random, self.character))
                }
                Err(_) => {}
                Ok(process) => {
                    process.paused_until = process.paused_until.filter(|until| !calm && *until > now)
                }
            }
            if let (true, Ok(process)) = (calm, &*slot) {
                process.calm();
            }
        }
    }

    /// Has an operator delete what was left behind.
    fn operate(&self) {
        if !self.world.lock().unwrap().ensemble.left_behind().is_empty() {
            let mut awake = self.running.iter().flatten().filter(|process| process.paused_until.is_none());
            awake.next().into_iter().for_each(Process::operate);
        }
    }

    /// Runs the ensemble, and then every process, for so short a time that no process can reach another in it.
    fn advance(&mut self) {
        let (now, until) = (self.now, self.now + LATENCY);
        self.world.lock().unwrap().ensemble.run(until);
        let running = self.running.iter_mut().flatten();
        for process in running.filter(|process| process.paused_until.is_none()) {
            let host = process.host();
            for key in host.due(now..until).into_iter().filter(|key| host.is_open(*key)) {
                host.strike(Fault::Deadline, Hit::Request(key));
            }
            process.run(now, until);
        }
        self.now = until;
    }

    /// Checks all promises, and whether the phase is over. Returns whether the schedule is.
    fn check(&mut self) -> bool {
        let (now, since, running) = (self.now, self.since, &self.running);
        let awake = |index: usize| matches!(&running[index], Ok(process) if process.paused_until.is_none());
        let mut guard = self.world.lock().unwrap();
        let World { ensemble, witness, .. } = &mut *guard;
        witness.check(now, ensemble, awake);
        for process in running.iter().flatten() {
            witness.check_watches(process.host().index, process.watches(), process.asking, now);
        }
        let listeners = witness.listeners();
        let mut late = |bound, checker, what: &dyn Fn() -> String| {
            if now > since + bound {
                witness.violated(checker, format!("at {now}: {}", what()));
            }
        };
        match self.phase {
            Phase::Faults => {}
            Phase::Calm => {
                let waiting = running.iter().flatten().filter(|process| !process.finished()).count();
                if waiting == 0 {
                    self.recovery = now - since;
                    (self.phase, self.since) = (Phase::Cleanup, now);
                } else {
                    late(PROGRESS_LIMIT, Checker::Progress, &|| {
                        format!("callers of {waiting} processes wait")
                    });
                }
            }
            Phase::Cleanup => {
                let (nodes, watches) = (ensemble.nodes.len(), ensemble.watches());
                if nodes > 0 {
                    late(CLEANUP_LIMIT, Checker::Orphans, &|| format!("{:?}", ensemble.nodes));
                } else if watches > 0 {
                    late(CLEANUP_LIMIT, Checker::Watches, &|| format!("{watches} watches"));
                } else {
                    (self.phase, self.since) = (Phase::Closing, now);
                    running.iter().flatten().for_each(Process::close);
                }
            }
            Phase::Closing => {
                let tasks: usize = running.iter().flatten().map(Process::tasks).sum();
                let sessions = ensemble.live_sessions();
                if sessions > 0 {
                    late(CLOSE_LIMIT, Checker::Sessions, &|| format!("{sessions} sessions"));
                } else if tasks + listeners > 0 {
                    late(CLOSE_LIMIT, Checker::Tasks, &|| format!("{tasks} tasks and {listeners} listeners"));
                } else {
                    return true;
                }
            }
        }
        !witness.violations.is_empty()
    }

    fn outcome(mut self) -> Outcome {
        self.running.clear();
        let World { ensemble, witness, coverage } = &mut *self.world.lock().unwrap();
        let mut history = ensemble.history.take().unwrap_or_default();
        // Sorted, because actors that die with their supervisor end in no particular order.
        let mut seen = witness.history.take().unwrap_or_default();
        seen.sort();
        history.append(&mut seen);
        Outcome {
            violations: std::mem::take(&mut witness.violations),
            coverage: std::mem::take(coverage),
            grants: witness.granted,
            lost: witness.lost,
            recovery: self.recovery,
            history,
        }
    }
}
