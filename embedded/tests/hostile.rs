//! Input that no regular client sends. The server must close the connection or report an error, and keep running.

mod raw;

use std::fs;
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lockkeeper_embedded::Embedded;
use lockkeeper_embedded::wire::decode;
use proptest::prelude::*;
use raw::{Bytes, Raw};
use tokio::sync::{Mutex, MutexGuard};

const TIMEOUT_MS: i32 = 10_000;

async fn server() -> Embedded {
    Embedded::start().await.expect("a server")
}

fn connect(server: &Embedded) -> Raw {
    Raw::connect(server.socket_address(), TIMEOUT_MS).expect("connected")
}

#[tokio::test]
async fn invalid_frames_close_the_connection() {
    let server = server().await;
    for length in [-1, i32::MIN, 0x10_0000, i32::MAX] {
        for established in [false, true] {
            let address = server.socket_address();
            let mut raw = if established { connect(&server) } else { Raw::open(address).expect("accepted") };
            raw.send_bytes(&length.to_be_bytes()).expect("sent");
            assert!(raw.is_closed(), "{length}");
        }
    }
    for frame in [&[][..], &[0; 7], &[1; 27], &[0x7f; 40]] {
        let mut raw = Raw::open(server.socket_address()).expect("accepted");
        raw.send_frame(frame).expect("sent");
        assert!(raw.is_closed(), "{frame:?}");
    }
    let mut raw = connect(&server);
    raw.send_frame(&[0; 7]).expect("sent");
    assert!(raw.is_closed(), "a request without a header");
    assert_eq!(connect(&server).ping().expect("the server must be running").error, 0);
}

#[tokio::test]
async fn the_largest_frame_is_accepted() {
    let server = server().await;
    let mut raw = connect(&server);
    let overhead = 8 + Bytes::create("/big", b"", 0).0.len();
    let data = vec![7; 0xf_ffff - overhead];
    assert_eq!(raw.ask(1, &Bytes::create("/big", &data, 0).0).expect("a reply").error, 0);
    assert!(raw.ask(4, &Bytes::path("/big", false).0).expect("a reply").body.len() > data.len());
}

#[tokio::test]
async fn malformed_bodies_get_an_error() {
    let server = server().await;
    let mut raw = connect(&server);
    let hostile = Bytes::default().string("/a").int(i32::MAX).0;
    for kind in [1, 2, 3, 4, 5, 6, 7, 8, 12, 14, 15, 18, 19, 21, 22, 101, 105] {
        assert_eq!(raw.ask(kind, &hostile[..3]).expect("a reply").error, -5, "{kind}");
    }
    for kind in [1, 5, 7, 101, 105] {
        assert_eq!(raw.ask(kind, &hostile).expect("a reply").error, -5, "{kind}");
    }
}

#[tokio::test]
async fn a_malformed_auth_packet_closes_the_connection() {
    let server = server().await;
    let whole = Bytes::default().int(0).string("digest").string("me:secret").0;
    for length in 0..whole.len() {
        let mut raw = connect(&server);
        raw.send(-4, 100, &whole[..length]).expect("sent");
        assert!(raw.is_closed(), "cut to {length}");
    }
    for body in [
        Bytes::default().int(0).int(i32::MAX),
        Bytes::default().int(0).string("digest").int(i32::MAX),
        Bytes::default().int(0).string("digest").int(-2),
    ] {
        let mut raw = connect(&server);
        raw.send(-4, 100, &body.0).expect("sent");
        assert!(raw.is_closed(), "{body:?}");
    }
    // These are well-formed, but prove no identity: the client gets an error and the connection is closed.
    for body in
        [Bytes::default().int(0).string("digest").int(-1), Bytes::default().int(0).int(-1).string("me")]
    {
        let mut raw = connect(&server);
        assert_eq!(raw.ask_as(-4, 100, &body.0).expect("a reply").error, -115);
        assert!(raw.is_closed(), "{body:?}");
    }
    assert_eq!(connect(&server).ping().expect("the server must be running").error, 0);
}

