//! What the tests share: the server that a suite runs on, embedded or real, a TCP proxy that misbehaves on demand, and
//! a live client of another implementation to contend with.
//!
//! Real servers need `java` and ZooKeeper's jar. A test without them fails, it is never skipped.

// Every test binary compiles this whole tree and uses a part of it, so in each of them
// something is unused.
#![allow(dead_code, unused_imports, unused_macros)]

pub mod curator;
pub mod ensemble;
pub mod guardian;
pub mod hearing;
mod java;
pub mod kazoo;
mod kazoo_process;
#[macro_use]
pub mod kinds;
mod ports;
pub mod server;
pub mod site;
pub mod target;

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockkeeper::{Keeper, KeeperOptions, SessionEvent};
use tokio::time::{Instant, sleep, timeout, timeout_at};

pub use curator::{Curator, CuratorKind};
pub use ensemble::Ensemble;
pub use kazoo::{Acquire, Create, Handle, Kazoo, Kind, Pending, Stat};
pub use kazoo_process::python;
pub use lockkeeper_embedded::Proxy;
pub use server::{Server, ServerOptions};
pub use target::{TestServer, proxied, shared};

/// A session timeout under which no busy machine loses a session.
pub const LONG: Duration = Duration::from_secs(20);
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

/// How long `eventually` rests between two looks.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `condition` holds, and panics with `what` when it does not `within` that time.
///
/// A condition that hangs counts as one that does not hold.
///
/// ```ignore
/// eventually("the node is gone", Duration::from_secs(5), async || {
///     !kazoo.exists("/x").await.expect("asking for the node")
/// })
/// .await;
/// ```
pub async fn eventually(what: &str, within: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + within;
    let mut looks = 0_u64;
    loop {
        let outcome = timeout_at(deadline, condition()).await;
        looks += 1;
        match outcome {
            Ok(true) => return,
            Ok(false) if Instant::now() < deadline => sleep(POLL).await,
            Ok(false) => panic!("not within {within:?} ({looks} looks): {what}"),
            Err(_) => panic!("not within {within:?} (look {looks} did not return): {what}"),
        }
    }
}

/// A path directly under the root that no other test uses, so that tests sharing one server do
/// not meet: `unique_path("lock")` is something like `/lock-4711-3`.
pub fn unique_path(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let prefix = prefix.trim_matches('/').replace('/', "-");
    format!("/{prefix}-{}-{count}", std::process::id())
}

/// A number nobody can guess, from the standard library's only public source of randomness.
fn random_number() -> u64 {
    use std::collections::hash_map::RandomState;
    use std::hash::{BuildHasher, Hasher};
    RandomState::new().build_hasher().finish()
}
