//! Each trouble is in one line of the log. The tests run on a single thread, because the log is captured per thread.

use std::fmt;
use std::time::Duration;

use lockkeeper::error::{AcquireError, AcquireTimeoutError};
use lockkeeper::run::{LeaseEvent, LeaseView};
use lockkeeper::session::SessionEvent;
use lockkeeper::singleton::SingletonOptions;
use lockkeeper::{Keeper, LockOptions};
use ractor::{ActorProcessingErr, ActorRef};
use zookeeper_client as zk;

use crate::capture::{Capture, Line};
use crate::common::events::session_event;
use crate::common::{BRISK, LONG, SHORT, SOON, client_as, eventually, proxied, refusal, shared, unique_path};
use crate::table;

/// It may not be in any line.
const PASSWORD: &str = "do-not-log-this";

#[tokio::test]
async fn a_stuck_holder() {
    let log = Capture::start();
    let (stuck, keeper) =
        (connect(&shared().address(), LONG).await, connect(&shared().address(), LONG).await);
    let path = unique_path("stuck");
    let guard = stuck.lock(&path).expect("a valid path").acquire().await.expect("it is free");
    let lock = keeper.lock(&path).expect("a valid path");
    // A server that is slow may not have queued the request in this time.
    let mut patience = Duration::from_millis(50);
    while log.with("debug", "queued", &[("ahead", "1")]).is_empty() {
        assert!(patience < SOON, "it is never queued");
        let late = refusal(lock.acquire_timeout(patience).await);
        assert!(matches!(late, AcquireTimeoutError::TimedOut { .. }), "{late:?}");
        patience *= 2;
    }
    let refused = log.with("debug", "refused", &[("refusal", "TimedOut")]);
    let last = refused.len() - 1;
    assert!(time(&refused[last..], "waited") >= Duration::from_millis(50), "{refused:?}");
    guard.release().await.expect("the lease lives");
    assert!(time(&log.with("debug", "released", &[]), "held") >= Duration::from_millis(50));
    check(&log);
}

#[tokio::test]
async fn a_slow_server() {
    let log = Capture::start();
    let proxy = proxied().await;
    // Heartbeats are sent twice a second, and may take 200 ms.
    let _keeper = connect(&proxy.address(), Duration::from_secs(4)).await;
    proxy.delay(Duration::from_millis(125));
    let slow = "heartbeats are answered slowly";
    eventually(slow, SOON, async || !log.with("warn", slow, &[("epoch", "1")]).is_empty()).await;
    let lines = log.with("warn", slow, &[]);
    assert!(time(&lines[lines.len() - 1..], "round_trip") > Duration::from_millis(200));
    proxy.delay(Duration::ZERO);
    let again = "heartbeats are answered in time again";
    // Once, not for each heartbeat. On a busy machine another one may be slow by itself.
    eventually("it is slow as often as it is in time again", SOON, async || {
        let times = log.with("info", again, &[("epoch", "1")]).len();
        times > 0 && log.with("warn", slow, &[]).len() == times
    })
    .await;
    check(&log);
}

#[tokio::test]
async fn a_flapping_link() {
    let log = Capture::start();
    let proxy = proxied().await;
    let _keeper = connect(&proxy.address(), BRISK).await;
    let resumed = || log.with("info", "session resumed", &[]).len();
    for flap in 1..=2 {
        let before = resumed();
        proxy.cut();
        eventually("it is resumed", SOON, async || resumed() > before).await;
        assert!(log.with("warn", "session suspended", &[("connected", "false")]).len() >= flap);
    }
    // A busy machine may suspend it for a moment, without a cut.
    eventually("each suspension has its lines", SOON, async || {
        log.with("warn", "session suspended", &[]).len() == resumed()
    })
    .await;
    check(&log);
}

#[tokio::test]
async fn a_lost_session() {
    let log = Capture::start();
    let proxy = proxied().await;
    let keeper = connect(&proxy.address(), SHORT).await;
    let (mut events, path) = (keeper.events(), unique_path("lost"));
    let guard = keeper.lock(&path).expect("a valid path").acquire().await.expect("it is free");
    let session = format!("{:#x}", keeper.state().get().session_id);
    proxy.black_hole(true);
    session_event(&mut events, SessionEvent::Lost { epoch: 1 }).await;
    guard.lost().await;
    let of_session = [("epoch", "1"), ("session", &*session)];
    assert_eq!(log.with("warn", "session lost", &of_session).len(), 1);
    let mut lost = Vec::new();
    eventually("the holder's line", SOON, async || {
        lost = log.with("warn", "lost", &[of_session[0], of_session[1], ("path", &path)]);
        !lost.is_empty()
    })
    .await;
    assert!(lost.len() == 1 && time(&lost, "held") > Duration::ZERO, "{lost:?}");
    check(&log);
}

