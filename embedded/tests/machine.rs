//! The machine on its own, in virtual time. The tests compare its exact outputs.

use std::time::Duration;

use lockkeeper_embedded::machine::{
    CloseReason, Config, ConnectionId, Input, Moment, Output, Server, SessionId,
};
use lockkeeper_embedded::wire::{
    Acl, ConnectRequest, CreateKind, ErrorCode, EventKind, Id, OpResult, Read, Reply, Request, Write,
};

const ONE: ConnectionId = ConnectionId(1);
const TWO: ConnectionId = ConnectionId(2);

struct World {
    server: Server,
    now: Moment,
}

impl World {
    fn new() -> World {
        let config = Config {
            tick: Duration::from_secs(1),
            min_session_timeout: Duration::from_secs(2),
            max_session_timeout: Duration::from_secs(20),
            container_check: Duration::from_secs(1),
            extended_types: false,
            super_digest: None,
            handshake_timeout: Duration::from_secs(10),
            client_port: 2181,
            wall_clock: Duration::from_secs(1_000),
            secret: 1,
        };
        World { server: Server::new(config), now: Moment::default() }
    }

    fn handle(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.server.handle(input, self.now, &mut out);
        out
    }

    fn advance(&mut self, by: Duration) -> Vec<Output> {
        self.now = self.now + by;
        self.handle(Input::Time)
    }

    fn connect(&mut self, connection: ConnectionId) -> SessionId {
        let peer = ([127, 0, 0, 1], 1).into();
        assert_eq!(self.handle(Input::Opened { connection, peer }), []);
        let out = self.handle(Input::Connect { connection, request: connect_request(0, Vec::new()) });
        match out.as_slice() {
            [Output::Connected { reply, .. }] => SessionId(reply.session),
            other => panic!("{other:?}"),
        }
    }

    fn ask(&mut self, connection: ConnectionId, request: Request) -> Vec<Output> {
        self.handle(Input::Request { connection, xid: 7, request })
    }

    fn reply(&self, connection: ConnectionId, result: Result<Reply, ErrorCode>) -> Output {
        Output::Reply { connection, xid: 7, zxid: self.server.last_zxid(), result }
    }
}

fn connect_request(session: i64, password: Vec<u8>) -> ConnectRequest {
    ConnectRequest { last_zxid_seen: 0, timeout_ms: 5_000, session, password, read_only: Some(false) }
}

fn create(path: &str, flags: i32) -> Write {
    let acl = vec![Acl { perms: 31, id: Id { scheme: "world".into(), id: "anyone".into() } }];
    Write::Create { kind: CreateKind::Plain, path: path.into(), data: None, acl, flags }
}

#[test]
fn an_event_comes_before_the_reply_that_shows_the_change() {
    let mut world = World::new();
    world.connect(ONE);
    let out = world.ask(ONE, Request::Exists { path: "/a".into(), watch: true });
    assert_eq!(out, [world.reply(ONE, Err(ErrorCode::NoNode))]);
    let out = world.ask(ONE, Request::Write(create("/a", 0)));
    let zxid = world.server.last_zxid();
    let event = Output::Event { connection: ONE, zxid, kind: EventKind::Created, path: "/a".into() };
    assert_eq!(out, [event, world.reply(ONE, Ok(Reply::Path("/a".into())))]);
}

#[test]
fn a_session_expires_on_the_tick_after_its_timeout_with_its_nodes() {
    let mut world = World::new();
    let session = world.connect(ONE);
    world.connect(TWO);
    world.ask(ONE, Request::Write(create("/e", 1)));
    world.ask(TWO, Request::Exists { path: "/e".into(), watch: true });
    assert_eq!(world.server.next_wake(), Some(Moment::default() + Duration::from_secs(6)));
    world.now = world.now + Duration::from_secs(3);
    world.ask(TWO, Request::Ping);
    assert_eq!(world.advance(Duration::from_millis(2_999)), []);
    let out = world.advance(Duration::from_millis(1));
    let zxid = world.server.last_zxid();
    let event = Output::Event { connection: TWO, zxid, kind: EventKind::Deleted, path: "/e".into() };
    let close = Output::Close { connection: ONE, reason: CloseReason::SessionExpired };
    assert_eq!(out, [event, close]);
    assert!(!world.server.has_session(session));
    assert_eq!(world.ask(ONE, Request::Ping), [], "the connection must be closed");
}

