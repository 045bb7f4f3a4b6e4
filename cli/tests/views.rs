//! `ls`, `show`, `break`, `resize`, `serve`, `completions` and `man`.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use common::{
    Done, Killed, SOON, client, connect, done, eventually, lockkeeper, lockkeeper_at, run, shared,
    started_by, unique_path, unread,
};
use serde_json::Value;
use zookeeper_client as zk;

fn json(done: &Done) -> Value {
    assert_eq!(done.code, Some(0), "{}", done.err);
    serde_json::from_str(&done.out).expect("JSON")
}

#[test]
fn ls_shows_holders_and_waiters() {
    run(async {
        let (keeper, root) = (connect().await, unique_path("cli-ls"));
        let (lock, pool) = (format!("{root}/lock"), format!("{root}/pool"));
        let guard = keeper.lock(&lock).expect("a path").acquire().await.expect("free");
        let waiting = keeper.lock(&lock).expect("a path");
        let waiting = tokio::spawn(async move { drop(waiting.acquire().await) });
        let _permits = keeper.semaphore(&pool, 3).expect("a path").acquire_many(2).await.expect("free");
        let places = async || json(&done(lockkeeper(&["ls", "--json", &root])).await)["places"].clone();
        eventually("both are listed", SOON, async || places().await[0]["waiters"] == 1).await;
        let places = places().await;
        assert_eq!((places[0]["path"].as_str(), places[0]["kind"].as_str()), (Some(&*lock), Some("lock")));
        let holder = &places[0]["holders"][0];
        assert_eq!(holder["identifier"], "the test");
        assert_eq!(holder["token"], guard.token().to_string());
        assert_eq!(holder["session"], format!("{:#x}", keeper.state().get().session_id));
        assert!(places[0]["oldest_wait_ms"].as_u64().is_some_and(|wait| wait < 60_000), "{places}");
        assert_eq!(places[1]["permits"], serde_json::json!({ "limit": 3, "taken": 2 }));

        let text = done(lockkeeper(&["ls", &root])).await;
        assert_eq!((text.code, &*text.err), (Some(0), ""));
        let lines: Vec<Vec<&str>> = text.out.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0][..3], ["PATH", "KIND", "HOLDER"]);
        assert_eq!((lines[1][0], lines[1][1], lines[2][1]), (&*lock, "lock", "semaphore"));
        assert!(!text.out.contains('\x1b'), "no colours in a pipe");
        waiting.abort();
    });
}

#[test]
fn show_lists_the_queue_in_order() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-show"));
        let nobody = done(lockkeeper(&["show", &path])).await;
        assert!(nobody.out.contains("nobody holds"), "{}", nobody.out);
        assert_eq!(json(&done(lockkeeper(&["show", "--json", &path])).await)["kind"], Value::Null);
        let locks = keeper.read_write(&path).expect("a path");
        let reader = locks.read().acquire().await.expect("free");
        let writer = locks.write().clone();
        let waiting = tokio::spawn(async move { drop(writer.acquire().await) });
        let show = async || json(&done(lockkeeper(&["show", "--json", &path])).await);
        eventually("both are listed", SOON, async || show().await["queue"][1].is_object()).await;
        let shown = show().await;
        let (first, second) = (&shown["queue"][0], &shown["queue"][1]);
        assert_eq!((first["mode"].as_str(), first["waits_for"].as_str()), (Some("read"), None));
        assert_eq!(first["token"], reader.token().to_string());
        assert_eq!((&second["position"], &second["waits_for"]), (&Value::from(1), &first["node"]));
        let text = done(lockkeeper(&["show", &path])).await;
        assert_eq!(text.out.lines().count(), 3, "{}", text.out);
        waiting.abort();
    });
}

#[test]
fn what_others_wrote_cannot_harm_a_terminal() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-hostile"));
        let options = lockkeeper::LockOptions::new().identifier("a\x1b[31m\nb");
        let _guard = keeper.lock_with(&path, options).expect("a path").acquire().await.expect("free");
        for arguments in [["ls", &path], ["show", &path]] {
            let text = done(lockkeeper(&arguments)).await;
            assert!(!text.out.contains('\x1b') && text.out.lines().count() == 2, "{}", text.out);
        }
    });
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    run(async {
        // What other tests make may not be read, which is an error to report.
        let (keeper, root) = (connect().await, unique_path("cli-unread"));
        let path = format!("{root}/lock");
        let _guard = keeper.lock(&path).expect("a path").acquire().await.expect("free");
        for arguments in [
            &["ls", &*root][..],
            &["show", &path],
            &["top", "--json", &root],
            &["man"],
            &["completions", "bash"],
        ] {
            let mut command = lockkeeper(arguments);
            command.stdout(unread());
            let unread = done(command).await;
            assert_eq!((unread.code, &*unread.err), (Some(0), ""), "{arguments:?}");
        }
    });
}

