//! Invalid requests are refused with an error that names the reason, before anything is sent. Unreachable servers are
//! named in the error.

use std::time::{Duration, Instant};

use lockkeeper::auth::{Acl, AuthId, Permission};
use lockkeeper::error::{AcquireError, ConnectError, Refused, TryAcquireError};
use lockkeeper::{Keeper, LockOptions};
use tokio::time::timeout;

use crate::common::events::{acquired, granted, listen, queued, refused};
use crate::common::kinds::Kind;
use crate::common::{
    LONG, Proxy, SLACK, SOON, connect, connect_through, eventually, options, proxied, refusal, run,
    unused_address,
};

promises! {
    every_kind:
        invalid_paths_are_refused_by_name_without_asking_the_server,
        invalid_options_are_refused_by_value_without_asking_the_server,
        waiting_requests_beyond_the_limit_are_refused_without_asking_the_server;
}

async fn invalid_paths_are_refused_by_name_without_asking_the_server(kind: Kind) {
    let proxy = proxied().await;
    let keeper = connect_through(&proxy, LONG).await;
    proxy.black_hole(true);
    for (path, reason) in [
        ("", "empty"),
        ("ledger", "relative"),
        ("locks/ledger", "relative"),
        ("/", "root"),
        ("/ledger/", "ends with"),
        ("/locks//ledger", "empty part"),
        ("/locks/./ledger", "`.`"),
        ("/locks/../ledger", "`..`"),
        ("/locks/led\0ger", "NUL"),
        ("/locks/led\u{1}ger", "character"),
        // Java represents it as a surrogate pair, which the server rejects.
        ("/locks/\u{1f512}", "character"),
        ("/zookeeper/ledger", "server"),
    ] {
        let error = (kind.open)(&keeper, path).err().expect(path);
        let same = (kind.open_with)(&keeper, path, LockOptions::new()).err().expect(path);
        assert_eq!(error.to_string(), same.to_string());
        assert!(error.to_string().contains(&format!("{path:?}")), "{error}");
        assert!(error.to_string().contains(reason), "{path:?}: {error}");
    }
    let long = format!("/{}", "x".repeat(40_000));
    assert!((kind.open)(&keeper, &long).is_err());
    for path in ["/locks/.ledger", "/locks/ledger..", "/locks/Kontobücher", "/locks/a b"] {
        assert!((kind.open)(&keeper, path).is_ok(), "{path:?}");
    }
}

async fn invalid_options_are_refused_by_value_without_asking_the_server(kind: Kind) {
    let proxy = proxied().await;
    let keeper = connect_through(&proxy, LONG).await;
    proxy.black_hole(true);
    let too_much = 1024 * 1024;
    // Each of them is short enough.
    let (long, listed) = ("x".repeat(940 * 1024), vec![user(60 * 1024)]);
    for (options, value) in [
        (LockOptions::new().acl(vec![user(too_much)]), "identifier and the access list".to_owned()),
        (LockOptions::new().identifier(long).acl(listed), "identifier and the access list".to_owned()),
        (LockOptions::new().extra_lock_patterns(["-lock-", ""]), "\"\"".to_owned()),
        (LockOptions::new().extra_lock_patterns(["up["]), "\"up[\" is invalid: unclosed".to_owned()),
        (LockOptions::new().identifier("x".repeat(too_much)), too_much.to_string()),
        (LockOptions::new().acl(vec![]), "no entries".to_owned()),
        (LockOptions::new().max_waiting(0), "limit of 0".to_owned()),
    ] {
        let error = (kind.open_with)(&keeper, "/ledger", options).err().expect(&value);
        assert!(error.to_string().contains(&value), "{error}");
    }
}

/// An entry of an access list whose id has this length.
fn user(bytes: usize) -> Acl {
    Acl::new(Permission::ALL, AuthId::new("digest", &"x".repeat(bytes)))
}

