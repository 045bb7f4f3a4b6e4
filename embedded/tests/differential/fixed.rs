//! What random sequences do not ask, because it ends connections, concerns all clients, or needs another server.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use lockkeeper_embedded::Embedded;

use super::common::{Server, ServerOptions};
use super::raw::words::{self, shape};
use super::raw::{Bytes, Raw};
use super::{Release, TIMEOUT_MS, address_of, embedded, start_real};

/// Asks both servers the same, and compares. The real one serves nobody else: the random sequences count its
/// transactions.
async fn same<T: PartialEq + std::fmt::Debug>(ask: impl Fn(SocketAddr, Release) -> T) {
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
async fn the_super_user_may_do_the_same() {
    same(|address, release| {
        let (mut admin, mut user) = (connect(address), connect(address));
        let mut said = Vec::new();
        let mut ask = |raw: &mut Raw, xid, kind, body: &[u8]| {
            let answer = raw.ask_as(xid, kind, body).expect("an answer");
            // The length stands for the body, which has times and transactions.
            said.push((kind, answer.error, answer.body.len()));
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
        said.retain(|(kind, ..)| *kind != 3 || release.exists_checks());
        (said, events)
    })
    .await;
}

#[tokio::test]
async fn credentials_that_cannot_be_read_end_the_connection() {
    same(|address, _| {
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
            let goes_on = error == Some(0) && raw.ping().is_ok();
            (body.len(), error, goes_on)
        };
        bodies.into_iter().map(answer).collect::<Vec<_>>()
    })
    .await;
}

#[tokio::test]
async fn without_extended_types_a_time_to_live_is_not_implemented() {
    let options =
        ServerOptions { jvm: vec!["-Dzookeeper.extendedTypesEnabled=false".into()], ..Default::default() };
    let real = Server::start_with(&options);
    let embedded = Embedded::start().await.expect("a server");
    let ask = |address: SocketAddr| {
        let mut raw = connect(address);
        let open = [(31, "world".to_owned(), "anyone".to_owned())];
        let body = |path: &str, flags| Bytes::default().string(path).buffer(b"").acl(&open).int(flags);
        let mut said = Vec::new();
        for (path, flags, ttl) in [
            ("/t", 5, 1000),
            ("/t", 6, 1000),
            ("/t", 5, 0),
            ("/t", 5, i64::MAX),
            ("/t/", 5, 1),
            ("nonsense", 6, 1),
        ] {
            let body = body(path, flags);
            said.push(raw.ask(1, &body.0).expect("an answer").error);
            said.push(raw.ask(15, &body.0).expect("an answer").error);
            let ttl = body.long(ttl);
            said.push(raw.ask(21, &ttl.0).expect("an answer").error);
            let multi = Bytes::default().int(21).bool(false).int(-1).bytes(&ttl.0).int(-1).bool(true).int(-1);
            let answer = raw.ask(14, &multi.0).expect("an answer");
            assert_eq!(answer.error, 0);
            said.extend(answer.body.iter().map(|byte| i32::from(*byte)));
        }
        said.push(raw.ping().expect("the session goes on").error);
        said
    };
    assert_eq!(ask(embedded.socket_address()), ask(address_of(&real)));
}

#[tokio::test]
async fn four_letter_words_have_the_same_form() {
    let server = start_real();
    let (real, release) = (address_of(&server), Release::of_server(&server));
    let embedded = embedded().await;
    let ask = |address: SocketAddr, word: &str| words::ask(address, word);
    let _clients = (words::prepare(real), words::prepare(embedded.socket_address()));
    let lines = |text: &str| -> Vec<String> {
        let mut lines: Vec<String> = shape(text).lines().map(hide_version_and_date).collect();
        // Connections and paths stand in any order, and in how many sets they end is a matter of time.
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
    // Of these the real one tells more, about its disk, its memory, its ensemble.
    for (word, separator) in [("conf", '='), ("envi", '='), ("mntr", '\t')] {
        let names = |text: String| -> BTreeSet<String> {
            text.lines().filter_map(|line| Some(line.split_once(separator)?.0.to_owned())).collect()
        };
        let (expected, found) = (names(ask(real, word)), names(ask(embedded.socket_address(), word)));
        assert!(found.is_subset(&expected), "{word}: {:?}", found.difference(&expected));
    }
    let value = |address, name: &str| {
        let text = ask(address, "mntr");
        text.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned)).expect("it is told")
    };
    if release.is_3_9() {
        // Before, a recursive watch counts twice.
        assert_eq!(value(embedded.socket_address(), "zk_watch_count"), value(real, "zk_watch_count"));
    }
    for name in ["zk_ephemerals_count", "zk_znode_count", "zk_approximate_data_size", "zk_global_sessions"] {
        assert_eq!(value(embedded.socket_address(), name), value(real, name), "{name}");
    }
}

const EXPIRE: &str = "# expire at ";

/// Both stand at the end of a line.
fn hide_version_and_date(line: &str) -> String {
    for beginning in ["Zookeeper version: ", EXPIRE] {
        if line.starts_with(beginning) {
            return beginning.to_owned();
        }
    }
    line.to_owned()
}
