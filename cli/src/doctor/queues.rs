//! What can be wrong with a lock.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use lockkeeper::inspect::{Entry, Queue};
use lockkeeper::{Dialect, Mode};

use super::facts::Facts;
use super::finding::{Finding, Kind, Report, Unchecked};
use crate::list::identifier;
use crate::text::{age, shell_word};

pub fn examine(queue: &Queue, facts: &Facts, report: &mut Report) {
    match &facts.server_time {
        Ok(now) => {
            report
                .findings
                .extend(queue.entries.iter().filter_map(|entry| orphan(queue, entry, facts, *now)));
        }
        Err(why) if may_have_orphans(queue, facts) => report.unchecked.push(Unchecked {
            kind: Kind::Orphan,
            path: queue.path.clone(),
            why: format!("it is not known how old a node is that outlives sessions: {why}"),
        }),
        Err(_) => {}
    }
    report.findings.extend(mixed_dialects(queue));
    report.findings.extend(sequence_numbers(queue));
    match &facts.watched {
        Ok(watched) => report.findings.extend(lock_beside_readers(queue, watched)),
        Err(why) if may_be_beside_readers(queue) => report.unchecked.push(Unchecked {
            kind: Kind::LockBesideReaders,
            path: queue.path.clone(),
            why: format!("somebody behind readers is a writer that waits, or a lock that holds; {why}"),
        }),
        Err(_) => {}
    }
}

/// The age below which the owner of a node is given the benefit of the doubt.
const YOUNG: Duration = Duration::from_secs(60);

/// Whether the age of a node decides whether it is an orphan.
pub fn may_have_orphans(queue: &Queue, facts: &Facts) -> bool {
    queue.entries.iter().any(|entry| suspicion(entry, facts).is_some())
}

/// A node that no session owns stays when its owner dies.
fn orphan(queue: &Queue, entry: &Entry, facts: &Facts, now: SystemTime) -> Option<Finding> {
    let why = suspicion(entry, facts)?;
    let contender = &entry.contender;
    if now.duration_since(entry.created?).unwrap_or_default() < YOUNG {
        return None;
    }
    Some(Finding {
        kind: Kind::Orphan,
        path: queue.path.clone(),
        nodes: vec![contender.name.clone()],
        what: format!(
            "the node of {} outlives sessions, is {} old, and {why}",
            identifier(&contender.identifier, true),
            age(entry.created, now)
        ),
        remedy: format!(
            "make sure that its owner has ended, also in other containers; then run: lockkeeper break {} {}",
            shell_word(&queue.path),
            shell_word(&contender.name)
        ),
    })
}

/// Why the owner of a node that outlives sessions may have ended.
fn suspicion(entry: &Entry, facts: &Facts) -> Option<&'static str> {
    let contender = &entry.contender;
    let shows_owner = contender.session.is_some() || facts.living.contains(&contender.identifier);
    if shows_owner || !entry.readable {
        return None;
    }
    match (facts.process_runs)(&contender.identifier) {
        Some(true) => None,
        Some(false) => Some("no such process is seen on this host, in the PID namespace of this command"),
        None => Some("no session below this path shows that its owner lives"),
    }
}

/// kazoo's clients, Curator's mutexes and Curator's read/write locks do not see each other.
fn mixed_dialects(queue: &Queue) -> Option<Finding> {
    let families: BTreeSet<&str> = queue.entries.iter().map(family).collect();
    let nodes = queue.entries.iter().map(|entry| entry.contender.name.clone());
    (families.len() > 1).then(|| Finding {
        kind: Kind::MixedDialects,
        path: queue.path.clone(),
        nodes: nodes.collect(),
        what: format!(
            "contenders of {} do not see each other, and may hold at the same time",
            families.into_iter().collect::<Vec<_>>().join(" and ")
        ),
        remedy: "let all clients of the path use one dialect, and one kind of lock".to_owned(),
    })
}

