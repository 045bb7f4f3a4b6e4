//! A session's connection: requests that are sent together leave together, and a closed connection is closed at once.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::RawFd;
use std::sync::Arc;

use common::{LONG, Proxy, SOON, connect_through, eventually, proxied, unique_path};
use filedescriptor::FileDescriptor;
use futures::future::join_all;
use lockkeeper::Keeper;
use rustix::net::{getpeername, sockopt};
use tokio::task::spawn_blocking;

/// Whether each socket of this process that is connected to the proxy has the option `TCP_NODELAY`, in order.
fn options(proxy: &Proxy) -> Vec<bool> {
    let entries = fs::read_dir("/proc/self/fd").expect("readable").flatten();
    let option = |descriptor: RawFd| {
        let socket = FileDescriptor::dup(&descriptor).ok()?;
        let peer = SocketAddr::try_from(getpeername(&socket).ok()??).ok()?;
        (peer.to_string() == proxy.address()).then(|| sockopt::tcp_nodelay(&socket).expect("an option"))
    };
    let sockets = entries.filter(|entry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    });
    let mut options: Vec<_> =
        sockets.filter_map(|entry| option(entry.file_name().to_str()?.parse().ok()?)).collect();
    options.sort();
    options
}

#[tokio::test]
async fn every_connection_of_a_session_sends_without_delay() {
    let proxy = proxied().await;
    let keeper = connect_through(&proxy, LONG).await;
    eventually("the connection has the option", SOON, async || options(&proxy) == [true]).await;
    for connections in 2..5 {
        proxy.cut();
        eventually("it reconnects", SOON, async || proxy.accepted() >= connections).await;
        eventually("the new connection has the option", SOON, async || options(&proxy) == [true]).await;
    }
    keeper.close().await;
}

#[tokio::test]
async fn a_closed_keeper_has_closed_its_connection() {
    let proxy = proxied().await;
    let keeper = connect_through(&proxy, LONG).await;
    eventually("the connection has the option", SOON, async || options(&proxy) == [true]).await;
    keeper.close().await;
    eventually("the server's side sees the end", SOON, async || proxy.open() == 0).await;
    assert!(options(&proxy).is_empty());
}

#[tokio::test]
async fn many_requests_in_flight_share_packets_and_other_sessions_do_not_wait() {
    let proxy = proxied().await;
    let idle = connect_through(&proxy, LONG).await;
    eventually("the first connection has the option", SOON, async || options(&proxy) == [true]).await;
    let busy = connect_through(&proxy, LONG).await;
    eventually("both connections have the option", SOON, async || options(&proxy) == [true, true]).await;

    proxy.hold_replies(true);
    let cycles = tokio::spawn(join_all((0..100).map(|_| cycle(busy.clone()))));
    eventually("the busy one has it no more", SOON, async || options(&proxy) == [false, true]).await;
    assert_eq!(proxy.accepted(), 2, "a new connection does not have it at first");
    proxy.hold_replies(false);
    cycles.await.expect("no panic");
    eventually("both have it again", SOON, async || options(&proxy) == [true, true]).await;
    idle.close().await;
    eventually("the busy one's connection is left", SOON, async || options(&proxy) == [true]).await;
    busy.close().await;
}

async fn cycle(keeper: Keeper) {
    let lock = keeper.lock(&unique_path("no-delay")).expect("a valid path");
    lock.acquire().await.expect("granted").release().await.expect("released");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_connect_at_the_same_time_all_send_without_delay() {
    let proxy = Arc::new(proxied().await);
    // Duplicates all sockets again and again, each for a moment, as every session does that looks for its own.
    let looked_at = Arc::downgrade(&proxy);
    let looking = spawn_blocking(move || {
        while let Some(proxy) = looked_at.upgrade() {
            options(&proxy);
        }
    });
    for _ in 0..20 {
        let keepers = join_all((0..5).map(|_| connect_through(&proxy, LONG))).await;
        eventually("all have the option", SOON, async || options(&proxy) == [true; 5]).await;
        join_all(keepers.iter().map(Keeper::close)).await;
        eventually("all are closed", SOON, async || proxy.open() == 0).await;
    }
    drop(proxy);
    looking.await.expect("no panic");
}

#[tokio::test]
async fn a_connection_of_the_application_to_the_same_server_is_left_alone() {
    let proxy = proxied().await;
    let own = TcpStream::connect(proxy.address()).expect("connected");
    let keeper = connect_through(&proxy, LONG).await;
    eventually("the keeper's connection has the option", SOON, async || options(&proxy) == [false, true])
        .await;
    assert!(!own.nodelay().expect("an option"));
    keeper.close().await;
}
