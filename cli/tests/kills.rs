//! Cuts, pauses and kills of `run`: its command is never alive when the next contender holds the lock.
//!
//! The witness is a lock of the kernel, `flock(2)`, that the command takes on a file and keeps for as long as it lives.
//! Whoever is granted the lock next tries to take it at once.
//!
//! Every behaviour of a command meets every fault once. `LOCKKEEPER_CLI_FAULTS` is another number of rounds.

mod common;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Killed, Proxy, SOON, Scratch, connect, eventually, lockkeeper_at, proxied, runs, unique_path};
use futures::StreamExt;
use futures::stream;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, getpid, kill_process};

/// What the command does after it has taken the witness.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    /// Lets TERM end it.
    Obeys,
    /// Ignores TERM.
    Ignores,
    /// Leaves the work to a child that ignores TERM, and waits.
    Forks,
    /// Leaves the work to such a child, and ends.
    Abandons,
    /// Stops itself.
    Stops,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The connection is reset, and later goes silent.
    Cut,
    /// The connection goes silent.
    Silence,
    /// Replies are held back.
    HeldReplies,
    /// `run` is stopped.
    Pause,
    /// `run` is stopped for a moment, and the connection goes silent.
    PauseAndSilence,
    /// `run` is killed.
    Kill,
    /// The watchdog is stopped, and the connection goes silent.
    DeafWatchdog,
    /// The watchdog is killed, then `run` is stopped.
    DeadWatchdog,
    /// `run` is asked to end, and the connection goes silent.
    End,
}

const BEHAVIOURS: [Behaviour; 5] =
    [Behaviour::Obeys, Behaviour::Ignores, Behaviour::Forks, Behaviour::Abandons, Behaviour::Stops];
const FAULTS: [Fault; 9] = [
    Fault::Cut,
    Fault::Silence,
    Fault::HeldReplies,
    Fault::Pause,
    Fault::PauseAndSilence,
    Fault::Kill,
    Fault::DeafWatchdog,
    Fault::DeadWatchdog,
    Fault::End,
];

const ENTRY: &str = "the_command_is_never_alive_under_the_next_holder";

/// How many rounds run at a time. They mostly wait.
const AT_A_TIME: usize = 25;

/// Also the entry point of the command of the rounds, which is this binary with the variable `WITNESS`.
#[test]
fn the_command_is_never_alive_under_the_next_holder() {
    if let Some(directory) = std::env::var_os("WITNESS") {
        return witness(Path::new(&directory));
    }
    common::run(async {
        let rounds = std::env::var("LOCKKEEPER_CLI_FAULTS").map(|rounds| rounds.parse().expect("a number"));
        let rounds = rounds.unwrap_or(BEHAVIOURS.len() * FAULTS.len());
        let round = |number: usize| {
            let behaviour = BEHAVIOURS[number % BEHAVIOURS.len()];
            let fault = FAULTS[number / BEHAVIOURS.len() % FAULTS.len()];
            async move { (behaviour, fault, was_free(number, behaviour, fault).await) }
        };
        let outcomes: Vec<_> = stream::iter((0..rounds).map(round)).buffered(AT_A_TIME).collect().await;
        let alive: Vec<_> = outcomes.iter().filter(|(_, _, free)| !free).collect();
        assert!(
            alive.is_empty(),
            "alive under the next holder in {} of {rounds} rounds: {alive:?}",
            alive.len()
        );
        println!("{rounds} rounds");
    });
}

/// One round. Returns whether the witness was free when the next contender was granted the lock.
async fn was_free(number: usize, behaviour: Behaviour, fault: Fault) -> bool {
    let (path, proxy, scratch) = (unique_path("cli-kills"), proxied().await, Scratch::new("cli-kills"));
    let test = std::env::current_exe().expect("a path").display().to_string();
    let arguments = ["run", &path, "--", &test, "--exact", ENTRY];
    let mut command = lockkeeper_at(&proxy.address(), &arguments);
    command.env("LOCKKEEPER_SESSION_TIMEOUT", "2s").stdout(Stdio::null()).stderr(Stdio::null());
    command.env("WITNESS", &scratch.0).env("BEHAVIOUR", format!("{behaviour:?}"));
    let process = Killed(command.spawn().expect("it starts"));
    eventually("the witness is taken", SOON, async || scratch.file("up").exists()).await;
    let keeper = connect().await;
    let next = keeper.lock(&path).expect("a path");
    let next = tokio::spawn(async move { next.acquire().await });
    // At another moment between two heartbeats in each round.
    tokio::time::sleep(Duration::from_millis(number as u64 * 37 % 250)).await;
    strike(fault, &process, &proxy).await;
    let guard = next.await.expect("no panic").expect("granted");
    let witness = File::options().write(true).open(scratch.file("witness")).expect("it exists");
    let free = flock(&witness, FlockOperation::NonBlockingLockExclusive).is_ok();
    drop(guard);
    keeper.close().await;
    free
}

