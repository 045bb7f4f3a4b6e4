//! What the specification says about sessions, and about what depends on several leases or uses one: multi-locks,
//! candidates and runs.

use std::time::Duration;

use lockkeeper_actors::machine::{LeaseState, Moment, candidate, multi_lock, run, session};

use super::gaps::Gaps;
use super::specification::{ALL, ANSWER, ENDED, FINAL, Fault, IDENTITY, LEADER, PROOF, TOGETHER};

/// A session. The rule of its proof is that of `actors/src/machine/session.rs`: a write proves the session from its
/// sending if a ping of the leader came between its answer and a later write, and a third write followed.
pub(super) struct SessionJudge {
    timeout: Duration,
    /// Longer than the time between two pings of the leader.
    gap: Duration,
    /// The session was there at this moment, or later.
    proven: Moment,
    up: bool,
    identified: bool,
    lost: bool,
    /// When its lease ends, or has ended.
    end: Moment,
    /// When each write was sent, and when it was answered.
    writes: Vec<(Moment, Moment)>,
    /// The sending of the last write that was answered before the connection broke.
    before: Option<Moment>,
    /// When the newest connection was reported.
    since: Moment,
}

impl SessionJudge {
    pub fn new(begun: Moment, timeout: Duration, tick: Option<Duration>) -> SessionJudge {
        SessionJudge {
            timeout,
            gap: tick.unwrap_or(timeout).min(timeout / 2) / 2,
            proven: begun,
            up: true,
            identified: true,
            lost: false,
            end: begun + timeout,
            writes: Vec::new(),
            before: None,
            since: begun,
        }
    }

    pub fn step(
        &mut self,
        event: session::Event,
        commands: &[session::Command],
        at: Moment,
    ) -> Result<(), Fault> {
        match event {
            session::Event::Answered { sent } => self.answered(sent, at),
            session::Event::Identified { sent, same } if self.up && sent >= self.since => {
                self.identified |= same;
                self.lost |= !same;
                if let Some(sent) = self.before.take().filter(|_| same) {
                    self.proven = self.proven.max(sent);
                }
            }
            session::Event::Disconnected => {
                if self.up && self.identified {
                    self.before = self.writes.last().map(|(sent, _)| *sent);
                }
                (self.up, self.identified) = (false, false);
            }
            session::Event::Reconnected => (self.up, self.identified, self.since) = (true, false, at),
            session::Event::Identified { .. } | session::Event::Failed { .. } => {}
            session::Event::Ended | session::Event::Wake => {}
        }
        self.commands(commands, at)
    }

    /// When its lease ends, or has ended.
    pub fn end(&self) -> Moment {
        self.end
    }

    pub fn commands(&mut self, commands: &[session::Command], at: Moment) -> Result<(), Fault> {
        for command in commands {
            match command {
                session::Command::Lose => {}
                _ if self.lost => return Err((FINAL, format!("{command:?}"))),
                session::Command::Hold(_) if !self.up || !self.identified => {
                    return Err((IDENTITY, format!("{command:?}")));
                }
                session::Command::Hold(until) if *until > self.proven + self.timeout => {
                    return Err((PROOF, format!("{command:?}, and it is proven at {:?}", self.proven)));
                }
                session::Command::Hold(_) | session::Command::Suspend(_) => {}
                session::Command::Heartbeat(_) | session::Command::Identify(_) => {}
            }
            match command {
                session::Command::Hold(until) | session::Command::Suspend(until) => self.end = *until,
                session::Command::Lose => (self.lost, self.end) = (true, self.end.min(at)),
                session::Command::Heartbeat(_) | session::Command::Identify(_) => {}
            }
        }
        Ok(())
    }

    fn answered(&mut self, sent: Moment, at: Moment) {
        let seconds = self.writes.iter().filter(|(_, answered)| *answered < sent);
        let relayed = seconds.filter_map(|(second, _)| {
            let firsts = self.writes.iter().filter(|(_, answered)| *answered + self.gap <= *second);
            firsts.map(|(first, _)| *first).max()
        });
        if let Some(first) = relayed.max().filter(|_| self.up && self.identified) {
            self.proven = self.proven.max(first);
        }
        self.writes.push((sent, at));
        let horizon = self.timeout * 2;
        self.writes.retain(|(sent, _)| at.since(*sent) <= horizon);
    }
}

/// A request for several locks.
pub(super) struct MultiLockJudge {
    /// The epoch in which each part's node can be made.
    ready: Vec<Option<u64>>,
    submitted: Option<u64>,
    held: Vec<bool>,
    suspended: Vec<bool>,
    over: Vec<bool>,
    answered: bool,
    cancelled: bool,
}

impl MultiLockJudge {
    pub fn new(parts: usize) -> MultiLockJudge {
        MultiLockJudge {
            ready: vec![None; parts],
            submitted: None,
            held: vec![false; parts],
            suspended: vec![false; parts],
            over: vec![false; parts],
            answered: false,
            cancelled: false,
        }
    }

