//! Three processes, one singleton: the one that runs it is killed, paused or cut off, at random, and the next takes
//! over. Never do two run while their leases last, tokens grow, and the times of taking over are printed.
//!
//! Two rounds of each fault on the embedded server, ten on real ones; `LOCKKEEPER_SINGLETON_ROUNDS=50` asks for more:
//!
//! ```text
//! LOCKKEEPER_TEST_SERVER=ensemble LOCKKEEPER_SINGLETON_ROUNDS=50 \
//!     cargo test --test singleton_moves -- --nocapture
//! ```
//!
//! The members are this test's own binary, started again.

mod common;

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Proxy, TestServer, eventually};
use lockkeeper::{Keeper, LeaseState, SingletonOptions, Term};
use ractor::{ActorProcessingErr, ActorRef};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

const SESSION: Duration = Duration::from_secs(2);
/// Between two acts of the actor.
const ACT: Duration = Duration::from_millis(10);
const SOON: Duration = Duration::from_secs(60);
const PATH: &str = "/singletons/moving";
/// Tells a started copy of this binary that it is a member, and where its server is.
const ADDRESS: &str = "LOCKKEEPER_SINGLETON_ADDRESS";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Killed,
    Paused,
    CutOff,
}

const FAULTS: [Fault; 3] = [Fault::Killed, Fault::Paused, Fault::CutOff];

#[tokio::test]
async fn never_do_two_run_whatever_happens_to_the_one_that_does() {
    let server = TestServer::start();
    let embedded = matches!(server, TestServer::Embedded(_));
    let rounds = std::env::var("LOCKKEEPER_SINGLETON_ROUNDS").ok();
    let rounds = rounds.map_or(if embedded { 2 } else { 10 }, |text| text.parse().expect("a number"));
    let seed = std::env::var("LOCKKEEPER_SINGLETON_SEED").ok();
    let seed: u64 =
        seed.map_or_else(|| u64::from(std::process::id()), |text| text.parse().expect("a number"));
    println!("LOCKKEEPER_SINGLETON_SEED={seed}");
    let mut faults: Vec<Fault> = FAULTS.into_iter().flat_map(|fault| vec![fault; rounds]).collect();
    shuffle(&mut faults, seed);

    let mut stage = Stage::set(&server).await;
    let mut current = stage.next_run(None).await;
    for fault in faults {
        stage.everybody_queues().await;
        current = stage.round(fault, current).await;
    }
    stage.everybody_queues().await;
    stage.leave(current).await;
    stage.judge();
}

/// What a member says, in its own words, and when it came to us.
#[derive(Clone, Debug)]
struct Line {
    member: usize,
    token: u64,
    said: Said,
    /// On the wall clock that all processes share.
    at: u128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// The actor has started.
    Start,
    /// It acted, while the lease was good, and proven until then.
    Act { until: u128 },
    /// It acted, and found the lease lost.
    LateAct,
    /// It has stopped of its own will.
    Stop,
}

/// One run of the actor in one of the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    member: usize,
    token: u64,
    start: u128,
}

/// How a run ended, and how long it took until the next one started.
struct Takeover {
    fault: Option<Fault>,
    run: Run,
    took: Duration,
}

struct Stage {
    members: Vec<Member>,
    lines: Vec<Line>,
    incoming: mpsc::UnboundedReceiver<Line>,
    sender: mpsc::UnboundedSender<Line>,
    observer: Keeper,
    takeovers: Vec<Takeover>,
}

struct Member {
    proxy: Proxy,
    process: Child,
}

impl Stage {
    async fn set(server: &TestServer) -> Stage {
        let (sender, incoming) = mpsc::unbounded_channel();
        let mut members = Vec::new();
        for number in 0..3 {
            let target = match server {
                TestServer::Ensemble(servers) => servers.member(number).address(),
                TestServer::Embedded(_) | TestServer::Standalone(_) => server.one_address(),
            };
            let proxy = Proxy::start(target).await.expect("a free port");
            let process = start(number, &proxy, &sender);
            members.push(Member { proxy, process });
        }
        let observer = Keeper::connect(&server.address()).await.expect("connected");
        Stage { members, lines: Vec::new(), incoming, sender, observer, takeovers: Vec::new() }
    }

