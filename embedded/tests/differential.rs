//! Random sequences of operations, over several sessions with watches, must give the same replies, stats, events and
//! errors on the embedded server and on a real one.
//!
//! The test needs `java` and ZooKeeper's jar, so plain `cargo test` does not run it. `PROPTEST_CASES` sets the number
//! of sequences. The embedded server follows 3.9. The real one has the installed version, or that of the jar given by
//! `ZOOKEEPER_JAR`. `Release` describes the intended differences to older versions:
//!
//! - Since 3.8.4 and 3.9.2, `exists` requires the read permission (ZOOKEEPER-2590). The embedded server requires it
//!   too, because all up-to-date servers do. With an older server, the test does not send `exists` for nodes that the
//!   session may not read.
//! - Since 3.9, a client can have watches of different modes on one path (ZOOKEEPER-4466), and `removeWatches` removes
//!   only one mode (ZOOKEEPER-4471). Before, a watch of one mode replaced the others, and `checkWatches` reported the
//!   watches of all clients. Since 3.9, events carry their transaction id (ZOOKEEPER-4655). 3.8.0 answers `create2` in
//!   a multi like `create` (ZOOKEEPER-4026). With an older server, each session has watches of only one mode on a path,
//!   the session with persistent watches removes all modes at once, the test does not send `checkWatches` or `create2`
//!   in a multi, and it does not compare the transaction ids of events.
//! - Before 3.9, every malformed write uses up a transaction id. Since then, only a malformed multi does. With an older
//!   server, the test does not count these transactions.
//!
//! These differences apply to every version, so the test avoids or ignores them:
//!
//! - A create with undefined flags fails alone in 3.8, but fails its whole multi since. The test does not send it.
//! - The real server never answers a successful `check` outside of a multi, answers `sasl` even if it is not
//!   configured, and accepts from clients the internal operations that create sessions and delete containers. Regular
//!   clients send none of these, and the test does not either.
//! - For characters above U+FFFF, which names cannot contain, the real server returns two surrogates, which is not valid
//!   UTF-8. The test does not send them.
//! - The real server accepts any number of identities per connection, of any length.
//! - The real server deletes expired containers and TTL nodes at its next check, the embedded one at once. In this test
//!   nothing expires.
//! - The real server keeps children, identities and the ephemeral nodes of a session in hash tables. So the order of
//!   these lists, and of the events when a session ends, is not defined. The test sorts them.
//! - Transaction ids and session ids are compared relative to the first one. Times are only compared with each other.

#[path = "../../tests/common/servers/mod.rs"]
mod common;
#[path = "differential/fixed.rs"]
mod fixed;
mod raw;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{Server, ServerOptions};
use lockkeeper_embedded::Embedded;
use proptest::prelude::*;
use raw::{Bytes, Fields, Raw, Reply};

const SESSIONS: usize = 3;
/// With a server before 3.9, the only session that has persistent watches.
const PERSISTENT: usize = 2;
/// Long enough that no session expires.
const TIMEOUT_MS: i32 = 40_000;

/// The hash is that of `super:admin`.
const SUPER_DIGEST: &str = "super:xQJmxLMiHGwaqBvst5y6rkB6HQs=";

#[test]
fn it_behaves_like_the_real_server() {
    let server = start_real();
    let (real, release) = (address_of(&server), Release::of_server(&server));
    println!("comparing with {release:?}");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    proptest!(ProptestConfig { max_shrink_time: 60_000, failure_persistence: None, ..ProptestConfig::default() },
        |(steps in prop::collection::vec(step(release), 1..60))| {
        static CASE: AtomicU32 = AtomicU32::new(0);
        let root = format!("/d{}/r", CASE.fetch_add(1, Ordering::Relaxed));
        let embedded = runtime.block_on(embedded());
        let expected = run(real, release, release, &root, &steps);
        let found = run(embedded.socket_address(), FOLLOWED, release, &root, &steps);
        for ((step, expected), found) in steps.iter().zip(&expected).zip(&found) {
            prop_assert_eq!(found, expected, "on {:?}", step);
        }
    });
}

async fn embedded() -> Embedded {
    let options = Embedded::options().container_check(Duration::from_secs(3600)).extended_types(true);
    options.super_digest(SUPER_DIGEST).start().await.expect("a free port")
}

