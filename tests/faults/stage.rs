//! The setup of a run: servers, client processes, and proxies between all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::executor::block_on;
use lockkeeper_embedded::Proxy;
use tokio::time::{Instant, sleep};
use zookeeper_client as zk;

use super::common::guardian::Guardian;
use super::common::{Ensemble, Server, ServerOptions, TestServer};
use super::dice::Dice;
use super::history::{Entry, Time, now};
use super::locks::ROOT;
use super::resource::Resource;
use super::twins::Twin;
use super::worker::{self, Order, Settings};

/// The session timeout that clients request.
pub const SESSION: Duration = Duration::from_secs(2);

/// How long a leader and a follower wait for each other. It is longer than a session, so that a follower that is cut
/// off keeps answering while its leader expires sessions.
const SYNC_TICKS: u32 = 15;
const TICK: Duration = Duration::from_millis(200);
pub const SYNC: Duration = TICK.saturating_mul(SYNC_TICKS);

/// How fast the clocks of an ensemble's servers run, for one second of the clients. The promises allow for a hundredth.
const CLOCK_RATE: f64 = 1.009;

/// The time limit after a fault until every client works again, and until nothing is left of released locks.
pub const RECOVERY: Duration = SESSION.saturating_mul(5);

/// The time limit for electing a leader.
pub const ELECTION: Duration = Duration::from_secs(30);

pub struct Stage {
    pub servers: Servers,
    pub clients: Vec<Client>,
    pub resource: Resource,
    dice: Mutex<Dice>,
}

pub enum Servers {
    /// Embedded, or standalone.
    One(TestServer),
    Three {
        ensemble: Ensemble,
        /// The proxy between a member and the quorum port of another, by their numbers.
        links: BTreeMap<(usize, usize), Proxy>,
    },
}

impl Servers {
    /// Starts the servers that `LOCKKEEPER_TEST_SERVER` selects. Only those of an ensemble have clocks of another rate.
    pub fn start(clock_rate: f64) -> Servers {
        match std::env::var("LOCKKEEPER_TEST_SERVER").as_deref() {
            Ok("ensemble") => Servers::three(clock_rate),
            Ok(_) | Err(_) => Servers::One(TestServer::start()),
        }
    }

