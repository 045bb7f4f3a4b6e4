//! Locks by message: an actor acquires, cancels and releases without blocking its handler, and its requests end when it
//! dies.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::events::session_event;
use common::{BRISK, SHORT, eventually, proxied, shared, unique_path};
use futures::FutureExt;
use lockkeeper::error::{AcquireError, Refused};
use lockkeeper::future::{Pending, Target};
use lockkeeper::messages::{LockEvent, LockMessage, Ticket, Wait};
use lockkeeper::session::{SessionEvent, SessionStatus};
use lockkeeper::{Keeper, LeaseState, Lock, LockGuard};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::mpsc;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

/// An actor of an application.
struct Clerk;

enum Message {
    /// Acquire this many times, and report the tickets.
    Acquire(usize),
    /// Acquire, and cancel at once.
    AcquireAndCancel,
    /// An event of the lock.
    Ledger(LockEvent<LockGuard>),
    /// Drop the guard with this ticket.
    Drop(Ticket),
    Ping(RpcReplyPort<usize>),
    Panic,
    /// Never return from the handler.
    Hang,
}

#[cfg(feature = "cluster")]
impl ractor::Message for Message {}

struct State {
    lock: Lock,
    reports: mpsc::UnboundedSender<Report>,
    guards: HashMap<Ticket, LockGuard>,
    drop_at_once: bool,
}

#[derive(Debug, PartialEq)]
enum Report {
    Asked(Ticket),
    Queued(Ticket),
    Acquired(Ticket),
    Released(Ticket),
    Refused(Ticket, Refused),
    Other(String),
}

#[ractor::actor(message = Message, state = State, arguments = State)]
impl Clerk {
    async fn pre_start(&self, _: ActorRef<Message>, state: State) -> Result<State, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let ask = || {
            let ticket = state.lock.acquire().forward(&myself, Message::Ledger);
            let _ = state.reports.send(Report::Asked(ticket));
            ticket
        };
        match message {
            Message::Acquire(times) => (0..times).for_each(|_| {
                ask();
            }),
            Message::AcquireAndCancel => {
                let ticket = ask();
                state.lock.cancel(ticket);
            }
            Message::Ledger(event) => {
                let report = match event {
                    LockEvent::Acquired { ticket, guard } => {
                        if !state.drop_at_once {
                            state.guards.insert(ticket, guard);
                        }
                        Report::Acquired(ticket)
                    }
                    LockEvent::Enqueued { ticket, .. } => Report::Queued(ticket),
                    LockEvent::Released(ticket) => Report::Released(ticket),
                    LockEvent::Refused(ticket, refused) => Report::Refused(ticket, refused),
                    // Caused by a slow machine; not tested here.
                    LockEvent::Suspended(_) | LockEvent::Resumed(_) => return Ok(()),
                    other => Report::Other(format!("{other:?}")),
                };
                let _ = state.reports.send(report);
            }
            Message::Drop(ticket) => drop(state.guards.remove(&ticket)),
            Message::Ping(reply) => drop(reply.send(state.guards.len())),
            Message::Panic => panic!("on purpose"),
            Message::Hang => std::future::pending().await,
        }
        Ok(())
    }
}

/// A clerk, and a handle of the same lock in another session.
struct Test {
    clerk: ActorRef<Message>,
    reports: mpsc::UnboundedReceiver<Report>,
    other: Lock,
    _keeper: Keeper,
}

impl Test {
    async fn new(name: &str, drop_at_once: bool) -> Test {
        let path = unique_path(name);
        let options = Keeper::options().session_timeout(Duration::from_secs(20));
        let keeper = options.clone().connect(&shared().address()).await.expect("connected");
        let other = options.connect(&shared().address()).await.expect("connected");
        let (sender, reports) = mpsc::unbounded_channel();
        let lock = keeper.lock(&path).expect("a valid path");
        let state = State { lock, reports: sender, guards: HashMap::new(), drop_at_once };
        let (clerk, _) = Actor::spawn(None, Clerk, state).await.expect("the actor starts");
        Test { clerk, reports, other: other.lock(&path).expect("a valid path"), _keeper: keeper }
    }

    fn tell(&self, message: Message) {
        self.clerk.cast(message).expect("the actor runs");
    }

