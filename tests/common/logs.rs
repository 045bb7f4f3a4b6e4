//! Captures log output, or panics while something is logged.

use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use tracing::span::Id;
use tracing::{Dispatch, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// A subscriber that wants everything and gets nothing, because no thread uses it. While the subscriber of one thread is
/// the only one, `tracing` switches off what another thread without a subscriber is the first to log, for all threads.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));

/// Makes sure that what is captured does not depend on the tests of other threads.
pub fn shared_with_other_threads() {
    LazyLock::force(&SECOND);
}

/// Sends a request whose log panics. This ends the actor that serves it.
pub fn with_a_log_that_panics<T>(send: impl FnOnce() -> T) -> T {
    shared_with_other_threads();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(Panics), send)
}

/// Panics as soon as a span is entered.
struct Panics;

impl<S: Subscriber> Layer<S> for Panics {
    fn on_enter(&self, _: &Id, _: Context<'_, S>) {
        panic!("a log that panics, on purpose");
    }
}

/// Captures what this thread logs from now on. A test that uses it must run on a single-threaded runtime.
pub struct Logs {
    written: Written,
    _subscribed: tracing::subscriber::DefaultGuard,
}

impl Logs {
    pub fn start() -> Logs {
        shared_with_other_threads();
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        Logs { written, _subscribed: subscriber.set_default() }
    }

    /// The lines so far that contain all of these words.
    pub fn with(&self, words: &[&str]) -> Vec<String> {
        let written = self.written.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&written);
        let lines = text.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        lines.map(str::to_owned).collect()
    }
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
