//! What servers carry: writes a second when many sessions write at once, and what keepers write at rest.
//!
//! The servers share this machine with their clients, so servers of their own carry more.

use std::time::{Duration, Instant};

use futures::future::{BoxFuture, try_join_all};
use lockkeeper::{Keeper, LockOptions};
use tokio::time::sleep;
use zookeeper_client::Client;

use crate::common::{Ensemble, Server, unique_path};
use crate::report::{self, Row};
use crate::row::{self, Progress};
use crate::site::Site;
use crate::{Bench, Result, SESSION_TIMEOUT, floors, production};

pub fn run(bench: &Bench) -> Result<()> {
    for (title, servers) in
        [("One server", Servers::one as fn() -> Servers), ("An ensemble of three", Servers::three)]
    {
        let mut rows = Vec::new();
        for load in LOADS {
            let sessions = if load == Load::Rest { bench.times(AT_REST) } else { SESSIONS };
            let time = Duration::from_secs(if bench.quick { 1 } else { 10 });
            let (servers, progress) = (servers(), Progress::default());
            let row = Row::new(load.name(), format!("{sessions} sessions"));
            let measured = measure(servers.addresses(), load, sessions, time, progress.clone());
            rows.push(match row::run(bench, &progress, measured)? {
                Ok(rate) => {
                    let each = rate.writes / rate.rounds;
                    let text = match load {
                        Load::Rest => format!("{:.1} writes a second", rate.writes),
                        _ => format!("{:.0} a second, {each:.2} writes each", rate.rounds),
                    };
                    row.with(text, rate.writes, None)
                }
                Err(reason) => row.missed(reason, None),
            });
        }
        report::print(&format!("{title}: what it carries"), &rows);
    }
    Ok(())
}

enum Servers {
    One(Server),
    Three(Ensemble),
}

impl Servers {
    fn one() -> Servers {
        Servers::One(Server::start_with(&production::options()))
    }

    fn three() -> Servers {
        Servers::Three(Ensemble::start_with(&production::options()))
    }

    /// One for each server.
    fn addresses(&self) -> Vec<String> {
        match self {
            Servers::One(server) => vec![server.address()],
            Servers::Three(ensemble) => ensemble.members().iter().map(Server::address).collect(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    Heartbeats,
    Pairs,
    Locks,
    Lingering,
    Permits,
    Several,
    Rest,
}

const LOADS: [Load; 7] =
    [Load::Heartbeats, Load::Pairs, Load::Locks, Load::Lingering, Load::Permits, Load::Several, Load::Rest];

impl Load {
    fn name(self) -> &'static str {
        match self {
            Load::Heartbeats => "heartbeats",
            Load::Pairs => "create → delete",
            Load::Locks => "a lock: acquire → release().await",
            Load::Lingering => "a lock that lingers",
            Load::Permits => "a permit",
            Load::Several => "a lock on two paths",
            Load::Rest => "keepers at rest",
        }
    }
}

/// The sessions that write as fast as they can, and the tasks of each.
const SESSIONS: usize = 16;
const TASKS: usize = 64;

/// The keepers that only keep their sessions.
const AT_REST: usize = 500;

/// Done by all tasks in a second, and written by the servers.
struct Rate {
    rounds: f64,
    writes: f64,
}

type Task = Box<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

async fn measure(
    addresses: Vec<String>,
    load: Load,
    sessions: usize,
    time: Duration,
    progress: Progress,
) -> Result<Rate> {
    progress.begin("sessions", sessions);
    let site = Site::connect(addresses[0].clone()).await?;
    let (mut tasks, mut keepers) = (Vec::new(), Vec::new());
    for (number, address) in (0..sessions).zip(addresses.iter().cycle()) {
        match load {
            Load::Heartbeats | Load::Pairs => tasks.extend(requests(address, load).await?),
            Load::Locks | Load::Lingering | Load::Permits | Load::Several => {
                let keeper = connect(address).await?;
                tasks.extend(cycles(&keeper, load)?);
                keepers.push(keeper);
            }
            Load::Rest => keepers.push(connect(address).await?),
        }
        progress.reached(number + 1);
    }
    progress.begin("warm-up", 1);
    rounds(&tasks, time / 5).await?;
    progress.begin("rounds", 1);
    let (written, begun) = (site.last_write().await?, Instant::now());
    let done = rounds(&tasks, time).await?;
    let (seconds, written) = (begun.elapsed().as_secs_f64(), site.last_write().await? - written);
    Ok(Rate { rounds: done as f64 / seconds, writes: written as f64 / seconds })
}

async fn connect(address: &str) -> Result<Keeper> {
    Ok(Keeper::options().session_timeout(SESSION_TIMEOUT).connect(address).await?)
}

/// The bare requests of a session, in many tasks.
async fn requests(address: &str, load: Load) -> Result<Vec<Task>> {
    let (client, path) = (floors::connect(address).await?, unique_path("capacity"));
    floors::make_directory(&client, &path).await?;
    let task = || -> Task {
        let (client, path) = (client.clone(), path.clone());
        Box::new(move || {
            let (client, path) = (client.clone(), path.clone());
            match load {
                Load::Heartbeats => Box::pin(async move { check(&client, &path).await }),
                _ => Box::pin(async move { floors::pair(&client, &path).await }),
            }
        })
    };
    Ok((0..TASKS).map(|_| task()).collect())
}

/// Tasks that acquire and release, each its own lock.
fn cycles(keeper: &Keeper, load: Load) -> Result<Vec<Task>> {
    (0..TASKS).map(|_| cycle(keeper, load)).collect()
}

fn cycle(keeper: &Keeper, load: Load) -> Result<Task> {
    let path = unique_path("capacity");
    Ok(match load {
        Load::Permits => {
            let semaphore = keeper.semaphore(&path, 1)?;
            Box::new(move || {
                let semaphore = semaphore.clone();
                Box::pin(async move { Ok(semaphore.acquire().await?.release().await?) })
            })
        }
        Load::Several => {
            let locks = keeper.multi_lock([path, unique_path("capacity")])?;
            Box::new(move || {
                let locks = locks.clone();
                Box::pin(async move { Ok(locks.acquire().await?.release().await?) })
            })
        }
        _ => {
            let options = match load {
                Load::Lingering => LockOptions::new().linger(Duration::from_secs(3600)),
                _ => LockOptions::new(),
            };
            let lock = keeper.lock_with(&path, options)?;
            Box::new(move || {
                let lock = lock.clone();
                Box::pin(async move { Ok(lock.acquire().await?.release().await?) })
            })
        }
    })
}

/// Runs all tasks again and again for this time, and returns how many rounds they made in total.
async fn rounds(tasks: &[Task], time: Duration) -> Result<u64> {
    let end = Instant::now() + time;
    let done = try_join_all(tasks.iter().map(|task| repeat(task, end))).await?;
    sleep(end.saturating_duration_since(Instant::now())).await;
    Ok(done.into_iter().sum())
}

async fn repeat(task: &Task, end: Instant) -> Result<u64> {
    let mut rounds = 0;
    while Instant::now() < end {
        task().await?;
        rounds += 1;
    }
    Ok(rounds)
}

/// What a keeper sends as its heartbeat: a transaction that only checks.
async fn check(client: &Client, path: &str) -> Result<()> {
    let mut transaction = client.new_multi_writer();
    transaction.add_check_version(path, -1)?;
    transaction.commit().await?;
    Ok(())
}
