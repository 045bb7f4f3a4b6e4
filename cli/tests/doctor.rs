//! `doctor`: each thing that can be wrong is staged on a server and named, and nothing is named where nothing is wrong.

mod common;

use std::time::Duration;

use common::{SOON, client, done, eventually, lockkeeper, lockkeeper_at, run, shared, unique_path};
use lockkeeper::{Keeper, LockOptions};
use lockkeeper_embedded::Embedded;
use serde_json::Value;
use tokio::task::JoinHandle;
use zookeeper_client as zk;

/// The kinds of the findings below a path, and their texts.
async fn findings(root: &str) -> Vec<(String, String)> {
    findings_at(&shared().address(), root).await
}

async fn findings_at(servers: &str, root: &str) -> Vec<(String, String)> {
    let mut findings = Vec::new();
    // A server that is too slow for a check is honestly reported.
    eventually("everything is checked", SOON, async || {
        let done = done(lockkeeper_at(servers, &["doctor", "--json", root])).await;
        let value: Value =
            serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {}", done.err));
        findings = value["findings"].as_array().expect("an array").clone();
        assert_eq!(done.code, Some(i32::from(!findings.is_empty())), "{}", done.err);
        value["unchecked"] == serde_json::json!([])
    })
    .await;
    let text = |finding: &Value, member: &str| finding[member].as_str().expect("text").to_owned();
    for finding in &findings {
        assert!(!text(finding, "do").is_empty());
    }
    findings.iter().map(|finding| (text(finding, "kind"), text(finding, "what"))).collect()
}

/// Expects one finding of this kind whose text contains this.
async fn named(root: &str, kind: &str, says: &str) {
    let findings = findings(root).await;
    let [(found, what)] = &findings[..] else { panic!("one finding, {kind}: {findings:?}") };
    assert_eq!(found, kind, "{what}");
    assert!(what.contains(says), "{what}");
}

async fn healthy(root: &str) {
    let findings = findings(root).await;
    assert!(findings.is_empty(), "nothing is wrong: {findings:?}");
}

async fn keeper(identifier: &str) -> Keeper {
    let options = Keeper::options().session_timeout(Duration::from_secs(20)).identifier(identifier);
    options.connect(&shared().address()).await.expect("should connect")
}

async fn make(client: &zk::Client, path: &str, data: &str, mode: zk::CreateMode) {
    let options = mode.with_acls(zk::Acls::anyone_all());
    client.create(path, data.as_bytes(), &options).await.expect("made");
}

async fn directory(client: &zk::Client, path: &str) {
    let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    client.mkdir(path, &options).await.expect("made");
}

/// Waits until this many are in the queue of a lock or semaphore.
async fn queued(keeper: &Keeper, path: &str, count: usize) {
    common::eventually("they queue", common::SOON, async || {
        let state = keeper.inspector().look(path).await.expect("read");
        state.map_or(0, |state| state.queue().entries.len()) == count
    })
    .await;
}

const UUID: &str = "4b2d6a1f9c3e4d08a7550000000000e1";

#[test]
fn everyday_life_is_healthy() {
    run(async {
        let (one, two, root) = (keeper("one").await, keeper("two").await, unique_path("doctor-healthy"));
        let path = |name: &str| format!("{root}/{name}");
        let mut tasks: Vec<JoinHandle<()>> = Vec::new();
        // A lock with waiters, also twice of one session.
        let _lock = one.lock(&path("lock")).expect("a path").acquire().await.expect("free");
        for keeper in [&two, &one, &two] {
            let lock = keeper.lock(&path("lock")).expect("a path");
            tasks.push(tokio::spawn(async move { drop(lock.acquire().await) }));
        }
        queued(&one, &path("lock"), 4).await;
        // Readers, and a writer that waits for them, of the same session and of another.
        for (name, writer) in [("shared", &one), ("strange", &two)] {
            let _reader = one.read_write(&path(name)).expect("a path").read().acquire().await.expect("free");
            let write = writer.read_write(&path(name)).expect("a path").write().clone();
            tasks.push(tokio::spawn(async move { drop(write.acquire().await) }));
            queued(&one, &path(name), 2).await;
            std::mem::forget(_reader);
        }
        // A semaphore that is full, with a request that waits.
        let _permits = one.semaphore(&path("pool"), 2).expect("a path").acquire_many(2).await.expect("free");
        let pool = two.semaphore(&path("pool"), 2).expect("a path");
        tasks.push(tokio::spawn(async move { drop(pool.acquire().await) }));
        queued(&one, &path("pool"), 1).await;
        // Multi-locks that share a path.
        let both = [path("left"), path("right")];
        let _both = one.multi_lock(&both).expect("paths").acquire().await.expect("free");
        let reversed = two.multi_lock([&both[1], &both[0]]).expect("paths");
        tasks.push(tokio::spawn(async move { drop(reversed.acquire().await) }));
        queued(&one, &both[0], 2).await;
        // A node that outlives sessions, of a process that lives.
        let options =
            LockOptions::new().ephemeral(false).identifier(format!("me@{}:{}", host(), std::process::id()));
        let _lasting =
            one.lock_with(&path("lasting"), options).expect("a path").acquire().await.expect("free");
        healthy(&root).await;
        tasks.iter().for_each(JoinHandle::abort);
    });
}

