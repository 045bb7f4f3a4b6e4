//! A regular client with the embedded server.

use std::time::{Duration, Instant};

use lockkeeper_embedded::{Embedded, SessionId, Target};
use zookeeper_client::{Acls, Client, CreateMode, Error, EventType, SessionState};

async fn connect(server: &Embedded) -> Client {
    let connector = Client::connector().with_session_timeout(Duration::from_secs(10));
    connector.connect(&server.address()).await.expect("the server takes connections")
}

fn persistent() -> zookeeper_client::CreateOptions<'static> {
    CreateMode::Persistent.with_acls(Acls::anyone_all())
}

fn ephemeral() -> zookeeper_client::CreateOptions<'static> {
    CreateMode::Ephemeral.with_acls(Acls::anyone_all())
}

#[tokio::test]
async fn a_client_creates_reads_and_watches() {
    let server = Embedded::start().await.expect("a server");
    let (one, two) = (connect(&server).await, connect(&server).await);
    one.create("/a", b"first", &persistent()).await.expect("created");
    let (data, stat, watcher) = two.get_and_watch_data("/a").await.expect("read");
    assert_eq!((data.as_slice(), stat.version), (b"first".as_slice(), 0));
    one.set_data("/a", b"second", None).await.expect("written");
    let event = watcher.changed().await;
    assert_eq!((event.event_type, event.path.as_str()), (EventType::NodeDataChanged, "/a"));
    assert_eq!(two.get_data("/a").await.expect("read").0, b"second");
    assert_eq!(two.create("/a", b"", &persistent()).await.err(), Some(Error::NodeExists));
    assert_eq!(two.delete("/b", None).await.err(), Some(Error::NoNode));
}

#[tokio::test]
async fn sequence_numbers_count_created_children() {
    let server = Embedded::start().await.expect("a server");
    let client = connect(&server).await;
    client.create("/q", b"", &persistent()).await.expect("created");
    let sequential = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    for expected in 0..3 {
        let (_, sequence) = client.create("/q/n-", b"", &sequential).await.expect("created");
        assert_eq!(sequence.into_i64(), expected);
        client.delete(&format!("/q/n-{expected:010}"), None).await.expect("deleted");
    }
}

#[tokio::test]
async fn ephemeral_nodes_are_deleted_when_their_session_expires() {
    let server = Embedded::start().await.expect("a server");
    let (expiring, watching) = (connect(&server).await, connect(&server).await);
    expiring.create("/e", b"", &ephemeral()).await.expect("created");
    let (stat, watcher) = watching.check_and_watch_stat("/e").await.expect("read");
    let owner = stat.expect("the node exists").ephemeral_owner;
    assert_eq!(owner, expiring.session_id().0);
    let controls = server.controls();
    let info = controls.sessions().into_iter().find(|info| info.id.0 == owner).expect("listed");
    assert_eq!((info.ephemerals, info.timeout), (1, Duration::from_secs(10)));
    assert!(controls.expire(info.id));
    assert!(!controls.expire(info.id), "a session can expire only once");
    assert_eq!(watcher.changed().await.event_type, EventType::NodeDeleted);
    let mut states = expiring.state_watcher();
    while !states.state().is_terminated() {
        states.changed().await;
    }
    assert_eq!(expiring.state(), SessionState::Expired);
}

#[tokio::test]
async fn a_session_survives_a_reset_and_a_restart() {
    let server = Embedded::start().await.expect("a server");
    let client = connect(&server).await;
    client.create("/e", b"", &ephemeral()).await.expect("created");
    let controls = server.controls();
    controls.reset_connections(Target::All);
    // Requests made while disconnected run after the reconnect. A request in flight may fail.
    wait_for(&client, "/e").await;
    controls.restart().await.expect("the port is still free");
    wait_for(&client, "/e").await;
    assert_eq!(client.session_id().0, controls.sessions()[0].id.0);
    controls.restart_empty().await.expect("the port is still free");
    let mut states = client.state_watcher();
    while !states.state().is_terminated() {
        states.changed().await;
    }
    assert_eq!(client.state(), SessionState::Expired);
    let fresh = connect(&server).await;
    assert_eq!(fresh.check_stat("/e").await.expect("read"), None);
}