fn family(entry: &Entry) -> &'static str {
    match (entry.dialect, entry.contender.mode) {
        (Dialect::Curator, Mode::Lock) => "Curator's mutex",
        (Dialect::Curator, _) => "Curator's read/write lock",
        _ => "kazoo's dialect",
    }
}

/// The last number that a request can get, a little before the numbers wrap.
const LAST: i64 = 2_146_483_646;
/// From here on it is time to do something.
const NEAR: i64 = LAST - (1 << 27);

fn sequence_numbers(queue: &Queue) -> Option<Finding> {
    let lowest = queue.entries.iter().filter_map(|entry| number(&entry.contender.name)).min();
    let wrapped = lowest.is_some_and(|number| number < 0);
    (wrapped || queue.last_number >= NEAR).then(|| Finding {
        kind: Kind::SequenceNumbers,
        path: queue.path.clone(),
        nodes: Vec::new(),
        what: match wrapped || queue.last_number > LAST {
            true => "the sequence numbers are used up: requests are refused".to_owned(),
            false => format!(
                "{} of {LAST} sequence numbers are used: then requests are refused",
                queue.last_number
            ),
        },
        remedy: format!(
            "when nobody holds {} or waits for it, delete the directory; the next request creates it again",
            queue.path
        ),
    })
}

fn number(name: &str) -> Option<i64> {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (text, digits) = name.split_at(name.len() - digits);
    let number: i64 = digits.get(digits.len().saturating_sub(10)..)?.parse().ok()?;
    // After the wrap, a minus sign stands before the number, behind the two underscores of a marker.
    Some(if text.ends_with("_-") { -number } else { number })
}

/// Whether somebody behind readers may hold beside them: see [`lock_beside_readers`].
pub fn may_be_beside_readers(queue: &Queue) -> bool {
    suspects(queue).next().is_some()
}

/// kazoo's `Lock` does not wait for readers. Its nodes are named like those of writers, which do. A writer that waits
/// watches a reader ahead of it; a lock that holds watches nobody.
fn lock_beside_readers(queue: &Queue, watched: &BTreeSet<String>) -> Option<Finding> {
    let is_watched = |entry: &Entry| {
        let node = format!("{}/{}", queue.path, entry.contender.name);
        watched.iter().any(|path| path.ends_with(&node))
    };
    let suspect = suspects(queue).find(|(_, readers)| !readers.iter().any(is_watched));
    suspect.map(|(entry, readers)| Finding {
        kind: Kind::LockBesideReaders,
        path: queue.path.clone(),
        nodes: vec![entry.contender.name.clone()],
        what: format!(
            "{} has a Lock, which does not wait for readers, and {} ahead of it also hold",
            identifier(&entry.contender.identifier, entry.readable),
            match readers.len() {
                1 => "one reader".to_owned(),
                count => format!("{count} readers"),
            }
        ),
        remedy: "make sure that --servers names all servers, since others were not asked; where there are readers, use a \
                 write lock: kazoo's WriteLock, read_write(path)?.write(), run --write"
            .to_owned(),
    })
}

/// The contender behind readers alone, and those readers. In kazoo's dialect only: Curator's names tell the kinds apart.
fn suspects(queue: &Queue) -> impl Iterator<Item = (&Entry, &[Entry])> {
    let is_reader = |entry: &Entry| entry.dialect == Dialect::Kazoo && entry.contender.mode == Mode::Read;
    let readers = queue.entries.iter().take_while(|entry| is_reader(entry)).count();
    let next = queue.entries.get(readers).filter(|entry| entry.dialect == Dialect::Kazoo);
    let (readers, _) = queue.entries.split_at(readers);
    let last = readers.last();
    // A contender needs no watch on another one of its own session.
    let is_strange =
        |entry: &&Entry| last.is_some_and(|last| last.contender.session != entry.contender.session);
    next.filter(is_strange).map(|entry| (entry, readers)).into_iter()
}
