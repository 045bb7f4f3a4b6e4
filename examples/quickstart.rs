//! Four workers in separate sessions share one lock. Then one client gives up waiting, one cancels, and one loses its
//! session while it holds.
//!
//! `cargo run --example quickstart` starts a ZooKeeper server in this process; an address after `--` selects a real
//! one.

use std::time::Duration;

use futures::StreamExt;
use lockkeeper::Keeper;
use lockkeeper::error::AcquireTimeoutError;
use lockkeeper::session::SessionEvent;
use lockkeeper_embedded::{Embedded, Proxy};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PATH: &str = "/lockkeeper/quickstart";

#[tokio::main]
async fn main() -> Result<()> {
    let embedded = Embedded::start().await?;
    let address = std::env::args().nth(1).unwrap_or_else(|| embedded.address());
    println!("ZooKeeper at {address}");
    share(&address).await?;
    give_up_and_cancel(&address).await?;
    lose_and_recover(&address).await
}

async fn connect(address: &str, name: &str) -> Result<Keeper> {
    Ok(Keeper::options().session_timeout(Duration::from_secs(4)).identifier(name).connect(address).await?)
}

/// Every worker acquires the lock three times. It is granted in request order, each time with a larger token.
async fn share(address: &str) -> Result<()> {
    println!("Four workers, one lock:");
    let workers = (1..=4).map(|number| {
        let (name, address) = (format!("worker-{number}"), address.to_owned());
        tokio::spawn(async move {
            let keeper = connect(&address, &name).await?;
            let lock = keeper.lock(PATH)?;
            for _ in 0..3 {
                let guard = lock.acquire().await?;
                println!("  {name} holds under token {:#x}", guard.token());
                guard.protect(tokio::time::sleep(Duration::from_millis(10))).await?;
                guard.release().await?;
            }
            keeper.close().await;
            Result::Ok(())
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await??;
    }
    Ok(())
}

async fn give_up_and_cancel(address: &str) -> Result<()> {
    let (holder, waiter) = (connect(address, "holder").await?, connect(address, "waiter").await?);
    let guard = holder.lock(PATH)?.acquire().await?;
    let lock = waiter.lock(PATH)?;

    println!("A deadline:");
    match lock.acquire_timeout(Duration::from_millis(200)).await {
        Err(AcquireTimeoutError::TimedOut { .. }) => println!("  the waiter gave up after 200 ms"),
        other => println!("  unexpected: {other:?}"),
    }

    println!("A cancel, by dropping the future:");
    let cancelled = tokio::time::timeout(Duration::from_millis(200), lock.acquire()).await;
    println!("  cancelled: {}", cancelled.is_err());
    guard.release().await?;
    for contender in lock.contenders().await? {
        println!("  still queueing: {contender:?}");
    }
    let guard = lock.try_acquire().await?;
    println!("  and free again, under token {:#x}", guard.token());
    guard.release().await?;
    holder.close().await;
    waiter.close().await;
    Ok(())
}

/// A holder whose cable is pulled learns that it has lost the lock before any other client can acquire it.
async fn lose_and_recover(address: &str) -> Result<()> {
    println!("A lost session:");
    let proxy = Proxy::start(address).await?;
    let (unlucky, lucky) = (connect(&proxy.address(), "unlucky").await?, connect(address, "lucky").await?);
    let mut events = unlucky.events();
    let guard = unlucky.lock(PATH)?.acquire().await?;
    println!("  {:?} under token {:#x}; the cable is pulled", guard.state(), guard.token());
    proxy.refuse(true);
    proxy.cut();
    guard.lost().await;
    println!("  {:?}", guard.state());
    let next = lucky.lock(PATH)?.acquire().await?;
    println!("  only now the next client holds, under token {:#x}", next.token());
    next.release().await?;
    proxy.refuse(false);
    while let Some(event) = events.next().await {
        println!("  the keeper reports {event:?}");
        if matches!(event, SessionEvent::Connected { epoch: 2.. }) {
            break;
        }
    }
    let again = unlucky.lock(PATH)?.acquire().await?;
    println!("  and holds again in a new session, under token {:#x}", again.token());
    again.release().await?;
    unlucky.close().await;
    lucky.close().await;
    Ok(())
}
