//! The faults that are injected. Each is a function that starts the fault, lets it last, and ends it. Sleeps are the
//! time that a fault lasts, or random pauses between its repetitions.
//!
//! Each fault also shows that it had an effect: clients connect again, a server does not answer, a lease is lost, a
//! late write is refused. Otherwise a fault that does nothing would pass.

use std::time::Duration;

use futures::future::LocalBoxFuture;
use lockkeeper_embedded::Proxy;
use tokio::time::{Instant, sleep, sleep_until};

use super::common::TestServer;
use super::effect::{self, Connections};
use super::history::now;
use super::locks::LEDGER;
use super::stage::{ELECTION, RECOVERY, SESSION, SYNC, Servers, Stage, blocking, within};
use super::worker::{Moment, Order};

pub struct Fault {
    pub name: &'static str,
    pub on: On,
    /// Injects the fault; the number selects the client that is the victim. Returns whether the fault struck: some
    /// faults need a client that holds a lock, and do not strike if it gets none in time. Panics if a fault that has
    /// struck has no effect.
    pub inflict: for<'a> fn(&'a Stage, usize) -> LocalBoxFuture<'a, bool>,
}

/// Which servers a fault applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Any,
    One,
    Three,
}

impl Fault {
    pub fn fits(&self, servers: &Servers) -> bool {
        match (self.on, servers) {
            (On::Any, _) | (On::One, Servers::One(_)) | (On::Three, Servers::Three { .. }) => true,
            (On::One, Servers::Three { .. }) | (On::Three, Servers::One(_)) => false,
        }
    }
}

macro_rules! fault {
    ($on:ident, $name:literal, $inflict:expr) => {
        Fault { name: $name, on: On::$on, inflict: |stage, victim| Box::pin($inflict(stage, victim)) }
    };
}

pub const FAULTS: &[Fault] = &[
    fault!(Any, "a client's connection reset again and again", resets),
    fault!(Any, "all connections reset", reset_all),
    fault!(Any, "a client in a black hole for a moment", black_hole),
    fault!(Any, "a client in a black hole for longer than its session", long_black_hole),
    fault!(Any, "a half-open connection", half_open),
    fault!(Any, "no replies", no_replies),
    fault!(Any, "replies lost, then a reset", replies_lost),
    fault!(Any, "requests lost, then a reset", |stage, _| requests_lost(stage)),
    fault!(Any, "slow replies", |stage, victim| slow(stage, victim, 0.1)),
    fault!(Any, "replies slower than heartbeats", |stage, victim| slow(stage, victim, 0.2)),
    fault!(Any, "a client paused for a moment", paused),
    fault!(Any, "a client paused for longer than its session", long_paused),
    fault!(Any, "a client killed", killed),
    fault!(Any, "clients killed while they acquire", |stage, _| kill_at(stage, &Moment::ALL[..4])),
    fault!(Any, "clients killed while they hold and release", |stage, _| kill_at(stage, &Moment::ALL[4..])),
    fault!(One, "the server paused", |stage, _| server_paused(stage)),
    fault!(One, "the server restarted", |stage, _| server_restarted(stage)),
    fault!(Three, "a client moved from server to server", moved),
    fault!(Three, "the leader killed", |stage, _| member_killed(stage, Role::Leader)),
    fault!(Three, "a follower killed", |stage, _| member_killed(stage, Role::Follower)),
    fault!(Three, "a follower killed that loses its data", |stage, _| member_replaced(stage)),
    fault!(Three, "the leader paused for a moment", |stage, _| member_paused(stage, Role::Leader, SYNC / 3)),
    fault!(Three, "the leader paused and deposed", |stage, _| leader_deposed(stage)),
    fault!(Three, "a follower paused and left behind", |stage, _| {
        member_paused(stage, Role::Follower, SYNC + SYNC / 2)
    }),
    fault!(Three, "every server restarted, one after the other", |stage, _| rolling_restart(stage)),
    fault!(Three, "a follower cut off from its leader but not from its client", |stage, victim| {
        costs_the_lease(stage, victim, follower_cut_off(stage, victim, false))
    }),
    fault!(Three, "a follower that no longer hears its leader", |stage, victim| {
        costs_the_lease(stage, victim, follower_cut_off(stage, victim, true))
    }),
    fault!(Three, "the leader cut off from its followers but not from its client", |stage, victim| {
        costs_the_lease(stage, victim, leader_cut_off(stage, victim))
    }),
    fault!(Three, "a follower's link to its leader reset again and again", |stage, _| link_resets(stage)),
];

