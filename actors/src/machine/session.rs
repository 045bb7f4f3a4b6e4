//! How long this process may believe that its session lives.
//!
//! A reply by itself proves little: a follower that is cut off from its leader goes on answering reads while the
//! leader lets the session expire, and a client's touches reach the leader only inside the answers to the
//! leader's pings, which come every half tick (`LearnerHandler.ping`, `Leader.lead`). So the heartbeat is a write
//! that goes through the quorum, and the session is proven to live until T + timeout, on our clock, for these T:
//!
//! - the beginning of the connect that made the session: the leader tracks it before the create commits;
//! - the sending of a write s1, once s2 and s3 were answered too, where s2 was sent at least a *gap* after s1's
//!   answer came and s3 after s2's. The gap is longer than half a tick, so a ping left the leader in it; links are
//!   first-in-first-out, so that ping reached the follower before s2's commit did, its answer carries the touch of
//!   s1, and s3's commit shows that the leader had read it;
//! - the sending of the last write answered before a reconnect of the same session: the handshake revalidates the
//!   session at the leader, later.
//!
//! Some servers answer a reconnect with a new session, and the client takes it for the old one. Answers that come over
//! such a connection prove nothing about the session whose nodes are ours. So a new connection proves nothing, and
//! verifies nothing, before it was *identified*: what it creates belongs to the session that this machine knows.
//!
//! From the latest of these a margin for the rates of two clocks is taken off. What is left are races inside the
//! server (a session picked for expiry and touched in the same instant); fencing tokens are for those.
//!
//! The session is held while its connection is verified and five sixteenths of its timeout are proven; otherwise it
//! is suspended. Doubt so follows from what is proven, whatever the reason: silence, heartbeats that are refused at
//! once, or servers too far away for the timeout.

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
    /// Heartbeats on this connection that are not answered yet, oldest first: when they were sent.
    in_flight: VecDeque<Moment>,
    /// When the newest heartbeat was sent on this connection; `None` if the next one is due at once.
    last_beat: Option<Moment>,
    /// Answered heartbeats, oldest first, as far back as a proof may reach.
    writes: VecDeque<Write>,
    /// When the newest write that was answered before the connection went was sent.
    before_cut: Option<Moment>,
}

/// What is known of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Link {
    Down,
    Up {
        /// When it was heard of.
        since: Moment,
        /// It was shown to belong to this session.
        identified: bool,
        /// A heartbeat that was sent over it was answered.
        answered: bool,
    },
}

/// An answered heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Write {
    sent: Moment,
    answered: Moment,
    /// The sending of the newest write that this one stands a gap behind.
    relays: Option<Moment>,
}

/// What is believed of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Made, but so slowly that nothing is proven yet; given up at this moment.
    Starting(Moment),
    Live,
    Suspended,
    Lost,
}

/// What happened to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The heartbeat that was sent then succeeded.
    Answered {
        /// When it was sent.
        sent: Moment,
    },
    /// The heartbeat that was sent then did not succeed; its outcome proves nothing.
    Failed {
        /// When it was sent.
        sent: Moment,
        /// It failed because a node of ours is gone, and should be sent again without that node.
        at_once: bool,
    },
    /// The answer to the [`Command::Identify`] of that moment.
    Identified {
        /// When it was sent.
        sent: Moment,
        /// Whether the connection makes nodes that belong to this session.
        same: bool,
    },
    /// The connection is gone.
    Disconnected,
    /// There is a new connection, of this session as the client believes.
    Reconnected,
    /// The client says that the session is over.
    Ended,
    /// The time that [`Machine::wakeup`] named has come.
    Wake,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Send a heartbeat now. It is known by this moment, which is no later than its sending.
    Heartbeat(Moment),
    /// Find out now whether what the connection makes belongs to this session. Known by this moment, as a heartbeat is.
    Identify(Moment),
    /// Holders may be sure until then.
    Hold(Moment),
    /// Holders can no longer be sure, and hold until then at the latest.
    Suspend(Moment),
    /// It is over.
    Lose,
}