#[tokio::test]
async fn the_identities_of_a_connection_are_limited() {
    let _exclusive = exclusive().await;
    let server = server().await;
    let before = memory();
    let mut most = 0;
    for name_length in [0, 10_000, 900_000] {
        let mut raw = connect(&server);
        let mut count = 0;
        loop {
            let auth = format!("{count}{}:x", "n".repeat(name_length));
            let answer = raw.ask_as(-4, 100, &Bytes::default().int(0).string("digest").string(&auth).0);
            match answer.expect("a reply").error {
                0 => count += 1,
                error => break assert_eq!(error, -115),
            }
            assert!(count < 10_000, "there is no limit");
        }
        assert!(raw.is_closed());
        most = most.max(count);
    }
    assert!(most >= 100, "a client can only have {most} identities");
    // The same identity can be added any number of times.
    let mut raw = connect(&server);
    for _ in 0..20_000 {
        let auth = Bytes::default().int(0).string("digest").string("me:secret");
        assert_eq!(raw.ask_as(-4, 100, &auth.0).expect("a reply").error, 0);
    }
    // Each entry of this list is replaced by an identity with a long name.
    let long = Bytes::default().int(0).string("digest").string(&format!("{}:x", "n".repeat(10_000)));
    assert_eq!(raw.ask_as(-4, 100, &long.0).expect("a reply").error, 0);
    let list: Vec<_> = (0..50_000).map(|perms| (perms, "auth".to_owned(), String::new())).collect();
    let body = Bytes::default().string("/auth").buffer(b"").acl(&list).int(0);
    assert_eq!(raw.ask(1, &body.0).expect("a reply").error, -114);
    let grown = memory().saturating_sub(before);
    assert!(grown < 64 << 20, "memory grew by {grown} bytes");
}

#[tokio::test]
async fn a_session_is_not_resumed_with_a_wrong_password() {
    let server = server().await;
    let raw = connect(&server);
    for (session, password) in [(raw.session, vec![1; 16]), (raw.session, vec![]), (42, raw.password.clone())]
    {
        let mut refused =
            Raw::resume(server.socket_address(), TIMEOUT_MS, session, &password, 0).expect("a reply");
        assert_eq!((refused.session, refused.timeout_ms), (0, 0));
        assert!(refused.is_closed());
    }
    assert_eq!(server.controls().sessions().len(), 1);
}

#[tokio::test]
async fn a_client_that_has_seen_later_transactions_is_refused() {
    let server = server().await;
    let mut raw = Raw::open(server.socket_address()).expect("accepted");
    raw.zxid = i64::MAX;
    assert!(raw.handshake(TIMEOUT_MS, 0, &[0; 16]).is_err());
}

#[tokio::test]
async fn an_incomplete_handshake_times_out() {
    let server =
        Embedded::options().handshake_timeout(Duration::from_millis(50)).start().await.expect("a server");
    let mut raw = Raw::open(server.socket_address()).expect("accepted");
    raw.send_bytes(&[0, 0, 0]).expect("sent");
    assert!(raw.is_closed());
}

#[tokio::test]
async fn requests_of_a_client_that_does_not_read_are_held_back() {
    let server = server().await;
    let mut raw = connect(&server);
    assert_eq!(raw.ask(1, &Bytes::create("/big", &[0; 900_000], 0).0).expect("a reply").error, 0);
    // The replies would take 900 MB. The server creates only as many as fit into its buffers. The requests fit into the
    // socket's buffers.
    for xid in 0..1000 {
        raw.send(xid, 4, &Bytes::path("/big", false).0).expect("sent");
    }
    assert_eq!(connect(&server).ping().expect("other clients must be served").error, 0);
    for xid in 0..1000 {
        assert_eq!(raw.receive().expect("a reply").xid, xid);
    }
}

#[tokio::test]
async fn a_small_request_does_not_get_a_huge_reply() {
    let server = server().await;
    let mut raw = connect(&server);
    assert_eq!(raw.ask(1, &Bytes::create("/big", &[0; 900_000], 0).0).expect("a reply").error, 0);
    let one = Bytes::default().int(4).bool(false).int(-1).string("/big").bool(false);
    let body = (0..10_000).fold(Bytes::default(), |body, _| body.bytes(&one.0)).int(-1).bool(true).int(-1);
    assert_eq!(raw.ask(22, &body.0).expect("a reply").error, -5);
}

