//! What the tests share: servers and live peers, the kinds of locks that every promise is tested for, and what a test
//! of them hears and sees.

// Every test binary compiles this whole tree and uses a part of it, so in each of them
// something is unused.
#![allow(dead_code, unused_imports, unused_macros)]

pub mod beside_curator;
pub mod curator;
pub mod hearing;
#[macro_use]
pub mod kinds;
pub mod logs;
pub mod servers;
pub mod site;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use lockkeeper::{Keeper, KeeperOptions, SessionEvent};
use tokio::time::timeout;

pub use curator::{Curator, CuratorKind};
pub use servers::*;

/// A session timeout under which no busy machine loses a session.
pub const LONG: Duration = Duration::from_secs(20);
/// For sessions that a busy machine keeps, and whose heartbeats come every second.
pub const BRISK: Duration = Duration::from_secs(8);
/// For sessions that are to be lost.
pub const SHORT: Duration = Duration::from_secs(2);
/// For what is done in milliseconds when nothing is wrong.
pub const SOON: Duration = Duration::from_secs(10);
/// What a busy machine may add to a time limit.
pub const SLACK: Duration = Duration::from_secs(2);

/// Runs a test, and ends it when it hangs.
pub fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async { timeout(Duration::from_secs(60), test).await.expect("the test hangs") });
}

pub fn options() -> KeeperOptions {
    Keeper::options().session_timeout(LONG)
}

/// To the shared server, in a session that is not lost.
pub async fn connect() -> Keeper {
    connect_for(LONG).await
}

pub async fn connect_for(session: Duration) -> Keeper {
    options().session_timeout(session).connect(&shared().address()).await.expect("a server")
}

pub async fn connect_to(server: &TestServer) -> Keeper {
    options().connect(&server.address()).await.expect("a server")
}

pub async fn connect_through(proxy: &Proxy, session: Duration) -> Keeper {
    options().session_timeout(session).connect(&proxy.address()).await.expect("a server")
}

/// A keeper that has lost its session, and has failed to get another one more than once.
pub async fn absent_for_several_rounds(proxy: &Proxy) -> Keeper {
    let impatient = options().session_timeout(SHORT).connect_timeout(Duration::from_millis(100));
    let mut keeper = None;
    // A busy machine does not always connect in so little time.
    eventually("it is connected", SOON, async || {
        keeper = impatient.clone().connect(&proxy.address()).await.ok();
        keeper.is_some()
    })
    .await;
    let keeper = keeper.expect("a server");
    let mut events = keeper.events();
    proxy.refuse(true);
    proxy.cut();
    hearing::session_event(&mut events, SessionEvent::Lost { epoch: 1 }).await;
    let tries = proxy.accepted();
    eventually("it goes on trying", SOON, async || proxy.accepted() > tries + 2).await;
    keeper
}

/// Why it was not granted.
pub fn refusal<G: fmt::Debug, E>(result: Result<G, E>) -> E {
    result.expect_err("it must not be granted")
}