async fn resets(stage: &Stage, victim: usize) -> bool {
    let proxies = &stage.clients[victim].proxies;
    let before = Connections::of(proxies);
    for _ in 0..6 {
        proxies.iter().for_each(|proxy| proxy.cut());
        sleep(stage.dice(|dice| dice.time(300))).await;
    }
    before.are_replaced().await;
    true
}

async fn reset_all(stage: &Stage, _: usize) -> bool {
    let before = Connections::of_all(stage);
    stage.clients.iter().flat_map(|client| &client.proxies).for_each(|proxy| proxy.cut());
    Connections::all_are_replaced(&before).await;
    true
}

/// For less time than a session lasts.
async fn black_hole(stage: &Stage, victim: usize) -> bool {
    let struck = hold(stage, victim, Order::Hold).await;
    in_black_hole(stage, victim, SESSION.mul_f64(0.3)).await;
    struck
}

async fn long_black_hole(stage: &Stage, victim: usize) -> bool {
    let fault = async {
        let struck = hold(stage, victim, Order::Hold).await;
        in_black_hole(stage, victim, 2 * SESSION).await;
        struck
    };
    costs_the_lease(stage, victim, fault).await
}

async fn in_black_hole(stage: &Stage, victim: usize, time: Duration) {
    let (proxies, begun) = (&stage.clients[victim].proxies, Instant::now());
    proxies.iter().for_each(|proxy| proxy.black_hole(true));
    effect::silence(proxies.iter().map(Proxy::address)).await;
    sleep_until(begun + time).await;
    proxies.iter().for_each(|proxy| proxy.black_hole(false));
}

async fn half_open(stage: &Stage, victim: usize) -> bool {
    let proxies = &stage.clients[victim].proxies;
    let before = Connections::of(proxies);
    proxies.iter().for_each(|proxy| proxy.half_open());
    sleep(SESSION).await;
    before.are_replaced().await;
    proxies.iter().for_each(|proxy| proxy.cut());
    true
}

async fn no_replies(stage: &Stage, victim: usize) -> bool {
    let (proxies, begun) = (&stage.clients[victim].proxies, Instant::now());
    proxies.iter().for_each(|proxy| proxy.hold_replies(true));
    effect::silence(proxies.iter().map(Proxy::address)).await;
    sleep_until(begun + SESSION.mul_f64(1.5)).await;
    proxies.iter().for_each(|proxy| proxy.hold_replies(false));
    true
}

async fn replies_lost(stage: &Stage, victim: usize) -> bool {
    let proxies = &stage.clients[victim].proxies;
    let dropped = || proxies.iter().map(Proxy::dropped_bytes).sum::<u64>();
    for _ in 0..5 {
        let before = dropped();
        proxies.iter().for_each(|proxy| proxy.drop_replies_then_cut());
        sleep(stage.dice(|dice| dice.time(60))).await;
        // A client that keeps a lock sends nothing but heartbeats.
        let lost = within(RECOVERY, async || dropped() > before).await;
        assert!(lost.is_some(), "no reply is lost");
        proxies.iter().for_each(|proxy| proxy.cut());
        sleep(stage.dice(|dice| dice.time(200))).await;
    }
    true
}

/// For all clients. Requests that were swallowed by the black hole are lost, because the connection is cut afterwards.
async fn requests_lost(stage: &Stage) -> bool {
    let before = Connections::of_all(stage);
    for _ in 0..8 {
        for proxy in stage.clients.iter().flat_map(|client| &client.proxies) {
            proxy.black_hole(true);
        }
        sleep(stage.dice(|dice| dice.time(40))).await;
        for proxy in stage.clients.iter().flat_map(|client| &client.proxies) {
            proxy.cut();
            proxy.black_hole(false);
        }
        sleep(stage.dice(|dice| dice.time(300))).await;
    }
    Connections::all_are_replaced(&before).await;
    true
}

/// Delays both directions by this part of a session timeout.
async fn slow(stage: &Stage, victim: usize, sessions: f64) -> bool {
    let (proxies, begun) = (&stage.clients[victim].proxies, Instant::now());
    let delay = SESSION.mul_f64(sessions);
    proxies.iter().for_each(|proxy| proxy.delay(delay));
    effect::slowness(proxies.iter().map(Proxy::address), 2 * delay).await;
    sleep_until(begun + 2 * SESSION).await;
    proxies.iter().for_each(|proxy| proxy.delay(Duration::ZERO));
    true
}

/// For less time than a session lasts.
async fn paused(stage: &Stage, victim: usize) -> bool {
    let struck = hold(stage, victim, Order::Hold).await;
    let client = &stage.clients[victim];
    client.pause();
    let before = client.history().len();
    sleep(SESSION.mul_f64(0.4)).await;
    assert_eq!(client.history().len(), before, "a client that is stopped goes on");
    client.resume();
    struck
}

