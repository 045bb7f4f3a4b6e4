//! What metrics cost: sixty-four tasks, each with its own lock, with a recorder for Prometheus that is alternately on and
//! off. Both sides use the same sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockkeeper::Lock;
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::contest::Contest;
use crate::report::{self, Expectation, Row};
use crate::uncontended::released;
use crate::{Bench, Result, TASKS, common};

const RECORDED: &str = "with a recorder";
const NOT_RECORDED: &str = "without";

/// Whether metrics are recorded now.
static ON: AtomicBool = AtomicBool::new(false);

pub async fn run(bench: Bench) -> Result<()> {
    let recorder = PrometheusBuilder::new().set_buckets(&[0.001, 0.01, 0.1, 1.0])?.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(Switched(recorder))?;
    let upkeep = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            handle.run_upkeep();
        }
    });
    let (rounds, laps) = (bench.times(15), bench.times(4));
    let outcome = Contest::new("64 paths, a task each, with metrics", rounds, laps, TASKS * 5)
        .enter(RECORDED, |locks: &Vec<Lock>| switched(locks, true), released)
        .enter(NOT_RECORDED, |locks| switched(locks, false), released)
        .hold(&bench, connect)
        .await?;
    upkeep.abort();
    let recorded = Row::rate(&outcome, RECORDED);
    report::print(
        outcome.title(),
        &[
            recorded.compared_to(&outcome, NOT_RECORDED, Expectation::AtLeast(0.98)),
            Row::rate(&outcome, NOT_RECORDED),
        ],
    );
    Ok(())
}

async fn connect(bench: Bench) -> Result<Vec<Lock>> {
    let (keeper, mut locks) = (bench.keeper().await?, Vec::new());
    for _ in 0..TASKS {
        let lock = keeper.lock(&common::unique_path("metrics"))?;
        released(lock.clone(), 1).await?;
        locks.push(lock);
    }
    Ok(locks)
}

fn switched(locks: &[Lock], on: bool) -> Vec<Lock> {
    ON.store(on, Ordering::SeqCst);
    locks.to_vec()
}

/// A recorder whose handles do nothing while it is off.
struct Switched<T>(T);

impl<T> Switched<T> {
    fn on(&self) -> Option<&T> {
        ON.load(Ordering::Relaxed).then_some(&self.0)
    }
}

impl Recorder for Switched<PrometheusRecorder> {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_histogram(key, unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::new(Switched(self.0.register_counter(key, metadata))))
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::new(Switched(self.0.register_gauge(key, metadata))))
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Switched(self.0.register_histogram(key, metadata))))
    }
}

impl CounterFn for Switched<Counter> {
    fn increment(&self, value: u64) {
        self.on().into_iter().for_each(|counter| counter.increment(value));
    }

    fn absolute(&self, value: u64) {
        self.on().into_iter().for_each(|counter| counter.absolute(value));
    }
}

impl GaugeFn for Switched<Gauge> {
    fn increment(&self, value: f64) {
        self.on().into_iter().for_each(|gauge| gauge.increment(value));
    }

    fn decrement(&self, value: f64) {
        self.on().into_iter().for_each(|gauge| gauge.decrement(value));
    }

    fn set(&self, value: f64) {
        self.on().into_iter().for_each(|gauge| gauge.set(value));
    }
}

impl HistogramFn for Switched<Histogram> {
    fn record(&self, value: f64) {
        self.on().into_iter().for_each(|histogram| histogram.record(value));
    }
}
