//! Plans faults, and applies them to a process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::callers::{SEMAPHORE, resources};
use crate::coverage::{FAULTS, Fault, STAGES, Stage};
use crate::ensemble::{Deposed, Ensemble, SYNC_LIMIT, Time, Wire};
use crate::process::{Hit, Host, Process, World};
use crate::random::Random;

/// A planned fault.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    pub after: Time,
    pub fault: Fault,
    pub process: usize,
    /// If set, the fault waits until a contender of the process is in this stage, for a limited time.
    pub stage: Option<Stage>,
}

/// How long a fault waits for its stage.
pub const STAGE_LIMIT: Time = 2000;

/// Plans the faults of a schedule. Half of them are taken from `favoured`, unless that is empty.
pub fn plan(random: &mut Random, processes: usize, favoured: &[(Fault, Option<Stage>)]) -> Vec<Planned> {
    let mut after = random.between(0, 1500);
    let mut planned = Vec::new();
    let processes = processes as u64 - 1;
    for _ in 0..random.between(3, 9) {
        let (Some(fault), Some(stage)) = (random.pick(&FAULTS), random.pick(&STAGES)) else { break };
        let mut fault = (*fault, random.percent(70).then_some(*stage));
        let process = random.between(0, processes) as usize;
        if random.percent(50) {
            fault = *random.pick(favoured).unwrap_or(&fault);
        } else if random.percent(30) {
            if matches!(fault.0, Fault::SessionPanics | Fault::KeeperPanics) {
                // With slow answers, a heartbeat is sent before the stage is over.
                planned.push(Planned { after, fault: Fault::SlowAnswers, process, stage: None });
            }
            // Without this, few contenders reach the stages after a create of unknown outcome.
            let cut = if random.percent(50) { Fault::CutAfter } else { Fault::CutBetween };
            planned.push(Planned { after, fault: cut, process, stage: Some(Stage::Creating) });
            fault.1 = random.pick(&[Stage::FindingCreated, Stage::ReadingStat, Stage::Listing]).copied();
        }
        let (fault, stage) = fault;
        planned.push(Planned { after, fault, process, stage });
        after += random.between(0, 3000);
    }
    planned
}

/// Applies a fault to a process. `Killed` is only counted here: the caller kills the process. A deadline passes by
/// itself. A fault that hits one path is counted in the stages of that path.
pub fn strike(
    planned: Planned,
    process: &mut Process,
    world: &std::sync::Mutex<World>,
    now: Time,
    random: &mut Random,
) {
    let Planned { fault, stage, .. } = planned;
    let host = process.host().clone();
    if fault == Fault::Cancelled {
        return cancel(&host, stage, random);
    }
    let stages = host.stages(Hit::Process);
    let places = Places::of(&host);
    let up = host.up();
    let mut guard = world.lock().unwrap();
    let World { ensemble, witness, coverage } = &mut *guard;
    witness.note(now, host.index, || format!("{fault:?} in {stages:?}"));
    let hit = match fault {
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
        | Fault::Expired => {
            let struck = up.is_some_and(|up| strike_connection(fault, up, ensemble, now, random));
            struck.then_some(stages)
        }
        Fault::NodeDeleted | Fault::NodeWritten => {
            up.and_then(|(_, session)| strike_node(fault, session, stage, &places, ensemble, random))
        }
        Fault::DirectoryDeleted => delete_directory(stage, &places, ensemble, random),
        Fault::Restart => {
            ensemble.restart(now + random.between(100, 4000));
            Some(stages)
        }
        Fault::Paused => {
            process.paused_until = Some(now + random.between(300, 12_000));
            Some(stages)
        }
        Fault::Killed => Some(stages),
        Fault::ListenerPanics
        | Fault::LockPanics
        | Fault::SweepPanics
        | Fault::RegistryPanics
        | Fault::SessionPanics
        | Fault::KeeperPanics => {
            arm_panics(fault, &host, random);
            None
        }
        Fault::Cancelled | Fault::Deadline => None,
    };
    if let Some(stages) = hit {
        coverage.mark(fault, stages);
    }
}

/// Strikes a connection or its session. Returns whether it struck.
fn strike_connection(
    fault: Fault,
    (wire, session): (Wire, i64),
    ensemble: &mut Ensemble,
    now: Time,
    random: &mut Random,
) -> bool {
    match fault {
        Fault::CutBefore => ensemble.cut(wire, 0),
        Fault::CutAfter => ensemble.cut(wire, Time::MAX),
        Fault::CutBetween => ensemble.cut(wire, now + random.between(1, 150)),
        Fault::HalfOpen => ensemble.half_open(wire),
        Fault::RequestsStall | Fault::AnswersStall => {
            ensemble.stall(wire, fault == Fault::RequestsStall, now + random.between(200, 8000))
        }
        Fault::SlowAnswers => ensemble.slow(wire, random.between(100, 1500)),
        Fault::CutOff => return ensemble.cut_off(wire, now + random.between(500, 12_000)),
        Fault::Lag => return ensemble.lag(wire, random.between(100, 3000)),
        Fault::Deposed => {
            let times = Deposed {
                elected: now + random.between(100, 800),
                noticed: now + random.between(SYNC_LIMIT / 6, SYNC_LIMIT),
                healed: now + random.between(500, 15_000),
            };
            return ensemble.depose(wire, random.percent(50), times);
        }
        Fault::Expired => ensemble.expire(session),
        other => unreachable!("{other:?} strikes no connection"),
    }
    true
}