fn start_real() -> Server {
    Server::start_with(&ServerOptions {
        tick_ms: 2000,
        jvm: vec![
            "-Dznode.container.checkIntervalMs=3600000".into(),
            format!("-Dzookeeper.DigestAuthenticationProvider.superDigest={SUPER_DIGEST}"),
        ],
        ..ServerOptions::default()
    })
}

fn address_of(server: &Server) -> SocketAddr {
    server.address().parse().expect("an address")
}

/// The version that the embedded server follows.
const FOLLOWED: Release = Release(3, 9, 5);

/// A server's version, with the behavior that depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Release(u32, u32, u32);

impl Release {
    fn of_server(server: &Server) -> Release {
        let summary = server.four_letter("srvr");
        let version =
            summary.strip_prefix("Zookeeper version: ").and_then(|rest| rest.split(['-', ',']).next());
        let numbers =
            version.map(|version| version.split('.').map_while(|number| number.parse().ok()).collect());
        let numbers: Vec<u32> = numbers.unwrap_or_default();
        let [major, minor, patch] = numbers.try_into().unwrap_or_else(|_| panic!("no version in {summary}"));
        Release(major, minor, patch)
    }

    /// Whether `exists` requires the read permission.
    fn exists_checks(self) -> bool {
        self >= Release(3, 9, 2) || (Release(3, 8, 4)..Release(3, 9, 0)).contains(&self)
    }

    /// Whether this operation uses up a transaction id when it is malformed (other than a multi).
    fn counts_malformed(self, op: &Op) -> bool {
        let is_write = matches!(
            op,
            Op::Create { .. } | Op::Delete { .. } | Op::SetData { .. } | Op::SetAcl { .. } | Op::Check { .. }
        );
        is_write && !self.is_3_9()
    }

    /// Whether a client can have watches of different modes on one path, and events carry their transaction id.
    fn is_3_9(self) -> bool {
        self >= Release(3, 9, 0)
    }
}

#[derive(Clone, Debug)]
struct Step {
    session: usize,
    op: Op,
}

#[derive(Clone, Debug)]
enum Op {
    Create {
        kind: CreateOp,
        path: String,
        data: Option<Vec<u8>>,
        acl: AclOf,
        flags: i32,
        ttl: i64,
    },
    Delete {
        path: String,
        version: i32,
    },
    SetData {
        path: String,
        data: Option<Vec<u8>>,
        version: i32,
    },
    Check {
        path: String,
        version: i32,
    },
    SetAcl {
        path: String,
        acl: AclOf,
        version: i32,
    },
    Multi(Vec<Op>),
    Exists {
        path: String,
        watch: bool,
    },
    GetData {
        path: String,
        watch: bool,
    },
    GetChildren {
        path: String,
        watch: bool,
    },
    GetChildren2 {
        path: String,
        watch: bool,
    },
    GetAcl {
        path: String,
    },
    Sync {
        path: String,
    },
    GetEphemerals {
        prefix: String,
    },
    Descendants {
        path: String,
    },
    MultiRead(Vec<Op>),
    AddWatch {
        path: String,
        mode: i32,
    },
    CheckWatches {
        path: String,
        kind: i32,
    },
    RemoveWatches {
        path: String,
        kind: i32,
    },
    Auth {
        scheme: &'static str,
        auth: &'static str,
    },
    WhoAmI,
    Truncated {
        op: Box<Op>,
        to: usize,
    },
    /// Closes the session and creates another one.
    Close,
    /// Reconnects, resumes the session and re-arms watches.
    Reconnect {
        lost: i64,
        data: Vec<String>,
        exist: Vec<String>,
        child: Vec<String>,
        second: bool,
    },
    Unknown(i32),
}

#[derive(Clone, Copy, Debug)]
enum CreateOp {
    Create = 1,
    Create2 = 15,
    Container = 19,
    Ttl = 21,
}

#[derive(Clone, Copy, Debug)]
enum AclOf {
    Open,
    ReadOnly,
    Auth,
    Digest,
    Twice,
    Nobody,
    Ip,
    Empty,
    Wrong,
    BadDigest,
}

fn step(release: Release) -> impl Strategy<Value = Step> {
    (0..SESSIONS, op(release)).prop_map(|(session, op)| Step { session, op })
}

