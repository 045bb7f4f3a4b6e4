//! Outages before the lock is acquired: they are told from a contender, so that no job is skipped for nothing.

use std::process::Stdio;

use crate::common::{
    Killed, Proxy, SOON, connect, done, ended, eventually, lockkeeper_at, proxied, run, unique_path,
};
use crate::frames::{CREATES, Pass, relay_of_frames};

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
    relay_of_frames(|frame| match CREATES.contains(&frame[7]) {
        true => Pass::Never,
        false => Pass::On,
    })
    .await
}
