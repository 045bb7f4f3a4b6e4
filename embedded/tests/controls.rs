//! What the controls promise, seen by a client that does nothing by itself.

mod raw;

use std::io;
use std::time::{Duration, Instant};

use lockkeeper_embedded::{Embedded, SessionId, Target};
use raw::{Bytes, Raw};

const TIMEOUT_MS: i32 = 10_000;
/// How long silence has to last to count.
const SILENCE: Duration = Duration::from_millis(100);

async fn server() -> Embedded {
    Embedded::start().await.expect("a server")
}

fn connect(server: &Embedded) -> Raw {
    Raw::connect(server.socket_address(), TIMEOUT_MS).expect("connected")
}

fn is_silent(raw: &mut Raw) -> bool {
    raw.set_limit(SILENCE);
    let silent = raw
        .receive()
        .is_err_and(|error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
    raw.set_limit(Duration::from_secs(20));
    silent
}

#[tokio::test]
async fn a_black_hole_holds_everything_and_then_delivers_it() {
    let server = server().await;
    let (mut inside, mut outside) = (connect(&server), connect(&server));
    let controls = server.controls();
    controls.black_hole(SessionId(inside.session), true);
    inside.send(1, 1, &Bytes::create("/a", b"", 0).0).expect("sent");
    assert!(is_silent(&mut inside));
    assert_eq!(outside.ask(3, &Bytes::path("/a", false).0).expect("an answer").error, -101, "not read");
    controls.black_hole(SessionId(inside.session), false);
    assert_eq!(inside.receive().expect("an answer").error, 0);
}

#[tokio::test]
async fn a_black_hole_swallows_the_reconnect_as_well() {
    let server = server().await;
    let raw = connect(&server);
    let controls = server.controls();
    controls.black_hole(SessionId(raw.session), true);
    let mut again = Raw::open(server.socket_address()).expect("accepted");
    again.set_limit(SILENCE);
    assert!(again.greet(TIMEOUT_MS, raw.session, &raw.password).is_err(), "no answer");
    assert_eq!(controls.sessions().len(), 1);
    let other = connect(&server);
    assert_ne!(other.session, 0, "the others go on");
}

#[tokio::test]
async fn an_expired_session_in_a_black_hole_learns_nothing() {
    let server = server().await;
    let mut raw = connect(&server);
    let controls = server.controls();
    controls.black_hole(Target::All, true);
    assert!(controls.expire(SessionId(raw.session)));
    assert!(is_silent(&mut raw), "not even the end of the connection");
    controls.black_hole(Target::All, false);
    assert!(raw.is_closed());
    let again = Raw::resume(server.socket_address(), TIMEOUT_MS, raw.session, &raw.password, 0);
    assert_eq!(again.expect("an answer").session, 0);
}

#[tokio::test]
async fn swallowed_replies_leave_the_outcome_unknown() {
    let server = server().await;
    let mut raw = connect(&server);
    let controls = server.controls();
    controls.swallow_replies(SessionId(raw.session), true);
    raw.send(1, 1, &Bytes::create("/a", b"", 0).0).expect("sent");
    let mut other = connect(&server);
    while other.ask(3, &Bytes::path("/a", false).0).expect("an answer").error != 0 {}
    controls.reset_connections(SessionId(raw.session));
    assert_eq!(raw.receive().expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn delayed_replies_come_late_and_in_order() {
    let server = server().await;
    let mut raw = connect(&server);
    let controls = server.controls();
    let delay = Duration::from_millis(60);
    controls.delay_replies(Target::All, delay);
    let begin = Instant::now();
    raw.send(1, 11, &[]).expect("sent");
    raw.send(2, 11, &[]).expect("sent");
    assert_eq!(raw.receive().expect("an answer").xid, 1);
    assert!(begin.elapsed() >= delay);
    controls.delay_replies(Target::All, Duration::ZERO);
    assert_eq!(raw.receive().expect("an answer").xid, 2);
    assert_eq!(raw.ask(11, &[]).expect("an answer").error, 0);
}

#[tokio::test]
async fn a_paused_server_answers_when_it_goes_on() {
    let server = server().await;
    let mut raw = connect(&server);
    let controls = server.controls();
    controls.pause();
    raw.send(1, 11, &[]).expect("sent");
    assert!(is_silent(&mut raw));
    controls.resume();
    assert_eq!(raw.receive().expect("an answer").xid, 1);
}

#[tokio::test]
async fn time_ends_sessions_that_say_nothing() {
    let server = server().await;
    let mut raw = connect(&server);
    assert_eq!(raw.ask(1, &Bytes::create("/e", b"", 1).0).expect("an answer").error, 0);
    let controls = server.controls();
    controls.advance_clock(Duration::from_secs(9));
    assert_eq!(raw.ping().expect("alive").error, 0);
    controls.advance_clock(Duration::from_secs(9));
    assert_eq!(raw.ping().expect("alive").error, 0);
    controls.advance_clock(Duration::from_secs(13));
    assert!(raw.is_closed());
    assert_eq!(controls.sessions(), []);
    let mut other = connect(&server);
    assert_eq!(other.ask(3, &Bytes::path("/e", false).0).expect("an answer").error, -101);
}

#[tokio::test]
async fn a_server_that_is_down_refuses_and_keeps_what_it_knows() {
    let server = server().await;
    let mut raw = connect(&server);
    assert_eq!(raw.ask(1, &Bytes::create("/e", b"x", 1).0).expect("an answer").error, 0);
    let controls = server.controls();
    controls.take_down().await;
    assert!(raw.is_closed());
    assert!(Raw::open(server.socket_address()).is_err(), "refused");
    controls.advance_clock(Duration::from_secs(100));
    controls.bring_up().await.expect("the port is still free");
    let mut again =
        Raw::resume(server.socket_address(), TIMEOUT_MS, raw.session, &raw.password, raw.zxid).expect("back");
    assert_eq!(again.session, raw.session);
    assert_eq!(again.ask(3, &Bytes::path("/e", false).0).expect("an answer").error, 0);
}

#[tokio::test]
async fn transactions_go_on_above_those_of_before() {
    let first = server().await;
    let mut raw = connect(&first);
    let before = raw.ask(1, &Bytes::create("/a", b"", 0).0).expect("an answer").zxid;
    first.controls().restart_empty().await.expect("the port is still free");
    let mut raw = connect(&first);
    let emptied = raw.ask(1, &Bytes::create("/a", b"", 0).0).expect("created again").zxid;
    first.stop().await;
    let second = server().await;
    let after = connect(&second).ask(1, &Bytes::create("/a", b"", 0).0).expect("an answer").zxid;
    assert!(before < emptied && emptied < after, "{before} {emptied} {after}");
}

#[tokio::test]
async fn stopping_closes_the_port_and_every_connection() {
    let server = server().await;
    let (mut raw, address) = (connect(&server), server.socket_address());
    server.stop().await;
    assert!(raw.is_closed());
    assert!(Raw::open(address).is_err());
    let again = Embedded::options().address(address).start().await.expect("the port is free");
    drop(again);
    assert!(Raw::open(address).is_err());
}
