//! The controls, tested with a client that sends nothing by itself.

mod raw;

use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

use lockkeeper_embedded::{Embedded, SessionId, Target};
use raw::{Bytes, Raw};

const TIMEOUT_MS: i32 = 10_000;
/// How long nothing must arrive for a connection to count as silent.
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
    assert_eq!(
        outside.ask(3, &Bytes::path("/a", false).0).expect("a reply").error,
        -101,
        "the request must not be executed"
    );
    controls.black_hole(SessionId(inside.session), false);
    assert_eq!(inside.receive().expect("a reply").error, 0);
}

#[tokio::test]
async fn a_black_hole_applies_to_reconnects_as_well() {
    let server = server().await;
    let raw = connect(&server);
    let controls = server.controls();
    controls.black_hole(SessionId(raw.session), true);
    let mut again = Raw::open(server.socket_address()).expect("accepted");
    again.set_limit(SILENCE);
    assert!(again.handshake(TIMEOUT_MS, raw.session, &raw.password).is_err(), "there must be no reply");
    assert_eq!(controls.sessions().len(), 1);
    let other = connect(&server);
    assert_ne!(other.session, 0, "other sessions must work");
}

#[tokio::test]
async fn an_expired_session_in_a_black_hole_is_not_notified() {
    let server = server().await;
    let mut raw = connect(&server);
    let controls = server.controls();
    controls.black_hole(Target::All, true);
    assert!(controls.expire(SessionId(raw.session)));
    assert!(is_silent(&mut raw), "the connection must not be closed yet");
    controls.black_hole(Target::All, false);
    assert!(raw.is_closed());
    let again = Raw::resume(server.socket_address(), TIMEOUT_MS, raw.session, &raw.password, 0);
    assert_eq!(again.expect("a reply").session, 0);
}

