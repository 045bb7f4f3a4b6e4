//! Real faults: clients in processes of their own hold locks while processes are killed and stopped, connections are
//! reset, held and half-opened, and servers are cut off from each other.
//!
//! Every client writes down what its guards promise and until when; the histories are checked against each other, and
//! writes to a resource outside against their tokens. `LOCKKEEPER_TEST_SERVER=ensemble` makes it three real servers
//! with proxies between them; otherwise it is one, and what takes three is left out. `LOCKKEEPER_FAULTS_SECONDS`
//! makes it longer, `LOCKKEEPER_FAULTS_SEED` repeats the order of an earlier run, and `LOCKKEEPER_FAULTS_ONLY` takes
//! the faults whose names contain a text.

#[path = "../common/mod.rs"]
mod common;
mod dice;
mod fault;
mod history;
mod kinds;
mod resource;
mod stage;
mod twins;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use dice::Dice;
use fault::{FAULTS, Fault};
use history::{Findings, now};
use kinds::KINDS;
use stage::{Recovery, SESSION, Servers, Stage, Trouble};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use twins::Twin;
use worker::Order;

/// Every run needs the machine for itself: what it measures are times.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Not a test, but what the clients of the others run.
#[test]
fn client_process() {
    let Some(directory) = std::env::var_os(worker::DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(worker::work(&PathBuf::from(directory)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_goes_wrong_nobody_holds_beside_another_and_all_go_on() {
    let _alone = ALONE.lock().await;
    let seed = setting("LOCKKEEPER_FAULTS_SEED").unwrap_or_else(now);
    let stage = Stage::start(&[Twin::None; CLIENTS], seed).await;
    let usual = if matches!(stage.servers, Servers::Three { .. }) { 100 } else { 1 };
    let time = Duration::from_secs(setting("LOCKKEEPER_FAULTS_SECONDS").unwrap_or(usual));
    let mut summary = Summary::new(seed);
    summary.recovery(&stage, "the start").await;

    let mut dice = Dice::new(seed);
    let mut faults: Vec<&Fault> = FAULTS.iter().filter(|fault| fault.fits(&stage.servers)).collect();
    if let Ok(only) = std::env::var("LOCKKEEPER_FAULTS_ONLY") {
        faults.retain(|fault| fault.name.contains(&only));
    }
    assert!(!faults.is_empty(), "no fault has that name");
    let begun = Instant::now();
    // Every fault at least once.
    while summary.rounds == 0 || begun.elapsed() < time {
        dice.shuffle(&mut faults);
        for fault in &faults {
            if summary.rounds > 0 && begun.elapsed() >= time {
                break;
            }
            summary.inflict(&stage, fault, &mut dice).await;
        }
        summary.rounds += 1;
    }
    let histories = stage.end().await.unwrap_or_else(|reason| panic!("{summary}{reason}"));
    stage.nothing_left().await.unwrap_or_else(|reason| panic!("{summary}{reason}"));
    let findings = history::check(&histories);
    let seen = stage.resource.seen();
    println!("{summary}{}", summary.of(&findings));
    println!("writes: {} taken, {} refused behind the end of their lease", seen.taken, seen.refused);
    assert_eq!(findings.faults(), [""; 0]);
    assert_eq!(seen.violations, [""; 0]);
    let enough = 20 * summary.injected;
    assert!(
        findings.grants.len() > enough,
        "{} grants, where there should be more than {enough}",
        findings.grants.len()
    );
    assert!(KINDS.iter().all(|kind| findings.of(kind) > summary.injected), "every kind has its share");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_does_not_hear_of_its_loss_is_found() {
    let _alone = ALONE.lock().await;
    let stage = Stage::start(&[Twin::Deaf, Twin::None, Twin::None], now()).await;
    stage.recovered(now()).await.expect("they work");
    assert!(fault::hold(&stage, 0).await);
    stage.clients[0].pause();
    sleep(2 * SESSION).await;
    stage.clients[0].resume();
    sleep(SESSION / 4).await;
    let histories = stage.end().await.expect("all end");
    assert_ne!(history::check(&histories).overlaps, [""; 0]);
    assert_ne!(stage.resource.seen().violations, [""; 0]);
}

/// Of an ensemble only: it shows that the fault is one, and why heartbeats are writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_believes_what_a_follower_lets_it_read_is_found() {
    let _alone = ALONE.lock().await;
    let stage = Stage::start(&[Twin::FollowerReads, Twin::None, Twin::None], now()).await;
    if let Servers::One(_) = stage.servers {
        return;
    }
    stage.recovered(now()).await.expect("they work");
    // It does not know what to do about a request that fails, so it has none when it is moved.
    stage.nothing_left().await.expect("they release");
    stage.clients[1..].iter().for_each(|client| client.order(Order::Work));
    fault::follower_cut_off(&stage, 0, false).await;
    let histories = stage.end().await.expect("all end");
    assert_ne!(history::check(&histories).overlaps, [""; 0]);
    assert_ne!(stage.resource.seen().violations, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_leaves_its_node_is_found() {
    let _alone = ALONE.lock().await;
    let stage = Stage::start(&[Twin::Leaver, Twin::None], now()).await;
    let worked = stage::within(stage::RECOVERY, async || stage.resource.seen().last.contains_key(&0));
    worked.await.expect("it gets a lock");
    let left = tokio::time::timeout(3 * SESSION, stage.nothing_left()).await;
    assert!(left.is_err(), "its node is there for as long as its session is, but {left:?}");
}

const CLIENTS: usize = 5;

/// How often in a run the servers themselves may fail to recover.
const MOST_STANDSTILLS: usize = 3;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, and not a number")))
}

/// What a run has seen so far.
struct Summary {
    seed: u64,
    rounds: usize,
    injected: usize,
    /// When each fault began and was over.
    times: Vec<(history::Time, history::Time)>,
    longest: (Duration, &'static str),
    longest_rest: Duration,
    longest_election: Duration,
    standstills: usize,
}

impl Summary {
    fn new(seed: u64) -> Summary {
        Summary {
            seed,
            rounds: 0,
            injected: 0,
            times: Vec::new(),
            longest: (Duration::ZERO, "nothing"),
            longest_rest: Duration::ZERO,
            longest_election: Duration::ZERO,
            standstills: 0,
        }
    }

    /// One fault, with a victim that holds in every second case; then everybody works again, and then nothing is left.
    async fn inflict(&mut self, stage: &Stage, fault: &Fault, dice: &mut Dice) {
        let victim = dice.index(stage.clients.len());
        if dice.below(2) == 0 {
            fault::hold(stage, victim).await;
        }
        let begun = now();
        (fault.inflict)(stage, victim).await;
        let over = now();
        stage.order_all(Order::Work);
        self.injected += 1;
        self.times.push((begun, over));
        self.recovery(stage, fault.name).await;
        match stage.nothing_left().await {
            Ok(took) => self.longest_rest = self.longest_rest.max(took),
            Err(reason) => panic!("{self}after {:?}: {reason}", fault.name),
        }
        stage.order_all(Order::Work);
    }

    async fn recovery(&mut self, stage: &Stage, name: &'static str) {
        let mut since = now();
        loop {
            match stage.recovered(since).await {
                Ok(Recovery { election, clients }) => {
                    println!(
                        "{name}: all servers serve after {election:?}, all clients hold {clients:?} later"
                    );
                    self.longest_election = self.longest_election.max(election);
                    return self.longest = self.longest.max((clients, name));
                }
                Err(Trouble::Standstill) if self.standstills < MOST_STANDSTILLS => {
                    println!("{name}: the servers answer nobody, and are started again");
                    self.standstills += 1;
                    stage.restart_servers();
                    since = now();
                }
                Err(Trouble::Standstill) => panic!("{self}after {name:?}: the servers answer nobody, again"),
                Err(Trouble::Clients(reason)) => panic!("{self}after {name:?}: {reason}"),
            }
        }
    }

    fn of(&self, findings: &Findings) -> String {
        let under_fault = |grant: &&history::Grant| {
            self.times.iter().any(|(begun, over)| (*begun..*over).contains(&grant.from))
        };
        format!(
            "grants: {} {:?}, {} of them under a fault; leases lost: {}; requests cancelled or refused: {}; \
             overlaps: {}; tokens backward: {}\n",
            findings.grants.len(),
            KINDS.iter().map(|kind| (kind.name, findings.of(kind))).collect::<Vec<_>>(),
            findings.grants.iter().filter(under_fault).count(),
            findings.lost,
            findings.refused,
            findings.overlaps.len(),
            findings.backward.len(),
        )
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary { seed, injected, longest: (longest, name), longest_rest, longest_election, .. } = self;
        writeln!(f, "LOCKKEEPER_FAULTS_SEED={seed}: {injected} faults")?;
        writeln!(f, "times that the servers had to be started again: {}", self.standstills)?;
        writeln!(f, "longest until all servers served again: {longest_election:?}")?;
        writeln!(
            f,
            "longest recovery: {longest:?}, after {name:?}; longest until nothing was left: {longest_rest:?}"
        )
    }
}
