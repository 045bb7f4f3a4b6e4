//! Plans faults, and applies them to a process.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use crate::callers::{SEMAPHORE, resources};
use crate::coverage::{FAULTS, Fault, STAGES, Stage};
use crate::ensemble::{Deposed, SYNC_LIMIT, Time};
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
    let mut stages = host.stages(Hit::Process);
    let places = resources().map(|resource| {
        let path = resource.path().clone();
        let stages = host.stages(Hit::Paths(&[&path]));
        (path, stages)
    });
    // Where the planned stage is, if the fault hits one path.
    let stages_at = |node: &str| {
        let here = places.iter().find(|(path, _)| node.starts_with(&**path));
        here.map(|(_, stages)| stages.clone()).unwrap_or_default()
    };
    let up = host.up();
    let mut guard = world.lock().unwrap();
    let World { ensemble, witness, coverage } = &mut *guard;
    witness.note(now, host.index, || format!("{fault:?} in {stages:?}"));
    let struck = match (fault, up) {
        (Fault::CutBefore, Some((wire, _))) => {
            ensemble.cut(wire, 0);
            true
        }
        (Fault::CutAfter, Some((wire, _))) => {
            ensemble.cut(wire, Time::MAX);
            true
        }
        (Fault::CutBetween, Some((wire, _))) => {
            ensemble.cut(wire, now + random.between(1, 150));
            true
        }
        (Fault::HalfOpen, Some((wire, _))) => {
            ensemble.half_open(wire);
            true
        }
        (Fault::RequestsStall | Fault::AnswersStall, Some((wire, _))) => {
            ensemble.stall(wire, fault == Fault::RequestsStall, now + random.between(200, 8000));
            true
        }
        (Fault::SlowAnswers, Some((wire, _))) => {
            ensemble.slow(wire, random.between(100, 1500));
            true
        }
        (Fault::CutOff, Some((wire, _))) => ensemble.cut_off(wire, now + random.between(500, 12_000)),
        (Fault::Lag, Some((wire, _))) => ensemble.lag(wire, random.between(100, 3000)),
        (Fault::Deposed, Some((wire, _))) => {
            let times = Deposed {
                elected: now + random.between(100, 800),
                noticed: now + random.between(SYNC_LIMIT / 6, SYNC_LIMIT),
                healed: now + random.between(500, 15_000),
            };
            ensemble.depose(wire, random.percent(50), times)
        }
        (Fault::Expired, Some((_, session))) => {
            ensemble.expire(session);
            true
        }
        (Fault::NodeDeleted | Fault::NodeWritten, Some((_, session))) => {
            let own = ensemble.nodes.iter().filter(|(_, node)| node.author == session);
            let own: Vec<String> = own.map(|(path, _)| path.clone()).collect();
            match pick(&own, |node| stages_at(node), stage, random) {
                Some(node) => {
                    stages = stages_at(node);
                    match fault {
                        Fault::NodeDeleted => ensemble.delete_node(node),
                        // If the root's data is not a number, every client uses its own limit.
                        _ if random.percent(20) => {
                            stages = stages_at(SEMAPHORE);
                            ensemble.write_node(SEMAPHORE)
                        }
                        _ => ensemble.write_node(node),
                    }
                }
                None => false,
            }
        }
        (Fault::Restart, _) => {
            ensemble.restart(now + random.between(100, 4000));
            true
        }
        (Fault::DirectoryDeleted, _) => {
            // A semaphore has two directories.
            let directories =
                resources().map(|resource| [resource.path().clone(), resource.queue()]).concat();
            match pick(&directories, |path| stages_at(path), stage, random) {
                Some(path) => {
                    stages = stages_at(path);
                    ensemble.delete_directory(path)
                }
                None => false,
            }
        }
        (Fault::Paused, _) => {
            process.paused_until = Some(now + random.between(300, 12_000));
            true
        }
        (Fault::Killed, _) => true,
        // The panics strike at the next opportunity, and are counted then.
        (Fault::ListenerPanics, _) => {
            host.armed.listener.store(true, Ordering::Relaxed);
            false
        }
        (Fault::LockPanics | Fault::SweepPanics | Fault::RegistryPanics, _) => {
            host.armed.lock.store(true, Ordering::Relaxed);
            host.armed.sweep.store(fault == Fault::SweepPanics, Ordering::Relaxed);
            host.armed.supervisor.store(fault == Fault::RegistryPanics, Ordering::Relaxed);
            false
        }
        (Fault::KeeperPanics, _) if random.percent(50) => {
            // Strikes at the next end of a session.
            host.keeper_panics();
            false
        }
        (Fault::SessionPanics | Fault::KeeperPanics, _) => {
            host.armed.session.store(true, Ordering::Relaxed);
            host.armed.supervisor.store(fault == Fault::KeeperPanics, Ordering::Relaxed);
            false
        }
        (Fault::Cancelled | Fault::Deadline, _) => false,
        (
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
            | Fault::NodeWritten,
            None,
        ) => false,
    };
    if struck {
        coverage.mark(fault, stages);
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
