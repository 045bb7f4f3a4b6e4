//! A recorder of this thread's metrics, as Prometheus would scrape them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// What a metric is described as: its type and its unit.
pub type Described = (&'static str, Option<Unit>);

/// Records what keepers do that connect while [`Scrape::installed`] is alive, in a test on a single thread.
#[derive(Clone)]
pub struct Scrape {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    described: Arc<Mutex<BTreeMap<String, Described>>>,
}

/// A line of an exposition.
pub struct Series {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Scrape {
    pub fn start() -> Scrape {
        let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).expect("some buckets");
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        Scrape { recorder: Arc::new(recorder), handle, described: Arc::default() }
    }

    pub fn installed(&self) -> impl Drop + '_ {
        metrics::set_default_local_recorder(self)
    }

    pub fn described(&self) -> BTreeMap<String, Described> {
        self.described.lock().expect("no panic").clone()
    }

    pub fn series(&self) -> Vec<Series> {
        self.handle.render().lines().filter(|line| !line.starts_with('#')).filter_map(series).collect()
    }

    /// The type of each metric that was rendered.
    pub fn types(&self) -> BTreeMap<String, String> {
        let text = self.handle.render();
        let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        lines.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
    }

    /// The sum of the series with this name and all of these labels; `None` if there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |series: &Series| {
            labels.iter().all(|(key, value)| series.labels.get(*key).is_some_and(|v| v == value))
        };
        let found: Vec<f64> = self
            .series()
            .into_iter()
            .filter(|series| series.name == name && has(series))
            .map(|s| s.value)
            .collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// The values of a label in all series.
    pub fn label_values(&self, label: &str) -> BTreeSet<String> {
        self.series().into_iter().filter_map(|mut series| series.labels.remove(label)).collect()
    }

    fn describe(&self, name: KeyName, kind: &'static str, unit: Option<Unit>) {
        self.described.lock().expect("no panic").insert(name.as_str().to_owned(), (kind, unit));
    }
}

/// As documented.
pub const BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0, 300.0];

/// Notes descriptions, and passes everything on.
impl Recorder for Scrape {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe(key.clone(), "counter", unit);
        self.recorder.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe(key.clone(), "gauge", unit);
        self.recorder.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe(key.clone(), "histogram", unit);
        self.recorder.describe_histogram(key, unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.recorder.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.recorder.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.recorder.register_histogram(key, metadata)
    }
}

fn series(line: &str) -> Option<Series> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
    let labels = labels.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())).collect();
    Some(Series { name: name.to_owned(), labels, value: value.parse().ok()? })
}