fn op(release: Release) -> impl Strategy<Value = Op> {
    let second = (any::<bool>(), prop::collection::vec(path(), 0..3), prop::collection::vec(path(), 0..3));
    let writes = prop::collection::vec(prop_oneof![6 => write(true, release), 2 => check()], 0..5);
    let reads = prop::collection::vec(read(), 0..4);
    let check_watches = if release.is_3_9() {
        (path(), 0..7).prop_map(|(path, kind)| Op::CheckWatches { path, kind }).boxed()
    } else {
        read().boxed()
    };
    prop_oneof![
        30 => write(false, release),
        4 => (path(), acl(), version()).prop_map(|(path, acl, version)| Op::SetAcl { path, acl, version }),
        8 => writes.prop_map(Op::Multi),
        6 => (path(), any::<bool>()).prop_map(|(path, watch)| Op::Exists { path, watch }),
        10 => read(),
        4 => (path(), any::<bool>()).prop_map(|(path, watch)| Op::GetChildren2 { path, watch }),
        2 => path().prop_map(|path| Op::GetAcl { path }),
        1 => path().prop_map(|path| Op::Sync { path }),
        2 => prop_oneof![Just(String::new()), path()].prop_map(|prefix| Op::GetEphemerals { prefix }),
        1 => below().prop_map(|path| Op::Descendants { path }),
        2 => reads.prop_map(Op::MultiRead),
        3 => (path(), -1..3).prop_map(|(path, mode)| Op::AddWatch { path, mode }),
        2 => check_watches,
        2 => (path(), if release.is_3_9() { 0..7 } else { 0..4 })
            .prop_map(|(path, kind)| Op::RemoveWatches { path, kind }),
        2 => prop_oneof![
            3 => Just(("digest", "me:secret")),
            1 => Just(("digest", "you")),
            1 => Just(("ip", "")),
            1 => Just(("nonsense", "x")),
        ]
        .prop_map(|(scheme, auth)| Op::Auth { scheme, auth }),
        1 => Just(Op::WhoAmI),
        3 => (prop_oneof![write(false, release), read(), check().prop_map(|op| Op::Multi(vec![op]))], 0..40_usize)
            .prop_map(|(op, to)| Op::Truncated { op: Box::new(op), to }),
        2 => Just(Op::Close),
        3 => (0..4_i64, prop::collection::vec(path(), 0..3), second).prop_map(
            |(lost, data, (second, exist, child))| Op::Reconnect { lost, data, exist, child, second }
        ),
        1 => prop_oneof![Just(42), Just(16)].prop_map(Op::Unknown),
    ]
}

fn write(in_multi: bool, release: Release) -> impl Strategy<Value = Op> {
    let kind = if in_multi && release.is_3_9() {
        prop_oneof![4 => Just((CreateOp::Create, true)), 4 => Just((CreateOp::Create2, true)), 1 => Just((CreateOp::Container, true)), 1 => Just((CreateOp::Ttl, true))].boxed()
    } else if in_multi {
        prop_oneof![8 => Just((CreateOp::Create, true)), 1 => Just((CreateOp::Container, true)), 1 => Just((CreateOp::Ttl, true))].boxed()
    } else {
        prop_oneof![4 => Just((CreateOp::Create, false)), 4 => Just((CreateOp::Create2, false)), 1 => Just((CreateOp::Container, false)), 1 => Just((CreateOp::Ttl, false))].boxed()
    };
    let ttl = prop_oneof![6 => 3_600_000..9_000_000_i64, 1 => Just(0), 1 => Just(0xff_ffff_ffff), 1 => Just(0x100_0000_0000)];
    let flags =
        prop_oneof![4 => Just(0), 4 => Just(1), 4 => Just(2), 3 => Just(3), 1 => 4..7_i32, 1 => Just(9)];
    let create = (kind, path(), data(), acl(), flags, ttl).prop_map(
        |((kind, in_multi), path, data, acl, flags, ttl)| {
            let flags = match kind {
                // Never create this node, because all sequences share it on the real server.
                _ if path == "/zookeeper/config" => {
                    if matches!(kind, CreateOp::Ttl) {
                        5
                    } else {
                        0
                    }
                }
                CreateOp::Ttl => 5 + (flags & 1),
                // In a multi the real server derives the operation from the flags. Regular clients send matching ones.
                CreateOp::Container if in_multi => 4,
                CreateOp::Create | CreateOp::Create2 if in_multi => flags & 3,
                CreateOp::Create | CreateOp::Create2 | CreateOp::Container => flags,
            };
            Op::Create { kind, path, data, acl, flags, ttl }
        },
    );
    prop_oneof![
        6 => create,
        3 => (path(), version()).prop_map(|(path, version)| Op::Delete { path, version }),
        3 => (path(), data(), version()).prop_map(|(path, data, version)| Op::SetData { path, data, version }),
    ]
}

