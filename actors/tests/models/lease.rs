//! The session's machine beside a leader that drops the session as soon as it may: links that are
//! first-in-first-out and stall as long as they like, a follower between, pings, touches, reconnects, and a leader
//! that is deposed; or a leader that answers a reconnect with another session. What the lease publishes must end no
//! later than the session does.
//!
//! Time goes in steps of a fifth of the session timeout; within a step, everything happens in every order. The leader
//! pings once a step. The default gap is one step and a half, so that a whole step, and a ping, lies in it; with a gap
//! of one step or less the model finds the lease too long. Clocks run alike here: the machine's margin is for those
//! that do not.

use std::collections::VecDeque;
use std::time::Duration;

use lockkeeper_actors::machine::session::{Command, Event, Session};
use lockkeeper_actors::machine::{Machine, Moment};
use stateright::{Model, Property};

use crate::world::budget::budget;
use crate::world::search::{Order, Searches, Twins, catch, is_long, search};

pub const DEADLINE: &str = "the lease ends before the session";
/// Not requirements: that every proof comes into play.
pub const PROVEN_BY_WRITES: &str = "heartbeats move the end on";
pub const PROVEN_BY_RECONNECT: &str = "a reconnect moves the end on";

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// How many steps it lasts. A connection that is cut has begun at once.
    pub steps: u8,
    /// Timers ring in their step. Otherwise they may be late, as those of a process that is paused.
    pub punctual: bool,
    pub budget: Budget,
    pub twin: Option<Twin>,
}

