//! Unmodified kazoo with this server. It needs Python, so plain `cargo test` does not run it.

#[path = "../../tests/common/servers/mod.rs"]
mod common;

use std::time::Duration;

use common::{Acquire, Create, Kazoo, Kind, eventually};
use lockkeeper_embedded::Embedded;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn kazoos_lock_is_fair_and_handles_expiry() {
    let server = Embedded::start().await.expect("a server");
    let (one, two) = (Kazoo::start(&server.address()).await, Kazoo::start(&server.address()).await);
    let held = one.acquire("/lock", Kind::Lock, Acquire::identified("one")).await.expect("free");
    let waiting = two.start_acquire("/lock", Kind::Lock, Acquire::identified("two"));
    eventually("two waits behind one", SOON, async || {
        one.contenders("/lock", Kind::Lock).await.is_ok_and(|names| names == ["one", "two"])
    })
    .await;
    assert!(!waiting.is_finished());
    assert_eq!(one.release(held).await, Ok(true));
    let held = waiting.await.expect("two gets the lock");
    // Expire the session of the holder. Then the lock is free.
    let controls = server.controls();
    let owner =
        controls.sessions().into_iter().find(|session| session.ephemerals == 1).expect("the session of two");
    assert!(controls.expire(owner.id));
    let again = one.acquire("/lock", Kind::Lock, Acquire::identified("one")).await.expect("free again");
    assert_eq!(one.release(again).await, Ok(true));
    let _lost = held;
    one.stop().await;
}

#[tokio::test]
async fn kazoo_creates_reads_and_deletes() {
    let server = Embedded::start().await.expect("a server");
    let kazoo = Kazoo::start(&server.address()).await;
    kazoo.ensure_path("/a").await.expect("created");
    kazoo.create("/a/b", b"x", Create::default()).await.expect("created");
    assert_eq!(kazoo.children("/a").await.expect("listed"), ["b"]);
    assert!(kazoo.exists("/a/b").await.expect("asked"));
    let stat = kazoo.stat("/a").await.expect("asked").expect("there");
    assert_eq!((stat.cversion, stat.num_children), (1, 1));
    kazoo.stop().await;
}