#[tokio::test]
async fn a_client_does_not_notice_a_replaced_session_which_later_expires() {
    let server = Embedded::start().await.expect("a server");
    let (client, other) = (connect(&server).await, connect(&server).await);
    client.create("/before", b"", &ephemeral()).await.expect("created");
    let old = client.session_id().0;
    let controls = server.controls();
    controls.replace_sessions_on_reconnect(SessionId(old), true);
    controls.reset_connections(SessionId(old));
    // The reset may interrupt the first create. In that case the create is not executed.
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.create("/after", b"", &ephemeral()).await.is_err() {
        assert!(Instant::now() < deadline, "the client must reconnect");
    }
    assert_eq!(client.session_id().0, old, "the client must ignore the session id in the reply");
    let owner = async |path: &str| {
        other.check_stat(path).await.expect("read").map(|stat| SessionId(stat.ephemeral_owner))
    };
    assert_eq!(owner("/before").await, Some(SessionId(old)), "the old session must be alive");
    let new = owner("/after").await.expect("the node exists");
    assert_ne!(new, SessionId(old));
    assert!(controls.sessions().iter().any(|session| session.id == new && session.peer.is_some()));
    let (_, gone) = other.check_and_watch_stat("/before").await.expect("read");
    for _ in 0..3 {
        controls.advance_clock(Duration::from_secs(5));
        client.check_stat("/").await.expect("a request keeps the new session alive");
        other.check_stat("/").await.expect("a request keeps the other session alive");
    }
    assert_eq!(gone.changed().await.event_type, EventType::NodeDeleted);
    assert_eq!(owner("/after").await, Some(new));
}

#[tokio::test]
async fn an_expired_session_is_replaced_as_well() {
    let server = Embedded::start().await.expect("a server");
    let client = connect(&server).await;
    let old = client.session_id();
    let controls = server.controls();
    controls.replace_sessions_on_reconnect(Target::All, true);
    assert!(controls.expire(SessionId(old.0)));
    wait_for(&client, "/").await;
    assert_eq!((client.session_id(), client.state()), (old, SessionState::SyncConnected));
}

