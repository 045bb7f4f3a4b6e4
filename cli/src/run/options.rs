//! The arguments of `run`, and what is checked before anything is connected.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ValueEnum};
use lockkeeper::auth::Acl;
use lockkeeper::{Dialect, KeeperOptions, LockOptions, Mode, check_path};

use super::acl;
use crate::connect::{Connection, Prepared};
use crate::exit::Failure;

/// Run a command while a lock is held
///
/// Waits for the lock, runs the command in a process group of its own, and releases the lock when the whole group has
/// ended. If the lock cannot be kept, the group is ended before anybody else can hold it. Several paths are acquired
/// together, all or none.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct RunArgs {
    /// Acquire to read: others may read at the same time
    #[arg(long, conflicts_with_all = ["write", "permits"])]
    pub read: bool,

    /// Acquire to write: nobody else may read or write
    #[arg(long, conflicts_with = "permits")]
    pub write: bool,

    /// Take this many permits of a semaphore
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub permits: Option<u32>,

    /// How many permits the semaphore has; if absent, the number that is stored
    #[arg(long, value_name = "M", requires = "permits", value_parser = clap::value_parser!(u32).range(1..))]
    pub of: Option<u32>,

    /// Do not wait: exit with 75 if another contender is ahead
    #[arg(long = "try", conflicts_with_all = ["wait", "again"])]
    pub once: bool,

    /// Wait for this long at most, then exit with 75, or with 69 if no server answers
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "again")]
    pub wait: Option<Duration>,

    /// Queue again when the command has ended, or the lock was lost
    #[arg(long)]
    pub again: bool,

    /// When the command gets TERM: when the lease is about to end, or as soon as it is in doubt
    #[arg(long, value_enum, default_value_t = StopOn::Ending, value_name = "WHEN")]
    pub stop_on: StopOn,

    /// How long before the end of the lease the command gets TERM; a quarter of the session timeout by default, or
    /// --kill-before if that is more; three eighths at most
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub term_before: Option<Duration>,

    /// How long before the end of the lease the command gets KILL; an eighth of the session timeout by default, or half
    /// of --term-before if that is less
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub kill_before: Option<Duration>,

    /// The exit code if another contender holds the lock, instead of 75; without servers it is always 69
    #[arg(long, value_name = "CODE")]
    pub conflict_exit_code: Option<u8>,

    /// Who may do what with nodes and directories that are created, as scheme:id:permissions; everyone everything by
    /// default
    ///
    /// Give it once for each entry of the access list. The syntax is that of ZooKeeper's own shell. The permissions are
    /// letters: c for create, d for delete, r for read, w for write, and a for admin. `auth::cdrwa` permits everything to
    /// clients with the credentials of this command. `world:anyone:r` permits everyone to read. Every contender needs c,
    /// d and r.
    #[arg(long, value_name = "ENTRY", value_parser = acl::entry)]
    pub acl: Vec<Acl>,

    /// Create missing directories as containers, which the servers delete when they are empty
    ///
    /// Not where clients of kazoo use the path, and not for semaphores, whose node keeps the number of permits.
    #[arg(long, conflicts_with = "permits")]
    pub container_directories: bool,

    /// The client library whose node names are used, the same for all clients of a path
    #[arg(long, value_enum, default_value_t = DialectName::Kazoo, value_name = "NAME", conflicts_with = "permits")]
    pub dialect: DialectName,

    /// The paths of the locks
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<String>,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,

    #[command(flatten)]
    pub connection: Connection,
}

/// When the command is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StopOn {
    /// When `--term-before` is left of the lease.
    Ending,
    /// When the connection is in doubt.
    Suspended,
}

/// A client library that has locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DialectName {
    /// kazoo's Lock, ReadLock and WriteLock.
    Kazoo,
    /// Curator's `InterProcessMutex`, and with `--read` or `--write` its `InterProcessReadWriteLock`.
    Curator,
}

