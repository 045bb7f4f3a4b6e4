//! The four-letter words. The expected responses are those of a standalone 3.9.5 server, with numbers that differ
//! between runs replaced by `#`. The test `differential` compares with an installed real server.

mod raw;

use std::time::Duration;

use lockkeeper_embedded::Embedded;
use raw::words::{self, shape};
use raw::{Bytes, Raw};

#[tokio::test]
async fn the_responses_have_the_format_of_the_real_server() {
    let server = Embedded::start().await.expect("a server");
    let _clients = words::prepare(server.socket_address());
    let ask = |word: &str| words::ask(server.socket_address(), word);
    assert_eq!((ask("ruok").as_str(), ask("isro").as_str()), ("imok", "rw"));
    let summary = "Latency min/avg/max: #/#/#\nReceived: #\nSent: #\nConnections: #\nOutstanding: #\nZxid: #\n\
                   Mode: standalone\nNode count: #\n";
    let version = "Zookeeper version: #-lockkeeper-embedded-#, built on #-#-# #:# UTC\n";
    assert_eq!(shape(&ask("srvr")), format!("{version}{summary}"));
    let client = " /#:#[#](queued=#,recved=#,sent=#";
    let clients = format!("{client})\n{client})\n{client})\n");
    assert_eq!(shape(&ask("stat")), format!("{version}Clients:\n{clients}\n{summary}"));
    let details = ",est=#,to=#,lcxid=#,lzxid=#,lresp=#,llat=#,minlat=#,avglat=#,maxlat=#)\n";
    assert_eq!(
        shape(&ask("cons")),
        format!("{client},sid=#,lop=GETC{details}{client},sid=#,lop=ADDW{details}{client})\n\n")
    );
    // The three connections may expire on the same tick or not. See `dump_groups_sessions_by_their_expiry`.
    let dump = shape(&ask("dump"));
    assert!(dump.starts_with("SessionTracker dump:\nSession Sets (#)/(#):\n# expire at "), "{dump}");
    assert!(dump.contains("\nephemeral nodes dump:\nSessions with Ephemerals (#):\n#:\n\t/e\n"), "{dump}");
    assert!(dump.contains("\nConnections dump:\nConnections Sets (#)/(#):\n"), "{dump}");
    assert!(dump.contains("\n\tip: /#:# sessionId: #\n"), "{dump}");
    assert_eq!(ask("wchs"), "2 connections watching 4 paths\nTotal watches:5\n");
    assert_eq!(shape(&ask("wchc")), "#\n\t/e\n\t/w\n#\n\t/p\n\t/r\n\t/w\n\n");
    assert_eq!(shape(&ask("wchp")), "/e\n\t#\n/p\n\t#\n/r\n\t#\n/w\n\t#\n\t#\n\n");
    let port = server.socket_address().port();
    assert_eq!(
        ask("conf"),
        format!(
            "clientPort={port}\nsecureClientPort=-1\ntickTime=2000\nmaxClientCnxns=0\nminSessionTimeout=4000\n\
             maxSessionTimeout=40000\nclientPortListenBacklog=-1\nserverId=0\n"
        )
    );
    assert_eq!(ask("dirs"), "datadir_size: 0\nlogdir_size: 0\n");
    assert_eq!(ask("hash"), "");
    let environment = ask("envi");
    assert!(environment.starts_with("Environment:\nzookeeper.version=3.9."), "{environment}");
    assert!(environment.lines().skip(1).all(|line| line.contains('=')), "{environment}");
    assert_eq!(
        ask("mntr").lines().find(|line| line.starts_with("zk_watch_count")),
        Some("zk_watch_count\t8")
    );
}

#[tokio::test]
async fn mntr_counts_nodes_sessions_and_packets() {
    let server = Embedded::start().await.expect("a server");
    let mut client = Raw::connect(server.socket_address(), 10_000).expect("connected");
    assert_eq!(client.ask(1, &Bytes::create("/e", b"", 1).0).expect("a reply").error, 0);
    assert_eq!(client.ask(3, &Bytes::path("/w", true).0).expect("a reply").error, -101);
    let monitored = words::ask(server.socket_address(), "mntr");
    for line in [
        "zk_server_state\tstandalone",
        "zk_ephemerals_count\t1",
        "zk_watch_count\t1",
        "zk_znode_count\t6",
        "zk_global_sessions\t1",
        "zk_num_alive_connections\t2",
        // The connect request, two requests and the word itself.
        "zk_packets_received\t4",
        "zk_packets_sent\t3",
    ] {
        assert!(monitored.lines().any(|found| found == line), "{line} in\n{monitored}");
    }
}

