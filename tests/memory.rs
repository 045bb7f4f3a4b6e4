//! What is used for a while and then not any more takes no memory afterwards. The tests measure the memory of their whole
//! process, so they have one of their own, and run one after the other.

mod common;

use common::{SOON, TestServer, connect_to, eventually};
use lockkeeper::{Keeper, LockOptions};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_paths_locked_once_leave_no_actor_no_task_and_no_memory() {
    let _alone = ALONE.lock().await;
    let server = TestServer::start();
    // A real server forces each of several writes a path to disk.
    let paths = if matches!(server, TestServer::Embedded(_)) { 100_000 } else { 20_000 };
    let keeper = connect_to(&server).await;
    let tasks = tokio::runtime::Handle::current().metrics();
    // After some thousand paths the allocator has reached its peak usage.
    lock_and_release(&keeper, 0, paths / 5).await;
    eventually("the actors end", SOON, async || tasks.num_alive_tasks() < 50).await;
    let before = resident_kilobytes();
    lock_and_release(&keeper, paths / 5, paths).await;
    eventually("the actors end", SOON, async || tasks.num_alive_tasks() < 50).await;
    // A few leaked words per path would exceed this. An embedded server removes its nodes a little later.
    eventually("memory is back where it was", SOON, async || {
        resident_kilobytes().saturating_sub(before) < 8 * paths / 1024 + 4096
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_that_is_split_and_merged_again_and_again_keeps_no_memory() {
    const ROUNDS: u64 = 200_000;
    let _alone = ALONE.lock().await;
    let server = TestServer::start();
    let keeper = connect_to(&server).await;
    let pool = keeper.semaphore("/split-and-merge", 2).expect("a valid path");
    let mut permit = pool.acquire_many(2).await.expect("they are free");
    let mut split_and_merge = async |rounds: u64| {
        for round in 0..rounds {
            let part = permit.split(1).expect("one of two");
            permit.merge(part).expect("it was split off");
            if round % 1_000 == 0 {
                // The answer shows that the actor has handled the messages before.
                assert_eq!(pool.available().await, Ok(0));
            }
        }
    };
    split_and_merge(ROUNDS / 10).await;
    let before = resident_kilobytes();
    split_and_merge(ROUNDS).await;
    let grown = resident_kilobytes().saturating_sub(before);
    assert!(grown < 8 * ROUNDS / 1024 + 4096, "{grown} KiB for {ROUNDS} rounds");
    permit.release().await.expect("it is held");
}

/// Locks and releases each path once, sixteen at a time.
async fn lock_and_release(keeper: &Keeper, from: u64, to: u64) {
    const WORKERS: u64 = 16;
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let keeper = keeper.clone();
        workers.spawn(async move {
            for number in (from + worker..to).step_by(WORKERS as usize) {
                // Container directories, which the server removes once they are empty.
                let options = LockOptions::new().container_directories(true);
                let lock = keeper.lock_with(&format!("/many/{number}"), options).expect("a valid path");
                let guard = lock.acquire().await.expect("no other contender");
                guard.release().await.expect("released");
            }
        });
    }
    while workers.join_next().await.transpose().expect("no worker fails").is_some() {}
}

fn resident_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the process status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("resident size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
