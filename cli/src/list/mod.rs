//! `ls` and `show`: the holders and waiters of locks and semaphores.

pub mod json;

use std::io::{self, Write};
use std::time::SystemTime;

use clap::Args;
use lockkeeper::inspect::{Entry, Inventory, PathState, Pool, Queue};
use lockkeeper::{Mode, check_path};

use crate::connect::Connection;
use crate::exit::{Exit, Failure, written};
use crate::text::{Table, age, foreign, has_colours, session, shell_word};

/// List locks and semaphores, with their holders and waiters
///
/// A lock that nobody holds or waits for is not listed.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  lockkeeper ls
  lockkeeper ls /locks
  lockkeeper ls --json / | jq -r '.places[] | select(.waiters > 10) | .path'")]
pub struct ListArgs {
    /// Where to begin
    #[arg(default_value = "/", value_name = "PREFIX")]
    prefix: String,

    /// Write JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

/// Show the queue of one lock or semaphore
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  lockkeeper show /locks/backup
  lockkeeper show --json /pools/gpu | jq '.taken | length'")]
pub struct ShowArgs {
    /// The path of the lock or semaphore
    #[arg(value_name = "PATH")]
    path: String,

    /// Write JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

/// Checks where a walk begins.
pub fn check_prefix(prefix: &str) -> Result<(), Failure> {
    match prefix {
        "/" => Ok(()),
        prefix => Ok(check_path(prefix)?),
    }
}

pub async fn list(args: &ListArgs) -> Result<Exit, Failure> {
    check_prefix(&args.prefix)?;
    let keeper = args.connection.connect().await?;
    let found = keeper.inspector().walk(&args.prefix).await;
    keeper.close().await;
    let (found, now, mut out) = (found?, SystemTime::now(), io::stdout().lock());
    check_readable(&found, &args.prefix)?;
    if args.json {
        return written(writeln!(out, "{:#}", json::list(&found, now)), Exit::Success);
    }
    let mut table = Table::new(&HEADINGS);
    for place in &found.places {
        table.row(Summary::of(place).cells(now));
    }
    let listed = table.write(&mut out, has_colours(&io::stdout()));
    if let Some(unreadable) = unreadable(&found) {
        let doctor = format!("lockkeeper doctor {}", shell_word(&args.prefix));
        // If standard error is closed, nobody wants to know.
        let _ = writeln!(io::stderr(), "lockkeeper: {unreadable} with these credentials; see `{doctor}`");
    }
    written(listed, Exit::Success)
}

/// Fails if nothing is known of what is there.
pub fn check_readable(found: &Inventory, prefix: &str) -> Result<(), Failure> {
    match found.unreadable.iter().any(|path| path == prefix) {
        true => Err(Failure::new(Exit::Denied, format!("{prefix} may not be read with these credentials"))),
        false => Ok(()),
    }
}

/// How many nodes may not be read, if there are such: what is below them is not shown.
pub fn unreadable(found: &Inventory) -> Option<String> {
    match found.unreadable.len() {
        0 => None,
        1 => Some("1 node may not be read".to_owned()),
        count => Some(format!("{count} nodes may not be read")),
    }
}

pub async fn show(args: &ShowArgs) -> Result<Exit, Failure> {
    check_path(&args.path)?;
    let keeper = args.connection.connect().await?;
    let state = keeper.inspector().look(&args.path).await;
    keeper.close().await;
    written(write(args, state?.as_ref()), Exit::Success)
}

fn write(args: &ShowArgs, state: Option<&PathState>) -> io::Result<()> {
    let (now, mut out) = (SystemTime::now(), io::stdout().lock());
    if args.json {
        return writeln!(out, "{:#}", json::show(&args.path, state, now));
    }
    let colours = has_colours(&io::stdout());
    match state {
        None => writeln!(out, "nobody holds {} or waits for it", args.path),
        Some(PathState::Semaphore(pool)) => {
            writeln!(out, "{} of {} permits are taken", pool.taken.len(), limit(pool))?;
            taken(pool, now).write(&mut out, colours)?;
            writeln!(out, "\n{} in the queue for permits", pool.mutex.entries.len())?;
            queue(&pool.mutex, now).write(&mut out, colours)
        }
        Some(state) => queue(state.queue(), now).write(&mut out, colours),
    }
}

/// How much of what others wrote is shown.
const WIDTH: usize = 60;

/// A place in one line.
#[derive(Clone, Debug)]
pub struct Summary {
    pub path: String,
    pub kind: &'static str,
    /// The first holder, and how many others there are.
    pub holder: String,
    /// Since when the first holder has its node.
    pub since: Option<SystemTime>,
    pub waiters: usize,
    /// Since when the one waits that has waited longest.
    pub oldest: Option<SystemTime>,
}

impl Summary {
    pub fn of(place: &PathState) -> Summary {
        let waiters = waiters(place);
        let oldest = waiters.iter().filter_map(|entry| entry.created).min();
        let (first, count) = match place {
            PathState::Semaphore(pool) => {
                let first = pool.taken.first();
                let first = first.map(|it| (identifier(&it.holder.identifier, it.readable), it.created));
                (first, pool.taken.len())
            }
            state => {
                let first = state.queue().holders().next();
                let count = state.queue().holders().count();
                let first = first.map(|it| (identifier(&it.contender.identifier, it.readable), it.created));
                (first, count)
            }
        };
        let (holder, since) = first.unwrap_or_else(|| ("-".to_owned(), None));
        let holder = match count {
            0 | 1 => holder,
            count => format!("{holder} and {} more", count - 1),
        };
        let path = foreign(place.path(), usize::MAX);
        Summary { path, kind: kind(place), holder, since, waiters: waiters.len(), oldest }
    }

