//! Real faults: clients in separate processes hold locks while processes are killed and stopped, connections are reset,
//! delayed and half-opened, and servers are cut off from each other.
//!
//! Every client records what its guards promise and until when. The histories are checked against each other, and
//! writes to an external resource are checked by their tokens. Every client also replays what its machines have decided.
//! `LOCKKEEPER_TEST_SERVER=ensemble` runs three real servers with proxies between them; otherwise there is one server, and
//! faults that need three are left out. `LOCKKEEPER_FAULTS_SECONDS` sets a longer duration, `LOCKKEEPER_FAULTS_SEED`
//! repeats the order of an earlier run, and `LOCKKEEPER_FAULTS_ONLY` selects the faults whose names contain a text.

mod audit;
#[path = "../common/mod.rs"]
mod common;
mod dice;
mod divergence;
mod effect;
mod fault;
mod history;
mod locks;
#[path = "../common/records/mod.rs"]
mod records;
mod resource;
mod stage;
mod twins;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use audit::MACHINES;
use dice::Dice;
use fault::{FAULTS, Fault};
use history::{Entry, Findings, now};
use locks::KINDS;
use stage::{Client, Recovery, SESSION, Servers, Stage, Trouble};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use twins::Twin;
use worker::Order;

/// The runs must not overlap, because they measure times.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Also the entry point of the client processes, which run this binary with [`worker::DIRECTORY`].
#[test]
fn clients_exclude_each_other_and_recover_under_every_fault() {
    if let Some(directory) = std::env::var_os(worker::DIRECTORY) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        return runtime.block_on(worker::work(&PathBuf::from(directory)));
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(4).enable_all().build().expect("a runtime").block_on(under_every_fault());
}

async fn under_every_fault() {
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
    assert!(!faults.is_empty(), "no fault matches LOCKKEEPER_FAULTS_ONLY");
    let begun = Instant::now();
    // The first round injects every fault.
    while summary.rounds == 0 || begun.elapsed() < time {
        dice.shuffle(&mut faults);
        for fault in &faults {
            if summary.rounds > 0 && begun.elapsed() >= time {
                break;
            }
            summary.inject(&stage, fault, &mut dice).await;
        }
        summary.rounds += 1;
    }
    let histories = stage.end().await.unwrap_or_else(|reason| panic!("{summary}{reason}"));
    stage.nothing_left().await.unwrap_or_else(|reason| panic!("{summary}{reason}"));
    let findings = history::check(&histories);
    let seen = stage.resource.seen();
    println!("{summary}{}", summary.of(&findings));
    println!("writes: {} accepted, {} refused after the end of their lease", seen.accepted, seen.refused);
    assert_eq!(findings.faults(), [""; 0]);
    assert_eq!(seen.violations, [""; 0]);
    assert!(findings.shared() > 0, "no node lingered");
    let counted = |what: &str| findings.counts.get(what).copied().unwrap_or(0);
    for machine in MACHINES {
        let (events, commands) =
            (counted(&format!("{machine}.events")), counted(&format!("{machine}.commands")));
        assert!(events.min(commands) > summary.injected as u64, "{machine}: {events}, {commands}");
    }
    // The others make no difference, and are printed. In most runs, more than three quarters are refused.
    let (altered, refused) = (counted("altered"), counted("altered.refused"));
    assert!(altered > 100, "only {altered} altered steps");
    assert!(2 * refused > altered, "only {refused} of {altered} altered steps are refused");
    if std::env::var_os("LOCKKEEPER_FAULTS_ONLY").is_none() {
        assert!(findings.lost > 0, "no lease was lost");
        assert!(seen.refused > 0, "no late write was refused");
        assert!(counted("reconnects") > 0 && counted("losses") > 0, "no trouble was replayed");
    }
    let enough = 20 * summary.injected;
    assert!(
        findings.grants.len() > enough,
        "only {} grants, expected more than {enough}",
        findings.grants.len()
    );
    assert!(KINDS.iter().all(|kind| findings.of(kind) > summary.injected), "too few grants of some kind");
}

/// The others only on an ensemble: a single server has no followers, and its clock runs at the usual rate.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_that_hold_for_too_long_are_detected() {
    let _alone = ALONE.lock().await;
    a_client_that_ignores_its_loss().await;
    if std::env::var("LOCKKEEPER_TEST_SERVER").is_ok_and(|server| server == "ensemble") {
        a_client_that_trusts_follower_reads().await;
        clocks_that_break_the_assumption().await;
    }
}