/// The clock can be advanced to its limit, and all kinds of requests still work.
#[tokio::test]
async fn the_clock_can_be_advanced_to_its_limit() {
    let options = Embedded::options().extended_types(true).container_check(Duration::ZERO);
    let server = options.max_session_timeout(Duration::MAX).start().await.expect("a server");
    let open = [(31, "world".to_owned(), "anyone".to_owned())];
    let create = |path: &str, flags| Bytes::default().string(path).buffer(b"").acl(&open).int(flags);
    for jump in [Duration::ZERO, Duration::from_secs(1 << 31), Duration::MAX] {
        server.controls().advance_clock(jump);
        let mut raw = Raw::connect(server.socket_address(), i32::MAX).expect("connected");
        assert_eq!(raw.ask(19, &create("/container", 4).0).expect("a reply").error, 0);
        assert_eq!(raw.ask(1, &create("/container/ttl", 0).0).expect("a reply").error, 0);
        for (path, ttl) in [("/container/short", 1), ("/container/long", 0xff_ffff_ffff)] {
            assert_eq!(raw.ask(21, &create(path, 5).long(ttl).0).expect("a reply").error, 0);
        }
        for word in ["dump", "cons", "mntr", "stat"] {
            assert!(!raw::words::ask(server.socket_address(), word).is_empty(), "{word}");
        }
        for path in ["/container/long", "/container/ttl"] {
            assert_eq!(raw.ask(2, &Bytes::default().string(path).int(-1).0).expect("a reply").error, 0);
        }
        // The short-lived node has expired, and with it the last child.
        let end = Instant::now() + Duration::from_secs(20);
        while raw.ask(3, &Bytes::path("/container", false).0).expect("a reply").error == 0 {
            assert!(Instant::now() < end, "the container was not deleted");
        }
    }
}

#[tokio::test]
async fn idle_connections_do_no_harm() {
    let server = server().await;
    let idle: Vec<Raw> = (0..300).map(|_| Raw::open(server.socket_address()).expect("accepted")).collect();
    assert_eq!(connect(&server).ping().expect("served").error, 0);
    drop(idle);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_decoder_handles_random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode::connect_request(&bytes);
        let _ = decode::request(&bytes);
    }

    /// More likely to reach deep into the decoder: known operations, and small numbers in the place of lengths.
    #[test]
    fn the_decoder_handles_almost_valid_requests(
        kind in prop::sample::select(vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 17, 18, 19, 21, 22, 100, 101, 103, 104, 105, 106]),
        words in prop::collection::vec(prop_oneof![4 => -1..6_i32, 1 => any::<i32>()], 0..60),
    ) {
        let body = words.into_iter().fold(Bytes::default().int(1).int(kind), Bytes::int);
        let _ = decode::request(&body.0);
    }
}

/// For tests that measure the memory or the open files of this process: keeps them from running at the same time.
async fn exclusive() -> MutexGuard<'static, ()> {
    static EXCLUSIVE: Mutex<()> = Mutex::const_new(());
    EXCLUSIVE.lock().await
}

/// Tells background threads to stop when it is dropped. This also works when a test fails, so that no thread keeps
/// using a stopped server.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A regular client that sends requests in the background, to check that the server keeps serving it.
struct ProbeClient {
    stop: Stop,
    thread: JoinHandle<(usize, Duration)>,
}

impl ProbeClient {
    fn start(server: &Embedded) -> ProbeClient {
        let mut raw = connect(server);
        let stopping = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stopping);
        let thread = thread::spawn(move || {
            let (mut count, mut longest) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let path = format!("/probe-{count}");
                assert_eq!(raw.ask(1, &Bytes::create(&path, b"x", 1).0).expect("a reply").error, 0);
                assert_eq!(raw.ask(2, &Bytes::default().string(&path).int(-1).0).expect("a reply").error, 0);
                (count, longest) = (count + 1, longest.max(asked.elapsed()));
            }
            (count, longest)
        });
        ProbeClient { stop: Stop(stopping), thread }
    }

    /// Checks that every request succeeded without a long delay. The limit is generous in case the machine is loaded.
    fn end(self) {
        drop(self.stop);
        let (count, longest) = self.thread.join().expect("all requests of the regular client must succeed");
        assert!(count > 0, "the regular client was not served");
        assert!(longest < Duration::from_secs(5), "the regular client waited for {longest:?}");
    }
}

