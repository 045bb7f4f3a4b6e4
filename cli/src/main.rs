//! The command `lockkeeper`: runs a command under a distributed lock on ZooKeeper, and shows the holders and waiters of locks.
//!
//! Its manual is `docs/cli.md`.

#![forbid(unsafe_code)]

mod args;
mod connect;
mod doctor;
mod exit;
mod list;
mod manual;
mod repair;
mod run;
mod serve;
mod text;
mod top;

use std::io::Write;
use std::process::ExitCode;

use args::{Cli, Command, Helper};
use clap::CommandFactory;
use exit::{Exit, Failure};
use rustix::process::{Pid, Signal, getpid};
use signal_hook::low_level::emulate_default_handler;

fn main() -> ExitCode {
    if let Some(helper) = Helper::from_arguments() {
        return ended(match helper {
            Helper::Launch(args) => Err(run::launch(&args)),
            Helper::Watchdog(args) => Ok(run::watchdog(&args)),
        });
    }
    let cli = match Cli::from_arguments() {
        Ok(cli) => cli,
        Err(ended) => return ended.into(),
    };
    cli.start_log();
    let done = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::List(args) => in_runtime(list::list(&args)),
        Command::Show(args) => in_runtime(list::show(&args)),
        Command::Top(args) => in_runtime(top::top(&args)),
        Command::Doctor(args) => in_runtime(doctor::doctor(&args)),
        Command::Break(args) => in_runtime(repair::break_node(&args)),
        Command::Resize(args) => in_runtime(repair::resize(&args)),
        Command::Serve(args) => in_runtime(serve::serve(&args)),
        Command::Completions(args) => manual::completions(&args, Cli::command()),
        Command::Man(args) => manual::man(&args, Cli::command()),
    };
    ended(done)
}

fn ended(done: Result<Exit, Failure>) -> ExitCode {
    let exit = done.unwrap_or_else(|failure| {
        complain(&failure);
        failure.exit
    });
    if exit == Exit::Signal(Signal::INT.as_raw()) {
        die_by_interrupt();
    }
    exit.into()
}

/// Ends this process by the signal of Ctrl-C. A shell that sees this ends its loop; as an exit code it shows the same.
fn die_by_interrupt() {
    // The kernel spares the first process of a namespace.
    if getpid() != Pid::INIT {
        // If it fails, the exit code tells.
        let _ = emulate_default_handler(Signal::INT.as_raw());
    }
}

fn in_runtime(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(command)
}

fn complain(failure: &Failure) {
    // Standard error may be closed. There is nobody else to tell.
    let _ = writeln!(std::io::stderr(), "lockkeeper: {}", failure.message);
}