async fn a_client_that_ignores_its_loss() {
    let stage = Stage::start(&[Twin::Deaf, Twin::None, Twin::None], now()).await;
    stage.recovered(now()).await.expect("all clients work");
    assert!(fault::hold(&stage, 0, Order::HoldAlone).await);
    stage.clients[0].pause();
    // Long enough for the session to expire and for another client to acquire.
    sleep(2 * SESSION).await;
    stage.clients[0].resume();
    let found = stage::within(stage::RECOVERY, async || !stage.resource.seen().violations.is_empty());
    found.await.expect("it writes although its lease has ended");
    let histories = stage.end().await.expect("all clients end");
    assert_ne!(history::check(&histories).overlaps, [""; 0]);
    assert_ne!(stage.resource.seen().violations, [""; 0]);
}

/// It shows that the fault is real, and why heartbeats have to be writes.
async fn a_client_that_trusts_follower_reads() {
    let stage = Stage::start(&[Twin::FollowerReads, Twin::None, Twin::None], now()).await;
    stage.recovered(now()).await.expect("all clients work");
    // This client cannot handle a failed request, so it must have none pending when it is moved.
    stage.nothing_left().await.expect("all clients release");
    stage.clients[1..].iter().for_each(|client| client.order(Order::Work));
    assert!(fault::follower_cut_off(&stage, 0, false).await, "it holds a lock");
    let histories = stage.end().await.expect("all clients end");
    assert_ne!(history::check(&histories).overlaps, [""; 0]);
    assert_ne!(stage.resource.seen().violations, [""; 0]);
}

