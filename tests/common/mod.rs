//! Shared by the tests: servers, live peers, the kinds of locks that every promise is tested for, and helpers that
//! observe requests and nodes.

// Every test binary compiles this whole tree but uses only part of it.
#![allow(dead_code, unused_imports, unused_macros)]

pub mod beside_curator;
pub mod by_message;
pub mod client;
pub mod curator;
pub mod events;
pub mod internals;
#[macro_use]
pub mod kinds;
pub mod logs;
pub mod runner;
pub mod servers;
pub mod site;
pub mod tls;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use lockkeeper::session::SessionEvent;
use lockkeeper::{Keeper, KeeperOptions};
use tokio::net::TcpSocket;
use tokio::time::timeout;

pub use client::{client, client_as};
pub use curator::{Curator, CuratorKind};
pub use runner::Runner;
pub use servers::*;

/// A session timeout so long that even a busy machine loses no session.
pub const LONG: Duration = Duration::from_secs(20);
/// A session timeout that a busy machine survives, with a heartbeat every second.
pub const BRISK: Duration = Duration::from_secs(8);
/// A session timeout for sessions that the test lets expire.
pub const SHORT: Duration = Duration::from_secs(2);
/// A time limit for what takes milliseconds when nothing is wrong.
pub const SOON: Duration = Duration::from_secs(10);
/// A time limit for a whole test, which may have to wait until its servers have started, or for a lot of work. Only a test
/// that hangs reaches it.
pub const HANGING: Duration = Duration::from_secs(300);
/// Extra time that a busy machine may need beyond a time limit.
pub const SLACK: Duration = Duration::from_secs(2);

/// Runs a test, and fails it when it hangs.
pub fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async { timeout(HANGING, test).await.expect("the test hangs") });
}

/// An address where nothing listens. The port stays bound until the process ends: nobody else can get it.
pub fn unused_address() -> String {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = socket.local_addr().expect("an address").to_string();
    std::mem::forget(socket);
    address
}

pub fn options() -> KeeperOptions {
    tls::keeper(Keeper::options().session_timeout(LONG))
}

/// Connects to the shared server with a session that does not expire.
pub async fn connect() -> Keeper {
    connect_for(LONG).await
}

pub async fn connect_for(session: Duration) -> Keeper {
    options().session_timeout(session).connect(&shared().address()).await.expect("should connect")
}

pub async fn connect_to(server: &TestServer) -> Keeper {
    options().connect(&server.address()).await.expect("should connect")
}

pub async fn connect_through(proxy: &Proxy, session: Duration) -> Keeper {
    options().session_timeout(session).connect(&proxy.address()).await.expect("should connect")
}

/// A keeper that has lost its session and has failed to reconnect several times.
pub async fn keeper_failing_to_reconnect(proxy: &Proxy) -> Keeper {
    let (mut impatience, mut keeper) = (Duration::from_millis(100), None);
    // A busy machine may need more.
    eventually("it is connected", SOON, async || {
        let options = options().session_timeout(SHORT).connect_timeout(impatience);
        keeper = options.connect(&proxy.address()).await.ok();
        impatience *= 2;
        keeper.is_some()
    })
    .await;
    let keeper = keeper.expect("should connect");
    let mut events = keeper.events();
    proxy.refuse(true);
    proxy.cut();
    events::session_event(&mut events, SessionEvent::Lost { epoch: 1 }).await;
    let tries = proxy.accepted();
    eventually("it keeps trying to reconnect", SOON, async || proxy.accepted() > tries + 2).await;
    keeper
}

/// Returns when the server of this keeper knows every write that was confirmed before. A read or an attempt does not wait
/// for a follower that lags, but a write of the same session comes after all of them.
pub async fn caught_up(keeper: &Keeper) {
    let lock = keeper.lock(&unique_path("caught-up")).expect("a valid path");
    let guard = timeout(SOON, lock.acquire()).await.expect("in time").expect("the lock is free");
    guard.release().await.expect("released");
}

/// Nanoseconds on the monotonic clock that all processes of this machine share.
pub fn monotonic() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).expect("after the start") * 1_000_000_000
        + u64::try_from(time.tv_nsec).expect("a part of a second")
}

/// The error of a request that must not be granted.
pub fn refusal<G: fmt::Debug, E>(result: Result<G, E>) -> E {
    result.expect_err("it must not be granted")
}
