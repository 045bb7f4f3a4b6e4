//! `doctor`: names what is wrong with the locks and semaphores below a path, and what to do.
//!
//! What is concluded from what was read is pure: [`queues`], [`pools`], [`cycles`] and [`directories`]. It is concluded
//! twice, a moment apart, and only what both show is named: what happens in between is life, not a fault.

mod clock;
mod cycles;
mod directories;
mod facts;
mod finding;
mod pools;
mod queues;
mod watches;

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use lockkeeper::Keeper;
use lockkeeper::inspect::{Inventory, PathState};
use serde_json::json;

use self::facts::Facts;
use self::finding::{Finding, Report, Unchecked};
use crate::connect::Connection;
use crate::exit::{Exit, Failure, written};
use crate::list::check_prefix;
use crate::text::has_colours;

/// Name what is wrong, and what to do
///
/// Exits with 1 if something is wrong, and with 0 if nothing is. Says what it could not check.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  lockkeeper doctor
  lockkeeper doctor --json /locks | jq -r '.findings[].kind'")]
pub struct DoctorArgs {
    /// Where to begin
    #[arg(default_value = "/", value_name = "PREFIX")]
    prefix: String,

    /// Write JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

pub async fn doctor(args: &DoctorArgs) -> Result<Exit, Failure> {
    check_prefix(&args.prefix)?;
    let keeper = args.connection.connect().await?;
    let examined = examine_twice(&keeper, args).await;
    keeper.close().await;
    let report = examined?;
    let exit = if report.findings.is_empty() { Exit::Success } else { Exit::Failure };
    written(write(args, &report), exit)
}

fn write(args: &DoctorArgs, Report { findings, unchecked }: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if args.json {
        let findings: Vec<_> = findings.iter().map(Finding::json).collect();
        let unchecked: Vec<_> = unchecked.iter().map(Unchecked::json).collect();
        return writeln!(out, "{:#}", json!({ "findings": findings, "unchecked": unchecked }));
    }
    let colours = has_colours(&io::stdout());
    findings.iter().try_for_each(|finding| finding.write(&mut out, colours))?;
    unchecked.iter().try_for_each(|unchecked| unchecked.write(&mut out))?;
    match (findings.is_empty(), unchecked.is_empty()) {
        (true, true) => writeln!(out, "nothing is wrong below {}", args.prefix),
        (true, false) => writeln!(out, "nothing else is wrong below {}", args.prefix),
        (false, _) => Ok(()),
    }
}

/// Between the two looks. Longer than a turn at a semaphore takes, or a grant.
const PAUSE: Duration = Duration::from_secs(1);

async fn examine_twice(keeper: &Keeper, args: &DoctorArgs) -> Result<Report, Failure> {
    let first = examine_once(keeper, args).await?;
    if first.findings.is_empty() {
        return Ok(first);
    }
    tokio::time::sleep(PAUSE).await;
    let mut second = examine_once(keeper, args).await?;
    second.findings.retain(|finding| first.findings.iter().any(|before| before.is_same(finding)));
    Ok(second)
}

async fn examine_once(keeper: &Keeper, args: &DoctorArgs) -> Result<Report, Failure> {
    let found = keeper.inspector().walk(&args.prefix).await?;
    let mut facts = Facts::new(&found);
    // Only some findings need to know the time, and asking for it makes a node.
    if found.places.iter().any(|place| queues::may_have_orphans(place.queue(), &facts)) {
        facts.server_time = clock::server_time(keeper).await;
    }
    // Only some findings need to know the watches, and asking for them is costly for a large server.
    if found.places.iter().any(|place| queues::may_be_beside_readers(place.queue())) {
        facts.watched = match args.connection.uses_tls() {
            // A server that takes only TLS answers with silence, as one without watches does.
            true => Err("servers answer the word wchp without TLS only".to_owned()),
            false => watches::watched(&args.connection.servers).await,
        };
    }
    Ok(examine(&found, &facts))
}

/// What is wrong with what was found.
fn examine(found: &Inventory, facts: &Facts) -> Report {
    let mut report = Report::default();
    for place in &found.places {
        match place {
            PathState::Semaphore(pool) => pools::examine(pool, &mut report),
            state => queues::examine(state.queue(), facts, &mut report),
        }
    }
    cycles::examine(&found.places, &mut report);
    directories::examine(found, &mut report);
    report
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use lockkeeper::inspect::{Entry, LeaseHolder, Pool, Queue, Taken};
    use lockkeeper::{Dialect, Mode};

    use super::finding::Kind;
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    /// A holder, or a waiter for the entry at a position, of session 1, an hour old.
    fn entry(mode: Mode, session: i64, waits_for: Option<usize>) -> Entry {
        let mut entry = Entry::default();
        let word = if mode == Mode::Read { "rlock" } else { "lock" };
        entry.contender.name = format!("4b2d6a1f9c3e4d08a755{session:012x}__{word}__0000000000");
        entry.contender.identifier = format!("billing-{session}");
        entry.contender.mode = mode;
        entry.contender.session = Some(session);
        entry.created = Some(NOW - Duration::from_secs(3600));
        entry.readable = true;
        entry.waits_for = waits_for;
        entry
    }

    fn lock(session: i64, waits_for: Option<usize>) -> Entry {
        entry(Mode::Lock, session, waits_for)
    }

    fn queue(path: &str, entries: &[Entry]) -> Queue {
        let mut queue = Queue::default();
        queue.path = path.to_owned();
        queue.entries = entries.to_vec();
        queue
    }

    fn pool(limit: Option<u32>, taken: &[&str], waiting: &[Entry]) -> Pool {
        let mut pool = Pool::default();
        pool.path = "/pool".to_owned();
        pool.limit = limit;
        pool.mutex = queue("/pool__lock__", waiting);
        pool.taken.extend(taken.iter().map(|name| {
            let mut taken = Taken::default();
            taken.holder = LeaseHolder::default();
            taken.holder.name = format!("{name:0>32}");
            taken.holder.session = Some(1);
            taken.readable = true;
            taken
        }));
        pool
    }

    fn locks(queues: &[Queue]) -> Inventory {
        let mut found = Inventory::default();
        found.places.extend(queues.iter().cloned().map(PathState::Lock));
        found
    }

    fn one_lock(entries: &[Entry]) -> Inventory {
        locks(&[queue("/lock", entries)])
    }

    fn one_pool(pool: Pool) -> Inventory {
        let mut found = Inventory::default();
        found.places.push(PathState::Semaphore(pool));
        found
    }

    /// The facts of clusters whose processes run on other hosts, and where nobody watches anything.
    fn facts(found: &Inventory) -> Facts {
        Facts { server_time: Ok(NOW), process_runs: |_| None, ..Facts::new(found) }
    }

    fn kinds(found: &Inventory, facts: &Facts) -> Vec<Kind> {
        examine(found, facts).findings.iter().map(|finding| finding.kind).collect()
    }

    #[track_caller]
    fn named(found: &Inventory, kind: Kind, says: &str) {
        let report = examine(found, &facts(found));
        let [finding] = &report.findings[..] else { panic!("one finding, {kind:?}: {report:?}") };
        assert_eq!(finding.kind, kind, "{finding:?}");
        assert!(finding.what.contains(says) && !finding.remedy.is_empty(), "{finding:?}");
        assert_eq!(report.unchecked, []);
    }

    #[track_caller]
    fn healthy(found: &Inventory) {
        assert_eq!(examine(found, &facts(found)), Report::default());
    }

    #[test]
    fn nothing_is_named_where_nothing_is_wrong() {
        healthy(&Inventory::default());
        healthy(&one_lock(&[lock(1, None), lock(2, Some(0)), lock(1, Some(1))]));
        let (reader, writer) = (entry(Mode::Read, 1, None), entry(Mode::Write, 1, Some(0)));
        healthy(&one_lock(&[reader.clone(), entry(Mode::Read, 2, None)]));
        healthy(&one_lock(&[reader, writer]));
        healthy(&one_pool(pool(Some(2), &["a", "b"], &[lock(2, None), lock(3, Some(0))])));
        healthy(&one_pool(pool(Some(2), &["a"], &[])));
        // Two wait for one that waits for nobody.
        let (one, two) = (lock(1, None), lock(2, None));
        healthy(&locks(&[
            queue("/a", &[one.clone(), lock(2, Some(0)), lock(3, Some(1))]),
            queue("/b", &[two]),
            queue("/c", &[one, lock(3, Some(0))]),
        ]));
        let mut found = Inventory::default();
        found.empty.extend((0..99).map(|number| format!("/locks/{number}")));
        found.empty.extend((0..99).map(|number| format!("/others/{number}")));
        healthy(&found);
    }

    #[test]
    fn a_node_that_outlives_sessions_is_an_orphan_unless_its_owner_lives() {
        let mut lasting = lock(1, None);
        lasting.contender.session = None;
        let found = one_lock(&[lasting.clone()]);
        named(&found, Kind::Orphan, "is 1h old, and no session");
        let not_seen = Facts { process_runs: |_| Some(false), ..facts(&found) };
        let report = examine(&found, &not_seen);
        assert!(report.findings[0].what.contains("and no such process is seen on this host"), "{report:?}");
        let runs = Facts { process_runs: |_| Some(true), ..facts(&found) };
        assert_eq!(kinds(&found, &runs), []);
        // Another node shows that its owner lives, perhaps in another PID namespace.
        let other = locks(&[queue("/a", &[lasting.clone()]), queue("/b", &[lock(1, None)])]);
        healthy(&other);
        assert_eq!(kinds(&other, &Facts { process_runs: |_| Some(false), ..facts(&other) }), []);
    }

    #[test]
    fn commands_that_are_advised_are_quoted_for_a_shell() {
        let mut lasting = lock(1, None);
        lasting.contender.session = None;
        lasting.contender.name = "$(echo x)__lock__0000000000".to_owned();
        let found = locks(&[queue("/a lock", &[lasting])]);
        let report = examine(&found, &facts(&found));
        let remedy = &report.findings[0].remedy;
        assert!(remedy.ends_with("lockkeeper break '/a lock' '$(echo x)__lock__0000000000'"), "{remedy}");
    }

    #[test]
    fn a_node_that_is_young_by_the_servers_clock_is_no_orphan() {
        let mut lasting = lock(1, None);
        lasting.contender.session = None;
        lasting.created = Some(NOW - Duration::from_secs(59));
        let found = one_lock(&[lasting]);
        healthy(&found);
        assert_eq!(kinds(&found, &Facts { process_runs: |_| Some(false), ..facts(&found) }), []);
        let later = Facts { server_time: Ok(NOW + Duration::from_secs(1)), ..facts(&found) };
        assert_eq!(kinds(&found, &later), [Kind::Orphan]);
        let unknown = || Err("an access list denies it".to_owned());
        let report = examine(&found, &Facts { server_time: unknown(), ..facts(&found) });
        assert_eq!(report.findings, []);
        let [unchecked] = &report.unchecked[..] else { panic!("{report:?}") };
        assert_eq!((unchecked.kind, &*unchecked.path), (Kind::Orphan, "/lock"));
        assert!(unchecked.why.contains("an access list denies it"), "{unchecked:?}");
        // Where the time does not matter, nothing is said.
        let found = one_lock(&[lock(1, None)]);
        assert_eq!(examine(&found, &Facts { server_time: unknown(), ..facts(&found) }), Report::default());
    }

    #[test]
    fn contenders_that_do_not_see_each_other() {
        let mut curator = lock(2, None);
        curator.dialect = Dialect::Curator;
        healthy(&one_lock(&[curator.clone()]));
        named(&one_lock(&[lock(1, None), curator.clone()]), Kind::MixedDialects, "do not see each other");
        let mut writer = curator.clone();
        writer.contender.mode = Mode::Write;
        named(&one_lock(&[curator, writer]), Kind::MixedDialects, "Curator's read/write lock");
    }

    #[test]
    fn numbers_near_the_wrap() {
        let mut old = queue("/lock", &[lock(1, None)]);
        old.last_number = 2_000_000_000;
        healthy(&locks(&[old.clone()]));
        old.last_number = 2_100_000_000;
        named(&locks(&[old.clone()]), Kind::SequenceNumbers, "2100000000 of 2146483646");
        old.entries[0].contender.name = "4b2d6a1f9c3e4d08a7550000000000e1__lock__-2147483648".to_owned();
        named(&locks(&[old]), Kind::SequenceNumbers, "used up");
    }

    #[test]
    fn a_lock_that_holds_beside_readers() {
        let reader = entry(Mode::Read, 1, None);
        let found = one_lock(&[reader.clone(), lock(2, Some(0))]);
        named(&found, Kind::LockBesideReaders, "billing-2 has a Lock");
        // A writer that waits watches a reader.
        let watched = Ok([format!("/chroot/lock/{}", reader.contender.name)].into());
        assert_eq!(examine(&found, &Facts { watched, ..facts(&found) }), Report::default());
    }

    #[test]
    fn a_lock_beside_readers_cannot_be_told_from_a_writer_without_the_watches() {
        let unknown = || Err("zk1:2181 does not answer".to_owned());
        let found = one_lock(&[entry(Mode::Read, 1, None), lock(2, Some(0))]);
        let report = examine(&found, &Facts { watched: unknown(), ..facts(&found) });
        assert_eq!(report.findings, []);
        let [unchecked] = &report.unchecked[..] else { panic!("{report:?}") };
        assert_eq!((unchecked.kind, &*unchecked.path), (Kind::LockBesideReaders, "/lock"));
        assert!(unchecked.why.contains("zk1:2181 does not answer"), "{unchecked:?}");
        // Where the watches do not matter, nothing is said.
        let found = one_lock(&[lock(1, None), lock(2, Some(0))]);
        assert_eq!(examine(&found, &Facts { watched: unknown(), ..facts(&found) }), Report::default());
    }

    #[test]
    fn more_permits_than_there_are() {
        named(&one_pool(pool(Some(1), &["a", "b"], &[])), Kind::TooManyPermits, "2 permits are taken");
        let mut notes = pool(Some(1), &["a", "b"], &[]);
        notes.taken[1].holder.name = "notes".to_owned();
        named(&one_pool(notes), Kind::TooManyPermits, "\"notes\" is not a permit");
    }

    #[test]
    fn a_request_that_does_not_fit_keeps_others_waiting() {
        let waiting = [lock(2, None), lock(3, Some(0))];
        named(&one_pool(pool(Some(2), &["a"], &waiting)), Kind::MutexKept, "the 1 that are free, and 1 more");
    }

    #[test]
    fn a_semaphore_without_a_number_is_not_checked() {
        let found = one_pool(pool(None, &["a"], &[lock(2, None)]));
        let report = examine(&found, &facts(&found));
        let unchecked: Vec<Kind> = report.unchecked.iter().map(|unchecked| unchecked.kind).collect();
        assert_eq!(unchecked, [Kind::TooManyPermits, Kind::MutexKept]);
        assert_eq!(report.findings, []);
    }

    #[test]
    fn sessions_that_hold_and_wait_for_each_other() {
        let place = |path, holder, waiter| queue(path, &[lock(holder, None), lock(waiter, Some(0))]);
        healthy(&locks(&[place("/a", 1, 2), place("/b", 2, 3)]));
        let three = [place("/a", 1, 2), place("/b", 2, 3), place("/c", 3, 1)];
        named(&locks(&three), Kind::Cycle, "billing-1 (0x1) waits at /c for session 0x3");
    }

    #[test]
    fn nodes_that_may_not_be_read() {
        let mut found = Inventory::default();
        found.unreadable.extend(["/a".to_owned(), "/b".to_owned()]);
        named(&found, Kind::Unreadable, "/a and 1 more may not be read");
    }

    #[test]
    fn directories_that_pile_up() {
        let mut found = Inventory::default();
        found.empty.extend((0..100).map(|number| format!("/locks/{number}")));
        named(&found, Kind::EmptyDirectories, "100 directories");
    }
}
