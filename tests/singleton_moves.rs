//! Three processes, one singleton: the process that runs it is killed, paused or cut off, in random order, and another
//! one takes over. Two never run at once within their leases, tokens grow, and the takeover times are printed.
//!
//! There are two rounds of each fault on the embedded server, and ten on real ones. `LOCKKEEPER_SINGLETON_ROUNDS` sets
//! another number:
//!
//! ```text
//! LOCKKEEPER_TEST_SERVER=ensemble LOCKKEEPER_SINGLETON_ROUNDS=50 \
//!     cargo test --test singleton_moves -- --nocapture
//! ```
//!
//! The members are processes of this same test binary.

mod common;

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Proxy, TestServer, eventually, monotonic};
use lockkeeper::run::LeaseView;
use lockkeeper::singleton::SingletonOptions;
use lockkeeper::{Keeper, LeaseState};
use ractor::{ActorProcessingErr, ActorRef};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

const SESSION: Duration = Duration::from_secs(2);
/// The interval between two acts of the actor.
const ACT: Duration = Duration::from_millis(10);
const SOON: Duration = Duration::from_secs(60);
const PATH: &str = "/singletons/moving";
/// The environment variable that makes this binary a member; its value is the server's address.
const ADDRESS: &str = "LOCKKEEPER_SINGLETON_ADDRESS";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Killed,
    Paused,
    CutOff,
}

const FAULTS: [Fault; 3] = [Fault::Killed, Fault::Paused, Fault::CutOff];

/// Also the entry point of the members, which run this binary with [`ADDRESS`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_actors_never_run_at_once_under_any_fault() {
    if let Ok(address) = std::env::var(ADDRESS) {
        return a_member_of_the_cluster(&address).await;
    }
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
    while let Some(fault) = faults.last() {
        stage.all_queued().await;
        let (next, struck) = stage.round(*fault, current).await;
        current = next;
        if struck {
            faults.pop();
        } else {
            stage.missed += 1;
        }
        assert!(stage.missed <= rounds, "most faults find that the actor has moved before");
    }
    stage.all_queued().await;
    stage.leave(current).await;
    stage.check();
}

