//! How the command ends: its exit code, signals, and the processes that it leaves behind.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{
    Killed, SOON, Scratch, connect, done, ended, eventually, lockkeeper, run, runs, shared, started_by,
    unique_path,
};

pub fn signal(process: &Child, signal: Signal) {
    kill_process(Pid::from_child(process), signal).expect("it runs");
}

#[test]
fn the_exit_code_is_the_commands() {
    run(async {
        let path = unique_path("cli-exit");
        for (script, code) in
            [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 128 + 15), ("kill -KILL $$", 128 + 9)]
        {
            let done = done(lockkeeper(&["run", &path, "--", "sh", "-c", script])).await;
            assert_eq!((done.code, &*done.err), (Some(code), ""), "{script}");
        }
        let missing = done(lockkeeper(&["run", &path, "--", "/no/such/command"])).await;
        assert_eq!(missing.code, Some(127), "{}", missing.err);
        let not_executable = done(lockkeeper(&["run", &path, "--", "/etc/passwd"])).await;
        assert_eq!(not_executable.code, Some(126), "{}", not_executable.err);
        let lock = connect().await.lock(&path).expect("a path").contenders().await;
        assert_eq!(lock.expect("listed"), [], "all have released");
    });
}

#[test]
fn standard_streams_are_the_commands() {
    run(async {
        let path = unique_path("cli-streams");
        let mut command = lockkeeper(&["run", &path, "--", "sh", "-c", "cat; echo error >&2"]);
        let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = streams.spawn().expect("it starts");
        let mut stdin = process.stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut stdin, b"input").expect("written");
        drop(stdin);
        let output = process.wait_with_output().expect("it ends");
        assert_eq!((&*output.stdout, &*output.stderr), (&b"input"[..], &b"error\n"[..]));
    });
}

#[test]
fn signals_are_forwarded_to_the_whole_group() {
    run(async {
        for kind in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2] {
            let (path, scratch) = (unique_path("cli-signals"), Scratch::new("cli-signals"));
            let script = format!(
                "cd {}; trap 'echo got >> got; exit 3' TERM INT HUP QUIT USR1 USR2; \
                 (trap 'echo got >> got; exit' TERM INT HUP QUIT USR1 USR2; echo up >> up; while :; do sleep 0.02; done) & \
                 echo up >> up; while :; do sleep 0.02; done",
                scratch.0.display()
            );
            let mut command = lockkeeper(&["run", &path, "--", "sh", "-c", &script]);
            let mut process = Killed(command.spawn().expect("it starts"));
            eventually("both run", SOON, async || scratch.text("up").lines().count() == 2).await;
            signal(&process.0, kind);
            assert_eq!(ended("it ends", &mut process.0).await, Some(3), "{kind:?}");
            assert!(!scratch.text("got").is_empty(), "{kind:?}");
        }
    });
}

#[test]
fn what_is_ignored_stays_ignored_as_under_nohup() {
    run(async {
        let (path, scratch) = (unique_path("cli-nohup"), Scratch::new("cli-nohup"));
        let script = format!(
            "trap 'exit 3' USR1; echo up > {}; while :; do sleep 0.02; done",
            scratch.file("up").display()
        );
        let ignoring = ["sh", "-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_lockkeeper")];
        let mut command = started_by(&ignoring, &["run", &path, "--", "sh", "-c", &script]);
        command.env("LOCKKEEPER_SERVERS", shared().address());
        let mut process = Killed(command.spawn().expect("it starts"));
        eventually("it runs", SOON, async || scratch.text("up").contains("up")).await;
        signal(&process.0, Signal::HUP);
        signal(&process.0, Signal::USR1);
        assert_eq!(ended("it ends", &mut process.0).await, Some(3));
    });
}

#[test]
fn a_signal_while_it_waits_ends_it_and_leaves_no_node() {
    run(async {
        let (keeper, path) = (connect().await, unique_path("cli-cancel"));
        let lock = keeper.lock(&path).expect("a path");
        let guard = lock.acquire().await.expect("free");
        let mut process = Killed(lockkeeper(&["run", &path, "--", "true"]).spawn().expect("it starts"));
        eventually("it queues", SOON, async || lock.contenders().await.expect("listed").len() == 2).await;
        signal(&process.0, Signal::INT);
        assert_eq!(ended("it ends", &mut process.0).await, None);
        let status = process.0.wait().expect("it has ended");
        assert_eq!(status.signal(), Some(2), "as an interrupted program does");
        assert_eq!(lock.contenders().await.expect("listed").len(), 1);
        drop(guard);
    });
}

#[test]
fn processes_that_the_command_leaves_behind_end_before_the_lock_is_released() {
    run(async {
        let (keeper, path, scratch) = (connect().await, unique_path("cli-fork"), Scratch::new("cli-fork"));
        // The second one does not hear TERM.
        let script = format!(
            "cd {}; (sleep 300) & echo $! > one; (trap '' TERM; echo up > up; while :; do sleep 0.1; done) & \
             echo $! > two; while [ ! -e up ]; do sleep 0.02; done; exit 5",
            scratch.0.display()
        );
        let arguments = ["run", "--session-timeout", "4s", &path, "--", "sh", "-c", &script];
        let mut process = Killed(lockkeeper(&arguments).spawn().expect("it starts"));
        eventually("they run", SOON, async || scratch.text("up").contains("up")).await;
        let guard = keeper.lock(&path).expect("a path").acquire().await.expect("granted");
        assert!(
            !runs(&scratch.text("one")) && !runs(&scratch.text("two")),
            "nobody is alive under the next holder"
        );
        drop(guard);
        assert_eq!(ended("it ends", &mut process.0).await, Some(5));
    });
}
