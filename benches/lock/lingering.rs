//! Locks whose requests share a node that lingers, compared with plain locks, kazoo and Curator.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use lockkeeper::marker::Access;
use lockkeeper::{Keeper, Lock, LockOptions};

use crate::common::{Curator, CuratorKind};
use crate::contest::{Contest, Outcome};
use crate::kazoo::{self, Kazoo};
use crate::report::{self, Expectation, Row};
use crate::uncontended::released;
use crate::{Bench, Result, TASKS, common, packets};

const DROPPED: &str = "lingering, acquire → drop";
const RELEASED: &str = "lingering, acquire → release().await";
const PLAIN: &str = "plain, acquire → release().await";
const KAZOO: &str = "kazoo";
const CURATOR: &str = "Curator";

/// What a lock should do without requests to the server, in cycles a second.
const FAST: Expectation = Expectation::AtLeast(100_000.0);

pub async fn run(bench: Bench) -> Result<()> {
    let lock = |keeper: &Keeper, path: &str, options| Ok(keeper.lock_with(path, options)?);
    let read =
        |keeper: &Keeper, path: &str, options| Ok(keeper.read_write_with(path, options)?.read().clone());
    let (mutex, reader) = (("Lock", CuratorKind::Mutex), ("ReadLock", CuratorKind::Read));
    compare(&bench, "Lingering: one path, one task", 1, mutex, lock).await?;
    compare(&bench, "Lingering: one path, 64 tasks", TASKS, mutex, lock).await?;
    compare(&bench, "Lingering: one path, 64 readers", TASKS, reader, read).await?;
    sessions(&bench).await?;
    requests(&bench).await
}

/// Lingers until the bench is over.
pub fn lingering() -> LockOptions {
    LockOptions::new().linger(Duration::from_secs(3600))
}

/// Tasks of one process.
struct Tasks<M> {
    lingering: Vec<Lock<M>>,
    plain: Vec<Lock<M>>,
    _keepers: Vec<Keeper>,
}

async fn compare<M: Access>(
    bench: &Bench,
    title: &'static str,
    tasks: usize,
    (recipe, kind): (&'static str, CuratorKind),
    open: fn(&Keeper, &str, LockOptions) -> Result<Lock<M>>,
) -> Result<()> {
    let cycles = if tasks == 1 { 20 } else { 2 * tasks };
    let mut contest = Contest::new(title, bench.times(5), 1, cycles)
        .enter_timed(DROPPED, |s: &Tasks<M>, cycles| repeated(s.lingering.clone(), cycles, dropped))
        .enter_timed(RELEASED, |s, cycles| repeated(s.lingering.clone(), cycles, released))
        .enter(PLAIN, |s| s.plain.clone(), released);
    if !bench.quick {
        let kazoo = Arc::new(Kazoo::start(bench).await?);
        let path = common::unique_path("lingering-kazoo");
        let crowd = kazoo::Crowd { recipe, path, limit: None, clients: 1, threads: tasks };
        contest = contest.enter_timed(KAZOO, move |_, cycles| {
            let (kazoo, crowd) = (kazoo.clone(), crowd.clone());
            async move { kazoo.cycles(&crowd, cycles / crowd.threads).await }
        });
        let curator = Arc::new(Curator::start(&bench.address).await);
        let path = common::unique_path("lingering-curator");
        contest = contest.enter_timed(CURATOR, move |_, cycles| {
            let peers = vec![(curator.clone(), kind, path.clone()); tasks];
            timed(peers, cycles / tasks, with_curator)
        });
    }
    let outcome = contest.hold(bench, |bench| connect(bench, tasks, open)).await?;
    let peers = || [PLAIN, KAZOO, CURATOR].into_iter().filter(|name| !bench.quick || *name == PLAIN);
    let dropped = fast(&outcome, DROPPED);
    let compared = peers().map(|peer| dropped.and().compared_to(&outcome, peer, None));
    let mut rows: Vec<Row> = [dropped.clone()].into_iter().chain(compared).collect();
    rows.push(fast(&outcome, RELEASED));
    rows.extend(peers().map(|name| Row::rate(&outcome, name)));
    report::print(outcome.title(), &rows);
    Ok(())
}

fn fast(outcome: &Outcome, name: &str) -> Row {
    Row::rate(outcome, name).with("cycles a second".to_owned(), outcome.rate(name), FAST)
}

async fn connect<M: Access>(
    bench: Bench,
    tasks: usize,
    open: fn(&Keeper, &str, LockOptions) -> Result<Lock<M>>,
) -> Result<Tasks<M>> {
    let keeper = bench.keeper().await?;
    let lingering = open(&keeper, &common::unique_path("lingering"), lingering())?;
    let plain = open(&keeper, &common::unique_path("lingering-plain"), LockOptions::new())?;
    // The first cycle creates the directory.
    released(lingering.clone(), 1).await?;
    released(plain.clone(), 1).await?;
    Ok(Tasks { lingering: vec![lingering; tasks], plain: vec![plain; tasks], _keepers: vec![keeper] })
}

/// Runs many more cycles than those that send requests, and returns the time for so many.
async fn repeated<M: Access, F>(
    locks: Vec<Lock<M>>,
    cycles: usize,
    run: fn(Lock<M>, usize) -> F,
) -> Result<Duration>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    const TIMES: usize = 100;
    let share = TIMES * cycles / locks.len();
    Ok(timed(locks, share, run).await? / TIMES as u32)
}