/// A connect request as a complete frame.
fn connect_frame() -> Vec<u8> {
    let request = Bytes::default().int(0).long(0).int(TIMEOUT_MS).long(0).buffer(&[0; 16]).bool(false);
    Bytes::default().buffer(&request.0).0
}

/// The number of connections of the server, without the one used for this query.
fn connections(server: &Embedded) -> usize {
    let mut raw = Raw::open(server.socket_address()).expect("accepted");
    raw.send_bytes(b"mntr").expect("sent");
    let text = String::from_utf8(raw.receive_all().expect("a reply")).expect("text");
    let count =
        text.lines().find_map(|line| line.strip_prefix("zk_num_alive_connections\t")).expect("a count");
    count.parse::<usize>().expect("a number") - 1
}

/// Waits until the server has exactly this many connections.
fn await_connections(server: &Embedded, expected: usize) {
    let end = Instant::now() + Duration::from_secs(20);
    while connections(server) != expected {
        assert!(Instant::now() < end, "{} connections instead of {expected}", connections(server));
        thread::sleep(Duration::from_millis(5));
    }
}

/// The resident memory of this process in bytes. It includes the clients.
fn memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

/// The maximum number of open files of this process.
fn file_limit() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").expect("/proc is readable");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
    line.split_whitespace().next().and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX)
}

/// A random number generator with a fixed seed (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> usize {
        usize::try_from(self.next() % limit).expect("small")
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_be_bytes()[0]).collect()
    }
}

#[tokio::test]
async fn incomplete_packets_have_no_effect() {
    let _exclusive = exclusive().await;
    let server = server().await;
    let probe = ProbeClient::start(&server);
    let connect_frame = connect_frame();
    let create = Bytes::default().int(1).int(1).bytes(&Bytes::create("/early", b"data", 0).0);
    let create = Bytes::default().buffer(&create.0).0;
    for length in 0..connect_frame.len() {
        let mut raw = Raw::open(server.socket_address()).expect("accepted");
        raw.send_bytes(&connect_frame[..length]).expect("sent");
    }
    for length in 0..create.len() {
        let mut raw = connect(&server);
        raw.send_bytes(&create[..length]).expect("sent");
    }
    await_connections(&server, 1);
    let mut raw = connect(&server);
    assert_eq!(raw.ask(3, &Bytes::path("/early", false).0).expect("a reply").error, -101);
    // The same request in complete but shorter frames: it gets an error reply if it has a complete header.
    for length in 0..create.len() - 4 {
        let frame = &create[4..4 + length];
        let mut raw = connect(&server);
        raw.send_frame(frame).expect("sent");
        if length < 8 {
            assert!(raw.is_closed(), "{length}");
        } else {
            assert_eq!(raw.receive().expect("a reply").error, -5, "{length}");
            assert_eq!(raw.ping().expect("a reply").error, 0, "{length}");
        }
    }
    await_connections(&server, 2);
    probe.end();
}

#[tokio::test]
async fn bytes_can_arrive_one_by_one() {
    let _exclusive = exclusive().await;
    let server = server().await;
    let mut raw = Raw::open(server.socket_address()).expect("accepted");
    for byte in connect_frame() {
        raw.send_bytes(&[byte]).expect("sent");
    }
    assert_eq!(raw.receive_frame().expect("a reply").len(), 4 + 4 + 8 + 4 + 16 + 1);
    let create = Bytes::default().int(7).int(1).bytes(&Bytes::create("/slow", b"data", 0).0);
    for byte in Bytes::default().buffer(&create.0).0 {
        raw.send_bytes(&[byte]).expect("sent");
    }
    let answer = raw.receive().expect("a reply");
    assert_eq!((answer.xid, answer.error), (7, 0));
}