    async fn everybody_queues(&self) {
        let lock = self.observer.lock(PATH).expect("a good path");
        eventually("all three queue", SOON, async || {
            lock.contenders().await.is_ok_and(|contenders| contenders.len() == self.members.len())
        })
        .await;
    }

    /// The run that is the newest of all, once it is another than this one.
    async fn next_run(&mut self, before: Option<Run>) -> Run {
        let newest = async {
            loop {
                let line = self.incoming.recv().await.expect("this side keeps a sender");
                self.lines.push(line.clone());
                let newer = before.is_none_or(|before| line.token > before.token);
                if line.said == Said::Start && newer {
                    return Run { member: line.member, token: line.token, start: line.at };
                }
            }
        };
        tokio::time::timeout(SOON, newest).await.expect("somebody takes over")
    }

    /// One fault to whoever runs it now.
    async fn round(&mut self, fault: Fault, current: Run) -> Run {
        let sender = self.sender.clone();
        let member = &mut self.members[current.member];
        let (injected, at) = (Instant::now(), wall());
        match fault {
            Fault::Killed => member.process.kill().await.expect("it runs"),
            Fault::Paused => signal(&member.process, "-STOP").await,
            Fault::CutOff => member.proxy.black_hole(true),
        }
        let next = self.next_run(Some(current)).await;
        let took = injected.elapsed();
        println!("{fault:?}: taken over after {took:?}");
        // One that had moved by itself just before counts for nothing.
        if next.start > at {
            self.takeovers.push(Takeover { fault: Some(fault), run: current, took });
        }
        let member = &mut self.members[current.member];
        match fault {
            Fault::Killed => member.process = start(current.member, &member.proxy, &sender),
            Fault::Paused => signal(&member.process, "-CONT").await,
            Fault::CutOff => {
                member.proxy.black_hole(false);
                member.proxy.cut();
            }
        }
        next
    }

    /// All leave in good order; each time the next one takes over, as long as there is one.
    async fn leave(&mut self, mut current: Run) {
        for left in (0..self.members.len()).rev() {
            let asked = Instant::now();
            let member = &mut self.members[current.member];
            drop(member.process.stdin.take());
            if left > 0 {
                let run = current;
                current = self.next_run(Some(run)).await;
                self.takeovers.push(Takeover { fault: None, run, took: asked.elapsed() });
                let member = &mut self.members[run.member];
                assert!(member.process.wait().await.expect("it ends").success());
            } else {
                assert!(member.process.wait().await.expect("it ends").success());
            }
        }
        let lock = self.observer.lock(PATH).expect("a good path");
        // Another server of an ensemble may be told a little later.
        eventually("no node is left", SOON, async || {
            lock.contenders().await.is_ok_and(|contenders| contenders.is_empty())
        })
        .await;
        while let Ok(Some(line)) = tokio::time::timeout(ACT, self.incoming.recv()).await {
            self.lines.push(line);
        }
    }

    fn judge(&self) {
        let mut runs: Vec<Run> = self.lines.iter().filter(|line| line.said == Said::Start).map(run).collect();
        runs.sort_by_key(|run| run.start);
        assert!(
            runs.is_sorted_by(|one, next| one.token < next.token),
            "tokens grow with every run: {runs:?}"
        );
        for pair in runs.windows(2) {
            let (run, next) = (pair[0], pair[1]);
            let acts = self.lines.iter().filter(|line| line.token == run.token);
            // Noted before it looked at its lease: it had it at that moment, or later.
            let held =
                acts.clone().filter(|line| matches!(line.said, Said::Act { .. })).map(|line| line.at).max();
            assert!(
                held.is_none_or(|held| held < next.start),
                "two at once: {run:?} until {held:?}, {next:?}"
            );
            let fault = self.takeovers.iter().find(|takeover| takeover.run == run).and_then(|it| it.fault);
            let late = acts.clone().filter(|line| line.said == Said::LateAct).count();
            let proven = acts.filter_map(|line| match line.said {
                Said::Act { until } => Some(until),
                Said::Start | Said::LateAct | Said::Stop => None,
            });
            match fault {
                // Nobody gave its lock back.
                Some(Fault::Killed) => {
                    assert!(proven.max() < Some(next.start), "too early: {run:?}, {next:?}")
                }
                Some(Fault::CutOff) => assert_eq!(late, 0, "stopped too late: {run:?}"),
                // It wakes without a lease, and may act before it is killed: its token is too small by then.
                Some(Fault::Paused) | None => {}
            }
        }
        println!("{} runs, 0 overlaps, session timeout {SESSION:?}; until the next one ran:", runs.len());
        for fault in FAULTS.into_iter().map(Some).chain([None]) {
            let of = self.takeovers.iter().filter(|takeover| takeover.fault == fault);
            let mut took: Vec<Duration> = of.map(|takeover| takeover.took).collect();
            took.sort();
            let Some((shortest, longest)) = took.first().zip(took.last()) else { continue };
            let name = fault.map_or("handed over".to_owned(), |fault| format!("{fault:?}"));
            let median = took[took.len() / 2];
            println!("{name:>12}: {} times, {shortest:.2?} … {median:.2?} … {longest:.2?}", took.len());
        }
    }
}

