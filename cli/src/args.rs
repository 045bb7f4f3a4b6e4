//! The arguments of all commands.

use std::io::Write;

use clap::error::ErrorKind;
use clap::{ArgAction, Parser, Subcommand};

use crate::doctor::DoctorArgs;
use crate::exit::Exit;
use crate::list::{ListArgs, ShowArgs};
use crate::manual::{CompletionsArgs, ManArgs};
use crate::repair::{BreakArgs, ResizeArgs};
use crate::run::{LaunchArgs, RunArgs, WatchdogArgs};
use crate::serve::ServeArgs;
use crate::top::TopArgs;

/// Runs commands under distributed locks on ZooKeeper, and shows the holders and waiters of locks
#[derive(Debug, Parser)]
#[command(name = "lockkeeper", version, arg_required_else_help = true, after_help = EXITS)]
pub struct Cli {
    /// Logs to standard error: -v what happens to the session, -vv details, -vvv everything
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,

    #[command(subcommand)]
    pub command: Command,
}

// A process has one.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(RunArgs),
    #[command(name = "ls")]
    List(ListArgs),
    Show(ShowArgs),
    Top(TopArgs),
    Doctor(DoctorArgs),
    Break(BreakArgs),
    Resize(ResizeArgs),
    Serve(ServeArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// The processes that `run` starts beside the command, which are this program, too. They are no commands for users, so
/// neither help nor completions show them.
#[derive(Debug, Parser)]
pub enum Helper {
    #[command(name = "__launch")]
    Launch(LaunchArgs),
    #[command(name = "__watchdog")]
    Watchdog(WatchdogArgs),
}

impl Helper {
    /// Parses the arguments of this process, if they are those of a helper.
    pub fn from_arguments() -> Option<Helper> {
        let first = std::env::args_os().nth(1)?;
        first.as_encoded_bytes().starts_with(b"__").then(|| Helper::try_parse().ok()).flatten()
    }
}

impl Cli {
    /// Parses the arguments of this process. An error has been reported, in one line.
    pub fn from_arguments() -> Result<Cli, Exit> {
        Cli::try_parse().map_err(|error| {
            match error.kind() {
                // These go to standard output, or standard error, as they are.
                ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => drop(error.print()),
                _ => drop(writeln!(std::io::stderr(), "lockkeeper: {}", in_one_line(&error))),
            }
            match error.use_stderr() {
                true => Exit::Usage,
                false => Exit::Success,
            }
        })
    }

    /// Starts the log, if the user wants one.
    pub fn start_log(&self) {
        let level = match self.verbose {
            0 => return,
            1 => tracing_subscriber::filter::LevelFilter::INFO,
            2 => tracing_subscriber::filter::LevelFilter::DEBUG,
            _ => tracing_subscriber::filter::LevelFilter::TRACE,
        };
        tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).init();
    }
}

/// What is wrong, and what to do, without the usage that clap appends.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    let message = words.join(" ");
    format!("{}; `lockkeeper help` says more", message.trim_start_matches("error: "))
}

const EXITS: &str = "\
Exit codes:
  0    done
  1    the request was refused, or `doctor` found something
  64   the arguments cannot be used
  69   no server was reached, or none answered
  75   not acquired: another contender holds it
  76   the lock was lost, and the command was ended
  77   the servers or an access list denied it
  126  the command cannot be executed
  127  the command does not exist
  else the code of the command, or 128 plus the number of the signal that ended it";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_and_the_manual_have_every_exit_code() {
        let manual = include_str!("../../docs/cli.md");
        for exit in [
            Exit::Success,
            Exit::Failure,
            Exit::Usage,
            Exit::NoServer,
            Exit::NotAcquired,
            Exit::Lost,
            Exit::Denied,
            Exit::NotExecutable,
            Exit::NotFound,
        ] {
            let code = exit.code();
            assert!(manual.contains(&format!("\n| {code} | ")), "{exit:?}");
            assert!(EXITS.lines().any(|line| line.trim().starts_with(&format!("{code} "))), "{exit:?}");
        }
    }
}