fn check() -> impl Strategy<Value = Op> {
    (path(), version()).prop_map(|(path, version)| Op::Check { path, version })
}

fn read() -> impl Strategy<Value = Op> {
    prop_oneof![
        (path(), any::<bool>()).prop_map(|(path, watch)| Op::GetData { path, watch }),
        (path(), any::<bool>()).prop_map(|(path, watch)| Op::GetChildren { path, watch }),
    ]
}

fn acl() -> impl Strategy<Value = AclOf> {
    prop_oneof![
        30 => Just(AclOf::Open),
        1 => Just(AclOf::ReadOnly),
        2 => Just(AclOf::Auth),
        1 => Just(AclOf::Digest),
        1 => Just(AclOf::Twice),
        1 => Just(AclOf::Nobody),
        1 => Just(AclOf::Ip),
        1 => Just(AclOf::Empty),
        1 => Just(AclOf::Wrong),
        1 => Just(AclOf::BadDigest),
    ]
}

fn version() -> impl Strategy<Value = i32> {
    prop_oneof![4 => Just(-1), 2 => Just(0), 1 => Just(1), 1 => Just(7)]
}

fn data() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![1 => Just(None), 4 => prop::collection::vec(any::<u8>(), 0..4).prop_map(Some)]
}

/// A path below the sequence's own root, which replaces the `~`.
fn below() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("~"),
        Just("~/a"),
        Just("~/b"),
        Just("~/a/x"),
        Just("~/a/y"),
        Just("~/b/x"),
        Just("~/b/x/z")
    ]
    .prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        40 => below(),
        3 => Just("~/a/s-".to_owned()),
        // The sequential names of this prefix can collide with those of the previous one.
        1 => Just("~/a/s-000000000".to_owned()),
        1 => Just("~/c/".to_owned()),
        1 => prop::sample::select(vec![
            "nonsense", "~/", "~//a", "~/./a", "~/a/..", "~/\u{1}", "~/ü", "~/\0", "/zookeeper/config", "~/...",
        ])
        .prop_map(str::to_owned),
    ]
}

impl AclOf {
    fn list(self) -> Vec<(i32, String, String)> {
        let entry = |perms, scheme: &str, id: &str| (perms, scheme.to_owned(), id.to_owned());
        match self {
            AclOf::Open => vec![entry(31, "world", "anyone")],
            AclOf::ReadOnly => vec![entry(1, "world", "anyone"), entry(16, "ip", "127.0.0.1")],
            AclOf::Auth => vec![entry(31, "auth", "")],
            AclOf::Digest => {
                vec![entry(31, "digest", "me:zjYMCdNsMaLGw0HdVv0e3cOnm8Y="), entry(1, "world", "anyone")]
            }
            AclOf::Twice => vec![entry(31, "world", "anyone"), entry(31, "world", "anyone")],
            AclOf::Nobody => vec![entry(31, "digest", "nobody:nothing")],
            AclOf::Ip => vec![entry(31, "ip", "127.0.0.0/8")],
            AclOf::Empty => vec![],
            AclOf::Wrong => vec![entry(31, "world", "somebody")],
            AclOf::BadDigest => vec![entry(31, "digest", "x")],
        }
    }
}