/// How long it takes until each task has run this many cycles.
async fn timed<T, F>(tasks: Vec<T>, cycles: usize, run: fn(T, usize) -> F) -> Result<Duration>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let begun = Instant::now();
    let tasks: Vec<_> = tasks.into_iter().map(|task| tokio::spawn(run(task, cycles))).collect();
    try_join_all(tasks).await?.into_iter().collect::<Result<()>>()?;
    Ok(begun.elapsed())
}

pub async fn dropped<M: Access>(lock: Lock<M>, cycles: usize) -> Result<()> {
    for _ in 0..cycles {
        drop(lock.acquire().await?);
    }
    Ok(())
}

async fn with_curator(
    (curator, kind, path): (Arc<Curator>, CuratorKind, String),
    cycles: usize,
) -> Result<()> {
    for _ in 0..cycles {
        let held = curator.acquire(&path, kind).await;
        curator.release(held).await;
    }
    Ok(())
}

/// Sessions that always have to wait for each other, so that sharing a node gains nothing.
async fn sessions(bench: &Bench) -> Result<()> {
    let tasks = Arc::new(connect_each(bench).await?);
    let title = "Lingering: one path, 64 sessions";
    let outcome = Contest::new(title, bench.times(5), 1, TASKS * if bench.quick { 1 } else { 2 })
        .enter(RELEASED, |s: &Arc<Tasks<_>>| s.lingering.clone(), released)
        .enter(PLAIN, |s| s.plain.clone(), released)
        .hold(bench, |_| {
            let tasks = tasks.clone();
            async move { Ok(tasks) }
        })
        .await?;
    let ours = Row::rate(&outcome, RELEASED).compared_to(&outcome, PLAIN, Expectation::AtLeast(0.95));
    report::print(outcome.title(), &[ours, Row::rate(&outcome, PLAIN)]);
    Ok(())
}

async fn connect_each(bench: &Bench) -> Result<Tasks<lockkeeper::marker::Exclusive>> {
    let keepers = try_join_all((0..TASKS).map(|_| bench.keeper())).await?;
    let paths = ["lingering", "lingering-plain"].map(common::unique_path);
    let open = |path: &str, options: LockOptions| {
        keepers.iter().map(|keeper| keeper.lock_with(path, options.clone())).collect()
    };
    let lingering: std::result::Result<Vec<_>, _> = open(&paths[0], lingering());
    let plain: std::result::Result<Vec<_>, _> = open(&paths[1], LockOptions::new());
    Ok(Tasks { lingering: lingering?, plain: plain?, _keepers: keepers })
}

/// Counts the requests of cycles without strangers.
async fn requests(bench: &Bench) -> Result<()> {
    let cycles = bench.times(1_000_000);
    let tasks = connect(bench.clone(), TASKS, |keeper, path, options| Ok(keeper.lock_with(path, options)?));
    let locks = tasks.await?.lingering;
    let work = timed(locks, cycles / TASKS, dropped);
    let row = packets::count_each(bench, "64 tasks", cycles, 1000, Expectation::AtMost(1.0), work).await?;
    report::print(&format!("Lingering: packets to the server, over {cycles} cycles"), &[row]);
    Ok(())
}
