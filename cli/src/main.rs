//! The command `lockkeeper`: runs a command under a distributed lock on ZooKeeper, and shows who holds and who waits.
//!
//! Its manual is `docs/cli.md`.

#![forbid(unsafe_code)]

mod args;
mod connect;
mod exit;
mod run;
mod text;

use std::io::Write;
use std::process::ExitCode;

use args::{Cli, Command};
use exit::{Exit, Failure};

fn main() -> ExitCode {
    let cli = match Cli::from_arguments() {
        Ok(cli) => cli,
        Err(ended) => return ended.into(),
    };
    cli.start_log();
    let done = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Launch(args) => Err(run::launch(&args)),
        Command::Watchdog(args) => Ok(run::watchdog(&args)),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => {
            complain(&failure);
            failure.exit.into()
        }
    }
}

fn complain(failure: &Failure) {
    if failure.exit != Exit::Success && !failure.message.is_empty() {
        // Standard error may be closed. There is nobody else to tell.
        let _ = writeln!(std::io::stderr(), "lockkeeper: {}", failure.message);
    }
}
