//! The metrics of a keeper.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::counted::Counted;
use super::requests::{Kinds, PathMetrics};
use super::runs::{RunHandles, RunMetrics};
use super::table;

/// The metrics of a keeper. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Handles>);

struct Handles {
    unlabelled: Arc<Kinds>,
    /// The prefixes that are shown as the label `path`, the longest first.
    by_prefix: Vec<(String, Arc<Kinds>)>,
    sessions_open: Gauge,
    sessions_begun: Counter,
    sessions_suspended: Counter,
    sessions_lost: Counter,
    connects_failed: Counter,
    heartbeat: Histogram,
    lease_margin: Histogram,
    nodes_owned: Gauge,
    watches: Gauge,
    watches_refused: Counter,
    spare_sessions: Gauge,
    runs: Arc<RunHandles>,
}

impl Metrics {
    /// Describes all metrics to the recorder that is installed, and registers those of sessions. `prefixes` are the
    /// paths that may appear as a label: requests at or below one of them have it as their label `path`.
    pub fn new(mut prefixes: Vec<String>) -> Metrics {
        table::describe();
        prefixes.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
        let retries = table::RETRIES_TOTAL.counter(Vec::new());
        let kinds = |path| Arc::new(Kinds::new(path, retries.clone()));
        Metrics(Arc::new(Handles {
            unlabelled: kinds(None),
            by_prefix: prefixes.into_iter().map(|prefix| (prefix.clone(), kinds(Some(prefix)))).collect(),
            sessions_open: table::SESSIONS_OPEN.gauge(Vec::new()),
            sessions_begun: table::SESSIONS_BEGUN_TOTAL.counter(Vec::new()),
            sessions_suspended: table::SESSIONS_SUSPENDED_TOTAL.counter(Vec::new()),
            sessions_lost: table::SESSIONS_LOST_TOTAL.counter(Vec::new()),
            connects_failed: table::CONNECTS_FAILED_TOTAL.counter(Vec::new()),
            heartbeat: table::HEARTBEAT_SECONDS.histogram(Vec::new()),
            lease_margin: table::LEASE_MARGIN_SECONDS.histogram(Vec::new()),
            nodes_owned: table::NODES_OWNED.gauge(Vec::new()),
            watches: table::WATCHES.gauge(Vec::new()),
            watches_refused: table::WATCHES_REFUSED_TOTAL.counter(Vec::new()),
            spare_sessions: table::SPARE_SESSIONS.gauge(Vec::new()),
            runs: Arc::new(RunHandles::new()),
        }))
    }

    /// The metrics of the requests for a path.
    pub(crate) fn path(&self, path: &str) -> PathMetrics {
        let below = |prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let labelled = self.0.by_prefix.iter().find(|(prefix, _)| below(prefix)).map(|(_, kinds)| kinds);
        PathMetrics(labelled.unwrap_or(&self.0.unlabelled).clone())
    }

    /// The metrics of requests for several paths.
    pub(crate) fn paths(&self) -> PathMetrics {
        PathMetrics(self.0.unlabelled.clone())
    }

    /// A session was established. It is open until the result is dropped.
    pub(crate) fn session_begun(&self) -> Counted {
        self.0.sessions_begun.increment(1);
        Counted::new(&self.0.sessions_open)
    }

    pub(crate) fn session_suspended(&self) {
        self.0.sessions_suspended.increment(1);
    }

    pub(crate) fn session_lost(&self) {
        self.0.sessions_lost.increment(1);
        self.0.lease_margin.record(0.0);
    }

    pub(crate) fn connect_failed(&self) {
        self.0.connects_failed.increment(1);
    }

    pub(crate) fn heartbeat(&self, round_trip: Duration) {
        self.0.heartbeat.record(round_trip);
    }

    /// The lease was extended when this much of it was left.
    pub(crate) fn lease_extended(&self, left: Duration) {
        self.0.lease_margin.record(left);
    }

    pub(crate) fn nodes_tracked(&self, nodes: usize) {
        self.0.nodes_owned.increment(nodes as f64);
    }

    pub(crate) fn nodes_untracked(&self, nodes: usize) {
        self.0.nodes_owned.decrement(nodes as f64);
    }

    /// A watch, until the result is dropped.
    pub(crate) fn watch(&self) -> Counted {
        Counted::new(&self.0.watches)
    }

    pub(crate) fn watch_refused(&self) {
        self.0.watches_refused.increment(1);
    }

    /// A spare session, until the result is dropped.
    pub(crate) fn spare_session(&self) -> Counted {
        Counted::new(&self.0.spare_sessions)
    }

    pub(crate) fn runs(&self) -> RunMetrics {
        RunMetrics::new(self.0.runs.clone())
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
