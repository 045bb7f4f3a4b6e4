//! Three ZooKeeper servers that elect a leader.

use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use super::STARTING;
use super::ports;
use super::server::{Failure, START_ATTEMPTS, START_LIMIT, Server, ServerOptions};

/// An ensemble on loopback that tolerates the loss of one member. Dropping it kills the members.
pub struct Ensemble {
    members: Vec<Server>,
}

impl Ensemble {
    /// Starts the three members and returns when all of them serve.
    pub fn start() -> Ensemble {
        Ensemble::start_with(&ServerOptions::default())
    }

    /// Like `start`, with other options for all members.
    pub fn start_with(options: &ServerOptions) -> Ensemble {
        Ensemble::start_linked(options, &|_, _, port| port)
    }

    /// Like `start_with`, with custom links between the members: `link(from, to, port)` returns the port at which
    /// `from` reaches the quorum port `port` of `to`. A proxy there can cut a follower off from its leader.
    pub fn start_linked(options: &ServerOptions, link: &dyn Fn(usize, usize, u16) -> u16) -> Ensemble {
        Ensemble::try_start(options, link).unwrap_or_else(|reason| panic!("{reason}"))
    }

    /// The addresses of all members, separated by commas.
    pub fn connect_string(&self) -> String {
        let addresses: Vec<String> = self.members.iter().map(Server::address).collect();
        addresses.join(",")
    }

    /// One member, numbered from 0, which can be queried, stopped, restarted and paused.
    pub fn member(&self, number: usize) -> &Server {
        &self.members[number]
    }

    pub fn members(&self) -> &[Server] {
        &self.members
    }

    /// The number of the leader. Waits for the election if there is none, for example after the leader was stopped or
    /// paused.
    pub fn leader(&self) -> usize {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let modes = self.modes();
            // After a pause, a former leader may still claim to lead for a moment.
            if count(&modes, "leader") == 1 && count(&modes, "follower") > 0 {
                if let Some(leader) = modes.iter().position(|mode| mode == "leader") {
                    return leader;
                }
            }
            assert!(
                Instant::now() < deadline,
                "the ensemble has no leader after {START_LIMIT:?}, but {modes:?}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The number of a running follower.
    pub fn follower(&self) -> usize {
        let leader = self.leader();
        let follows = |number: &usize| *number != leader && self.members[*number].is_running();
        (0..SIZE).find(follows).expect("a running follower")
    }
}

const SIZE: usize = 3;

/// How many ticks a member may take to join the leader, and how many it may fall behind it. The second limit bounds how
/// long the loss of a paused member goes unnoticed.
const INIT_LIMIT: u32 = 25;
const SYNC_LIMIT: u32 = 5;

impl Ensemble {
    fn try_start(
        options: &ServerOptions,
        link: &dyn Fn(usize, usize, u16) -> u16,
    ) -> Result<Ensemble, String> {
        let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attempt = 1;
        loop {
            let reserved = ports::reserve((options.ports() + 2) * SIZE);
            let (clients, peers) = reserved.ports.split_at(options.ports() * SIZE);
            let config = |member: usize| {
                let mut config = vec![format!("initLimit={INIT_LIMIT}"), format!("syncLimit={SYNC_LIMIT}")];
                for (number, ports) in peers.chunks(2).enumerate() {
                    let own = number == member;
                    let quorum = if own { ports[0] } else { link(member, number, ports[0]) };
                    config.push(format!("server.{}=127.0.0.1:{quorum}:{}", number + 1, ports[1]));
                }
                config
            };
            let members = clients
                .chunks(options.ports())
                .enumerate()
                .map(|(number, ports)| Server::prepare(ports, options, &config(number), Some(number + 1)))
                .collect::<Result<Vec<_>, _>>()?;
            let ensemble = Ensemble { members };
            drop(reserved);

            ensemble.members.iter().for_each(Server::relaunch);
            match ensemble.outcome_of_start() {
                Ok(()) => return Ok(ensemble),
                // The failure does not say which port was taken, so all of them are replaced.
                Err((_, Failure::PortTaken)) if attempt < START_ATTEMPTS => attempt += 1,
                Err((member, failure)) => return Err(member.explain(&failure)),
            }
        }
    }

    /// Waits until all members serve, or returns the first that fails and the reason.
    fn outcome_of_start(&self) -> Result<(), (&Server, Failure)> {
        let deadline = Instant::now() + START_LIMIT;
        for member in &self.members {
            let outcome = member.outcome_of_launch(deadline);
            outcome.map_err(|failure| (member, failure))?;
        }
        Ok(())
    }

    /// The mode that each member reports; empty if it does not answer.
    fn modes(&self) -> Vec<String> {
        let mode = |member: &Server| member.is_running().then(|| member.mode()).flatten();
        let modes = self.members.iter().map(mode);
        modes.map(Option::unwrap_or_default).collect()
    }
}

fn count(modes: &[String], wanted: &str) -> usize {
    modes.iter().filter(|mode| *mode == wanted).count()
}
