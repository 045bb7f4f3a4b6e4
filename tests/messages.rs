//! Locks by message: an actor asks, cancels and releases without waiting in a handler, and takes all of it back when
//! it dies.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::{BRISK, eventually, proxied, shared, unique_path};
use lockkeeper::{
    AcquireError, Keeper, Lock, LockEvent, LockGuard, Pending, Refused, SessionEvent, Target, Ticket,
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::mpsc;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

/// An application's actor.
struct Clerk;

enum Message {
    /// Ask so many times; the tickets are noted.
    Ask(usize),
    /// Ask, and cancel in the same breath.
    AskAndCancel,
    /// The ledger's lock, at last.
    Ledger(LockEvent<LockGuard>),
    /// Who holds, by its ticket, lets go.
    Drop(Ticket),
    Ping(RpcReplyPort<usize>),
    Panic,
    /// Awaits for ever.
    Hang,
}

#[cfg(feature = "cluster")]
impl ractor::Message for Message {}

struct State {
    lock: Lock,
    heard: mpsc::UnboundedSender<Heard>,
    guards: HashMap<Ticket, LockGuard>,
    drop_at_once: bool,
}

#[derive(Debug, PartialEq)]
enum Heard {
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
            let _ = state.heard.send(Heard::Asked(ticket));
            ticket
        };
        match message {
            Message::Ask(times) => (0..times).for_each(|_| {
                ask();
            }),
            Message::AskAndCancel => {
                let ticket = ask();
                state.lock.cancel(ticket);
            }
            Message::Ledger(event) => {
                let heard = match event {
                    LockEvent::Acquired { ticket, guard } => {
                        if !state.drop_at_once {
                            state.guards.insert(ticket, guard);
                        }
                        Heard::Acquired(ticket)
                    }
                    LockEvent::Queued { ticket, .. } => Heard::Queued(ticket),
                    LockEvent::Released(ticket) => Heard::Released(ticket),
                    LockEvent::Refused(ticket, refused) => Heard::Refused(ticket, refused),
                    // A machine that is slow, and not what is tested here.
                    LockEvent::Suspended(_) | LockEvent::Resumed(_) => return Ok(()),
                    other => Heard::Other(format!("{other:?}")),
                };
                let _ = state.heard.send(heard);
            }
            Message::Drop(ticket) => drop(state.guards.remove(&ticket)),
            Message::Ping(reply) => drop(reply.send(state.guards.len())),
            Message::Panic => panic!("as it was told to"),
            Message::Hang => std::future::pending().await,
        }
        Ok(())
    }
}

/// One clerk, and a lock that somebody else can hold.
struct Test {
    clerk: ActorRef<Message>,
    heard: mpsc::UnboundedReceiver<Heard>,
    other: Lock,
    _keeper: Keeper,
}

impl Test {
    async fn new(name: &str, drop_at_once: bool) -> Test {
        let path = unique_path(name);
        let options = Keeper::options().session_timeout(Duration::from_secs(20));
        let keeper = options.clone().connect(&shared().address()).await.expect("connected");
        let other = options.connect(&shared().address()).await.expect("connected");
        let (sender, heard) = mpsc::unbounded_channel();
        let lock = keeper.lock(&path).expect("a good path");
        let state = State { lock, heard: sender, guards: HashMap::new(), drop_at_once };
        let (clerk, _) = Actor::spawn(None, Clerk, state).await.expect("it starts");
        Test { clerk, heard, other: other.lock(&path).expect("a good path"), _keeper: keeper }
    }

    fn tell(&self, message: Message) {
        self.clerk.cast(message).expect("it lives");
    }

    async fn hear(&mut self) -> Heard {
        timeout(SOON, self.heard.recv()).await.expect("in time").expect("it lives")
    }

    async fn asked(&mut self) -> Ticket {
        match self.hear().await {
            Heard::Asked(ticket) => ticket,
            other => panic!("not asked, but {other:?}"),
        }
    }

