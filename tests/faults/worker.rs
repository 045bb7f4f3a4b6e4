//! The client: a process that acquires locks, uses them, and follows orders.
//!
//! It runs this same test binary. Its orders and its history are files in its directory, so it may be killed or stopped
//! at any moment.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lockkeeper::{Keeper, LeaseState, Lock};
use rustix::process::{Signal, getpid, kill_process};
use tokio::time::sleep;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::audit::Audit;
use super::dice::Dice;
use super::history::{Entry, Time, now};
use super::locks::{Held, KINDS, Kind, OVERDRAWN, Patience};
use super::resource::Writer;
use super::twins::{self, Twin};

/// The environment variable that makes the test binary a worker; its value is the worker's directory.
pub const DIRECTORY: &str = "LOCKKEEPER_FAULTS_WORKER";
/// The test that workers enter by. A test of its own for this would pass without testing anything.
pub const ENTRY: &str = "clients_exclude_each_other_and_recover_under_every_fault";
pub const SETTINGS: &str = "settings";
pub const ORDER: &str = "order";
pub const HISTORY: &str = "history";

/// What a client has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Acquire locks of all kinds for a short time, one after the other.
    Work,
    /// Acquire a lock of any kind and keep it.
    Hold,
    /// Acquire a lock of the first kind and keep it.
    HoldAlone,
    /// Release all locks and request none.
    Rest,
    /// Kill its own process at this moment.
    Die(Moment),
    Stop,
}

/// A moment in the life cycle of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// While the create or the list is in flight, or just before or after.
    Asked,
    /// While another contender is ahead.
    Queued,
    GaveUp,
    Cancelled,
    Granted,
    Used,
    /// While the delete is in flight.
    Releasing,
    /// The same for a guard that was dropped.
    Dropped,
    Released,
}

impl Moment {
    pub const ALL: [Moment; 9] = [
        Moment::Asked,
        Moment::Queued,
        Moment::GaveUp,
        Moment::Cancelled,
        Moment::Granted,
        Moment::Used,
        Moment::Releasing,
        Moment::Dropped,
        Moment::Released,
    ];
}

impl Order {
    pub fn write(self) -> String {
        format!("{self:?}")
    }

    /// Whether a lock is kept under this order.
    fn keeps(self) -> bool {
        matches!(self, Order::Hold | Order::HoldAlone)
    }

    fn read(text: &str) -> Option<Order> {
        let moments = Moment::ALL.map(Order::Die);
        let all = [Order::Work, Order::Hold, Order::HoldAlone, Order::Rest, Order::Stop];
        let mut all = all.into_iter().chain(moments);
        all.find(|order| order.write() == text)
    }
}

/// The settings of a worker, one value per line.
pub struct Settings {
    pub client: usize,
    pub zookeeper: String,
    pub resource: String,
    pub session: Duration,
    /// The servers' tickTime, for clients that are configured with it.
    pub tick: Option<Duration>,
    pub seed: u64,
    pub twin: Twin,
}

impl Settings {
    pub fn write(&self) -> String {
        let tick = self.tick.map_or(0, |tick| tick.as_millis());
        let Settings { client, zookeeper, resource, session, seed, twin, .. } = self;
        format!("{client}\n{zookeeper}\n{resource}\n{}\n{tick}\n{seed}\n{twin:?}\n", session.as_millis())
    }

    fn read(text: &str) -> Option<Settings> {
        let mut lines = text.lines();
        Some(Settings {
            client: lines.next()?.parse().ok()?,
            zookeeper: lines.next()?.to_owned(),
            resource: lines.next()?.to_owned(),
            session: lines.next()?.parse().map(Duration::from_millis).ok()?,
            tick: Some(lines.next()?.parse().map(Duration::from_millis).ok()?).filter(|tick| !tick.is_zero()),
            seed: lines.next()?.parse().ok()?,
            twin: Twin::read(lines.next()?)?,
        })
    }
}

