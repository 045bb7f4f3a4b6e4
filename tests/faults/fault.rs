//! The faults that are injected. Each is a function that starts the fault, lets it last, and ends it. Sleeps are the
//! time that a fault lasts, or random pauses between its repetitions.

use std::time::Duration;

use futures::future::LocalBoxFuture;
use tokio::time::sleep;

use super::common::TestServer;
use super::history::now;
use super::stage::{RECOVERY, SESSION, SYNC, Servers, Stage, blocking, within};
use super::worker::{Moment, Order};

pub struct Fault {
    pub name: &'static str,
    pub on: On,
    /// Injects the fault; the number selects the client that is the victim.
    pub inflict: for<'a> fn(&'a Stage, usize) -> LocalBoxFuture<'a, ()>,
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
    fault!(Any, "a client in a black hole for a moment", |stage, victim| black_hole(stage, victim, 0.3)),
    fault!(Any, "a client in a black hole for longer than its session", |stage, victim| {
        black_hole(stage, victim, 2.0)
    }),
    fault!(Any, "a half-open connection", half_open),
    fault!(Any, "no replies", no_replies),
    fault!(Any, "replies lost, then a reset", replies_lost),
    fault!(Any, "requests lost, then a reset", |stage, _| requests_lost(stage)),
    fault!(Any, "slow replies", |stage, victim| slow(stage, victim, 0.1)),
    fault!(Any, "replies slower than heartbeats", |stage, victim| slow(stage, victim, 0.2)),
    fault!(Any, "a client paused for a moment", |stage, victim| paused(stage, victim, 0.4)),
    fault!(Any, "a client paused for longer than its session", |stage, victim| paused(stage, victim, 2.0)),
    fault!(Any, "a client killed", killed),
    fault!(Any, "clients killed while they acquire", |stage, _| kill_at(stage, &Moment::ALL[..4])),
    fault!(Any, "clients killed while they hold and release", |stage, _| kill_at(stage, &Moment::ALL[4..])),
    fault!(One, "the server paused", |stage, _| server_paused(stage)),
    fault!(One, "the server restarted", |stage, _| server_restarted(stage)),
    fault!(Three, "a client moved from server to server", moved),
    fault!(Three, "the leader killed", |stage, _| member_killed(stage, Role::Leader)),
    fault!(Three, "a follower killed", |stage, _| member_killed(stage, Role::Follower)),
    fault!(Three, "the leader paused for a moment", |stage, _| member_paused(stage, Role::Leader, SYNC / 3)),
    fault!(Three, "the leader paused and deposed", |stage, _| {
        member_paused(stage, Role::Leader, SYNC + SYNC / 2)
    }),
    fault!(Three, "a follower paused and left behind", |stage, _| {
        member_paused(stage, Role::Follower, SYNC + SYNC / 2)
    }),
    fault!(Three, "every server restarted, one after the other", |stage, _| rolling_restart(stage)),
    fault!(Three, "a follower cut off from its leader but not from its client", |stage, victim| {
        follower_cut_off(stage, victim, false)
    }),
    fault!(Three, "a follower that no longer hears its leader", |stage, victim| {
        follower_cut_off(stage, victim, true)
    }),
    fault!(Three, "the leader cut off from its followers but not from its client", leader_cut_off),
    fault!(Three, "a follower's link to its leader reset again and again", |stage, _| link_resets(stage)),
];

async fn resets(stage: &Stage, victim: usize) {
    for _ in 0..6 {
        stage.clients[victim].proxies.iter().for_each(|proxy| proxy.cut());
        sleep(stage.dice(|dice| dice.time(300))).await;
    }
}

async fn reset_all(stage: &Stage, _: usize) {
    stage.clients.iter().flat_map(|client| &client.proxies).for_each(|proxy| proxy.cut());
}

async fn black_hole(stage: &Stage, victim: usize, sessions: f64) {
    hold(stage, victim).await;
    let proxies = &stage.clients[victim].proxies;
    proxies.iter().for_each(|proxy| proxy.black_hole(true));
    sleep(SESSION.mul_f64(sessions)).await;
    proxies.iter().for_each(|proxy| proxy.black_hole(false));
}

async fn half_open(stage: &Stage, victim: usize) {
    let proxies = &stage.clients[victim].proxies;
    proxies.iter().for_each(|proxy| proxy.half_open());
    sleep(SESSION).await;
    proxies.iter().for_each(|proxy| proxy.cut());
}

async fn no_replies(stage: &Stage, victim: usize) {
    let proxies = &stage.clients[victim].proxies;
    proxies.iter().for_each(|proxy| proxy.hold_replies(true));
    sleep(SESSION.mul_f64(1.5)).await;
    proxies.iter().for_each(|proxy| proxy.hold_replies(false));
}

async fn replies_lost(stage: &Stage, victim: usize) {
    let proxies = &stage.clients[victim].proxies;
    for _ in 0..5 {
        proxies.iter().for_each(|proxy| proxy.drop_replies_then_cut());
        sleep(stage.dice(|dice| dice.time(60))).await;
        proxies.iter().for_each(|proxy| proxy.cut());
        sleep(stage.dice(|dice| dice.time(200))).await;
    }
}