#[test]
fn a_node_that_outlives_its_owner() {
    run(async {
        // Its clock can be moved.
        let server = Embedded::start().await.expect("a free port");
        let client = zk::Client::connect(&server.address()).await.expect("should connect");
        let mut process = std::process::Command::new("true").spawn().expect("it starts");
        process.wait().expect("it ends");
        let node = format!("{UUID}__lock__0000000000");
        let owners = [
            ("/here", format!("me@{}:{}", host(), process.id()), "no such process is seen"),
            ("/elsewhere", "billing-7".to_owned(), "no session below this path"),
        ];
        for (root, owner, _) in &owners {
            directory(&client, &format!("{root}/lock")).await;
            make(&client, &format!("{root}/lock/{node}"), owner, zk::CreateMode::Persistent).await;
            assert_eq!(findings_at(&server.address(), root).await, [], "it is young");
        }
        // The clock of this host does not show it.
        server.controls().advance_clock(Duration::from_secs(61));
        for (root, _, says) in &owners {
            let findings = findings_at(&server.address(), root).await;
            let [(kind, what)] = &findings[..] else { panic!("one finding: {findings:?}") };
            assert_eq!(kind, "orphan", "{what}");
            assert!(what.contains("is 1m") && what.contains(says), "{what}");
            let advice = done(lockkeeper_at(&server.address(), &["doctor", root])).await;
            assert!(advice.out.contains(&format!("lockkeeper break {root}/lock {node}")), "{}", advice.out);
        }
    });
}

#[test]
fn a_node_of_an_unknown_owner_is_not_named_while_it_is_young() {
    run(async {
        let (client, root) = (client().await, unique_path("doctor-young"));
        directory(&client, &format!("{root}/lock")).await;
        let node = format!("{root}/lock/{UUID}__lock__0000000000");
        make(&client, &node, "billing-7", zk::CreateMode::Persistent).await;
        healthy(&root).await;
    });
}

#[test]
fn without_the_right_to_make_a_node_the_age_of_others_is_not_known() {
    run(async {
        let server = Embedded::start().await.expect("a free port");
        let client = zk::Client::connect(&server.address()).await.expect("should connect");
        directory(&client, "/locks/a").await;
        make(&client, &format!("/locks/a/{UUID}__lock__0000000000"), "billing-7", zk::CreateMode::Persistent)
            .await;
        client.set_acl("/", &zk::Acls::anyone_read(), None).await.expect("changed");
        let json = done(lockkeeper_at(&server.address(), &["doctor", "--json", "/locks"])).await;
        let value: Value = serde_json::from_str(&json.out).expect("JSON");
        assert_eq!((json.code, &value["findings"]), (Some(0), &serde_json::json!([])), "{}", json.err);
        assert_eq!(value["unchecked"][0]["kind"], "orphan", "{value}");
        let why = value["unchecked"][0]["why"].as_str().expect("text");
        assert!(why.contains("access list"), "{why}");
    });
}

#[test]
fn dialects_that_are_mixed() {
    run(async {
        let (one, client, root) = (keeper("one").await, client().await, unique_path("doctor-dialects"));
        let path = format!("{root}/lock");
        let guard = one.lock(&path).expect("a path").acquire().await.expect("free");
        let node = format!("{path}/_c_4b2d6a1f-9c3e-4d08-a755-0000000000e1-lock-0000000009");
        make(&client, &node, "", zk::CreateMode::Ephemeral).await;
        named(&root, "mixed-dialects", "Curator's mutex and kazoo's dialect").await;
        drop(guard);
    });
}

#[test]
fn numbers_near_the_wrap() {
    run(async {
        let (client, root) = (client().await, unique_path("doctor-numbers"));
        for (name, number, says) in [("near", "2100000000", "are used"), ("over", "-2147483648", "used up")] {
            let path = format!("{root}/{name}");
            directory(&client, &path).await;
            make(&client, &format!("{path}/{UUID}__lock__{number}"), "", zk::CreateMode::Ephemeral).await;
            named(&path, "sequence-numbers", says).await;
        }
    });
}

#[test]
fn a_lock_beside_readers() {
    run(async {
        let (one, two, root) = (keeper("one").await, keeper("two").await, unique_path("doctor-beside"));
        let path = format!("{root}/lock");
        let reader = one.read_write(&path).expect("a path").read().acquire().await.expect("free");
        let lock = two.lock(&path).expect("a path").acquire().await.expect("it does not wait for readers");
        named(&root, "lock-beside-readers", "two has a Lock").await;
        lock.release().await.expect("released");
        healthy(&root).await;
        drop(reader);
    });
}

