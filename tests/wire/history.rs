//! What happened in one run, in order.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

pub struct History {
    began: Instant,
    lines: Mutex<Vec<String>>,
}

impl History {
    pub fn begin() -> History {
        History { began: Instant::now(), lines: Mutex::default() }
    }

    pub fn note(&self, line: impl AsRef<str>) {
        let line = format!("{:5} ms  {}", self.began.elapsed().as_millis(), line.as_ref());
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