    pub fn step(&mut self, event: &multi_lock::Event, commands: &[multi_lock::Command]) -> Result<(), Fault> {
        match event {
            multi_lock::Event::Ready { part, epoch } => self.ready[*part] = Some(*epoch),
            multi_lock::Event::Made { back } => {
                let epoch = self.submitted.take();
                back.iter().for_each(|part| self.ready[*part] = epoch);
            }
            multi_lock::Event::Queued { part, .. } => self.held[*part] = false,
            multi_lock::Event::Held(part) => self.held[*part] = true,
            multi_lock::Event::Refused(part) | multi_lock::Event::Lost(part) => self.held[*part] = false,
            multi_lock::Event::Suspended(part) => self.suspended[*part] = true,
            multi_lock::Event::Resumed(part) => self.suspended[*part] = false,
            multi_lock::Event::Over(part) => self.over[*part] = true,
            multi_lock::Event::Cancel => self.cancelled = true,
            multi_lock::Event::Start => {}
        }
        commands.iter().try_for_each(|command| self.command(command))
    }

    pub fn finish(&self) -> Result<(), Fault> {
        if self.answered { Ok(()) } else { Err((ANSWER, "the request has no answer".into())) }
    }

    fn command(&mut self, command: &multi_lock::Command) -> Result<(), Fault> {
        let parts = self.held.len();
        match command {
            multi_lock::Command::Ask => {
                *self = MultiLockJudge { cancelled: self.cancelled, ..MultiLockJudge::new(parts) }
            }
            multi_lock::Command::Submit => {
                let first = self.ready[0].filter(|_| self.submitted.is_none());
                if first.is_none() || self.ready.iter().any(|epoch| *epoch != first) {
                    return Err((TOGETHER, format!("the parts are ready in {:?}", self.ready)));
                }
                self.ready.fill(None);
                self.submitted = first;
            }
            multi_lock::Command::Grant => {
                if self.held.contains(&false) || self.suspended.contains(&true) {
                    return Err((ALL, format!("held: {:?}, suspended: {:?}", self.held, self.suspended)));
                }
                self.answer(self.cancelled)?;
            }
            multi_lock::Command::Refuse(_) => self.answer(false)?,
            multi_lock::Command::Released if self.over.contains(&false) => {
                return Err((ALL, format!("released, and over: {:?}", self.over)));
            }
            _ => {}
        }
        Ok(())
    }

    fn answer(&mut self, cancelled: bool) -> Result<(), Fault> {
        match std::mem::replace(&mut self.answered, true) || cancelled {
            true => Err((ANSWER, "a second answer, or a grant after a cancel".into())),
            false => Ok(()),
        }
    }
}

/// A candidate for a singleton.
#[derive(Default)]
pub(super) struct CandidateJudge {
    granted: bool,
    running: bool,
    started: bool,
}

impl CandidateJudge {
    pub fn step(&mut self, event: &candidate::Event, commands: &[candidate::Command]) -> Result<(), Fault> {
        match event {
            candidate::Event::Granted => self.granted = true,
            candidate::Event::Started => self.started = true,
            candidate::Event::Ended(_) => (self.running, self.started) = (false, false),
            candidate::Event::Released => self.granted = false,
            candidate::Event::Refused { .. } | candidate::Event::Rested | candidate::Event::Shutdown => {}
        }
        for command in commands {
            let fits = match command {
                candidate::Command::StartRun => self.granted && !std::mem::replace(&mut self.running, true),
                candidate::Command::Announce => self.running && self.started,
                candidate::Command::StopRun => self.running,
                candidate::Command::Release => self.granted && !self.running,
                candidate::Command::Acquire | candidate::Command::Rest(_) => !self.granted,
                candidate::Command::Finish => !self.granted && !self.running,
                candidate::Command::Cancel => true,
            };
            if !fits {
                return Err((LEADER, format!("{command:?}, and granted: {}", self.granted)));
            }
        }
        Ok(())
    }
}

/// A run of an actor under a lease.
#[derive(Default)]
pub(super) struct RunJudge {
    /// It has ended, or was killed.
    over: bool,
    finished: bool,
}

impl RunJudge {
    /// `until` is the end of its lease, as the run has seen it, and `end` as the session has: the run sees zero once the
    /// lease is lost.
    pub fn step(
        &mut self,
        until: Option<Moment>,
        end: Option<Moment>,
        event: &run::Event,
        commands: &[run::Command],
        at: Moment,
        gaps: &Gaps,
    ) -> Result<(), Fault> {
        let ended = matches!(event, run::Event::Ended { .. });
        let was_over = self.over;
        self.over |= ended || commands.contains(&run::Command::Kill);
        let outlived =
            until.is_some_and(|until| at >= until) || *event == run::Event::Lease(LeaseState::Lost);
        if outlived && !self.over {
            return Err((ENDED, format!("it goes on at {at:?}, and the lease ends at {until:?}")));
        }
        let end = if until == Some(Moment(0)) { end } else { until };
        if let Some(end) = end.filter(|end| !was_over && at > gaps.latest(*end)) {
            return Err((ENDED, format!("it goes on until {at:?}, and the lease ended at {end:?}")));
        }
        for command in commands {
            if matches!(command, run::Command::Finish(_)) {
                let again = std::mem::replace(&mut self.finished, true);
                if again || !ended {
                    return Err((ENDED, format!("{command:?}, and ended: {ended}")));
                }
            }
        }
        Ok(())
    }
}
