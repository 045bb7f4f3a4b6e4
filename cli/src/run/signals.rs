//! The signals that this process gets, as a stream.

use std::fs;
use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Those that the command gets, too.
const FORWARDED: [Signal; 6] =
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];

/// The signals that have arrived, in order. From its creation on, none of them ends this process.
pub struct Signals {
    arrived: mpsc::UnboundedReceiver<Signal>,
}

impl Signals {
    /// Listens from now on. Needs a Tokio runtime.
    ///
    /// Signals that this process was started to ignore, as by `nohup`, stay ignored. The command inherits that.
    pub fn listen() -> io::Result<Signals> {
        let (sender, arrived) = mpsc::unbounded_channel();
        let ignored = ignored();
        let heard = FORWARDED.into_iter().filter(|kind| ignored & (1 << (kind.as_raw() - 1)) == 0);
        for kind in heard.chain([Signal::CONT]) {
            let (mut stream, sender) = (signal(SignalKind::from_raw(kind.as_raw()))?, sender.clone());
            tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(kind).is_ok() {} });
        }
        Ok(Signals { arrived })
    }

    /// The next signal: one that the command gets, or CONT. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        match self.arrived.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    /// Waits for a signal that ends a process which has no command yet, and returns its number. Cancel safe.
    pub async fn end(&mut self) -> i32 {
        loop {
            let signal = self.next().await;
            if ends(signal) {
                return signal.as_raw();
            }
        }
    }
}

/// The signals that this process ignores, one bit each. Only Linux shows them.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

/// Whether a signal asks for the end of a process, and is not a message to it.
pub fn ends(signal: Signal) -> bool {
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT].contains(&signal)
}
