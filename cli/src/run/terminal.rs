//! The controlling terminal: which process group it serves.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;

use nix::sys::signal::{SigSet, Signal as Blocked};
use rustix::process::{Pid, Signal, getpgrp, kill_current_process_group};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// The controlling terminal of this process.
pub struct Terminal {
    device: File,
    /// Whether we are part of a pipeline, whose other programs may use the terminal, as in `lockkeeper run … | less`.
    is_shared: bool,
}

impl Terminal {
    /// `None` if there is none, as under cron.
    pub fn open() -> Option<Terminal> {
        let device = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let is_pipe = |path| fs::metadata(path).is_ok_and(|stream| stream.file_type().is_fifo());
        Some(Terminal { device, is_shared: is_pipe("/dev/stdin") || is_pipe("/dev/stdout") })
    }

    /// Lends the terminal to a group, unless others may use it. Then the group gets it when it wants to read from it.
    pub fn offer(&self, group: Pid) {
        if !self.is_shared {
            self.lend(group);
        }
    }

    /// Lets a group read from the terminal and get its signals, if they are ours to give.
    fn lend(&self, group: Pid) {
        if self.serves(getpgrp()) {
            // Fails if the terminal has gone. Then there is nothing to give.
            let _ = tcsetpgrp(&self.device, group);
        }
    }

    /// Takes the terminal back from a group.
    pub fn take_back(&self, group: Pid) {
        if self.serves(group) {
            let _ = tcsetpgrp(&self.device, getpgrp());
        }
    }

    /// Whether this group is in the foreground.
    pub fn serves(&self, group: Pid) -> bool {
        tcgetpgrp(&self.device).is_ok_and(|foreground| foreground == group)
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