/// Encodes an operation. Returns its number and body.
fn encode(op: &Op, root: &str, session: usize, release: Release) -> (i32, Vec<u8>) {
    let at = |path: &str| path.replace('~', root);
    let all = |paths: &[String]| paths.iter().map(|path| at(path)).collect::<Vec<_>>();
    let new = Bytes::default;
    let buffer = |bytes: Bytes, data: &Option<Vec<u8>>| match data {
        Some(data) => bytes.buffer(data),
        None => bytes.int(-1),
    };
    let (any, persistent) = (release.is_3_9(), session == PERSISTENT);
    // Before 3.9, a one-shot watch would replace a persistent one, so the session with those sets no others.
    let watch = |watch: bool| watch && (any || !persistent);
    let many = |ops: &[Op]| {
        let body = ops.iter().fold(new(), |bytes, op| {
            let (kind, body) = encode(op, root, session, release);
            bytes.int(kind).bool(false).int(-1).bytes(&body)
        });
        body.int(-1).bool(true).int(-1)
    };
    let (kind, bytes) = match op {
        Op::Create { kind, path, data, acl, flags, ttl } => {
            let body = buffer(new().string(&at(path)), data).acl(&acl.list()).int(*flags);
            (*kind as i32, if matches!(kind, CreateOp::Ttl) { body.long(*ttl) } else { body })
        }
        Op::Delete { path, version } => (2, new().string(&at(path)).int(*version)),
        Op::SetData { path, data, version } => (5, buffer(new().string(&at(path)), data).int(*version)),
        Op::Check { path, version } => (13, new().string(&at(path)).int(*version)),
        Op::SetAcl { path, acl, version } => (7, new().string(&at(path)).acl(&acl.list()).int(*version)),
        Op::Multi(ops) => (14, many(ops)),
        Op::MultiRead(ops) => (22, many(ops)),
        Op::Exists { path, watch: w } => (3, Bytes::path(&at(path), watch(*w))),
        Op::GetData { path, watch: w } => (4, Bytes::path(&at(path), watch(*w))),
        Op::GetChildren { path, watch: w } => (8, Bytes::path(&at(path), watch(*w))),
        Op::GetChildren2 { path, watch: w } => (12, Bytes::path(&at(path), watch(*w))),
        Op::GetAcl { path } => (6, new().string(&at(path))),
        Op::Sync { path } => (9, new().string(&at(path))),
        Op::GetEphemerals { prefix } => (103, new().string(&at(prefix))),
        Op::Descendants { path } => (104, new().string(&at(path))),
        Op::AddWatch { path, mode } if any => (106, new().string(&at(path)).int(*mode)),
        Op::AddWatch { path: _, mode } => {
            // Each mode has its own path, and only one session has persistent watches.
            let path = if *mode == 1 { at("~/b") } else { at("~/a") };
            (106, new().string(&path).int(if persistent { *mode } else { -1 }))
        }
        Op::CheckWatches { path, kind } => (17, new().string(&at(path)).int(*kind)),
        Op::RemoveWatches { path, kind } => {
            (18, new().string(&at(path)).int(if !any && persistent && *kind > 0 { 3 } else { *kind }))
        }
        Op::Auth { scheme, auth } => (100, new().int(0).string(scheme).string(auth)),
        Op::WhoAmI => (107, new()),
        Op::Truncated { op, to } => {
            let (kind, body) = encode(op, root, session, release);
            (kind, new().bytes(&body[..(*to).min(body.len() - 1)]))
        }
        Op::Close => (-11, new()),
        Op::Reconnect { lost: _, data, exist, child, second } => {
            let none = !any && persistent;
            let of = |paths: &[String]| if none { Vec::new() } else { all(paths) };
            let body = new().strings(&of(data)).strings(&of(exist)).strings(&of(child));
            if !*second {
                (101, body)
            } else if any {
                (105, body.strings(&all(exist)).strings(&all(child)))
            } else if none {
                (105, body.strings(&[at("~/a")]).strings(&[at("~/b")]))
            } else {
                (105, body.strings(&[]).strings(&[]))
            }
        }
        Op::Unknown(16) => (16, new().string("").string("").string("").long(0)),
        Op::Unknown(kind) => (*kind, new()),
    };
    (kind, bytes.0)
}

/// The result of a step, in a form that is comparable between servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    error: Option<i32>,
    zxid: Option<i64>,
    body: String,
    /// The events of all sessions: session, kind, path and transaction id.
    events: Vec<(usize, i32, String, i64)>,
}

struct World {
    address: SocketAddr,
    /// The version of this server.
    own: Release,
    /// The version of the real server. It determines which requests are sent to both.
    release: Release,
    root: String,
    base: i64,
    /// The transaction ids that an older server used up for malformed writes.
    uncounted: Vec<i64>,
    clients: Vec<Raw>,
    /// The session ids, numbered in order of creation.
    known: BTreeMap<i64, usize>,
}