/// The victim continues after another client has written under its own lock. Its late write must be refused.
async fn long_paused(stage: &Stage, victim: usize) -> bool {
    let client = &stage.clients[victim];
    let fault = async {
        let struck = hold(stage, victim, Order::HoldAlone).await;
        client.pause();
        let (lines, newest) = (client.history().len(), stage.resource.seen().newest(&LEDGER));
        sleep(2 * SESSION).await;
        if struck {
            let taken = within(RECOVERY, async || stage.resource.seen().newest(&LEDGER) > newest).await;
            assert!(taken.is_some(), "nobody else gets the lock of a client that is stopped");
        }
        assert_eq!(client.history().len(), lines, "a client that is stopped goes on");
        let refused = stage.resource.seen().refused;
        client.resume();
        if struck {
            let found = within(RECOVERY, async || stage.resource.seen().refused > refused).await;
            assert!(found.is_some(), "no late write is refused");
        }
        struck
    };
    costs_the_lease(stage, victim, fault).await
}

async fn killed(stage: &Stage, victim: usize) -> bool {
    let client = &stage.clients[victim];
    client.kill();
    let before = client.history().len();
    sleep(stage.dice(|dice| dice.time(500))).await;
    assert_eq!(client.history().len(), before, "a client that was killed goes on");
    client.launch();
    true
}

/// Every client kills itself at one of the moments, until all moments were used.
async fn kill_at(stage: &Stage, moments: &[Moment]) -> bool {
    for moments in moments.chunks(stage.clients.len()) {
        let doomed: Vec<_> = stage.clients.iter().zip(moments).collect();
        for (client, moment) in &doomed {
            let slow = stage.dice(|dice| dice.time(3));
            client.proxies.iter().for_each(|proxy| proxy.delay(slow));
            client.order(Order::Die(**moment));
        }
        for (client, moment) in &doomed {
            let ended = within(RECOVERY, async || client.has_ended()).await;
            assert!(ended.is_some(), "no client reaches {moment:?}:\n{}", client.tail());
            client.proxies.iter().for_each(|proxy| proxy.delay(Duration::ZERO));
            client.order(Order::Work);
            client.kill();
            client.launch();
        }
    }
    true
}

async fn server_paused(stage: &Stage) -> bool {
    let Servers::One(server) = &stage.servers else { return false };
    match server {
        TestServer::Embedded(server) => server.controls().pause(),
        TestServer::Standalone(server) => blocking(|| server.pause()),
        TestServer::Ensemble(_) => return false,
    }
    effect::silence([server.address()]).await;
    sleep(stage.dice(|dice| dice.time(3000))).await;
    match server {
        TestServer::Embedded(server) => server.controls().resume(),
        TestServer::Standalone(server) => blocking(|| server.resume()),
        TestServer::Ensemble(_) => return false,
    }
    true
}

async fn server_restarted(stage: &Stage) -> bool {
    let Servers::One(server) = &stage.servers else { return false };
    let before = Connections::of_all(stage);
    blocking(|| server.restart());
    Connections::all_are_replaced(&before).await;
    true
}

/// Only one server accepts the client, a different one each time.
async fn moved(stage: &Stage, victim: usize) -> bool {
    let proxies = &stage.clients[victim].proxies;
    for turn in 0..6 {
        stay_at(stage, victim, turn % proxies.len());
        sleep(stage.dice(|dice| dice.time(600))).await;
    }
    let visited = within(RECOVERY, async || proxies[5 % proxies.len()].open() > 0).await;
    assert!(visited.is_some(), "the client does not come to the only server that accepts it");
    proxies.iter().for_each(|proxy| proxy.refuse(false));
    true
}

fn stay_at(stage: &Stage, victim: usize, server: usize) {
    for (number, proxy) in stage.clients[victim].proxies.iter().enumerate() {
        proxy.refuse(number != server);
        if number != server {
            proxy.cut();
        }
    }
}

#[derive(Clone, Copy)]
enum Role {
    Leader,
    Follower,
}

fn member(stage: &Stage, role: Role) -> usize {
    blocking(|| match role {
        Role::Leader => stage.ensemble().leader(),
        Role::Follower => stage.ensemble().follower(),
    })
}

async fn member_killed(stage: &Stage, role: Role) -> bool {
    let member = stage.ensemble().member(member(stage, role));
    blocking(|| member.stop());
    effect::silence([member.address()]).await;
    sleep(stage.dice(|dice| dice.time(2000))).await;
    blocking(|| member.restart());
    true
}