impl RunArgs {
    /// Checks what can be checked without a server, and reads what is needed to connect.
    pub fn prepare(&self) -> Result<KeeperOptions, Failure> {
        for (index, path) in self.paths.iter().enumerate() {
            check_path(path)?;
            if self.paths[..index].contains(path) {
                return Err(Failure::usage(format!("{path:?} is given twice: name each path once")));
            }
        }
        if let Some(permits) = self.permits {
            if self.paths.len() > 1 {
                return Err(Failure::usage(
                    "permits of one semaphore at a time: give one path with --permits",
                ));
            }
            if let Some(of) = self.of.filter(|of| permits > *of) {
                return Err(Failure::usage(format!(
                    "--permits {permits} is above --of {of}: ask for at most {of}"
                )));
            }
        }
        let session_timeout = self.connection.session_timeout;
        check_margins(self.margins(session_timeout), session_timeout)?;
        let Prepared { options, has_credentials } = self.connection.read()?;
        acl::check(&self.acl, has_credentials)?;
        // An empty list stands for the default.
        Ok(if self.acl.is_empty() { options } else { options.acl(self.acl.clone()) })
    }

    /// The mode of each path.
    pub fn mode(&self) -> Mode {
        match (self.read, self.write) {
            (true, _) => Mode::Read,
            (_, true) => Mode::Write,
            (false, false) => Mode::Lock,
        }
    }

    /// The options of the locks.
    pub fn lock_options(&self) -> LockOptions {
        let dialect = match self.dialect {
            DialectName::Kazoo => Dialect::Kazoo,
            DialectName::Curator => Dialect::Curator,
        };
        LockOptions::new().dialect(dialect).container_directories(self.container_directories)
    }

    /// How long before the end of the lease the command gets TERM and KILL.
    pub fn margins(&self, session_timeout: Duration) -> (Duration, Duration) {
        let default = session_timeout / 4;
        let term = self.term_before.unwrap_or(self.kill_before.map_or(default, |kill| default.max(kill)));
        (term, self.kill_before.unwrap_or((session_timeout / 8).min(term / 2)))
    }
}

/// Between two heartbeats a lease that is in order has more than this left.
pub fn longest_margin(session_timeout: Duration) -> Duration {
    session_timeout / 8 * 3
}

/// Margins that are too long, cut to the longest one.
pub fn within((term, kill): (Duration, Duration), longest: Duration) -> (Duration, Duration) {
    (term.min(longest), kill.min(longest))
}

/// Checks when the command gets TERM and KILL.
pub fn check_margins((term, kill): (Duration, Duration), session_timeout: Duration) -> Result<(), Failure> {
    let longest = longest_margin(session_timeout);
    if kill.is_zero() || term < kill || term > longest {
        return Err(Failure::usage(format!(
            "TERM {term:?} and KILL {kill:?} before the end of the lease: TERM must come first, KILL before the end, and \
             both within {longest:?}, which is three eighths of the session timeout"
        )));
    }
    Ok(())
}

const EXAMPLES: &str = "\
Examples:
  lockkeeper run /locks/backup -- backup.sh --full
  lockkeeper run --try /locks/report -- make report    a cron job that skips a run if the last one still works
  lockkeeper run --wait 30s --write /data/index -- reindex
  lockkeeper run --permits 2 --of 8 /pools/gpu -- train
  lockkeeper run /accounts/alice /accounts/bob -- transfer
  lockkeeper run --again /singletons/scheduler -- scheduler    one in the cluster, always

The command finds in its environment:
  LOCKKEEPER_TOKEN  the fencing token, a number; larger than those of all earlier holders
  LOCKKEEPER_PATH   the path of the lock
  LOCKKEEPER_NODE   the path of the lock's node
With several paths, each has a line for each path. With several permits, LOCKKEEPER_NODE has a line for each permit, and
all have one token. A resource may refuse smaller tokens than it has seen, but not those of --permits or --read: several
hold at the same time then, and all their tokens are valid.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_of_a_later_session_are_those_that_its_timeout_allows() {
        let margins = |term, kill| (Duration::from_millis(term), Duration::from_millis(kill));
        let (asked, later) = (Duration::from_secs(20), Duration::from_secs(4));
        assert!(check_margins(margins(5000, 2000), asked).is_ok());
        for (given, cut) in [((5000, 2000), (1500, 1500)), ((1500, 500), (1500, 500))] {
            let cut = margins(cut.0, cut.1);
            assert_eq!(within(margins(given.0, given.1), longest_margin(later)), cut);
            assert!(check_margins(cut, later).is_ok(), "{cut:?}");
        }
    }
}