#[tokio::test]
async fn a_claimed_length_takes_no_memory() {
    let _exclusive = exclusive().await;
    let server = server().await;
    let probe = ProbeClient::start(&server);
    let before = memory();
    let mut connections_with_claims = Vec::new();
    for _ in 0..400.min(file_limit() / 4) {
        let mut raw = connect(&server);
        // Announce the largest frame, but send only a small part of it.
        raw.send_bytes(&Bytes::default().int(0xf_ffff).bytes(&[0; 100]).0).expect("sent");
        connections_with_claims.push(raw);
    }
    // Lists and buffers with lengths that no frame can hold get an error.
    let most = Bytes::default().int(i32::MAX);
    let path = Bytes::default().string("/claim");
    let mut raw = connect(&server);
    for _ in 0..50 {
        for (kind, body) in [
            (1, path.clone().int(i32::MAX)),
            (1, path.clone().buffer(b"").int(i32::MAX)),
            (4, most.clone()),
            (5, path.clone().int(i32::MAX)),
            (7, path.clone().int(i32::MAX)),
            (14, Bytes::default().int(1).bool(false).int(-1).int(i32::MAX)),
            (22, Bytes::default().int(4).bool(false).int(-1).int(i32::MAX)),
            (101, Bytes::default().long(0).int(i32::MAX)),
            (105, Bytes::default().long(0).int(0).int(i32::MAX)),
        ] {
            assert_eq!(raw.ask(kind, &body.bytes(&[0x7f; 64]).0).expect("a reply").error, -5, "{kind}");
        }
    }
    drop(raw);
    let grown = memory().saturating_sub(before);
    assert!(grown < 64 << 20, "memory grew by {grown} bytes");
    let count = connections_with_claims.len();
    await_connections(&server, count + 1);
    drop(connections_with_claims);
    await_connections(&server, 1);
    probe.end();
}

#[tokio::test]
async fn random_bytes_do_no_harm() {
    let _exclusive = exclusive().await;
    let server = server().await;
    let probe = ProbeClient::start(&server);
    let mut random = Random(0x5eed_1e55_0b57_ac1e);
    let before = memory();
    for _ in 0..400 {
        let mut raw = Raw::open(server.socket_address()).expect("accepted");
        let count = random.below(4000);
        // An error means that the server has already closed the connection.
        let _ = raw.send_bytes(&random.bytes(count));
    }
    let kinds =
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 101, 103, 104, 105, 106, 107];
    for _ in 0..400 {
        let mut raw = connect(&server);
        for _ in 0..20 {
            let kind = kinds[random.below(kinds.len() as u64)];
            let mut body = Bytes::default();
            for _ in 0..random.below(12) {
                body = match random.below(4) {
                    0 => body.int(i32::try_from(random.below(9)).expect("small") - 2),
                    1 => body.string("/random"),
                    2 => body.long(i64::from_be_bytes(random.next().to_be_bytes())),
                    _ => {
                        let count = random.below(40);
                        body.bytes(&random.bytes(count))
                    }
                };
            }
            // There must be a reply, and the session must stay alive.
            raw.ask(kind, &body.0).expect("a reply");
        }
        raw.ping().expect("the session must be alive");
    }
    await_connections(&server, 1);
    let grown = memory().saturating_sub(before);
    assert!(grown < 64 << 20, "memory grew by {grown} bytes");
    probe.end();
}

#[tokio::test]
async fn thousands_of_connections_do_no_harm() {
    let _exclusive = exclusive().await;
    let server =
        Embedded::options().handshake_timeout(Duration::from_secs(120)).start().await.expect("a server");
    let probe = ProbeClient::start(&server);
    // Both ends of each connection are in this process, which has other open files as well.
    let count = (file_limit().saturating_sub(400) / 2).min(4000);
    let before = memory();
    let mut idle = Vec::with_capacity(count);
    for at in 0..count {
        idle.push(match at % 3 {
            0 => Raw::open(server.socket_address()).expect("accepted"),
            1 => connect(&server),
            _ => {
                let mut raw = Raw::open(server.socket_address()).expect("accepted");
                raw.send_bytes(&[0, 0, 0, 45, 0]).expect("sent");
                raw
            }
        });
    }
    await_connections(&server, count + 1);
    let grown = memory().saturating_sub(before);
    // An idle connection takes some kilobytes.
    assert!(grown < (16 << 20) + count * (32 << 10), "memory grew by {grown} bytes for {count} connections");
    assert_eq!(idle[1].ping().expect("an idle connection must be served").error, 0);
    drop(idle);
    await_connections(&server, 1);
    probe.end();
}

