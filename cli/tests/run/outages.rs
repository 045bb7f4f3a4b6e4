//! Outages before the lock is acquired: they are told from a contender, so that no job is skipped for nothing.

use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{
    Killed, Proxy, SOON, connect, done, ended, eventually, lockkeeper_at, proxied, run, shared, unique_path,
};

#[test]
fn an_outage_while_it_waits_is_not_a_contender() {
    run(async {
        let silence = |proxy: &Proxy| proxy.black_hole(true);
        let refusal = |proxy: &Proxy| {
            proxy.refuse(true);
            proxy.cut();
        };
        let faults: [&dyn Fn(&Proxy); 2] = [&silence, &refusal];
        for fault in faults {
            let (keeper, path, proxy) = (connect().await, unique_path("cli-outage"), proxied().await);
            let lock = keeper.lock(&path).expect("a path");
            let guard = lock.acquire().await.expect("free");
            let arguments = ["run", "--wait", "3s", "--conflict-exit-code", "0", &path, "--", "true"];
            let mut command = lockkeeper_at(&proxy.address(), &arguments);
            let mut process = Killed(command.stderr(Stdio::null()).spawn().expect("it starts"));
            eventually("it queues", SOON, async || lock.contenders().await.expect("listed").len() == 2).await;
            fault(&proxy);
            assert_eq!(ended("it gives up", &mut process.0).await, Some(69));
            drop(guard);
        }
    });
}

#[test]
fn an_outage_while_it_tries_is_not_a_contender() {
    run(async {
        let (path, address) = (unique_path("cli-outage-try"), deaf_to_creates().await);
        let arguments = ["run", "--try", "--conflict-exit-code", "0", &path, "--", "echo", "ran"];
        let mut command = lockkeeper_at(&address, &arguments);
        // It gives up when the connection is in doubt.
        command.env("LOCKKEEPER_SESSION_TIMEOUT", "4s");
        let tried = done(command).await;
        assert_eq!((tried.code, &*tried.out), (Some(69), ""), "{}", tried.err);
        assert!(tried.err.contains("not acquired"), "it was connected: {}", tried.err);
        assert_eq!(tried.err.lines().count(), 1, "{}", tried.err);
    });
}

/// The address of a relay to the server that goes silent when a client asks it to make a node.
async fn deaf_to_creates() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(shared().one_address()).await else { return };
            let ((requests, to_client), (replies, to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(relay(requests, to_server, replies, to_client));
        }
    });
    address
}

async fn relay(
    mut requests: OwnedReadHalf,
    mut to_server: OwnedWriteHalf,
    mut replies: OwnedReadHalf,
    mut to_client: OwnedWriteHalf,
) {
    tokio::spawn(async move { copy(&mut replies, &mut to_client).await });
    let mut is_first = true;
    while let Ok(length) = requests.read_u32().await {
        let mut frame = vec![0; length as usize];
        if requests.read_exact(&mut frame).await.is_err() {
            break;
        }
        // The first one asks for a session. Others have a number, then a code: here those of the requests that make nodes.
        if !is_first && [1, 14, 15, 19].contains(&frame[7]) {
            // Neither side is closed.
            return std::future::pending().await;
        }
        is_first = false;
        let bytes = [&length.to_be_bytes()[..], &frame].concat();
        if to_server.write_all(&bytes).await.is_err() {
            break;
        }
    }
}