fn run(line: &Line) -> Run {
    Run { member: line.member, token: line.token, start: line.at }
}

/// Starts a member, and passes on what it says. It ends when its standard input is closed.
fn start(number: usize, proxy: &Proxy, sender: &mpsc::UnboundedSender<Line>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "a_member_of_the_cluster", "--nocapture"]).env(ADDRESS, proxy.address());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn().expect("it starts");
    let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
    let sender = sender.clone();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(line) = parse(number, &line) {
                let _ = sender.send(line);
            }
        }
    });
    process
}

async fn signal(process: &Child, signal: &str) {
    let id = process.id().expect("it runs").to_string();
    let status = Command::new("kill").args([signal, &id]).status().await.expect("kill is there");
    assert!(status.success());
}

fn parse(member: usize, line: &str) -> Option<Line> {
    let mut words = line.split(' ');
    let (said, token, at, until) = (words.next()?, words.next()?, words.next()?, words.next());
    let said = match said {
        "start" => Said::Start,
        "act" => Said::Act { until: until?.parse().ok()? },
        "late" => Said::LateAct,
        "stop" => Said::Stop,
        _ => return None,
    };
    Some(Line { member, token: token.parse().ok()?, said, at: at.parse().ok()? })
}

fn wall() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set").as_nanos()
}

/// Fisher and Yates, with the numbers of a linear congruence.
fn shuffle(faults: &mut [Fault], mut seed: u64) {
    for last in (1..faults.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        faults.swap(last, (seed >> 33) as usize % (last + 1));
    }
}

/// What each of the three processes does. Nothing, when this is not one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_the_cluster() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let options = Keeper::options().session_timeout(SESSION).connect_timeout(SOON);
    let keeper = options.connect(&address).await.expect("connected");
    let options = SingletonOptions::new().backoff(Duration::from_millis(10), Duration::from_millis(100));
    let singleton = keeper.singleton_with(PATH, options).expect("a good path");
    let candidate = singleton.run(|term| (Worker, term), |_| None);
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await.expect("it returns").ok();
    candidate.shutdown().await;
    keeper.close().await;
}

struct Worker;

struct Act;

#[cfg(feature = "cluster")]
impl ractor::Message for Act {}

#[ractor::actor(message = Act, state = Term, arguments = Term)]
impl Worker {
    async fn pre_start(&self, myself: ActorRef<Act>, term: Term) -> Result<Term, ActorProcessingErr> {
        say(format_args!("start {} {}", term.token(), wall()));
        myself.cast(Act)?;
        Ok(term)
    }

    async fn handle(&self, myself: ActorRef<Act>, _: Act, term: &mut Term) -> Result<(), ActorProcessingErr> {
        // In this order, so that what is noted is never more than what was so.
        let (at, now) = (wall(), Instant::now());
        match (term.state(), term.valid_until()) {
            (LeaseState::Held | LeaseState::Suspended, Some(until)) => {
                let until = at + until.saturating_duration_since(now).as_nanos();
                say(format_args!("act {} {at} {until}", term.token()));
            }
            _ => say(format_args!("late {} {at}", term.token())),
        }
        tokio::time::sleep(ACT).await;
        myself.cast(Act)?;
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Act>, term: &mut Term) -> Result<(), ActorProcessingErr> {
        say(format_args!("stop {} {}", term.token(), wall()));
        Ok(())
    }
}

fn say(line: std::fmt::Arguments<'_>) {
    // The other side may be gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}