/// A line that a member has printed.
#[derive(Clone, Debug)]
struct Line {
    member: usize,
    token: u64,
    report: Report,
    /// When the member wrote it, on the monotonic clock that all processes share.
    at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Report {
    /// The actor has started.
    Start,
    /// It acted while the lease was valid, at least until this time.
    Act { until: u64 },
    /// It acted, but the lease was lost.
    LateAct,
    /// It has stopped in order.
    Stop,
}

/// A run of the actor in one of the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    member: usize,
    token: u64,
    start: u64,
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
    /// Faults that found the actor moving already. They are injected again.
    missed: usize,
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
        Stage { members, lines: Vec::new(), incoming, sender, observer, takeovers: Vec::new(), missed: 0 }
    }

    async fn all_queued(&self) {
        let lock = self.observer.lock(PATH).expect("a valid path");
        eventually("all three queue", SOON, async || {
            lock.contenders().await.is_ok_and(|contenders| contenders.len() == self.members.len())
        })
        .await;
    }

    /// Waits for a run that is newer than `before`.
    async fn next_run(&mut self, before: Option<Run>) -> Run {
        let newest = async {
            loop {
                let line = self.incoming.recv().await.expect("the stage keeps a sender");
                self.lines.push(line.clone());
                let newer = before.is_none_or(|before| line.token > before.token);
                if line.report == Report::Start && newer {
                    return Run { member: line.member, token: line.token, start: line.at };
                }
            }
        };
        tokio::time::timeout(SOON, newest).await.expect("another member takes over")
    }

    /// Injects one fault into the member that runs the actor. Returns the next run, and whether the fault caused it.
    async fn round(&mut self, fault: Fault, current: Run) -> (Run, bool) {
        let sender = self.sender.clone();
        let member = &mut self.members[current.member];
        let (injected, at) = (Instant::now(), monotonic());
        match fault {
            Fault::Killed => member.process.kill().await.expect("it runs"),
            Fault::Paused => signal(&member.process, "-STOP").await,
            Fault::CutOff => member.proxy.black_hole(true),
        }
        let next = self.next_run(Some(current)).await;
        let took = injected.elapsed();
        println!("{fault:?}: taken over after {took:?}");
        let struck = next.start > at;
        if struck {
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
        (next, struck)
    }

    /// All members shut down in order, and each time one of the remaining takes over.
    async fn leave(&mut self, mut current: Run) {
        for left in (0..self.members.len()).rev() {
            let asked = Instant::now();
            let member = &mut self.members[current.member];
            drop(member.process.stdin.take());
            let run = current;
            if left > 0 {
                current = self.next_run(Some(run)).await;
                self.takeovers.push(Takeover { fault: None, run, took: asked.elapsed() });
            }
            let ended = tokio::time::timeout(SOON, self.members[run.member].process.wait()).await;
            assert!(ended.expect("it ends").expect("it ends").success());
        }
        let lock = self.observer.lock(PATH).expect("a valid path");
        // Another server of the ensemble may see it a little later.
        eventually("no node is left", SOON, async || {
            lock.contenders().await.is_ok_and(|contenders| contenders.is_empty())
        })
        .await;
        // All members have ended, so without this sender the channel closes after their last lines.
        self.sender = mpsc::unbounded_channel().0;
        while let Some(line) =
            tokio::time::timeout(SOON, self.incoming.recv()).await.expect("all lines are read")
        {
            self.lines.push(line);
        }
    }

    fn check(&self) {
        let mut runs: Vec<Run> =
            self.lines.iter().filter(|line| line.report == Report::Start).map(run).collect();
        runs.sort_by_key(|run| run.start);
        assert!(
            runs.is_sorted_by(|one, next| one.token < next.token),
            "tokens must grow with every run: {runs:?}"
        );
        for pair in runs.windows(2) {
            let (run, next) = (pair[0], pair[1]);
            let acts = self.lines.iter().filter(|line| line.token == run.token);
            // The time was taken before the lease was checked, so the lease was valid at that time.
            let held = acts
                .clone()
                .filter(|line| matches!(line.report, Report::Act { .. }))
                .map(|line| line.at)
                .max();
            assert!(
                held.is_none_or(|held| held < next.start),
                "two ran at once: {run:?} until {held:?}, {next:?}"
            );
            let fault = self.takeovers.iter().find(|takeover| takeover.run == run).and_then(|it| it.fault);
            let late = acts.clone().filter(|line| line.report == Report::LateAct).count();
            let proven = acts.filter_map(|line| match line.report {
                Report::Act { until } => Some(until),
                Report::Start | Report::LateAct | Report::Stop => None,
            });
            match fault {
                // A killed member does not release its lock.
                Some(Fault::Killed) => {
                    assert!(
                        proven.max() < Some(next.start),
                        "the next run started too early: {run:?}, {next:?}"
                    )
                }
                Some(Fault::CutOff) => assert_eq!(late, 0, "stopped too late: {run:?}"),
                // It resumes without a lease, and may act before it is killed. By then its token is outdated.
                Some(Fault::Paused) | None => {}
            }
        }
        println!(
            "{} runs, 0 overlaps, {} faults injected again, session timeout {SESSION:?}; takeover times:",
            runs.len(),
            self.missed
        );
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

/// Starts a member and forwards its lines. It ends when its standard input is closed.
fn start(number: usize, proxy: &Proxy, sender: &mpsc::UnboundedSender<Line>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    let entry = "two_actors_never_run_at_once_under_any_fault";
    command.args(["--exact", entry, "--nocapture"]).env(ADDRESS, proxy.address());
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
    let (report, token, at, until) = (words.next()?, words.next()?, words.next()?, words.next());
    let report = match report {
        "start" => Report::Start,
        "act" => Report::Act { until: until?.parse().ok()? },
        "late" => Report::LateAct,
        "stop" => Report::Stop,
        _ => return None,
    };
    Some(Line { member, token: token.parse().ok()?, report, at: at.parse().ok()? })
}

/// A Fisher-Yates shuffle with a linear congruential generator.
fn shuffle(faults: &mut [Fault], mut seed: u64) {
    for last in (1..faults.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        faults.swap(last, (seed >> 33) as usize % (last + 1));
    }
}

/// What each of the three processes runs.
async fn a_member_of_the_cluster(address: &str) {
    let options = Keeper::options().session_timeout(SESSION).connect_timeout(SOON);
    let keeper = options.connect(address).await.expect("connected");
    let options = SingletonOptions::new().backoff(Duration::from_millis(10), Duration::from_millis(100));
    let singleton = keeper.singleton_with(PATH, options).expect("a valid path");
    let candidate = singleton.run(|lease| (Worker, lease), |_| None);
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await.expect("it returns").ok();
    candidate.shutdown().await;
    keeper.close().await;
}

struct Worker;

struct Act;

#[cfg(feature = "cluster")]
impl ractor::Message for Act {}

#[ractor::actor(message = Act, state = LeaseView, arguments = LeaseView)]
impl Worker {
    async fn pre_start(
        &self,
        myself: ActorRef<Act>,
        lease: LeaseView,
    ) -> Result<LeaseView, ActorProcessingErr> {
        print_line(format_args!("start {} {}", lease.token(), monotonic()));
        myself.cast(Act)?;
        Ok(lease)
    }

    async fn handle(
        &self,
        myself: ActorRef<Act>,
        _: Act,
        lease: &mut LeaseView,
    ) -> Result<(), ActorProcessingErr> {
        // In this order, so that the printed end is never later than the real one.
        let (at, now) = (monotonic(), Instant::now());
        match (lease.state(), lease.valid_until()) {
            (LeaseState::Held | LeaseState::Suspended, Some(until)) => {
                let left = until.saturating_duration_since(now).as_nanos();
                let until = at + u64::try_from(left).expect("it is short");
                print_line(format_args!("act {} {at} {until}", lease.token()));
            }
            _ => print_line(format_args!("late {} {at}", lease.token())),
        }
        // Simulated work between two acts.
        tokio::time::sleep(ACT).await;
        myself.cast(Act)?;
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Act>, lease: &mut LeaseView) -> Result<(), ActorProcessingErr> {
        print_line(format_args!("stop {} {}", lease.token(), monotonic()));
        Ok(())
    }
}

fn print_line(line: std::fmt::Arguments<'_>) {
    // The reader may have ended.
    let _ = writeln!(std::io::stdout(), "{line}");
}