/// Works until the order is to stop.
pub async fn work(directory: &Path) {
    let filter = Targets::new()
        .with_target("lockkeeper_actors", LevelFilter::TRACE)
        .with_target("zookeeper_client", LevelFilter::DEBUG);
    let log = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false).finish();
    log.with(filter).init();
    let settings = fs::read_to_string(directory.join(SETTINGS)).expect("the settings");
    let settings = Settings::read(&settings).expect("settings");
    let history = OpenOptions::new().append(true).create(true).open(directory.join(HISTORY));
    let mut history = history.expect("a history");
    write(&mut history, &Entry::Started(now()));
    let Settings { client, session, tick, twin, .. } = settings;
    let writer = Writer::connect(&settings.resource, client).await;
    let audit = Audit::new();
    let options = Keeper::options()
        .record(audit.recording())
        .session_timeout(session)
        .connect_timeout(Duration::from_secs(60))
        .identifier(format!("client-{client}"));
    let options = tick.into_iter().fold(options, |options, tick| options.tick_time(tick));
    let keeper = options.connect(&settings.zookeeper).await.expect("ZooKeeper recovers in time");
    let reader = match twin {
        Twin::FollowerReads => Some(twins::FollowerReads::connect(&settings.zookeeper, session).await),
        Twin::None | Twin::Deaf | Twin::Leaver | Twin::Overdraws => None,
    };
    let dice = Dice::new(settings.seed ^ now());
    let orders = Orders { path: directory.join(ORDER) };
    let (open, last) = (None, &KINDS[0]);
    let mut worker = Worker { keeper, audit, reader, orders, history, writer, dice, twin, open, last };
    loop {
        let checked = worker.audit.check();
        checked.iter().for_each(|entry| worker.write(entry));
        let order = worker.orders.now();
        match order {
            Order::Stop => break,
            Order::Rest => sleep(POLL).await,
            Order::Work | Order::Hold | Order::HoldAlone | Order::Die(_) => worker.turn(order).await,
        }
    }
    worker.keeper.close().await;
    let checked = worker.audit.finish(&mut worker.dice);
    checked.iter().for_each(|entry| write(&mut worker.history, entry));
}

struct Worker {
    keeper: Keeper,
    audit: Audit,
    /// Only for the twin `FollowerReads`.
    reader: Option<twins::FollowerReads>,
    orders: Orders,
    history: File,
    writer: Writer,
    dice: Dice,
    twin: Twin,
    /// Handles that are kept for some turns, so that nodes may linger.
    open: Option<[Lock; 2]>,
    last: &'static Kind,
}

/// How often the order is read while there is nothing else to do.
const POLL: Duration = Duration::from_millis(4);

impl Worker {
    /// Acquires a lock in one of the possible ways, uses it for a while, and releases it.
    async fn turn(&mut self, order: Order) {
        if self.dice.below(10) == 0 {
            self.open = if self.open.is_none() { Some(super::locks::open(&self.keeper)) } else { None };
        }
        let kind = match order {
            _ if self.twin == Twin::Overdraws => &OVERDRAWN,
            Order::HoldAlone => &KINDS[0],
            _ if self.reader.is_some() => &KINDS[0],
            // Often once more, so that a node is granted again.
            _ if self.last.lingers && self.dice.below(4) > 0 => self.last,
            Order::Work | Order::Hold | Order::Rest | Order::Die(_) | Order::Stop => self.dice.pick(KINDS),
        };
        self.last = kind;
        let patience = match (order, self.dice.below(10)) {
            (Order::Die(Moment::GaveUp), _) => Patience::Until(self.dice.time(20)),
            (Order::Hold | Order::HoldAlone | Order::Die(_), _) | (_, 0..=5) => Patience::Forever,
            (_, 6 | 7) => Patience::Until(self.dice.time(300)),
            (_, 8) => Patience::Try,
            (_, _) => return self.cancel(kind, order).await,
        };
        if let Order::Die(Moment::Asked | Moment::Queued | Moment::Cancelled) = order {
            return self.cancel(kind, order).await;
        }
        let (since, asked) = (now(), self.ask(kind, patience));
        let answer = tokio::select! {
            answer = asked => answer,
            // Dropping the request cancels it.
            () = self.orders.other_than(order) => return,
        };
        match answer {
            Ok(Some(guard)) => self.hold(kind, since, guard, order).await,
            Ok(None) => {
                self.write(&Entry::Refused(now()));
                self.die_at(Moment::GaveUp, order, 10).await;
            }
            Err(reason) => self.write(&Entry::Failed(reason)),
        }
    }

    fn ask(&self, kind: &'static Kind, patience: Patience) -> super::locks::Asked {
        match &self.reader {
            Some(reader) => reader.ask(kind.places[0].path),
            None => (kind.ask)(&self.keeper, patience),
        }
    }

    /// Starts an acquire and drops the request after a short time.
    async fn cancel(&mut self, kind: &'static Kind, order: Order) {
        let soon = match order {
            Order::Die(Moment::Asked) => self.dice.time(6),
            Order::Die(Moment::Queued) => Duration::from_millis(15) + self.dice.time(40),
            Order::Work | Order::Hold | Order::HoldAlone | Order::Rest | Order::Die(_) | Order::Stop => {
                self.dice.time(30)
            }
        };
        let asked = self.ask(kind, Patience::Forever);
        // A guard that is granted in time is dropped, which releases it.
        let _ = tokio::time::timeout(soon, unless_granted(asked)).await;
        self.die_at(Moment::Asked, order, 0).await;
        self.die_at(Moment::Queued, order, 0).await;
        self.write(&Entry::Refused(now()));
        self.die_at(Moment::Cancelled, order, 6).await;
    }