#[tokio::test]
async fn a_flood_of_requests_does_not_block_other_clients() {
    let _exclusive = exclusive().await;
    let server = server().await;
    let probe = ProbeClient::start(&server);
    let stopping = Arc::new(AtomicBool::new(false));
    let stop = Stop(Arc::clone(&stopping));
    let flood = |_| {
        let stopped = Arc::clone(&stopping);
        let mut asking = TcpStream::connect(server.socket_address()).expect("accepted");
        let mut answers = asking.try_clone().expect("a second handle");
        thread::spawn(move || {
            asking.write_all(&connect_frame()).expect("sent");
            let exists = Bytes::default().int(5).int(3).bytes(&Bytes::path("/", false).0);
            let many = Bytes::default().buffer(&exists.0).0.repeat(1000);
            let reading = thread::spawn(move || io::copy(&mut answers, &mut io::sink()));
            while !stopped.load(Ordering::Relaxed) {
                asking.write_all(&many).expect("sent");
            }
            asking.shutdown(Shutdown::Write).expect("open until now");
            reading.join().expect("no panic")
        })
    };
    let floods: Vec<_> = (0..3).map(flood).collect();
    // Other clients connect, send a request and leave during the flood.
    for _ in 0..20 {
        let mut raw = connect(&server);
        assert_eq!(raw.ask(1, &Bytes::create("/seq-", b"", 3).0).expect("a reply").error, 0);
    }
    drop(stop);
    for flood in floods {
        // It does not matter how the connection ends. Requests that are still pending get no reply.
        let _ = flood.join().expect("no panic");
    }
    probe.end();
}

#[tokio::test]
async fn a_watching_client_that_does_not_read_is_disconnected() {
    let _exclusive = exclusive().await;
    let server = server().await;
    let probe = ProbeClient::start(&server);
    let before = memory();
    let mut not_reading = connect(&server);
    let mut busy = connect(&server);
    // Every event contains this path.
    let path = format!("/{}", "n".repeat(400_000));
    assert_eq!(busy.ask(1, &Bytes::create(&path, b"", 0).0).expect("a reply").error, 0);
    assert_eq!(not_reading.ask(106, &Bytes::default().string(&path).int(0).0).expect("a reply").error, 0);
    let set = Bytes::default().string(&path).int(-1).int(-1).0;
    for _ in 0..400 {
        assert_eq!(busy.ask(5, &set).expect("a reply").error, 0);
    }
    let grown = memory().saturating_sub(before);
    assert!(grown < 256 << 20, "memory grew by {grown} bytes");
    assert!(
        not_reading.receive_all().map_or(0, |bytes| bytes.len()) < 400 * path.len(),
        "all events were delivered"
    );
    assert_eq!(server.controls().sessions().iter().filter(|session| session.peer.is_some()).count(), 2);
    probe.end();
}

#[tokio::test]
async fn a_long_access_control_list_takes_little_memory() {
    let _exclusive = exclusive().await;
    let server = server().await;
    let probe = ProbeClient::start(&server);
    let before = memory();
    let mut raw = connect(&server);
    // Add many identities. Then send lists with as many different entries as fit into a frame. Each `auth` entry is
    // replaced by all identities.
    for name in 0..200 {
        let auth = Bytes::default().int(0).string("digest").string(&format!("{name}:secret"));
        assert_eq!(raw.ask_as(-4, 100, &auth.0).expect("a reply").error, 0);
    }
    for (scheme, id) in [("world", "anyone"), ("auth", "")] {
        let count = 900_000 / (12 + scheme.len() + id.len());
        let list: Vec<_> = (0..count)
            .map(|at| (i32::try_from(at).expect("few"), scheme.to_owned(), id.to_owned()))
            .collect();
        let body = Bytes::default().string(&format!("/{scheme}")).buffer(b"").acl(&list).int(0);
        raw.ask(1, &body.0).expect("a reply");
    }
    let grown = memory().saturating_sub(before);
    assert!(grown < 256 << 20, "memory grew by {grown} bytes");
    probe.end();
}
