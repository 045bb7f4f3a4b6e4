//! Proves until when the session lives.
//!
//! A reply by itself proves little. A follower that is cut off from its leader goes on answering reads while the leader
//! lets the session expire, and a client's touches reach the leader only inside the answers to the leader's pings,
//! which come every half tick (`LearnerHandler.ping`, `Leader.lead`). So the heartbeat is a write that goes through the
//! quorum, and the session is proven to live until T + timeout, on our clock, for each of these T:
//!
//! - the beginning of the connect that created the session: the leader tracks the session before the create commits;
//! - the sending of a write s1, once two later writes s2 and s3 were answered too, where s2 was sent at least a *gap*
//!   after s1's answer came, and s3 was sent after s2's answer came. The gap is longer than half a tick, so a ping left
//!   the leader during the gap. Links are first-in-first-out, so that ping reached the follower before s2's commit did,
//!   and its answer carried the touch of s1. The commit of s3 shows that the leader had read that answer;
//! - the sending of the last write that was answered before a reconnect of the same session: the handshake revalidates
//!   the session at the leader, which happens later.
//!
//! Some servers answer a reconnect with a new session, and the client takes it for the old one. Answers that come over
//! such a connection prove nothing about the session that owns our nodes. So a new connection proves nothing, and
//! verifies nothing, until it is *identified*: what it creates has been shown to belong to the session that this
//! machine knows.
//!
//! The session is proven until the latest of these ends, less a margin for the different rates of two clocks. What
//! remains are races inside the server (a session picked for expiry and touched in the same instant), which fencing
//! tokens cover.
//!
//! The session is held while its connection is verified and at least five sixteenths of its timeout are still proven;
//! otherwise it is suspended. So suspension follows from what is proven, and its cause does not matter: no answers,
//! heartbeats that are rejected at once, or servers too far away for the timeout.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use super::{Machine, Moment};

/// The machine of one session: see the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    timeout: Duration,
    gap: Duration,
    stage: Stage,
    /// The server keeps the session at least until then.
    proven: Moment,
    link: Link,
    /// When each unanswered heartbeat on this connection was sent, oldest first.
    in_flight: VecDeque<Moment>,
    /// When the newest heartbeat was sent on this connection; `None` if the next one is due at once.
    last_beat: Option<Moment>,
    /// Answered heartbeats, oldest first, as far back as a proof may reach.
    writes: VecDeque<Write>,
    /// The sending of the newest write that was answered before the connection broke. Proves the session once the next
    /// connection is identified.
    before_cut: Option<Moment>,
}

/// What is known about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Link {
    Down,
    Up {
        /// When the connection was reported.
        since: Moment,
        /// The connection was shown to belong to this session.
        identified: bool,
        /// A heartbeat that was sent over this connection was answered.
        answered: bool,
    },
}

/// An answered heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Write {
    sent: Moment,
    answered: Moment,
    /// The sending of the newest write that was answered at least a gap before this one was sent (s1, when this write
    /// is s2).
    relays: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Established so slowly that nothing is proven yet. Given up at this moment.
    Starting(Moment),
    Live,
    Suspended,
    Lost,
}

/// What happened to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A heartbeat succeeded.
    Answered {
        /// When it was sent.
        sent: Moment,
    },
    /// A heartbeat failed, which proves nothing.
    Failed {
        /// When it was sent.
        sent: Moment,
        /// It failed only because of a node of ours, so the next heartbeat is sent at once, without nodes.
        at_once: bool,
    },
    /// The answer to a [`Command::Identify`].
    Identified {
        /// When it was sent.
        sent: Moment,
        /// Whether nodes created over the connection belong to this session.
        same: bool,
    },
    /// The connection broke.
    Disconnected,
    /// The client has a new connection, which it takes for one of this session.
    Reconnected,
    /// The client reports that the session has ended.
    Ended,
    /// The time that [`Machine::wakeup`] named has come.
    Wake,
}

/// What the driver must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Send a heartbeat now. The moment identifies it, and is no later than its sending.
    Heartbeat(Moment),
    /// Find out now whether nodes created over the connection belong to this session. The moment identifies the
    /// request, as for a heartbeat.
    Identify(Moment),
    /// Leases are held, and proven until then.
    Hold(Moment),
    /// Leases are suspended, and end then at the latest.
    Suspend(Moment),
    /// The session is lost.
    Lose,
}

