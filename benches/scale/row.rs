//! Runs one row of a table, within a time limit.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Builder;

use crate::{Bench, Result};

/// What a row has measured, and how far it came.
#[derive(Clone, Default)]
pub struct Progress(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    values: Vec<(&'static str, f64)>,
    phase: Option<Phase>,
}

struct Phase {
    name: &'static str,
    done: usize,
    of: usize,
}

impl Progress {
    /// A phase begins, in which this many contenders have to do something.
    pub fn begin(&self, name: &'static str, of: usize) {
        self.state().phase = Some(Phase { name, done: 0, of });
    }

    /// This many have done it.
    pub fn reached(&self, done: usize) {
        if let Some(phase) = &mut self.state().phase {
            phase.done = done;
        }
    }

    /// A measured value. There may be several of one name.
    pub fn measured(&self, name: &'static str, value: f64) {
        self.state().values.push((name, value));
    }

    /// What was measured before was a warm-up.
    pub fn forget(&self) {
        self.state().values.clear();
    }

    /// The median of the values of this name, if there are any.
    pub fn median(&self, name: &str) -> Option<f64> {
        let state = self.state();
        let mut values: Vec<f64> = state.values.iter().filter(|(n, _)| *n == name).map(|(_, v)| *v).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state().phase {
            Some(Phase { name, done, of }) => write!(f, "{name}: {done} of {of}"),
            None => write!(f, "before its first phase"),
        }
    }
}

/// Runs a row, in a runtime of its own. When the row is given up, the runtime ends with all its tasks, so that they do
/// not slow down the next row. The error says how far it came.
pub fn run<T: Send + 'static>(
    bench: &Bench,
    progress: &Progress,
    row: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<std::result::Result<T, String>> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async { tokio::time::timeout(bench.limit, tokio::spawn(row)).await });
    runtime.shutdown_timeout(PATIENCE);
    Ok(match ended {
        Ok(Ok(Ok(value))) => Ok(value),
        Ok(Ok(Err(error))) => Err(format!("failed, {progress}: {error}")),
        Ok(Err(panic)) => Err(format!("failed, {progress}: {panic}")),
        Err(_) => Err(format!("not finished, {progress}")),
    })
}

/// For tasks that compute without a pause when the runtime ends.
const PATIENCE: Duration = Duration::from_secs(5);
