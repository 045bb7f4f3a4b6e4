//! What cannot be meant is refused by name, and before anything is sent; and servers that are away are named.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use lockkeeper::{AcquireError, ConnectError, Keeper, LockOptions, Refused, TryAcquireError};
use tokio::time::timeout;

use crate::common::hearing::{acquired, granted, listen, queued, refused};
use crate::common::kinds::Kind;
use crate::common::{
    LONG, Proxy, SLACK, SOON, connect, connect_through, eventually, options, proxied, refusal, run,
};

promises! {
    every_kind:
        paths_that_cannot_be_locked_are_refused_by_name_without_asking_the_server,
        options_that_cannot_be_used_are_refused_by_value_without_asking_the_server,
        more_waiting_requests_than_allowed_are_refused_without_asking_the_server;
}

async fn paths_that_cannot_be_locked_are_refused_by_name_without_asking_the_server(kind: Kind) {
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
        // Java's strings have two units for it, and the server takes neither.
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

async fn options_that_cannot_be_used_are_refused_by_value_without_asking_the_server(kind: Kind) {
    let proxy = proxied().await;
    let keeper = connect_through(&proxy, LONG).await;
    proxy.black_hole(true);
    let too_much = 1024 * 1024;
    for (options, value) in [
        (LockOptions::new().extra_lock_patterns(["-lock-", ""]), "\"\"".to_owned()),
        (LockOptions::new().extra_lock_patterns(["up/down"]), "\"up/down\"".to_owned()),
        (LockOptions::new().identifier("x".repeat(too_much)), too_much.to_string()),
        (LockOptions::new().acl(vec![]), "no entries".to_owned()),
        (LockOptions::new().max_waiting(0), "limit of 0".to_owned()),
    ] {
        let error = (kind.open_with)(&keeper, "/ledger", options).err().expect(&value);
        assert!(error.to_string().contains(&value), "{error}");
    }
}

async fn more_waiting_requests_than_allowed_are_refused_without_asking_the_server(kind: Kind) {
    let (site, proxy) = (kind.site("max-waiting").await, proxied().await);
    let keeper = connect_through(&proxy, LONG).await;
    let guard = site.rival(&connect().await).acquire().await.expect("a free lock");
    let limited = site.lock_with(&keeper, LockOptions::new().max_waiting(2));
    // Requests of other handles count.
    let (first, mut first_told) = listen(&site.lock(&keeper));
    queued(&mut first_told).await;
    let (_, mut second_told) = listen(&limited);
    queued(&mut second_told).await;

    proxy.black_hole(true);
    let third = timeout(SOON, limited.acquire()).await.expect("without an answer of the server");
    let AcquireError::TooManyWaiting { path, limit: 2 } = refusal(third) else { panic!("not refused so") };
    assert!((kind.paths)(&site.path).contains(&path), "{path}");
    proxy.black_hole(false);
    assert!(
        matches!(refusal(limited.try_acquire().await), TryAcquireError::Contended { .. }),
        "a try does not wait"
    );

    // One that has gone makes room for another, and one that holds takes none.
    limited.cancel(first);
    assert_eq!(refused(&mut first_told).await, (first, Refused::Cancelled));
    let (_, mut third_told) = listen(&limited);
    queued(&mut third_told).await;
    drop(guard);
    let second = acquired(&mut second_told).await;
    let (_, mut fourth_told) = listen(&limited);
    drop(second);
    for told in [&mut third_told, &mut fourth_told] {
        drop(granted(told).await);
    }
}

#[test]
fn connect_options_that_cannot_be_used_are_refused_by_value_without_asking_a_server() {
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
        ] {
            let error = options.connect(&nobody()).await.expect_err(value);
            assert!(matches!(error, ConnectError::InvalidOption { .. }), "{error:?}");
            assert!(error.to_string().contains(value), "{error}");
        }
    });
}

#[test]
fn addresses_that_cannot_be_read_are_refused_by_name() {
    run(async {
        for address in ["", "127.0.0.1:port", "127.0.0.1:2181,", "127.0.0.1:2181/a//b"] {
            let connect = options().connect_timeout(Duration::from_secs(2)).connect(address);
            let error = connect.await.expect_err(address);
            assert!(matches!(error, ConnectError::InvalidAddress { .. }), "{address:?}: {error:?}");
            assert!(error.to_string().contains(&format!("{address:?}")), "{error}");
        }
    });
}

#[test]
fn a_server_that_is_away_is_named_within_the_connect_timeout() {
    run(async {
        let (refusing, silent) = (Proxy::start(nobody()).await.expect("a free port"), proxied().await);
        refusing.refuse(true);
        silent.black_hole(true);
        for address in [nobody(), refusing.address(), silent.address()] {
            let (limit, begun) = (Duration::from_millis(600), Instant::now());
            let error = options().connect_timeout(limit).connect(&address).await.expect_err("an error");
            assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
            assert!(error.to_string().contains(&address), "{error}");
            assert!(begun.elapsed() < limit + SLACK, "{address}: {:?}", begun.elapsed());
        }
        // Nobody goes on in the background.
        silent.black_hole(false);
        eventually("no connection is left", SOON, async || silent.open() == 0).await;
    });
}

#[test]
fn a_connect_that_is_dropped_leaves_nothing() {
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

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}