async fn waiting_requests_beyond_the_limit_are_refused_without_asking_the_server(kind: Kind) {
    let (site, proxy) = (kind.site("max-waiting").await, proxied().await);
    let keeper = connect_through(&proxy, LONG).await;
    let guard = site.rival(&connect().await).acquire().await.expect("the lock is free");
    let limited = site.lock_with(&keeper, LockOptions::new().max_waiting(2));
    // Requests of other handles count too.
    let (first, mut first_events) = listen(&site.lock(&keeper));
    queued(&mut first_events).await;
    let (_, mut second_events) = listen(&limited);
    queued(&mut second_events).await;

    proxy.black_hole(true);
    let third = timeout(SOON, limited.acquire()).await.expect("refused without an answer from the server");
    let AcquireError::TooManyWaiting { path, limit: 2 } = refusal(third) else {
        panic!("refused with another error")
    };
    assert!((kind.paths)(&site.path).contains(&path), "{path}");
    proxy.black_hole(false);
    assert!(
        matches!(refusal(limited.try_acquire().await), TryAcquireError::Contended { .. }),
        "try_acquire does not count as waiting"
    );

    // A cancelled request makes room for another, and a holder does not count.
    limited.cancel(first);
    assert_eq!(refused(&mut first_events).await, (first, Refused::Cancelled));
    let (_, mut third_events) = listen(&limited);
    queued(&mut third_events).await;
    drop(guard);
    let second = acquired(&mut second_events).await;
    let (_, mut fourth_events) = listen(&limited);
    drop(second);
    for events in [&mut third_events, &mut fourth_events] {
        drop(granted(events).await);
    }
}

#[test]
fn invalid_connect_options_are_refused_by_value_without_asking_a_server() {
    run(async {
        let weeks = Duration::from_secs(60 * 24 * 3600);
        for (options, value) in [
            (Keeper::options().session_timeout(Duration::ZERO), "session timeout of 0ns"),
            (Keeper::options().session_timeout(weeks), "session timeout of 5184000s"),
            (Keeper::options().connect_timeout(Duration::ZERO), "connect timeout of 0ns"),
            (Keeper::options().tick_time(Duration::ZERO), "tick time of 0ns"),
            (Keeper::options().close_timeout(Duration::ZERO), "close timeout of 0ns"),
            (Keeper::options().tick_time(Duration::from_secs(6)), "tick time of 6s"),
            (Keeper::options().identifier("x".repeat(1024 * 1024)), "identifier of 1048576 bytes"),
            (Keeper::options().acl(vec![]), "access list of no entries"),
            (Keeper::options().acl(vec![user(1024 * 1024)]).identifier(""), "access list of 1048614 bytes"),
        ] {
            let error = options.connect(&unused_address()).await.expect_err(value);
            assert!(matches!(error, ConnectError::InvalidOption { .. }), "{error:?}");
            assert!(error.to_string().contains(value), "{error}");
        }
    });
}

#[test]
fn invalid_addresses_are_refused_by_name() {
    run(async {
        let addresses = [
            "",
            "127.0.0.1:port",
            "127.0.0.1:2181,",
            "127.0.0.1:2181/a//b",
            "127.0.0.1:2181 127.0.0.1:2182",
            "127.0.0.1:2181/🔒",
        ];
        for address in addresses {
            let connect = options().connect_timeout(Duration::from_secs(2)).connect(address);
            let error = connect.await.expect_err(address);
            assert!(matches!(error, ConnectError::InvalidAddress { .. }), "{address:?}: {error:?}");
            assert!(error.to_string().contains(&format!("{address:?}")), "{error}");
        }
    });
}

#[test]
fn an_unreachable_server_is_named_within_the_connect_timeout() {
    run(async {
        let (refusing, silent) =
            (Proxy::start(unused_address()).await.expect("a free port"), proxied().await);
        refusing.refuse(true);
        silent.black_hole(true);
        for address in [unused_address(), refusing.address(), silent.address()] {
            let (limit, begun) = (Duration::from_millis(600), Instant::now());
            let error = options().connect_timeout(limit).connect(&address).await.expect_err("an error");
            assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
            assert!(error.to_string().contains(&address), "{error}");
            assert!(begun.elapsed() < limit + SLACK, "{address}: {:?}", begun.elapsed());
        }
        // No connection attempt continues in the background.
        silent.black_hole(false);
        eventually("no connection is left", SOON, async || silent.open() == 0).await;
    });
}

#[test]
fn a_dropped_connect_leaves_nothing() {
    run(async {
        let proxy = proxied().await;
        proxy.black_hole(true);
        let connect = tokio::spawn({
            let address = proxy.address();
            async move { options().connect(&address).await.map(drop) }
        });
        eventually("it is under way", SOON, async || proxy.open() == 1).await;
        connect.abort();
        assert!(connect.await.expect_err("it is aborted").is_cancelled());
        proxy.black_hole(false);
        eventually("no connection is left", SOON, async || proxy.open() == 0).await;
    });
}