    fn three(clock_rate: f64) -> Servers {
        let options = ServerOptions {
            tick_ms: u32::try_from(TICK.as_millis()).expect("it is short"),
            config: vec![format!("syncLimit={SYNC_TICKS}")],
            clock_rate: Some(clock_rate),
            ..ServerOptions::default()
        };
        let links = Mutex::new(BTreeMap::new());
        let link = |from, to, port| {
            let proxy = block_on(Proxy::start(format!("127.0.0.1:{port}"))).expect("a free port");
            let found_at = proxy.address().rsplit_once(':').and_then(|(_, port)| port.parse().ok());
            links.lock().unwrap_or_else(PoisonError::into_inner).insert((from, to), proxy);
            found_at.expect("a port")
        };
        let ensemble = blocking(|| Ensemble::start_linked(&options, &link));
        Servers::Three { ensemble, links: links.into_inner().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Whether each server creates a session, which takes a quorum. A server that reports a mode may still be busy with
    /// an election.
    async fn serve(&self) -> bool {
        for address in self.addresses() {
            let session = zk::Client::connector().with_session_timeout(SESSION).connect(&address).await;
            if session.is_err() {
                return false;
            }
        }
        true
    }

    pub fn addresses(&self) -> Vec<String> {
        match self {
            Servers::One(server) => vec![server.address()],
            Servers::Three { ensemble, .. } => ensemble.members().iter().map(Server::address).collect(),
        }
    }
}

/// How long the servers and then the clients took to recover.
pub struct Recovery {
    pub election: Duration,
    pub clients: Duration,
}

/// Why there was no recovery.
#[derive(Debug)]
pub enum Trouble {
    /// The servers created no session in all that time.
    Standstill,
    /// Some clients did not recover although the servers did.
    Clients(String),
}

/// Runs blocking code without blocking the proxies and the resource.
pub fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

pub struct Client {
    guardian: Guardian,
    /// One proxy in front of each server.
    pub proxies: Vec<Proxy>,
    launches: AtomicU32,
}

impl Stage {
    /// Starts the servers and one client for each twin, all working.
    pub async fn start(twins: &[Twin], seed: u64) -> Stage {
        Stage::start_at_rate(CLOCK_RATE, twins, seed).await
    }

    /// Like `start`, with other clocks.
    pub async fn start_at_rate(clock_rate: f64, twins: &[Twin], seed: u64) -> Stage {
        let servers = Servers::start(clock_rate);
        let resource = Resource::start().await;
        let mut clients = Vec::new();
        for (number, twin) in twins.iter().enumerate() {
            let mut proxies = Vec::new();
            for address in servers.addresses() {
                proxies.push(Proxy::start(address).await.expect("a free port"));
            }
            let addresses: Vec<String> = proxies.iter().map(Proxy::address).collect();
            let settings = Settings {
                client: number,
                zookeeper: addresses.join(","),
                resource: resource.address().to_owned(),
                session: SESSION,
                tick: (number % 2 == 1).then_some(TICK),
                seed: seed ^ (number as u64) << 32,
                twin: *twin,
            };
            clients.push(Client::start(&settings, proxies));
        }
        let stage = Stage { servers, clients, resource, dice: Mutex::new(Dice::new(seed)) };
        stage.order_all(Order::Work);
        stage.clients.iter().for_each(Client::launch);
        stage
    }

    pub fn ensemble(&self) -> &Ensemble {
        match &self.servers {
            Servers::Three { ensemble, .. } => ensemble,
            Servers::One(_) => panic!("this fault needs three servers"),
        }
    }

    /// The proxy between a follower and the leader's quorum port. Followers open these connections.
    pub fn link(&self, follower: usize, leader: usize) -> &Proxy {
        match &self.servers {
            Servers::Three { links, .. } => &links[&(follower, leader)],
            Servers::One(_) => panic!("this fault needs three servers"),
        }
    }

    pub fn dice<T>(&self, throw: impl FnOnce(&mut Dice) -> T) -> T {
        throw(&mut self.dice.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn order_all(&self, order: Order) {
        self.clients.iter().for_each(|client| client.order(order));
    }

    /// Restarts servers that do not recover by themselves, all at once. A rolling restart would be another fault.
    pub fn restart_servers(&self) {
        let Servers::Three { ensemble, .. } = &self.servers else { return };
        blocking(|| {
            ensemble.members().iter().for_each(Server::stop);
            ensemble.members().iter().for_each(Server::relaunch);
            ensemble.members().iter().for_each(Server::wait_until_serving);
        });
    }

    /// Waits until every client has written to the resource again. The clients' time counts from when the servers serve
    /// again, because an election is not their fault.
    pub async fn recovered(&self, since: Time) -> Result<Recovery, Trouble> {
        let late = || {
            let last = self.resource.seen().last;
            let back = |client: &usize| last.get(client).is_some_and(|at| *at > since);
            (0..self.clients.len()).filter(|client| !back(client)).collect::<Vec<_>>()
        };
        let begun = Instant::now();
        let mut serving = begun;
        loop {
            if late().is_empty() {
                return Ok(Recovery { election: serving - begun, clients: serving.elapsed() });
            }
            let serve = tokio::time::timeout(SESSION, self.servers.serve()).await.unwrap_or(false);
            let now = Instant::now();
            if !serve {
                serving = now;
            }
            if now - begun >= ELECTION && serving == now {
                return Err(Trouble::Standstill);
            }
            if now - serving >= RECOVERY {
                let tails: Vec<String> =
                    late().into_iter().map(|client| self.clients[client].tail()).collect();
                let nodes = tokio::time::timeout(RECOVERY, self.nodes()).await;
                return Err(Trouble::Clients(format!(
                    "{:?} after the servers serve, clients {:?} do not hold; nodes: {nodes:?}\n{}",
                    now - serving,
                    late(),
                    tails.join("\n")
                )));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Has all clients release their locks and request none, and waits until none of their nodes is left. Their
    /// sessions stay alive, so the clients must have deleted the nodes.
    pub async fn nothing_left(&self) -> Result<Duration, String> {
        self.order_all(Order::Rest);
        let mut left = Vec::new();
        let took = within(RECOVERY, async || {
            match self.nodes().await {
                Ok(nodes) => left = nodes,
                // The ensemble may still be electing a leader.
                Err(error) => left = vec![error.to_string()],
            }
            left.is_empty()
        })
        .await;
        took.ok_or_else(|| {
            format!("{RECOVERY:?} after all clients were told to rest there are still nodes: {left:?}")
        })
    }

    /// The nodes of all locks, with the identifiers of their clients.
    pub async fn nodes(&self) -> Result<Vec<String>, zk::Error> {
        nodes_at(&self.servers.addresses().join(",")).await
    }

    /// Kills a member of the ensemble and launches it without its data, as if another one took its place.
    pub fn replace(&self, number: usize) {
        let member = self.ensemble().member(number);
        blocking(|| {
            member.stop();
            member.forget();
            member.restart();
        });
    }

    /// Stops all clients and returns their histories.
    pub async fn end(&self) -> Result<Vec<Vec<Entry>>, String> {
        self.order_all(Order::Stop);
        for client in &self.clients {
            // It first judges its record.
            let ended = within(2 * RECOVERY, async || client.has_ended()).await;
            ended.ok_or_else(|| format!("a client does not end:\n{}", client.tail()))?;
        }
        Ok(self.clients.iter().map(Client::history).collect())
    }
}

/// The nodes of all locks, as one of these servers knows them.
pub async fn nodes_at(addresses: &str) -> Result<Vec<String>, zk::Error> {
    let mut connector = zk::Client::connector().with_session_timeout(Duration::from_secs(10));
    connector = connector.with_connection_timeout(Duration::from_secs(5));
    let client = connector.connect(addresses).await?;
    match client.sync(ROOT).await {
        Ok(()) | Err(zk::Error::NoNode) => {}
        Err(error) => return Err(error),
    }
    let mut nodes = Vec::new();
    // The contenders of queues, and the leases of a semaphore.
    for directory in children(&client, ROOT).await? {
        for node in children(&client, &directory).await? {
            match client.get_data(&node).await {
                Ok((identifier, stat)) => {
                    let (client, session) = (String::from_utf8_lossy(&identifier), stat.ephemeral_owner);
                    nodes.push(format!("{node} of {client} in session {session:#x}"));
                }
                Err(zk::Error::NoNode) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(nodes)
}

/// The paths of the children; empty if the node does not exist.
async fn children(client: &zk::Client, path: &str) -> Result<Vec<String>, zk::Error> {
    match client.list_children(path).await {
        Ok(names) => Ok(names.into_iter().map(|name| format!("{path}/{name}")).collect()),
        Err(zk::Error::NoNode) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Waits until the condition holds and returns how long that took, or `None` if it does not hold in time.
pub async fn within(limit: Duration, mut condition: impl AsyncFnMut() -> bool) -> Option<Duration> {
    let begun = Instant::now();
    loop {
        if tokio::time::timeout_at(begun + limit, condition()).await.ok()? {
            return Some(begun.elapsed());
        }
        if begun.elapsed() >= limit {
            return None;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

impl Client {
    fn start(settings: &Settings, proxies: Vec<Proxy>) -> Client {
        let binary = std::env::current_exe().expect("this binary");
        let guardian = Guardian::new("lockkeeper-faults", |directory| {
            let mut setting = std::ffi::OsString::from(worker::DIRECTORY);
            setting.push("=");
            setting.push(directory);
            let rest = [worker::ENTRY, "--exact", "--nocapture"];
            ["env".into(), setting, binary.into()].into_iter().chain(rest.map(Into::into)).collect()
        });
        fs::write(guardian.directory().join(worker::SETTINGS), settings.write()).expect("a directory");
        Client { guardian, proxies, launches: AtomicU32::new(0) }
    }

    pub fn launch(&self) {
        let number = self.launches.fetch_add(1, Ordering::SeqCst);
        self.guardian.launch(&format!("log-{number}"));
    }

    pub fn kill(&self) {
        blocking(|| self.guardian.kill());
    }

    pub fn pause(&self) {
        blocking(|| self.guardian.pause());
    }

    pub fn resume(&self) {
        blocking(|| self.guardian.resume());
    }

    pub fn has_ended(&self) -> bool {
        self.guardian.child_has_ended()
    }

    /// Replaces the file atomically, because the client may read it at any time.
    pub fn order(&self, order: Order) {
        let (new, path) = (self.file("order-new"), self.file(worker::ORDER));
        fs::write(&new, order.write()).and_then(|()| fs::rename(new, path)).expect("a directory");
    }

    /// The client's history, without a last line that was cut short by a kill.
    pub fn history(&self) -> Vec<Entry> {
        let text = fs::read_to_string(self.file(worker::HISTORY)).unwrap_or_default();
        let whole = text.rsplit_once('\n').map(|(whole, _)| whole).unwrap_or_default();
        whole.lines().map(|line| line.parse().unwrap_or_else(|error| panic!("{error}"))).collect()
    }

    /// Whether it has reported since then that a lease was lost.
    pub fn has_lost_since(&self, since: Time) -> bool {
        self.history().iter().any(|entry| matches!(entry, Entry::Lost(at) if *at > since))
    }

    /// The last lines of its history and its log.
    pub fn tail(&self) -> String {
        let log = format!("log-{}", self.launches.load(Ordering::SeqCst).saturating_sub(1));
        let read = |name: &str| fs::read_to_string(self.file(name)).unwrap_or_default();
        let last = |text: String, count: usize| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(count)..].join("\n")
        };
        let (order, history) = (read(worker::ORDER), last(read(worker::HISTORY), 25));
        format!("last order: {order}, time: {}\n{history}\n{}", now(), last(read(&log), 400))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.guardian.directory().join(name)
    }
}
