//! The command ends before the lease does, whatever happens to the connection or to the processes around it.

use std::process::Stdio;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use lockkeeper_embedded::{Embedded, Proxy};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{
    Killed, SOON, Scratch, connect, ended, eventually, lockkeeper_at, proxied, run, runs, unique_path,
};
use crate::ending::signal;

/// A command that runs under a lock, behind a proxy.
struct Stage {
    path: String,
    proxy: Proxy,
    scratch: Scratch,
    process: Killed,
}

impl Stage {
    /// Starts `script`, which writes the number of its process to `pid`.
    async fn start(options: &[&str], script: &str) -> Stage {
        Stage::start_at(proxied().await, options, script).await
    }

    /// The same behind this proxy.
    async fn start_at(proxy: Proxy, options: &[&str], script: &str) -> Stage {
        let (path, scratch) = (unique_path("cli-lease"), Scratch::new("cli-lease"));
        let script = format!("cd {}; {script}", scratch.0.display());
        let arguments = [&["run"], options, &[&*path, "--", "sh", "-c", &*script]].concat();
        let mut command = lockkeeper_at(&proxy.address(), &arguments);
        // On a busy machine, a shell takes hundreds of milliseconds to answer TERM: it has an eighth of this.
        command.env("LOCKKEEPER_SESSION_TIMEOUT", "8s").stderr(Stdio::null());
        let process = Killed(command.spawn().expect("it starts"));
        let stage = Stage { path, proxy, scratch, process };
        eventually("the command runs", SOON, async || runs(&stage.pid())).await;
        stage
    }

    fn pid(&self) -> String {
        match self.scratch.text("pid") {
            text if text.ends_with('\n') => text,
            _ => "none".to_owned(),
        }
    }

    /// Waits for the lock like any other contender, and tells whether the command is alive under it.
    async fn is_alive_under_the_next_holder(&self) -> bool {
        let keeper = connect().await;
        let guard = keeper.lock(&self.path).expect("a path").acquire().await.expect("granted");
        let alive = runs(&self.pid());
        drop(guard);
        alive
    }

    fn children(&self) -> Vec<Pid> {
        let parent = self.process.0.id();
        let list =
            std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).expect("children");
        list.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)).collect()
    }

    /// The watchdog is the child that is not the command.
    fn watchdog(&self) -> Pid {
        let command = self.pid().trim().parse().ok().and_then(Pid::from_raw);
        let mut others = self.children().into_iter().filter(|child| Some(*child) != command);
        others.next().expect("a watchdog")
    }
}

const SLEEPS: &str = "echo $$ > pid; exec sleep 300";
const IGNORES_TERM: &str = "trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done";
const HEARS_TERM: &str = "trap 'echo told > told; exit 9' TERM; sleep 300 & echo $$ > pid; wait";

/// Each of these waits for the end of a session, so they all wait together.
#[test]
fn the_command_ends_before_its_lease_does() {
    run(async {
        let scenarios = [
            a_command_that_is_cut_off_gets_term_first_and_the_exit_code_tells().boxed_local(),
            a_command_that_ignores_term_is_killed_in_time().boxed_local(),
            a_command_that_is_stopped_is_ended_in_time().boxed_local(),
            a_short_cut_costs_nothing_unless_the_user_wants_that().boxed_local(),
            if_we_are_killed_the_whole_group_dies_at_once().boxed_local(),
            if_we_are_stopped_the_watchdog_ends_the_command_in_time().boxed_local(),
            a_watchdog_that_is_killed_is_replaced().boxed_local(),
            a_watchdog_that_is_stopped_is_not_needed().boxed_local(),
            a_watchdog_that_is_stopped_when_the_command_ends_is_replaced().boxed_local(),
            a_session_that_the_server_ends_early_is_noticed().boxed_local(),
            who_is_asked_to_end_does_not_repeat_a_command_whose_lease_ends().boxed_local(),
        ];
        join_all(scenarios).await;
    });
}

async fn a_command_that_is_cut_off_gets_term_first_and_the_exit_code_tells() {
    let mut stage = Stage::start(&[], HEARS_TERM).await;
    stage.proxy.black_hole(true);
    assert!(!stage.is_alive_under_the_next_holder().await);
    assert_eq!(stage.scratch.text("told").trim(), "told");
    assert_eq!(ended("it ends", &mut stage.process.0).await, Some(76));
}

async fn a_command_that_ignores_term_is_killed_in_time() {
    let mut stage = Stage::start(&[], IGNORES_TERM).await;
    stage.proxy.black_hole(true);
    assert!(!stage.is_alive_under_the_next_holder().await);
    assert_eq!(ended("it ends", &mut stage.process.0).await, Some(76));
}