#[tokio::test]
async fn swallowed_replies_leave_the_outcome_unknown() {
    let server = server().await;
    let mut raw = connect(&server);
    let controls = server.controls();
    controls.swallow_replies(SessionId(raw.session), true);
    raw.send(1, 1, &Bytes::create("/a", b"", 0).0).expect("sent");
    let mut other = connect(&server);
    while other.ask(3, &Bytes::path("/a", false).0).expect("a reply").error != 0 {}
    controls.reset_connections(SessionId(raw.session));
    assert_eq!(raw.receive().expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_dropped_connection_is_closed_and_its_session_can_be_resumed() {
    let server = server().await;
    let (mut raw, mut other) = (connect(&server), connect(&server));
    server.controls().drop_connections(SessionId(raw.session));
    assert_eq!(raw.receive().expect_err("closed").kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(other.ask(3, &Bytes::path("/", false).0).expect("a reply").error, 0, "not this one");
    let mut again = Raw::open(server.socket_address()).expect("accepted");
    again.handshake(TIMEOUT_MS, raw.session, &raw.password).expect("resumed");
    assert_eq!(again.session, raw.session);
    assert_eq!(again.ask(3, &Bytes::path("/", false).0).expect("a reply").error, 0);
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
    assert_eq!(raw.receive().expect("a reply").xid, 1);
    assert!(begin.elapsed() >= delay);
    controls.delay_replies(Target::All, Duration::ZERO);
    assert_eq!(raw.receive().expect("a reply").xid, 2);
    assert_eq!(raw.ask(11, &[]).expect("a reply").error, 0);
}

#[tokio::test]
async fn a_paused_server_replies_after_it_resumes() {
    let server = server().await;
    let mut raw = connect(&server);
    let controls = server.controls();
    controls.pause();
    raw.send(1, 11, &[]).expect("sent");
    assert!(is_silent(&mut raw));
    controls.resume();
    assert_eq!(raw.receive().expect("a reply").xid, 1);
}

#[tokio::test]
async fn idle_sessions_expire() {
    let server = server().await;
    let mut raw = connect(&server);
    assert_eq!(raw.ask(1, &Bytes::create("/e", b"", 1).0).expect("a reply").error, 0);
    let controls = server.controls();
    controls.advance_clock(Duration::from_secs(9));
    assert_eq!(raw.ping().expect("alive").error, 0);
    controls.advance_clock(Duration::from_secs(9));
    assert_eq!(raw.ping().expect("alive").error, 0);
    controls.advance_clock(Duration::from_secs(13));
    assert!(raw.is_closed());
    assert_eq!(controls.sessions(), []);
    let mut other = connect(&server);
    assert_eq!(other.ask(3, &Bytes::path("/e", false).0).expect("a reply").error, -101);
}

#[tokio::test]
async fn a_server_that_is_down_refuses_connections_and_keeps_its_state() {
    let server = server().await;
    let mut raw = connect(&server);
    assert_eq!(raw.ask(1, &Bytes::create("/e", b"x", 1).0).expect("a reply").error, 0);
    let controls = server.controls();
    controls.take_down().await;
    assert!(raw.is_closed());
    assert!(Raw::open(server.socket_address()).is_err(), "the connection must be refused");
    controls.advance_clock(Duration::from_secs(100));
    controls.bring_up().await.expect("the port is still free");
    let mut again =
        Raw::resume(server.socket_address(), TIMEOUT_MS, raw.session, &raw.password, raw.zxid).expect("back");
    assert_eq!(again.session, raw.session);
    assert_eq!(again.ask(3, &Bytes::path("/e", false).0).expect("a reply").error, 0);
}

#[tokio::test]
async fn transaction_ids_grow_across_restarts_and_runs() {
    let first = server().await;
    let mut raw = connect(&first);
    let before = raw.ask(1, &Bytes::create("/a", b"", 0).0).expect("a reply").zxid;
    first.controls().restart_empty().await.expect("the port is still free");
    let mut raw = connect(&first);
    let emptied = raw.ask(1, &Bytes::create("/a", b"", 0).0).expect("created again").zxid;
    first.stop().await;
    let second = server().await;
    let after = connect(&second).ask(1, &Bytes::create("/a", b"", 0).0).expect("a reply").zxid;
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

#[tokio::test]
async fn a_session_expires_in_time_after_the_clock_is_advanced() {
    let hours = Duration::from_secs(36_000);
    // Nothing else may be due before the session expires, because that would wake up the server.
    let options = Embedded::options().max_session_timeout(hours).handshake_timeout(hours);
    let server = options.start().await.expect("a server");
    let mut raw = Raw::connect(server.socket_address(), 36_000_000).expect("connected");
    server.controls().advance_clock(hours - Duration::from_millis(100));
    assert!(raw.is_closed(), "the session must expire on the first tick after ten hours");
}

#[tokio::test]
async fn a_black_hole_and_a_pause_are_in_effect_when_they_return() {
    let server = server().await;
    let controls = server.controls();
    let raw = connect(&server);
    let mut sending = raw.try_clone().expect("a second handle");
    let create = Bytes::create("/n-", b"", 3).0;
    let asking = thread::spawn(move || while sending.send(1, 1, &create).is_ok() {});
    let mut reading = raw.try_clone().expect("a second handle");
    let answers = thread::spawn(move || while reading.receive().is_ok() {});
    let session = SessionId(raw.session);
    let created = || controls.sessions().iter().find(|info| info.id == session).map(|info| info.ephemerals);
    for round in 0..100 {
        let switch = |on: bool| match (round % 3, on) {
            (0, _) => controls.black_hole(session, on),
            (1, _) => controls.black_hole(Target::All, on),
            (_, true) => controls.pause(),
            (_, false) => controls.resume(),
        };
        let before = created();
        while created() == before {
            thread::sleep(Duration::from_micros(100));
        }
        switch(true);
        let then = created();
        thread::sleep(Duration::from_millis(1));
        assert_eq!(created(), then, "a request was executed in round {round}");
        switch(false);
    }
    raw.shutdown();
    asking.join().expect("no panic");
    answers.join().expect("no panic");
}

#[tokio::test]
async fn a_black_hole_holds_the_rest_of_a_reply() {
    // More data than the socket buffers hold for a client that does not read.
    const COUNT: i32 = 30;
    let server = server().await;
    let mut writer = connect(&server);
    assert_eq!(writer.ask(1, &Bytes::create("/big", &[0; 900_000], 0).0).expect("a reply").error, 0);
    writer.send(7, 4, &Bytes::path("/big", false).0).expect("sent");
    let frame = 4 + writer.receive_frame().expect("a reply").len();
    let mut raw = connect(&server);
    for xid in 0..COUNT {
        raw.send(xid, 4, &Bytes::path("/big", false).0).expect("sent");
    }
    let mut received = vec![0; 1];
    raw.read_exact(&mut received).expect("the start of the first reply");
    let controls = server.controls();
    // Wait until the server waits for the client to read. It does so in the middle of a reply.
    let mut sent = 0;
    while packets_sent(&server) != sent {
        sent = packets_sent(&server) + 1;
        thread::sleep(SILENCE);
    }
    controls.black_hole(SessionId(raw.session), true);
    raw.set_limit(SILENCE);
    assert!(raw.read_to_end(&mut received).is_err(), "the connection must be silent, not closed");
    assert_ne!(received.len() % frame, 0, "the server sent the rest of the reply");
    controls.black_hole(SessionId(raw.session), false);
    raw.set_limit(Duration::from_secs(20));
    let missing = frame * usize::try_from(COUNT).expect("few") - received.len();
    raw.read_exact(&mut vec![0; missing]).expect("the rest");
}

/// The number of packets that the server has sent, without the response to this query.
fn packets_sent(server: &Embedded) -> u64 {
    let mut raw = Raw::open(server.socket_address()).expect("accepted");
    raw.send_bytes(b"mntr").expect("sent");
    let text = String::from_utf8(raw.receive_all().expect("a reply")).expect("text");
    let count = text.lines().find_map(|line| line.strip_prefix("zk_packets_sent\t"));
    count.expect("the value in the response").parse().expect("a number")
}

#[tokio::test]
async fn extreme_values_of_controls_do_no_harm() {
    let server = server().await;
    let mut raw = connect(&server);
    let controls = server.controls();
    controls.delay_replies(SessionId(raw.session), Duration::MAX);
    raw.send(1, 11, &[]).expect("sent");
    assert!(is_silent(&mut raw));
    controls.delay_replies(Target::All, Duration::MAX);
    controls.advance_clock(Duration::MAX);
    controls.advance_clock(Duration::MAX);
    controls.delay_replies(Target::All, Duration::ZERO);
    let mut other = connect(&server);
    assert_eq!(other.ping().expect("the session works").error, 0);
    controls.delay_replies(Target::All, Duration::MAX);
    other.send(1, 11, &[]).expect("sent");
    assert!(is_silent(&mut other));
    controls.restart().await.expect("the server is up again");
    server.stop().await;
}

#[tokio::test]
async fn extreme_values_of_options_do_no_harm() {
    let server = Embedded::options()
        .tick(Duration::MAX)
        .min_session_timeout(Duration::MAX)
        .max_session_timeout(Duration::MAX)
        .container_check(Duration::MAX)
        .handshake_timeout(Duration::MAX)
        .start()
        .await
        .expect("a server");
    let mut raw = connect(&server);
    assert_eq!(raw.ping().expect("a reply").error, 0);
    assert_eq!(raw.timeout_ms, i32::MAX);
}

#[tokio::test]
async fn nothing_expires_while_the_server_is_paused() {
    let server = server().await;
    let (one, two) = (connect(&server), connect(&server));
    let controls = server.controls();
    controls.pause();
    controls.advance_clock(Duration::from_secs(100));
    controls.reset_connections(SessionId(one.session));
    assert_eq!(controls.sessions().len(), 2);
    controls.resume();
    assert_eq!(controls.sessions().len(), 0);
    drop(two);
}

#[tokio::test]
async fn the_port_of_a_server_that_is_down_stays_reserved() {
    let server = server().await;
    let controls = server.controls();
    controls.take_down().await;
    // Without the reservation, the system could assign the port to an outgoing connection.
    let other = tokio::net::TcpSocket::new_v4().expect("a socket");
    let taken = other.bind(server.socket_address());
    assert_eq!(taken.expect_err("the port is reserved").kind(), io::ErrorKind::AddrInUse);
    assert!(Raw::open(server.socket_address()).is_err(), "the connection must be refused");
    controls.take_down().await;
    controls.bring_up().await.expect("back");
    assert_eq!(connect(&server).ping().expect("a reply").error, 0);
}

#[tokio::test]
async fn a_restart_while_the_server_is_paused_starts_every_timeout_again() {
    let server = server().await;
    let _raw = connect(&server);
    let controls = server.controls();
    controls.pause();
    controls.advance_clock(Duration::from_secs(100));
    controls.restart().await.expect("the port is still free");
    controls.resume();
    assert_eq!(controls.sessions().len(), 1);
}

#[tokio::test]
async fn a_pause_while_the_server_is_down_lets_no_session_expire() {
    let server = server().await;
    let _raw = connect(&server);
    let controls = server.controls();
    controls.take_down().await;
    controls.pause();
    controls.advance_clock(Duration::from_secs(100));
    controls.bring_up().await.expect("the port is still free");
    controls.resume();
    assert_eq!(controls.sessions().len(), 1);
}

#[tokio::test]
async fn a_low_maximum_of_session_timeouts_lowers_the_default_minimum() {
    let options = Embedded::options().max_session_timeout(Duration::from_secs(1));
    let server = options.start().await.expect("a server");
    assert_eq!(connect(&server).timeout_ms, 1_000);
}

#[tokio::test]
async fn a_minimum_of_session_timeouts_above_the_maximum_is_refused() {
    let options = Embedded::options().max_session_timeout(Duration::from_secs(1));
    let error = options.min_session_timeout(Duration::from_secs(2)).start().await.expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
}

#[tokio::test]
async fn while_the_server_is_down_only_the_given_session_is_expired() {
    let server = server().await;
    let (one, two) = (connect(&server), connect(&server));
    let controls = server.controls();
    controls.take_down().await;
    controls.advance_clock(Duration::from_secs(100));
    assert!(controls.expire(SessionId(one.session)));
    controls.bring_up().await.expect("the port is still free");
    let left: Vec<SessionId> = controls.sessions().iter().map(|session| session.id).collect();
    assert_eq!(left, [SessionId(two.session)]);
}

#[tokio::test]
async fn no_session_is_connected_while_the_server_is_down() {
    let server = server().await;
    let mut raw = connect(&server);
    assert_eq!(raw.ask(3, &Bytes::path("/w", true).0).expect("a reply").error, -101);
    let controls = server.controls();
    let connected = || {
        let sessions = controls.sessions();
        assert_eq!(sessions.len(), 1);
        (sessions[0].peer.is_some(), sessions[0].watches)
    };
    assert_eq!(connected(), (true, 1));
    controls.take_down().await;
    assert_eq!(connected(), (false, 0));
}

#[tokio::test]
async fn a_server_that_has_stopped_has_no_sessions() {
    let server = server().await;
    let raw = connect(&server);
    let controls = server.controls();
    server.stop().await;
    assert_eq!(controls.sessions(), []);
    assert!(!controls.expire(SessionId(raw.session)));
}
