//! This program, to be started again as one of its other processes.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// This program, for a process of our own.
pub fn ourselves() -> Command {
    // This works even if the file has been replaced or deleted meanwhile.
    let link = "/proc/self/exe";
    let program = match cfg!(target_os = "linux") && fs::metadata(link).is_ok() {
        true => link.into(),
        false => std::env::current_exe().unwrap_or_else(|_| "lockkeeper".into()),
    };
    let mut command = Command::new(program);
    command.arg0("lockkeeper");
    command
}
