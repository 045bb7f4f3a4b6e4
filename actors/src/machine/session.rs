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
//! From the latest of these a margin for the rates of two clocks is taken off. What is left are races inside the
//! server (a session picked for expiry and touched in the same instant); fencing tokens are for those.

use std::collections::VecDeque;
use std::time::Duration;

use super::Moment;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    timeout: Duration,
    gap: Duration,
    state: State,
    /// The server keeps the session at least until then.
    proven: Moment,
    connected: Option<Moment>,
    beat: Option<Moment>,
    next_beat: Moment,
    /// Answered heartbeats, oldest first, as far back as a proof may reach.
    writes: VecDeque<Write>,
    /// When the newest write that was answered before the connection went was sent.
    before_cut: Option<Moment>,
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
enum State {
    /// Made, but so slowly that nothing is proven yet; given up at this moment.
    Starting(Moment),
    Live,
    Suspended,
    Lost,
}

/// What happened to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionInput {
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
    /// The connection is gone.
    Disconnected,
    /// The session was resumed on a new connection.
    Reconnected,
    /// The client says that the session is over.
    Ended,
    /// The time that [`Session::wakeup`] named has come.
    Wake,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionCommand {
    /// Send a heartbeat now. It is known by this moment, which is no later than its sending.
    Beat(Moment),
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
        out: &mut Vec<SessionCommand>,
    ) -> Session {
        let mut session = Session {
            timeout,
            gap: tick.map_or(timeout * 3 / 10, |tick| tick.min(timeout / 2) * 3 / 4),
            state: State::Starting(now + timeout),
            proven: begun + timeout,
            connected: Some(now),
            beat: None,
            next_beat: now,
            writes: VecDeque::new(),
            before_cut: None,
        };
        if now.since(begun) < timeout / 4 {
            session.state = State::Live;
            out.push(SessionCommand::Hold(session.valid_until()));
        } else {
            out.push(SessionCommand::Suspend(now + timeout));
        }
        session.wake(now, out);
        session
    }

    /// The one way in.
    pub fn handle(&mut self, input: SessionInput, now: Moment, out: &mut Vec<SessionCommand>) {
        if self.state == State::Lost {
            return;
        }
        match input {
            SessionInput::Answered { sent } => self.answered(sent, now, out),
            SessionInput::Failed { sent, at_once } => {
                if self.beat == Some(sent) {
                    self.beat = None;
                    if at_once {
                        self.next_beat = now;
                    }
                }
            }
            SessionInput::Disconnected => {
                self.connected = None;
                self.beat = None;
                self.before_cut = self.writes.back().map(|write| write.sent);
                self.suspend(out);
            }
            SessionInput::Reconnected => {
                if let Some(sent) = self.before_cut.take() {
                    self.proven = self.proven.max(sent + self.timeout);
                }
                self.connected = Some(now);
                self.beat = None;
                self.next_beat = now;
                self.suspend(out);
            }
            SessionInput::Ended => self.lose(out),
            SessionInput::Wake => {}
        }
        self.wake(now, out);
    }

    /// When [`SessionInput::Wake`] is due next.
    pub fn wakeup(&self) -> Option<Moment> {
        let beat = match (self.connected, self.beat) {
            (None, _) => None,
            (Some(_), None) => Some(self.next_beat),
            (Some(_), Some(sent)) => (self.state == State::Live).then(|| sent + self.period()),
        };
        let end = match self.state {
            State::Starting(end) => end,
            State::Live | State::Suspended => self.valid_until(),
            State::Lost => return None,
        };
        Some(beat.map_or(end, |beat| beat.min(end)))
    }

    fn answered(&mut self, sent: Moment, now: Moment, out: &mut Vec<SessionCommand>) {
        if self.beat == Some(sent) {
            self.beat = None;
        }
        let relays =
            (self.writes.iter().rev()).find(|first| first.answered + self.gap <= sent).map(|w| w.sent);
        let shown =
            self.writes.iter().filter(|second| second.answered <= sent).filter_map(|w| w.relays).max();
        self.writes.push_back(Write { sent, answered: now, relays });
        let horizon = self.timeout;
        self.writes.retain(|write| now.since(write.sent) <= horizon);
        let until = self.valid_until();
        if let Some(first) = shown {
            self.proven = self.proven.max(first + self.timeout);
        }
        let verified = self.connected.is_some_and(|since| sent >= since) && now < self.valid_until();
        match self.state {
            State::Live if self.valid_until() > until => out.push(SessionCommand::Hold(self.valid_until())),
            State::Starting(_) | State::Suspended if verified => {
                self.state = State::Live;
                out.push(SessionCommand::Hold(self.valid_until()));
            }
            State::Suspended if self.valid_until() > until => {
                out.push(SessionCommand::Suspend(self.valid_until()))
            }
            State::Starting(_) | State::Live | State::Suspended | State::Lost => {}
        }
    }

    fn wake(&mut self, now: Moment, out: &mut Vec<SessionCommand>) {
        let end = match self.state {
            State::Starting(end) => end,
            State::Live | State::Suspended => self.valid_until(),
            State::Lost => return,
        };
        if now >= end {
            return self.lose(out);
        }
        match self.beat {
            None if self.connected.is_some() && now >= self.next_beat => {
                self.beat = Some(now);
                self.next_beat = now + self.period();
                out.push(SessionCommand::Beat(now));
            }
            Some(sent) if now >= sent + self.period() => self.suspend(out),
            None | Some(_) => {}
        }
    }

    fn suspend(&mut self, out: &mut Vec<SessionCommand>) {
        match self.state {
            State::Live | State::Suspended => {
                self.state = State::Suspended;
                out.push(SessionCommand::Suspend(self.valid_until()));
            }
            State::Starting(_) | State::Lost => {}
        }
    }

    fn lose(&mut self, out: &mut Vec<SessionCommand>) {
        self.state = State::Lost;
        out.push(SessionCommand::Lose);
    }

    fn valid_until(&self) -> Moment {
        Moment(self.proven.0.saturating_sub(self.timeout.as_nanos() as u64 / MARGIN))
    }

    fn period(&self) -> Duration {
        self.timeout / BEATS
    }
}

