//! Random sequences of operations, over several sessions with watches, must give the same replies, stats, events and
//! errors on the embedded server and on a real one.
//!
//! The test needs `java` and ZooKeeper's jar, so plain `cargo test` does not run it. `PROPTEST_CASES` sets the number
//! of sequences. The embedded server follows 3.9. The real one has the installed version, or that of the jar given by
//! `ZOOKEEPER_JAR`. `Release` describes the intended differences to older versions:
//!
//! - Since 3.8.4 and 3.9.2, `exists` requires the read permission (ZOOKEEPER-2590). The embedded server requires it
//!   too, because all up-to-date servers do. With an older server, the test does not send `exists` for nodes that the
//!   session may not read.
//! - Since 3.9, a client can have watches of different modes on one path (ZOOKEEPER-4466), and `removeWatches` removes
//!   only one mode (ZOOKEEPER-4471). Before, a watch of one mode replaced the others, and `checkWatches` reported the
//!   watches of all clients. Since 3.9, events carry their transaction id (ZOOKEEPER-4655). 3.8.0 answers `create2` in
//!   a multi like `create` (ZOOKEEPER-4026). With an older server, each session has watches of only one mode on a path,
//!   the session with persistent watches removes all modes at once, the test does not send `checkWatches` or `create2`
//!   in a multi, and it does not compare the transaction ids of events.
//! - Before 3.9, every malformed write uses up a transaction id. Since then, only a malformed multi does. With an older
//!   server, the test does not count these transactions.
//!
//! These differences apply to every version, so the test avoids or ignores them:
//!
//! - A create with undefined flags fails alone in 3.8, but fails its whole multi since. The test does not send it.
//! - The real server never answers a successful `check` outside of a multi, answers `sasl` even if it is not
//!   configured, and accepts from clients the internal operations that create sessions and delete containers. Regular
//!   clients send none of these, and the test does not either.
//! - For characters above U+FFFF, which names cannot contain, the real server returns two surrogates, which is not valid
//!   UTF-8. The test does not send them.
//! - The real server accepts any number of identities per connection, of any length.
//! - The real server deletes expired containers and TTL nodes at its next check, the embedded one at once. In this test
//!   nothing expires.
//! - The real server keeps children, identities and the ephemeral nodes of a session in hash tables. So the order of
//!   these lists, and of the events when a session ends, is not defined. The test sorts them.
//! - Transaction ids and session ids are compared relative to the first one. Times are only compared with each other.

#[path = "../../tests/common/servers/mod.rs"]
mod common;
#[path = "differential/fixed.rs"]
mod fixed;
#[path = "differential/operations.rs"]
mod operations;
mod raw;
#[path = "differential/world.rs"]
mod world;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{Server, ServerOptions};
use lockkeeper_embedded::Embedded;
use operations::{Op, step};
use proptest::prelude::*;
use world::run;

const SESSIONS: usize = 3;
/// With a server before 3.9, the only session that has persistent watches.
const PERSISTENT: usize = 2;
/// Long enough that no session expires.
const TIMEOUT_MS: i32 = 40_000;

/// The hash is that of `super:admin`.
const SUPER_DIGEST: &str = "super:xQJmxLMiHGwaqBvst5y6rkB6HQs=";

#[test]
fn it_behaves_like_the_real_server() {
    let server = start_real();
    let (real, release) = (address_of(&server), Release::of_server(&server));
    println!("comparing with {release:?}");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    proptest!(ProptestConfig { max_shrink_time: 60_000, failure_persistence: None, ..ProptestConfig::default() },
        |(steps in prop::collection::vec(step(release), 1..60))| {
        static CASE: AtomicU32 = AtomicU32::new(0);
        let root = format!("/d{}/r", CASE.fetch_add(1, Ordering::Relaxed));
        let embedded = runtime.block_on(embedded());
        let expected = run(real, release, release, &root, &steps);
        let found = run(embedded.socket_address(), FOLLOWED, release, &root, &steps);
        for ((step, expected), found) in steps.iter().zip(&expected).zip(&found) {
            prop_assert_eq!(found, expected, "on {:?}", step);
        }
    });
}

async fn embedded() -> Embedded {
    let options = Embedded::options().container_check(Duration::from_secs(3600)).extended_types(true);
    options.super_digest(SUPER_DIGEST).start().await.expect("a free port")
}

fn start_real() -> Server {
    Server::start_with(&ServerOptions {
        tick_ms: 2000,
        jvm: vec![
            "-Dznode.container.checkIntervalMs=3600000".into(),
            format!("-Dzookeeper.DigestAuthenticationProvider.superDigest={SUPER_DIGEST}"),
        ],
        ..ServerOptions::default()
    })
}

fn address_of(server: &Server) -> SocketAddr {
    server.address().parse().expect("an address")
}

/// The version that the embedded server follows.
const FOLLOWED: Release = Release(3, 9, 5);

/// A server's version, with the behavior that depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Release(u32, u32, u32);

impl Release {
    fn of_server(server: &Server) -> Release {
        let summary = server.four_letter("srvr");
        let version =
            summary.strip_prefix("Zookeeper version: ").and_then(|rest| rest.split(['-', ',']).next());
        let numbers =
            version.map(|version| version.split('.').map_while(|number| number.parse().ok()).collect());
        let numbers: Vec<u32> = numbers.unwrap_or_default();
        let [major, minor, patch] = numbers.try_into().unwrap_or_else(|_| panic!("no version in {summary}"));
        Release(major, minor, patch)
    }

    /// Whether `exists` requires the read permission.
    fn exists_checks(self) -> bool {
        self >= Release(3, 9, 2) || (Release(3, 8, 4)..Release(3, 9, 0)).contains(&self)
    }

    /// Whether this operation uses up a transaction id when it is malformed (other than a multi).
    fn counts_malformed(self, op: &Op) -> bool {
        let is_write = matches!(
            op,
            Op::Create { .. } | Op::Delete { .. } | Op::SetData { .. } | Op::SetAcl { .. } | Op::Check { .. }
        );
        is_write && !self.is_3_9()
    }

    /// Whether a client can have watches of different modes on one path, and events carry their transaction id.
    fn is_3_9(self) -> bool {
        self >= Release(3, 9, 0)
    }
}
