//! The server that a suite runs on, embedded or real, a TCP proxy that misbehaves on demand, and a live client of
//! kazoo to contend with.
//!
//! Real servers need `java` and ZooKeeper's jar. A test without them fails, it is never skipped.

// Every test binary compiles this whole tree and uses a part of it, so in each of them
// something is unused.
#![allow(dead_code, unused_imports)]

pub mod ensemble;
pub mod guardian;
pub mod java;
pub mod kazoo;
mod kazoo_process;
mod ports;
pub mod server;
pub mod target;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

pub use ensemble::Ensemble;
pub use kazoo::{Acquire, Create, Handle, Kazoo, Kind, Pending, Stat};
pub use kazoo_process::python;
pub use lockkeeper_embedded::Proxy;
pub use server::{Server, ServerOptions};
pub use target::{TestServer, proxied, shared};

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
