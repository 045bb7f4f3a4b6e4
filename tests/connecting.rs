//! Connecting and reconnecting: what can fail, what the error says, and when a keeper gives up.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::events::session_event;
use common::internals::{keeper_settings, kill_session_actors};
use common::logs::Logs;
use common::{SOON, options, proxied, shared, unique_path, unused_address};
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt};
use lockkeeper::error::ConnectError;
use lockkeeper::session::SessionEvent;
use lockkeeper::{Keeper, KeeperOptions, LeaseState};
use lockkeeper_actors::backoff::Backoff;
use lockkeeper_actors::keeper::{self, KeeperMessage, KeeperSettings, RestartPolicy};
use lockkeeper_actors::zookeeper::{Connect, Connected, Connector, Unconnected};
use lockkeeper_embedded::Embedded;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A connector that panics on demand.
struct Panicking {
    connector: Connector,
    broken: AtomicBool,
}

impl Panicking {
    fn new(broken: bool) -> Arc<Panicking> {
        let connector = Connector::new(&shared().address(), Duration::from_secs(20));
        Arc::new(Panicking { connector, broken: AtomicBool::new(broken) })
    }
}

impl Connect for Panicking {
    fn connect(&self) -> BoxFuture<'static, Result<Connected, Unconnected>> {
        match self.broken.load(Ordering::SeqCst) {
            true => async { panic!("a connect that panics, on purpose") }.boxed(),
            false => self.connector.connect(),
        }
    }

    fn address(&self) -> &str {
        "the test"
    }
}

#[tokio::test]
async fn a_panic_while_connecting_is_an_error() {
    let started = timeout(SOON, keeper::start(keeper_settings(Panicking::new(true))));
    let error = started.await.expect("should not hang").map(drop).expect_err("no session");
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("panicked: a connect that panics"), "{error}");
}

#[tokio::test]
async fn a_keeper_whose_connect_panics_gives_up_after_the_configured_time() {
    let connector = Panicking::new(false);
    let give_up_after = Some(Duration::from_millis(500));
    let restart = RestartPolicy { give_up_after, backoff: Backoff::default() };
    let settings = KeeperSettings { restart, ..keeper_settings(connector.clone()) };
    let started = keeper::start(settings).await.expect("should connect");
    let (sender, mut events) = mpsc::unbounded_channel();
    started.keeper.cast(KeeperMessage::Subscribe(sender)).expect("it runs");
    connector.broken.store(true, Ordering::SeqCst);
    kill_session_actors(&started);
    let mut received = Vec::new();
    while let Some(event) = timeout(SOON, events.recv()).await.expect("should not hang") {
        received.push(event);
    }
    let [.., SessionEvent::GaveUp { error }, SessionEvent::Closed] = &received[..] else {
        panic!("{received:?}")
    };
    assert!(error.to_string().contains("panicked: a connect that panics"), "{error}");
}