/// Heartbeats in a session timeout. With a gap of 0.3 timeouts a lease is then good for three to four eighths of
/// it at any time, so a failover that is over within a third costs no guard.
const BEATS: u32 = 8;

/// One part in a hundred of the timeout: twenty times what two clocks of 500 ppm can differ by.
const MARGIN: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(8000);

    fn at(ms: u64) -> Moment {
        Moment(0) + Duration::from_millis(ms)
    }

    fn started() -> (Session, Vec<SessionCommand>) {
        let mut out = Vec::new();
        let session = Session::new(at(0), at(0), TIMEOUT, None, &mut out);
        (session, out)
    }

    fn input(session: &mut Session, input: SessionInput, ms: u64) -> Vec<SessionCommand> {
        let mut out = Vec::new();
        session.handle(input, at(ms), &mut out);
        out
    }

    /// A heartbeat every second, each answered ten milliseconds later, up to and including `last`.
    fn beats(session: &mut Session, last: u64) -> Vec<SessionCommand> {
        let mut out = Vec::new();
        for sent in (0..=last).step_by(1000) {
            if sent > 0 {
                assert_eq!(input(session, SessionInput::Wake, sent), [SessionCommand::Beat(at(sent))]);
            }
            out.extend(input(session, SessionInput::Answered { sent: at(sent) }, sent + 10));
        }
        out
    }

    #[test]
    fn a_new_session_holds_from_the_beginning_of_its_connect() {
        let mut out = Vec::new();
        let session = Session::new(at(100), at(150), TIMEOUT, None, &mut out);
        assert_eq!(out, [SessionCommand::Hold(at(8020)), SessionCommand::Beat(at(150))]);
        assert_eq!(session.wakeup(), Some(at(1150)));
    }

    #[test]
    fn the_first_write_counts_only_when_a_second_came_a_gap_later_and_a_third_behind_it() {
        let (mut session, _) = started();
        assert_eq!(beats(&mut session, 3000), []);
        // Sent at 3000, the gap of 2400 behind the answer at 10; sent at 4000, behind the answer at 3010.
        let mut more = Vec::new();
        for sent in [4000, 5000] {
            input(&mut session, SessionInput::Wake, sent);
            more.extend(input(&mut session, SessionInput::Answered { sent: at(sent) }, sent + 10));
        }
        assert_eq!(more, [SessionCommand::Hold(at(1000 + 8000 - 80))]);
    }

    #[test]
    fn a_lease_is_good_for_three_eighths_of_the_timeout_at_any_time() {
        let (mut session, _) = started();
        beats(&mut session, 40_000);
        assert!(session.valid_until() >= at(40_000 + 3 * 1000 - 80), "{:?}", session.valid_until());
        assert!(session.valid_until() < at(40_000 + 4 * 1000));
    }

    #[test]
    fn a_known_tick_shortens_the_gap() {
        let mut out = Vec::new();
        let mut session = Session::new(at(0), at(0), TIMEOUT, Some(Duration::from_millis(400)), &mut out);
        beats(&mut session, 40_000);
        assert_eq!(session.valid_until(), at(38_000 + 8000 - 80));
    }

    #[test]
    fn a_heartbeat_that_hangs_suspends_and_its_answer_resumes() {
        let (mut session, _) = started();
        beats(&mut session, 2000);
        assert_eq!(input(&mut session, SessionInput::Wake, 3000), [SessionCommand::Beat(at(3000))]);
        assert_eq!(input(&mut session, SessionInput::Wake, 4000), [SessionCommand::Suspend(at(7920))]);
        let resumed = input(&mut session, SessionInput::Answered { sent: at(3000) }, 4500);
        assert_eq!(resumed, [SessionCommand::Hold(at(7920)), SessionCommand::Beat(at(4500))]);
    }

    #[test]
    fn without_answers_it_is_lost_at_the_deadline_and_for_good() {
        let (mut session, _) = started();
        assert_eq!(input(&mut session, SessionInput::Wake, 1000), [SessionCommand::Suspend(at(7920))]);
        assert_eq!(session.wakeup(), Some(at(7920)));
        assert_eq!(input(&mut session, SessionInput::Wake, 7920), [SessionCommand::Lose]);
        assert_eq!(input(&mut session, SessionInput::Answered { sent: at(0) }, 7930), []);
        assert_eq!(input(&mut session, SessionInput::Reconnected, 7940), []);
    }

    #[test]
    fn a_reconnect_proves_the_last_answered_write_and_holds_only_when_verified() {
        let (mut session, _) = started();
        beats(&mut session, 3000);
        assert_eq!(
            input(&mut session, SessionInput::Disconnected, 3500),
            [SessionCommand::Suspend(at(7920))]
        );
        assert_eq!(
            input(&mut session, SessionInput::Reconnected, 5000),
            [SessionCommand::Suspend(at(3000 + 8000 - 80)), SessionCommand::Beat(at(5000))]
        );
        // An answer to a heartbeat of the old connection verifies nothing.
        assert_eq!(input(&mut session, SessionInput::Answered { sent: at(3000) }, 5001), []);
        assert_eq!(
            input(&mut session, SessionInput::Answered { sent: at(5000) }, 5010),
            [SessionCommand::Hold(at(10_920))]
        );
    }

    #[test]
    fn a_flap_that_nobody_saw_proves_nothing() {
        let (mut session, _) = started();
        beats(&mut session, 3000);
        let commands = input(&mut session, SessionInput::Reconnected, 3500);
        assert_eq!(commands, [SessionCommand::Suspend(at(7920)), SessionCommand::Beat(at(3500))]);
    }

    #[test]
    fn a_session_that_was_long_in_coming_holds_once_it_is_proven() {
        let mut out = Vec::new();
        let mut session = Session::new(at(0), at(9000), TIMEOUT, None, &mut out);
        assert_eq!(out, [SessionCommand::Suspend(at(17_000)), SessionCommand::Beat(at(9000))]);
        let mut answers = Vec::new();
        for sent in (9000..=13_000).step_by(1000) {
            answers.extend(input(&mut session, SessionInput::Wake, sent));
            answers.extend(input(&mut session, SessionInput::Answered { sent: at(sent) }, sent + 10));
        }
        assert_eq!(answers.last(), Some(&SessionCommand::Hold(at(9000 + 8000 - 80))));
    }

    #[test]
    fn a_heartbeat_that_misses_a_node_is_sent_again_at_once_and_others_at_the_next_beat() {
        let (mut session, _) = started();
        let missed = SessionInput::Failed { sent: at(0), at_once: true };
        assert_eq!(input(&mut session, missed, 10), [SessionCommand::Beat(at(10))]);
        let refused = SessionInput::Failed { sent: at(10), at_once: false };
        assert_eq!(input(&mut session, refused, 20), []);
        assert_eq!(session.wakeup(), Some(at(1010)));
    }
}