#[test]
fn more_permits_than_there_are() {
    run(async {
        let (one, client, root) = (keeper("one").await, client().await, unique_path("doctor-permits"));
        let path = format!("{root}/pool");
        let pool = one.semaphore(&path, 3).expect("a path");
        let permits = pool.acquire_many(3).await.expect("free");
        healthy(&root).await;
        pool.resize(2).await.expect("resized");
        named(&root, "too-many-permits", "3 permits are taken, and it has 2").await;
        permits.release().await.expect("released");
        make(&client, &format!("{path}/notes"), "", zk::CreateMode::Ephemeral).await;
        healthy(&root).await;
        let permits = pool.acquire().await.expect("one is left");
        make(&client, &format!("{path}/more"), "", zk::CreateMode::Ephemeral).await;
        named(&root, "too-many-permits", "is not a permit").await;
        drop(permits);
    });
}

#[test]
fn a_mutex_that_is_kept() {
    run(async {
        let (one, two, root) = (keeper("one").await, keeper("two").await, unique_path("doctor-mutex"));
        let path = format!("{root}/pool");
        let _permits = one.semaphore(&path, 3).expect("a path").acquire_many(2).await.expect("free");
        let pool = two.semaphore(&path, 3).expect("a path");
        let waiting = tokio::spawn(async move { drop(pool.acquire_many(2).await) });
        queued(&one, &path, 1).await;
        named(&root, "mutex-kept", "two waits for more permits than the 1 that are free").await;
        waiting.abort();
    });
}

#[test]
fn what_cannot_be_checked_is_said() {
    run(async {
        let (client, root) = (client().await, unique_path("doctor-unchecked"));
        let path = format!("{root}/pool");
        directory(&client, &root).await;
        make(&client, &path, "0", zk::CreateMode::Persistent).await;
        make(&client, &format!("{path}/{UUID}"), "", zk::CreateMode::Ephemeral).await;
        let text = done(lockkeeper(&["doctor", &root])).await;
        assert_eq!((text.code, &*text.err), (Some(0), ""));
        assert!(text.out.contains(&format!("not checked: too-many-permits {path}\n")), "{}", text.out);
        assert!(text.out.contains("nothing else is wrong"), "{}", text.out);
        let json = done(lockkeeper(&["doctor", "--json", &root])).await;
        let value: Value = serde_json::from_str(&json.out).expect("JSON");
        assert_eq!(
            (&value["unchecked"][0]["kind"], &value["findings"]),
            (&"too-many-permits".into(), &serde_json::json!([]))
        );
        assert!(value["unchecked"][0]["why"].is_string(), "{value}");
    });
}

#[test]
fn a_cycle_of_sessions() {
    run(async {
        let root = unique_path("doctor-cycle");
        let keepers = [keeper("one").await, keeper("two").await, keeper("three").await];
        let path = |number: usize| format!("{root}/{}", number % 3);
        let mut guards = Vec::new();
        for (number, keeper) in keepers.iter().enumerate() {
            guards.push(keeper.lock(&path(number)).expect("a path").acquire().await.expect("free"));
        }
        let mut waiting = Vec::new();
        for (number, keeper) in keepers.iter().enumerate() {
            let lock = keeper.lock(&path(number + 1)).expect("a path");
            waiting.push(tokio::spawn(async move { drop(lock.acquire().await) }));
            queued(keeper, &path(number + 1), 2).await;
            if number == 1 {
                healthy(&root).await;
            }
        }
        named(&root, "cycle", "hold and wait for each other").await;
        waiting.iter().for_each(JoinHandle::abort);
    });
}

#[test]
fn what_is_wrong_is_told_by_the_exit_code_also_if_nobody_reads_the_rest() {
    run(async {
        let (client, root) = (client().await, unique_path("doctor-unread"));
        let path = format!("{root}/lock");
        directory(&client, &path).await;
        make(&client, &format!("{path}/{UUID}__lock__2100000000"), "", zk::CreateMode::Ephemeral).await;
        for arguments in [&["doctor", &*root][..], &["doctor", "--json", &root]] {
            let mut command = lockkeeper(arguments);
            command.stdout(common::unread());
            let unread = done(command).await;
            assert_eq!((unread.code, &*unread.err), (Some(1), ""), "{arguments:?}");
        }
    });
}

#[test]
fn nodes_that_may_not_be_read() {
    run(async {
        let (client, root) = (client().await, unique_path("doctor-unreadable"));
        client.auth("digest", b"me:secret").await.expect("authenticated");
        directory(&client, &root).await;
        let options = zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all());
        client.create(&format!("{root}/closed"), b"", &options).await.expect("made");
        named(&root, "unreadable", "/closed may not be read").await;
        let mut command = lockkeeper(&["doctor", &root]);
        command.env("LOCKKEEPER_AUTH", "digest:me:secret");
        let with_credentials = done(command).await;
        assert_eq!(with_credentials.code, Some(0), "{}{}", with_credentials.out, with_credentials.err);
    });
}

#[test]
fn directories_that_pile_up() {
    run(async {
        let (client, root) = (client().await, unique_path("doctor-pile"));
        for number in 0..99 {
            directory(&client, &format!("{root}/locks/{number}")).await;
        }
        healthy(&root).await;
        directory(&client, &format!("{root}/locks/99")).await;
        named(&root, "empty-directories", "100 directories").await;
    });
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
