//! The server that a suite runs on, embedded or real, a TCP proxy that causes faults on demand, and a live kazoo client
//! to contend with.
//!
//! Real servers need `java` and ZooKeeper's jar. Without them a test fails; it is not skipped.

// Every test binary compiles this whole tree but uses only part of it.
#![allow(dead_code, unused_imports)]

mod clock;
pub mod ensemble;
pub mod guardian;
pub mod java;
pub mod kazoo;
mod kazoo_process;
mod ports;
pub mod sasl;
pub mod server;
pub mod target;
pub mod tls;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

pub use ensemble::Ensemble;
pub use kazoo::{Acquire, Create, Handle, Kazoo, Kind, Pending, Stat};
pub use kazoo_process::python;
pub use lockkeeper_embedded::Proxy;
pub use server::{DIRECTORY, Server, ServerOptions};
pub use target::{TestServer, proxied, shared, uses_tls};
pub use tls::Certificate;

/// Servers of one process start one after another, because a machine with few cores that starts many at once exceeds the
/// time limits of all of them.
static STARTING: Mutex<()> = Mutex::new(());

/// The polling interval of `eventually`.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `condition` holds, and panics with `what` if it does not `within` that time.
///
/// A condition that hangs counts as not met.
///
/// ```ignore
/// eventually("the node is gone", Duration::from_secs(5), async || {
///     !kazoo.exists("/x").await.expect("asking for the node")
/// })
/// .await;
/// ```
pub async fn eventually(what: &str, within: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + within;
    let mut checks = 0_u64;
    loop {
        let outcome = timeout_at(deadline, condition()).await;
        checks += 1;
        match outcome {
            Ok(true) => return,
            Ok(false) if Instant::now() < deadline => sleep(POLL).await,
            Ok(false) => panic!("not within {within:?} ({checks} checks): {what}"),
            Err(_) => panic!("not within {within:?} (check {checks} did not return): {what}"),
        }
    }
}

/// A path directly under the root that no other test uses, so that tests can share a server: `unique_path("lock")` is
/// something like `/lock-4711-3`.
pub fn unique_path(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let prefix = prefix.trim_matches('/').replace('/', "-");
    format!("/{prefix}-{}-{count}", std::process::id())
}

/// A random number, from the only public source of randomness in the standard library.
fn random_number() -> u64 {
    use std::collections::hash_map::RandomState;
    use std::hash::{BuildHasher, Hasher};
    RandomState::new().build_hasher().finish()
}
