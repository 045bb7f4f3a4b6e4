//! Users and passwords, with SASL's DIGEST-MD5.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use lockkeeper::auth::SaslOptions;
use lockkeeper::error::ConnectError;
use lockkeeper::session::SessionEvent;
use lockkeeper::{Keeper, KeeperOptions, LeaseState};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::common::servers::sasl::{USERS, file};
use crate::common::{BRISK, LONG, SOON, Server, ServerOptions, eventually, options, run};

fn start() -> Arc<Server> {
    Arc::new(Server::start_with(&ServerOptions::default().with_sasl(&[("me", "secret")])))
}

/// Restarts the server with other users: it reads them only then.
async fn change_users(server: &Arc<Server>, users: &[(&str, &str)]) {
    server.write(USERS, &file(users)).expect("written");
    let server = server.clone();
    spawn_blocking(move || server.restart()).await.expect("it serves again");
}

fn user(name: &str, password: &str) -> KeeperOptions {
    options().connect_timeout(LONG).sasl(SaslOptions::digest_md5(name, password))
}

#[test]
fn only_a_user_with_the_right_password_gets_a_session() {
    run(async {
        let server = start();
        let keeper = user("me", "secret").connect(&server.address()).await.expect("should connect");
        let lock = keeper.lock("/a").expect("a path");
        assert_eq!(lock.acquire().await.expect("free").release().await, Ok(()));
        // Not with the password of the known user: ZooKeeper 3.8 accepts that from anybody.
        for options in [user("me", "wrong"), user("stranger", "other"), options().connect_timeout(LONG)] {
            // At once, not after all the time for connecting.
            let connect = timeout(SOON, options.connect(&server.address())).await.expect("an answer");
            let error = connect.expect_err("no session");
            assert_eq!(error, ConnectError::AuthFailed { address: server.address() });
            assert!(!error.is_retryable());
        }
    });
}

#[test]
fn a_password_that_is_no_longer_accepted_ends_the_keeper_and_its_leases() {
    run(async {
        let server = start();
        let keeper = user("me", "secret").session_timeout(BRISK);
        let keeper = keeper.connect(&server.address()).await.expect("should connect");
        let guard = keeper.lock("/a").expect("a path").acquire().await.expect("free");
        let events = keeper.events();
        change_users(&server, &[("me", "changed")]).await;
        let received: Vec<SessionEvent> = timeout(SOON, events.collect()).await.expect("it ends");
        let [.., SessionEvent::GaveUp { error }, SessionEvent::Closed] = &received[..] else {
            panic!("{received:?}")
        };
        assert_eq!(*error, ConnectError::AuthFailed { address: server.address() });
        assert_eq!(guard.state(), LeaseState::Lost);
        // The server keeps the session until its time is over.
        let keeper = user("me", "changed").connect(&server.address()).await.expect("should connect");
        let next = keeper.lock("/a").expect("a path").acquire_timeout(2 * SOON).await;
        assert!(next.expect("the lock is free").token() > guard.token());
    });
}

#[test]
fn a_second_user_takes_over_without_the_loss_of_a_lock() {
    run(async {
        let server = start();
        let connect = async |options: KeeperOptions| -> Keeper {
            options.connect(&server.address()).await.expect("should connect")
        };
        let keeper = connect(user("me", "secret")).await;
        let guard = keeper.lock("/a").expect("a path").acquire().await.expect("free");
        change_users(&server, &[("me", "secret"), ("successor", "new")]).await;
        let successor = connect(user("successor", "new")).await;
        let next = successor.lock("/a").expect("a path");
        let waiting = tokio::spawn(next.acquire());
        eventually("it waits", SOON, async || next.contenders().await.is_ok_and(|all| all.len() == 2)).await;
        eventually("it is held", SOON, async || guard.state() == LeaseState::Held).await;
        assert_eq!(guard.release().await, Ok(()));
        let granted = timeout(SOON, waiting).await.expect("an answer").expect("no panic").expect("free");
        keeper.close().await;
        // The first user is no longer needed.
        change_users(&server, &[("successor", "new")]).await;
        eventually("it is held", SOON, async || granted.state() == LeaseState::Held).await;
        assert_eq!(granted.release().await, Ok(()));
    });
}

#[test]
fn who_holds_a_lock_and_waits_for_another_one_keeps_it_when_the_server_restarts() {
    run(async {
        let server = start();
        // A busy machine may need many seconds to start a server.
        let options = || user("me", "secret").session_timeout(Duration::from_secs(60));
        let connect = async || options().connect(&server.address()).await.expect("should connect");
        let (one, other) = (connect().await, connect().await);
        let guard = one.lock("/a").expect("a path").acquire().await.expect("free");
        let behind = other.lock("/b").expect("a path").acquire().await.expect("free");
        let waiting = tokio::spawn(one.lock("/b").expect("a path").acquire());
        eventually("it watches", SOON, async || server.mntr("zk_watch_count") == 1).await;
        change_users(&server, &[("me", "secret")]).await;
        for guard in [&guard, &behind] {
            eventually("it is held", SOON, async || guard.state() == LeaseState::Held).await;
        }
        assert_eq!(behind.release().await, Ok(()));
        let granted = timeout(SOON, waiting).await.expect("an answer").expect("no panic").expect("free");
        assert_eq!((granted.state(), guard.state()), (LeaseState::Held, LeaseState::Held));
    });
}