fn run(address: SocketAddr, own: Release, release: Release, root: &str, steps: &[Step]) -> Vec<Outcome> {
    let root = root.to_owned();
    let (clients, known) = (Vec::new(), BTreeMap::new());
    let uncounted = Vec::new();
    let mut world = World { address, own, release, root: root.clone(), base: 0, uncounted, clients, known };
    for _ in 0..SESSIONS {
        let client = world.connect();
        world.clients.push(client);
    }
    // Create a parent for the root. Then the sequence numbers below the root start at zero on both servers.
    let parent = root.rsplit_once('/').expect("a path").0;
    let first = world.clients[0].ask(1, &Bytes::create(parent, b"", 0).0).expect("a reply");
    assert_eq!(first.error, 0, "creating the parent of the root");
    world.base = first.zxid;
    let root = world.clients[0].ask(1, &Bytes::create(&root, b"", 0).0).expect("a reply");
    assert_eq!(root.error, 0, "creating the root");
    let outcomes = steps.iter().map(|step| world.step(step)).collect();
    for client in &mut world.clients {
        // An error means that the session has already ended.
        let _ = client.ask(-11, &[]);
    }
    outcomes
}

impl World {
    fn step(&mut self, step: &Step) -> Outcome {
        let (kind, body) = encode(&step.op, &self.root, step.session, self.release);
        let mut outcome = Outcome::default();
        if let Op::Exists { path, .. } = &step.op {
            let may_not_read = -102;
            if !self.release.exists_checks() && self.read_error(step.session, path) == may_not_read {
                outcome.error = Some(may_not_read);
                return outcome;
            }
        }
        let reply = match &step.op {
            Op::Reconnect { lost, .. } => {
                self.reconnect(step.session);
                // Pretend not to have seen some of the last transactions.
                let seen = self.absolute(self.relative(self.clients[step.session].zxid) - lost);
                let body = Bytes::default().long(seen).bytes(&body);
                self.clients[step.session].ask_as(-8, kind, &body.0)
            }
            Op::Auth { .. } => self.clients[step.session].ask_as(-4, kind, &body),
            _ => self.clients[step.session].ask(kind, &body),
        };
        let mut events = self.take_events(step.session);
        match reply {
            Ok(reply) => {
                outcome.error = Some(reply.error);
                match &step.op {
                    Op::Truncated { op, .. } if self.own.counts_malformed(op) && reply.error == -5 => {
                        self.uncounted.push(reply.zxid);
                    }
                    _ => {}
                }
                outcome.zxid = Some(if reply.zxid > 0 { self.relative(reply.zxid) } else { reply.zxid });
                outcome.body = self.show(&step.op, kind, &reply);
                let ends = matches!(step.op, Op::Close | Op::Unknown(42)) || reply.error == -115;
                if ends {
                    assert!(
                        self.clients[step.session].is_closed(),
                        "the server must close the connection after {:?}",
                        step.op
                    );
                    if matches!(step.op, Op::Close) {
                        self.clients[step.session] = self.connect();
                    } else {
                        self.reconnect(step.session);
                    }
                }
            }
            Err(error) => {
                outcome.body = format!("closed: {}", error.kind());
                self.reconnect(step.session);
            }
        }
        for other in (0..SESSIONS).filter(|other| *other != step.session) {
            self.clients[other].ping().expect("the other sessions must be alive");
            events.extend(self.take_events(other));
        }
        if matches!(step.op, Op::Close) {
            events.sort();
        }
        outcome.events = events;
        outcome
    }

    /// A transaction id relative to the first one.
    fn relative(&self, zxid: i64) -> i64 {
        let uncounted = self.uncounted.iter().filter(|uncounted| **uncounted <= zxid).count();
        zxid - self.base - i64::try_from(uncounted).expect("few")
    }

    /// The inverse of `relative`.
    fn absolute(&self, relative: i64) -> i64 {
        let uncounted = self.uncounted.iter();
        uncounted.fold(self.base + relative, |zxid, uncounted| zxid + i64::from(*uncounted <= zxid))
    }