async fn member_replaced(stage: &Stage) -> bool {
    let number = member(stage, Role::Follower);
    stage.replace(number);
    true
}

async fn member_paused(stage: &Stage, role: Role, time: Duration) -> bool {
    let member = stage.ensemble().member(member(stage, role));
    let begun = Instant::now();
    blocking(|| member.pause());
    effect::silence([member.address()]).await;
    sleep_until(begun + time).await;
    blocking(|| member.resume());
    true
}

/// Lasts until the others have another leader.
async fn leader_deposed(stage: &Stage) -> bool {
    let (leader, begun) = (member(stage, Role::Leader), Instant::now());
    let paused = stage.ensemble().member(leader);
    blocking(|| paused.pause());
    effect::silence([paused.address()]).await;
    sleep_until(begun + SYNC + SYNC / 2).await;
    let successor = within(ELECTION, async || member(stage, Role::Leader) != leader).await;
    blocking(|| paused.resume());
    assert!(successor.is_some(), "the leader that is stopped stays the leader");
    true
}

async fn rolling_restart(stage: &Stage) -> bool {
    let before = Connections::of_all(stage);
    for member in stage.ensemble().members() {
        blocking(|| member.restart());
    }
    Connections::all_are_replaced(&before).await;
    true
}

/// Lasts until the leader has expired the follower's sessions and the follower has noticed. If `deaf`, what the
/// follower sends still arrives.
pub async fn follower_cut_off(stage: &Stage, victim: usize, deaf: bool) -> bool {
    let (leader, follower) = (member(stage, Role::Leader), member(stage, Role::Follower));
    let struck = stay_at_and_hold(stage, victim, follower).await;
    let link = stage.link(follower, leader);
    match deaf {
        true => link.hold_replies(true),
        false => link.black_hole(true),
    }
    sleep(SYNC + SYNC / 3).await;
    match deaf {
        true => link.hold_replies(false),
        false => link.black_hole(false),
    }
    stage.clients[victim].proxies.iter().for_each(|proxy| proxy.refuse(false));
    struck
}

/// Lasts until the others have elected a new leader.
async fn leader_cut_off(stage: &Stage, victim: usize) -> bool {
    let leader = member(stage, Role::Leader);
    let struck = stay_at_and_hold(stage, victim, leader).await;
    let followers = (0..stage.ensemble().members().len()).filter(|member| *member != leader);
    let links: Vec<_> = followers.map(|follower| stage.link(follower, leader)).collect();
    links.iter().for_each(|link| link.black_hole(true));
    sleep(SYNC + SYNC / 3).await;
    links.iter().for_each(|link| link.black_hole(false));
    stage.clients[victim].proxies.iter().for_each(|proxy| proxy.refuse(false));
    struck
}

/// Moves the victim to this server and has it hold a lock there.
async fn stay_at_and_hold(stage: &Stage, victim: usize, server: usize) -> bool {
    stay_at(stage, victim, server);
    hold(stage, victim, Order::Hold).await
}

/// Has a client keep a lock. Returns whether it got one in time.
pub async fn hold(stage: &Stage, client: usize, order: Order) -> bool {
    let begun = now();
    stage.clients[client].order(order);
    let holds = async || match stage.resource.seen().followed.get(&client) {
        Some((at, followed)) => *at > begun && *followed == order.write(),
        None => false,
    };
    within(RECOVERY, holds).await.is_some()
}

/// Injects a fault that lasts for longer than a lease. If the victim held a lock, it must report the loss.
async fn costs_the_lease(stage: &Stage, victim: usize, fault: impl Future<Output = bool>) -> bool {
    let (client, begun) = (&stage.clients[victim], now());
    let struck = fault.await;
    if struck {
        let lost = within(RECOVERY, async || client.has_lost_since(begun)).await;
        assert!(lost.is_some(), "the lease outlasts the fault:\n{}", client.tail());
    }
    struck
}

/// For one follower only: if all links are reset at once, a ZooKeeper 3.8.0 server may lead or follow but not answer
/// any client for a minute.
async fn link_resets(stage: &Stage) -> bool {
    let (leader, follower) = (member(stage, Role::Leader), member(stage, Role::Follower));
    let link = stage.link(follower, leader);
    let before = link.accepted();
    for _ in 0..4 {
        link.cut();
        sleep(stage.dice(|dice| dice.time(1000))).await;
    }
    let again = within(ELECTION, async || link.accepted() > before).await;
    assert!(again.is_some(), "the follower does not connect again");
    true
}