    async fn acquired(&mut self) -> Ticket {
        self.tell(Message::Ask(1));
        let ticket = self.asked().await;
        loop {
            match self.hear().await {
                Heard::Queued(_) => {}
                heard => {
                    assert_eq!(heard, Heard::Acquired(ticket));
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
async fn with_a_thousand_requests_waiting_a_ping_is_answered_and_then_all_are_served_in_order() {
    const REQUESTS: usize = 1000;
    let mut test = Test::new("thousand", true).await;
    let guard = test.other.acquire().await.expect("connected");
    test.tell(Message::Ask(REQUESTS));
    // No handler waits: this is behind the thousand in its mailbox, and the lock is somebody else's.
    let answer = test.clerk.call(Message::Ping, Some(SOON)).await.expect("it lives");
    assert_eq!(answer.unwrap(), 0);
    test.contenders(REQUESTS + 1).await;
    let mut tickets = Vec::new();
    while tickets.len() < REQUESTS {
        match test.hear().await {
            Heard::Asked(ticket) => tickets.push(ticket),
            Heard::Queued(_) => {}
            other => panic!("not asked or queued, but {other:?}"),
        }
    }
    let answer = test.clerk.call(Message::Ping, Some(SOON)).await.expect("it lives");
    assert_eq!(answer.unwrap(), 0);
    guard.release().await.expect("held");
    let (mut acquired, mut released) = (Vec::new(), Vec::new());
    while released.len() < REQUESTS {
        match test.hear().await {
            Heard::Acquired(ticket) => acquired.push(ticket),
            Heard::Released(ticket) => released.push(ticket),
            Heard::Queued(_) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(acquired, tickets);
    released.sort();
    assert_eq!(released, tickets);
    test.contenders(0).await;
}

#[tokio::test]
async fn a_ticket_is_cancelled_before_its_request_was_handled() {
    let mut test = Test::new("at-once", false).await;
    test.tell(Message::AskAndCancel);
    let ticket = test.asked().await;
    assert_eq!(test.hear().await, Heard::Refused(ticket, Refused::Cancelled));
    test.contenders(0).await;
    // It was that ticket, and no other.
    let next = test.acquired().await;
    assert!(next > ticket);
}

#[tokio::test]
async fn dropping_a_guard_is_confirmed_by_message() {
    let mut test = Test::new("confirmed", false).await;
    let ticket = test.acquired().await;
    assert!(test.other.try_acquire().await.is_err());
    test.tell(Message::Drop(ticket));
    assert_eq!(test.hear().await, Heard::Released(ticket));
    let free = timeout(SOON, test.other.acquire()).await.expect("it is free");
    free.expect("connected").release().await.expect("held");
}

#[tokio::test]
async fn an_actor_that_dies_takes_its_requests_back_and_what_it_holds_is_released() {
    let deaths: [fn(&Test); 3] = [
        |test| test.tell(Message::Panic),
        |test| test.clerk.stop(None),
        // In the middle of a handler, with everything else still in its mailbox.
        |test| {
            test.tell(Message::Hang);
            test.clerk.kill();
        },
    ];
    for (number, death) in deaths.into_iter().enumerate() {
        let mut waiting = Test::new(&format!("dies-waiting-{number}"), false).await;
        let guard = waiting.other.acquire().await.expect("connected");
        waiting.tell(Message::Ask(20));
        waiting.contenders(21).await;
        let _ = waiting.asked().await;
        death(&waiting);
        // The lock is held all the time: nothing but the death takes them away.
        waiting.contenders(1).await;
        guard.release().await.expect("held");

        let mut holding = Test::new(&format!("dies-holding-{number}"), false).await;
        holding.acquired().await;
        holding.tell(Message::Ask(3));
        holding.contenders(4).await;
        death(&holding);
        holding.contenders(0).await;
    }
}

/// Passes on what it hears.
struct Ear;

struct Sound(&'static str);

#[cfg(feature = "cluster")]
impl ractor::Message for Sound {}

type Ears = mpsc::UnboundedSender<&'static str>;

#[ractor::actor(message = Sound, state = Ears, arguments = Ears)]
impl Ear {
    async fn pre_start(&self, _: ActorRef<Sound>, heard: Ears) -> Result<Ears, ActorProcessingErr> {
        Ok(heard)
    }

    async fn handle(
        &self,
        _: ActorRef<Sound>,
        Sound(event): Sound,
        heard: &mut Ears,
    ) -> Result<(), ActorProcessingErr> {
        let _ = heard.send(event);
        Ok(())
    }
}

/// What it was; a guard is dropped.
fn sound<G>(event: LockEvent<G>) -> Sound {
    Sound(match event {
        LockEvent::Queued { .. } => "queued",
        LockEvent::Acquired { .. } => "acquired",
        LockEvent::Released(_) => "released",
        LockEvent::Refused(_, Refused::Cancelled) => "cancelled",
        _ => "something else",
    })
}

/// Acquired while it is free, and released by dropping the guard; then cancelled, or taken back by a death, while
/// it is taken.
async fn by_message<T: Target, G>(
    what: &str,
    ask: impl Fn() -> Pending<AcquireError, T>,
    cancel: impl Fn(Ticket),
    take: impl AsyncFn() -> G,
) {
    let (sender, mut heard) = mpsc::unbounded_channel();
    let (ear, _) = Actor::spawn(None, Ear, sender).await.expect("it starts");
    let mut hear = async |expected: &str| {
        // Those that may come before, or not at all.
        let passing = ["queued", "something else"];
        let heard = async {
            loop {
                match heard.recv().await.expect("it lives") {
                    event if event != expected && passing.contains(&event) => {}
                    event => return event,
                }
            }
        };
        assert_eq!(timeout(SOON, heard).await, Ok(expected), "{what}");
    };
    ask().forward(&ear, sound);
    hear("acquired").await;
    hear("released").await;
    let guard = take().await;
    let ticket = ask().forward(&ear, sound);
    hear("queued").await;
    cancel(ticket);
    hear("cancelled").await;
    ask().forward(&ear, sound);
    hear("queued").await;
    ear.kill();
    drop(guard);
    // The dead one is not in the way.
    drop(timeout(SOON, take()).await.expect("it is free"));
}

#[tokio::test]
async fn everything_that_can_be_acquired_comes_by_message() {
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

/// Hears session events.
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
    let (actor, _) = Actor::spawn(None, Watcher, sender).await.expect("it starts");
    keeper.subscribe(&actor, Session);
    (actor, events)
}

/// Everything that was heard until `last`, which is heard in time.
async fn until(events: &mut mpsc::UnboundedReceiver<SessionEvent>, last: SessionEvent) -> Vec<SessionEvent> {
    let mut heard = Vec::new();
    while heard.last() != Some(&last) {
        heard.push(timeout(SOON, events.recv()).await.expect("in time").expect("it goes on"));
    }
    heard
}

#[tokio::test]
async fn every_subscriber_hears_every_session_event_in_order_and_a_late_one_the_newest_first() {
    use SessionEvent::{Closed, Connected, Lost, Resumed, Suspended};
    let proxy = proxied().await;
    let options = Keeper::options().session_timeout(BRISK);
    let keeper = options.connect(&proxy.address()).await.expect("connected");
    let ((_one, mut one), (_two, mut two)) = (watcher(&keeper).await, watcher(&keeper).await);
    let mut heard = until(&mut one, Connected { epoch: 1 }).await;
    // A slow machine may add interruptions of its own.
    for _ in 0..3 {
        proxy.refuse(true);
        proxy.cut();
        heard.extend(until(&mut one, Suspended { epoch: 1 }).await);
        proxy.refuse(false);
        heard.extend(until(&mut one, Resumed { epoch: 1 }).await);
    }
    let (_late, mut late) = watcher(&keeper).await;
    proxy.refuse(true);
    proxy.cut();
    heard.extend(until(&mut one, Lost { epoch: 1 }).await);
    proxy.refuse(false);
    heard.extend(until(&mut one, Connected { epoch: 2 }).await);
    keeper.close().await;
    heard.extend(until(&mut one, Closed).await);
    assert!(heard.len() >= 11, "{heard:?}");
    assert_eq!(until(&mut two, Closed).await, heard);
    let heard_late = until(&mut late, Closed).await;
    assert!(heard.ends_with(&heard_late), "{heard_late:?} is not the end of {heard:?}");
    assert!(heard_late.len() >= 5 && heard_late.len() < heard.len(), "{heard_late:?}");
}

#[tokio::test]
async fn nothing_is_left_of_a_subscriber_or_a_requester_that_has_died() {
    let keeper = Keeper::connect(&shared().address()).await.expect("connected");
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let (actor, mut events) = watcher(&keeper).await;
    assert!(events.recv().await.is_some());
    actor.kill();
    let mut test = Test::new("requester", false).await;
    test.acquired().await;
    test.tell(Message::Ask(10));
    test.contenders(11).await;
    test.clerk.kill();
    test.contenders(0).await;
    drop(test);
    let gone = async || metrics.num_alive_tasks() == before;
    eventually("every actor and task is gone", SOON, gone).await;
}
