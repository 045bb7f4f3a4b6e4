//! Heartbeats: sends them, tells the machine of their answers, and finds out which own nodes are gone.

use futures::future::join_all;
use ractor::ActorRef;
use tracing::{debug, info, warn};

use super::{SessionMessage, SessionNotice, State};
use crate::machine::session::Event;
use crate::machine::{Failure, Moment};
use crate::runtime::log::SessionId;
use crate::zookeeper::CheckFailure;

impl State {
    pub(super) fn send_heartbeat(&mut self, sent: Moment) {
        let Some(live) = &mut self.live else { return };
        let client = &live.connection.client;
        let (batch, answer) = match std::mem::take(&mut live.skip_nodes) {
            true => (Vec::new(), client.check(&[])),
            false => live.connection.nodes.batch(&mut live.cursor, |batch| client.check(batch)),
        };
        // The pump ends only when this state is dropped, and then nobody waits for the answer.
        let _ = live.heartbeats.send(Box::pin(async move {
            SessionMessage::HeartbeatAnswered { sent, batch, result: answer.await }
        }));
    }

    pub(super) fn heartbeat_answered(
        &mut self,
        sent: Moment,
        batch: Vec<String>,
        result: Result<(), CheckFailure>,
        myself: &ActorRef<SessionMessage>,
    ) {
        if !matches!(result, Err(CheckFailure::Failed(_) | CheckFailure::Denied(_))) {
            self.arguments.metrics.heartbeat(self.arguments.clock.now().since(sent));
        }
        self.warn_if_denied(&result);
        let input = match result {
            Ok(()) => {
                self.log_round_trip(sent);
                Event::Answered { sent }
            }
            Err(CheckFailure::Missing(_) | CheckFailure::Unreadable(_)) => {
                self.examine(batch, myself);
                Event::Failed { sent, at_once: true }
            }
            Err(CheckFailure::Denied(_)) => Event::Failed { sent, at_once: false },
            Err(CheckFailure::Failed(failure)) => {
                debug!(epoch = self.arguments.epoch, ?failure, "heartbeat failed");
                Event::Failed { sent, at_once: false }
            }
        };
        self.feed(input, myself);
    }

    pub(super) fn identify(&mut self, sent: Moment) {
        let Some(live) = &self.live else { return };
        let owner = live.connection.client.owner(&live.connection.nodes.directories());
        // Fails only as for a heartbeat.
        let _ = live.heartbeats.send(Box::pin(async move {
            let owner = owner.await;
            SessionMessage::Identified { sent, owner }
        }));
    }

    pub(super) fn identified(
        &mut self,
        sent: Moment,
        owner: Result<Option<i64>, Failure>,
        myself: &ActorRef<SessionMessage>,
    ) {
        let (Some(live), epoch) = (&self.live, self.arguments.epoch) else { return };
        let session = live.connection.client.session();
        match owner {
            Ok(Some(owner)) if owner != session => {
                let (session, owner) = (SessionId(session), SessionId(owner));
                warn!(epoch, %session, %owner, "the server answered the reconnect with another session");
                self.feed(Event::Identified { sent, same: false }, myself);
            }
            // `None`: either this session has created no node that could belong to another session, or the server does
            // not show the owner, and such servers do not replace sessions.
            Ok(Some(_) | None) => self.feed(Event::Identified { sent, same: true }, myself),
            // The next heartbeat asks again.
            Err(failure) => debug!(epoch, ?failure, "connection not identified"),
        }
    }

    pub(super) fn missing(&mut self, paths: Vec<String>) {
        let Some(live) = &self.live else { return };
        // Nodes that their owners deleted in the meantime are no longer tracked, and not missing.
        let paths: Vec<String> =
            paths.into_iter().filter(|path| live.connection.nodes.untrack(path)).collect();
        let _ = self.arguments.registry.send_message(SessionNotice::Missing(paths));
    }

    /// Warns once when round trips become too long for the session's timeout, before that suspends the lease.
    fn log_round_trip(&mut self, sent: Moment) {
        let Some(live) = &mut self.live else { return };
        let (epoch, session) = (self.arguments.epoch, SessionId(live.connection.client.session()));
        let (round_trip, timeout) =
            (self.arguments.clock.now().since(sent), live.connection.client.timeout());
        if !live.slow && round_trip > timeout / SLOW {
            live.slow = true;
            warn!(epoch, %session, ?round_trip, ?timeout, "heartbeats are answered slowly");
        } else if live.slow && round_trip < timeout / (2 * SLOW) {
            live.slow = false;
            info!(epoch, %session, ?round_trip, "heartbeats are answered in time again");
        }
    }

    /// Warns once when an access list denies heartbeats.
    fn warn_if_denied(&mut self, result: &Result<(), CheckFailure>) {
        let Some(live) = &mut self.live else { return };
        let was_denied = live.denied;
        live.denied = matches!(result, Err(CheckFailure::Denied(_)));
        if let (Err(CheckFailure::Denied(path)), false) = (result, was_denied) {
            warn!(path, "the access list of a node denies reading it: leases cannot be proven");
        }
    }

    /// Reads each node of the batch, because a check reports only the first one that is missing or cannot be read.
    fn examine(&mut self, batch: Vec<String>, myself: &ActorRef<SessionMessage>) {
        let Some(live) = &mut self.live else { return };
        live.skip_nodes = true;
        let reads: Vec<_> = batch.iter().map(|path| live.connection.client.read(path)).collect();
        let (nodes, myself) = (live.connection.nodes.clone(), myself.clone());
        self.tasks.spawn(async move {
            let mut missing = Vec::new();
            for (path, read) in batch.into_iter().zip(join_all(reads).await) {
                match read {
                    Err(Failure::NoNode) => missing.push(path),
                    Err(Failure::NoAuth) if nodes.untrack(&path) => warn!(
                        path,
                        "the access list of an own node denies reading it: its removal would not be noticed"
                    ),
                    Ok(_) | Err(_) => {}
                }
            }
            let _ = myself.cast(SessionMessage::Missing(missing));
        });
    }
}

/// The part of the timeout up to which a round trip has no effect on leases.
const SLOW: u32 = 20;