    async fn next_report(&mut self) -> Report {
        timeout(SOON, self.reports.recv()).await.expect("in time").expect("the actor runs")
    }

    async fn asked(&mut self) -> Ticket {
        match self.next_report().await {
            Report::Asked(ticket) => ticket,
            other => panic!("not asked, but {other:?}"),
        }
    }

    async fn acquired(&mut self) -> Ticket {
        self.tell(Message::Acquire(1));
        let ticket = self.asked().await;
        loop {
            match self.next_report().await {
                Report::Queued(_) => {}
                report => {
                    assert_eq!(report, Report::Acquired(ticket));
                    return ticket;
                }
            }
        }
    }

    async fn contenders(&self, expected: usize) {
        let counted = async || self.other.contenders().await.expect("connected").len() == expected;
        eventually(&format!("{expected} contenders"), SOON, counted).await;
    }
}

#[tokio::test]
async fn a_thousand_waiting_requests_do_not_block_the_actor_and_are_served_in_order() {
    const REQUESTS: usize = 1000;
    let mut test = Test::new("thousand", true).await;
    let guard = test.other.acquire().await.expect("connected");
    test.tell(Message::Acquire(REQUESTS));
    // The ping is behind the thousand requests in the mailbox, and the lock is held by the other session, so no handler
    // may have waited for it.
    let answer = test.clerk.call(Message::Ping, Some(SOON)).await.expect("the actor runs");
    assert_eq!(answer.unwrap(), 0);
    test.contenders(REQUESTS + 1).await;
    let mut tickets = Vec::new();
    while tickets.len() < REQUESTS {
        match test.next_report().await {
            Report::Asked(ticket) => tickets.push(ticket),
            Report::Queued(_) => {}
            other => panic!("not asked or queued, but {other:?}"),
        }
    }
    let answer = test.clerk.call(Message::Ping, Some(SOON)).await.expect("the actor runs");
    assert_eq!(answer.unwrap(), 0);
    guard.release().await.expect("held");
    let (mut acquired, mut released) = (Vec::new(), Vec::new());
    while released.len() < REQUESTS {
        match test.next_report().await {
            Report::Acquired(ticket) => acquired.push(ticket),
            Report::Released(ticket) => released.push(ticket),
            Report::Queued(_) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(acquired, tickets);
    released.sort();
    assert_eq!(released, tickets);
    test.contenders(0).await;
}

#[tokio::test]
async fn a_ticket_can_be_cancelled_before_its_request_is_handled() {
    let mut test = Test::new("at-once", false).await;
    test.tell(Message::AcquireAndCancel);
    let ticket = test.asked().await;
    assert_eq!(test.next_report().await, Report::Refused(ticket, Refused::Cancelled));
    test.contenders(0).await;
    // Only that ticket was cancelled.
    let next = test.acquired().await;
    assert!(next > ticket);
}

#[tokio::test]
async fn dropping_a_guard_is_confirmed_by_message() {
    let mut test = Test::new("confirmed", false).await;
    let ticket = test.acquired().await;
    assert!(test.other.try_acquire().await.is_err());
    test.tell(Message::Drop(ticket));
    assert_eq!(test.next_report().await, Report::Released(ticket));
    let free = timeout(SOON, test.other.acquire()).await.expect("it is free");
    free.expect("connected").release().await.expect("held");
}

#[tokio::test]
async fn the_requests_of_a_dead_actor_are_cancelled_and_its_locks_released() {
    let deaths: [fn(&Test); 3] = [
        |test| test.tell(Message::Panic),
        |test| test.clerk.stop(None),
        // Killed inside a handler, with everything else still in its mailbox.
        |test| {
            test.tell(Message::Hang);
            test.clerk.kill();
        },
    ];
    for (number, death) in deaths.into_iter().enumerate() {
        let mut waiting = Test::new(&format!("dies-waiting-{number}"), false).await;
        let guard = waiting.other.acquire().await.expect("connected");
        waiting.tell(Message::Acquire(20));
        waiting.contenders(21).await;
        let _ = waiting.asked().await;
        death(&waiting);
        // The lock is held throughout, so only the death of the actor can have removed its requests.
        waiting.contenders(1).await;
        guard.release().await.expect("held");

        let mut holding = Test::new(&format!("dies-holding-{number}"), false).await;
        holding.acquired().await;
        holding.tell(Message::Acquire(3));
        holding.contenders(4).await;
        death(&holding);
        holding.contenders(0).await;
    }
}

/// An actor that reports the names of the events it gets.
struct Reporter;

struct EventName(&'static str);

#[cfg(feature = "cluster")]
impl ractor::Message for EventName {}

type EventNames = mpsc::UnboundedSender<&'static str>;

#[ractor::actor(message = EventName, state = EventNames, arguments = EventNames)]
impl Reporter {
    async fn pre_start(
        &self,
        _: ActorRef<EventName>,
        reports: EventNames,
    ) -> Result<EventNames, ActorProcessingErr> {
        Ok(reports)
    }

    async fn handle(
        &self,
        _: ActorRef<EventName>,
        EventName(event): EventName,
        reports: &mut EventNames,
    ) -> Result<(), ActorProcessingErr> {
        let _ = reports.send(event);
        Ok(())
    }
}

/// The name of an event. A guard is dropped.
fn event_name<G>(event: LockEvent<G>) -> EventName {
    EventName(match event {
        LockEvent::Enqueued { .. } => "queued",
        LockEvent::Acquired { .. } => "acquired",
        LockEvent::Released(_) => "released",
        LockEvent::Refused(_, Refused::Cancelled) => "cancelled",
        _ => "something else",
    })
}

/// Acquires while the lock is free and releases by dropping the guard. Then, while it is held by another session,
/// cancels one request and kills the actor of another.
async fn by_message<T: Target, G>(
    what: &str,
    ask: impl Fn() -> Pending<AcquireError, T>,
    cancel: impl Fn(Ticket),
    take: impl AsyncFn() -> G,
) {
    let (sender, mut reports) = mpsc::unbounded_channel();
    let (reporter, _) = Actor::spawn(None, Reporter, sender).await.expect("the actor starts");
    let mut expect_event = async |expected: &str| {
        // These may come before the expected event, or not at all.
        let passing = ["queued", "something else"];
        let next_event = async {
            loop {
                match reports.recv().await.expect("the actor runs") {
                    event if event != expected && passing.contains(&event) => {}
                    event => return event,
                }
            }
        };
        assert_eq!(timeout(SOON, next_event).await, Ok(expected), "{what}");
    };
    ask().forward(&reporter, event_name);
    expect_event("acquired").await;
    expect_event("released").await;
    let guard = take().await;
    let ticket = ask().forward(&reporter, event_name);
    expect_event("queued").await;
    cancel(ticket);
    expect_event("cancelled").await;
    ask().forward(&reporter, event_name);
    expect_event("queued").await;
    reporter.kill();
    drop(guard);
    // The dead actor's request does not block the lock.
    drop(timeout(SOON, take()).await.expect("it is free"));
}

#[tokio::test]
async fn every_kind_of_lock_can_be_acquired_by_message() {
    let options = Keeper::options().session_timeout(Duration::from_secs(20));
    let keeper = options.clone().connect(&shared().address()).await.expect("connected");
    let other = options.connect(&shared().address()).await.expect("connected");
    let path = &unique_path("everything");
    let (good, granted) = ("a good path", "connected");

    let both = [&keeper, &other].map(|keeper| keeper.lock(path).expect(good));
    let take = async || both[1].acquire().await.expect(granted);
    by_message("lock", || both[0].acquire(), |ticket| both[0].cancel(ticket), take).await;

    let rw = [&keeper, &other].map(|keeper| keeper.read_write(&format!("{path}-rw")).expect(good));
    let take = async || rw[1].write().acquire().await.expect(granted);
    by_message("read", || rw[0].read().acquire(), |ticket| rw[0].read().cancel(ticket), take).await;
    by_message("write", || rw[0].write().acquire(), |ticket| rw[0].write().cancel(ticket), take).await;

    let pools = [&keeper, &other].map(|keeper| keeper.semaphore(&format!("{path}-pool"), 1).expect(good));
    let take = async || pools[1].acquire().await.expect(granted);
    by_message("semaphore", || pools[0].acquire(), |ticket| pools[0].cancel(ticket), take).await;

    let paths = [format!("{path}-one"), format!("{path}-two")];
    let multis = [&keeper, &other].map(|keeper| keeper.multi_lock(&paths).expect(good));
    let take = async || multis[1].acquire().await.expect(granted);
    by_message("multi-lock", || multis[0].acquire(), |ticket| multis[0].cancel(ticket), take).await;
}

/// An actor that forwards session events.
struct Watcher;

struct Session(SessionEvent);

#[cfg(feature = "cluster")]
impl ractor::Message for Session {}

#[ractor::actor(
    message = Session,
    state = mpsc::UnboundedSender<SessionEvent>,
    arguments = mpsc::UnboundedSender<SessionEvent>
)]
impl Watcher {
    async fn pre_start(
        &self,
        _: ActorRef<Session>,
        sender: mpsc::UnboundedSender<SessionEvent>,
    ) -> Result<mpsc::UnboundedSender<SessionEvent>, ActorProcessingErr> {
        Ok(sender)
    }

    async fn handle(
        &self,
        _: ActorRef<Session>,
        Session(event): Session,
        sender: &mut mpsc::UnboundedSender<SessionEvent>,
    ) -> Result<(), ActorProcessingErr> {
        let _ = sender.send(event);
        Ok(())
    }
}

async fn watcher(keeper: &Keeper) -> (ActorRef<Session>, mpsc::UnboundedReceiver<SessionEvent>) {
    let (sender, events) = mpsc::unbounded_channel();
    let (actor, _) = Actor::spawn(None, Watcher, sender).await.expect("the actor starts");
    keeper.subscribe(&actor, Session);
    (actor, events)
}

/// All events up to and including `last`.
async fn until(events: &mut mpsc::UnboundedReceiver<SessionEvent>, last: SessionEvent) -> Vec<SessionEvent> {
    let mut received = Vec::new();
    while received.last() != Some(&last) {
        received.push(timeout(SOON, events.recv()).await.expect("in time").expect("events go on"));
    }
    received
}

#[tokio::test]
async fn every_subscriber_gets_all_session_events_in_order_and_a_late_one_the_latest_first() {
    use SessionEvent::{Closed, Connected, Lost, Resumed, Suspended};
    let proxy = proxied().await;
    let options = Keeper::options().session_timeout(BRISK);
    let keeper = options.connect(&proxy.address()).await.expect("connected");
    let ((_one, mut one), (_two, mut two)) = (watcher(&keeper).await, watcher(&keeper).await);
    let mut received = until(&mut one, Connected { epoch: 1 }).await;
    // A slow machine may add suspensions of its own.
    for _ in 0..3 {
        proxy.refuse(true);
        proxy.cut();
        received.extend(until(&mut one, Suspended { epoch: 1 }).await);
        proxy.refuse(false);
        received.extend(until(&mut one, Resumed { epoch: 1 }).await);
    }
    let (_late, mut late) = watcher(&keeper).await;
    proxy.refuse(true);
    proxy.cut();
    received.extend(until(&mut one, Lost { epoch: 1 }).await);
    proxy.refuse(false);
    received.extend(until(&mut one, Connected { epoch: 2 }).await);
    keeper.close().await;
    received.extend(until(&mut one, Closed).await);
    assert!(received.len() >= 11, "{received:?}");
    assert_eq!(until(&mut two, Closed).await, received);
    let late_events = until(&mut late, Closed).await;
    assert!(received.ends_with(&late_events), "{late_events:?} is not the end of {received:?}");
    assert!(late_events.len() >= 5 && late_events.len() < received.len(), "{late_events:?}");
}

#[tokio::test]
async fn a_dead_subscriber_or_requester_leaves_nothing() {
    let keeper = Keeper::connect(&shared().address()).await.expect("connected");
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let (actor, mut events) = watcher(&keeper).await;
    assert!(events.recv().await.is_some());
    actor.kill();
    let mut test = Test::new("requester", false).await;
    test.acquired().await;
    test.tell(Message::Acquire(10));
    test.contenders(11).await;
    test.clerk.kill();
    test.contenders(0).await;
    drop(test);
    // Fewer, if connecting had not quite ended.
    let gone = async || metrics.num_alive_tasks() <= before;
    eventually("every actor and task is gone", SOON, gone).await;
}

#[tokio::test]
async fn the_actor_of_a_lock_is_one_for_all_clones_of_the_handle_and_ends_with_the_last() {
    let keeper = Keeper::connect(&shared().address()).await.expect("a connection");
    let lock = keeper.lock(&unique_path("address")).expect("a valid path");
    let (clone, actor) = (lock.clone(), lock.actor());
    assert_eq!(clone.actor().get_id(), actor.get_id());
    drop(lock);
    let guard = ractor::call!(actor, LockMessage::Acquire, Ticket::new(), Wait::Forever);
    let guard = guard.expect("an answer").expect("it is free");
    let other = keeper.lock(clone.path()).expect("a valid path");
    assert_ne!(other.actor().get_id(), actor.get_id(), "another handle");
    drop(clone);
    timeout(SOON, actor.wait(None)).await.expect("it ends").expect("it ends");
    assert_eq!(guard.state(), LeaseState::Held, "guards do not depend on the handle");
    let refused = actor.cast(LockMessage::Cancel(Ticket::new()));
    assert!(refused.is_err(), "no message is taken and then lost");
}

#[tokio::test]
async fn requests_do_not_need_the_actor_of_their_handle() {
    let keeper = Keeper::connect(&shared().address()).await.expect("a connection");
    let lock = keeper.lock(&unique_path("stopped")).expect("a valid path");
    let (guard, ledger) = (lock.acquire().await.expect("it is free"), lock.actor());
    let (sender, answer) = tokio::sync::oneshot::channel();
    ledger.cast(LockMessage::Acquire(Ticket::new(), Wait::Forever, sender.into())).expect("it runs");
    let waiting = async || lock.contenders().await.expect("connected").len() == 2;
    eventually("the request waits", SOON, waiting).await;
    ledger.stop_and_wait(None, Some(SOON)).await.expect("it stops");
    assert!(lock.actor().cast(LockMessage::Cancel(Ticket::new())).is_err(), "it is not started again");
    assert_eq!(guard.state(), LeaseState::Held);
    guard.release().await.expect("the handle works without it");
    drop(timeout(SOON, answer).await.expect("in time").expect("an answer").expect("it was released"));
}

#[tokio::test]
async fn a_keepers_state_follows_its_session() {
    let proxy = proxied().await;
    let keeper = Keeper::options().session_timeout(SHORT).connect(&proxy.address()).await.expect("connected");
    let mut state = keeper.state();
    assert!(state.changed().now_or_never().is_none(), "nothing has changed since");
    let first = state.get();
    assert_eq!((first.status, first.epoch), (SessionStatus::Connected, 1));
    assert_eq!(first.session_timeout, keeper.session_timeout());
    proxy.refuse(true);
    proxy.cut();
    let mut until = async |wanted: fn(SessionStatus) -> bool| {
        let found = timeout(SOON, state.wait_for(|state| wanted(state.status))).await;
        found.expect("in time").expect("it runs")
    };
    // Only the newest state is kept, so a busy machine may not see the suspension.
    let trouble = |status| matches!(status, SessionStatus::Suspended | SessionStatus::Lost);
    assert_eq!(until(trouble).await.epoch, 1);
    until(|status| status == SessionStatus::Lost).await;
    proxy.refuse(false);
    let second = until(|status| status == SessionStatus::Connected).await;
    assert_eq!(second.epoch, 2);
    assert_ne!(second.session_id, first.session_id);
    keeper.close().await;
    assert_eq!(state.get().status, SessionStatus::Closed);
    assert_eq!(state.changed().await, Some(state.get()));
    for mut closed in [state, keeper.state()] {
        assert_eq!(closed.changed().await, None);
        assert_eq!(closed.wait_for(|state| state.status == SessionStatus::Connected).await, None);
    }
}

#[tokio::test]
async fn a_keeper_goes_on_while_an_expression_that_has_read_its_state_waits() {
    let proxy = proxied().await;
    let keeper = Keeper::connect(&proxy.address()).await.expect("connected");
    let mut events = keeper.events();
    let cut = async {
        proxy.cut();
        session_event(&mut events, SessionEvent::Resumed { epoch: 1 }).await;
    };
    // All that the first half makes lives until the second half is over.
    let (first, resumed) = (keeper.state().get().epoch, timeout(SOON, cut).await);
    assert_eq!((first, resumed), (1, Ok(())));
}