/// An address with a host name that TLS cannot check is an invalid address.
#[cfg(feature = "tls")]
#[tokio::test]
async fn a_host_name_that_tls_cannot_check_is_refused_by_name() {
    // The system's resolver reads this as 127.0.0.1.
    let (host, port) = ("127.1", shared().one_address().rsplit_once(':').expect("a port").1.to_owned());
    let ca = lockkeeper::auth::TlsCa::from_pem(CERTIFICATE).expect("a certificate");
    let certs = lockkeeper::auth::TlsCerts::builder().with_ca(ca).build().expect("certificates");
    let tls = lockkeeper::auth::TlsOptions::default().with_certs(certs);
    let tls = || options().connect_timeout(SOON).tls(tls.clone());
    for address in [format!("{host}:{port}/app"), format!("tcp+tls://{host}:{port}")] {
        let connect = timeout(SOON, tls().connect(&address)).await.expect("should not hang");
        let error = connect.expect_err("no connection");
        assert!(matches!(error, ConnectError::InvalidAddress { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("{host:?}")), "{error}");
    }
}

/// An unrelated certificate: a TLS connection needs some trusted certificate.
#[cfg(feature = "tls")]
const CERTIFICATE: &str = include_str!("common/stranger.pem");

#[tokio::test]
async fn a_refused_connection_is_reported_as_such() {
    let (one, other) = (unused_address(), unused_address());
    let address = format!("{one},{other}/app");
    let connect = options().connect_timeout(Duration::from_secs(2)).connect(&address);
    let error = connect.await.expect_err("no server listens").to_string();
    for server in [one, other] {
        assert!(error.contains(&format!("{server}: Connection refused")), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_is_reported_as_such() {
    let (silent, closing) = (proxied().await, proxied().await);
    silent.black_hole(true);
    closing.refuse(true);
    for address in [silent.address(), closing.address()] {
        let impatient =
            options().session_timeout(Duration::from_secs(1)).connect_timeout(Duration::from_secs(3));
        let error = impatient.connect(&address).await.expect_err("no session").to_string();
        assert!(error.contains(&format!("{address}: it takes connections, and gives no session")), "{error}");
    }
}

/// Some of them try the silent server first.
#[tokio::test]
async fn a_server_that_never_answers_leaves_time_for_another_one() {
    let silent = proxied().await;
    silent.black_hole(true);
    let address = format!("{},{}", silent.address(), shared().address());
    let options = options().session_timeout(Duration::from_secs(30));
    for connected in join_all((0..10).map(|_| options.clone().connect(&address))).await {
        connected.expect("the other one answers");
    }
}

#[test]
fn connecting_does_not_wait_for_a_thread_that_may_block() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    let runtime = runtime.expect("a runtime");
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    runtime.block_on(async {
        tokio::task::spawn_blocking(move || receiver.recv());
        let options = options().connect_timeout(SOON);
        options.connect(&shared().address()).await.expect("should connect").close().await;
    });
    drop(sender);
}

#[test]
fn on_a_runtime_without_time_connecting_fails() {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        sender.send(runtime.block_on(Keeper::connect(&unused_address())).map(drop))
    });
    let connected = receiver.recv_timeout(SOON).expect("should not hang");
    let error = connected.expect_err("there are no timers").to_string();
    assert!(error.contains("timers are disabled"), "{error}");
}

/// A keeper whose server, started for it, refuses connections from now on.
async fn cut_off(options: KeeperOptions) -> (Embedded, Keeper) {
    let server = Embedded::options().tick(Duration::from_millis(200)).start().await.expect("a port");
    let options = options.session_timeout(Duration::from_secs(1)).connect_timeout(SOON);
    let keeper = options.connect(&server.address()).await.expect("should connect");
    server.controls().take_down().await;
    (server, keeper)
}

#[tokio::test]
async fn giving_up_reports_the_last_error() {
    let time = Duration::from_secs(1);
    let options = Keeper::options().backoff(Duration::from_millis(10), Duration::from_millis(50));
    let (server, keeper) = cut_off(options.give_up_after(time)).await;
    let received: Vec<_> = timeout(SOON, keeper.events().collect()).await.expect("it ends");
    let [.., SessionEvent::GaveUp { error }, SessionEvent::Closed] = &received[..] else {
        panic!("{received:?}")
    };
    assert!(error.to_string().contains(&format!("{}: Connection refused", server.address())), "{error}");
    let ConnectError::Unreachable { timeout, .. } = error else { panic!("{error:?}") };
    assert_eq!(*timeout, time, "the total time of trying");
}

#[tokio::test]
async fn the_time_to_give_up_includes_backoff_pauses() {
    let rest = Duration::from_secs(600);
    let options = Keeper::options().backoff(rest, rest).give_up_after(Duration::from_secs(1));
    let (_server, keeper) = cut_off(options).await;
    let received: Vec<_> =
        timeout(Duration::from_secs(30), keeper.events().collect()).await.expect("it ends");
    let [.., SessionEvent::GaveUp { error }, SessionEvent::Closed] = &received[..] else {
        panic!("{received:?}")
    };
    assert!(error.to_string().contains("Connection refused"), "the error of the last attempt: {error}");
}

#[tokio::test]
async fn a_session_timeout_changed_by_the_server_is_logged_and_shown() {
    let logs = Logs::start();
    let server = Embedded::options().tick(Duration::from_secs(2)).start().await.expect("a port");
    for (asked, granted) in [(1, 4), (10, 10), (60, 40)] {
        let options = Keeper::options().session_timeout(Duration::from_secs(asked));
        let keeper = options.connect(&server.address()).await.expect("should connect");
        assert_eq!(keeper.session_timeout(), Duration::from_secs(granted));
        let (asked, granted) = (format!("asked={asked}s"), format!("granted={granted}s"));
        let warned = logs.with(&["WARN", "session timeout", &asked, &granted]);
        assert_eq!(warned.len(), usize::from(asked != "asked=10s"), "{warned:?}");
    }
}

/// When the client reconnects it sends every watched path again, including the chroot, and cannot send more than 128
/// KiB of them.
#[tokio::test]
async fn a_long_chroot_does_not_prevent_reconnecting() {
    const LOCKS: usize = 100;
    let chroot = format!("{}/{}", unique_path("chroot"), "x".repeat(2000));
    let proxy = proxied().await;
    let address = |server: &str| format!("{server}{chroot}");
    let holding = options().connect(&address(&shared().address())).await.expect("should connect");
    let waiting =
        options().session_timeout(SOON).connect(&address(&proxy.address())).await.expect("should connect");
    let (mut guards, mut waiters) = (Vec::new(), Vec::new());
    for number in 0..LOCKS {
        let path = format!("/{number}");
        guards.push(holding.lock(&path).expect("a valid path").acquire().await.expect("the lock is free"));
        let (sender, mut queued) = mpsc::unbounded_channel();
        waiting.lock(&path).expect("a valid path").acquire().listen(move |event| {
            let _ = sender.send(event);
        });
        let event = queued.recv().await.expect("an event");
        assert!(matches!(event, lockkeeper::messages::LockEvent::Enqueued { ahead: 1, .. }), "{event:?}");
        waiters.push(queued);
    }
    let mut events = waiting.events();
    proxy.cut();
    session_event(&mut events, SessionEvent::Suspended { epoch: 1 }).await;
    session_event(&mut events, SessionEvent::Resumed { epoch: 1 }).await;
    drop(guards);
    for queued in &mut waiters {
        let event = timeout(SOON, queued.recv()).await.expect("granted in time").expect("an event");
        let lockkeeper::messages::LockEvent::Acquired { guard, .. } = event else { panic!("{event:?}") };
        assert_eq!(guard.state(), LeaseState::Held);
    }
}
