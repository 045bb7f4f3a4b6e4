//! Sixty-four contenders in one session or spread over several contend for a lock, a read lock, or a semaphore's
//! permits, compared with kazoo with as many threads and clients. Those are in one process, as with Python they usually
//! are, and share its interpreter lock: one of them runs at a time.

use std::sync::Arc;

use futures::future::try_join_all;
use lockkeeper::{Keeper, Lock, ReadLock, Semaphore};
use zookeeper_client::Client;

use crate::contest::Contest;
use crate::kazoo::{self, Kazoo};
use crate::report::{self, Expectation, Row};
use crate::uncontended::{pairs, released};
use crate::{Bench, Result, TASKS, common, floors};

/// The number of permits of each semaphore.
pub const PERMITS: u32 = 8;

/// Sixty-four contenders with a session each.
pub async fn strangers(bench: Bench) -> Result<()> {
    compare(&bench, Recipe::Lock, TASKS, None).await
}

pub async fn readers(bench: Bench) -> Result<()> {
    for (sessions, expected) in [(1, None), (8, None)] {
        compare(&bench, Recipe::Read, sessions, expected).await?;
    }
    Ok(())
}

pub async fn semaphore(bench: Bench) -> Result<()> {
    for (sessions, expected) in [(1, 5.0), (TASKS, 3.0)] {
        compare(&bench, Recipe::Semaphore, sessions, Expectation::AtLeast(expected)).await?;
    }
    Ok(())
}

pub async fn permits(pool: Semaphore, cycles: usize) -> Result<()> {
    for _ in 0..cycles {
        pool.acquire().await?.release().await?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Recipe {
    Lock,
    Read,
    Semaphore,
}

const RELEASED: &str = "acquire → release().await";
const PAIRS: &str = "create → delete";
const KAZOO: &str = "kazoo, in one interpreter";

async fn compare(
    bench: &Bench,
    recipe: Recipe,
    sessions: usize,
    expected: impl Into<Option<Expectation>>,
) -> Result<()> {
    let title = match (recipe, sessions) {
        (Recipe::Lock, 1) => "One path, 64 tasks in one session",
        (Recipe::Lock, _) => "One path, 64 sessions",
        (Recipe::Read, 1) => "One path, 64 readers in one session",
        (Recipe::Read, _) => "One path, 64 readers in 8 sessions",
        (Recipe::Semaphore, 1) => "8 permits, 64 tasks in one session",
        (Recipe::Semaphore, _) => "8 permits, 64 sessions",
    };
    let mut contest = Contest::new(title, bench.times(5), 1, TASKS * if bench.quick { 1 } else { 2 })
        .enter(RELEASED, |s: &Arc<Sessions>| s.tasks.clone(), cycles)
        .enter(PAIRS, |s| s.floor.clone(), pairs);
    if !bench.quick {
        let kazoo = Arc::new(Kazoo::start(bench).await?);
        let (recipe, limit) = match recipe {
            Recipe::Lock => ("Lock", None),
            Recipe::Read => ("ReadLock", None),
            Recipe::Semaphore => ("Semaphore", Some(PERMITS)),
        };
        let path = common::unique_path("many-kazoo");
        let crowd = kazoo::Crowd { recipe, path, limit, clients: sessions, threads: TASKS };
        contest = contest.enter_timed(KAZOO, move |_, cycles| {
            let (kazoo, crowd) = (kazoo.clone(), crowd.clone());
            async move { kazoo.cycles(&crowd, cycles / crowd.threads).await }
        });
    }
    // With several sessions, the effect of the client's polling order averages out, so one set of sessions is kept for
    // all rounds.
    let kept = match sessions {
        1 => None,
        _ => Some(connect(bench, recipe, sessions).await?),
    };
    let connect = |bench: Bench| {
        let kept = kept.clone();
        async move {
            match kept {
                Some(kept) => Ok(kept),
                None => connect(&bench, recipe, sessions).await,
            }
        }
    };
    let outcome = contest.hold(bench, connect).await?;

    let ours = Row::rate(&outcome, RELEASED);
    let mut rows = vec![ours.clone().compared_to(&outcome, PAIRS, None), Row::rate(&outcome, PAIRS)];
    if !bench.quick {
        rows.insert(0, ours.compared_to(&outcome, KAZOO, expected));
        rows.push(Row::rate(&outcome, KAZOO));
    }
    report::print(outcome.title(), &rows);
    Ok(())
}

struct Sessions {
    tasks: Vec<Task>,
    /// For the lower bound: one client and directory for each task.
    floor: Vec<(Client, String)>,
    _keepers: Vec<Keeper>,
}

#[derive(Clone)]
enum Task {
    Lock(Lock),
    Read(ReadLock),
    Semaphore(Semaphore),
}

async fn cycles(task: Task, cycles: usize) -> Result<()> {
    match task {
        Task::Lock(lock) => released(lock, cycles).await,
        Task::Read(lock) => released(lock, cycles).await,
        Task::Semaphore(pool) => permits(pool, cycles).await,
    }
}

async fn connect(bench: &Bench, recipe: Recipe, sessions: usize) -> Result<Arc<Sessions>> {
    let keepers = try_join_all((0..sessions).map(|_| bench.keeper())).await?;
    let clients = try_join_all((0..sessions).map(|_| floors::connect(&bench.address))).await?;
    let path = common::unique_path("many");
    let mut tasks = Vec::new();
    for keeper in keepers.iter().cycle().take(TASKS) {
        tasks.push(match recipe {
            Recipe::Lock => Task::Lock(keeper.lock(&path)?),
            Recipe::Read => Task::Read(keeper.read_write(&path)?.read().clone()),
            Recipe::Semaphore => Task::Semaphore(keeper.semaphore(&path, PERMITS)?),
        });
    }
    // The first cycle creates the directory.
    for task in tasks.iter().take(sessions) {
        cycles(task.clone(), 1).await?;
    }
    let directory = common::unique_path("many");
    floors::make_directory(&clients[0], &directory).await?;
    let floor = clients.into_iter().cycle().take(TASKS).map(|client| (client, directory.clone())).collect();
    Ok(Arc::new(Sessions { tasks, floor, _keepers: keepers }))
}