async fn a_command_that_is_stopped_is_ended_in_time() {
    let mut stage = Stage::start(&[], SLEEPS).await;
    let command = stage.pid().trim().parse().ok().and_then(Pid::from_raw).expect("a number");
    kill_process(command, Signal::STOP).expect("it runs");
    stage.proxy.black_hole(true);
    assert!(!stage.is_alive_under_the_next_holder().await);
    assert_eq!(ended("it ends", &mut stage.process.0).await, Some(76));
}

async fn a_short_cut_costs_nothing_unless_the_user_wants_that() {
    let mut stage = Stage::start(&[], HEARS_TERM).await;
    let mut careful = Stage::start(&["--stop-on", "suspended"], HEARS_TERM).await;
    careful.proxy.cut();
    assert_eq!(ended("the careful one ends", &mut careful.process.0).await, Some(76));
    let before = stage.proxy.accepted();
    stage.proxy.cut();
    eventually("it reconnects", SOON, async || stage.proxy.accepted() > before).await;
    assert!(runs(&stage.pid()));
    signal(&stage.process.0, Signal::TERM);
    assert_eq!(ended("it ends", &mut stage.process.0).await, Some(9));
}

async fn if_we_are_killed_the_whole_group_dies_at_once() {
    let script = "(trap '' TERM HUP; while :; do sleep 0.1; done) & echo $! > other; echo $$ > pid; wait";
    let stage = Stage::start(&[], script).await;
    signal(&stage.process.0, Signal::KILL);
    eventually("nobody is left", Duration::from_secs(5), async || {
        !runs(&stage.pid()) && !runs(&stage.scratch.text("other"))
    })
    .await;
}

async fn if_we_are_stopped_the_watchdog_ends_the_command_in_time() {
    let mut stage = Stage::start(&[], HEARS_TERM).await;
    signal(&stage.process.0, Signal::STOP);
    assert!(!stage.is_alive_under_the_next_holder().await);
    assert_eq!(stage.scratch.text("told").trim(), "told", "it could end by itself");
    signal(&stage.process.0, Signal::CONT);
    assert_eq!(ended("it ends", &mut stage.process.0).await, Some(76));
}

async fn a_watchdog_that_is_killed_is_replaced() {
    let stage = Stage::start(&[], IGNORES_TERM).await;
    let first = stage.watchdog();
    kill_process(first, Signal::KILL).expect("it runs");
    let other = || stage.children().contains(&first);
    eventually("another one is there", SOON, async || !other() && stage.children().len() == 2).await;
    signal(&stage.process.0, Signal::STOP);
    assert!(!stage.is_alive_under_the_next_holder().await);
}

async fn a_watchdog_that_is_stopped_is_not_needed() {
    let mut stage = Stage::start(&[], IGNORES_TERM).await;
    kill_process(stage.watchdog(), Signal::STOP).expect("it runs");
    stage.proxy.black_hole(true);
    assert!(!stage.is_alive_under_the_next_holder().await);
    assert_eq!(ended("it ends", &mut stage.process.0).await, Some(76));
}

async fn a_watchdog_that_is_stopped_when_the_command_ends_is_replaced() {
    let stage = Stage::start(&["--again"], "echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done").await;
    let (command, first) = (stage.pid(), stage.watchdog());
    kill_process(first, Signal::STOP).expect("it runs");
    std::fs::write(stage.scratch.file("go"), "").expect("written");
    eventually("the command ends", SOON, async || !runs(&command)).await;
    std::fs::remove_file(stage.scratch.file("go")).expect("removed");
    eventually("it runs again", SOON, async || stage.pid() != command && runs(&stage.pid())).await;
    assert!(stage.watchdog() != first && !stage.children().contains(&first));
    // The new one does its work.
    signal(&stage.process.0, Signal::STOP);
    assert!(!stage.is_alive_under_the_next_holder().await);
}

async fn a_session_that_the_server_ends_early_is_noticed() {
    // Only the embedded server does that.
    let server = Embedded::start().await.expect("a free port");
    let proxy = Proxy::start(server.address()).await.expect("a free port");
    let mut stage = Stage::start_at(proxy, &[], SLEEPS).await;
    let sessions = server.controls().sessions();
    let [session] = &sessions[..] else { panic!("one session: {sessions:?}") };
    server.controls().expire(session.id);
    assert_eq!(ended("it ends", &mut stage.process.0).await, Some(76));
    assert!(!runs(&stage.pid()));
}

async fn who_is_asked_to_end_does_not_repeat_a_command_whose_lease_ends() {
    let mut stage = Stage::start(&["--again"], IGNORES_TERM).await;
    signal(&stage.process.0, Signal::TERM);
    stage.proxy.black_hole(true);
    assert_eq!(ended("it ends", &mut stage.process.0).await, Some(76));
    assert!(!runs(&stage.pid()));
}
