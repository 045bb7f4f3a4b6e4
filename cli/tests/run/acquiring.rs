//! What is acquired, and what the command sees of it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use lockkeeper::{Dialect, Keeper, LockOptions};
use lockkeeper_embedded::Embedded;

use crate::common::{
    Killed, SOON, Scratch, client, connect, done, ended, eventually, lockkeeper, lockkeeper_at, run, shared,
    unique_path,
};
use crate::relay;

#[test]
fn the_command_runs_under_the_lock_and_knows_it() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-environment"));
        let before = keeper.lock(&path).expect("a path").acquire().await.expect("free");
        let earlier = before.token();
        before.release().await.expect("released");
        let script = "echo $LOCKKEEPER_TOKEN $LOCKKEEPER_PATH $LOCKKEEPER_NODE";
        let done = done(lockkeeper(&["run", &path, "--", "sh", "-c", script])).await;
        assert_eq!((done.code, &*done.err), (Some(0), ""));
        let words: Vec<&str> = done.out.split_whitespace().collect();
        assert!(words[0].parse::<u64>().expect("a number") > earlier.as_u64(), "{}", done.out);
        assert_eq!(words[1], path);
        assert!(words[2].starts_with(&format!("{path}/")), "{}", done.out);
        assert_eq!(keeper.lock(&path).expect("a path").contenders().await.expect("listed"), [], "released");
    });
}

#[test]
fn the_lock_is_held_while_the_command_runs_and_its_identifier_is_seen() {
    run(async {
        let (keeper, path, scratch) = (connect().await, unique_path("cli-held"), Scratch::new("cli-held"));
        let go = scratch.file("go");
        let script = format!("while [ ! -e {} ]; do sleep 0.02; done", go.display());
        let mut command = lockkeeper(&["run", "--identifier", "nightly", &path, "--", "sh", "-c", &script]);
        let mut process = Killed(command.spawn().expect("it starts"));
        let lock = keeper.lock(&path).expect("a path");
        eventually("it holds", SOON, async || {
            lock.holder().await.expect("listed").is_some_and(|holder| holder.identifier == "nightly")
        })
        .await;
        assert!(lock.try_acquire().await.is_err(), "it excludes others");
        std::fs::write(go, "").expect("a file");
        assert_eq!(ended("the command ends", &mut process.0).await, Some(0));
        assert!(lock.try_acquire().await.is_ok(), "and is released");
    });
}

#[test]
fn a_lock_that_is_held_is_not_waited_for_with_try_or_longer_than_wait() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-conflict"));
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("free");
        let tried = done(lockkeeper(&["run", "--try", &path, "--", "echo", "ran"])).await;
        assert_eq!((tried.code, &*tried.out), (Some(75), ""));
        assert!(tried.err.contains("not acquired"), "{}", tried.err);
        let waited = done(lockkeeper(&["run", "--wait", "50ms", &path, "--", "echo", "ran"])).await;
        assert_eq!((waited.code, &*waited.out), (Some(75), ""));
        let other = &["run", "--try", "--conflict-exit-code", "0", &path, "--", "echo", "ran"];
        assert_eq!(done(lockkeeper(other)).await.code, Some(0));
        assert_eq!(keeper.lock(&path).expect("a path").contenders().await.expect("listed").len(), 1);
        drop(guard);
    });
}

#[test]
fn margins_that_the_granted_session_timeout_does_not_allow_are_refused_before_it_waits() {
    run(async {
        let server = Embedded::options().max_session_timeout(Duration::from_secs(4));
        let server = server.start().await.expect("a free port");
        let keeper = Keeper::connect(&server.address()).await.expect("should connect");
        let lock = keeper.lock("/a").expect("a path");
        let guard = lock.acquire().await.expect("free");
        // Three eighths of the 20 s that are asked for are more, those of the 4 s that are granted are not.
        let arguments = ["run", "--term-before", "5s", "/a", "--", "true"];
        let mut command = lockkeeper_at(&server.address(), &arguments);
        let mut process = Killed(command.stderr(Stdio::null()).spawn().expect("it starts"));
        assert_eq!(ended("it is refused", &mut process.0).await, Some(64));
        assert_eq!(lock.contenders().await.expect("listed").len(), 1, "nothing is left");
        drop(guard);
    });
}

#[test]
fn it_waits_for_its_turn() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-turn"));
        let lock = keeper.lock(&path).expect("a path");
        let guard = lock.acquire().await.expect("free");
        let mut process = Killed(lockkeeper(&["run", &path, "--", "true"]).spawn().expect("it starts"));
        eventually("it queues", SOON, async || lock.contenders().await.expect("listed").len() == 2).await;
        assert!(process.0.try_wait().expect("it can be asked").is_none());
        guard.release().await.expect("released");
        assert_eq!(ended("it gets its turn", &mut process.0).await, Some(0));
    });
}

#[test]
fn readers_share_and_writers_do_not() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-read-write"));
        let reading = keeper.read_write(&path).expect("a path").read().acquire().await.expect("free");
        assert_eq!(done(lockkeeper(&["run", "--try", "--read", &path, "--", "true"])).await.code, Some(0));
        assert_eq!(done(lockkeeper(&["run", "--try", "--write", &path, "--", "true"])).await.code, Some(75));
        reading.release().await.expect("released");
        assert_eq!(done(lockkeeper(&["run", "--try", "--write", &path, "--", "true"])).await.code, Some(0));
    });
}