/// Deletes a node of the process or writes to it. Returns the stages that this hit, if there was a node.
fn strike_node(
    fault: Fault,
    session: i64,
    stage: Option<Stage>,
    places: &Places,
    ensemble: &mut Ensemble,
    random: &mut Random,
) -> Option<BTreeSet<Stage>> {
    let own = ensemble.nodes.iter().filter(|(_, node)| node.author == session);
    let own: Vec<String> = own.map(|(path, _)| path.clone()).collect();
    let node = pick(&own, |node| places.stages_at(node), stage, random)?;
    let (node, struck) = match fault {
        Fault::NodeDeleted => (&**node, ensemble.delete_node(node)),
        // If the root's data is not a number, every client uses its own limit.
        _ if random.percent(20) => (SEMAPHORE, ensemble.write_node(SEMAPHORE)),
        _ => (&**node, ensemble.write_node(node)),
    };
    struck.then(|| places.stages_at(node))
}

/// Deletes a directory with all its nodes. Returns the stages that this hit, if there was such a directory.
fn delete_directory(
    stage: Option<Stage>,
    places: &Places,
    ensemble: &mut Ensemble,
    random: &mut Random,
) -> Option<BTreeSet<Stage>> {
    // A semaphore has two directories.
    let directories = resources().map(|resource| [resource.path().clone(), resource.queue()]).concat();
    let path = pick(&directories, |path| places.stages_at(path), stage, random)?;
    ensemble.delete_directory(path).then(|| places.stages_at(path))
}

/// Arms panics. They strike at the next opportunity, and are counted then.
fn arm_panics(fault: Fault, host: &Host, random: &mut Random) {
    let arm = |panics: &AtomicBool, armed| panics.store(armed, Ordering::Relaxed);
    match fault {
        Fault::ListenerPanics => arm(&host.armed.listener, true),
        Fault::LockPanics | Fault::SweepPanics | Fault::RegistryPanics => {
            arm(&host.armed.lock, true);
            arm(&host.armed.sweep, fault == Fault::SweepPanics);
            arm(&host.armed.supervisor, fault == Fault::RegistryPanics);
        }
        // Strikes at the next end of a session.
        Fault::KeeperPanics if random.percent(50) => host.keeper_panics(),
        Fault::SessionPanics | Fault::KeeperPanics => {
            arm(&host.armed.session, true);
            arm(&host.armed.supervisor, fault == Fault::KeeperPanics);
        }
        other => unreachable!("{other:?} is no panic"),
    }
}

/// The stages of the requests on each path.
struct Places([(Arc<str>, BTreeSet<Stage>); 4]);

impl Places {
    fn of(host: &Host) -> Places {
        Places(resources().map(|resource| {
            let path = resource.path().clone();
            let stages = host.stages(Hit::Paths(&[&path]));
            (path, stages)
        }))
    }

    /// Where the planned stage is, if the fault hits one path.
    fn stages_at(&self, node: &str) -> BTreeSet<Stage> {
        let here = self.0.iter().find(|(path, _)| node.starts_with(&**path));
        here.map(|(_, stages)| stages.clone()).unwrap_or_default()
    }
}

/// Has the caller of a request cancel it. The cancel is counted then.
fn cancel(host: &Host, stage: Option<Stage>, random: &mut Random) {
    let waiting: Vec<u64> = host.wanted.lock().unwrap().keys().copied().collect();
    let open: Vec<u64> = waiting.into_iter().filter(|key| host.is_open(*key)).collect();
    if let Some(key) = pick(&open, |key| host.stages(Hit::Request(*key)), stage, random) {
        let wanted = host.wanted.lock().unwrap();
        wanted.get(key).into_iter().for_each(|wanted| wanted.cancel.notify_one());
    }
}

/// Picks one of those that are in the planned stage, or of all if none is.
fn pick<'a, T>(
    all: &'a [T],
    stages: impl Fn(&T) -> BTreeSet<Stage>,
    stage: Option<Stage>,
    random: &mut Random,
) -> Option<&'a T> {
    let is_there = |one: &&T| stage.is_some_and(|stage| stages(one).contains(&stage));
    let there: Vec<&T> = all.iter().filter(is_there).collect();
    match there.is_empty() {
        true => random.pick(all),
        false => random.pick(&there).copied(),
    }
}
