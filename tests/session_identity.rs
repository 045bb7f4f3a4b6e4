//! A server that answers a reconnect with a different session than the requested one, as ClickHouse Keeper does. The
//! nodes of the old session stay until it expires, and only then another client is granted.

use std::time::Duration;

use futures::future::join_all;
use lockkeeper::{Keeper, LeaseState};
use lockkeeper_embedded::{Embedded, SessionId};

/// Short, because the test is about losing sessions.
const TIMEOUT: Duration = Duration::from_millis(800);
const LANES: usize = 10;
const SWAPS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_session_was_replaced_has_lost_its_locks_before_another_is_granted() {
    let server = Embedded::options().min_session_timeout(TIMEOUT).start().await.expect("should connect");
    let server = &server;
    join_all((0..LANES).map(async |lane| {
        let (mut first, mut second) = (connect(server).await, connect(server).await);
        let mut swaps = 0;
        for _ in 0..5 * SWAPS {
            if swaps == SWAPS {
                break;
            }
            let path = format!("/replaced/{lane}");
            let holder = first.lock(&path).expect("a valid path").acquire().await.expect("granted");
            // A busy machine may lose such short sessions by itself.
            let Some(owner) = owner(server, holder.node()).await else { continue };
            let waiting = second.lock(&path).expect("a valid path");
            let waiter = tokio::spawn(async move { waiting.acquire().await });
            server.controls().replace_sessions_on_reconnect(owner, true);
            server.controls().drop_connections(owner);
            let next = waiter.await.expect("no panic").expect("granted");
            assert_eq!(holder.state(), LeaseState::Lost, "lane {lane}, swap {swaps}");
            assert!(next.token() > holder.token());
            swaps += usize::from(next.release().await.is_ok());
            drop(holder);
            std::mem::swap(&mut first, &mut second);
        }
        assert_eq!(swaps, SWAPS, "lane {lane}");
        first.close().await;
        second.close().await;
    }))
    .await;
}

async fn connect(server: &Embedded) -> Keeper {
    let options = Keeper::options().session_timeout(TIMEOUT);
    options.connect(&server.address()).await.expect("should connect")
}

/// The session of a node, if that is still there.
async fn owner(server: &Embedded, node: &str) -> Option<SessionId> {
    let client = zookeeper_client::Client::connect(&server.address()).await.expect("should connect");
    let stat = client.check_stat(node).await.expect("an answer");
    stat.map(|stat| SessionId(stat.ephemeral_owner))
}