async fn wait_for(client: &Client, path: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match client.check_stat(path).await {
            Ok(stat) => return assert!(stat.is_some(), "{path} must exist"),
            Err(error) if Instant::now() > deadline => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

#[tokio::test]
async fn a_multi_succeeds_or_fails_as_a_whole() {
    let server = Embedded::start().await.expect("a server");
    let client = connect(&server).await;
    let mut writer = client.new_multi_writer();
    writer.add_create("/m", b"1", &persistent()).expect("valid");
    writer.add_create("/m/n", b"2", &persistent()).expect("valid");
    writer.commit().await.expect("committed");
    let mut writer = client.new_multi_writer();
    writer.add_delete("/m/n", None).expect("valid");
    writer.add_check_version("/m", 7).expect("valid");
    assert!(writer.commit().await.is_err());
    assert_eq!(client.get_data("/m/n").await.expect("still there").0, b"2");
}

#[tokio::test]
async fn ttl_nodes_require_an_option() {
    let server = Embedded::start().await.expect("a server");
    let client = connect(&server).await;
    let ttl_options = persistent().with_ttl(Duration::from_secs(60));
    assert_eq!(client.create("/t", b"", &ttl_options).await.err(), Some(Error::Unimplemented));
    assert_eq!(client.check_stat("/t").await.expect("the session is alive"), None);
}

#[tokio::test]
async fn containers_are_deleted_a_minute_after_their_last_child() {
    let hour = Duration::from_secs(3600);
    let server = Embedded::options().max_session_timeout(hour).start().await.expect("a server");
    let client = Client::connector().with_session_timeout(hour).connect(&server.address()).await;
    let client = client.expect("connected");
    let container = CreateMode::Container.with_acls(Acls::anyone_all());
    let controls = server.controls();
    controls.advance_clock(Duration::from_secs(50));
    for path in ["/used", "/unused"] {
        client.create(path, b"", &container).await.expect("created");
    }
    client.create("/used/child", b"", &persistent()).await.expect("created");
    controls.advance_clock(Duration::from_secs(100));
    client.delete("/used/child", None).await.expect("a container with a child is not deleted");
    let (_, gone) = client.check_and_watch_stat("/used").await.expect("read");
    controls.advance_clock(Duration::from_secs(30));
    assert!(
        client.check_stat("/used").await.expect("read").is_some(),
        "it must still exist after half a minute"
    );
    controls.advance_clock(Duration::from_secs(30));
    assert_eq!(gone.changed().await.event_type, EventType::NodeDeleted);
    controls.advance_clock(Duration::from_secs(1000));
    assert!(
        client.check_stat("/unused").await.expect("read").is_some(),
        "a container that never had a child must not be deleted"
    );
}

#[tokio::test]
async fn containers_and_ttl_nodes_expire_when_the_clock_is_advanced() {
    let options = Embedded::options().max_session_timeout(Duration::from_secs(3600)).extended_types(true);
    let server = options.start().await.expect("a server");
    let connector = Client::connector().with_session_timeout(Duration::from_secs(3000));
    let client = connector.connect(&server.address()).await.expect("connected");
    let container = CreateMode::Container.with_acls(Acls::anyone_all());
    let ttl_options = persistent().with_ttl(Duration::from_secs(60));
    client.create("/c", b"", &container).await.expect("created");
    client.create("/t", b"", &ttl_options).await.expect("created");
    client.create("/c/child", b"", &persistent()).await.expect("created");
    client.delete("/c/child", None).await.expect("deleted");
    let (_, gone) = client.check_and_watch_stat("/t").await.expect("read");
    server.controls().advance_clock(Duration::from_secs(90));
    assert_eq!(gone.changed().await.event_type, EventType::NodeDeleted);
    assert_eq!(client.check_stat("/c").await.expect("read"), None);
}

#[tokio::test]
async fn a_super_user_can_write_zookeeper_config_and_watches_fire() {
    // The hash is that of `super:admin`.
    let options = Embedded::options().super_digest("super:xQJmxLMiHGwaqBvst5y6rkB6HQs=");
    let server = options.start().await.expect("a server");
    let (admin, user) = (connect(&server).await, connect(&server).await);
    let (data, _, changed) =
        user.get_and_watch_data("/zookeeper/config").await.expect("everyone may read it");
    assert_eq!(data, b"");
    let members = b"server.1=127.0.0.1:2888:3888:participant;127.0.0.1:2181\nversion=100000000";
    for auth in ["super:wrong", "admin:admin"] {
        admin.auth("digest", auth.as_bytes()).await.expect("an identity");
        assert_eq!(admin.set_data("/zookeeper/config", members, None).await.err(), Some(Error::NoAuth));
    }
    admin.auth("digest", b"super:admin").await.expect("an identity");
    admin.set_data("/zookeeper/config", members, None).await.expect("allowed");
    assert_eq!(changed.changed().await.event_type, EventType::NodeDataChanged);
    assert_eq!(user.get_data("/zookeeper/config").await.expect("read").0, members);
    // The super user can also access every other node.
    let mine = CreateMode::Persistent.with_acls(Acls::creator_all());
    user.auth("digest", b"user:secret").await.expect("an identity");
    user.create("/mine", b"", &mine).await.expect("created");
    admin.set_data("/mine", b"x", None).await.expect("allowed");
    let (list, _) = admin.get_acl("/mine").await.expect("allowed");
    assert_eq!(list.len(), 1);
    admin.delete("/mine", None).await.expect("allowed");
}

#[tokio::test]
async fn an_invalid_super_digest_is_refused() {
    for digest in ["", "super", "super:", "super:admin", "super:xQJmxLMiHGwaqBvst5y6rkB6HQs"] {
        let error = Embedded::options().super_digest(digest).start().await.expect_err("refused");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{digest:?}");
        assert!(error.to_string().contains(&format!("{digest:?}")), "{error}");
    }
}