#[tokio::test]
async fn statistics_can_be_reset() {
    let server = Embedded::start().await.expect("a server");
    let _clients = words::prepare(server.socket_address());
    let ask = |word: &str| words::ask(server.socket_address(), word);
    assert_eq!(ask("crst"), "Connection stats reset.\n");
    let connections = ask("cons");
    assert_eq!(connections.matches("recved=0,sent=0").count(), 2, "{connections}");
    assert_eq!(connections.matches(",lop=NA,est=").count(), 2, "{connections}");
    assert_eq!(
        connections.matches(",to=10000,lzxid=0xffffffffffffffff,lresp=0,").count(),
        2,
        "{connections}"
    );
    assert_eq!(ask("srst"), "Server stats reset.\n");
    // Received: this word. Sent: the response to `srst`.
    let summary = ask("srvr");
    assert!(summary.contains("\nReceived: 1\nSent: 1\n"), "{summary}");
}

#[tokio::test]
async fn a_resumed_session_has_no_last_operation_yet() {
    let server = Embedded::start().await.expect("a server");
    let raw = Raw::connect(server.socket_address(), 10_000).expect("connected");
    let fresh = words::ask(server.socket_address(), "cons");
    assert!(fresh.contains(",lop=SESS,") && fresh.contains(",lcxid=0x0,"), "{fresh}");
    let mut again =
        Raw::resume(server.socket_address(), 10_000, raw.session, &raw.password, raw.zxid).expect("back");
    let resumed = words::ask(server.socket_address(), "cons");
    assert!(resumed.contains(",lop=NA,") && !resumed.contains("lcxid"), "{resumed}");
    assert_eq!(again.ask(9, &Bytes::default().string("/").0).expect("a reply").error, 0);
    again.ping().expect("a reply");
    let pinged = words::ask(server.socket_address(), "cons");
    assert!(pinged.contains(",lop=PING,") && pinged.contains(",lcxid=0x1,"), "{pinged}");
}

#[tokio::test]
async fn dump_groups_sessions_by_their_expiry() {
    let hours = Duration::from_secs(36_000);
    let options = Embedded::options().max_session_timeout(hours).handshake_timeout(hours);
    let server = options.start().await.expect("a server");
    let connect = |timeout_ms| Raw::connect(server.socket_address(), timeout_ms).expect("connected");
    let (one, two) = (connect(36_000_000), connect(1_000_000));
    let dump = words::ask(server.socket_address(), "dump");
    let sessions = dump.split("ephemeral nodes dump:").next().expect("the beginning");
    let lines: Vec<&str> = sessions.lines().collect();
    let [_, "Session Sets (2)/(2):", first, second, third, fourth] = lines.as_slice() else {
        panic!("{dump}")
    };
    assert!(first.starts_with("1 expire at ") && third.starts_with("1 expire at "), "{dump}");
    assert_eq!((*second, *fourth), (&*format!("\t{:#x}", two.session), &*format!("\t{:#x}", one.session)));
}

#[tokio::test]
async fn cons_tells_the_two_requests_that_set_watches_again_apart() {
    let server = Embedded::start().await.expect("a server");
    let mut client = Raw::connect(server.socket_address(), 10_000).expect("connected");
    let lists = |count: usize| (0..count).fold(Bytes::default().long(0), |bytes, _| bytes.strings(&[]));
    client.ask_as(-8, 101, &lists(3).0).expect("a reply");
    let older = words::ask(server.socket_address(), "cons");
    assert!(older.contains(",lop=SETW,"), "{older}");
    client.ask_as(-8, 105, &lists(4).strings(&["/r".into()]).0).expect("a reply");
    let newer = words::ask(server.socket_address(), "cons");
    assert!(newer.contains(",lop=STW2,"), "{newer}");
}
