//! The one table of metrics. `docs/observability.md` has the same table for people, and a test compares the two.

use metrics::{Counter, Gauge, Histogram, Label, Unit};

/// Tells the recorder the units and descriptions of all metrics.
pub(super) fn describe() {
    for Metric { name, kind, unit, description } in ALL {
        match kind {
            MetricKind::Counter => metrics::describe_counter!(name, unit, description),
            MetricKind::Gauge => metrics::describe_gauge!(name, unit, description),
            MetricKind::Histogram => metrics::describe_histogram!(name, unit, description),
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Metric {
    name: &'static str,
    kind: MetricKind,
    unit: Unit,
    description: &'static str,
}

#[derive(Clone, Copy)]
enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

impl Metric {
    pub fn counter(&self, labels: Vec<Label>) -> Counter {
        metrics::counter!(self.name, labels)
    }

    pub fn gauge(&self, labels: Vec<Label>) -> Gauge {
        metrics::gauge!(self.name, labels)
    }

    pub fn histogram(&self, labels: Vec<Label>) -> Histogram {
        metrics::histogram!(self.name, labels)
    }
}

macro_rules! table {
    ($($constant:ident = $kind:ident($name:literal, $unit:ident, $description:literal);)+) => {
        $(pub(super) const $constant: Metric = Metric {
            name: $name,
            kind: MetricKind::$kind,
            unit: Unit::$unit,
            description: $description,
        };)+

        const ALL: [Metric; [$($name),+].len()] = [$($constant),+];
    };
}

table! {
    REQUESTS_WAITING = Gauge("lockkeeper_requests_waiting", Count,
        "Requests that are neither granted nor refused, except for tries.");
    GUARDS_HELD = Gauge("lockkeeper_guards_held", Count,
        "Guards that are neither released nor lost.");
    WAIT_SECONDS = Histogram("lockkeeper_wait_seconds", Seconds,
        "The time from a call to its grant.");
    HOLD_SECONDS = Histogram("lockkeeper_hold_seconds", Seconds,
        "The time from a grant to its release or loss.");
    ACQUIRED_TOTAL = Counter("lockkeeper_acquired_total", Count,
        "Requests that were granted.");
    REFUSED_TOTAL = Counter("lockkeeper_refused_total", Count,
        "Requests that ended without a grant.");
    LEASES_SUSPENDED_TOTAL = Counter("lockkeeper_leases_suspended_total", Count,
        "Leases that were suspended, each time.");
    LEASES_LOST_TOTAL = Counter("lockkeeper_leases_lost_total", Count,
        "Leases that were lost.");
    CLEANUPS_PENDING = Gauge("lockkeeper_cleanups_pending", Count,
        "Requests that have ended, and whose nodes are not known to be deleted.");
    SESSIONS_OPEN = Gauge("lockkeeper_sessions_open", Count,
        "Sessions that are neither lost nor closed.");
    SESSIONS_BEGUN_TOTAL = Counter("lockkeeper_sessions_begun_total", Count,
        "Sessions that were established.");
    SESSIONS_SUSPENDED_TOTAL = Counter("lockkeeper_sessions_suspended_total", Count,
        "Times that a session was suspended.");
    SESSIONS_LOST_TOTAL = Counter("lockkeeper_sessions_lost_total", Count,
        "Sessions that were lost.");
    CONNECTS_FAILED_TOTAL = Counter("lockkeeper_connects_failed_total", Count,
        "Rounds of connection attempts that ended without a session.");
    HEARTBEAT_SECONDS = Histogram("lockkeeper_heartbeat_seconds", Seconds,
        "The round trip of an answered heartbeat, a write through the quorum.");
    LEASE_MARGIN_SECONDS = Histogram("lockkeeper_lease_margin_seconds", Seconds,
        "What was left of the lease when it was extended; zero when it was lost.");
    RETRIES_TOTAL = Counter("lockkeeper_retries_total", Count,
        "Requests to ZooKeeper without an answer: they are sent again, or their outcome is found out.");
    NODES_OWNED = Gauge("lockkeeper_nodes_owned", Count,
        "Nodes of contenders and permits that heartbeats check.");
    WATCHES = Gauge("lockkeeper_watches", Count,
        "Watches that are set or being set.");
    WATCHES_REFUSED_TOTAL = Counter("lockkeeper_watches_refused_total", Count,
        "Watches that no session could take, and that a timer of one second replaced.");
    SPARE_SESSIONS = Gauge("lockkeeper_spare_sessions", Count,
        "Established sessions that hold only watches.");
    SINGLETON_RUNS = Gauge("lockkeeper_singleton_runs", Count,
        "Actors of singletons that run in this process.");
    SINGLETON_RUNS_ENDED_TOTAL = Counter("lockkeeper_singleton_runs_ended_total", Count,
        "Runs of singletons that have ended.");
    SINGLETON_HANDOVER_SECONDS = Histogram("lockkeeper_singleton_handover_seconds", Seconds,
        "The time that a phase of a hand-over took in this process.");
}