impl Session {
    /// A session whose connect began at `begun` and succeeded `now`. `tick` is the server's tickTime, if known.
    /// Otherwise the gap assumes that the timeout is at least two ticks, which is the server's default minimum.
    pub fn new(
        begun: Moment,
        now: Moment,
        timeout: Duration,
        tick: Option<Duration>,
        out: &mut Vec<Command>,
    ) -> Session {
        let mut session = Session {
            timeout,
            gap: match tick {
                // The gap is longer than half a tick, also if the server has granted less than two ticks.
                Some(tick) => (tick * 3 / 4).min(timeout * 3 / 10).max(tick * 11 / 20),
                None => timeout * 3 / 10,
            },
            stage: Stage::Starting(now + timeout),
            proven: begun + timeout,
            // The connection that created the session belongs to it.
            link: Link::Up { since: now, identified: true, answered: false },
            in_flight: VecDeque::new(),
            last_beat: None,
            writes: VecDeque::new(),
            before_cut: None,
        };
        if now.since(begun) < timeout / 4 {
            session.link = Link::Up { since: now, identified: true, answered: true };
            session.stage = Stage::Live;
            out.push(Command::Hold(session.valid_until()));
        } else {
            out.push(Command::Suspend(now + timeout));
        }
        session.beat(now, out);
        session
    }
}

impl Machine for Session {
    type Event = Event;
    type Command = Command;

    fn handle(&mut self, event: Event, now: Moment, out: &mut Vec<Command>) {
        if self.stage == Stage::Lost {
            return;
        }
        let before = (self.stage, self.valid_until());
        match event {
            Event::Answered { sent } => self.answered(sent, now),
            Event::Failed { sent, at_once } => {
                if self.take_in_flight(sent) && at_once {
                    self.last_beat = None;
                }
            }
            Event::Identified { sent, same } => match &mut self.link {
                Link::Up { since, .. } if sent < *since => {}
                Link::Up { .. } if !same => return self.lose(out),
                Link::Up { identified, .. } => {
                    *identified = true;
                    if let Some(sent) = self.before_cut.take() {
                        self.prove(sent);
                    }
                }
                Link::Down => {}
            },
            Event::Disconnected => {
                if matches!(self.link, Link::Up { identified: true, .. }) {
                    self.before_cut = self.writes.back().map(|write| write.sent);
                }
                self.link = Link::Down;
                self.in_flight.clear();
            }
            Event::Reconnected => {
                self.link = Link::Up { since: now, identified: false, answered: false };
                self.in_flight.clear();
                self.last_beat = None;
            }
            Event::Ended => return self.lose(out),
            Event::Wake => {}
        }
        self.update_stage(before, now, out);
        if self.stage != Stage::Lost {
            self.beat(now, out);
        }
    }

    fn wakeup(&self) -> Option<Moment> {
        let stage_ends = match self.stage {
            Stage::Starting(end) => end,
            Stage::Live => self.suspended_from(),
            Stage::Suspended => self.valid_until(),
            Stage::Lost => return None,
        };
        Some(self.next_beat().map_or(stage_ends, |beat| beat.min(stage_ends)))
    }
}

impl Session {
    fn answered(&mut self, sent: Moment, now: Moment) {
        self.take_in_flight(sent);
        let relays =
            (self.writes.iter().rev()).find(|first| first.answered + self.gap <= sent).map(|w| w.sent);
        let proven =
            self.writes.iter().filter(|second| second.answered < sent).filter_map(|w| w.relays).max();
        self.writes.push_back(Write { sent, answered: now, relays });
        let horizon = self.timeout;
        self.writes.retain(|write| now.since(write.sent) <= horizon);
        match &mut self.link {
            Link::Up { since, identified, answered } => {
                *answered |= sent >= *since;
                // Writes that were answered over earlier connections belong to the session in any case.
                if let Some(first) = proven.filter(|_| *identified) {
                    self.prove(first);
                }
            }
            Link::Down => {}
        }
    }

