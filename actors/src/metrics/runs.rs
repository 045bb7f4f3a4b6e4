//! The metrics of a candidate for a singleton.

use std::sync::Arc;
use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, Label};

use super::counted::Counted;
use super::table;
use crate::machine::run::EndReason;

/// What is counted of one candidate: its run, and the phases of hand-overs.
pub(crate) struct RunMetrics {
    handles: Arc<RunHandles>,
    running: Option<Counted>,
    phase: Option<(Phase, Instant)>,
}

/// The phases of a hand-over: the label `phase`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// From the grant until the actor has started.
    Start,
    /// From a shutdown until the actor has ended.
    Stop,
    /// From the actor's end until the release is confirmed.
    Release,
}

impl RunMetrics {
    pub(super) fn new(handles: Arc<RunHandles>) -> RunMetrics {
        RunMetrics { handles, running: None, phase: None }
    }

    pub fn starts(&mut self) {
        self.begin(Phase::Start);
    }

    pub fn started(&mut self) {
        self.end(Phase::Start);
        self.running = Some(Counted::new(&self.handles.runs));
    }

    pub fn stops(&mut self) {
        self.begin(Phase::Stop);
    }

    pub fn ended(&mut self, reason: EndReason) {
        self.end(Phase::Stop);
        self.running = None;
        self.handles.ended[reason as usize].increment(1);
    }

    pub fn releases(&mut self) {
        self.begin(Phase::Release);
    }

    pub fn released(&mut self) {
        self.end(Phase::Release);
    }

    fn begin(&mut self, phase: Phase) {
        self.phase = Some((phase, Instant::now()));
    }

    /// A phase that did not begin here is not counted: a run may be stopped because its lease ends.
    fn end(&mut self, phase: Phase) {
        if let Some((_, since)) = self.phase.take_if(|(begun, _)| *begun == phase) {
            self.handles.phases[phase as usize].record(since.elapsed());
        }
    }
}

pub(super) struct RunHandles {
    runs: Gauge,
    /// In the order of [`EndReason`].
    ended: [Counter; 4],
    /// In the order of [`Phase`].
    phases: [Histogram; 3],
}

impl RunHandles {
    pub fn new() -> RunHandles {
        let label = |key, value| vec![Label::from_static_parts(key, value)];
        RunHandles {
            runs: table::SINGLETON_RUNS.gauge(Vec::new()),
            ended: ["finished", "failed", "stopped", "lease"]
                .map(|outcome| table::SINGLETON_RUNS_ENDED_TOTAL.counter(label("outcome", outcome))),
            phases: ["start", "stop", "release"]
                .map(|phase| table::SINGLETON_HANDOVER_SECONDS.histogram(label("phase", phase))),
        }
    }
}
