//! What no proper client sends. The connection is closed, and the server lives.

mod raw;

use std::time::Duration;

use lockkeeper_embedded::Embedded;
use lockkeeper_embedded::wire::decode;
use proptest::prelude::*;
use raw::{Bytes, Raw};

const TIMEOUT_MS: i32 = 10_000;

async fn server() -> Embedded {
    Embedded::start().await.expect("a server")
}

fn connect(server: &Embedded) -> Raw {
    Raw::connect(server.socket_address(), TIMEOUT_MS).expect("connected")
}

#[tokio::test]
async fn impossible_frames_end_the_connection() {
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
    assert_eq!(connect(&server).ping().expect("the server lives").error, 0);
}

#[tokio::test]
async fn the_largest_frame_is_taken() {
    let server = server().await;
    let mut raw = connect(&server);
    let overhead = 8 + Bytes::create("/big", b"", 0).0.len();
    let data = vec![7; 0xf_ffff - overhead];
    assert_eq!(raw.ask(1, &Bytes::create("/big", &data, 0).0).expect("an answer").error, 0);
    assert!(raw.ask(4, &Bytes::path("/big", false).0).expect("an answer").body.len() > data.len());
}

#[tokio::test]
async fn bodies_that_make_no_sense_are_answered() {
    let server = server().await;
    let mut raw = connect(&server);
    let hostile = Bytes::default().string("/a").int(i32::MAX).0;
    for kind in [1, 2, 3, 4, 5, 6, 7, 8, 12, 14, 15, 18, 19, 21, 22, 101, 105] {
        assert_eq!(raw.ask(kind, &hostile[..3]).expect("an answer").error, -5, "{kind}");
    }
    for kind in [1, 5, 7, 101, 105] {
        assert_eq!(raw.ask(kind, &hostile).expect("an answer").error, -5, "{kind}");
    }
}

#[tokio::test]
async fn a_wrong_password_gets_nothing() {
    let server = server().await;
    let raw = connect(&server);
    for (session, password) in [(raw.session, vec![1; 16]), (raw.session, vec![]), (42, raw.password.clone())]
    {
        let mut refused =
            Raw::resume(server.socket_address(), TIMEOUT_MS, session, &password, 0).expect("an answer");
        assert_eq!((refused.session, refused.timeout_ms), (0, 0));
        assert!(refused.is_closed());
    }
    assert_eq!(server.controls().sessions().len(), 1);
}

#[tokio::test]
async fn a_client_from_the_future_is_sent_away() {
    let server = server().await;
    let mut raw = Raw::open(server.socket_address()).expect("accepted");
    raw.zxid = i64::MAX;
    assert!(raw.greet(TIMEOUT_MS, 0, &[0; 16]).is_err());
}

#[tokio::test]
async fn half_a_handshake_has_its_time() {
    let server =
        Embedded::options().handshake_timeout(Duration::from_millis(50)).start().await.expect("a server");
    let mut raw = Raw::open(server.socket_address()).expect("accepted");
    raw.send_bytes(&[0, 0, 0]).expect("sent");
    assert!(raw.is_closed());
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_served_on() {
    let server = server().await;
    let mut raw = connect(&server);
    assert_eq!(raw.ask(1, &Bytes::create("/big", &[0; 900_000], 0).0).expect("an answer").error, 0);
    // 900 MB of answers, of which only what fits into buffers is made; the socket takes the questions.
    for xid in 0..1000 {
        raw.send(xid, 4, &Bytes::path("/big", false).0).expect("sent");
    }
    assert_eq!(connect(&server).ping().expect("the others go on").error, 0);
    for xid in 0..1000 {
        assert_eq!(raw.receive().expect("an answer").xid, xid);
    }
}

#[tokio::test]
async fn a_small_question_does_not_get_a_huge_answer() {
    let server = server().await;
    let mut raw = connect(&server);
    assert_eq!(raw.ask(1, &Bytes::create("/big", &[0; 900_000], 0).0).expect("an answer").error, 0);
    let one = Bytes::default().int(4).bool(false).int(-1).string("/big").bool(false);
    let body = (0..10_000).fold(Bytes::default(), |body, _| body.bytes(&one.0)).int(-1).bool(true).int(-1);
    assert_eq!(raw.ask(22, &body.0).expect("an answer").error, -5);
}

#[tokio::test]
async fn four_letter_words_are_answered() {
    let server = server().await;
    let mut client = connect(&server);
    assert_eq!(client.ask(1, &Bytes::create("/e", b"", 1).0).expect("an answer").error, 0);
    assert_eq!(client.ask(3, &Bytes::path("/w", true).0).expect("an answer").error, -101);
    let ask = |word: &str| {
        let mut raw = Raw::open(server.socket_address()).expect("accepted");
        raw.send_bytes(word.as_bytes()).expect("sent");
        String::from_utf8(raw.receive_all().expect("an answer")).expect("text")
    };
    assert_eq!((ask("ruok").as_str(), ask("isro").as_str()), ("imok", "rw"));
    assert!(ask("srvr").contains("\nMode: standalone\nNode count: 6\n"));
    assert!(ask("stat").contains("Clients:\n /127.0.0.1:"));
    assert!(ask("cons").contains(&format!("sid={:#x}", client.session)));
    let mntr = ask("mntr");
    for line in
        ["zk_server_state\tstandalone", "zk_ephemerals_count\t1", "zk_watch_count\t1", "zk_znode_count\t6"]
    {
        assert!(mntr.lines().any(|found| found == line), "{line} in\n{mntr}");
    }
    // The handshake, two requests, five words and this one.
    assert!(mntr.contains("zk_packets_received\t9\nzk_packets_sent\t8\n"), "{mntr}");
    assert!(ask("wchs").contains("Total watches:1"));
    assert!(ask("dump").contains("\t/e\n"));
    assert!(ask("conf").contains("tickTime=2000"));
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
    fn the_decoder_takes_anything(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode::connect_request(&bytes);
        let _ = decode::request(&bytes);
    }

    /// Likelier to get deep: a known operation, and small numbers where lengths may stand.
    #[test]
    fn the_decoder_takes_what_is_nearly_right(
        kind in prop::sample::select(vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 17, 18, 19, 21, 22, 100, 101, 103, 104, 105, 106]),
        words in prop::collection::vec(prop_oneof![4 => -1..6_i32, 1 => any::<i32>()], 0..60),
    ) {
        let body = words.into_iter().fold(Bytes::default().int(1).int(kind), Bytes::int);
        let _ = decode::request(&body.0);
    }
}