    /// The cells of a row: see [`HEADINGS`].
    pub fn cells(&self, now: SystemTime) -> Vec<String> {
        let ago = |time: Option<SystemTime>| time.map_or_else(|| "-".to_owned(), |time| age(Some(time), now));
        let (path, holder, waiters) = (self.path.clone(), self.holder.clone(), self.waiters.to_string());
        vec![path, self.kind.to_owned(), holder, ago(self.since), waiters, ago(self.oldest)]
    }
}

pub const HEADINGS: [&str; 6] = ["PATH", "KIND", "HOLDER", "HELD", "WAITERS", "OLDEST WAIT"];

/// Those that wait. Of a semaphore, that is its queue: the first one there is about to take permits, or waits for some.
pub fn waiters(place: &PathState) -> Vec<&Entry> {
    match place {
        PathState::Semaphore(pool) => pool.mutex.entries.iter().collect(),
        state => state.queue().waiters().collect(),
    }
}

/// The kind of a place, as far as its nodes show it.
pub fn kind(place: &PathState) -> &'static str {
    let is_shared = |entry: &Entry| matches!(entry.contender.mode, Mode::Read | Mode::Write);
    match place {
        PathState::Semaphore(_) => "semaphore",
        state if state.queue().entries.iter().any(is_shared) => "read/write",
        _ => "lock",
    }
}

/// The mode of an entry, as a word.
pub fn mode(entry: &Entry) -> &'static str {
    match entry.contender.mode {
        Mode::Read => "read",
        Mode::Write => "write",
        _ => "lock",
    }
}

fn limit(pool: &Pool) -> String {
    pool.limit.map_or_else(|| "an unknown number of".to_owned(), |limit| limit.to_string())
}

fn queue(queue: &Queue, now: SystemTime) -> Table {
    let mut table = Table::new(&["#", "MODE", "IDENTIFIER", "SESSION", "TOKEN", "AGE", "WAITS FOR", "NODE"]);
    for (position, entry) in queue.entries.iter().enumerate() {
        let waits_for = entry.waits_for.map_or_else(|| "-".to_owned(), |position| format!("#{position}"));
        table.row(vec![
            position.to_string(),
            mode(entry).to_owned(),
            identifier(&entry.contender.identifier, entry.readable),
            if_shown(entry.created, session(entry.contender.session)),
            if_shown(entry.created, entry.contender.token.to_string()),
            age(entry.created, now),
            waits_for,
            foreign(&entry.contender.name, usize::MAX),
        ]);
    }
    table
}

fn taken(pool: &Pool, now: SystemTime) -> Table {
    let mut table = Table::new(&["IDENTIFIER", "SESSION", "AGE", "NODE"]);
    for taken in &pool.taken {
        table.row(vec![
            identifier(&taken.holder.identifier, taken.readable),
            if_shown(taken.created, session(taken.holder.session)),
            age(taken.created, now),
            foreign(&taken.holder.name, usize::MAX),
        ]);
    }
    table
}

/// What the server says of a node, or `?`: newer ones do not show nodes that may not be read.
pub fn if_shown(created: Option<SystemTime>, text: String) -> String {
    created.map_or_else(|| "?".to_owned(), |_| text)
}

/// What an owner calls itself.
pub fn identifier(text: &str, readable: bool) -> String {
    match readable {
        true => foreign(text, WIDTH),
        false => "(may not be read)".to_owned(),
    }
}
