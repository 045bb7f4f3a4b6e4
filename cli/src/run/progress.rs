//! Tells a user at a terminal what the command waits for.

use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::time::{Duration, SystemTime};

use lockkeeper::Keeper;
use lockkeeper::inspect::{PathState, Queue};
use rustix::termios::tcgetwinsize;

use crate::text::{age, foreign};

/// Shows who is ahead until the future is dropped. In a pipe, it shows nothing.
pub async fn show(keeper: &Keeper, paths: &[String]) -> Infallible {
    if !std::io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    let mut line = ProgressLine::default();
    let session = keeper.state();
    loop {
        // What is granted at once needs no words.
        tokio::time::sleep(EVERY).await;
        let session = session.get().session_id;
        for path in paths {
            // While there is no connection, the line stays as it is.
            let Ok(Some(state)) = keeper.inspector().look(path).await else { continue };
            if let Some(text) = describe(&state, session, SystemTime::now()) {
                line.show(&text);
                break;
            }
        }
    }
}

const EVERY: Duration = Duration::from_millis(500);

/// What this session waits for at a place, if it does.
fn describe(state: &PathState, session: i64, now: SystemTime) -> Option<String> {
    let own = |queue: &Queue| queue.entries.iter().position(|entry| entry.contender.session == Some(session));
    let path = foreign(state.path(), 60);
    match state {
        PathState::Semaphore(pool) => {
            let ahead = own(&pool.mutex)?;
            let limit = pool.limit.map_or_else(|| "?".to_owned(), |limit| limit.to_string());
            Some(format!(
                "waiting for {path}: {} of {limit} permits are taken, {ahead} ahead",
                pool.taken.len()
            ))
        }
        state => {
            let ahead = own(state.queue())?;
            state.queue().entries.get(ahead)?.waits_for?;
            let holder = state.queue().entries.first()?;
            let name = foreign(&holder.contender.identifier, 40);
            Some(format!(
                "waiting for {path}: {name} is first, for {}, {ahead} ahead",
                age(holder.created, now)
            ))
        }
    }
}

/// The width of the terminal.
fn columns() -> usize {
    const USUAL: usize = 80;
    match tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        Ok(_) | Err(_) => USUAL,
    }
}

/// One line at the bottom of the terminal, which is removed in the end.
#[derive(Default)]
struct ProgressLine {
    is_shown: bool,
}

impl ProgressLine {
    fn show(&mut self, text: &str) {
        self.is_shown = true;
        // A longer one would leave its first rows behind.
        let text = foreign(text, columns() - 1);
        // If the terminal has gone, nobody reads it.
        let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
