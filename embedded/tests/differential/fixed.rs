//! Fixed sequences for what the random ones cannot contain, because it closes connections, affects all clients or needs
//! a server with other options.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use lockkeeper_embedded::Embedded;

use super::common::{Server, ServerOptions};
use super::raw::words::{self, shape};
use super::raw::{Bytes, Raw};
use super::{Release, TIMEOUT_MS, address_of, embedded, start_real};

/// Runs the same requests on both servers and compares the results. It starts a separate real server, because the
/// random sequences count the transactions of theirs.
async fn assert_same<T: PartialEq + std::fmt::Debug>(ask: impl Fn(SocketAddr, Release) -> T) {
    let (real, embedded) = (start_real(), embedded().await);
    let (address, release) = (address_of(&real), Release::of_server(&real));
    assert_eq!(ask(embedded.socket_address(), release), ask(address, release));
}

fn connect(address: SocketAddr) -> Raw {
    Raw::connect(address, TIMEOUT_MS).expect("connected")
}

fn auth(auth: &str) -> Vec<u8> {
    Bytes::default().int(0).string("digest").string(auth).0
}

#[tokio::test]
async fn the_super_user_has_the_same_permissions() {
    assert_same(|address, release| {
        let (mut admin, mut user) = (connect(address), connect(address));
        let mut results = Vec::new();
        let mut ask = |raw: &mut Raw, xid, kind, body: &[u8]| {
            let answer = raw.ask_as(xid, kind, body).expect("a reply");
            // Compare only the length of the body, because it contains times and transaction ids.
            results.push((kind, answer.error, answer.body.len()));
        };
        let set = Bytes::default().string("/zookeeper/config").buffer(b"version=0").int(-1).0;
        ask(&mut user, -4, 100, &auth("user:secret"));
        let mine = [(31, "auth".to_owned(), String::new())];
        ask(&mut user, 1, 1, &Bytes::default().string("/super-mine").buffer(b"").acl(&mine).int(0).0);
        ask(&mut user, 2, 4, &Bytes::path("/zookeeper/config", true).0);
        ask(&mut admin, 1, 5, &set);
        for credentials in ["super:wrong", "admin:admin", "super:admin"] {
            ask(&mut admin, -4, 100, &auth(credentials));
            ask(&mut admin, 2, 5, &set);
            ask(&mut admin, 3, 107, &[]);
            ask(&mut admin, 4, 3, &Bytes::path("/super-mine", false).0);
            ask(&mut admin, 5, 4, &Bytes::path("/super-mine", false).0);
            ask(&mut admin, 6, 6, &Bytes::default().string("/super-mine").0);
            ask(&mut admin, 7, 1, &Bytes::default().string("/super-new").buffer(b"").acl(&mine).int(1).0);
            ask(&mut admin, 8, 2, &Bytes::default().string("/zookeeper/config").int(-1).0);
        }
        ask(&mut user, -2, 11, &[]);
        let events: Vec<_> = user.events.iter().map(|(kind, path, _)| (*kind, path.clone())).collect();
        results.retain(|(kind, ..)| *kind != 3 || release.exists_checks());
        (results, events)
    })
    .await;
}

#[tokio::test]
async fn malformed_credentials_close_the_connection() {
    assert_same(|address, _| {
        let whole = auth("me:secret");
        let mut bodies: Vec<Vec<u8>> = (0..=whole.len()).map(|length| whole[..length].to_vec()).collect();
        bodies.push(Bytes::default().int(0).string("digest").int(i32::MAX).0);
        bodies.push(Bytes::default().int(0).string("digest").int(-1).0);
        bodies.push(Bytes::default().int(0).int(-1).string("me").0);
        bodies.push(Bytes::default().int(0).string("ip").int(-1).0);
        let answer = |body: Vec<u8>| {
            let mut raw = connect(address);
            raw.send(-4, 100, &body).expect("sent");
            let error = raw.receive().map(|answer| answer.error).ok();
            let stays_open = error == Some(0) && raw.ping().is_ok();
            (body.len(), error, stays_open)
        };
        bodies.into_iter().map(answer).collect::<Vec<_>>()
    })
    .await;
}