#[test]
fn a_failed_multi_changes_nothing_but_uses_a_transaction_id() {
    let mut world = World::new();
    world.connect(ONE);
    world.ask(ONE, Request::Write(create("/a", 0)));
    let node = |world: &mut World| {
        let path = "/".to_owned();
        let out = world.ask(ONE, Request::GetChildren2 { path, watch: false });
        match out.as_slice() {
            [Output::Reply { result: Ok(Reply::ChildrenStat(names, stat)), .. }] => (names.clone(), *stat),
            other => panic!("{other:?}"),
        }
    };
    let before = node(&mut world);
    let zxid = world.server.last_zxid();
    let writes = vec![
        create("/a/s-", 2),
        Write::Delete { path: "/a/s-0000000000".into(), version: -1 },
        Write::Delete { path: "/a".into(), version: -1 },
        create("/b", 0),
        Write::Check { path: "/a".into(), version: -1 },
        create("/c", 0),
    ];
    let out = world.ask(ONE, Request::Multi(writes));
    let codes = [0, 0, 0, 0, -101, -2].map(OpResult::Error).to_vec();
    assert_eq!(out, [world.reply(ONE, Ok(Reply::Multi(codes)))]);
    assert_eq!(world.server.last_zxid(), zxid + 1);
    assert_eq!(node(&mut world), before);
    let out = world.ask(ONE, Request::Write(create("/a/s-", 2)));
    assert_eq!(out, [world.reply(ONE, Ok(Reply::Path("/a/s-0000000000".into())))]);
}

#[test]
fn a_resumed_session_closes_its_old_connection_and_loses_its_watches() {
    let mut world = World::new();
    world.handle(Input::Opened { connection: ONE, peer: ([127, 0, 0, 1], 1).into() });
    let out = world.handle(Input::Connect { connection: ONE, request: connect_request(0, Vec::new()) });
    let [Output::Connected { reply, .. }] = out.as_slice() else { panic!("{out:?}") };
    world.ask(ONE, Request::Exists { path: "/a".into(), watch: true });
    world.handle(Input::Opened { connection: TWO, peer: ([127, 0, 0, 1], 2).into() });
    let request = connect_request(reply.session, reply.password.to_vec());
    let out = world.handle(Input::Connect { connection: TWO, request });
    let moved = Output::Close { connection: ONE, reason: CloseReason::SessionMoved };
    assert_eq!(out, [moved, Output::Connected { connection: TWO, reply: reply.clone() }]);
    let out = world.ask(TWO, Request::Write(create("/a", 0)));
    assert_eq!(out, [world.reply(TWO, Ok(Reply::Path("/a".into())))], "there must be no event");
}

#[test]
fn reads_accept_an_empty_path_as_the_root() {
    let mut world = World::new();
    world.connect(ONE);
    let read = |path: &str| Request::Read { op: Read::GetChildren { path: path.into() }, watch: false };
    assert_eq!(world.ask(ONE, read("")), world.ask(ONE, read("/")));
    let out = world.ask(ONE, Request::Write(Write::SetData { path: String::new(), data: None, version: -1 }));
    assert_eq!(out, [world.reply(ONE, Err(ErrorCode::BadArguments))]);
}

#[test]
fn exists_requires_the_read_permission_and_otherwise_sets_no_watch() {
    let mut world = World::new();
    world.connect(ONE);
    world.connect(TWO);
    let create = Write::Create {
        kind: CreateKind::Plain,
        path: "/a".into(),
        data: None,
        acl: vec![Acl { perms: 31, id: Id { scheme: "ip".into(), id: "10.0.0.1".into() } }],
        flags: 0,
    };
    world.ask(ONE, Request::Write(create));
    let exists = Request::Exists { path: "/a".into(), watch: true };
    let out = world.ask(TWO, exists);
    assert_eq!(out, [world.reply(TWO, Err(ErrorCode::NoAuth))]);
    assert_eq!(world.server.sessions()[1].watches, 0);
    // If the node does not exist, no permission is required.
    let out = world.ask(TWO, Request::Exists { path: "/b".into(), watch: true });
    assert_eq!(out, [world.reply(TWO, Err(ErrorCode::NoNode))]);
    assert_eq!(world.server.sessions()[1].watches, 1);
}

#[test]
fn a_session_id_is_not_used_again_after_a_reset() {
    let mut world = World::new();
    let first = world.connect(ONE);
    // In the same millisecond.
    world.server.reset(world.now);
    assert!(world.connect(TWO) > first, "the password of the first session would be valid for it");
}

#[test]
fn an_ipv4_client_of_an_ipv6_listener_is_known_by_its_ipv4_address() {
    let mut world = World::new();
    let peer = "[::ffff:127.0.0.1]:1".parse().expect("an address");
    world.handle(Input::Opened { connection: ONE, peer });
    world.handle(Input::Connect { connection: ONE, request: connect_request(0, Vec::new()) });
    let local = Id { scheme: "ip".into(), id: "127.0.0.1".into() };
    let acl = vec![Acl { perms: 31, id: local.clone() }];
    let path = "/a".to_owned();
    let create = Write::Create { kind: CreateKind::Plain, path: path.clone(), data: None, acl, flags: 0 };
    world.ask(ONE, Request::Write(create));
    let out = world.ask(ONE, Request::GetChildren2 { path, watch: false });
    assert!(matches!(out.as_slice(), [Output::Reply { result: Ok(_), .. }]), "{out:?}");
    let out = world.ask(ONE, Request::WhoAmI);
    assert_eq!(out, [world.reply(ONE, Ok(Reply::Clients(vec![local])))]);
    assert_eq!(world.server.sessions()[0].peer, Some(([127, 0, 0, 1], 1).into()));
}