#[test]
fn permits_of_a_semaphore() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-permits"));
        let unknown = done(lockkeeper(&["run", "--permits", "1", &path, "--", "true"])).await;
        assert_eq!(unknown.code, Some(1), "no number is stored: {}", unknown.err);
        let permits = keeper.semaphore(&path, 3).expect("a path").acquire_many(2).await.expect("free");
        let two =
            done(lockkeeper(&["run", "--try", "--permits", "2", "--of", "3", &path, "--", "true"])).await;
        assert_eq!(two.code, Some(75), "{}", two.err);
        let script = "for lines in \"$LOCKKEEPER_NODE\" \"$LOCKKEEPER_TOKEN\" \"$LOCKKEEPER_PATH\"; do \
                      echo \"$lines\" | wc -l; done";
        drop(permits);
        let both = done(lockkeeper(&["run", "--permits", "2", &path, "--", "sh", "-c", script])).await;
        let lines: Vec<&str> = both.out.split_whitespace().collect();
        assert_eq!((both.code, &*lines), (Some(0), &["2", "1", "1"][..]), "{}", both.err);
    });
}

#[test]
fn several_paths_are_acquired_together() {
    run(async {
        let (keeper, one, two) = (connect().await, unique_path("cli-one"), unique_path("cli-two"));
        let script = "echo \"$LOCKKEEPER_PATH\"; echo \"$LOCKKEEPER_TOKEN\" | uniq | wc -l";
        let both = done(lockkeeper(&["run", &one, &two, "--", "sh", "-c", script])).await;
        let lines: Vec<&str> = both.out.split_whitespace().collect();
        assert_eq!(lines, [&*one, &two, "1"], "one transaction: {}", both.err);
        let guard = keeper.lock(&two).expect("a path").acquire().await.expect("free");
        assert_eq!(done(lockkeeper(&["run", "--try", &one, &two, "--", "true"])).await.code, Some(75));
        drop(guard);
    });
}

#[test]
fn with_again_the_command_is_repeated_until_the_user_ends_it() {
    run(async {
        let (path, scratch) = (unique_path("cli-again"), Scratch::new("cli-again"));
        // The second run lasts: one that ends by itself as the signal comes has its own exit code.
        let script = format!(
            "cd {}; echo $LOCKKEEPER_TOKEN >> runs; [ $(wc -l < runs) -lt 2 ] || exec sleep 300",
            scratch.0.display()
        );
        let mut command = lockkeeper(&["run", "--again", &path, "--", "sh", "-c", &script]);
        let mut process = Killed(command.spawn().expect("it starts"));
        eventually("it runs twice", SOON, async || scratch.text("runs").lines().count() >= 2).await;
        crate::ending::signal(&process.0, rustix::process::Signal::TERM);
        assert_eq!(ended("it ends", &mut process.0).await, Some(128 + 15));
        let tokens: Vec<u64> =
            scratch.text("runs").lines().map(|line| line.parse().expect("a number")).collect();
        assert!(tokens.len() == 2 && tokens[0] < tokens[1], "each run has a token of its own: {tokens:?}");
    });
}

#[test]
fn directories_can_be_containers() {
    run(async {
        let root = unique_path("cli-container");
        let (container, directory) = (format!("{root}/container"), format!("{root}/directory"));
        let with = async |options: &[&str], path: &str| {
            done(lockkeeper(&[&["run"], options, &[path, "--", "true"]].concat())).await.code
        };
        assert_eq!(with(&[], &directory).await, Some(0));
        assert_eq!(with(&["--container-directories"], &container).await, Some(0));
        let client = client().await;
        let exists = async |path: &str| client.check_stat(path).await.expect("asked").is_some();
        eventually("the servers delete it", SOON, async || !exists(&container).await).await;
        assert!(exists(&directory).await);
    });
}

#[test]
fn the_node_names_can_be_curators() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-dialect"));
        let curator =
            ["run", "--try", "--dialect", "curator", &path, "--", "sh", "-c", "echo $LOCKKEEPER_NODE"];
        let tried = async || done(lockkeeper(&curator)).await;
        let ran = tried().await;
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let node = ran.out.trim().strip_prefix(&format!("{path}/")).expect("a node");
        assert!(node.starts_with("_c_") && node.contains("-lock-"), "{node}");
        let options = LockOptions::new().dialect(Dialect::Curator);
        let guard = keeper.lock_with(&path, options).expect("a path").acquire().await.expect("free");
        assert_eq!(tried().await.code, Some(75), "it excludes Curator's mutex");
        guard.release().await.expect("released");
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("free");
        assert_eq!(tried().await.code, Some(1), "kazoo's clients do not see it");
        drop(guard);
    });
}

#[test]
fn it_is_granted_one_round_trip_after_the_session() {
    run(async {
        let (keeper, path, scratch) = (connect().await, unique_path("cli-trips"), Scratch::new("cli-trips"));
        // The directory exists, as that of a lock that was used before.
        keeper.lock(&path).expect("a path").acquire().await.expect("free").release().await.expect("released");
        let one_way = Duration::from_millis(400);
        let distant = relay::start(&shared().one_address(), one_way).expect("a free port").to_string();
        let (mut quickest, first) = (Duration::MAX, Instant::now());
        // A busy machine adds to the time of some.
        for number in 0.. {
            let up = format!("up-{number}");
            let script = format!("echo up > {}", scratch.file(&up).display());
            let begun = Instant::now();
            let arguments = ["run", &path, "--", "sh", "-c", &script];
            let mut process = Killed(lockkeeper_at(&distant, &arguments).spawn().expect("it starts"));
            eventually("the command runs", SOON, async || scratch.text(&up) == "up\n").await;
            quickest = quickest.min(begun.elapsed());
            assert_eq!(ended("it ends", &mut process.0).await, Some(0));
            // The session, a ping by which the client verifies it, and the lock. The fourth is for starting the processes.
            if quickest < one_way * 8 {
                break;
            }
            assert!(first.elapsed() < 3 * SOON, "{quickest:?}, with a round trip of {:?}", one_way * 2);
        }
    });
}