    /// The error code of reading a node.
    fn read_error(&mut self, session: usize, path: &str) -> i32 {
        let path = path.replace('~', &self.root);
        self.clients[session].ask(4, &Bytes::path(&path, false).0).expect("a reply").error
    }

    fn connect(&mut self) -> Raw {
        let raw = Raw::connect(self.address, TIMEOUT_MS).expect("the server takes connections");
        let count = self.known.len();
        self.known.insert(raw.session, count);
        raw
    }

    fn reconnect(&mut self, session: usize) {
        let (id, password, seen) = {
            let client = &self.clients[session];
            (client.session, client.password.clone(), client.zxid)
        };
        let resumed = Raw::resume(self.address, TIMEOUT_MS, id, &password, seen).expect("a connection");
        assert_eq!(resumed.session, id, "the session must be resumed");
        self.clients[session] = resumed;
    }

    fn take_events(&mut self, session: usize) -> Vec<(usize, i32, String, i64)> {
        let events = std::mem::take(&mut self.clients[session].events);
        let zxid = |zxid: i64| match zxid {
            _ if !self.release.is_3_9() => 0,
            -1 => -1,
            _ => self.relative(zxid),
        };
        events.into_iter().map(|(kind, path, at)| (session, kind, path, zxid(at))).collect()
    }

    fn show(&self, op: &Op, kind: i32, reply: &Reply) -> String {
        if reply.error != 0 || reply.body.is_empty() {
            return format!("{} bytes", reply.body.len());
        }
        let mut body = Fields(&reply.body);
        let text = match op {
            Op::Multi(_) | Op::MultiRead(_) => self.show_multi(&mut body),
            _ => self.show_one(kind, &mut body),
        };
        assert!(body.0.is_empty(), "the reply to {op:?} is longer than expected");
        text
    }

    fn show_multi(&self, body: &mut Fields<'_>) -> String {
        let mut text = String::new();
        loop {
            let (kind, done, error) = (body.int(), body.bool(), body.int());
            text.push_str(&format!("[{kind} {error}] "));
            if done {
                return text;
            }
            match kind {
                -1 => text.push_str(&format!("{} ", body.int())),
                2 | 13 => {}
                _ => text.push_str(&self.show_one(kind, body)),
            }
        }
    }

    fn show_one(&self, kind: i32, body: &mut Fields<'_>) -> String {
        match kind {
            1 | 9 => format!("{:?}", body.string()),
            15 | 19 | 21 => format!("{:?} {}", body.string(), self.stat(body)),
            3 | 5 | 7 => self.stat(body),
            4 => format!("{:?} {}", body.buffer(), self.stat(body)),
            8 | 103 => sorted(body.strings()),
            12 => format!("{} {}", sorted(body.strings()), self.stat(body)),
            6 => {
                let entries = (0..body.int())
                    .map(|_| format!("{} {:?} {:?}", body.int(), body.string(), body.string()));
                let entries: Vec<String> = entries.collect();
                format!("{} {}", sorted(entries), self.stat(body))
            }
            104 | 106 => body.int().to_string(),
            107 => {
                let clients = (0..body.int()).map(|_| format!("{:?} {:?}", body.string(), body.string()));
                let clients: Vec<String> = clients.collect();
                sorted(clients)
            }
            other => panic!("operation {other} has no body"),
        }
    }

    fn stat(&self, body: &mut Fields<'_>) -> String {
        let zxid = |zxid: i64| if zxid == 0 { 0 } else { self.relative(zxid) };
        let (czxid, mzxid, ctime, mtime) = (body.long(), body.long(), body.long(), body.long());
        let (version, cversion, aversion) = (body.int(), body.int(), body.int());
        let owner = body.long();
        let (length, children, pzxid) = (body.int(), body.int(), body.long());
        let owner = match self.known.get(&owner) {
            Some(session) => format!("session {session}"),
            None => format!("{owner:#x}"),
        };
        // Times depend on the wall clock, so only check whether they are set and in order.
        let clock = (ctime == 0, ctime <= mtime);
        format!(
            "{{c{} m{} p{} v{version} {cversion} {aversion} {owner} {length} {children} {clock:?}}}",
            zxid(czxid),
            zxid(mzxid),
            zxid(pzxid)
        )
    }
}

fn sorted(mut list: Vec<String>) -> String {
    list.sort();
    format!("{list:?}")
}
