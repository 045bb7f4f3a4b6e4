//! The controlling terminal: which process group it serves.

use std::fs::File;

use nix::sys::signal::{SigSet, Signal as Blocked};
use rustix::process::{Pid, Signal, getpgrp, kill_current_process_group};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// The controlling terminal of this process.
pub struct Terminal(File);

impl Terminal {
    /// `None` if there is none, as under cron.
    pub fn open() -> Option<Terminal> {
        File::options().read(true).write(true).open("/dev/tty").ok().map(Terminal)
    }

    /// Lets a group read from the terminal and get its signals, if they are ours to give.
    pub fn lend(&self, group: Pid) {
        if self.serves(getpgrp()) {
            // Fails if the terminal has gone. Then there is nothing to give.
            let _ = tcsetpgrp(&self.0, group);
        }
    }

    /// Takes the terminal back from a group.
    pub fn take_back(&self, group: Pid) {
        if self.serves(group) {
            let _ = tcsetpgrp(&self.0, getpgrp());
        }
    }

    /// Whether this group is in the foreground.
    pub fn serves(&self, group: Pid) -> bool {
        tcgetpgrp(&self.0).is_ok_and(|foreground| foreground == group)
    }

    /// Handles a stop of the command by this signal. If that is a matter of the terminal, this job is stopped as a whole,
    /// so that the shell gets the terminal, and this returns when the shell has continued it. Returns whether to
    /// continue the command; one that somebody has stopped by other means is left alone.
    pub fn stop_with(&self, group: Pid, signal: Option<i32>) -> bool {
        let wants_terminal =
            [Signal::TTIN, Signal::TTOU].map(|signal| Some(signal.as_raw())).contains(&signal);
        if self.serves(group) {
            self.take_back(group);
        } else if !wants_terminal {
            return false;
        }
        // A command that waits for a terminal which is ours gets it.
        if !(wants_terminal && self.serves(getpgrp())) {
            // The kernel ignores it if no shell could continue us.
            let _ = kill_current_process_group(Signal::TSTP);
        }
        self.lend(group);
        true
    }
}

/// A process in the background that takes the terminal back is stopped, unless it blocks this signal. The mask of this
/// thread is inherited by the threads that it starts.
pub fn block_background_writes() {
    let mut set = SigSet::empty();
    set.add(Blocked::SIGTTOU);
    // Fails only for an invalid argument.
    let _ = set.thread_block();
}