/// It shows that the servers' clocks do run at another rate, and that the promises need the assumption.
async fn clocks_that_break_the_assumption() {
    let stage = Stage::start_at_rate(2.5, &[Twin::None; 3], now()).await;
    let overlap = || {
        !history::check(&stage.clients.iter().map(Client::history).collect::<Vec<_>>()).overlaps.is_empty()
    };
    // The servers end the session too early by a part of a second at most. It is less if the last heartbeat was slow.
    for _ in 0..MOST_TRIES {
        stage.order_all(Order::Work);
        stage.recovered(now()).await.expect("all clients work");
        if !fault::hold(&stage, 0, Order::HoldAlone).await {
            continue;
        }
        let proxies = &stage.clients[0].proxies;
        proxies.iter().for_each(|proxy| proxy.black_hole(true));
        // In less than half of this time the servers end the session, and another client acquires.
        sleep(2 * SESSION).await;
        proxies.iter().for_each(|proxy| proxy.black_hole(false));
        if overlap() {
            break;
        }
    }
    let histories = stage.end().await.expect("all clients end");
    assert_ne!(history::check(&histories).overlaps, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_leaves_its_node_is_detected() {
    let _alone = ALONE.lock().await;
    let stage = Stage::start(&[Twin::Leaver, Twin::None], now()).await;
    let worked = stage::within(stage::RECOVERY, async || stage.resource.seen().last.contains_key(&0));
    worked.await.expect("it acquires a lock");
    stage.order_all(Order::Rest);
    // Longer than a session lasts without its client.
    sleep(3 * SESSION).await;
    let left = stage.nodes().await.expect("the servers answer");
    assert_ne!(left, [""; 0], "the node should stay as long as the session");
    assert!(left.iter().all(|node| node.contains(" of client-0 ")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_that_hold_too_many_permits_are_detected() {
    let _alone = ALONE.lock().await;
    let stage = Stage::start(&[Twin::Overdraws; 3], now()).await;
    stage.order_all(Order::Hold);
    let promises = |client: &Client| matches!(client.history().last(), Some(Entry::Promised(_)));
    let all = stage::within(stage::RECOVERY, async || stage.clients.iter().all(promises));
    all.await.expect("each of the three holds a permit");
    let histories = stage.end().await.expect("all clients end");
    assert_ne!(history::check(&histories).overlaps, [""; 0]);
}

const CLIENTS: usize = 5;

/// How many times a fault may look for a client that holds a lock, or for an effect that depends on the moment.
const MOST_TRIES: usize = 3;

/// How many times in a run the servers themselves may fail to recover.
const MOST_STANDSTILLS: usize = 3;

/// How many servers of a run may get data that differ from those of the others.
const MOST_REPLACED: usize = 3;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is not a number")))
}

/// The results of a run so far.
struct Summary {
    seed: u64,
    rounds: usize,
    injected: usize,
    /// When each fault began and ended.
    times: Vec<(history::Time, history::Time)>,
    longest: (Duration, &'static str),
    longest_rest: Duration,
    longest_election: Duration,
    standstills: usize,
    replaced: usize,
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
            replaced: 0,
        }
    }

    /// Injects one fault. Tries again, with another victim, if it finds nothing to strike.
    async fn inject(&mut self, stage: &Stage, fault: &Fault, dice: &mut Dice) {
        for _ in 0..MOST_TRIES {
            if self.strike(stage, fault, dice).await {
                return;
            }
            println!("{}: nothing to strike", fault.name);
        }
        panic!("{self}{:?} finds nothing to strike", fault.name);
    }

    /// Injects one fault, half of the time into a client that holds a lock. Then waits until all clients work again,
    /// and until nothing is left of their locks. Returns whether the fault struck.
    async fn strike(&mut self, stage: &Stage, fault: &Fault, dice: &mut Dice) -> bool {
        let victim = dice.index(stage.clients.len());
        if dice.below(2) == 0 {
            fault::hold(stage, victim, Order::Hold).await;
        }
        let begun = now();
        let struck = (fault.inflict)(stage, victim).await;
        let over = now();
        stage.order_all(Order::Work);
        self.injected += usize::from(struck);
        self.times.push((begun, over));
        self.recovery(stage, fault.name).await;
        loop {
            match stage.nothing_left().await {
                Ok(took) => break self.longest_rest = self.longest_rest.max(took),
                Err(_) if self.replaced_odd_member(stage, fault.name).await => {}
                Err(reason) => panic!("{self}after {:?}: {reason}", fault.name),
            }
        }
        stage.order_all(Order::Work);
        struck
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
                    println!("{name}: the servers do not answer and are restarted");
                    self.standstills += 1;
                    stage.restart_servers();
                    since = now();
                }
                Err(Trouble::Standstill) => panic!("{self}after {name:?}: the servers still do not answer"),
                Err(Trouble::Clients(_)) if self.replaced_odd_member(stage, name).await => since = now(),
                Err(Trouble::Clients(reason)) => panic!("{self}after {name:?}: {reason}"),
            }
        }
    }

    /// If the data of one server differ from those of the others, the clients cannot help it: it gets the data of its
    /// leader.
    async fn replaced_odd_member(&mut self, stage: &Stage, name: &str) -> bool {
        if self.replaced == MOST_REPLACED {
            return false;
        }
        let found = tokio::time::timeout(stage::RECOVERY, divergence::odd_member(&stage.servers)).await;
        let Ok(Ok(Some(odd))) = found else { return false };
        println!("{name}: server {} is replaced, because its data differ: {}", odd.member, odd.node);
        self.replaced += 1;
        stage.replace(odd.member);
        true
    }

    fn of(&self, findings: &Findings) -> String {
        let under_fault = |grant: &&history::Grant| {
            self.times.iter().any(|(begun, over)| (*begun..*over).contains(&grant.from))
        };
        format!(
            "grants: {} {:?}, {} of them during a fault, {} under a node that lingered; leases lost: {}; \
             requests cancelled or refused: {}; overlaps: {}; tokens backward: {}\n",
            findings.grants.len(),
            KINDS.iter().map(|kind| (kind.name, findings.of(kind))).collect::<Vec<_>>(),
            findings.grants.iter().filter(under_fault).count(),
            findings.shared(),
            findings.lost,
            findings.refused,
            findings.overlaps.len(),
            findings.backward.len(),
        ) + &audit::report(&findings.counts)
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary { seed, injected, longest: (longest, name), longest_rest, longest_election, .. } = self;
        writeln!(f, "LOCKKEEPER_FAULTS_SEED={seed}: {injected} faults")?;
        writeln!(f, "restarts of stuck servers: {}", self.standstills)?;
        writeln!(f, "servers replaced because their data differed: {}", self.replaced)?;
        writeln!(f, "longest until all servers served again: {longest_election:?}")?;
        writeln!(
            f,
            "longest recovery: {longest:?}, after {name:?}; longest until nothing was left: {longest_rest:?}"
        )
    }
}