    async fn hold(&mut self, kind: &'static Kind, asked: Time, guard: Box<dyn Held>, order: Order) {
        self.write(&Entry::Acquired { asked, at: now(), kind: kind.name, tokens: guard.tokens() });
        self.die_at(Moment::Granted, order, 0).await;
        let uses = self.dice.below(4);
        let mut used = 0;
        while used <= uses || (order.keeps() && self.orders.now() == order) {
            if !self.use_it(kind, &*guard, order).await {
                return;
            }
            self.die_at(Moment::Used, order, 5).await;
            // Simulated work between two uses.
            sleep(self.dice.time(6)).await;
            used += 1;
        }
        self.write(&Entry::Releasing(now()));
        if self.twin == Twin::Leaver {
            return std::mem::forget(guard);
        }
        let confirmed = match order {
            Order::Die(moment) => moment != Moment::Dropped,
            Order::Work | Order::Hold | Order::HoldAlone | Order::Rest | Order::Stop => {
                self.dice.below(2) == 0
            }
        };
        if !confirmed {
            drop(guard);
            return self.die_at(Moment::Dropped, order, 6).await;
        }
        if order == Order::Die(Moment::Releasing) {
            let soon = self.dice.time(4);
            let _ = tokio::time::timeout(soon, guard.release()).await;
            return self.die_at(Moment::Releasing, order, 0).await;
        }
        guard.release().await;
        self.die_at(Moment::Released, order, 0).await;
    }

    /// Writes to the resource if the guard is held, and also if it is lost, as a process would that was paused between
    /// the check and the write. Returns whether to keep the guard.
    async fn use_it(&mut self, kind: &'static Kind, guard: &dyn Held, order: Order) -> bool {
        let (state, until) = match self.twin {
            Twin::Deaf => (LeaseState::Held, now() + 1_000_000),
            Twin::None | Twin::Leaver | Twin::FollowerReads | Twin::Overdraws => promise(guard),
        };
        let entry = match state {
            LeaseState::Held | LeaseState::Suspended => Entry::Promised(until),
            LeaseState::Lost => Entry::Lost(now()),
        };
        self.write(&entry);
        match state {
            LeaseState::Held => {
                let accepted = self.writer.write(kind, &guard.tokens(), until, &order.write()).await;
                if accepted || self.twin == Twin::Deaf {
                    return true;
                }
                // The process may have been stopped before the write, for longer than its lease.
                if promise(guard).0 == LeaseState::Lost {
                    self.write(&Entry::Lost(now()));
                }
                false
            }
            LeaseState::Suspended => true,
            LeaseState::Lost => {
                self.writer.write(kind, &guard.tokens(), 0, &order.write()).await;
                // Checks again a little later, because a lost lease must stay lost.
                sleep(self.dice.time(20)).await;
                if promise(guard).0 != LeaseState::Lost {
                    self.write(&Entry::Failed("a lost guard claims to be held".into()));
                }
                false
            }
        }
    }

    async fn die_at(&mut self, moment: Moment, order: Order, within: u64) {
        if order == Order::Die(moment) {
            // Varies the moment, because requests may still be in flight.
            sleep(self.dice.time(within)).await;
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }

    fn write(&mut self, entry: &Entry) {
        write(&mut self.history, entry);
    }
}

/// The state of a guard, and until when it promises that no other client holds, on the clock that all processes share.
/// A guard that is not lost promises at least the moment before it was asked.
fn promise(guard: &dyn Held) -> (LeaseState, Time) {
    // In this order, so that the computed promise is never longer than the real one.
    let (time, instant) = (now(), Instant::now());
    let left = guard.valid_until().map(|until| until.saturating_duration_since(instant));
    let left = left.expect("an ephemeral lock has a lease end").as_nanos();
    (guard.state(), time + u64::try_from(left).expect("it is short"))
}

/// Completes on a refusal. After a grant it never completes, and keeps the guard.
async fn unless_granted(asked: super::locks::Asked) {
    if let Ok(Some(_guard)) = asked.await {
        std::future::pending::<()>().await;
    }
}

fn write(history: &mut File, entry: &Entry) {
    history.write_all(format!("{entry}\n").as_bytes()).expect("the history can be written");
}

struct Orders {
    path: PathBuf,
}

impl Orders {
    fn now(&self) -> Order {
        let text = fs::read_to_string(&self.path).expect("an order");
        Order::read(&text).expect("an order")
    }

    async fn other_than(&self, order: Order) {
        while self.now() == order {
            sleep(POLL).await;
        }
    }
}