impl Session {
    /// A session that was asked for at `begun` and is there `now`. `tick` is the server's tickTime where it is
    /// known; otherwise the gap comes from the default least session timeout of two ticks.
    pub fn new(
        begun: Moment,
        now: Moment,
        timeout: Duration,
        tick: Option<Duration>,
        out: &mut Vec<Command>,
    ) -> Session {
        let mut session = Session {
            timeout,
            gap: tick.map_or(timeout * 3 / 10, |tick| tick.min(timeout / 2) * 3 / 4),
            stage: Stage::Starting(now + timeout),
            proven: begun + timeout,
            // The connection that made the session makes nodes of that session.
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

    fn handle(&mut self, input: Event, now: Moment, out: &mut Vec<Command>) {
        if self.stage == Stage::Lost {
            return;
        }
        let before = (self.stage, self.valid_until());
        match input {
            Event::Answered { sent } => self.answered(sent, now),
            Event::Failed { sent, at_once } => {
                if self.settle(sent) && at_once {
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
        self.judge(before, now, out);
        if self.stage != Stage::Lost {
            self.beat(now, out);
        }
    }

    fn wakeup(&self) -> Option<Moment> {
        let judged = match self.stage {
            Stage::Starting(end) => end,
            Stage::Live => self.doubtful_from(),
            Stage::Suspended => self.valid_until(),
            Stage::Lost => return None,
        };
        Some(self.next_beat().map_or(judged, |beat| beat.min(judged)))
    }
}

impl Session {
    fn answered(&mut self, sent: Moment, now: Moment) {
        self.settle(sent);
        let relays =
            (self.writes.iter().rev()).find(|first| first.answered + self.gap <= sent).map(|w| w.sent);
        let shown = self.writes.iter().filter(|second| second.answered < sent).filter_map(|w| w.relays).max();
        self.writes.push_back(Write { sent, answered: now, relays });
        let horizon = self.timeout;
        self.writes.retain(|write| now.since(write.sent) <= horizon);
        match &mut self.link {
            Link::Up { since, identified, answered } => {
                *answered |= sent >= *since;
                // What was answered before this connection belongs to the session in any case.
                if *identified && let Some(first) = shown {
                    self.prove(first);
                }
            }
            Link::Down => {}
        }
    }

    /// The server keeps the session for a whole timeout from this moment.
    fn prove(&mut self, moment: Moment) {
        self.proven = self.proven.max(moment + self.timeout);
    }

    /// Whether that heartbeat was in flight on this connection.
    fn settle(&mut self, sent: Moment) -> bool {
        let found = self.in_flight.iter().position(|beat| *beat == sent);
        found.is_some_and(|index| self.in_flight.remove(index).is_some())
    }

    /// Draws the conclusions from what is known `now`, and tells them where they are others than before.
    fn judge(&mut self, before: (Stage, Moment), now: Moment, out: &mut Vec<Command>) {
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
            _ if verified && now < self.doubtful_from() => Stage::Live,
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
        before(self.proven, self.timeout / MARGIN)
    }

    fn doubtful_from(&self) -> Moment {
        before(self.valid_until(), self.timeout * DOUBT.0 / DOUBT.1)
    }

    /// Between heartbeats. A proof takes the gap and three round trips, and waits for up to three heartbeats on the way;
    /// what is left of the timeout is [`KEPT`]. Round trips are the longest of those that are remembered.
    fn period(&self) -> Duration {
        let trips = self.writes.iter().map(|write| write.answered.since(write.sent)).max();
        let trips = trips.unwrap_or(self.timeout);
        let spent = self.gap + trips * 3 + self.timeout * KEPT.0 / KEPT.1;
        let period = self.timeout.saturating_sub(spent) / 3;
        period.clamp(self.timeout / MOST_BEATS, self.timeout / LEAST_BEATS)
    }
}

fn before(moment: Moment, duration: Duration) -> Moment {
    Moment(moment.0.saturating_sub(duration.as_nanos() as u64))
}

/// The part of the timeout that is left at any time, where the servers are near enough. A fail-over that is over within
/// a third of the timeout then costs no guard.
const KEPT: (u32, u32) = (7, 16);

/// With less than this part of the timeout left, the session is in doubt. More than the quarter in which singletons are
/// stopped, so that they are told of the doubt first.
const DOUBT: (u32, u32) = (5, 16);

/// Heartbeats in a session timeout.
const LEAST_BEATS: u32 = 8;
const MOST_BEATS: u32 = 32;

/// Heartbeats without an answer, before the next one waits for an answer.
const MOST_IN_FLIGHT: usize = 8;

/// One part in a hundred of the timeout: twenty times what two clocks of 500 ppm can differ by.
const MARGIN: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(8000);

    fn at(ms: u64) -> Moment {
        Moment(0) + Duration::from_millis(ms)
    }

    fn started() -> (Session, Vec<Command>) {
        let mut out = Vec::new();
        let session = Session::new(at(0), at(0), TIMEOUT, None, &mut out);
        (session, out)
    }

    fn input(session: &mut Session, input: Event, ms: u64) -> Vec<Command> {
        let mut out = Vec::new();
        session.handle(input, at(ms), &mut out);
        out
    }

    /// Wakes the machine whenever it asks for it, before `end`, and answers every heartbeat ten milliseconds later.
    /// The first one was sent at zero. Returns what else it commanded, and when each heartbeat was sent.
    fn run(session: &mut Session, end: u64) -> (Vec<Command>, Vec<Moment>) {
        let (mut others, mut sent) = (Vec::new(), vec![at(0)]);
        others.extend(input(session, Event::Answered { sent: at(0) }, 10));
        while let Some(due) = session.wakeup().filter(|due| *due < at(end)) {
            let mut out = Vec::new();
            session.handle(Event::Wake, due, &mut out);
            if out.contains(&Command::Heartbeat(due)) {
                sent.push(due);
                let answer = Event::Answered { sent: due };
                session.handle(answer, due + Duration::from_millis(10), &mut out);
            }
            others.extend(out.into_iter().filter(|command| !matches!(command, Command::Heartbeat(_))));
        }
        (others, sent)
    }

    #[test]
    fn a_new_session_holds_from_the_beginning_of_its_connect() {
        let mut out = Vec::new();
        let session = Session::new(at(100), at(150), TIMEOUT, None, &mut out);
        assert_eq!(out, [Command::Hold(at(8020)), Command::Heartbeat(at(150))]);
        // Until the first answer tells how far away the servers are, heartbeats are as close as they may be.
        assert_eq!(session.wakeup(), Some(at(150 + 250)));
    }

    #[test]
    fn the_first_write_counts_only_when_a_second_came_a_gap_later_and_a_third_behind_it() {
        let (mut session, _) = started();
        // Three round trips, the gap and 7/16 of the timeout are kept, the rest is divided by three.
        let (others, sent) = run(&mut session, 3000);
        assert_eq!(sent, [at(0), at(690), at(1380), at(2070), at(2760)]);
        // Sent a gap of 2400 behind the answer at 10, and once more behind the answer of that.
        assert_eq!(others, []);
        assert_eq!(input(&mut session, Event::Wake, 3450), [Command::Heartbeat(at(3450))]);
        assert_eq!(
            input(&mut session, Event::Answered { sent: at(3450) }, 3460),
            [],
            "the first write was sent at zero, as the connect was"
        );
        assert_eq!(input(&mut session, Event::Wake, 4140), [Command::Heartbeat(at(4140))]);
        assert_eq!(
            input(&mut session, Event::Answered { sent: at(4140) }, 4150),
            [Command::Hold(at(690 + 8000 - 80))]
        );
    }

    #[test]
    fn a_third_write_that_was_sent_before_the_second_was_answered_shows_nothing() {
        let (mut session, _) = started();
        run(&mut session, 3000);
        for sent in [3450, 4140] {
            assert_eq!(input(&mut session, Event::Wake, sent), [Command::Heartbeat(at(sent))]);
        }
        assert_eq!(input(&mut session, Event::Answered { sent: at(3450) }, 4140), []);
        assert_eq!(input(&mut session, Event::Answered { sent: at(4140) }, 4150), []);
    }

    #[test]
    fn seven_sixteenths_of_the_timeout_are_left_at_any_time() {
        let (mut session, _) = started();
        let (others, _) = run(&mut session, 40_000);
        let mut until = at(7920);
        for command in others {
            let Command::Hold(end) = command else { panic!("{command:?}") };
            until = end;
        }
        assert!(until >= at(40_000 + 3500 - 80), "{until:?}");
    }

    #[test]
    fn a_known_tick_leaves_more() {
        let mut out = Vec::new();
        let mut session = Session::new(at(0), at(0), TIMEOUT, Some(Duration::from_millis(400)), &mut out);
        let (_, sent) = run(&mut session, 40_000);
        // Heartbeats an eighth of the timeout apart, the gap of 300 within one of them.
        assert_eq!(sent.last(), Some(&at(39_000)));
        assert_eq!(session.valid_until(), at(37_000 + 8000 - 80));
    }

    #[test]
    fn heartbeats_without_an_answer_suspend_in_time_and_answers_resume() {
        let (mut session, _) = started();
        run(&mut session, 3000);
        let mut out = Vec::new();
        while let Some(due) = session.wakeup().filter(|due| *due <= at(7920 - 2500)) {
            session.handle(Event::Wake, due, &mut out);
        }
        let doubt = Command::Suspend(at(7920));
        assert_eq!(out.pop(), Some(doubt));
        let sent: Vec<Moment> = [3450, 4140, 4830].map(at).into();
        assert_eq!(out, sent.iter().map(|sent| Command::Heartbeat(*sent)).collect::<Vec<_>>());
        // They show what was sent a gap before them, as soon as another one sent behind their answers is answered.
        let late = |sent| Event::Answered { sent };
        assert_eq!(input(&mut session, late(at(3450)), 5450), [Command::Heartbeat(at(5450))]);
        assert_eq!(input(&mut session, late(at(4140)), 5450), []);
        assert_eq!(input(&mut session, late(at(4830)), 5450), []);
        assert_eq!(input(&mut session, Event::Wake, 5700), [Command::Heartbeat(at(5700))]);
        assert_eq!(input(&mut session, late(at(5700)), 5710), [Command::Hold(at(2070 + 8000 - 80))]);
    }

    #[test]
    fn no_more_than_so_many_heartbeats_wait_for_an_answer() {
        let (mut session, mut out) = started();
        while let Some(due) = session.wakeup().filter(|due| *due < at(5000)) {
            session.handle(Event::Wake, due, &mut out);
        }
        let beats = out.iter().filter(|command| matches!(command, Command::Heartbeat(_))).count();
        assert_eq!(beats, MOST_IN_FLIGHT);
    }

    #[test]
    fn without_answers_it_is_lost_at_the_deadline_and_for_good() {
        let (mut session, _) = started();
        assert_eq!(input(&mut session, Event::Wake, 5420)[0], Command::Suspend(at(7920)));
        assert_eq!(input(&mut session, Event::Wake, 7920), [Command::Lose]);
        assert_eq!(session.wakeup(), None);
        assert_eq!(input(&mut session, Event::Answered { sent: at(0) }, 7930), []);
        assert_eq!(input(&mut session, Event::Reconnected, 7940), []);
    }

    /// Cut and connected again, up to the moment before the connection is identified.
    fn reconnected() -> Session {
        let (mut session, _) = started();
        run(&mut session, 3000);
        let cut = input(&mut session, Event::Disconnected, 3300);
        assert_eq!(cut, [Command::Suspend(at(7920))]);
        assert_eq!(session.wakeup(), Some(at(7920)));
        assert_eq!(
            input(&mut session, Event::Reconnected, 5000),
            [Command::Identify(at(5000)), Command::Heartbeat(at(5000))]
        );
        session
    }

    #[test]
    fn a_reconnect_proves_the_last_answered_write_and_holds_only_when_verified() {
        let mut session = reconnected();
        // An answer to a heartbeat of the old connection verifies nothing.
        assert_eq!(input(&mut session, Event::Answered { sent: at(2760) }, 5001), []);
        let same = Event::Identified { sent: at(5000), same: true };
        assert_eq!(input(&mut session, same, 5010), [Command::Suspend(at(2760 + 8000 - 80))]);
        assert_eq!(
            input(&mut session, Event::Answered { sent: at(5000) }, 5011),
            [Command::Hold(at(10_680))]
        );
    }

    #[test]
    fn a_connection_that_is_not_identified_proves_and_verifies_nothing() {
        let mut session = reconnected();
        // Asked again with every heartbeat.
        let mut out = Vec::new();
        while let Some(due) = session.wakeup().filter(|due| *due < at(7920)) {
            session.handle(Event::Wake, due, &mut out);
            session.handle(Event::Answered { sent: due }, due + Duration::from_millis(10), &mut out);
        }
        let asked = out.iter().filter(|command| matches!(command, Command::Identify(_))).count();
        let beats = out.iter().filter(|command| matches!(command, Command::Heartbeat(_))).count();
        assert!(asked == beats && asked + beats == out.len() && asked > 3, "{out:?}");
        // An answer that came over an earlier connection does not identify this one.
        assert_eq!(input(&mut session, Event::Identified { sent: at(4999), same: true }, 7900), []);
        assert_eq!(input(&mut session, Event::Wake, 7920), [Command::Lose]);
    }

    #[test]
    fn a_connection_of_another_session_ends_this_one() {
        let mut session = reconnected();
        let other = Event::Identified { sent: at(5000), same: false };
        assert_eq!(input(&mut session, other, 5010), [Command::Lose]);
    }

    #[test]
    fn a_cut_before_a_connection_was_identified_keeps_the_claim_of_the_one_before() {
        let mut session = reconnected();
        input(&mut session, Event::Answered { sent: at(5000) }, 5010);
        input(&mut session, Event::Disconnected, 5020);
        input(&mut session, Event::Reconnected, 5500);
        let same = Event::Identified { sent: at(5500), same: true };
        assert_eq!(input(&mut session, same, 5510), [Command::Suspend(at(2760 + 8000 - 80))]);
    }

    #[test]
    fn a_flap_that_nobody_saw_proves_nothing() {
        let (mut session, _) = started();
        run(&mut session, 3000);
        let commands = input(&mut session, Event::Reconnected, 3300);
        let asked = [Command::Identify(at(3300)), Command::Heartbeat(at(3300))];
        assert_eq!(commands, [&[Command::Suspend(at(7920))], &asked[..]].concat());
        let same = Event::Identified { sent: at(3300), same: true };
        assert_eq!(input(&mut session, same, 3310), []);
    }

    #[test]
    fn a_session_that_was_long_in_coming_holds_once_it_is_proven() {
        let mut out = Vec::new();
        let mut session = Session::new(at(0), at(9000), TIMEOUT, None, &mut out);
        assert_eq!(out, [Command::Suspend(at(17_000)), Command::Heartbeat(at(9000))]);
        out.clear();
        session.handle(Event::Answered { sent: at(9000) }, at(9010), &mut out);
        while let Some(due) = session.wakeup().filter(|due| *due < at(13_000)) {
            session.handle(Event::Wake, due, &mut out);
            session.handle(Event::Answered { sent: due }, due + Duration::from_millis(10), &mut out);
        }
        out.retain(|command| !matches!(command, Command::Heartbeat(_)));
        assert_eq!(out, [Command::Hold(at(9000 + 8000 - 80))]);
    }

    #[test]
    fn a_heartbeat_that_misses_a_node_is_sent_again_at_once_and_others_at_the_next_beat() {
        let (mut session, _) = started();
        let missed = Event::Failed { sent: at(0), at_once: true };
        assert_eq!(input(&mut session, missed, 10), [Command::Heartbeat(at(10))]);
        let refused = Event::Failed { sent: at(10), at_once: false };
        assert_eq!(input(&mut session, refused, 20), []);
        assert_eq!(session.wakeup(), Some(at(260)));
    }
}
