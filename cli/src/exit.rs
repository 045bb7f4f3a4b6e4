//! Exit codes, and how a command fails.

use std::fmt;
use std::io;
use std::process::ExitCode;

use lockkeeper::error::{ConnectError, InvalidHandle, InvalidPath, QueryError};
use lockkeeper::inspect::InspectError;

/// Every exit code of its own. A command that ran gives its own code, or 128 plus the number of its signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was done, and nothing is wrong.
    Success,
    /// The request was refused, or `doctor` found something.
    Failure,
    /// The arguments cannot be used. Nothing was acquired.
    Usage,
    /// No server granted a session in time, or none answers.
    NoServer,
    /// Another contender holds what was asked for.
    NotAcquired,
    /// The lock was lost, so the command was ended.
    Lost,
    /// The servers rejected the credentials, or an access list denied the request.
    Denied,
    /// The command exists, and cannot be executed.
    NotExecutable,
    /// The command does not exist.
    NotFound,
    /// The code of a command that ran, or one that the user chose.
    Code(u8),
    /// This signal ended a command that ran, or this process.
    Signal(i32),
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Usage => 64,
            Exit::NoServer => 69,
            Exit::NotAcquired => 75,
            Exit::Lost => 76,
            Exit::Denied => 77,
            Exit::NotExecutable => 126,
            Exit::NotFound => 127,
            Exit::Code(code) => code,
            Exit::Signal(signal) => u8::try_from(signal).unwrap_or(127) | 128,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why a command ended before it was done: one line for standard error, and the exit code.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl fmt::Display) -> Failure {
        Failure { exit, message: message.to_string() }
    }

    /// Arguments that cannot be used.
    pub fn usage(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::Usage, message)
    }
}

impl From<InvalidPath> for Failure {
    fn from(error: InvalidPath) -> Failure {
        Failure::usage(error)
    }
}

impl From<InvalidHandle> for Failure {
    fn from(error: InvalidHandle) -> Failure {
        Failure::usage(error)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Failure {
        let exit = match &error {
            ConnectError::InvalidOption { .. } | ConnectError::InvalidAddress { .. } => Exit::Usage,
            ConnectError::AuthFailed { .. } => Exit::Denied,
            _ => Exit::NoServer,
        };
        Failure::new(exit, with_source(&error))
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Failure {
        let exit = match &error {
            QueryError::NoAuth { .. } => Exit::Denied,
            QueryError::Disconnected | QueryError::Unanswered { .. } => Exit::NoServer,
            _ => Exit::Failure,
        };
        Failure::new(exit, with_source(&error))
    }
}

impl From<InspectError> for Failure {
    fn from(error: InspectError) -> Failure {
        match error {
            InspectError::Path(error) => error.into(),
            InspectError::Query(error) => error.into(),
            error => Failure::new(Exit::Failure, error),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(Exit::Failure, error)
    }
}

/// The end of a command that has only to write its result. A reader that has seen enough, such as `head`, is no failure.
pub fn written(output: io::Result<()>, exit: Exit) -> Result<Exit, Failure> {
    match output {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(exit),
    }
}

/// The error in one line, with what caused it.
pub fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) if !error.to_string().contains(&source.to_string()) => format!("{error}: {source}"),
        Some(_) | None => error.to_string(),
    }
}
