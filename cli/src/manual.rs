//! `completions` and `man`: text for shells and for `man`, made from the arguments themselves.

use std::io::Write;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::exit::{Exit, Failure, written};

/// Write the completions for a shell
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  lockkeeper completions bash > /etc/bash_completion.d/lockkeeper")]
pub struct CompletionsArgs {
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Write a manual page
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  lockkeeper man > /usr/share/man/man1/lockkeeper.1
  lockkeeper man run | man -l -")]
pub struct ManArgs {
    /// The command that the page is about; the page of `lockkeeper` names all of them
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

pub fn completions(args: &CompletionsArgs, mut command: Command) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "lockkeeper", &mut text);
    written(std::io::stdout().write_all(&text), Exit::Success)
}

pub fn man(args: &ManArgs, command: Command) -> Result<Exit, Failure> {
    let about = match &args.command {
        None => command,
        Some(name) => {
            let found = command.get_subcommands().find(|command| command.get_name() == name);
            let found =
                found.cloned().ok_or_else(|| Failure::usage(format!("there is no command {name:?}")))?;
            found.name(format!("lockkeeper-{name}"))
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(about).render(&mut text)?;
    written(std::io::stdout().write_all(&text), Exit::Success)
}