#[tokio::test]
async fn a_storm_of_waiters() {
    const WAITERS: usize = 50;
    let log = Capture::start();
    let keeper = connect(&shared().address(), LONG).await;
    let options = LockOptions::new().max_waiting(WAITERS);
    let lock = keeper.lock_with(&unique_path("storm"), options).expect("valid options");
    let guard = lock.acquire().await.expect("it is free");
    let waiters: Vec<_> = (0..WAITERS).map(|_| tokio::spawn(lock.acquire())).collect();
    // The holder is ahead of all of them.
    let longest = WAITERS.to_string();
    eventually("all wait", SOON, async || log.with("debug", "queued", &[("ahead", &longest)]).len() == 1)
        .await;
    assert!(matches!(refusal(lock.acquire().await), AcquireError::TooManyWaiting { .. }));
    assert_eq!(log.with("debug", "refused because too many wait", &[("limit", &longest)]).len(), 1);
    waiters.iter().for_each(|waiter| waiter.abort());
    guard.release().await.expect("the lease lives");
    check(&log);
}

#[tokio::test]
async fn a_refused_access_list() {
    let log = Capture::start();
    let (keeper, path) = (connect(&shared().address(), LONG).await, unique_path("no-right"));
    private_directory(&path).await;
    let refused = refusal(keeper.lock(&path).expect("a valid path").acquire().await);
    assert!(matches!(refused, AcquireError::NoAuth { .. }), "{refused:?}");
    assert_eq!(log.with("debug", "refused", &[("refusal", "NoAuth(Directory)")]).len(), 1);
    check(&log);
}

#[tokio::test]
async fn a_singleton_that_cannot_run_warns_less_and_less_often() {
    let log = Capture::start();
    let (keeper, path) = (connect(&shared().address(), LONG).await, unique_path("broken"));
    let often = SingletonOptions::new().backoff(Duration::from_millis(1), Duration::from_secs(1));
    let singleton = keeper.singleton_with(&path, often).expect("valid options");
    let candidate = singleton.run(|_: LeaseView| (Broken, "it cannot start".into()), |_: LeaseEvent| None);
    let pauses = |level: &str, message: &str| {
        let lines = log.with(level, message, &[("path", &path)]);
        lines.iter().map(|line| line.values["failed"].clone()).collect::<Vec<_>>()
    };
    eventually("five failures", SOON, async || pauses("debug", "pausing").len() > 1).await;
    assert_eq!(pauses("warn", "a singleton does not run here")[..3], ["1", "2", "4"]);
    assert_eq!(pauses("debug", "pausing")[..2], ["3", "5"]);
    candidate.shutdown().await;
    check(&log);
}

/// An error whose author has not finished it.
struct Unfinished;

impl fmt::Debug for Unfinished {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("an error that cannot be shown, on purpose")
    }
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Unfinished {}

#[tokio::test]
async fn a_singleton_whose_error_cannot_be_shown_tries_again() {
    let log = Capture::start();
    let (keeper, path) = (connect(&shared().address(), LONG).await, unique_path("unfinished"));
    let often = SingletonOptions::new().backoff(Duration::from_millis(1), Duration::from_millis(1));
    let singleton = keeper.singleton_with(&path, often).expect("valid options");
    let candidate = singleton.run(|_: LeaseView| (Broken, Unfinished.into()), |_: LeaseEvent| None);
    for (level, message) in [("warn", "a singleton does not run here"), ("debug", "pausing")] {
        let logged = async || !log.with(level, message, &[("path", &path)]).is_empty();
        eventually("it fails, and tries again", SOON, logged).await;
    }
    candidate.shutdown().await;
    check(&log);
}

/// A keeper with a secret.
async fn connect(address: &str, session_timeout: Duration) -> Keeper {
    let credentials = format!("lockkeeper:{PASSWORD}");
    // The default access list still permits everything to everyone.
    let options = Keeper::options().session_timeout(session_timeout).auth("digest", credentials.as_bytes());
    options.identifier("watched").connect(address).await.expect("should connect")
}

async fn private_directory(path: &str) {
    let owner = client_as("owner:secret").await;
    let private = zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all());
    owner.create(path, b"", &private).await.expect("a new node");
}

/// The value of a field of the only line.
fn time(lines: &[Line], field: &str) -> Duration {
    let [line] = lines else { panic!("one line: {lines:?}") };
    let text = &line.values[field];
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = text.trim_end_matches(unit).parse().expect("a number");
    let seconds = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        "ns" => 1e-9,
        _ => panic!("a time: {text}"),
    };
    Duration::from_secs_f64(number * seconds)
}

/// Every line is in the table, and none has the secret.
fn check(log: &Capture) {
    let (lines, table) = (log.all(), table());
    assert!(lines.len() > 2, "{lines:?}");
    for line in lines {
        assert!(table.contains(&line.row), "not in the table: {line:?}");
        assert!(!line.values.values().any(|value| value.contains(PASSWORD)), "a secret: {line:?}");
    }
}

struct Broken;

#[ractor::actor(message = (), state = (), arguments = ActorProcessingErr)]
impl Broken {
    async fn pre_start(&self, _: ActorRef<()>, error: ActorProcessingErr) -> Result<(), ActorProcessingErr> {
        Err(error)
    }
}