async fn strike(fault: Fault, process: &Killed, proxy: &Proxy) {
    let run = Pid::from_child(&process.0);
    // On a busy machine the lease, and with it all of them, may have ended before.
    let signal = |to: Pid, signal| {
        let _ = kill_process(to, signal);
    };
    match fault {
        Fault::Cut => {
            proxy.cut();
            // It may connect again in this time.
            tokio::time::sleep(Duration::from_millis(100)).await;
            proxy.black_hole(true);
        }
        Fault::Silence => proxy.black_hole(true),
        Fault::HeldReplies => proxy.hold_replies(true),
        Fault::Pause => signal(run, Signal::STOP),
        Fault::PauseAndSilence => {
            signal(run, Signal::STOP);
            proxy.black_hole(true);
            // How long it is paused.
            tokio::time::sleep(Duration::from_millis(300)).await;
            signal(run, Signal::CONT);
        }
        Fault::Kill => signal(run, Signal::KILL),
        Fault::DeafWatchdog => {
            watchdogs(run).into_iter().for_each(|watchdog| signal(watchdog, Signal::STOP));
            proxy.black_hole(true);
        }
        Fault::DeadWatchdog => {
            let first = watchdogs(run);
            first.iter().for_each(|watchdog| signal(*watchdog, Signal::KILL));
            eventually("there is another one", SOON, async || {
                let is_over = !runs(&run.as_raw_nonzero().to_string());
                is_over || watchdogs(run).iter().any(|watchdog| !first.contains(watchdog))
            })
            .await;
            signal(run, Signal::STOP);
        }
        Fault::End => {
            signal(run, Signal::TERM);
            proxy.black_hole(true);
        }
    }
}

/// The children of `run` that are its watchdogs.
fn watchdogs(run: Pid) -> Vec<Pid> {
    let run = run.as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{run}/task/{run}/children")).unwrap_or_default();
    let is_watchdog = |child: &&str| {
        let arguments = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).nth(1) == Some(b"__watchdog") && runs(child)
    };
    children
        .split_whitespace()
        .filter(is_watchdog)
        .filter_map(|child| Pid::from_raw(child.parse().ok()?))
        .collect()
}

fn witness(directory: &Path) {
    let behaviour = std::env::var("BEHAVIOUR").unwrap_or_default();
    match &*behaviour {
        "Forks" | "Abandons" => {
            let mut child = Command::new(std::env::current_exe().expect("a path"));
            child.args(["--exact", ENTRY]).env("BEHAVIOUR", "Ignores");
            let mut child = child.spawn().expect("it starts");
            while !directory.join("up").exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            if behaviour == "Abandons" {
                std::process::exit(0);
            }
            let _ = child.wait();
        }
        _ => be_alive(directory, &behaviour),
    }
}

fn be_alive(directory: &Path, behaviour: &str) {
    let witness = File::create(directory.join("witness")).expect("made");
    flock(&witness, FlockOperation::NonBlockingLockExclusive).expect("nobody else has it");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _listening = runtime.enter();
    // A signal that is listened to ends nobody.
    let terminate = tokio::signal::unix::SignalKind::terminate();
    let _deaf = (behaviour == "Ignores").then(|| tokio::signal::unix::signal(terminate).expect("listening"));
    std::fs::write(directory.join("up"), "").expect("written");
    if behaviour == "Stops" {
        let _ = kill_process(getpid(), Signal::STOP);
    }
    loop {
        std::fs::write(directory.join("written"), "").expect("written");
        std::thread::sleep(Duration::from_millis(5));
    }
}
