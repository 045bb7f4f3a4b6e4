//! The operations of a random sequence: how they are drawn, and how they are encoded.

use proptest::prelude::*;

use super::raw::Bytes;
use super::{PERSISTENT, Release, SESSIONS};

#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) session: usize,
    pub(super) op: Op,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
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
pub(super) enum CreateOp {
    Create = 1,
    Create2 = 15,
    Container = 19,
    Ttl = 21,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum AclOf {
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

pub(super) fn step(release: Release) -> impl Strategy<Value = Step> {
    (0..SESSIONS, op(release)).prop_map(|(session, op)| Step { session, op })
}

/// Encodes an operation. Returns its number and body.
pub(super) fn encode(op: &Op, root: &str, session: usize, release: Release) -> (i32, Vec<u8>) {
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