#[test]
fn break_deletes_the_node_that_it_shows() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-break"));
        let options = lockkeeper::LockOptions::new().ephemeral(false).identifier("a crashed owner");
        let guard = keeper.lock_with(&path, options).expect("a path").acquire().await.expect("free");
        let node = guard.node().rsplit('/').next().expect("a name").to_owned();
        let unasked = done(lockkeeper(&["break", &path, &node])).await;
        assert_eq!(unasked.code, Some(64), "{}", unasked.err);
        assert!(unasked.err.contains("--yes"), "{}", unasked.err);
        let broken = done(lockkeeper(&["break", "--yes", &path, &node])).await;
        assert_eq!((broken.code, &*broken.err), (Some(0), ""));
        for shown in ["a crashed owner", &*node, "no session", "deleted"] {
            assert!(broken.out.contains(shown), "{shown}: {}", broken.out);
        }
        assert_eq!(keeper.inspector().look(&path).await.expect("read"), None);
        let again = done(lockkeeper(&["break", "--yes", &path, &node])).await;
        assert_eq!(again.code, Some(1));
        assert!(again.err.contains("does not exist"), "{}", again.err);
        drop(guard);
    });
}

#[test]
fn break_deletes_or_fails_also_if_nobody_reads_what_it_writes() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-break-unread"));
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("free");
        let node = guard.node().rsplit('/').next().expect("a name").to_owned();
        let mut command = lockkeeper(&["break", "--yes", &path, &node]);
        command.stdout(unread());
        let unread = done(command).await;
        assert_eq!((unread.code, &*unread.err), (Some(0), ""));
        assert_eq!(keeper.inspector().look(&path).await.expect("read"), None, "it is deleted");
        drop(guard);
    });
}

#[test]
fn what_may_not_be_read_is_counted() {
    run(async {
        let (keeper, client) = (connect().await, client().await);
        let root = unique_path("cli-unreadable");
        let (lock, closed) = (format!("{root}/lock"), format!("{root}/closed"));
        let guard = keeper.lock(&lock).expect("a path").acquire().await.expect("free");
        client.auth("digest", b"me:secret").await.expect("authenticated");
        let options = zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all());
        client.create(&closed, b"", &options).await.expect("made");

        let some = done(lockkeeper(&["ls", &root])).await;
        assert!(some.code == Some(0) && some.out.contains(&lock), "{}", some.out);
        assert!(some.err.starts_with("lockkeeper: 1 node may not be read"), "{}", some.err);
        assert!(some.err.contains(&format!("`lockkeeper doctor {root}`")), "{}", some.err);
        let value = json(&done(lockkeeper(&["ls", "--json", &root])).await);
        assert_eq!(value["unreadable"], serde_json::json!([closed]));

        // Nothing is known of what is there.
        for arguments in [&["ls", &*closed][..], &["ls", "--json", &closed], &["top", "--json", &closed]] {
            let none = done(lockkeeper(arguments)).await;
            assert_eq!(none.code, Some(77), "{arguments:?}: {}", none.err);
            assert!(none.err.contains(&format!("{closed} may not be read")), "{}", none.err);
            assert_eq!(none.err.lines().count(), 1, "{}", none.err);
        }
        let mut command = lockkeeper(&["ls", &root]);
        command.env("LOCKKEEPER_AUTH", "digest:me:secret");
        let all = done(command).await;
        assert_eq!((all.code, &*all.err), (Some(0), ""));
        drop(guard);
    });
}

#[test]
fn what_the_servers_do_not_show_is_unknown() {
    run(async {
        let (client, root) = (client().await, unique_path("cli-unknown"));
        client.auth("digest", b"me:secret").await.expect("authenticated");
        let open = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        client.mkdir(&format!("{root}/lock"), &open).await.expect("made");
        let closed = zk::CreateMode::Ephemeral.with_acls(zk::Acls::creator_all());
        let node = format!("{root}/lock/4b2d6a1f9c3e4d08a7550000000000e1__lock__0000000000");
        client.create(&node, b"me", &closed).await.expect("made");
        let (path, servers) = (format!("{root}/lock"), shared().address());
        let entry = json(&done(lockkeeper(&["show", "--json", &path])).await)["queue"][0].clone();
        // Older servers show the times and numbers of nodes that may not be read.
        let is_shown = !entry["age_ms"].is_null();
        assert_eq!(entry["token"].is_null(), !is_shown, "{entry} at {servers}");
        assert_ne!(entry["token"], "0", "{entry}");
        assert!(entry["identifier"].is_null(), "{entry}");
        let text = done(lockkeeper(&["show", &path])).await;
        let row = text.out.lines().nth(1).expect("a row").replace("(may not be read)", "-");
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[3..6].contains(&"?"), !is_shown, "{row}");
        assert!(is_shown || cells[3..6] == ["?", "?", "?"], "session, token and age: {row}");
        let list = done(lockkeeper(&["ls", &root])).await;
        assert!(list.out.contains("(may not be read)"), "{}", list.out);
    });
}

