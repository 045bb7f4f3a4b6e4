//! `lockkeeper run`: runs a command for as long as a lock is held.
//!
//! Three processes take part. The first one is what the user started: it has the session, and is the command's parent.
//!
//! ```text
//! lockkeeper run          acquires, starts the others, follows the lease, ends the command in time
//! ├─ lockkeeper __watchdog   knows the end of the lease too, and ends the command if the first is stopped or dead
//! └─ lockkeeper __launch     becomes the command, at the head of a process group of its own
//! ```
//!
//! A lock service cannot stop a process, but the kernel can. The end of the lease is known in advance, so the command is
//! asked to end (TERM) and killed (KILL) before anybody else can hold the lock.

mod acl;
mod acquire;
mod group;
mod launcher;
mod options;
mod policy;
mod program;
mod progress;
mod signals;
mod supervise;
mod terminal;
mod watchdog;

use std::time::{Duration, Instant};

use futures::StreamExt;
use lockkeeper::session::{Events, SessionEvent, SessionStatus};
use lockkeeper::{Keeper, KeeperOptions};
use tokio::time::timeout;

use self::acquire::{Held, Request};
pub use self::launcher::{LaunchArgs, launch};
pub use self::options::RunArgs;
use self::options::check_margins;
use self::signals::Signals;
use self::supervise::{Ended, Supervisor};
pub use self::watchdog::{WatchdogArgs, watchdog};
use crate::exit::{Exit, Failure};

/// Runs the command, and returns its exit code, or why it was not run or ended.
pub fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let options = args.prepare()?;
    // Before the first thread starts, because threads inherit the mask. The command gets an empty one.
    terminal::block_background_writes();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // This thread only waits and starts processes; a worker keeps the session.
    let runtime = runtime.worker_threads(1).enable_all().build()?;
    runtime.block_on(run_in_runtime(args, options))
}

async fn run_in_runtime(args: &RunArgs, options: KeeperOptions) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    // It starts while we connect.
    let mut supervisor = Supervisor::start(args)?;
    let keeper = tokio::select! {
        keeper = options.connect(&args.connection.servers) => keeper?,
        signal = signals.end() => return Ok(Exit::Signal(signal)),
    };
    let done = acquire_and_run(args, &keeper, &mut signals, &mut supervisor).await;
    // Deletes a node that waits, and ends the session. If there is no connection, the session ends by itself.
    let _ = timeout(GOODBYE, keeper.close()).await;
    done
}

async fn acquire_and_run(
    args: &RunArgs,
    keeper: &Keeper,
    signals: &mut Signals,
    supervisor: &mut Supervisor<'_>,
) -> Result<Exit, Failure> {
    // The server may have granted another session timeout than the one that was asked for.
    let session_timeout = keeper.session_timeout();
    check_margins(args.margins(session_timeout), session_timeout)?;
    let request = Request::new(args, keeper)?;
    let mut events = keeper.events();
    let mut pause = Pause::default();
    loop {
        let acquired = tokio::select! {
            acquired = request.acquire() => acquired,
            never = progress::show(keeper, &args.paths) => match never {},
            signal = signals.end() => return Ok(Exit::Signal(signal)),
        };
        let held = match acquired {
            Ok(held) => held,
            Err(failure) => return Err(gave_up(keeper, &mut events).await.unwrap_or(failure)),
        };
        let begun = Instant::now();
        let ended = supervisor.run(&held, keeper.session_timeout(), signals).await?;
        release(held).await;
        match ended {
            Ended::Exited(exit) if !args.again => return Ok(exit),
            // Whoever ends us ends the repetition, too.
            Ended::Asked(exit) => return Ok(exit),
            Ended::LeaseOver { asked } if asked || !args.again => {
                return Err(Failure::new(
                    Exit::Lost,
                    "the lock was lost, and the command was ended before that",
                ));
            }
            Ended::Exited(_) | Ended::LeaseOver { .. } => {}
        }
        tokio::select! {
            () = tokio::time::sleep(pause.after(begun.elapsed())) => {}
            signal = signals.end() => return Ok(Exit::Signal(signal)),
        }
    }
}

/// Why the keeper gave up, as when the servers no longer accept the credentials. `None` if it has not.
async fn gave_up(keeper: &Keeper, events: &mut Events) -> Option<Failure> {
    if keeper.state().get().status != SessionStatus::Closed {
        return None;
    }
    // The stream of a closed keeper ends.
    while let Some(event) = events.next().await {
        if let SessionEvent::GaveUp { error } = event {
            return Some(error.into());
        }
    }
    None
}

/// Releases, unless there is no connection. The node then ends with the session.
async fn release(held: Held) {
    let _ = timeout(GOODBYE, held.release()).await;
}

/// How long to wait for the servers when nothing depends on them any more.
const GOODBYE: Duration = Duration::from_secs(2);

/// The pause before a command is run again: it doubles while the command ends at once.
#[derive(Default)]
struct Pause(Duration);

impl Pause {
    fn after(&mut self, ran: Duration) -> Duration {
        const FIRST: Duration = Duration::from_millis(500);
        const LONGEST: Duration = Duration::from_secs(30);
        self.0 = match ran < LONGEST {
            true => (self.0 * 2).clamp(FIRST, LONGEST),
            false => FIRST,
        };
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_while_the_command_ends_at_once() {
        let mut pause = Pause::default();
        let mut after = |seconds| pause.after(Duration::from_secs(seconds)).as_millis();
        assert_eq!([0, 0, 0].map(&mut after), [500, 1000, 2000]);
        assert_eq!(after(3600), 500);
        assert_eq!([0; 7].map(&mut after).last(), Some(&30_000));
    }
}
