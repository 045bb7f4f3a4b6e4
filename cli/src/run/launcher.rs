//! The launcher: a process that becomes the command.
//!
//! It asks the kernel to kill it when its parent dies, which lasts when it becomes the command. Then it stops itself.
//! When it is continued, the watchdog knows its group, and the group has the terminal. So no process of the command
//! ever runs that nobody would end.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;
use rustix::process::{Pid, Signal, getpid, getppid, kill_process};

use super::program::ourselves;
use crate::exit::{Exit, Failure};

#[derive(Args, Debug)]
pub struct LaunchArgs {
    /// The process that starts the launcher
    parent: i32,

    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// The launcher of a command, not started yet.
pub fn command(command: &[OsString]) -> Command {
    let mut launch = ourselves();
    launch.args(["__launch", &getpid().as_raw_nonzero().to_string(), "--"]).args(command);
    launch
}

/// Becomes the command. Returns only if that fails.
pub fn launch(args: &LaunchArgs) -> Failure {
    die_with_parent();
    // The parent may have died before.
    if getppid() != Pid::from_raw(args.parent) {
        return Failure::new(Exit::Failure, "the parent of the launcher has ended");
    }
    let _ = kill_process(getpid(), Signal::STOP);
    let Some((program, arguments)) = args.command.split_first() else {
        return Failure::usage("there is no command");
    };
    let error = Command::new(program).args(arguments).exec();
    let exit = match error.kind() {
        ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::NotExecutable,
    };
    let _ = std::io::stderr().flush();
    Failure::new(exit, format!("cannot run {}: {error}", program.to_string_lossy()))
}

/// On other systems, only the watchdog ends the command of a parent that died.
fn die_with_parent() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // Fails only for an invalid signal.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
}
