//! The tables for those who come from kazoo or Curator: each call compiles and runs.

mod common;

use std::collections::BTreeSet;
use std::error::Error;
use std::time::{Duration, Instant};

use common::{Runner, shared, unique_path};
use futures::StreamExt;
use lockkeeper::messages::Ticket;
use lockkeeper::{Dialect, Keeper, LeaseState, LockOptions, Mode};
use ractor::{Actor, ActorProcessingErr, ActorRef};

/// Runs a call, and strikes it off the calls of a table.
macro_rules! call {
    ($calls:ident, $call:expr) => {{
        let call = squeezed(stringify!($call));
        assert!($calls.remove(&call), "not in the table: {call}");
        $call
    }};
}

#[tokio::test]
async fn the_calls_that_replace_those_of_kazoo_work() -> Result<(), Box<dyn Error>> {
    let mut calls = calls_of(include_str!("../docs/from-kazoo.md"), &["The calls"]);
    let (hosts, path) = (&shared().address(), &unique_path("kazoo-calls"));
    let keeper =
        call!(calls, Keeper::options().session_timeout(Duration::from_secs(10)).connect(hosts).await)?;
    let lock = call!(calls, keeper.lock_with(path, LockOptions::new().identifier("billing-7")))?;
    let guard = call!(calls, lock.acquire().await)?;
    assert!(call!(calls, guard.is_held()));
    assert_eq!(call!(calls, lock.contenders().await)?[0].identifier, "billing-7");
    let mut leaders = call!(calls, keeper.singleton(path)?.leaders());
    let leader = leaders.next().await.expect("the current one")?;
    assert_eq!(leader.expect("the holder").identifier, "billing-7");
    assert!(call!(calls, lock.try_acquire().await).is_err());
    let ticket = Ticket::new();
    call!(calls, lock.cancel(ticket));
    let f = async || 7;
    assert_eq!(call!(calls, guard.protect(f()).await)?, 7);
    call!(calls, guard.release().await)?;
    call!(calls, lock.acquire_timeout(Duration::from_secs(5)).await)?.release().await?;

    let locks = call!(calls, keeper.read_write(path))?;
    drop(call!(calls, locks.read()).acquire().await?);
    drop(call!(calls, locks.write()).acquire().await?);
    let _ = call!(calls, LockOptions::new().extra_lock_patterns(["-lock-"]));
    let _ = call!(calls, LockOptions::new().ephemeral(false));
    let n = 2;
    let path = &unique_path("kazoo-calls-semaphore");
    let semaphore = call!(calls, keeper.semaphore(path, n))?;
    let _permit = semaphore.acquire().await?;
    assert_eq!(call!(calls, semaphore.lease_holders().await)?.len(), 1);

    drop(call!(calls, keeper.events()));
    let (actor, convert) = (listener().await, |_| ());
    call!(calls, keeper.subscribe(&actor, convert));
    actor.wait(None).await?;
    let (path, make, tell) = (&unique_path("kazoo-calls-election"), |lease| (Runner, lease), Some);
    call!(calls, keeper.singleton(path)?.run(make, tell)).shutdown().await;
    assert_eq!(calls, BTreeSet::new());
    Ok(())
}

#[tokio::test]
async fn the_calls_that_replace_those_of_curator_work() -> Result<(), Box<dyn Error>> {
    let mut calls = calls_of(include_str!("../docs/from-curator.md"), &["The recipes", "The calls"]);
    let (hosts, path, n) = (&shared().address(), &unique_path("curator-calls"), 2);
    let keeper = call!(calls, Keeper::connect(hosts).await)?;
    let lock = call!(calls, keeper.lock(path))?;
    let guard = call!(calls, lock.acquire_timeout(Duration::from_secs(5)).await)?;
    assert_eq!(call!(calls, guard.state()), LeaseState::Held);
    assert!(call!(calls, guard.valid_until()) > Some(Instant::now()));
    assert_eq!(call!(calls, lock.contenders().await)?.len(), 1);
    assert!(call!(calls, lock.try_acquire().await).is_err());
    let work = async { 7 };
    assert_eq!(call!(calls, guard.protect(work).await)?, 7);
    call!(calls, guard.release().await)?;
    let path = &unique_path("curator-calls-mutex");
    let mutex = call!(calls, keeper.lock_with(path, LockOptions::new().dialect(Dialect::Curator)))?;
    mutex.acquire().await?.release().await?;
    let path = &unique_path("curator-calls-read-write");
    let both = call!(calls, keeper.read_write_with(path, LockOptions::new().dialect(Dialect::Curator)))?;
    both.write().acquire().await?.release().await?;
    let modes = [(unique_path("curator-calls-several"), call!(calls, Mode::Lock))];
    let several = call!(calls, keeper.multi_lock_with(modes, LockOptions::new().dialect(Dialect::Curator)))?;
    several.acquire().await?.release().await?;
    let path = &unique_path("curator-calls-semaphore");
    let semaphore = call!(calls, keeper.semaphore(path, n))?;
    drop(semaphore.acquire().await?);
    call!(calls, semaphore.resize(n).await)?;

    drop(call!(calls, keeper.events()));
    let (actor, convert) = (listener().await, |_| ());
    call!(calls, keeper.subscribe(&actor, convert));
    actor.wait(None).await?;
    let singleton = keeper.singleton(&unique_path("curator-calls-latch"))?;
    let (make, tell) = (|lease| (Runner, lease), Some);
    let mut candidate = call!(calls, singleton.run(make, tell));
    call!(calls, candidate.running().await);
    assert!(call!(calls, candidate.lease()).is_some());
    assert!(call!(calls, singleton.leader().await)?.is_some());
    candidate.shutdown().await;
    assert_eq!(calls, BTreeSet::new());
    Ok(())
}

/// The code in the second column of the tables under these headings of a page, without spaces.
fn calls_of(page: &str, headings: &[&str]) -> BTreeSet<String> {
    let sections = headings.iter().map(|heading| {
        let (_, section) = page.split_once(&format!("## {heading}\n")).expect("the heading");
        section.split("\n## ").next().unwrap_or_default()
    });
    let rows = sections.flat_map(str::lines).filter_map(|line| line.strip_prefix("| "));
    let code =
        rows.filter_map(|row| row.split(" | ").nth(1)).flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let calls: BTreeSet<String> = code.map(squeezed).collect();
    assert!(calls.len() > 8, "{calls:?}");
    calls
}

fn squeezed(call: &str) -> String {
    call.split_whitespace().collect()
}

async fn listener() -> ActorRef<()> {
    Actor::spawn(None, Listener, ()).await.expect("an actor").0
}

/// Stops at its first message.
struct Listener;

#[ractor::actor(message = (), state = (), arguments = ())]
impl Listener {
    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<()>, (): (), (): &mut ()) -> Result<(), ActorProcessingErr> {
        myself.stop(None);
        Ok(())
    }
}