#[test]
fn resize_changes_a_semaphore_and_makes_none() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-resize"));
        let missing = done(lockkeeper(&["resize", &path, "4"])).await;
        assert_eq!(missing.code, Some(1), "{}", missing.out);
        let pool = keeper.semaphore(&path, 2).expect("a path");
        pool.acquire().await.expect("free").release().await.expect("released");
        let done = done(lockkeeper(&["resize", &path, "5"])).await;
        assert_eq!(done.code, Some(0), "{}", done.err);
        assert!(done.out.contains("5 permits now, and had 2"), "{}", done.out);
        assert_eq!(pool.limit().await.expect("read"), Some(5));
    });
}

/// The first line that a process writes, which says that it serves.
async fn first_line(process: &mut Killed) -> String {
    let mut lines = BufReader::new(process.0.stdout.take().expect("a pipe")).lines();
    let line = tokio::task::spawn_blocking(move || lines.next().expect("a line").expect("text"));
    line.await.expect("no panic")
}

#[test]
fn serve_is_a_server() {
    run(async {
        let mut command = lockkeeper_at("", &["serve", "--listen", "127.0.0.1:0", "--tick", "200ms"]);
        let mut server = Killed(command.stdout(Stdio::piped()).spawn().expect("it starts"));
        let line = first_line(&mut server).await;
        let address = line.rsplit(' ').next().expect("an address");
        let ran =
            done(lockkeeper_at(address, &["run", "--session-timeout", "4s", "/a", "--", "echo", "ran"]))
                .await;
        assert_eq!((ran.code, ran.out.trim()), (Some(0), "ran"), "{}", ran.err);
        let id = rustix::process::Pid::from_child(&server.0);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it runs");
        assert_eq!(common::ended("it ends", &mut server.0).await, Some(0));
    });
}

#[test]
fn serve_outlives_a_terminal_under_nohup() {
    run(async {
        let ignoring = ["sh", "-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_lockkeeper")];
        let mut command = started_by(&ignoring, &["serve", "--listen", "127.0.0.1:0"]);
        let mut process = Killed(command.stdout(Stdio::piped()).spawn().expect("it starts"));
        first_line(&mut process).await;
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id())).expect("it runs");
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
        let ignored = u64::from_str_radix(ignored.trim(), 16).expect("a number");
        assert_eq!(ignored & 1, 1, "HUP is ignored: {status}");
    });
}

#[test]
fn completions_and_manual_pages_name_all_commands() {
    run(async {
        for shell in ["bash", "zsh", "fish"] {
            let text = done(lockkeeper(&["completions", shell])).await;
            assert!(text.code == Some(0) && text.out.contains("doctor"), "{shell}: {}", text.err);
            assert!(
                !text.out.contains("__launch") && !text.out.contains("__watchdog"),
                "{shell}: not for users"
            );
        }
        let page = done(lockkeeper(&["man"])).await;
        assert!(page.out.starts_with(".ie") && page.out.contains("doctor"), "{}", page.out);
        assert!(!page.out.contains("__launch"), "not for users");
        let page = done(lockkeeper(&["man", "run"])).await;
        assert!(page.out.contains("\\-\\-conflict\\-exit\\-code"), "{}", page.out);
        assert_eq!(done(lockkeeper(&["man", "walk"])).await.code, Some(64));
    });
}

#[test]
fn serve_refuses_a_tick_that_is_too_short() {
    run(async {
        for tick in ["0s", "999us"] {
            let mut command = lockkeeper_at("", &["serve", "--listen", "127.0.0.1:0", "--tick", tick]);
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            let mut server = Killed(command.spawn().expect("it starts"));
            assert_eq!(common::ended("it is refused", &mut server.0).await, Some(64), "{tick}");
            let mut said = String::new();
            server.0.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
            assert!(said.contains("--tick") && said.contains("at least 1ms"), "{said}");
        }
    });
}
