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
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => {
            complain(&failure);
            failure.exit.into()
        }
    }
}

fn in_runtime(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(command)
}

fn complain(failure: &Failure) {
    // Standard error may be closed. There is nobody else to tell.
    let _ = writeln!(std::io::stderr(), "lockkeeper: {}", failure.message);
}
