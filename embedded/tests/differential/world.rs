//! Runs a sequence of operations on one server, in several sessions, and notes what it answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::operations::{Op, Step, encode};
use super::raw::{Bytes, Fields, Raw, Reply};
use super::{Release, SESSIONS, TIMEOUT_MS};

/// The result of a step, in a form that is comparable between servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    error: Option<i32>,
    zxid: Option<i64>,
    body: String,
    /// The events of all sessions: session, kind, path and transaction id.
    events: Vec<(usize, i32, String, i64)>,
}

pub(super) fn run(
    address: SocketAddr,
    own: Release,
    release: Release,
    root: &str,
    steps: &[Step],
) -> Vec<Outcome> {
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