budget! {
    /// The connection goes, with what is on its way; another server answers in time.
    cuts,
    /// Another leader takes over, and begins all sessions anew. The one that is deposed goes on pinging the
    /// follower, and commits nothing.
    depositions,
    /// A reconnect is answered with a new session, and the old one is left to time out.
    replacements,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// The end is counted from when the answer came.
    DeadlineFromReceiveTime,
    /// A heartbeat that the follower answers by itself.
    LeaseFromFollowersRead,
    /// The end is counted from when the session was there, not from when it was asked for.
    DeadlineFromConnectsEnd,
    /// A tick that is shorter than the server's.
    GapTooShort,
    /// A write sent after the handshake is taken for the last one before it.
    ReconnectProvesItsOwnTime,
    /// A new connection is taken for one of the same session, unasked.
    ResumeIsBelieved,
    /// A driver that lets the answers of a new connection come before the news of it.
    AnswersOvertakeNews,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    now: u8,
    left: Budget,
    machine: Session,
    /// What the lease says, once there can be a guard that reads it.
    until: Option<Moment>,
    lost: bool,
    reconnected: bool,
    // The client: requests on their way to the follower, answers on their way to the machine, each with the number
    // of its connection, and news of the connections, which come before the answers of a newer one.
    link: Link,
    requests: VecDeque<Request>,
    answers: VecDeque<(Answer, u8)>,
    connection: u8,
    heard: u8,
    news: VecDeque<Event>,
    // The follower, and its two links with the leader.
    touched: bool,
    up: VecDeque<Up>,
    down: VecDeque<Down>,
    // The leader.
    pinged: bool,
    deposed: bool,
    /// The connection belongs to another session.
    replaced: bool,
    expiry: u8,
    expired: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Link {
    Up,
    Down,
    /// The handshake was seen by the leader, and not yet by the client.
    Resuming,
}

/// Each with the step in which it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Request {
    Heartbeat(u8),
    Identify(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Heartbeat(u8),
    Identify(u8, bool),
}

/// From the follower to the leader. Answers to pings that carry no touch change nothing, and are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Up {
    Write(Request),
    Touch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Down {
    Ping,
    Commit(Request),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The next step begins.
    Tick,
    Wake,
    FollowerHearsClient,
    FollowerHearsLeader,
    LeaderHearsFollower,
    LeaderPings,
    HearAnswer,
    HearNews,
    /// All but the first so many answers are lost.
    Cut(usize),
    LeaderRevalidates,
    LeaderReplaces,
    Reconnect,
    Depose,
}

/// The session timeout, in steps.
const TIMEOUT: u8 = 5;
const STEP: Duration = Duration::from_secs(1);

/// With so many requests under way, timers are late: a chain of proofs has one heartbeat under way at a time, and the
/// second one overtakes it wherever the machine would let it.
const UNDER_WAY: usize = 2;

impl Model for Scenario {
    type State = World;
    type Action = Action;

    /// Asked for at zero, made by the leader then or a step later, and there then or a step later.
    fn init_states(&self) -> Vec<World> {
        let slow = u8::from(self.budget.cuts == 0);
        let steps = (0..=slow).flat_map(|made| (made..=slow).map(move |there| (made, there)));
        steps.map(|(made, there)| World::new(self, made, there)).collect()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(self, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.apply(self, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Scenario>> {
        vec![
            Property::always(DEADLINE, |_, world: &World| {
                !world.expired || world.until <= Some(at(world.expiry))
            }),
            Property::sometimes(PROVEN_BY_WRITES, |_, world: &World| {
                !world.reconnected && world.until > Some(at(TIMEOUT))
            }),
            Property::sometimes(PROVEN_BY_RECONNECT, |scenario: &Scenario, world: &World| {
                scenario.budget.cuts == 0 || world.reconnected && world.until > Some(at(TIMEOUT))
            }),
        ]
    }
}

impl World {
    fn new(scenario: &Scenario, made: u8, there: u8) -> World {
        let mut out = Vec::new();
        let begun = if scenario.twin == Some(Twin::DeadlineFromConnectsEnd) { there } else { 0 };
        let tick = (scenario.twin == Some(Twin::GapTooShort)).then_some(STEP);
        let machine = Session::new(at(begun), at(there), STEP * TIMEOUT.into(), tick, &mut out);
        let mut world = World {
            now: there,
            left: scenario.budget,
            machine,
            until: None,
            lost: false,
            reconnected: false,
            link: Link::Up,
            requests: VecDeque::new(),
            answers: VecDeque::new(),
            connection: 0,
            heard: 0,
            news: VecDeque::new(),
            touched: false,
            up: VecDeque::new(),
            down: VecDeque::new(),
            pinged: false,
            deposed: false,
            replaced: false,
            expiry: made + TIMEOUT,
            expired: false,
        };
        world.execute(out);
        world
    }

    fn actions(&self, scenario: &Scenario, actions: &mut Vec<Action>) {
        // In the last step only a session that ended with its beginning can still be outlived.
        if self.lost || (self.now == scenario.steps && !self.expired) {
            return;
        }
        // An answer that is heard late proves less than one that is heard at once, and a heartbeat may be late in any
        // case; only news of a connection makes a difference between them.
        if self.news.is_empty() && !self.answers.is_empty() {
            return actions.push(Action::HearAnswer);
        }
        // Once the session is over, or the leader deposed, nothing that the leader hears changes anything.
        let served = self.link == Link::Up && !self.deposed && !self.expired;
        let due =
            self.machine.wakeup().is_some_and(|due| due <= at(self.now)) && self.under_way() < UNDER_WAY;
        let news = |connection| connection <= self.heard || scenario.twin == Some(Twin::AnswersOvertakeNews);
        let answer = self.answers.front().is_some_and(|(_, connection)| news(*connection));
        let possible = [
            (
                Action::Tick,
                self.now < scenario.steps
                    && !self.expired
                    && (self.pinged || !served)
                    && !(due && scenario.punctual),
            ),
            (Action::Wake, due && !self.expired),
            (Action::FollowerHearsClient, served && !self.requests.is_empty()),
            (Action::FollowerHearsLeader, !self.down.is_empty()),
            (Action::LeaderHearsFollower, served && !self.up.is_empty()),
            (Action::LeaderPings, served && !self.pinged),
            (Action::HearAnswer, answer),
            (Action::HearNews, !self.news.is_empty()),
            (Action::LeaderRevalidates, self.link == Link::Down && !self.expired),
            (Action::LeaderReplaces, self.link == Link::Down && !self.expired && self.left.replacements > 0),
            (Action::Reconnect, self.link == Link::Resuming),
            (Action::Depose, self.left.depositions > 0 && served),
        ];
        actions.extend(possible.iter().filter(|(_, possible)| *possible).map(|(action, _)| *action));
        if self.left.cuts > 0 && self.link == Link::Up && !self.expired {
            actions.extend((0..=self.answers.len()).map(Action::Cut));
        }
    }

    /// Requests on their way.
    fn under_way(&self) -> usize {
        let up = self.up.iter().filter(|up| matches!(up, Up::Write(_))).count();
        let down = self.down.iter().filter(|down| matches!(down, Down::Commit(_))).count();
        self.requests.len() + up + down + self.answers.len()
    }

    fn apply(&mut self, scenario: &Scenario, action: Action) {
        match action {
            Action::Tick => {
                self.now += 1;
                self.pinged = false;
                self.expired |= self.now >= self.expiry;
            }
            Action::Wake => self.feed(Event::Wake),
            Action::FollowerHearsClient => {
                if let Some(request) = self.requests.pop_front() {
                    self.touched = true;
                    match scenario.twin {
                        Some(Twin::LeaseFromFollowersRead) => self.answer(request),
                        Some(_) | None => self.up.push_back(Up::Write(request)),
                    }
                }
            }
            Action::FollowerHearsLeader => match self.down.pop_front() {
                Some(Down::Ping) => {
                    if std::mem::take(&mut self.touched) {
                        self.up.push_back(Up::Touch);
                    }
                }
                Some(Down::Commit(request)) if self.link == Link::Up => self.answer(request),
                Some(Down::Commit(_)) | None => {}
            },
            Action::LeaderHearsFollower => match self.up.pop_front() {
                Some(Up::Write(request)) if !self.deposed && !self.expired => {
                    self.down.push_back(Down::Commit(request))
                }
                Some(Up::Touch) if !self.deposed && !self.replaced => self.touch(),
                Some(_) | None => {}
            },
            Action::LeaderPings => {
                self.pinged = true;
                self.down.push_back(Down::Ping);
            }
            Action::HearAnswer => match self.answers.pop_front() {
                Some((Answer::Heartbeat(sent), _)) => self.answered(scenario, sent),
                Some((Answer::Identify(sent, same), _)) => {
                    self.feed(Event::Identified { sent: at(sent), same })
                }
                None => {}
            },
            Action::HearNews => {
                if let Some(news) = self.news.pop_front() {
                    self.heard += u8::from(news != Event::Disconnected);
                    if (scenario.twin, news) == (Some(Twin::ReconnectProvesItsOwnTime), Event::Reconnected) {
                        self.feed(Event::Answered { sent: at(self.now) });
                        self.feed(Event::Disconnected);
                    }
                    self.feed(news);
                    if (scenario.twin, news) == (Some(Twin::ResumeIsBelieved), Event::Reconnected) {
                        self.feed(Event::Identified { sent: at(self.now), same: true });
                    }
                }
            }
            // What was on its way may as well stall for good: a touch or a commit more does no harm.
            Action::Cut(kept) => {
                self.left.cuts -= 1;
                self.link = Link::Down;
                self.answers.truncate(kept);
                self.requests.clear();
                self.up.clear();
                self.down.clear();
                self.touched = false;
                self.news.push_back(Event::Disconnected);
            }
            Action::LeaderRevalidates => {
                self.link = Link::Resuming;
                self.deposed = false;
                if !self.replaced {
                    self.touch();
                }
            }
            Action::LeaderReplaces => {
                self.left.replacements -= 1;
                self.link = Link::Resuming;
                self.deposed = false;
                self.replaced = true;
            }
            Action::Reconnect => {
                self.link = Link::Up;
                self.reconnected = true;
                self.connection += 1;
                self.news.push_back(Event::Reconnected);
            }
            Action::Depose => {
                self.left.depositions -= 1;
                self.deposed = true;
                self.touched = false;
                self.up.clear();
                self.touch();
            }
        }
    }

    fn answer(&mut self, request: Request) {
        let answer = match request {
            Request::Heartbeat(sent) => Answer::Heartbeat(sent),
            Request::Identify(sent) => Answer::Identify(sent, !self.replaced),
        };
        self.answers.push_back((answer, self.connection));
    }

    fn touch(&mut self) {
        if !self.expired {
            self.expiry = self.now + TIMEOUT;
        }
    }

    fn answered(&mut self, scenario: &Scenario, sent: u8) {
        match scenario.twin {
            Some(Twin::DeadlineFromReceiveTime) => {
                self.feed(Event::Failed { sent: at(sent), at_once: false });
                self.feed(Event::Answered { sent: at(self.now) });
            }
            Some(_) | None => self.feed(Event::Answered { sent: at(sent) }),
        }
    }

    fn feed(&mut self, event: Event) {
        let mut out = Vec::new();
        self.machine.handle(event, at(self.now), &mut out);
        self.execute(out);
    }

    fn execute(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Heartbeat(sent) => self.requests.push_back(Request::Heartbeat(step(sent))),
                Command::Identify(sent) => self.requests.push_back(Request::Identify(step(sent))),
                Command::Hold(until) => self.until = Some(until),
                // Before the first `Hold` nothing is granted.
                Command::Suspend(until) => self.until = self.until.map(|_| until),
                Command::Lose => self.lost = true,
            }
        }
    }
}

fn at(step: u8) -> Moment {
    Moment(0) + STEP * step.into()
}

fn step(moment: Moment) -> u8 {
    moment.since(Moment(0)).as_secs() as u8
}

/// How many steps, timers on time or late, and what may go wrong with a session: in every run, and in a long one.
const LEASES: &[[(u8, bool, Budget); 2]] = &[
    [(7, false, Budget::NONE), (9, false, Budget::NONE)],
    [(7, false, DEPOSED), (8, false, DEPOSED)],
    [(5, true, CUT), (6, true, CUT_AND_DEPOSED)],
    [(5, true, REPLACED), (6, true, REPLACED)],
];
const DEPOSED: Budget = Budget { depositions: 1, ..Budget::NONE };
const CUT: Budget = Budget { cuts: 1, ..Budget::NONE };
const CUT_AND_DEPOSED: Budget = Budget { depositions: 1, ..CUT };
const REPLACED: Budget = Budget { replacements: 1, ..CUT };

const LEASE_TWINS: &[(Twin, Budget)] = &[
    (Twin::DeadlineFromReceiveTime, Budget::NONE),
    (Twin::DeadlineFromConnectsEnd, Budget::NONE),
    (Twin::LeaseFromFollowersRead, Budget::NONE),
    (Twin::GapTooShort, Budget::NONE),
    (Twin::ReconnectProvesItsOwnTime, CUT),
    (Twin::AnswersOvertakeNews, CUT),
    (Twin::ResumeIsBelieved, REPLACED),
];

#[test]
fn a_lease_ends_before_its_session() {
    let mut table = Searches::new("steps, timers");
    for row in LEASES {
        let (steps, punctual, budget) = row[usize::from(is_long())];
        let searched = search(Scenario { steps, punctual, budget, twin: None }, Order::DepthFirst);
        let timers = if punctual { "on time" } else { "or late" };
        for example in [PROVEN_BY_WRITES, PROVEN_BY_RECONNECT] {
            assert!(searched.examples.contains(&example), "{steps}, {timers}, {budget}: {example}");
        }
        table.row(&format!("{steps}, {timers}"), budget, &searched);
    }
    table.print();
}

#[test]
fn every_broken_lease_is_caught() {
    let mut table = Twins::new();
    for &(twin, budget) in LEASE_TWINS {
        let scenario = Scenario { steps: 10, punctual: true, budget, twin: Some(twin) };
        table.row(twin, DEADLINE, catch(scenario, Order::BreadthFirst, DEADLINE), "states");
    }
    table.print();
}