/// For all clients. Requests that were swallowed by the black hole are lost, because the connection is cut afterwards.
async fn requests_lost(stage: &Stage) {
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
}

/// Delays both directions by this part of a session timeout.
async fn slow(stage: &Stage, victim: usize, sessions: f64) {
    let proxies = &stage.clients[victim].proxies;
    proxies.iter().for_each(|proxy| proxy.delay(SESSION.mul_f64(sessions)));
    sleep(2 * SESSION).await;
    proxies.iter().for_each(|proxy| proxy.delay(Duration::ZERO));
}

async fn paused(stage: &Stage, victim: usize, sessions: f64) {
    hold(stage, victim).await;
    stage.clients[victim].pause();
    sleep(SESSION.mul_f64(sessions)).await;
    stage.clients[victim].resume();
}

async fn killed(stage: &Stage, victim: usize) {
    stage.clients[victim].kill();
    sleep(stage.dice(|dice| dice.time(500))).await;
    stage.clients[victim].launch();
}

/// Every client kills itself at one of the moments, until all moments were used.
async fn kill_at(stage: &Stage, moments: &[Moment]) {
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
}

async fn server_paused(stage: &Stage) {
    let Servers::One(server) = &stage.servers else { return };
    match server {
        TestServer::Embedded(server) => server.controls().pause(),
        TestServer::Standalone(server) => blocking(|| server.pause()),
        TestServer::Ensemble(_) => {}
    }
    sleep(stage.dice(|dice| dice.time(3000))).await;
    match server {
        TestServer::Embedded(server) => server.controls().resume(),
        TestServer::Standalone(server) => blocking(|| server.resume()),
        TestServer::Ensemble(_) => {}
    }
}

async fn server_restarted(stage: &Stage) {
    let Servers::One(server) = &stage.servers else { return };
    blocking(|| server.restart());
}

/// Only one server accepts the client, a different one each time.
async fn moved(stage: &Stage, victim: usize) {
    let proxies = &stage.clients[victim].proxies;
    for turn in 0..6 {
        stay_at(stage, victim, turn % proxies.len());
        sleep(stage.dice(|dice| dice.time(600))).await;
    }
    proxies.iter().for_each(|proxy| proxy.refuse(false));
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

async fn member_killed(stage: &Stage, role: Role) {
    let member = stage.ensemble().member(member(stage, role));
    blocking(|| member.stop());
    sleep(stage.dice(|dice| dice.time(2000))).await;
    blocking(|| member.restart());
}

async fn member_paused(stage: &Stage, role: Role, time: Duration) {
    let member = stage.ensemble().member(member(stage, role));
    blocking(|| member.pause());
    sleep(time).await;
    blocking(|| member.resume());
}

async fn rolling_restart(stage: &Stage) {
    for member in stage.ensemble().members() {
        blocking(|| member.restart());
    }
}

/// Lasts until the leader has expired the follower's sessions and the follower has noticed. If `deaf`, what the
/// follower sends still arrives.
pub async fn follower_cut_off(stage: &Stage, victim: usize, deaf: bool) {
    let (leader, follower) = (member(stage, Role::Leader), member(stage, Role::Follower));
    stay_at_and_hold(stage, victim, follower).await;
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
}

/// Lasts until the others have elected a new leader.
async fn leader_cut_off(stage: &Stage, victim: usize) {
    let leader = member(stage, Role::Leader);
    stay_at_and_hold(stage, victim, leader).await;
    let followers = (0..stage.ensemble().members().len()).filter(|member| *member != leader);
    let links: Vec<_> = followers.map(|follower| stage.link(follower, leader)).collect();
    links.iter().for_each(|link| link.black_hole(true));
    sleep(SYNC + SYNC / 3).await;
    links.iter().for_each(|link| link.black_hole(false));
    stage.clients[victim].proxies.iter().for_each(|proxy| proxy.refuse(false));
}

/// Moves the victim to this server and has it hold a lock there.
async fn stay_at_and_hold(stage: &Stage, victim: usize, server: usize) {
    stay_at(stage, victim, server);
    hold(stage, victim).await;
}

/// Has a client keep a lock of some kind. Returns whether it got one in time.
pub async fn hold(stage: &Stage, client: usize) -> bool {
    let begun = now();
    stage.clients[client].order(Order::Hold);
    let holds = async || stage.resource.seen().kept.get(&client).is_some_and(|at| *at > begun);
    within(2 * SESSION, holds).await.is_some()
}

/// For one follower only: if all links are reset at once, a ZooKeeper 3.8.0 server may lead or follow but not answer
/// any client for a minute.
async fn link_resets(stage: &Stage) {
    let (leader, follower) = (member(stage, Role::Leader), member(stage, Role::Follower));
    for _ in 0..4 {
        stage.link(follower, leader).cut();
        sleep(stage.dice(|dice| dice.time(1000))).await;
    }
}
