//! Captures spans and events of the library with their fields.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::Row;
use crate::common::logs::shared_with_other_threads;

/// Captures what this thread logs from now on. A test that uses it must run on a single-threaded runtime.
pub struct Capture {
    lines: Lines,
    _subscribed: tracing::subscriber::DefaultGuard,
}

/// A span or an event, with its values.
#[derive(Clone, Debug)]
pub struct Line {
    pub row: Row,
    pub values: BTreeMap<String, String>,
}

impl Capture {
    pub fn start() -> Capture {
        shared_with_other_threads();
        let lines = Lines::default();
        let subscribed = tracing_subscriber::registry().with(lines.clone()).set_default();
        Capture { lines, _subscribed: subscribed }
    }

    pub fn all(&self) -> Vec<Line> {
        self.lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The lines so far with this level and message, and with these values among theirs.
    pub fn with(&self, level: &str, message: &str, values: &[(&str, &str)]) -> Vec<Line> {
        let mut lines = self.all();
        lines.retain(|line| {
            let has = |(name, value): &(&str, &str)| line.values.get(*name).is_some_and(|v| v == value);
            line.row.level == level && line.row.message == message && values.iter().all(has)
        });
        lines
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

impl Lines {
    fn add(&self, metadata: &Metadata<'_>, kind: &str, mut values: Values) {
        let level = format!("{}{kind}", metadata.level()).to_lowercase();
        let module = metadata.target().strip_prefix(CRATE).unwrap_or_default().to_owned();
        let message = values.0.remove("message").unwrap_or_else(|| metadata.name().to_owned());
        let fields = metadata.fields().iter().map(|field| field.name().to_owned());
        let fields = fields.filter(|name| name != "message").collect();
        let line = Line { row: Row { level, module, message, fields }, values: values.0 };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

const CRATE: &str = "lockkeeper_actors::";

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().starts_with(CRATE)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let mut values = Values::default();
        attributes.record(&mut values);
        self.add(attributes.metadata(), " span", values);
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut values = Values::default();
        event.record(&mut values);
        self.add(event.metadata(), "", values);
    }
}

#[derive(Default)]
struct Values(BTreeMap<String, String>);

impl Visit for Values {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}