#[tokio::test]
async fn without_extended_types_ttl_nodes_are_not_implemented() {
    let options =
        ServerOptions { jvm: vec!["-Dzookeeper.extendedTypesEnabled=false".into()], ..Default::default() };
    let real = Server::start_with(&options);
    let embedded = Embedded::start().await.expect("a server");
    let ask = |address: SocketAddr| {
        let mut raw = connect(address);
        let open = [(31, "world".to_owned(), "anyone".to_owned())];
        let body = |path: &str, flags| Bytes::default().string(path).buffer(b"").acl(&open).int(flags);
        let mut results = Vec::new();
        for (path, flags, ttl) in [
            ("/t", 5, 1000),
            ("/t", 6, 1000),
            ("/t", 5, 0),
            ("/t", 5, i64::MAX),
            ("/t/", 5, 1),
            ("nonsense", 6, 1),
        ] {
            let body = body(path, flags);
            results.push(raw.ask(1, &body.0).expect("a reply").error);
            results.push(raw.ask(15, &body.0).expect("a reply").error);
            let ttl = body.long(ttl);
            results.push(raw.ask(21, &ttl.0).expect("a reply").error);
            let multi = Bytes::default().int(21).bool(false).int(-1).bytes(&ttl.0).int(-1).bool(true).int(-1);
            let answer = raw.ask(14, &multi.0).expect("a reply");
            assert_eq!(answer.error, 0);
            results.extend(answer.body.iter().map(|byte| i32::from(*byte)));
        }
        results.push(raw.ping().expect("the session must be alive").error);
        results
    };
    assert_eq!(ask(embedded.socket_address()), ask(address_of(&real)));
}

#[tokio::test]
async fn four_letter_words_have_the_same_format() {
    let server = start_real();
    let (real, release) = (address_of(&server), Release::of_server(&server));
    let embedded = embedded().await;
    let ask = |address: SocketAddr, word: &str| words::ask(address, word);
    let _clients = (words::prepare(real), words::prepare(embedded.socket_address()));
    let lines = |text: &str| -> Vec<String> {
        let mut lines: Vec<String> = shape(text).lines().map(hide_version_and_date).collect();
        // The order of connections and paths is not defined, and the number of expiry groups depends on the timing.
        lines.sort();
        lines.dedup_by(|one, other| one == other && one == EXPIRE);
        lines
    };
    for word in [
        "ruok", "isro", "srvr", "stat", "cons", "dump", "wchs", "wchc", "wchp", "dirs", "hash", "crst",
        "srst",
    ] {
        let (expected, found) = (ask(real, word), ask(embedded.socket_address(), word));
        assert_eq!(lines(&found), lines(&expected), "{word}:\n{found}\n{expected}");
    }
    assert_eq!(ask(embedded.socket_address(), "wchs"), ask(real, "wchs"));
    // For these words the real server reports more values, for instance about its disk and its memory.
    for (word, separator) in [("conf", '='), ("envi", '='), ("mntr", '\t')] {
        let names = |text: String| -> BTreeSet<String> {
            text.lines().filter_map(|line| Some(line.split_once(separator)?.0.to_owned())).collect()
        };
        let (expected, found) = (names(ask(real, word)), names(ask(embedded.socket_address(), word)));
        assert!(found.is_subset(&expected), "{word}: {:?}", found.difference(&expected));
    }
    let value = |address, name: &str| {
        let text = ask(address, "mntr");
        text.lines()
            .find_map(|line| line.strip_prefix(name).map(str::to_owned))
            .expect("the value in the response")
    };
    if release.is_3_9() {
        // Before 3.9, a recursive watch counts twice.
        assert_eq!(value(embedded.socket_address(), "zk_watch_count"), value(real, "zk_watch_count"));
    }
    for name in ["zk_ephemerals_count", "zk_znode_count", "zk_approximate_data_size", "zk_global_sessions"] {
        assert_eq!(value(embedded.socket_address(), name), value(real, name), "{name}");
    }
}

const EXPIRE: &str = "# expire at ";

/// Removes a version or a date at the end of a line.
fn hide_version_and_date(line: &str) -> String {
    for beginning in ["Zookeeper version: ", EXPIRE] {
        if line.starts_with(beginning) {
            return beginning.to_owned();
        }
    }
    line.to_owned()
}