    /// Notes that the server keeps the session for a whole timeout from this moment.
    fn prove(&mut self, moment: Moment) {
        self.proven = self.proven.max(moment + self.timeout);
    }

    /// Removes a heartbeat from those in flight. Returns whether it was in flight on this connection.
    fn take_in_flight(&mut self, sent: Moment) -> bool {
        let found = self.in_flight.iter().position(|beat| *beat == sent);
        found.is_some_and(|index| self.in_flight.remove(index).is_some())
    }

    /// Derives the stage and the proven end from what is known `now`, and commands what changed since `before`.
    fn update_stage(&mut self, before: (Stage, Moment), now: Moment, out: &mut Vec<Command>) {
        let end = match self.stage {
            Stage::Starting(end) => end,
            Stage::Live | Stage::Suspended => self.valid_until(),
            Stage::Lost => return,
        };
        if now >= end {
            return self.lose(out);
        }
        let verified = matches!(self.link, Link::Up { identified: true, answered: true, .. });
        self.stage = match self.stage {
            _ if verified && now < self.suspended_from() => Stage::Live,
            Stage::Starting(end) => Stage::Starting(end),
            Stage::Live | Stage::Suspended => Stage::Suspended,
            Stage::Lost => Stage::Lost,
        };
        let until = self.valid_until();
        if before != (self.stage, until) {
            match self.stage {
                Stage::Live => out.push(Command::Hold(until)),
                Stage::Suspended => out.push(Command::Suspend(until)),
                Stage::Starting(_) | Stage::Lost => {}
            }
        }
    }

    fn beat(&mut self, now: Moment, out: &mut Vec<Command>) {
        if self.next_beat().is_some_and(|due| now >= due) {
            self.last_beat = Some(now);
            self.in_flight.push_back(now);
            if matches!(self.link, Link::Up { identified: false, .. }) {
                out.push(Command::Identify(now));
            }
            out.push(Command::Heartbeat(now));
        }
    }

    fn next_beat(&self) -> Option<Moment> {
        match self.link {
            Link::Up { since, .. } if self.in_flight.len() < MOST_IN_FLIGHT => {
                Some(self.last_beat.map_or(since, |sent| sent + self.period()))
            }
            Link::Up { .. } | Link::Down => None,
        }
    }

    fn lose(&mut self, out: &mut Vec<Command>) {
        self.stage = Stage::Lost;
        out.push(Command::Lose);
    }

    fn valid_until(&self) -> Moment {
        self.proven - self.timeout / MARGIN
    }

    fn suspended_from(&self) -> Moment {
        self.valid_until() - self.timeout * SUSPENDED.0 / SUSPENDED.1
    }

    /// The time between two heartbeats. A proof takes the gap, three round trips, and waits for up to three heartbeats;
    /// after all that, [`KEPT`] of the timeout must be left. The longest remembered round trip counts.
    fn period(&self) -> Duration {
        let trips = self.writes.iter().map(|write| write.answered.since(write.sent)).max();
        let trips = trips.unwrap_or(self.timeout);
        let spent = self.gap + trips * 3 + self.timeout * KEPT.0 / KEPT.1;
        let period = self.timeout.saturating_sub(spent) / 3;
        period.clamp(self.timeout / MOST_BEATS, self.timeout / LEAST_BEATS)
    }
}

/// The part of the timeout that is still proven at any time, if the servers are near enough. After an outage, the client
/// waits up to as long again before it tries to connect, so one of less than a fifth of the timeout loses no lease.
const KEPT: (u32, u32) = (7, 16);

/// With less than this part of the timeout left, the session is suspended. This is more than the last quarter, in which
/// singletons are stopped, so they are told of the suspension first.
const SUSPENDED: (u32, u32) = (5, 16);

/// The minimum and maximum number of heartbeats in a session timeout.
const LEAST_BEATS: u32 = 8;
const MOST_BEATS: u32 = 32;

/// The maximum number of unanswered heartbeats. The next one waits for an answer.
const MOST_IN_FLIGHT: usize = 8;

/// The margin for clock rates is one hundredth of the timeout: ten times the difference of two clocks that are 500 ppm
/// off in opposite directions.
const MARGIN: u32 = 100;
